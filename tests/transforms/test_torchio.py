"""The promises that TorchIO makes for its transforms hold for ours, mixed with its own."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torchio as tio
from torch.utils.data import Dataset
from torchio.data.batch import SubjectsBatch

import synthsr_transforms as synth
from synthsr_transforms.transforms.base import registered_transforms

ASEG = "freesurfer_aseg"
Maker = Callable[..., Any]


@pytest.fixture(autouse=True)
def global_seed() -> Iterator[None]:
    """TorchIO draws from the global generators: seed them, and restore them afterwards."""
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield
    random.setstate(python_state)
    np.random.set_state(numpy_state)  # noqa: NPY002


def pipeline() -> tio.Compose:
    """Ours and TorchIO's, in turn."""
    return tio.Compose(
        [
            synth.SpatialDeformation(rotation_degrees=(-9, 9), velocity_std_mm=(0, 1)),
            tio.Pad(padding=1),
            synth.PatchCrop(shape=(10, 8, 12)),
            synth.HemisphereFlip(label_table=ASEG, p=0.5),
            tio.Flip(axes=(1,)),
            synth.BiasCorruption(std=(0.1, 0.4), shape_factor=0.3),
            tio.Noise(std=1.0),
            synth.GammaContrast(log_gamma=(-0.3, 0.3), p=0.5),
        ]
    )


class TestNames:
    def test_none_of_our_classes_shadows_one_of_torchio(self) -> None:
        theirs = {name for name in dir(tio) if isinstance(getattr(tio, name), type)}
        assert not set(registered_transforms()) & theirs

    def test_torchios_registry_still_finds_its_own(self) -> None:
        from torchio.transforms.transform import _TRANSFORM_REGISTRY

        for name, cls in _TRANSFORM_REGISTRY.items():
            ours = cls.__module__.startswith("synthsr_transforms")
            assert ours or getattr(tio, name, cls) is cls
        assert _TRANSFORM_REGISTRY["Flip"] is tio.Flip

    def test_its_own_history_can_still_be_inverted(self, make_subject: Maker) -> None:
        subject = make_subject()
        out = tio.Flip(axes=(0,))(subject).apply_inverse_transform()
        assert torch.equal(out.image.data, subject.image.data)


class TestCompose:
    def test_a_subject_goes_through(self, make_subject: Maker) -> None:
        out = pipeline()(make_subject())
        assert type(out) is tio.Subject
        assert out.spatial_shape == (10, 8, 12)
        assert out.labels.data.dtype == torch.int16
        assert out.image.data.isfinite().all()

    def test_a_batch_goes_through_and_its_input_stays(
        self, make_batch: Maker, snapshot: Maker, assert_same: Maker
    ) -> None:
        batch = make_batch()
        before = snapshot(batch)
        out = pipeline()(batch)
        assert tuple(out.images["image"].data.shape) == (3, 2, 10, 8, 12)
        assert_same(batch, before, history=True)

    def test_a_dict_of_tensors_goes_through(self, make_subject: Maker) -> None:
        image = make_subject().image.data
        out = pipeline()({"image": image, "age": 70})
        assert tuple(out["image"].shape) == (2, 10, 8, 12)
        assert out["age"] == 70

    def test_a_dict_takes_label_maps_for_labels(self, make_subject: Maker) -> None:
        subject = make_subject()
        data = {"image": subject.image.data, "labels": subject.labels}
        out = synth.SpatialDeformation(rotation_degrees=9)(data)
        assert out["labels"].dtype == torch.int16
        assert set(out["labels"].unique().tolist()) <= set(subject.labels.data.unique().tolist())

    def test_every_element_of_a_batch_keeps_its_own_history(self, make_batch: Maker) -> None:
        out = pipeline()(make_batch(8))
        flips = set()
        for element in out.unbatch():
            names = [trace.name for trace in element.applied_transforms]
            assert names[:3] == ["SpatialDeformation", "Pad", "PatchCrop"]
            flips.add("HemisphereFlip" in names)
            start = element.applied_transforms[2].params["start"]
            assert len(start) == 3
        assert flips == {True, False}

    def test_our_part_of_a_history_replays(self, make_batch: Maker) -> None:
        batch = make_batch()
        steps = [
            synth.SpatialDeformation(rotation_degrees=(-9, 9), velocity_std_mm=(0, 1)),
            synth.PatchCrop(shape=8),
            synth.ScannerNoise(std=(1, 5), p=0.5),
        ]
        out = tio.Compose(steps)(batch)
        by_name = {type(step).__name__: step for step in steps}
        for subject, expected in zip(batch.unbatch(), out.unbatch(), strict=True):
            for trace in expected.applied_transforms:
                subject = by_name[trace.name].replay(subject, trace.params)
            assert torch.equal(subject.labels.data, expected.labels.data)
            torch.testing.assert_close(subject.image.data, expected.image.data, rtol=0, atol=1e-3)

    def test_plus_and_or_build_pipelines(self, make_subject: Maker) -> None:
        both = synth.MinMaxRescale() + tio.Noise(std=0.1)
        either = synth.MinMaxRescale() | synth.PartialFieldOfView(fraction=0.5)
        assert type(both) is tio.Compose
        assert type(either) is tio.OneOf
        names = [t.name for t in both(make_subject()).applied_transforms]
        assert names == ["MinMaxRescale", "Noise"]
        assert len(either(make_subject()).applied_transforms) == 1

    def test_a_seed_brings_a_pipeline_back(self, make_batch: Maker, assert_same: Maker) -> None:
        batch, transform = make_batch(), pipeline()
        results = []
        for _ in range(2):
            torch.manual_seed(5)
            results.append(transform(batch))
        assert_same(*results)


class TestChoice:
    STEPS = (
        lambda: synth.GammaContrast(log_gamma=0.5),
        lambda: synth.ScannerNoise(std=3),
        lambda: tio.Flip(axes=(0,)),
    )

    def test_one_of_chooses_for_each_element(self, make_batch: Maker) -> None:
        batch = make_batch(8)
        out = tio.OneOf([make() for make in self.STEPS])(batch)
        names = [[t.name for t in s.applied_transforms] for s in out.unbatch()]
        assert all(len(own) == 1 for own in names)
        assert {own[0] for own in names} == {"GammaContrast", "ScannerNoise", "Flip"}

    def test_an_element_of_one_of_replays(self, make_batch: Maker) -> None:
        batch = make_batch(6)
        steps = [make() for make in self.STEPS[:2]]
        out = tio.OneOf(steps)(batch)
        by_name = {type(step).__name__: step for step in steps}
        for before, after in zip(batch.unbatch(), out.unbatch(), strict=True):
            (trace,) = after.applied_transforms
            again = by_name[trace.name].replay(before, trace.params)
            torch.testing.assert_close(again.image.data, after.image.data)

    @pytest.mark.parametrize("per_instance", [True, False])
    def test_some_of_applies_two(self, per_instance: bool, make_batch: Maker) -> None:
        transform = tio.SomeOf(
            [make() for make in self.STEPS], num_transforms=2, per_instance=per_instance
        )
        chosen = [
            tuple(t.name for t in s.applied_transforms) for s in transform(make_batch(8)).unbatch()
        ]
        assert all(len(set(own)) == 2 for own in chosen)
        assert (len(set(chosen)) > 1) == per_instance

    def test_histories_of_elements_outlive_our_steps(self, make_batch: Maker) -> None:
        chosen = tio.OneOf([make() for make in self.STEPS])(make_batch(4))
        first = [s.applied_transforms[0].name for s in chosen.unbatch()]
        noise = synth.ScannerNoise(std=1)
        later, again = noise(chosen), noise.replay(chosen, noise.sample_record(chosen))
        assert [s.applied_transforms[0].name for s in later.unbatch()] == first
        assert [s.applied_transforms[1].name for s in later.unbatch()] == ["ScannerNoise"] * 4
        assert [s.applied_transforms[0].name for s in again.unbatch()] == first


class Repeated(Dataset):
    """One subject many times, transformed on its way out."""

    def __init__(self, subject: tio.Subject, transform: tio.Transform, count: int) -> None:
        self.subject, self.transform, self.count = subject, transform, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tio.Subject:
        return self.transform(self.subject)


def noise_pipeline() -> tio.Compose:
    return tio.Compose([synth.ScannerNoise(std=(1, 5)), synth.HemisphereFlip(p=0.5)])


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
class TestLoaders:
    @pytest.fixture
    def cpu_subject(self, make_labels: Maker, make_image: Maker) -> tio.Subject:
        return tio.Subject(labels=tio.LabelMap(make_labels()), image=tio.ScalarImage(make_image()))

    @pytest.mark.parametrize("workers", [0, 2])
    def test_every_sample_of_a_loader_is_another(
        self, workers: int, cpu_subject: tio.Subject
    ) -> None:
        data = Repeated(cpu_subject, noise_pipeline(), 8)
        loader = tio.SubjectsLoader(data, batch_size=2, num_workers=workers)
        images = torch.cat([batch.images["image"].data for batch in loader])
        assert images.shape[0] == 8
        assert len(images.flatten(1).sum(1).unique()) == 8

    def test_a_loader_seed_governs_its_workers(self, cpu_subject: tio.Subject) -> None:
        data = Repeated(cpu_subject, noise_pipeline(), 4)
        runs = []
        for _ in range(2):
            loader = tio.SubjectsLoader(
                data, batch_size=2, num_workers=2, generator=torch.Generator().manual_seed(3)
            )
            runs.append(torch.cat([batch.images["image"].data for batch in loader]))
        assert torch.equal(*runs)

    def test_a_loaded_batch_goes_through_on_its_device(
        self, cpu_subject: tio.Subject, device: torch.device
    ) -> None:
        data = Repeated(cpu_subject, tio.Compose([]), 3)
        (batch,) = tio.SubjectsLoader(data, batch_size=3)
        out = pipeline()(batch.to(device))
        assert out.images["image"].data.device.type == device.type
        assert len(out.images["image"].data.flatten(1).sum(1).unique()) == 3

    @pytest.mark.parametrize("workers", [0, 2])
    def test_a_queue_serves_patches(self, workers: int, cpu_subject: tio.Subject) -> None:
        queue = tio.Queue(
            [cpu_subject, cpu_subject],
            tio.UniformSampler(cpu_subject, patch_size=6),
            max_length=8,
            patches_per_volume=4,
            num_workers=workers,
            transform=noise_pipeline(),
        )
        loader = tio.SubjectsLoader(queue, batch_size=4)
        shapes = [tuple(batch.images["image"].data.shape) for batch in loader]
        assert shapes == [(4, 2, 6, 6, 6)] * 2

    def test_threads_do_not_share_a_generator(self, make_subject: Maker, seeded: Maker) -> None:
        from concurrent.futures import ThreadPoolExecutor

        transform, subject = synth.ScannerNoise(std=(1, 5)), make_subject()

        def run(seed: int) -> torch.Tensor:
            return transform(subject, generator=seeded(seed)).image.data

        alone = [run(seed) for seed in range(6)]
        with ThreadPoolExecutor(3) as pool:
            together = list(pool.map(run, range(6)))
        assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


def test_batches_of_unbatched_elements_are_the_batch(make_batch: Maker) -> None:
    out = synth.AcquisitionResolution()(make_batch())
    again = SubjectsBatch.from_subjects(out.unbatch())
    assert again.metadata == out.metadata
    acquired = synth.SliceAcquisition(noise_std=1)(again)
    assert acquired.images["image"].data.shape == out.images["image"].data.shape
