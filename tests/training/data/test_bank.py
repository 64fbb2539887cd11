"""Promises of the bank of label maps: what comes out is what was read, in less memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import helpers
import numpy as np
import pytest
import torch
from torch import Tensor
from torchio.data.batch import SubjectsBatch

from synthsr_net.training.data.bank import (
    Bank,
    Entry,
    common_shape,
    place_of,
    read_bank,
    read_entry,
    with_brain_boxes,
)
from synthsr_transforms.generator.config import GeneratorConfig, StepConfig
from synthsr_transforms.generator.generator import BRAIN_BOX, Generator
from synthsr_transforms.io.files import VolumeError
from synthsr_transforms.subjects.files import SubjectFiles, read_subject

SHAPE = (9, 8, 11)
AFFINE = np.array([[2.0, 0, 0, -7], [0, 2, 0, 3], [0, 0, 2, 5], [0, 0, 0, 1]])
TURNED = np.array([[0, 0, -2.0, 4], [2, 0, 0, -9], [0, 2, 0, 1], [0, 0, 0, 1]])


def save(path: Path, data: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    return helpers.save(path, data, affine)


def labels_of(values: Sequence[int], seed: int = 0, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """Every value at least once, in random places."""
    order = np.random.default_rng(seed)
    filled = np.resize(np.array(values, dtype=np.int32), int(np.prod(shape)))
    return order.permutation(filled).reshape(shape)


@pytest.fixture
def make_entry(tmp_path: Path) -> Callable[..., Entry]:
    """Maker of entries from files."""

    def make(
        labels: np.ndarray, image: np.ndarray | None = None, affine: np.ndarray = AFFINE
    ) -> Entry:
        number = len(list(tmp_path.glob("labels*")))
        path = save(tmp_path / f"labels{number}.nii", labels, affine)
        other = None if image is None else save(tmp_path / f"image{number}.nii", image, affine)
        return read_entry(SubjectFiles(path, other), target="target")

    return make


def world_points(mask: Tensor, affine: Tensor) -> Tensor:
    """World coordinates of the voxels of a mask `(X, Y, Z)`, in order."""
    voxels = mask.nonzero().double()
    return voxels @ affine[:3, :3].T + affine[:3, 3]


class TestPacking:
    @pytest.mark.parametrize(
        ("values", "kind"),
        [
            ([0, 2, 3, 41, 42], torch.uint8),
            ([7, 2035], torch.uint8),
            (range(256), torch.uint8),
            (range(1, 257), torch.uint8),
            ([*range(256), 2035], torch.int32),
            (range(1500, 1900), torch.int32),
            ([0, 5, 2**25, 2**31 - 200], torch.uint8),
            ([*range(0, 2**26, 2**18), 1], torch.int32),
        ],
    )
    def test_labels_survive_exactly(self, make_entry, values, kind):
        labels = labels_of(list(values))
        entry = make_entry(labels)
        assert entry.indices.dtype == kind
        assert entry.labels().dtype == torch.int32
        np.testing.assert_array_equal(entry.labels()[0].numpy(), labels)
        assert entry.present() == set(values)

    def test_axes_are_those_of_every_other_reader(self, make_entry):
        labels = labels_of([0, 2, 3, 41])
        entry = make_entry(labels, labels.astype(np.float32) / 3, TURNED)
        subject = read_subject(entry.subject)
        assert torch.equal(entry.labels(), subject.images["labels"].data.int())
        assert torch.equal(entry.image, subject.images["target"].data)
        np.testing.assert_array_equal(entry.affine, np.asarray(subject.images["labels"].affine))
        assert entry.shape != SHAPE
        assert sorted(entry.shape) == sorted(SHAPE)

    @pytest.mark.parametrize(
        ("low", "high", "step", "kind"),
        [
            (0, 255, 1, torch.uint8),
            (-1, 255, 1, torch.int16),
            (0, 4095, 1, torch.int16),
            (-3000, 40000, 1, torch.float32),
            (0, 255, 0.5, torch.float32),
            (0, 1, 1e-6, torch.float32),
        ],
    )
    def test_images_survive_bit_for_bit(self, make_entry, low, high, step, kind):
        image = np.random.default_rng(0).integers(0, round((high - low) / step), SHAPE) * step + low
        image = image.astype(np.float32)
        image.flat[0], image.flat[-1] = low, high
        entry = make_entry(labels_of([0, 2]), image)
        assert entry.image.dtype == kind
        batch = Bank([entry]).batch([0])
        assert batch.images["target"].data.dtype == torch.float32
        np.testing.assert_array_equal(batch.images["target"].data[0, 0].numpy(), image)

    def test_the_memory_is_that_of_all_tensors(self, make_entry):
        voxels = int(np.prod(SHAPE))
        labels = labels_of([0, 2, 3])
        assert make_entry(labels).num_bytes == voxels + 3 * 4
        image = np.full(SHAPE, 0.5, np.float32)
        assert make_entry(labels, image).num_bytes == voxels + 3 * 4 + 4 * voxels
        assert make_entry(labels_of(range(300))).num_bytes == 4 * voxels

    def test_background_alone_is_refused(self, make_entry):
        with pytest.raises(VolumeError, match=r"labels0\.nii must hold labels, got background 0"):
            make_entry(np.zeros(SHAPE, np.int16))


class TestPadding:
    @pytest.mark.parametrize("values", [[0, 2, 3], [2, 3], range(1, 257), range(300)])
    def test_labels_stay_at_their_places_in_the_world(self, make_entry, values):
        entry = make_entry(labels_of(list(values)))
        padded = entry.padded((1, 0, 4), (2, 3, 0))
        assert padded.shape == (9 + 3, 8 + 3, 11 + 4)
        for value in list(values)[-2:]:
            before = world_points(entry.labels()[0] == value, entry.affine)
            after = world_points(padded.labels()[0] == value, padded.affine)
            torch.testing.assert_close(after, before, rtol=0, atol=1e-12)
        inside = padded.labels()[0, 1:10, 0:8, 4:15]
        assert torch.equal(inside, entry.labels()[0])

    @pytest.mark.parametrize("values", [[0, 2], [2, 3], range(1, 257)])
    def test_what_is_added_is_background(self, make_entry, values):
        entry = make_entry(labels_of(list(values)), np.ones(SHAPE, np.float32))
        padded = entry.padded((2, 2, 2), (1, 1, 1))
        outside = torch.ones(padded.shape, dtype=torch.bool)
        outside[2:-1, 2:-1, 2:-1] = False
        assert not padded.labels()[0][outside].any()
        assert not padded.image[0][outside].any()
        assert bool(padded.image[0][~outside].all())
        assert padded.present() == {0, *values}

    def test_nothing_to_add_changes_nothing(self, make_entry):
        entry = make_entry(labels_of([2, 3]))
        assert entry.padded((0, 0, 0), (0, 0, 0)) is entry

    def test_one_shape_for_all(self, make_entry):
        entries = [
            make_entry(labels_of([0, 2], shape=shape)) for shape in [(9, 8, 11), (6, 10, 11)]
        ]
        same = common_shape(entries)
        assert {entry.shape for entry in same} == {(9, 10, 11)}
        for entry, padded in zip(entries, same, strict=True):
            before = world_points(entry.labels()[0] == 2, entry.affine)
            after = world_points(padded.labels()[0] == 2, padded.affine)
            torch.testing.assert_close(after, before, rtol=0, atol=1e-12)


class TestBatches:
    def test_a_batch_is_that_of_the_files(self, make_entry, assert_same):
        entries = [
            make_entry(
                labels_of([0, 2, 3, 41], seed),
                np.random.default_rng(seed).random(SHAPE, np.float32),
            )
            for seed in range(3)
        ]
        subjects = [read_subject(entries[k].subject) for k in (2, 0)]
        expected = SubjectsBatch.from_subjects(subjects)
        expected.images["labels"].data = expected.images["labels"].data.int()
        assert_same(Bank(entries).batch([2, 0]), expected)

    def test_one_entry_twice_makes_two_elements(self, make_entry):
        entry = make_entry(labels_of([0, 2, 3]))
        batch = Bank([entry]).batch([0, 0])
        assert torch.equal(batch.images["labels"].data[0], batch.images["labels"].data[1])

    def test_batches_cannot_change_the_bank(self, make_entry, assert_same):
        bank = Bank([make_entry(labels_of([0, 2, 3]), np.ones(SHAPE, np.float32))])
        first = bank.batch([0])
        for image in first.images.values():
            image.data += 1
            image.affines[0].data[:] = 7.0
        second, third = bank.batch([0]), bank.batch([0])
        assert_same(second, third)
        assert set(second.images["labels"].data.unique().tolist()) == {0, 2, 3}

    def test_the_target_has_the_name_that_was_asked_for(self, make_entry):
        bank = Bank([make_entry(labels_of([0, 2]), np.ones(SHAPE, np.float32))], target="t1")
        assert set(bank.batch([0]).images) == {"labels", "t1"}
        assert len(bank) == 1

    def test_the_box_around_the_brain_is_noted_where_it_is_needed(self, make_entry):
        crop = StepConfig(name="PatchCrop", params={"shape": 4, "focus": "brain_box"})
        mixture = StepConfig(name="TissueMixture")
        copy = StepConfig(name="CopyImage")
        steps = {"crop": crop, "mixture": mixture, "target": copy}
        config = GeneratorConfig(label_table="synthseg", steps=steps)
        generator = Generator(config)
        labels = np.zeros(SHAPE, np.int16)
        labels[5:8, 1:3, 2:6] = 2
        labels[0, 0, 0] = 24
        plain = [make_entry(labels)]
        noted = with_brain_boxes(plain, generator)
        assert noted[0].brain_box == [[5, 1, 2], [8, 3, 6]]
        assert Bank(noted).batch([0]).metadata[BRAIN_BOX] == [[[5, 1, 2], [8, 3, 6]]]
        for seed in range(3):
            pairs = [generator.pair(Bank(e).batch([0]), seed=seed) for e in (plain, noted)]
            assert all(torch.equal(a, b) for a, b in zip(*pairs, strict=True))
        without = replace(config, steps={"mixture": mixture, "target": copy})
        assert with_brain_boxes(plain, Generator(without))[0].brain_box is None


class TestReading:
    def test_the_order_is_that_of_the_subjects(self, tmp_path):
        subjects = [
            SubjectFiles(save(tmp_path / f"{n}.nii", labels_of([0, n + 1]).astype(np.int16)))
            for n in (3, 1, 2)
        ]
        seen: list[Any] = []
        entries = read_bank(subjects, target="target", on_subject=seen.append)
        assert seen == subjects
        assert [entry.subject for entry in entries] == subjects
        assert [max(entry.present()) for entry in entries] == [4, 2, 3]

    def test_a_bad_file_is_named(self, tmp_path):
        good = save(tmp_path / "good.nii", labels_of([0, 2]).astype(np.int16))
        bad = save(tmp_path / "bad.nii", np.full(SHAPE, 0.5, np.float32))
        with pytest.raises(VolumeError, match=r"bad\.nii must hold whole numbers"):
            read_bank([SubjectFiles(good), SubjectFiles(bad)], target="target")


class TestPlace:
    """Where a bank is kept, beside a GPU of 1000 bytes."""

    @pytest.fixture(autouse=True)
    def _gpu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        about = SimpleNamespace(total_memory=1000)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: about)

    def place(self, num_bytes: int, wish: str, device: str = "cuda") -> str:
        entries: Any = [SimpleNamespace(num_bytes=num_bytes / 2)] * 2
        return place_of(entries, torch.device(device), wish).type

    def test_what_takes_half_of_the_memory_stays_there(self):
        assert self.place(500, "auto") == "cuda"
        assert self.place(502, "auto") == "cpu"

    def test_a_wish_is_followed(self):
        assert self.place(10_000, "device") == "cuda"
        assert self.place(1, "host") == "cpu"

    @pytest.mark.parametrize("wish", ["auto", "device", "host"])
    def test_the_cpu_is_one_place(self, wish):
        assert self.place(10_000, wish, device="cpu") == "cpu"
