"""L1, PSNR and SSIM of predictions inside masks, as functions and as a torchmetrics metric.

SSIM is that of Wang et al., "Image quality assessment: from error visibility to structural
similarity" (IEEE TIP 2004), in three dimensions, with a Gaussian window of 11 voxels and a standard
deviation of 1.5 voxels: that of torchmetrics, whose kernel is not separated and takes minutes on a
CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 - the customary name
from torch import Tensor
from torchmetrics import Metric

from synthsr_net.losses.similarity import gaussian_window, local_mean, products, similarity
from synthsr_transforms.labels.table import LabelTable

REGIONS = ("brain", "head")
"""Regions that metrics are averaged over."""
MEASURES = ("l1", "psnr", "ssim")
"""Mean absolute difference, peak signal-to-noise ratio in dB, structural similarity."""
SSIM_WINDOW, SSIM_SIGMA = 11, 1.5
"""Size and standard deviation of the Gaussian window of SSIM, in voxels."""
MAX_PSNR_DB = 100.0
"""Peak signal-to-noise ratio of volumes that are equal, instead of infinity."""

_LEAST_SIZE = SSIM_WINDOW // 2 + 1  # for the mirrored border


class Masks(NamedTuple):
    """Masks of the regions, `(B, 1, X, Y, Z)` bool.

    Attributes:
        brain: Region kept by skull stripping, with the fluid around the brain if labelled.
        head: Everything but the background.
    """

    brain: Tensor
    head: Tensor


def masks(labels: Tensor, table: LabelTable) -> Masks:
    """Find brain and head in label maps.

    Args:
        labels: `(B, 1, X, Y, Z)` label values of any integer type.
        table: Says which labels are background or outside the brain. Values that it lacks count
            as head, not as brain.

    Examples:
        >>> table = LabelTable.ready("synthseg")  # 506: eyes
        >>> brain, head = masks(torch.tensor([0, 2, 506]).view(1, 1, 1, 1, 3), table)
        >>> brain.flatten().tolist(), head.flatten().tolist()
        ([False, True, False], [False, True, True])
    """
    lookup = torch.zeros(2, max(table.values) + 2, dtype=torch.bool)
    lookup[0, list(table.brain_values)] = True
    lookup[1] = True
    lookup[1, list(table.values_of("background"))] = False
    index = labels.long().clamp(0, lookup.shape[1] - 1)
    brain, head = lookup.to(labels.device)
    return Masks(brain[index], head[index])


class VolumeMetrics(Metric):
    """L1, PSNR and SSIM of predictions in brain and head, averaged over volumes.

    Volumes count equally, whatever the size of their masks; a volume whose mask is empty is left
    out, and a metric without any volume is NaN. Sums stay on the device until `compute`, which adds
    up those of all processes.

    Args:
        data_range: Largest minus smallest intensity that targets can have.
        **kwargs: See `torchmetrics.Metric`.

    Raises:
        ValueError: If `data_range` is not above 0.

    Examples:
        >>> metrics = VolumeMetrics()
        >>> target, mask = torch.rand(1, 1, 8, 8, 8), torch.ones(1, 1, 8, 8, 8, dtype=torch.bool)
        >>> metrics.update(target + 0.1, target, mask, mask)
        >>> found = metrics.compute()
        >>> list(found)
        ['brain/l1', 'brain/psnr', 'brain/ssim', 'head/l1', 'head/psnr', 'head/ssim']
        >>> round(found["brain/l1"], 3), round(found["head/psnr"], 3)
        (0.1, 20.0)
    """

    is_differentiable = False
    full_state_update = False
    sums: Tensor
    counts: Tensor

    def __init__(self, data_range: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not data_range > 0:
            raise ValueError(f"data_range must be above 0, got {data_range}.")
        self.data_range = float(data_range)
        shape = (len(REGIONS), len(MEASURES))
        self.add_state("sums", torch.zeros(shape), dist_reduce_fx="sum")
        self.add_state("counts", torch.zeros(len(REGIONS)), dist_reduce_fx="sum")

    def update(self, prediction: Tensor, target: Tensor, brain: Tensor, head: Tensor) -> None:
        """Add a batch.

        Args:
            prediction: `(B, C, X, Y, Z)` in any precision.
            target: Likewise.
            brain: Mask `(B, 1, X, Y, Z)`, bool.
            head: Likewise.

        Raises:
            ValueError: If shapes do not fit.
        """
        values = measure(prediction, target, (brain, head), data_range=self.data_range)
        seen = torch.stack([mask.flatten(1).any(1) for mask in (brain, head)], 1)
        self.sums += torch.where(seen[..., None], values, 0.0).sum(0)
        self.counts += seen.sum(0)

    def compute(self) -> dict[str, float]:
        """Means by name: `brain/l1`, `brain/psnr`, ..., `head/ssim`."""
        means = (self.sums / self.counts[:, None]).tolist()
        return {
            f"{region}/{name}": value
            for region, row in zip(REGIONS, means, strict=True)
            for name, value in zip(MEASURES, row, strict=True)
        }


def measure(
    prediction: Tensor, target: Tensor, inside: Sequence[Tensor], *, data_range: float = 1.0
) -> Tensor:
    """Compute L1, PSNR and SSIM of volumes inside masks.

    SSIM is computed on whole volumes and its map averaged inside the mask. The mean squared error
    of PSNR is that of all channels of a volume together.

    Args:
        prediction: `(B, C, X, Y, Z)` in any precision.
        target: Likewise.
        inside: R masks `(B, 1, X, Y, Z)`, bool.
        data_range: Largest minus smallest intensity that targets can have.

    Returns:
        `(B, R, 3)` float32: `MEASURES` of each volume inside each mask, NaN where a mask is empty.

    Raises:
        ValueError: If shapes do not fit, or volumes are smaller than half the window of SSIM.
    """
    _check_shapes(prediction, target, inside)
    prediction, target = prediction.float(), target.float()
    error = prediction - target
    l1, mse, ssim = (
        torch.stack([_mean_inside(volume, mask) for mask in inside], 1)
        for volume in (error.abs(), error.square(), ssim_map(prediction, target, data_range))
    )
    psnr = 10 * torch.log10(data_range**2 / mse)
    return torch.stack([l1, psnr.clamp(max=MAX_PSNR_DB), ssim], 2)


def ssim_map(prediction: Tensor, target: Tensor, data_range: float) -> Tensor:
    """Structural similarity around each voxel, borders mirrored: `(B, C, X, Y, Z)` float32.

    Args:
        prediction: `(B, C, X, Y, Z)`, at least 6 voxels wide.
        target: Likewise.
        data_range: Largest minus smallest intensity that targets can have.
    """
    window = gaussian_window(SSIM_WINDOW, SSIM_SIGMA)
    with torch.autocast(prediction.device.type, enabled=False):
        pair = [_mirrored(volume.float() / data_range) for volume in (prediction, target)]
        moments = products(pair[0], pair[1])
        for axis in (2, 3, 4):
            moments = tuple(local_mean(m, window, axis) for m in moments)  # type: ignore[assignment]
        return similarity(moments)


def _mirrored(volume: Tensor) -> Tensor:
    """A volume continued beyond its borders by half a window."""
    return F.pad(volume, [SSIM_WINDOW // 2] * 6, mode="reflect")


def _mean_inside(volume: Tensor, mask: Tensor) -> Tensor:
    """Mean over the voxels of a mask and all channels, `(B,)`, NaN if there are none."""
    total = torch.where(mask, volume, 0.0).flatten(1).sum(1)
    return total / (mask.flatten(1).sum(1) * volume.shape[1])


def _check_shapes(prediction: Tensor, target: Tensor, inside: Sequence[Tensor]) -> None:
    if prediction.ndim != 5 or prediction.shape != target.shape:
        raise ValueError(
            "prediction and target must both be (B, C, X, Y, Z), got"
            f" {tuple(prediction.shape)} and {tuple(target.shape)}."
        )
    expected = (prediction.shape[0], 1, *prediction.shape[2:])
    for mask in inside:
        if mask.shape != expected or mask.dtype != torch.bool:
            raise ValueError(
                f"masks must be {expected} and bool, got {tuple(mask.shape)} and {mask.dtype}."
            )
    if min(prediction.shape[2:]) < _LEAST_SIZE:
        raise ValueError(
            f"volumes must be at least {_LEAST_SIZE} voxels wide to measure SSIM, got"
            f" {tuple(prediction.shape[2:])}. Use larger volumes."
        )
