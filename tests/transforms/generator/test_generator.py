"""Promises of the generator: settings, reproducibility, replay, and what a pair is."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torchio as tio
from torch import Tensor
from torchio.data.batch import SubjectsBatch

from synthsr_transforms import Generator, GeneratorConfig, LabelTable, load_config, preset_names
from synthsr_transforms.generator.config import StepConfig
from synthsr_transforms.generator.generator import Pair
from synthsr_transforms.support.config import from_mapping, read_yaml, to_yaml
from synthsr_transforms.support.messages import SynthSRError
from synthsr_transforms.transforms.base import SynthTransform

SHAPE = (36, 32, 40)
PRESETS = preset_names()
Maker = Callable[..., Any]
preset = cache(Generator.from_preset)
every_preset = pytest.mark.parametrize("name", PRESETS)


def blocks_of(values: Sequence[int], shape: Sequence[int], seed: int) -> Tensor:
    """A label map `(1, X, Y, Z)` of blocks of four voxels with the given values."""
    generator = torch.Generator().manual_seed(seed)
    which = torch.randint(len(values), [-(-n // 4) for n in shape], generator=generator)
    for axis, size in enumerate(shape):
        which = which.repeat_interleave(4, axis).narrow(axis, 0, size)
    return torch.tensor(values)[which].to(torch.int16)[None]


@pytest.fixture
def batch_for(device: torch.device, affines: dict[str, Tensor]) -> Maker:
    """Maker of batches that fit a generator: labels of its table and, if it is real, a target."""

    def make(generator: Generator, size: int = 1, affine: str = "identity") -> SubjectsBatch:
        subjects = []
        for seed in range(size):
            labels = blocks_of(generator.label_table.values, SHAPE, seed)
            images = {"labels": tio.LabelMap(labels.to(device), affine=affines[affine])}
            if generator.config.real_target:
                target = labels.float() * 2 + 1
                images["target"] = tio.ScalarImage(target.to(device), affine=affines[affine])
            subjects.append(tio.Subject(**images))
        return SubjectsBatch.from_subjects(subjects)

    return make


def make_config(*, target: str | None = "CopyImage", **steps: dict[str, Any]) -> GeneratorConfig:
    """A small configuration; the name of a step is its transform."""
    own = {name: StepConfig(name=name.split("_")[0], params=p) for name, p in steps.items()}
    if target is not None:
        own["copy"] = StepConfig(name=target)
    return GeneratorConfig(steps=own, label_table="freesurfer_aseg")


class TestPresets:
    def test_all_published_settings_are_there(self) -> None:
        assert {"all_purpose", "hyperfine"} <= set(PRESETS)
        assert sum(name.startswith("tutorial_") for name in PRESETS) == 6

    @every_preset
    def test_it_says_what_it_is_for_and_where_it_comes_from(self, name: str) -> None:
        config = load_config(name)
        assert len(config.description) > 20
        assert "doi:" in config.citation

    @every_preset
    def test_it_comes_back_through_yaml(self, name: str, tmp_path: Path) -> None:
        config = load_config(name)
        (tmp_path / "copy.yaml").write_text(to_yaml(config), encoding="utf-8")
        assert load_config(tmp_path / "copy.yaml") == config
        assert from_mapping(GeneratorConfig, read_yaml(tmp_path / "copy.yaml")) == config
        assert "steps:" in to_yaml(config)

    @every_preset
    def test_it_makes_finite_pairs_of_one_grid(self, name: str, batch_for: Maker) -> None:
        generator = preset(name)
        out, _ = generator.run(batch_for(generator, 2), seed=1)
        pair = generator.as_pair(out)
        assert pair.image.shape[0] == pair.target.shape[0] == pair.labels.shape[0] == 2
        assert pair.image.shape[-3:] == pair.target.shape[2:]
        assert pair.labels.shape[1] == 1
        for tensor in (pair.image, pair.target):
            whole = name == "segmentation" and tensor is pair.target
            assert tensor.dtype == (torch.int32 if whole else torch.float32)
            assert bool(tensor.isfinite().all())
            assert tensor.float().std() > 0.01
        image, target = (out.images[n] for n in (generator.config.image, generator.config.target))
        assert image.affines == target.affines

    @every_preset
    def test_any_number_of_threads_makes_the_same(self, name: str, batch_for: Maker) -> None:
        generator = preset(name)
        batch, before = batch_for(generator, 1), torch.get_num_threads()
        pairs = []
        try:
            for number in (1, 2, 3):
                torch.set_num_threads(number)
                pairs.append(generator.pair(batch, seed=4))
        finally:
            torch.set_num_threads(before)
        for pair in pairs[1:]:  # MKL divides products otherwise, on AMD processors at least
            torch.testing.assert_close(tuple(pair), tuple(pairs[0]), rtol=0, atol=1e-5)
            assert torch.equal(pair.labels, pairs[0].labels)

    @every_preset
    def test_a_record_replays_bit_for_bit_through_json(
        self, name: str, batch_for: Maker, assert_same: Maker
    ) -> None:
        generator = preset(name)
        batch = batch_for(generator, 2, affine="anisotropic")
        out, record = generator.run(batch, seed=3)
        assert [step for step in record if step != "scans"] == list(generator.config.steps)
        again = generator.replay(batch, json.loads(json.dumps(record)))
        assert_same(again, out)
        names = [t.name for t in out.applied_transforms]
        assert names == [t.name for t in again.applied_transforms]

    @every_preset
    def test_seeds_decide(self, name: str, batch_for: Maker) -> None:
        generator = preset(name)
        batch = batch_for(generator)
        state = torch.get_rng_state()
        first, second, other = (generator.pair(batch, seed=s) for s in (5, 5, 6))
        assert torch.equal(torch.get_rng_state(), state)
        assert same_pairs(first, second)
        assert not torch.equal(first.image, other.image)

    @every_preset
    def test_a_pair_is_what_a_run_makes(self, name: str, batch_for: Maker) -> None:
        generator = preset(name)
        batch = batch_for(generator, 2)
        for seed in (1, 2, 3):
            expected = generator.as_pair(generator.run(batch, seed=seed)[0])
            pair = generator.pair(batch, seed=seed)
            assert same_pairs(pair, expected)

    @every_preset
    def test_the_callers_batch_stays(
        self, name: str, batch_for: Maker, snapshot: Maker, assert_same: Maker
    ) -> None:
        generator = preset(name)
        batch = batch_for(generator, 2)
        before = snapshot(batch)
        _, record = generator.run(batch, seed=1)
        generator.replay(batch, record)
        generator.pair(batch, seed=2)
        assert_same(batch, before, history=True)

    @every_preset
    def test_elements_of_a_batch_replay_alone(
        self, name: str, batch_for: Maker, assert_same: Maker
    ) -> None:
        generator = preset(name)
        batch = batch_for(generator, 2)
        out, record = generator.run(batch, seed=4)
        counts = record["scans"]["count"] if "scans" in record else [1, 1]
        before = [s for s, n in zip(batch.unbatch(), counts, strict=True) for _ in range(n)]
        for subject, after in zip(before, out.unbatch(), strict=True):
            alone = subject
            for trace, step in zip(
                after.applied_transforms, steps_of(generator, after), strict=True
            ):
                alone = step.replay(alone, trace.params)
            first, second = (SubjectsBatch.from_subjects([s]) for s in (alone, after))
            for noted in ("brain_box", "scan", "without_coil"):
                second.metadata.pop(noted, None)
            assert_same(first, second, tolerance=1e-4)


def same_pairs(first: Pair, second: Pair) -> bool:
    """Whether all voxels are the same; one number of scans of all heads is told by None."""
    return all(
        a is b if a is None or b is None else torch.equal(a, b)
        for a, b in zip(first, second, strict=True)
    )


def steps_of(generator: Generator, subject: tio.Subject) -> list[SynthTransform]:
    """The steps that acted on a subject: those of the generator, less the ones left out."""
    names = [trace.name for trace in subject.applied_transforms]
    steps = []
    for step in generator.transforms.values():
        if names[len(steps) : len(steps) + 1] == [type(step).__name__]:
            steps.append(step)
    return steps


class TestOverrides:
    @pytest.mark.parametrize("text", ["crop.shape=96", "steps.crop.params.shape=96"])
    def test_a_setting_of_a_step(self, text: str) -> None:
        config = load_config("all_purpose", [text])
        assert config.steps["crop"].params["shape"] == 96
        assert Generator(config).transforms["crop"].shape == (96, 96, 96)
        assert load_config("all_purpose").steps["crop"].params["shape"] != 96

    def test_a_setting_that_the_preset_does_not_have(self) -> None:
        config = load_config("all_purpose", ["bias.p=0.5", "bias.channels=[0]"])
        assert Generator(config).transforms["bias"].p == 0.5

    def test_another_label_table(self) -> None:
        config = load_config("all_purpose", ["label_table=freesurfer_aseg"])
        generator = Generator(config)
        assert generator.label_table == LabelTable.ready("freesurfer_aseg")
        assert generator.transforms["mixture"].label_table == generator.label_table

    def test_a_distribution_as_a_value(self) -> None:
        config = load_config("all_purpose", ["gamma.log_gamma={normal: [0, 0.1]}"])
        assert Generator(config).transforms["gamma"].log_gamma.std == 0.1

    @pytest.mark.parametrize(
        ("source", "assignments", "message"),
        [
            ("all_purpos", [], "did you mean 'all_purpose'"),
            ("all_purpose", ["crp.shape=3"], "did you mean 'crop'"),
            ("all_purpose", ["label_tabel=synthsr"], "did you mean 'label_table'"),
            ("all_purpose", ["crop.shape"], "name=value"),
            ("all_purpose", ["steps.crop.nam=X"], "steps.crop.nam"),
            ("all_purpose", ["crop=5"], "steps.crop.params"),
        ],
    )
    def test_wrong_settings_are_named_when_loading(
        self, source: str, assignments: list[str], message: str
    ) -> None:
        with pytest.raises(SynthSRError, match=message):
            load_config(source, assignments)

    @pytest.mark.parametrize(
        ("assignments", "message"),
        [
            (
                ["crop.shpe=3"],
                "step 'crop': PatchCrop has no parameter 'shpe'.*did you mean 'shape'",
            ),
            (["crop.shape=0"], "step 'crop': PatchCrop: shape must be positive"),
            (["steps.crop.name=PatchCrup"], "step 'crop': .*did you mean 'PatchCrop'"),
            (["label_table=synthseg2"], "label_table: .*[Dd]id you mean 'synthseg'"),
            (["bias.std=-1"], "step 'bias': BiasCorruption: std must be at least 0"),
        ],
    )
    def test_wrong_settings_are_named_when_building(
        self, assignments: list[str], message: str
    ) -> None:
        with pytest.raises(SynthSRError, match=message):
            Generator.from_preset("all_purpose", assignments)

    def test_a_file_of_ones_own(self, tmp_path: Path, batch_for: Maker) -> None:
        path = tmp_path / "mine.yaml"
        path.write_text(
            "label_table: freesurfer_aseg\n"
            "steps:\n"
            "  image: {name: TissueMixture}\n"
            "  target: {name: CopyImage, params: {destination: target}}\n",
            encoding="utf-8",
        )
        generator = Generator.from_preset(str(path), ["image.num_channels=2"])
        pair = generator.pair(batch_for(generator), seed=0)
        assert tuple(pair.image.shape) == (1, 2, *SHAPE)


class TestLabels:
    def test_auto_takes_the_table_that_fits(self) -> None:
        config = load_config("all_purpose")
        aseg = Generator.for_labels(config, [0, 2, 41, 251])
        head = Generator.for_labels(config, [0, 2, 41, 511])
        assert aseg.config.label_table == "freesurfer_aseg"
        assert head.config.label_table == "synthseg"
        assert aseg.label_table == LabelTable.ready("freesurfer_aseg")

    def test_labels_that_the_table_lacks_are_named(self) -> None:
        config = load_config("all_purpose", ["label_table=synthseg"])
        with pytest.raises(SynthSRError, match=r"lacks .*9999"):
            Generator.for_labels(config, [0, 2, 9999])

    def test_a_table_given_wins(self) -> None:
        table = LabelTable.from_values([0, 2, 41])
        generator = Generator(make_config(TissueMixture={}), label_table=table)
        assert generator.transforms["TissueMixture"].label_table == table


class TestPairs:
    def test_each_channel_is_followed_by_its_map(self, batch_for: Maker) -> None:
        steps = {
            "TissueMixture": {"num_channels": 2},
            "SliceAcquisition": {"spacing_mm": [[1, 1, 3], [4, 1, 1]]},
            "ReliabilityMap": {},
        }
        config = replace(make_config(**steps), reliability="reliability")
        generator = Generator(config)
        out, _ = generator.run(batch_for(generator, 2), seed=1)
        pair = generator.as_pair(out)
        image, maps = out.images["image"].data, out.images["reliability"].data
        assert pair.image.shape[1] == 4
        for channel in range(2):
            assert torch.equal(pair.image[:, 2 * channel], image[:, channel])
            assert torch.equal(pair.image[:, 2 * channel + 1], maps[:, channel])

    def test_a_missing_image_is_named(self, batch_for: Maker) -> None:
        generator = Generator(make_config(target=None, TissueMixture={}))
        with pytest.raises(SynthSRError, match=r"must make an image 'target', got \['labels', 'im"):
            generator.pair(batch_for(generator), seed=0)

    def test_a_missing_real_target_is_named(self, batch_for: Maker) -> None:
        generator = Generator(replace(make_config(TissueMixture={}), real_target=True))
        batch = batch_for(Generator(make_config(TissueMixture={})))
        with pytest.raises(SynthSRError, match="needs a real image 'target'"):
            generator.pair(batch, seed=0)

    def test_a_subject_is_a_batch_of_one(self, batch_for: Maker) -> None:
        generator = Generator(make_config(TissueMixture={}, BiasCorruption={"std": 0.3}))
        batch = batch_for(generator)
        (subject,) = batch.unbatch()
        first, second = (generator.pair(data, seed=3) for data in (batch, subject))
        assert same_pairs(first, second)

    @pytest.mark.parametrize("axis", [0, 1, 2])
    def test_a_real_target_follows_the_spatial_steps_exactly(
        self, axis: int, device: torch.device
    ) -> None:
        deform = {"rotation_degrees": [-15, 15], "velocity_std_mm": 2, "translation_mm": [-3, 3]}
        config = make_config(
            target=None,
            SpatialDeformation=deform,
            PatchCrop={"shape": 20},
            HemisphereFlip={"p": 0.5, "label_table": None},
            TissueMixture={},
        )
        generator = Generator(replace(config, real_target=True))
        index = torch.arange(SHAPE[axis], device=device)
        place = index.reshape([-1 if a == axis else 1 for a in range(3)]).expand(1, *SHAPE)
        subject = tio.Subject(
            labels=tio.LabelMap(place.to(torch.int16)), target=tio.ScalarImage(place.float())
        )
        batch = SubjectsBatch.from_subjects([subject] * 4)
        pair = generator.pair(batch, seed=2)
        assert (pair.target - pair.labels).abs().max() <= 0.5 + 1e-3
        assert pair.target.std() > 1


TORCHIO_STEPS: dict[str, dict[str, Any]] = {
    "Motion": {"degrees": [2, 5], "translation": [1, 3]},
    "Ghosting": {"intensity": [0.5, 1.0]},
    "Spike": {"intensity": [1, 2]},
    "Noise": {"std": [1, 5]},
    "BiasField": {"std": [0.1, 0.5]},
}


class TestTorchioSteps:
    @pytest.mark.parametrize("name", TORCHIO_STEPS)
    @pytest.mark.parametrize("p", [1, 0.5])
    def test_it_replays_and_leaves_the_global_generator_alone(
        self, name: str, p: float, batch_for: Maker, assert_same: Maker
    ) -> None:
        params = {**TORCHIO_STEPS[name], "p": p, "include": ["image"]}
        generator = Generator(make_config(TissueMixture={}, **{name: params}))
        batch = batch_for(generator, 2)
        state = torch.get_rng_state()
        out, record = generator.run(batch, seed=1)
        again = generator.replay(batch, json.loads(json.dumps(record)))
        assert torch.equal(torch.get_rng_state(), state)
        assert_same(again, out)
        assert torch.equal(generator.pair(batch, seed=1).image, out.images["image"].data)

    @pytest.mark.parametrize("name", TORCHIO_STEPS)
    def test_it_acts_with_its_probability(self, name: str, batch_for: Maker) -> None:
        plain = Generator(make_config(TissueMixture={}))
        batch, changed = batch_for(plain), {}
        for p in (0, 0.5, 1):
            params = {**TORCHIO_STEPS[name], "p": p, "include": ["image"]}
            generator = Generator(make_config(TissueMixture={}, **{name: params}))
            changed[p] = sum(
                not torch.equal(generator.pair(batch, s).image, plain.pair(batch, s).image)
                for s in range(8)
            )
        assert changed[0] == 0
        assert 0 < changed[0.5] < 8
        assert changed[1] == 8

    def test_one_that_writes_into_its_input_does_not_write_into_the_callers(
        self, batch_for: Maker, snapshot: Maker, assert_same: Maker
    ) -> None:
        config = make_config(KeepLargestComponent={"labels": [2, 41]}, TissueMixture={})
        generator = Generator(config)
        batch = batch_for(generator)
        before = snapshot(batch)
        out, _ = generator.run(batch, seed=0)
        assert not torch.equal(out.images["labels"].data, before["data"]["labels"])
        assert_same(batch, before, history=True)

    def test_a_target_copied_before_it_is_not_touched_by_it(self, batch_for: Maker) -> None:
        config = make_config(
            target=None,
            TissueMixture={},
            CopyImage={},
            Ghosting={"intensity": 1.0, "include": ["image"]},
        )
        generator = Generator(config)
        batch = batch_for(generator)
        pair = generator.pair(batch, seed=1)
        plain = Generator(make_config(TissueMixture={})).pair(batch, seed=1)
        assert torch.equal(pair.target, plain.target)
        assert not torch.equal(pair.image, pair.target)

    def test_the_device_generator_is_restored_too(
        self, batch_for: Maker, device: torch.device
    ) -> None:
        generator = Generator(make_config(TissueMixture={}, Noise={"std": 1.0}))
        state = torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()
        generator.pair(batch_for(generator), seed=1)
        after = torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()
        assert torch.equal(after, state)


class TestConvenience:
    def test_a_label_map_its_path_and_a_tensor_are_subjects(self, tmp_path: Path) -> None:
        generator = Generator.from_preset("all_purpose", {"crop.shape": 32})
        labels = torch.zeros(1, 32, 32, 32, dtype=torch.int16)
        labels[:, 8:24, 8:24, 8:24] = 2
        tio.LabelMap(labels).save(tmp_path / "map.nii.gz")
        sources = (
            tio.Subject(labels=tio.LabelMap(labels)),
            tio.Subject(seg=tio.LabelMap(labels)),
            tio.LabelMap(labels),
            labels,
            tmp_path / "map.nii.gz",
        )
        pairs = [generator.pair(source, seed=3) for source in sources]
        for pair in pairs:
            assert same_pairs(pair, pairs[0])
            assert pair.labels.dtype == torch.int32

    def test_anything_else_is_refused_by_name(self) -> None:
        with pytest.raises(TypeError, match="got dict"):
            Generator.from_preset("all_purpose").pair({}, seed=0)  # type: ignore[arg-type]

    def test_reprs_are_short(self) -> None:
        generator = Generator.from_preset("all_purpose", "crop.shape=32")
        pair = generator.pair(torch.zeros(1, 32, 32, 32, dtype=torch.int16), seed=0)
        assert "deformation" in repr(generator)
        assert repr(pair).startswith("TrainingPair(image=(1, 1, 32, 32, 32), ")
        assert len(repr(pair)) < 120

    def test_tables_are_proposed_only_with_the_classes_of_the_priors(self) -> None:
        config = load_config("hyperfine")
        with pytest.raises(SynthSRError, match="label_table=freesurfer_synthsr"):
            Generator.for_labels(config, [0, 2, 41, 1001])
        assert (
            Generator(
                load_config("hyperfine", ["label_table=freesurfer_synthsr"])
            ).label_table.num_classes
            == 14
        )
        with pytest.raises(SynthSRError, match="not images"):
            Generator.for_labels(config, range(2000, 2999))


class TestGpu:
    @pytest.mark.parametrize("preset", [p for p in preset_names() if "real" not in p])
    def test_a_pair_never_waits_for_the_device(self, preset: str, device: torch.device) -> None:
        if device.type != "cuda":
            pytest.skip("there is nothing to wait for without a GPU")
        generator = Generator.from_preset(preset, {"crop.shape": 32})
        labels = torch.zeros(1, 48, 44, 40, dtype=torch.int16)
        labels[:, 8:40, 8:40, 8:30] = 2
        batch = SubjectsBatch.from_subjects([tio.Subject(labels=tio.LabelMap(labels))] * 3)
        batch.metadata["brain_box"] = generator.brain_box(batch).tolist()
        batch = batch.to(device)
        generator.pair(batch, seed=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that this mode is new
            torch.cuda.set_sync_debug_mode("error")
        try:
            for seed in range(1, 12):
                generator.pair(batch, seed=seed)
        finally:
            torch.cuda.set_sync_debug_mode("default")
