"""Several scans of one head, each an element of the batch from some step on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torchio.data.batch import SubjectsBatch
from torchio.transforms import Transform

from synthsr_transforms.io.grids import Volume
from synthsr_transforms.seeds import derive_seed
from synthsr_transforms.support.messages import SynthSRError, suggest
from synthsr_transforms.transforms.base import Drawn, SynthTransform, take_elements
from synthsr_transforms.transforms.common.images import SCAN

from .config import ScansConfig

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RECORD = "scans"
"""Name of the recorded numbers of scans, among those of the steps."""
_SEED_PATH = 2


class ExamPair(NamedTuple):
    """Input and targets of one training step, with several scans of each head.

    Attributes:
        image: Scans `(B, N, C, X, Y, Z)`, the reference first, and zeros where a head has fewer
            than N, the most in the batch.
        target: Regression target `(B, Cout, X, Y, Z)`, or label map of structures.
        labels: Label map `(B, 1, x, y, z)`, int32, after the spatial steps.
        present: Which scans there are, `(B, N)` booleans; None where all of them are.
    """

    image: Tensor
    target: Tensor
    labels: Tensor
    present: Tensor | None

    def __repr__(self) -> str:
        """Show shapes, not voxels."""
        given = {name: value for name, value in self._asdict().items() if value is not None}
        parts = (f"{name}={tuple(value.shape)}" for name, value in given.items())
        return f"ExamPair({', '.join(parts)})"

    def plot(self, index: int = 0, *, spacing_mm: float = 1.0) -> Figure:
        """Draw the labels, the scans and the target of a head, see `pair_figure`.

        Args:
            index: Number of the head in the batch.
            spacing_mm: Voxel spacing of the image.
        """
        present = [True] * self.image.shape[1] if self.present is None else self.present[index]
        images = {
            f"image_{number}": image
            for number, (image, there) in enumerate(
                zip(self.image[index], present, strict=True), start=1
            )
            if there
        }
        return pair_figure(self.labels[index], images, self.target[index], spacing_mm)


def pair_figure(
    labels: Tensor, images: Mapping[str, Tensor], target: Tensor, spacing_mm: float
) -> Figure:
    """Draw an element of a batch: sagittal, coronal and axial slices of every channel.

    Args:
        labels: `(1, x, y, z)`, in the same field of view as the image.
        images: `(C, X, Y, Z)` each, by their names.
        target: `(Cout, X, Y, Z)`.
        spacing_mm: Voxel spacing of the images.
    """
    from synthsr_transforms.drawing.preview import preview_figure

    shape = next(iter(images.values())).shape[1:]
    volumes = {}
    for name, tensor in {"labels": labels, **images, "target": target}.items():
        size = [spacing_mm * n / m for n, m in zip(shape, tensor.shape[1:], strict=True)]
        affine = np.diag([*size, 1.0])
        affine[:3, 3] = [(mm - spacing_mm) / 2 for mm in size]  # one corner, not one centre
        data = tensor.detach().movedim(0, -1).squeeze(-1).cpu()
        data = data.float() if data.is_floating_point() else data
        volumes[name] = Volume(data.numpy(), affine)
    return preview_figure(volumes)


def num_scans(config: ScansConfig | None, seed: int, size: int = 1) -> list[int]:
    """Numbers of scans of a batch, from its seed alone.

    The steps draw from another generator, so that heads of one scan are those of the same steps
    without scans.
    """
    if config is None:
        return [1] * size
    generator = torch.Generator().manual_seed(derive_seed(seed, _SEED_PATH))
    chances = torch.tensor(config.probabilities, dtype=torch.float64)
    own = 1 if config.same_number else size
    drawn = torch.multinomial(chances, own, replacement=True, generator=generator)
    return [int(number) + 1 for number in drawn.expand(size)]


class Scans:
    """Makes several scans of each head of a batch, each an element of its own.

    Args:
        config: Their number, and the steps that they take by themselves.
        transforms: All steps of the generator, by name.

    Raises:
        SynthSRError: If the configuration names a step that does not exist or cannot be shared.
    """

    def __init__(self, config: ScansConfig, transforms: Mapping[str, Transform]) -> None:
        self.config = config
        names = list(transforms)
        if RECORD in names:
            raise SynthSRError(f"no step must be named {RECORD!r} beside scans. Rename it.")
        _check_step("scans.first_step", config.first_step, names)
        own = names[names.index(config.first_step) :]
        for name in config.shared:
            _check_step("scans.shared", name, own)
            if not isinstance(transforms[name], SynthTransform):
                raise SynthSRError(
                    f"scans.shared must name transforms of this library, got {name!r}, one of"
                    " TorchIO. Put it before scans.first_step."
                )
        self.names = own
        """Names of the steps that each scan takes by itself."""

    def record(self, size: int, seed: int) -> dict[str, Any]:
        """The numbers of scans of a batch, in the form of the parameters of a step."""
        counts = num_scans(self.config, seed, size)
        return {"count": counts, "_batch_size": size, "_batched_keys": ["count"]}

    @staticmethod
    def repeat(batch: SubjectsBatch, record: Mapping[str, Any]) -> SubjectsBatch:
        """A batch with an element per scan, those of a head in a row, noted in the metadata."""
        elements = repeated_elements(record, batch.batch_size)
        taken = take_elements(batch, elements)
        taken.metadata[SCAN] = [elements[:i].count(b) for i, b in enumerate(elements)]
        return taken

    def share(self, name: str, step: Any, drawn: Drawn, batch: SubjectsBatch) -> Drawn:
        """Parameters of a step, those of the first scan of each head for all of its scans."""
        if name not in self.config.shared:
            return drawn
        params, tensors = drawn.record, drawn.tensors
        first = [i - scan for i, scan in enumerate(batch.metadata[SCAN])]
        common = [k for k in params["_batched_keys"] if k.split(".")[-1] not in step.of_the_scan]
        common += [k for k in ("_keep",) if k in params]
        record = {**params, **{k: [params[k][i] for i in first] for k in common}}
        if tensors is None:
            return Drawn(record)
        return Drawn(record, {k: v[first] if k in common else v for k, v in tensors.items()})


def repeated_elements(record: Mapping[str, Any], size: int) -> list[int]:
    """The element of a batch that each scan is of, from a record of `Scans`."""
    counts = record["count"]
    counts = [counts] * size if isinstance(counts, int) else counts
    return [b for b, n in enumerate(counts) for _ in range(n)]


def _check_step(setting: str, name: str, known: Sequence[str]) -> None:
    if name not in known:
        raise SynthSRError(
            f"{setting} must name a step, one of {', '.join(known)}, got"
            f" {name!r}{suggest(name, known)}."
        )


def heads(batch: SubjectsBatch) -> list[int]:
    """Number of scans of each head of a batch."""
    following = [*batch.metadata[SCAN][1:], 0]
    return [
        scan + 1 for scan, after in zip(batch.metadata[SCAN], following, strict=True) if not after
    ]


def exam_pair(image: Tensor, target: Tensor, labels: Tensor, counts: Iterable[int]) -> ExamPair:
    """Put the scans of each head together.

    Args:
        image: One scan per element, those of a head in a row, `(F, C, X, Y, Z)`.
        target: Their targets, `(F, Cout, X, Y, Z)`, see `common_target`.
        labels: Their label maps, `(F, 1, x, y, z)`.
        counts: Number of scans of each head.
    """
    sizes = list(counts)
    present = None
    if min(sizes) < max(sizes):
        number = torch.tensor(sizes).to(image.device, non_blocking=True)
        present = torch.arange(max(sizes), device=image.device) < number[:, None]
    return ExamPair(
        pad_sequence(list(image.split(sizes)), batch_first=True),
        torch.stack([common_target(own) for own in target.split(sizes)]),
        torch.stack([own[0] for own in labels.split(sizes)]),
        present,
    )


def common_target(targets: Tensor) -> Tensor:
    """The target of a head, from those of its scans `(N, ...)`: the largest value of each voxel.

    They are the same where no step took something away that one scan does not show, such as
    `PartialFieldOfView`: what any of them shows stays.
    """
    return targets.amax(0)
