"""A bank: all label maps of a run, packed and held where pairs are generated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the customary name
from torch import Tensor
from torchio import LabelMap, ScalarImage
from torchio.data.affine import AffineMatrix
from torchio.data.batch import ImagesBatch, SubjectsBatch

from synthsr_transforms.generator.generator import BRAIN_BOX, Generator
from synthsr_transforms.subjects.files import HIGH, SubjectFiles, read_subject, values_of
from synthsr_transforms.subjects.pairs import ScanPair
from synthsr_transforms.support.threads import num_cores, threads

SHARE_OF_DEVICE = 0.5
"""Share of a GPU's memory that a bank may take."""
_READERS = 8
Files = TypeVar("Files", SubjectFiles, ScanPair)
Read = TypeVar("Read")

Size = tuple[int, int, int]


@dataclass(frozen=True)
class Entry:
    """One subject in memory, with axes right, anterior, superior.

    Attributes:
        subject: Files it was read from.
        indices: `(1, X, Y, Z)` uint8 positions in `values`, or the labels themselves (int32) if
            there are more than 256.
        values: `(N,)` int32 labels, or None.
        image: `(C, X, Y, Z)` image that comes with it, in the smallest type that holds it, or None.
        affine: `(4, 4)` voxel-to-world matrix, float64.
        brain_box: Box around the brain in voxels, first voxel and voxel after the last, or None.
        scan: `(1, X, Y, Z)` scan of a pair, from which `image` is to be predicted, or None.
    """

    subject: SubjectFiles | ScanPair
    indices: Tensor
    values: Tensor | None
    image: Tensor | None
    affine: Tensor
    brain_box: list[list[int]] | None = None
    scan: Tensor | None = None

    @property
    def place(self) -> Path:
        """File on whose grid it lies."""
        subject = self.subject
        return subject.target if isinstance(subject, ScanPair) else subject.labels

    @property
    def shape(self) -> Size:
        """Size in voxels."""
        x, y, z = self.indices.shape[1:]
        return int(x), int(y), int(z)

    @property
    def num_bytes(self) -> int:
        """Memory that it takes."""
        tensors = [self.indices, self.values, self.image, self.scan]
        return sum(t.numel() * t.element_size() for t in tensors if t is not None)

    def labels(self) -> Tensor:
        """Return the label map `(1, X, Y, Z)`, int32."""
        return self.indices if self.values is None else self.values[self.indices.int()]

    def present(self) -> set[int]:
        """Return the label values that occur."""
        found = self.labels().unique() if self.values is None else self.values
        return {int(value) for value in found.tolist()}

    def to(self, device: torch.device) -> Entry:
        """Return the same on another device; the affine stays on the CPU, where it is read."""
        return self._with_tensors(lambda tensor: tensor.to(device, non_blocking=True))

    def pinned(self) -> Entry:
        """Return the same in memory from which GPUs copy without waiting."""
        return self._with_tensors(Tensor.pin_memory)

    def _with_tensors(self, change: Callable[[Tensor], Tensor]) -> Entry:
        names = ("indices", "values", "image", "scan")
        tensors = {name: getattr(self, name) for name in names}
        changed: Any = {k: None if t is None else change(t) for k, t in tensors.items()}
        return replace(self, **changed)

    def padded(self, before: Sequence[int], after: Sequence[int]) -> Entry:
        """Return the same with zeros around it; world coordinates stay."""
        if not any((*before, *after)):
            return self
        margins = [n for pair in zip(reversed(before), reversed(after), strict=True) for n in pair]
        affine = self.affine.clone()
        affine[:3, 3] -= affine[:3, :3] @ torch.tensor(before, dtype=torch.float64)
        indices, values = self._with_background()
        return replace(
            self,
            indices=F.pad(indices, margins),
            values=values,
            image=None if self.image is None else F.pad(self.image, margins),
            scan=None if self.scan is None else F.pad(self.scan, margins),
            affine=affine,
        )

    def _with_background(self) -> tuple[Tensor, Tensor | None]:
        """Return indices and values where index 0 is background."""
        if self.values is None or int(self.values[0]) == 0:
            return self.indices, self.values
        if len(self.values) < 256:
            zero = self.values.new_zeros(1)
            return self.indices + 1, torch.cat([zero, self.values])
        return self.labels(), None


def read_bank(
    subjects: Sequence[SubjectFiles],
    *,
    target: str,
    on_subject: Callable[[SubjectFiles], object] | None = None,
) -> list[Entry]:
    """Read and check all subjects.

    Args:
        subjects: Files to read, see `synthsr_transforms.subjects.files.find_subjects`.
        target: Name of the image that comes with each label map.
        on_subject: Called with each subject after it was read.

    Raises:
        VolumeError: If a file is not what it should be; the message names it.
    """
    return read_each(subjects, partial(read_entry, target=target), on_subject)


def read_each(
    files: Sequence[Files],
    read: Callable[[Files], Read],
    on_read: Callable[[Files], object] | None = None,
) -> list[Read]:
    """What a function reads of each subject or pair, several at a time, in their order.

    Args:
        files: The subjects or pairs.
        read: Reads one.
        on_read: Called with each after it was read.
    """
    results = []
    with threads(min(_READERS, 2 * num_cores())) as pool:
        for each, result in zip(files, pool.map(read, files), strict=True):
            results.append(result)
            if on_read is not None:
                on_read(each)
    return results


def read_entry(files: SubjectFiles, *, target: str) -> Entry:
    """Read one subject, see `read_bank`."""
    subject = read_subject(files, target=target)
    labels = subject.images["labels"]
    image = subject.images[target].data if target in subject.images else None
    affine = torch.as_tensor(np.asarray(labels.affine.data, dtype=np.float64))
    packed = packed_labels(labels.data.numpy(), values_of(files, labels.data))
    return Entry(files, *packed, None if image is None else _packed(image), affine)


def packed_labels(data: np.ndarray, values: np.ndarray) -> tuple[Tensor, Tensor | None]:
    """Indices and values of an `Entry`, of labels and the sorted values that occur."""
    if len(values) > 256:
        return torch.from_numpy(data.astype(np.int32)), None
    return torch.from_numpy(_positions(data, values)), torch.from_numpy(values.astype(np.int32))


def _positions(labels: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the position of each label in sorted values, uint8."""
    if int(values[-1]) > HIGH:
        return np.searchsorted(values, labels).astype(np.uint8)
    position = np.zeros(int(values[-1]) + 1, dtype=np.uint8)
    position[values] = np.arange(len(values), dtype=np.uint8)
    return np.asarray(position[labels])


def _packed(image: Tensor) -> Tensor:
    """Return an image in the smallest type that holds its values exactly."""
    for kind in (torch.uint8, torch.int16):
        small = image.to(kind)
        if torch.equal(small.to(image.dtype), image):
            return small
    return image


class Bank:
    """Entries from which batches are put together.

    Args:
        entries: The subjects, of one shape if batches hold several.
        target: Name that the image of an entry gets.
        image: Name that the scan of a pair gets.
        device: Device of the batches.
        memory: Device that holds the entries: the same, or the CPU, from where batches are copied.
    """

    def __init__(
        self,
        entries: Sequence[Entry],
        *,
        target: str = "target",
        image: str = "image",
        device: torch.device | str = "cpu",
        memory: torch.device | str | None = None,
    ) -> None:
        self.device = torch.device(device)
        memory = self.device if memory is None else torch.device(memory)
        moved = [entry.to(memory) for entry in entries]
        if memory.type == "cpu" and self.device.type == "cuda":
            moved = [entry.pinned() for entry in moved]
        self.entries, self.target, self.image = moved, target, image

    def __len__(self) -> int:
        """Number of entries."""
        return len(self.entries)

    def batch(self, numbers: Sequence[int]) -> SubjectsBatch:
        """Put entries together, with label map `labels` and their images.

        Args:
            numbers: Positions of the entries.
        """
        chosen = [self.entries[number].to(self.device) for number in numbers]
        affines = [entry.affine for entry in chosen]
        images = {"labels": _images([entry.labels() for entry in chosen], affines, LabelMap)}
        for name, kind in ((self.image, "scan"), (self.target, "image")):
            real = [getattr(entry, kind) for entry in chosen if getattr(entry, kind) is not None]
            if real:
                images[name] = _images([image.float() for image in real], affines, ScalarImage)
        boxes = [entry.brain_box for entry in chosen if entry.brain_box is not None]
        return SubjectsBatch(images, metadata={BRAIN_BOX: boxes} if boxes else {})


def _images(
    data: Sequence[Tensor], affines: Sequence[Tensor], kind: type[LabelMap] | type[ScalarImage]
) -> ImagesBatch:
    stacked = data[0][None] if len(data) == 1 else torch.stack(list(data))
    return ImagesBatch(stacked, [AffineMatrix(a) for a in affines], image_class=kind)


def with_brain_boxes(entries: Sequence[Entry], generator: Generator) -> list[Entry]:
    """Add the box around the brain where the generator places patches by it."""
    if not generator.needs_brain_box():
        return list(entries)
    boxes = [generator.brain_box(Bank([entry]).batch([0]))[0].tolist() for entry in entries]
    return [replace(entry, brain_box=box) for entry, box in zip(entries, boxes, strict=True)]


def common_shape(entries: Sequence[Entry]) -> list[Entry]:
    """Pad entries with zeros, on both sides alike, to the largest size along each axis."""
    largest = [max(sizes) for sizes in zip(*(entry.shape for entry in entries), strict=True)]
    result = []
    for entry in entries:
        missing = [n - size for n, size in zip(largest, entry.shape, strict=True)]
        before = [n // 2 for n in missing]
        result.append(entry.padded(before, [n - b for n, b in zip(missing, before, strict=True)]))
    return result


def place_of(entries: Sequence[Entry], device: torch.device, memory: str) -> torch.device:
    """Choose the memory of a bank.

    Args:
        entries: Entries of the bank.
        device: Device that generates batches.
        memory: `device`, `host`, or `auto`, see `RunConfig.label_map_memory`.
    """
    if device.type != "cuda":
        return device
    room = SHARE_OF_DEVICE * torch.cuda.get_device_properties(device).total_memory
    fits = sum(entry.num_bytes for entry in entries) <= room
    on_device = memory == "device" or (memory == "auto" and fits)
    return device if on_device else torch.device("cpu")
