"""A generator whose work on a GPU is recorded once, and repeated with other numbers.

To make a sample takes hundreds of small operations, and a host that starts them one by one takes
longer than a GPU that does them. CUDA records them as a graph and starts all of them at once. So
the host draws parameters, and prepares what depends on them, as the steps do, but for a batch that
has a layout only; then all goes to the GPU by one copy, and the recorded work is repeated.

Results are those of the steps one by one, bit for bit on the same GPU. These run one by one, and
with one of them the whole generator: transforms of TorchIO, those that define `apply_params` or
`apply_to_image`, such as `LesionInsertion` with masks, `ScannerNoise` and `ReliabilityMap`; blurs
and `SliceAcquisition` with `boundary: zero`; slices that are not aligned by their centres; and
steps with `channels`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torchio import LabelMap
from torchio.data.batch import ImagesBatch, SubjectsBatch

from synthsr_transforms.seeds import Seeds
from synthsr_transforms.transforms.base import BARE_IMAGE, add_image, grid_of
from synthsr_transforms.transforms.common.images import find_labels
from synthsr_transforms.transforms.prepared import (
    Packing,
    Prepared,
    for_device,
    prefixed,
    signature,
    tensors_of,
    under,
    write,
)

from .recorded import Again, Graph, KeptSeeds, NotRepeatableError, Turns, Work
from .scans import RECORD, Scans, num_scans, repeated_elements

if TYPE_CHECKING:
    from .generator import Generator

DEVICE_TYPES = ("cuda",)
"""Types of devices on which work is recorded."""
MOST_LAYOUTS = 64
"""Number of layouts that a generator knows; batches of others are made step by step."""
MOST_RECORDINGS = 4
"""Number of recordings that it keeps, as each of them takes memory of the GPU."""
_SCANS = "scans.element"


class Captured:
    """Runs a generator by recordings of its work, where that gives the same as without.

    The first batch of a layout (shapes, types and spacing of its images, and number of scans) is
    made step by step, which tells the layout after each stage. The second is recorded, and those
    that follow repeat it.

    Attributes:
        failure: Why a recording was given up, if one was.
    """

    def __init__(self) -> None:
        self.failure: Exception | None = None
        self._lock = threading.Lock()
        self._layouts: dict[Any, list[Layout] | None] = {}
        self._recordings: dict[Any, Recording] = {}
        self._turns: dict[torch.device, Turns] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Leave recordings out: another process makes its own."""
        return {}

    def __setstate__(self, state: Any) -> None:
        """Begin anew."""
        Captured.__init__(self)

    @property
    def num_recordings(self) -> int:
        """Number of recordings that are kept."""
        return len(self._recordings)

    def run(
        self, generator: Generator, batch: SubjectsBatch, seed: int
    ) -> tuple[SubjectsBatch, dict[str, Any]] | None:
        """Run a generator, see `Generator.run`.

        Args:
            generator: The generator.
            batch: A batch that the steps may change.
            seed: Seed of all random choices.

        Returns:
            As `Generator.run`; None where the work cannot be repeated, and the batch may have been
            changed.
        """
        with self._lock:
            key = _layout_key(generator, batch, seed)
            if key not in self._layouts and len(self._layouts) < MOST_LAYOUTS:
                return self._first(generator, batch, seed, key)
            layouts = self._layouts.get(key)
            if layouts is None:
                return None
            try:
                return self._again(generator, batch, seed, (key, layouts))
            except (RuntimeError, ValueError) as error:
                self.failure, self._layouts[key] = error, None
                return None

    def _first(
        self, generator: Generator, batch: SubjectsBatch, seed: int, key: Any
    ) -> tuple[SubjectsBatch, dict[str, Any]]:
        layouts, alike, record = list[Layout](), True, dict[str, Any]()
        for made in generator.run_steps(batch, seed, record):
            alike = alike and _lie_alike(made)
            layouts.append(layout_of(made))
        self._layouts[key] = layouts if alike else None
        return made, record

    def _again(
        self, generator: Generator, batch: SubjectsBatch, seed: int, known: tuple[Any, list[Layout]]
    ) -> tuple[SubjectsBatch, dict[str, Any]] | None:
        key, layouts = known
        images = {name: _like(image, image.data) for name, image in batch.images.items()}
        batch, record, prepared = _draw(generator, batch, seed, layouts)
        work = (*key[:-1], signature(prepared))
        if work not in self._recordings:
            if len(self._recordings) >= MOST_RECORDINGS:
                self._layouts[key] = None
                return None
            self._recordings[work] = self._record(generator, images, prepared)
        for name, data in self._recordings[work].repeat(images, prepared).items():
            batch.images[name].data = data
        return batch, record

    def _record(
        self, generator: Generator, images: dict[str, ImagesBatch], prepared: Prepared
    ) -> Recording:
        device = next(iter(images.values())).device
        if device.type != "cuda":
            return Recording(generator, images, prepared, Again)
        if device not in self._turns:
            self._turns[device] = Turns(device)
        turns = self._turns[device]
        return Recording(generator, images, prepared, partial(Graph, device=device, turns=turns))


def can_capture(generator: Generator, batch: SubjectsBatch) -> bool:
    """Whether the work of a generator for a batch may be recorded."""
    devices = {image.device for image in batch.images.values()}
    if len(devices) != 1 or batch.device.type not in DEVICE_TYPES or BARE_IMAGE in batch.images:
        return False
    return generator.repeats


def _layout_key(generator: Generator, batch: SubjectsBatch, seed: int) -> Any:
    config = None if generator.scans is None else generator.scans.config
    counts = tuple(num_scans(config, seed, batch.batch_size))
    batches = batch.images.values()
    images = tuple(
        (name, tuple(image.data.shape), image.data.dtype, image._image_class)
        for name, image in batch.images.items()
    )
    spacing = tuple(tuple(grid_of(image).spacing_mm.flatten().tolist()) for image in batches)
    return batch.device, counts, images, spacing


Layout = dict[str, tuple[Tensor, type]]
"""Of each image a tensor of its shape and type that takes no memory, and the class of images."""


def layout_of(batch: SubjectsBatch) -> Layout:
    """Layout of a batch."""
    return {
        name: (
            torch.empty((), dtype=image.data.dtype, device=image.device).expand(image.data.shape),
            image._image_class,
        )
        for name, image in batch.images.items()
    }


def _lie_alike(batch: SubjectsBatch) -> bool:
    """Whether all images lie where the label map does."""
    _, labels = find_labels(batch)
    return all(
        torch.equal(own.data, other.data)
        for image in batch.images.values()
        for own, other in zip(image.affines, labels.affines, strict=True)
    )


def _lay_out(batch: SubjectsBatch, layout: Layout) -> None:
    """Give a batch images of a layout; new ones lie where the label map does."""
    for name, (data, kind) in layout.items():
        if name in batch.images:
            batch.images[name].data = data
        else:
            labels = issubclass(kind, LabelMap)
            add_image(batch, name, data, find_labels(batch)[1], labels=labels)


def _like(image: ImagesBatch, data: Tensor) -> ImagesBatch:
    return ImagesBatch(data, list(image.affines), image_class=image._image_class)


def _draw(
    generator: Generator, batch: SubjectsBatch, seed: int, layouts: Sequence[Layout]
) -> tuple[SubjectsBatch, dict[str, Any], Prepared]:
    """Draw and prepare for all steps, of which none computes voxels.

    Returns:
        The batch as the steps leave it, but for voxels; the recorded parameters; and what was
        prepared, under the numbers of the stages.
    """
    random, record = torch.Generator().manual_seed(seed), dict[str, Any]()
    prepared: Prepared = {}
    _lay_out(batch, layouts[0])
    for number, (names, stage) in enumerate(generator.stages):
        if generator.begins_scans(names):
            assert generator.scans is not None
            record[RECORD] = generator.scans.record(batch.batch_size, seed)
            elements = repeated_elements(record[RECORD], batch.batch_size)
            prepared[_SCANS] = torch.tensor(elements)
            batch = _repeated(batch, record[RECORD], len(elements))
        drawn = generator.draw(names, stage, batch, random)
        own = stage.prepare(batch, drawn)
        if own is None:
            raise NotRepeatableError(f"step {names[0]!r} leaves elements out")
        stage.note(batch, own)
        stage.append_history(batch, [each.record for each in drawn])
        record.update((name, each.record) for name, each in zip(names, drawn, strict=True))
        prepared |= prefixed(str(number), for_device(own))
        _lay_out(batch, layouts[number + 1])
    return batch, record, prepared


def _repeated(batch: SubjectsBatch, record: Mapping[str, Any], count: int) -> SubjectsBatch:
    """A batch that has a layout only, with an element per scan."""
    layout = layout_of(batch)
    for image in batch.images.values():
        image.data = torch.empty(batch.batch_size, 1, 1, 1, 1)
    taken = Scans.repeat(batch, record)
    for name, (data, _) in layout.items():
        taken.images[name].data = data[:1].expand(count, *data.shape[1:])
    return taken


class Packed:
    """Prepared tensors on the host, as they go to a device.

    Args:
        packing: Their places.
        device: The device.
    """

    def __init__(self, packing: Packing, device: torch.device) -> None:
        cuda = device.type == "cuda"
        self.buffer = torch.empty(packing.num_bytes, dtype=torch.uint8, pin_memory=cuda)
        self.places = packing.views(self.buffer)
        self._sent, self._device = torch.cuda.Event() if cuda else None, device

    def wait(self) -> None:
        """Wait until what was sent last has left."""
        if self._sent is not None:
            self._sent.synchronize()

    def sent(self) -> None:
        """Note that all before this is to leave."""
        if self._sent is not None:
            self._sent.record(torch.cuda.current_stream(self._device))


class Recording:
    """Recorded work of a generator for one layout.

    Args:
        generator: The generator.
        images: Images of the batch that it begins with.
        prepared: What was prepared for it.
        record: Records work, of which the generators of random numbers are known.
    """

    def __init__(
        self,
        generator: Generator,
        images: Mapping[str, ImagesBatch],
        prepared: Prepared,
        record: Callable[[Work, Sequence[KeptSeeds]], Again | Graph],
    ) -> None:
        device = next(iter(images.values())).device
        packing = Packing.of(tensors_of(prepared))
        self._buffer = torch.empty(packing.num_bytes, dtype=torch.uint8, device=device)
        self._packed = [Packed(packing, device) for _ in range(2)]
        self._inputs = {name: image.data.clone() for name, image in images.items()}
        self._seeds = {
            name: KeptSeeds(value.numbers, device)
            for name, value in prepared.items()
            if isinstance(value, Seeds)
        }
        given = prepared | packing.views(self._buffer) | self._seeds
        self._send(prepared)
        begun = {name: _like(image, self._inputs[name]) for name, image in images.items()}
        self._recorded = record(
            lambda: compute(generator, begun, given), list(self._seeds.values())
        )

    def repeat(self, images: Mapping[str, ImagesBatch], prepared: Prepared) -> dict[str, Tensor]:
        """Repeat the work for other images and numbers.

        Returns:
            Voxels of all images of the batch, which are the caller's.
        """
        with self._recorded.alone():
            for name, image in images.items():
                self._inputs[name].copy_(image.data)
            self._send(prepared)
            made = self._recorded.repeat()
            return {name: data.clone() for name, data in made.items()}

    def _send(self, prepared: Prepared) -> None:
        for name, own in self._seeds.items():
            own.set(prepared[name].numbers)
        self._packed.reverse()
        packed = self._packed[0]
        packed.wait()
        write(prepared, packed.places)
        self._buffer.copy_(packed.buffer, non_blocking=True)
        packed.sent()


def compute(
    generator: Generator, images: Mapping[str, ImagesBatch], prepared: Prepared
) -> dict[str, Tensor]:
    """Voxels of all images after the last step.

    Args:
        generator: The generator.
        images: Images of the batch that it begins with.
        prepared: What was prepared for all stages, on the device.
    """
    batch = SubjectsBatch({name: _like(image, image.data) for name, image in images.items()})
    for number, (names, stage) in enumerate(generator.stages):
        if generator.begins_scans(names):
            batch = _each_scan(batch, prepared[_SCANS])
        stage.compute(batch, under(str(number), prepared))
    return {name: image.data for name, image in batch.images.items()}


def _each_scan(batch: SubjectsBatch, elements: Tensor) -> SubjectsBatch:
    """Voxels of a batch with an element per scan; affines do not matter any more."""
    images = {}
    for name, image in batch.images.items():
        data = image.data.index_select(0, elements)
        affines = [image.affines[0]] * len(data)
        images[name] = ImagesBatch(data, affines, image_class=image._image_class)
    return SubjectsBatch(images)
