"""L1, PSNR, SSIM and Dice of volumes, and their means over volumes as torchmetrics metrics.

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

from synthsr_net.losses.ssim import WINDOW_SIZE, gaussian_window, products, similarity
from synthsr_transforms.labels.table import LabelTable

REGIONS = ("brain", "head")
"""Regions that metrics are averaged over."""
MEASURES = ("l1", "psnr", "ssim")
"""Mean absolute difference, peak signal-to-noise ratio in dB, structural similarity."""
REGION_MEASURES = tuple(f"{region}/{name}" for region in REGIONS for name in MEASURES)
"""Measures of each region by name: `brain/l1`, `brain/psnr`, ..., `head/ssim`."""
MAX_PSNR_DB = 100.0
"""Peak signal-to-noise ratio of volumes that are equal, instead of infinity."""

_LEAST_SIZE = WINDOW_SIZE // 2 + 1  # for the mirrored border


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


class VolumeMeans(Metric):
    """Mean of each measure over the volumes that have it.

    Volumes count equally, whatever their size; a measure without any volume is NaN. Sums stay on
    the device until `compute`, which adds up those of all processes.

    Args:
        names: Names of the measures.
        **kwargs: See `torchmetrics.Metric`.

    Examples:
        >>> means = VolumeMeans(["a", "b"])
        >>> values = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
        >>> means.update(values, values < 4)
        >>> means.compute()
        {'a': 2.0, 'b': 2.0}
    """

    is_differentiable = False
    full_state_update = False
    sums: Tensor
    counts: Tensor

    def __init__(self, names: Sequence[str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.names = list(names)
        for state in ("sums", "counts"):
            self.add_state(state, torch.zeros(len(self.names)), dist_reduce_fx="sum")

    def update(self, values: Tensor, known: Tensor) -> None:
        """Add a batch.

        Args:
            values: `(B, N)` measures of each volume.
            known: `(B, N)` bool, which of them a volume has.
        """
        self.sums += torch.where(known, values, 0.0).sum(0)
        self.counts += known.sum(0)

    def compute(self) -> dict[str, float]:
        """Means by name."""
        return dict(zip(self.names, (self.sums / self.counts).tolist(), strict=True))


class DiceMeans(VolumeMeans):
    """Means of Dice coefficients, of structures that occurred, and their mean `dice/mean`.

    Examples:
        >>> means = DiceMeans(["dice/left", "dice/right"])
        >>> found = torch.tensor([[1, 1, 0, 0], [0, 0, 0, 0]]).bool()
        >>> truth = torch.tensor([[1, 1, 1, 0], [0, 0, 0, 0]]).bool()
        >>> means.update(*dice(found[None, :, :, None, None], truth[None, :, :, None, None]))
        >>> {name: round(value, 3) for name, value in means.compute().items()}
        {'dice/mean': 0.8, 'dice/left': 0.8}
    """

    def compute(self) -> dict[str, float]:
        """Means by name."""
        known = {name: value for name, value in super().compute().items() if value == value}
        return {"dice/mean": sum(known.values()) / max(len(known), 1), **known}


def dice(found: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Dice coefficients of structures.

    Args:
        found: Masks `(B, K, X, Y, Z)`, bool.
        truth: Likewise.

    Returns:
        `(B, K)` coefficients, and where the structure was found or is true.

    References:
        Dice, Measures of the amount of ecologic association between species, Ecology 26:297 (1945).
    """
    space = (-3, -2, -1)
    both, size = (found & truth).sum(space), found.sum(space) + truth.sum(space)
    return 2 * both / size, size > 0


def measure_regions(prediction: Tensor, target: Tensor, regions: Masks) -> tuple[Tensor, Tensor]:
    """Measures in brain and head, in the order of `REGION_MEASURES`.

    Args:
        prediction: See `measure`.
        target: Likewise.
        regions: Masks of brain and head.

    Returns:
        `(B, 6)` measures, and where the mask of the region is not empty.
    """
    values = measure(prediction, target, regions)
    seen = torch.stack([mask.flatten(1).any(1) for mask in regions], 1)
    return values.flatten(1), seen.repeat_interleave(len(MEASURES), 1)


def measure(prediction: Tensor, target: Tensor, inside: Sequence[Tensor]) -> Tensor:
    """Compute L1, PSNR and SSIM of volumes of range 1 inside masks.

    SSIM is computed on whole volumes and its map averaged inside the mask. The mean squared error
    of PSNR is that of all channels of a volume together.

    Args:
        prediction: `(B, C, X, Y, Z)` in any precision.
        target: Likewise.
        inside: R masks `(B, 1, X, Y, Z)`, bool.

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
        for volume in (error.abs(), error.square(), ssim_map(prediction, target))
    )
    psnr = 10 * torch.log10(1 / mse)
    return torch.stack([l1, psnr.clamp(max=MAX_PSNR_DB), ssim], 2)


def ssim_map(prediction: Tensor, target: Tensor) -> Tensor:
    """Structural similarity around each voxel, borders mirrored: `(B, C, X, Y, Z)` float32.

    Args:
        prediction: `(B, C, X, Y, Z)` of range 1, at least 6 voxels wide.
        target: Likewise.
    """
    with torch.autocast(prediction.device.type, enabled=False):
        a, b = (
            F.pad(volume.float(), [WINDOW_SIZE // 2] * 6, mode="reflect")
            for volume in (prediction, target)
        )
        return similarity(products(a, b), gaussian_window(), (2, 3, 4))


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
