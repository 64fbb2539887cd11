"""Work of a generator that is recorded once and repeated, as on an NVIDIA GPU.

There is none in a plain run: recorded work is done again instead (`recorded.Again`), from tensors
and generators that were made when it was recorded, and tensors of the device `meta` tell whether it
is the same work for all seeds.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchio as tio
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torchio.data.affine import AffineMatrix
from torchio.data.batch import ImagesBatch, SubjectsBatch

from synthsr_transforms.functional.cache import cached, holding
from synthsr_transforms.generator import captured, recorded
from synthsr_transforms.generator.generator import Generator
from synthsr_transforms.phantom import head_phantom
from synthsr_transforms.seeds import Seeds, normal_field
from synthsr_transforms.support import devices
from synthsr_transforms.transforms.prepared import (
    Packing,
    Prepared,
    sent,
    signature,
    tensors_of,
    write,
)

PRESETS = ("all_purpose", "exam")
Record = dict[str, Any]


@pytest.fixture
def repeating(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU as a device where work is recorded, and the same for all random numbers."""
    monkeypatch.setattr(captured, "DEVICE_TYPES", ("cpu",))
    monkeypatch.setattr(devices, "computes_all", lambda device: True)


@pytest.fixture(scope="module")
def heads() -> Callable[[Generator, int], SubjectsBatch]:
    labels = head_phantom(spacing_mm=4)

    def make(generator: Generator, size: int) -> SubjectsBatch:
        batch = SubjectsBatch.from_subjects([tio.Subject(labels=labels)] * size)
        batch.metadata["brain_box"] = generator.brain_box(batch).tolist()
        return batch

    return make


def same(first: tuple[SubjectsBatch, Record], second: tuple[SubjectsBatch, Record]) -> bool:
    """Whether two runs agree in all: voxels bit for bit, places, notes, histories and records."""
    (one, record), (other, expected) = first, second
    assert list(one.images) == list(other.images)
    for name, image in one.images.items():
        like = other.images[name]
        assert image.data.dtype == like.data.dtype
        assert image._image_class is like._image_class
        pairs = zip(image.affines, like.affines, strict=True)
        if not all(torch.equal(a.data, b.data) for a, b in pairs):
            return False
        if not torch.equal(image.data, like.data):
            return False
    histories = one.applied_transforms, one._per_element_history
    return (
        record == expected
        and one.metadata == other.metadata
        and histories == (other.applied_transforms, other._per_element_history)
    )


@pytest.mark.usefixtures("repeating")
class TestRepeating:
    """What is repeated is what the steps make one after the other."""

    @pytest.mark.parametrize("size", [1, 3])
    @pytest.mark.parametrize("name", PRESETS)
    def test_repeated_work_equals_the_steps_in_all(self, name, size, heads):
        generator = Generator.from_preset(name, ["crop.shape=32"])
        batch = heads(generator, size)
        for seed in range(6):
            generator.graphs = True
            repeated = generator.run(batch, seed)
            generator.graphs = False
            assert same(repeated, generator.run(batch, seed))
            replayed = generator.replay(batch, repeated[1])
            for image, name_ in ((repeated[0].images[k], k) for k in ("image", "target")):
                assert torch.equal(image.data, replayed.images[name_].data)
        assert generator.captured.failure is None
        assert generator.captured.num_recordings > 0

    def test_elements_of_a_batch_are_those_alone(self, heads):
        generator = Generator.from_preset("all_purpose", ["crop.shape=32"])
        batch = heads(generator, 3)
        for seed in range(3):
            made, record = generator.run(batch, seed)
        for element in range(3):
            subject = made.unbatch()[element]
            own = {
                name: {k: v[element] if k in params["_batched_keys"] else v
                       for k, v in params.items() if k not in ("_batched_keys", "_batch_size")}
                for name, params in record.items()
            }  # fmt: skip
            for params in own.values():
                if "_keep" in params:
                    params["_keep"] = params["_keep"][element : element + 1]
            alone = generator.replay(heads(generator, 1), own)
            torch.testing.assert_close(alone.images["image"].data[0], subject.image.data)

    def test_results_are_not_overwritten_by_the_next(self, heads):
        generator = Generator.from_preset("all_purpose", ["crop.shape=32"])
        batch = heads(generator, 1)
        first, second = (generator.pair(batch, seed) for seed in (0, 1))
        third = generator.pair(batch, 2)
        before = second.image.clone()
        generator.pair(batch, 3)
        assert torch.equal(second.image, before)
        assert not torch.equal(second.image, third.image)
        assert not torch.equal(first.image, second.image)

    def test_other_label_maps_of_the_same_shape_need_no_other_recording(self, heads):
        generator = Generator.from_preset("all_purpose", ["crop.shape=32"])
        batch = heads(generator, 1)
        other = copy.deepcopy(batch)
        other.images["labels"].data = other.images["labels"].data.flip(2)
        for seed, given in enumerate((batch, batch, other)):
            generator.graphs = True
            made = generator.run(given, seed)
            generator.graphs = False
            assert same(made, generator.run(given, seed))
        assert generator.captured.num_recordings == 1

    def test_no_more_is_recorded_than_memory_is_meant_for(self, heads, monkeypatch):
        monkeypatch.setattr(captured, "MOST_RECORDINGS", 1)
        generator = Generator.from_preset("all_purpose", ["crop.shape=32"])
        for size in (1, 2, 1, 2, 2):
            batch = heads(generator, size)
            generator.graphs = True
            runs = [generator.run(batch, seed) for seed in range(2)]
            generator.graphs = False
            assert same(runs[1], generator.run(batch, 1))
        assert generator.captured.num_recordings == 1

    def test_a_step_whose_work_differs_runs_step_by_step(self, heads):
        generator = Generator.from_preset("tutorial_2_sr_synthetic")
        assert not generator.repeats
        batch = heads(generator, 1)
        generator.run(batch, 0)
        generator.run(batch, 1)
        assert generator.captured.num_recordings == 0

    def test_work_that_cannot_be_recorded_runs_step_by_step(self, heads, monkeypatch):
        def refuse(*_: Any) -> None:
            raise RuntimeError("operation not permitted when stream is capturing")

        generator = Generator.from_preset("all_purpose", ["crop.shape=32"])
        batch = heads(generator, 1)
        monkeypatch.setattr(captured, "Again", refuse)
        runs = [generator.run(batch, 3) for _ in range(3)]
        assert same(runs[0], runs[1])
        assert same(runs[1], runs[2])
        assert "capturing" in str(generator.captured.failure)

    def test_a_generator_goes_to_other_processes_without_its_recordings(self, heads):
        generator = Generator.from_preset("all_purpose", ["crop.shape=32"])
        batch = heads(generator, 1)
        for seed in range(2):
            generator.run(batch, seed)
        other = pickle.loads(pickle.dumps(generator))
        assert other.captured.num_recordings == 0
        assert same(other.run(batch, 5), generator.run(batch, 5))


def test_nothing_is_recorded_on_a_cpu(heads):
    generator = Generator.from_preset("all_purpose", ["crop.shape=32"])
    batch = heads(generator, 1)
    for seed in range(3):
        generator.run(batch, seed)
    assert generator.captured.num_recordings == 0


class Steps(TorchDispatchMode):
    """Notes what operations are done, and which of them touch tensors of the host."""

    def __init__(self) -> None:
        super().__init__()
        self.done: list[Any] = []
        self.on_host: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = tree_leaves((args, kwargs))
        tensors = [x for x in (*given, *tree_leaves(result)) if isinstance(x, Tensor)]
        affines = all(x.shape == (4, 4) and x.dtype == torch.float64 for x in tensors)
        if not affines and any(x.device.type == "cpu" for x in tensors):
            self.on_host.append(func._schema.name)
        if not affines:
            forms = [(tuple(x.shape), x.stride(), x.dtype) for x in tensors]
            numbers = [x for x in given if isinstance(x, int | float | str)]
            self.done.append((func._schema.name, forms, numbers))
        return result


def prepared_work(generator: Generator, batch: SubjectsBatch, seed: int) -> tuple[Any, Prepared]:
    """Images and prepared values of a seed, on the device of the batch."""
    images = {k: captured._like(image, image.data) for k, image in batch.images.items()}
    layouts = [captured.layout_of(made) for made in generator.run_steps(batch, seed, {})]
    copied = SubjectsBatch(
        {k: captured._like(v, v.data) for k, v in images.items()}, metadata=dict(batch.metadata)
    )
    copied.metadata["brain_box"] = [[[20, 20, 20], [150, 180, 150]]] * copied.batch_size
    return images, captured._draw(generator, copied, seed, layouts)[2]


@pytest.mark.parametrize(("name", "size"), [("all_purpose", 1), ("all_purpose", 3), ("exam", 2)])
def test_work_is_the_same_for_all_seeds_and_reads_nothing_of_the_host(name, size, meta):
    generator = Generator.from_preset(name)
    works: dict[Any, Any] = {}
    for seed in range(20):
        labels = torch.empty(size, 1, 181, 217, 181, dtype=torch.int32, device=meta)
        affines = [AffineMatrix() for _ in range(size)]
        batch = SubjectsBatch(
            {"labels": ImagesBatch(labels, affines, image_class=tio.LabelMap)},
            metadata={"brain_box": [[[20, 20, 20], [150, 180, 150]]] * size},
        )
        key = captured._layout_key(generator, batch, seed)
        images, prepared = prepared_work(generator, batch, seed)
        given = sent(prepared, meta)
        known, constants = works.setdefault(key, ([], {}))
        with torch.no_grad(), holding(constants):
            if not constants:
                captured.compute(generator, images, given)
            number = len(constants)
            with Steps() as steps:
                captured.compute(generator, images, given)
            assert len(constants) == number
        assert not steps.on_host
        known.append((signature(prepared), steps.done))
        assert known[-1] == known[0]
    assert max(len(known) for known, _ in works.values()) > 2


class TestPacking:
    """Tensors go to a device as one, and come out as they were."""

    def test_tensors_of_all_types_come_out_as_they_were(self):
        generator = torch.Generator().manual_seed(0)
        tensors = {
            "a": torch.rand(3, 5, generator=generator),
            "b": torch.rand(7, generator=generator) > 0.5,
            "c": torch.randint(9, (2, 1, 3), generator=generator),
            "d": torch.rand(4, 4, generator=generator).T,
            "e": torch.zeros(0, 3),
        }
        packing = Packing.of(tensors_of(tensors))
        buffer = torch.empty(packing.num_bytes, dtype=torch.uint8)
        write(tensors, packing.views(buffer))
        for name, view in packing.views(buffer).items():
            assert view.dtype == tensors[name].dtype
            assert torch.equal(view, tensors[name])

    def test_one_copy_goes_to_a_device(self, meta):
        with Steps() as steps:
            given = sent({"a": torch.ones(3), "b": torch.ones(2, 2), "_note": 1, "n": 2}, meta)
        assert sum(name == "aten::_to_copy" for name, *_ in steps.done) == 1
        assert {name: x.device.type for name, x in given.items() if name != "n"} == {
            "a": "meta",
            "b": "meta",
        }
        assert given["n"] == 2
        assert "_note" not in given


class TestSeeds:
    """Fields of recorded work are those of their seeds."""

    def test_kept_seeds_draw_the_same_fields(self):
        first, second = torch.tensor([3, 4]), torch.tensor([2**53 - 1, 0])
        kept = recorded.KeptSeeds(first, torch.device("cpu"))
        for numbers in (first, second, first):
            kept.set(numbers)
            assert torch.equal(normal_field(kept, (3, 4)), normal_field(Seeds(numbers), (3, 4)))

    def test_a_second_field_of_one_seed_is_refused(self):
        kept = recorded.KeptSeeds(torch.tensor([1]), torch.device("cpu"))
        normal_field(kept, (3,))
        with pytest.raises(recorded.NotRepeatableError, match="two fields"):
            normal_field(kept, (3,))


def test_constants_that_are_held_outlive_the_cache():
    made: list[int] = []

    @cached(1)
    def constant(number: int, device: torch.device) -> Tensor:
        made.append(number)
        return torch.full((2,), number, device=device)

    held: dict[Any, Any] = {}
    with holding(held):
        first = constant(1, "cpu")
        constant(2, "cpu")
        assert constant(1, "cpu") is first
    assert made == [1, 2]
    assert constant(1, "cpu") is not first


@pytest.fixture
def cuda() -> torch.device:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return torch.device("cuda")


@pytest.mark.parametrize("name", PRESETS)
def test_a_graph_equals_the_steps_on_a_gpu(name, heads, cuda):
    generator = Generator.from_preset(name, ["crop.shape=32"])
    batch = heads(generator, 2)
    for image in batch.images.values():
        image.data = image.data.to(cuda)
    for seed in range(8):
        generator.graphs = True
        repeated = generator.run(batch, seed)
        generator.graphs = False
        assert same(repeated, generator.run(batch, seed))
    assert generator.captured.failure is None
    assert generator.captured.num_recordings > 0
