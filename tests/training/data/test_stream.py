"""Promises of the stream of pairs: every batch follows from its number, whatever came before."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from synthsr_net.training.config import TrainingConfig, ValidationConfig
from synthsr_net.training.data.bank import Bank, read_bank, with_brain_boxes
from synthsr_net.training.data.stream import (
    FixedPairs,
    Origin,
    PairData,
    PairLoader,
    PairStream,
    Position,
    plan_batch,
)
from synthsr_transforms.generator.config import load_config
from synthsr_transforms.generator.generator import Generator, TrainingPair
from synthsr_transforms.job.job import GenerationJob
from synthsr_transforms.subjects.files import find_subjects

SHAPE = (20, 18, 22)
CONFIG = """
label_table: freesurfer_aseg
real_target: {real}
steps:
  deformation: {{name: SpatialDeformation, params: {{rotation_degrees: [-10, 10]}}}}
  crop: {{name: PatchCrop, params: {{shape: 12{focus}}}}}
  mixture: {{name: TissueMixture}}
  {target}
  acquisition: {{name: SliceAcquisition, params: {{spacing_mm: [4, 4, 9], noise_std: [0, 0.1]}}}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory, make_labels: Callable, make_image: Callable) -> Path:
    """Three label maps, their images, and configurations."""
    place: Path = tmp_path_factory.mktemp("stream")
    affine = np.diag([4.0, 4, 4, 1])
    for name in ("maps", "images"):
        (place / name).mkdir()
    for k in range(3):
        labels = make_labels(SHAPE, k)[0].numpy()
        nib.save(nib.Nifti1Image(labels, affine), place / "maps" / f"sub-0{k}.nii.gz")
        image = make_image(SHAPE, 1, k)[0].numpy()
        nib.save(nib.Nifti1Image(image, affine), place / "images" / f"sub-0{k}.nii.gz")
    copy = "target: {name: CopyImage}"
    (place / "synthetic.yaml").write_text(CONFIG.format(real="false", focus="", target=copy))
    focus = ", focus: brain_box"
    (place / "focused.yaml").write_text(CONFIG.format(real="false", focus=focus, target=copy))
    (place / "real.yaml").write_text(CONFIG.format(real="true", focus="", target=""))
    return place


@pytest.fixture(scope="module")
def make_stream(folder: Path) -> Callable[..., PairStream]:
    """Maker of streams of the three label maps; arguments are those of `PairStream`."""

    def make(name: str = "synthetic", **kwargs: int) -> PairStream:
        images = folder / "images" if name == "real" else None
        generator = Generator(load_config(folder / f"{name}.yaml"))
        entries = read_bank(find_subjects(folder / "maps", images), target="target")
        return PairStream(generator, Bank(with_brain_boxes(entries, generator)), **kwargs)

    return make


def same(first: TrainingPair, second: TrainingPair) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


class TestPlans:
    def test_a_plan_does_not_depend_on_what_came_before(self):
        numbers = torch.randperm(40, generator=torch.Generator().manual_seed(0)).tolist()
        shuffled = {number: plan_batch(7, number, 5, 2) for number in numbers}
        torch.rand(3)  # nor on the global generator
        assert [plan_batch(7, number, 5, 2) for number in range(40)] == [
            shuffled[number] for number in range(40)
        ]

    def test_seeds_differ_between_batches_and_between_runs(self):
        seeds = {plan_batch(seed, number, 5).seed for seed in range(20) for number in range(50)}
        assert len(seeds) == 1000

    def test_all_entries_are_equally_likely(self):
        counts = torch.zeros(4)
        for number in range(400):
            counts += torch.bincount(torch.tensor(plan_batch(0, number, 4, 3).entries), minlength=4)
        # 1200 draws: 300 each, with a standard deviation of 15
        assert float((counts - 300).abs().max()) < 60

    @pytest.mark.parametrize("ranks", [2, 3])
    def test_ranks_share_the_batches_of_one(self, make_stream, ranks):
        alone = make_stream(seed=3)
        for rank in range(ranks):
            shared = make_stream(seed=3, rank=rank, num_ranks=ranks)
            plans = [shared.plan(step) for step in range(4)]
            assert [plan.number for plan in plans] == list(range(rank, 4 * ranks, ranks))
            assert plans == [alone.plan(plan.number) for plan in plans]


class TestPairs:
    @pytest.mark.parametrize("name", ["synthetic", "focused", "real"])
    def test_sample_n_is_that_of_generate(self, folder, make_stream, tmp_path, name):
        images = folder / "images" if name == "real" else None
        job = GenerationJob.from_source(
            folder / f"{name}.yaml",
            labels=folder / "maps",
            images=images,
            folder=tmp_path,
            seed=11,
            num_samples=4,
            device="cpu",
            file_format="nii",
        )
        stream = make_stream(name, seed=11)
        used = set()
        for sample in job.run():
            pair = stream.pair(sample.number)
            record = json.loads((tmp_path / f"{sample.stem}.json").read_text())
            entry = stream.plan(sample.number).entries[0]
            assert record["source"]["labels"] == str(stream.bank.entries[entry].subject.labels)
            used.add(entry)
            for kind, tensor in pair._asdict().items():
                written = nib.load(tmp_path / f"{sample.stem}_{kind}.nii").get_fdata()
                np.testing.assert_array_equal(tensor[0, 0].numpy(), written.astype(np.float32))
        assert len(used) > 1

    def test_elements_of_a_batch_differ(self, make_stream):
        image, target, labels = make_stream(batch_size=3).pair(0)
        assert image.shape == target.shape == labels.shape == (3, 1, 12, 12, 12)
        assert not torch.equal(image[0], image[1])

    def test_a_pair_can_be_made_again(self, make_stream):
        stream = make_stream(seed=2)
        first, other, again = stream.take(5), stream.take(6), stream.take(5)
        assert same(first, again)
        assert not same(first, other)

    def test_one_made_ahead_is_the_same(self, make_stream):
        stream = make_stream(seed=2)
        expected = stream.pair(4)
        stream.prefetch(4)
        assert same(stream.take(4), expected)


class TestLoaders:
    def test_epochs_follow_each_other(self, make_stream):
        stream, position = make_stream(), Position()
        loader = PairLoader(stream, position, 3)
        assert len(loader) == 3
        for epoch in range(2):
            for step, pair in enumerate(loader, start=3 * epoch):
                assert same(pair, stream.pair(step))
                position.done += 1
        assert position.done == 6

    def test_a_loader_goes_on_in_the_middle_of_an_epoch(self, make_stream):
        stream = make_stream()
        saved = PairLoader(stream, Position(7), 5).state_dict()
        position = Position()
        loader = PairLoader(stream, position, 5)
        loader.load_state_dict(saved)
        assert position.done == 7
        pairs = list(loader)
        assert len(pairs) == 3
        assert same(pairs[0], stream.pair(7))

    @pytest.mark.parametrize(("number", "ranks"), [(4, 2), (5, 2), (1, 2), (7, 3), (2, 4)])
    def test_fixed_samples_are_shared_and_all_get_as_many(self, make_stream, number, ranks):
        loaders = [FixedPairs(make_stream(), number, rank, ranks) for rank in range(ranks)]
        assert len({len(loader) for loader in loaders}) == 1
        steps = [step for loader in loaders for step in loader.steps]
        assert sorted(steps)[:number] == list(range(number))
        assert len(steps) - number < ranks

    def test_fixed_samples_are_the_same_every_time(self, make_stream):
        stream = make_stream(seed=9)
        loader = FixedPairs(stream, 3, 1, 2)
        first, second = list(loader), list(loader)
        assert all(same(a, b) for a, b in zip(first, second, strict=True))
        assert same(first[0], stream.pair(1))
        assert same(first[1], stream.pair(0))  # a repetition

    @pytest.mark.parametrize("held", [0, 1])
    def test_validation_has_label_maps_and_a_seed_of_its_own(self, make_stream, held):
        stream = make_stream()
        config = TrainingConfig(validation=ValidationConfig(samples=3, seed=5))
        entries = stream.bank.entries
        origin = Origin(stream.generator, entries[held:], entries[:held])
        data = PairData(origin, config, position=Position(), batches_per_epoch=4)
        data.connect(torch.device("cpu"), rank=1, num_ranks=2)
        assert data.train_dataloader().stream.plan(3).number == 7
        assert len(data.train_dataloader().stream.bank) == 3 - held
        fixed = data.val_dataloader()
        assert len(fixed.stream.bank) == (held or 3)
        assert fixed.stream.plan(0) == plan_batch(5, 0, held or 3)
