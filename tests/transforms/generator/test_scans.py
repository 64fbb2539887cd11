"""Promises of several scans of one head: what they share, what differs, how many there are."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
import torchio as tio
from helpers import run
from scipy import stats
from torchio.data.batch import SubjectsBatch

from synthsr_transforms import Generator, GeneratorConfig, load_config
from synthsr_transforms.generator.config import ScansConfig, StepConfig, make_config, read_settings
from synthsr_transforms.generator.scans import ExamPair, num_scans
from synthsr_transforms.job.job import remake_sample
from synthsr_transforms.support.messages import SynthSRError
from synthsr_transforms.transforms.common.images import ACQUISITION_SPACING, SCAN

VALUES = torch.tensor([0, 2, 3, 4, 41, 42, 43, 10], dtype=torch.int16)
SHAPE = (16, 20, 18)
SMALL = {"crop.shape": 32, "crop.multiple_of": None}
Maker = Callable[..., Any]


def heads(number: int = 1) -> SubjectsBatch:
    """Label maps in blocks of four voxels."""
    subjects = []
    for seed in range(number):
        generator = torch.Generator().manual_seed(seed)
        which = torch.randint(len(VALUES), (4, 5, 5), generator=generator)
        for axis, size in enumerate(SHAPE):
            which = which.repeat_interleave(4, axis).narrow(axis, 0, size)
        subjects.append(tio.Subject(labels=tio.LabelMap(VALUES[which][None])))
    return SubjectsBatch.from_subjects(subjects)


def generator_of(
    *numbers: float, shared: tuple[str, ...] = (), **steps: dict[str, Any]
) -> Generator:
    """A generator of scans with these probabilities, a deformation and a target before them."""
    own = {
        "deformation": {"name": "SpatialDeformation", "rotation_degrees": (-20, 20)},
        "target": {"name": "TissueContrast", "by_tissue": {"white_matter": 9, "grey_matter": 5}},
        "mixture": {"name": "TissueMixture", "prior_means": [10, 200], "prior_stds": [0, 0]},
        **steps,
    }
    configs = {
        key: StepConfig(name=step["name"], params={k: v for k, v in step.items() if k != "name"})
        for key, step in own.items()
    }
    scans = ScansConfig(probabilities=list(numbers), first_step="mixture", shared=list(shared))
    return Generator(GeneratorConfig(label_table="freesurfer_aseg", steps=configs, scans=scans))


def exam(**changes: Any) -> Generator:
    """The preset, with a number of scans of its own for each head of a batch."""
    return Generator.from_preset("exam", {**SMALL, "scans.same_number": False, **changes})


def exam_of(generator: Generator, batch: SubjectsBatch, seed: int) -> ExamPair:
    pair = generator.pair(batch, seed)
    assert isinstance(pair, ExamPair)
    return pair


class TestScansOfOneHead:
    def test_they_have_the_same_anatomy_and_each_a_contrast_of_its_own(self) -> None:
        pair = exam_of(generator_of(0, 0, 1), heads(2), 1)
        assert pair.image.shape == (2, 3, 1, *SHAPE)
        for element in range(2):
            for value in pair.labels[element].unique():
                inside = pair.labels[element, 0] == value
                intensities = pair.image[element, :, 0][:, inside]
                assert torch.equal(intensities.amin(1), intensities.amax(1))
                assert len(intensities[:, 0].unique()) == 3

    def test_lesions_lie_at_the_same_places_and_look_different(self) -> None:
        lesions = {
            "name": "LesionSimulation",
            "intensity": (10, 200),
            "height": (0, 1),
            "p": 0.5,
            "include": ["image"],
        }
        dark = {"name": "TissueMixture", "prior_means": [0, 0], "prior_stds": [0, 0]}
        generator = generator_of(0, 0, 1, shared=("lesions",), mixture=dark, lesions=lesions)
        counts = {True: 0, False: 0}
        for seed in range(12):
            batch, record = generator.run(heads(), seed)
            keep = record["lesions"].get("_keep", [True] * 3)
            assert len(set(keep)) == 1
            counts[keep[0]] += 1
            pair = generator.as_pair(batch)
            if keep[0]:
                look = torch.tensor(record["lesions"]["image.intensity"])
                assert len(look.unique()) == 3
                share = pair.image[0, :, 0] / look[:, :, None, None]
                assert share.max() > 0.9
                torch.testing.assert_close(share[1:], share[:1].expand_as(share[1:]))
        assert min(counts.values()) > 0

    def test_lesions_that_are_not_shared_lie_elsewhere(self) -> None:
        lesions = {"name": "LesionSimulation", "include": ["image"]}
        _, record = generator_of(0, 1, lesions=lesions).run(heads(), 0)
        assert len(set(record["lesions"]["shape_seed"])) == 2

    def test_each_scan_of_the_preset_has_its_own_contrast_resolution_and_noise(self) -> None:
        generator = exam(**{"scans.probabilities": [0, 0, 0, 1]})
        spacings = []
        for seed in range(6):
            batch, record = generator.run(heads(), seed)
            assert batch.metadata[SCAN] == [0, 1, 2, 3]
            spacings.append(torch.tensor(batch.metadata[ACQUISITION_SPACING])[:, 0])
            own = [("mixture", "means"), ("bias", "image.std"), ("acquisition", "noise_std")]
            for step, name in own:
                assert len({str(value) for value in record[step][name]}) == 4, step
            for step in generator.config.scans.shared:  # type: ignore[union-attr]
                belonging = ("texture_seed", "image.sigma_mm", "shape_seed", "margin_mm")
                for name in set(belonging) & set(record[step]):
                    assert len({str(value) for value in record[step][name]}) == 1, step
        orientations = torch.stack(spacings).argmax(-1)  # of the thick slices
        assert all(len(scans.unique()) > 1 for scans in orientations if scans.any())

    def test_targets_are_one_and_what_no_scan_shows_is_left_out(self) -> None:
        half = {"name": "PartialFieldOfView", "fraction": 0.5, "include": ["image", "target"]}
        generator = generator_of(0, 0, 1, view=half)
        for seed in range(4):
            pair = exam_of(generator, heads(), seed)
            shown = (pair.image[0] > 0).any(0)
            plain = exam_of(generator_of(0, 0, 1), heads(), seed)
            assert torch.equal(pair.target[0], torch.where(shown, plain.target[0], 0))

    def test_histories_go_with_the_scans(self) -> None:
        batch, _ = generator_of(0, 0, 1).run(heads(2), 1)
        names = [[step.name for step in scan.applied_transforms] for scan in batch.unbatch()]
        assert names == [["SpatialDeformation", "TissueContrast", "TissueMixture"]] * 6


class TestMisalignment:
    def test_it_is_within_the_range_and_the_first_scan_stays(self) -> None:
        changes = {"registration.rotation_degrees": [-1, 1], "registration.translation_mm": [-1, 1]}
        for own, degrees, mm in (({}, 0.3, 0.25), (changes, 1, 1)):
            batch, record = exam(**own).run(heads(8), 2)
            first = torch.tensor(batch.metadata[SCAN]) == 0
            assert 0 < first.sum() < len(first)
            for name, limit in (("rotation_degrees", degrees), ("translation_mm", mm)):
                moved = torch.tensor(record["registration"][name]).abs()
                assert not moved[first].any()
                assert moved[~first].max() <= limit
                assert moved[~first].max() > limit / 3

    def test_the_image_of_the_first_scan_is_as_without_and_others_move(self) -> None:
        move = {"name": "RegistrationError", "reference_channel": None, "include": ["image"]}
        still, moved = (
            exam_of(generator_of(0, 1, move={**move, "p": p}), heads(2), 1) for p in (0, 1)
        )
        assert torch.equal(still.image[:, 0], moved.image[:, 0])
        assert all((still.image[:, 1] != moved.image[:, 1]).flatten(1).any(1))
        assert torch.equal(still.target, moved.target)
        assert torch.equal(still.labels, moved.labels)


class TestNumber:
    def test_it_is_distributed_as_configured(self) -> None:
        config = load_config("exam", {"scans.same_number": False}).scans
        assert config is not None
        assert config.probabilities[0] == 0.5
        assert len(config.probabilities) == 4
        for counts in (
            num_scans(config, 1, 2000),
            [n for seed in range(1000) for n in num_scans(config, seed)],
        ):
            found = np.bincount(counts, minlength=5)[1:]
            expected = np.array(config.probabilities) * len(counts)
            assert stats.chisquare(found, expected).pvalue > 1e-3

    def test_heads_of_a_batch_have_as_many_where_that_is_asked_for(self) -> None:
        config = load_config("exam").scans
        assert config is not None
        assert config.same_number
        batches = [num_scans(config, seed, 4) for seed in range(200)]
        assert all(len(set(counts)) == 1 for counts in batches)
        assert {counts[0] for counts in batches} == {1, 2, 3, 4}
        assert [counts[:1] for counts in batches] == [num_scans(config, s) for s in range(200)]

    def test_of_one_scan_the_samples_are_those_of_the_preset_without_scans(self) -> None:
        one = exam(**{"scans.probabilities": [1.0]})
        config = load_config("exam", SMALL)
        still = {name: step for name, step in config.steps.items() if name != "registration"}
        alone = Generator(replace(config, scans=None, steps=still))  # the reference never moves
        for seed in range(3):
            pair, expected = exam_of(one, heads(2), seed), alone.pair(heads(2), seed)
            assert pair.present is None
            assert torch.equal(pair.image[:, 0], expected.image)
            assert torch.equal(pair.target, expected.target)
            assert torch.equal(pair.labels, expected.labels)

    def test_absent_scans_are_zero_and_said_to_be_absent(self) -> None:
        generator = generator_of(0.4, 0.3, 0.3)
        batch, record = generator.run(heads(6), 0)
        counts = record["scans"]["count"]
        assert counts == num_scans(generator.config.scans, 0, 6)
        assert len(set(counts)) > 1
        pair = generator.as_pair(batch)
        assert isinstance(pair, ExamPair)
        assert pair.present.sum(1).tolist() == counts
        assert pair.image.shape[:2] == (6, max(counts))
        assert torch.equal(pair.image.flatten(2).any(-1), pair.present)
        assert torch.equal(pair.image[pair.present], batch.images["image"].data)
        assert repr(pair).startswith("ExamPair(image=(6, 3, 1, 16, 20, 18), ")


class TestReproducibility:
    def test_a_record_replays_bit_for_bit_through_json(self, assert_same: Maker) -> None:
        generator = exam()
        out, record = generator.run(heads(3), 4)
        assert_same(generator.replay(heads(3), json.loads(json.dumps(record))), out)
        again, _ = generator.run(heads(3), 4)
        assert_same(again, out)

    def test_a_head_of_a_batch_is_that_head_alone(self) -> None:
        generator = exam()
        out, record = generator.run(heads(3), 5)
        counts, begin = record["scans"]["count"], 0
        assert len(set(counts)) > 1
        for number, count in enumerate(counts):
            scans = range(begin, begin + count)
            own = {}
            for step, params in record.items():
                of_the_head = step in ("scans", "deformation", "crop", "flip", "target")
                rows = [number] if of_the_head else scans
                keys = [*params["_batched_keys"], *(["_keep"] if "_keep" in params else [])]
                own[step] = {**params, **{k: [params[k][i] for i in rows] for k in keys}}
                own[step]["_batch_size"] = len(rows)
            source = SubjectsBatch.from_subjects([heads(3).unbatch()[number]])
            alone = generator.replay(source, own)
            for name, image in out.images.items():
                torch.testing.assert_close(
                    alone.images[name].data, image.data[begin : begin + count], rtol=0, atol=1e-5
                )
            begin += count


class TestSettings:
    @pytest.mark.parametrize(
        ("scans", "message"),
        [
            ({"first_step": "mixtur"}, "did you mean 'mixture'"),
            ({"shared": ["lesion"]}, "did you mean 'lesions'"),
            ({"shared": ["crop"]}, "scans.shared must name a step"),
            ({"probabilities": [0.5, 0.4]}, "whose sum is 1"),
            ({"probabilities": []}, "whose sum is 1"),
            ({"probabilities": [1.5, -0.5]}, "from 0 on"),
            ({"number": 2}, "scans.number"),
        ],
    )
    def test_mistakes_are_named(self, scans: dict[str, Any], message: str) -> None:
        settings = read_settings("exam")
        settings["scans"] = {**settings["scans"], **scans}
        with pytest.raises(SynthSRError, match=message):
            Generator(make_config(GeneratorConfig, settings))

    def test_steps_of_torchio_are_not_shared_and_no_step_is_named_scans(self) -> None:
        blur = {"name": "Blur", "std": (1, 1)}
        with pytest.raises(SynthSRError, match="'blur', one of TorchIO"):
            generator_of(1, shared=("blur",), blur=blur)
        with pytest.raises(SynthSRError, match="named 'scans'"):
            generator_of(1, scans=blur)

    def test_the_preset_has_the_steps_of_all_purpose_with_contrasts_of_its_own(self) -> None:
        alone, together = load_config("all_purpose"), load_config("exam")
        names = list(alone.steps)
        place, bias = names.index("same_contrast"), names.index("bias")
        assert list(together.steps) == [
            *names[:place],
            "pd_contrast",
            *names[place:bias],
            "patient_lesions",
            *names[bias:],
            "registration",
        ]
        changed = {name for name in names if together.steps[name] != alone.steps[name]}
        assert changed == {"target", "t1_contrast", "ct_contrast", "lesions"}

    def test_computed_tomography_of_the_preset_has_no_bias_field(self) -> None:
        later = {"pd_contrast.p": 0, "same_contrast.p": 0, "scans.probabilities": [0, 1]}
        _, record = exam(**{"ct_contrast.p": 0.5}, **later).run(heads(12), 0)
        std = torch.tensor(record["bias"]["image.std"])[:, 0]
        ct = torch.tensor(record["ct_contrast"]["_keep"])
        assert bool((std[ct] == 0).all())
        assert float((std[~ct] > 0).float().mean()) > 0.7

    def test_a_step_comes_before_the_one_that_it_names(self, tmp_path: Path) -> None:
        path = tmp_path / "own.yaml"
        step = "{name: TissueMixture, before: %s}"
        path.write_text(f"base: exam\nsteps: {{more: {step % 'gamma'}, last: {step % 'more'}}}\n")
        names = list(load_config(path).steps)
        place = names.index("gamma")
        assert names[place - 2 : place] == ["last", "more"]
        path.write_text(f"base: exam\nsteps: {{more: {step % 'gama'}}}\n")
        with pytest.raises(SynthSRError, match=r"steps\.more\.before must be"):
            load_config(path)

    def test_a_file_changes_a_preset(self, tmp_path: Path) -> None:
        path = tmp_path / "own.yaml"
        path.write_text("base: exam\nsteps: {gamma: {params: {log_gamma: {uniform: [0, 1]}}}}\n")
        changed, before = load_config(path), load_config("exam")
        assert changed.steps["gamma"].params == {
            "log_gamma": {"uniform": [0, 1]},
            "include": ["image"],
        }
        assert changed.scans == before.scans
        assert {**changed.steps, "gamma": 0} == {**before.steps, "gamma": 0}
        path.write_text("base: exams\n")
        with pytest.raises(SynthSRError, match="base must be"):
            load_config(path)


def test_a_job_writes_each_scan_as_a_file_and_makes_it_again(tmp_path: Path) -> None:
    maps, out = tmp_path / "maps", tmp_path / "out"
    maps.mkdir()
    nib.save(
        nib.Nifti1Image(heads().images["labels"].data[0, 0].numpy(), np.eye(4)), maps / "a.nii"
    )
    command = ("generate", "exam", "--labels", maps, "--out", out, "--preview", "-n")
    small = ("--set", "crop.shape=null", "--set", "crop.multiple_of=null", "--device", "cpu")
    assert run(*command, 3, *small).exit_code == 0
    with (out / "manifest.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    counts = [sum(bool(row[f"image_{n}"]) for n in (1, 2, 3, 4)) for row in rows]
    assert len(set(counts)) > 1
    for row, count in zip(rows, counts, strict=True):
        batch = remake_sample(out / row["record"])
        assert batch.batch_size == count
        for scan in range(count):
            written = nib.load(out / row[f"image_{scan + 1}"]).get_fdata(dtype=np.float32)
            assert np.array_equal(written, batch.images["image"].data[scan, 0].numpy())
        assert (out / f"{row['sample']}_preview.png").exists()
        names = {path.name for path in out.glob(f"{row['sample']}_*.nii.gz")}
        assert names == {value for key, value in row.items() if value.endswith(".nii.gz")}
    again = run(*command, 4, *small)
    assert "(3 were complete before)" in again.output
