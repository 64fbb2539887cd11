"""Promises of pairs of real scans: one grid, known intensities, the generator's degradation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import (
    SHARED_DATA,
    one_error,
    run,
    save,
)

from synthsr_net.models.checkpoint import ScanConfig
from synthsr_net.models.loading import load_model_config
from synthsr_net.training.data.bank import Bank
from synthsr_net.training.data.pairs import (
    WHITE_MATTER_PERCENTILE,
    PairSettings,
    foreground,
    read_pair,
    read_pairs,
    settings_of_pairs,
)
from synthsr_net.training.run import TrainingRun, start
from synthsr_net.training.setup.experiment import RunPlan
from synthsr_transforms.generator.config import GeneratorConfig, load_config, preset_names
from synthsr_transforms.generator.generator import Generator
from synthsr_transforms.generator.on_scans import config_on_scans
from synthsr_transforms.io.files import VolumeError
from synthsr_transforms.io.grids import Volume, reorient
from synthsr_transforms.labels.table import LabelTable
from synthsr_transforms.phantom import head_phantom
from synthsr_transforms.subjects.pairs import ScanPair, find_pairs, unused
from synthsr_transforms.support.messages import SynthSRError

MM = 6.0
LEVELS = {"white_matter": 330.0, "grey_matter": 230.0, "deep_grey": 270.0, "csf": 70.0}
CONFIG = """
label_table: synthseg
steps:
  deformation: {name: SpatialDeformation, params: {rotation_degrees: [-10, 10]}}
  crop: {name: PatchCrop, params: {shape: 16, focus: brain_box}}
  flip: {name: HemisphereFlip, params: {p: 0.5}}
  mixture: {name: TissueMixture}
  bias: {name: BiasCorruption, params: {std: [0, 0.3]}}
  target: {name: CopyImage}
  acquisition: {name: SliceAcquisition, params: {spacing_mm: [6, 6, 13], noise_std: [0, 5]}}
  rescale: {name: MinMaxRescale}
training:
  network: {num_levels: 2, num_features: 4, normalisation: instance}
  run: {epochs: 2, steps_per_epoch: 3, deterministic: true}
  validation: {held_out: 1, samples: 2, previews: 1}
"""


def head(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A head of the phantom drawn like a T1, with its labels and affine."""
    phantom = head_phantom(spacing_mm=MM, seed=seed)
    table = LabelTable.ready("synthseg")
    labels = phantom.data[0].numpy()
    image = np.random.default_rng(seed).normal(5, 2, labels.shape)
    for value, tissue in zip(table.values, table.tissues, strict=True):
        level = 0.0 if tissue == "background" else LEVELS.get(tissue, 250.0)
        image[labels == value] += level
    return image.astype(np.float32), labels.astype(np.int16), np.asarray(phantom.affine.data)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three people: `t1`, `maps`, `masks` and inverted `t2`, and a configuration `own.yaml`."""
    place: Path = tmp_path_factory.mktemp("pairs")
    for number in range(3):
        image, labels, affine = head(number)
        name = f"sub-0{number}"
        save(place / f"t1/{name}_T1w.nii.gz", image, affine)
        turned = reorient(Volume(400 - image, affine), np.diag([-1, -1, 1, 1]))
        save(place / f"t2/{name}_T2w.nii.gz", *turned)
        save(place / f"maps/{name}_dseg.nii.gz", labels, affine)
        brain = np.isin(labels, list(LabelTable.ready("synthseg").brain_values))
        save(place / f"masks/{name}_mask.nii.gz", brain.astype(np.uint8), affine)
    (place / "own.yaml").write_text(CONFIG)
    return place


def settings(**changes: Any) -> PairSettings:
    return PairSettings(MM, ScanConfig(), None, 2)._replace(**changes)


def pair_of(folder: Path, labels: str | None = "maps/sub-00_dseg.nii.gz") -> ScanPair:
    first, target = folder / "t2/sub-00_T2w.nii.gz", folder / "t1/sub-00_T1w.nii.gz"
    return ScanPair(first, target, None if labels is None else folder / labels)


class TestFinding:
    def test_contrasts_of_one_person_go_together(self, tmp_path):
        for number in range(2):
            for name in (f"t1/brain{number}_T1w.nii", f"other/brain{number}_flair.nii"):
                save(tmp_path / name, np.zeros((4, 4, 4), np.float32))
        pairs = find_pairs(tmp_path / "other", tmp_path / "t1")
        assert [(p.input.name, p.target.name) for p in pairs] == [
            (f"brain{k}_flair.nii", f"brain{k}_T1w.nii") for k in range(2)
        ]

    def test_a_scan_may_be_its_own_partner(self, folder):
        assert all(p.input == p.target for p in find_pairs(folder / "t1", folder / "t1"))

    def test_label_maps_come_along(self, folder):
        pairs = find_pairs(folder / "t2", folder / "t1", folder / "maps")
        assert [p.labels.name for p in pairs] == [f"sub-0{k}_dseg.nii.gz" for k in range(3)]

    @staticmethod
    def copied(folder, tmp_path, **lacking):
        """The folders, each without the people whose names are given."""
        for place in ("t1", "t2", "maps"):
            (tmp_path / place).mkdir()
            for path in (folder / place).iterdir():
                if not any(name in path.name for name in lacking.get(place, ())):
                    (tmp_path / place / path.name).symlink_to(path)
        return [tmp_path / place for place in ("t2", "t1", "maps")]

    @pytest.mark.parametrize("lacking", ["t1", "t2"])
    def test_scans_without_a_partner_are_left_out(self, folder, tmp_path, lacking):
        places = self.copied(folder, tmp_path, **{lacking: ["sub-01"]})
        pairs = find_pairs(*places)
        assert [p.name for p in pairs] == ["sub-00_T1w.nii.gz", "sub-02_T1w.nii.gz"]
        other = {"t1": "sub-01_T2w.nii.gz", "t2": "sub-01_T1w.nii.gz"}[lacking]
        left = [path.name for path in unused(pairs, *places)]
        assert left == [other, "sub-01_dseg.nii.gz"]
        assert unused(find_pairs(*places[:2]), *places[:2], None) != []

    def test_a_target_without_its_label_map_is_named(self, folder, tmp_path):
        told = r"each target must have a label map in .*maps, got none for sub-01_T1w.nii.gz\."
        with pytest.raises(VolumeError, match=told):
            find_pairs(*self.copied(folder, tmp_path, maps=["sub-01"]))

    def test_strangers_are_no_pairs(self, folder, tmp_path):
        places = self.copied(folder, tmp_path, t1=["sub-00"], t2=["sub-01", "sub-02"])
        told = r"each target must have an input in .*t2, got none for sub-01_T1w.nii.gz, sub-02"
        with pytest.raises(VolumeError, match=told):
            find_pairs(*places)

    def test_a_run_names_the_files_that_it_does_not_use(self, folder, tmp_path):
        inputs, targets, maps = self.copied(folder, tmp_path, t2=["sub-01"])
        (inputs / "other.nii.gz").symlink_to(folder / "t2/sub-01_T2w.nii.gz")
        given = {"inputs": inputs, "targets": targets, "labels": maps}
        notes = RunPlan.from_source(folder / "own.yaml", **given).notes
        why = "that are not used, as no pair has such a name"
        assert notes[:3] == [
            f"inputs {why}: other.nii.gz",
            f"targets {why}: sub-01_T1w.nii.gz",
            f"label maps {why}: sub-01_dseg.nii.gz",
        ]
        mixed = RunPlan.from_source(folder / "own.yaml", ["pairs.share=0.5"], **given)
        assert [note.split()[0] for note in mixed.notes] == ["inputs", "targets"]
        assert maps / "sub-01_dseg.nii.gz" in [subject.labels for subject in mixed.subjects]

    def test_two_inputs_of_one_target_are_named(self, folder, tmp_path):
        for path in (folder / "t2").iterdir():
            for name in (path.name, path.name.replace("T2w", "FLAIR")):
                (tmp_path / name).symlink_to(path)
        told = r"each target must have one input in .*, got sub-00_FLAIR.nii.gz, sub-00_T2w"
        with pytest.raises(VolumeError, match=told):
            find_pairs(tmp_path, folder / "t1")


class TestReading:
    def test_axes_of_the_header_do_not_matter(self, folder, tmp_path):
        image, _, affine = head(0)
        straight = save(tmp_path / "straight.nii.gz", 400 - image, affine)
        first, _ = read_pair(pair_of(folder), settings())
        second, _ = read_pair(ScanPair(straight, *pair_of(folder).paths[1:]), settings())
        assert first.shape == image.shape
        assert torch.equal(first.scan, second.scan)

    def test_thick_slices_are_read_where_they_lie(self, folder, tmp_path):
        image, _, affine = head(0)
        # Intensities are a linear function of the place in the world, whatever the grid.
        slope = np.array([0.3, -0.7, 1.1])
        wide = affine.copy()
        wide[:, 2] *= 3
        wide[:3, 3] -= wide[:3, :3] @ [2, 2, 2]
        shape = (image.shape[0] + 4, image.shape[1] + 4, image.shape[2] // 3 + 5)
        places = wide[:3, :3] @ np.indices(shape).reshape(3, -1) + wide[:3, 3:]
        thick = save(tmp_path / "thick.nii.gz", (slope @ places).reshape(shape), wide)
        entry, _ = read_pair(ScanPair(thick, pair_of(folder).target), settings())
        matrix = entry.affine.numpy()
        points = matrix[:3, :3] @ np.indices(entry.shape).reshape(3, -1) + matrix[:3, 3:]
        expected = (slope @ points).reshape(entry.shape)
        expected = (expected - expected.min()) / np.ptp(expected) * 255
        assert np.abs(entry.scan[0].float().numpy() - expected).max() < 0.3

    def test_white_matter_has_one_intensity(self, folder):
        entry, _ = read_pair(pair_of(folder), settings())
        white = torch.from_numpy(np.isin(head(0)[1], (2, 41)))
        assert float(entry.image[0].float()[white].median()) == pytest.approx(110, abs=1)
        assert float(entry.image.min()) == 0

    @pytest.mark.parametrize("labels", ["masks/sub-00_mask.nii.gz", None])
    def test_without_it_a_percentile_of_brain_or_head_has(self, folder, labels):
        image, own, _ = head(0)
        entry, _ = read_pair(pair_of(folder, labels), settings())
        brain = np.isin(own, list(LabelTable.ready("synthseg").brain_values))
        region = foreground(image) if labels is None else brain
        values = entry.image[0].float().numpy()[region]
        assert np.percentile(values, WHITE_MATTER_PERCENTILE) == pytest.approx(110, abs=0.5)
        assert set(entry.present()) == {0, 2}

    def test_targets_of_another_spacing_are_resampled_if_that_is_asked_for(self, folder):
        pairs = [pair_of(folder)]
        asked = settings_of_pairs(pairs, 8.0, scan=ScanConfig(), label_table="auto")
        (entry,), _ = read_pairs(pairs, asked)
        spacing = np.linalg.norm(entry.affine[:3, :3].numpy(), axis=0)
        assert spacing.tolist() == pytest.approx([8, 8, 8])
        assert entry.scan.shape == entry.image.shape == entry.indices.shape

    def test_several_spacings_are_refused(self, folder, tmp_path):
        image, _, affine = head(0)
        flat = save(tmp_path / "flat.nii.gz", image, affine @ np.diag([1, 1, 1.2, 1]))
        pairs = [pair_of(folder), ScanPair(flat, flat)]
        told = r"one isotropic voxel spacing, got 6 mm and flat.nii.gz \(6 x 6 x 7.2 mm\)\."
        with pytest.raises(SynthSRError, match=told):
            settings_of_pairs(pairs, None, scan=ScanConfig(), label_table="auto")

    def test_what_the_input_does_not_cover_is_empty_in_both(self, folder, tmp_path):
        image, _, affine = head(0)
        part = save(tmp_path / "part.nii.gz", image[:, :, 6:], affine @ shifted(0, 0, 6))
        entry, _ = read_pair(ScanPair(part, pair_of(folder).target), settings())
        for volume in (entry.image, entry.scan, entry.labels()):
            assert not volume[..., :6].any()
            assert volume[..., 6:].any()

    @pytest.mark.parametrize(("change", "told"), [
        (lambda image, affine: (image, affine @ shifted(500, 0, 0)), "but lies elsewhere: "),
        (lambda image, affine: (image[:, :, :8], affine), r"but covers \d+% of it: "),
        (lambda image, affine: (np.full_like(image, np.nan), affine), "finite numbers"),
        (lambda image, affine: (np.ones_like(image), affine), "must show something"),
    ], ids=["elsewhere", "a slab", "NaN", "constant"])  # fmt: skip
    def test_inputs_that_show_nothing_of_the_target_are_refused(
        self, folder, tmp_path, change, told
    ):
        image, _, affine = head(0)
        scan = save(tmp_path / "scan.nii.gz", *change(image, affine))
        with pytest.raises(VolumeError, match=told):
            read_pair(ScanPair(scan, pair_of(folder).target), settings())

    def test_sizes_that_no_affine_explains_are_refused(self, tmp_path):
        image, _, _ = head(0)
        bare = np.diag([MM, MM, MM, 1])
        target = save(tmp_path / "target.nii.gz", image, bare)
        scan = save(tmp_path / "scan.nii.gz", image[:, :-4], bare)
        with pytest.raises(VolumeError, match="their headers hold no places, and their sizes"):
            read_pair(ScanPair(scan, target), settings())

    def test_some_nan_is_replaced_and_told(self, folder, tmp_path):
        image, _, affine = head(0)
        image[3, 4, 5] = np.nan
        scan = save(tmp_path / "scan.nii.gz", image, affine)
        entry, doubts = read_pair(ScanPair(scan, pair_of(folder).target), settings())
        assert bool(torch.isfinite(entry.scan).all())
        assert any("1 voxels" in text and "NaN" in text for text in doubts)

    def test_scans_that_seem_displaced_are_told(self, folder, tmp_path):
        image, _, affine = head(0)
        moved = np.roll(image, image.shape[0] // 2, axis=0)
        scan = save(tmp_path / "scan.nii.gz", moved, affine)
        _, doubts = read_pair(ScanPair(scan, pair_of(folder).target), settings())
        assert any("of their heads in common" in text for text in doubts)


def shifted(*voxels: float) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, 3] = voxels
    return matrix


class TestGenerator:
    @pytest.mark.parametrize("name", sorted({*preset_names()} - {"exam", "segmentation"}))
    def test_the_settings_of_every_preset_are_their_own_result(self, name):
        once, left_out = config_on_scans(load_config(name), labelled=True)
        assert left_out
        assert once.real_target
        assert config_on_scans(once, labelled=True) == (once, [])
        Generator(once)

    @pytest.mark.parametrize("name", ["exam", "segmentation"])
    def test_others_are_refused(self, name):
        with pytest.raises(SynthSRError, match="Choose another preset, such as all_purpose"):
            config_on_scans(load_config(name), labelled=True)

    def test_image_and_target_move_alike(self, folder):
        steps = {
            name: step
            for name, step in load_config(folder / "own.yaml").steps.items()
            if name in ("deformation", "crop", "flip", "rescale")
        }
        config, _ = config_on_scans(GeneratorConfig(steps=steps), labelled=True)
        target = pair_of(folder).target
        entry, _ = read_pair(ScanPair(target, target, pair_of(folder).labels), settings())
        for seed in range(4):
            pair = Generator(config).pair(Bank([entry]).batch([0]), seed=seed)
            assert torch.allclose(pair.image, pair.target, atol=5e-3)  # of half precision

    def test_what_happens_to_the_image_leaves_the_target_alone(self, folder):
        config, left_out = config_on_scans(load_config(folder / "own.yaml"), labelled=True)
        assert left_out == ["mixture", "target"]
        assert config.steps["bias"].params["exclude"] == ["target"]
        entry, _ = read_pair(pair_of(folder), settings())
        spatial = {name: config.steps[name] for name in ("deformation", "crop", "flip", "rescale")}
        plain = Generator(GeneratorConfig(steps=spatial, real_target=True))
        batch = Bank([entry]).batch([0])
        first, second = Generator(config).pair(batch, seed=1), plain.pair(batch, seed=1)
        assert torch.equal(first.target, second.target)
        assert not torch.allclose(first.image, second.image, atol=0.05)

    def test_skull_stripping_needs_labels(self):
        _, left_out = config_on_scans(load_config("all_purpose"), labelled=False)
        assert "skull_stripping" in left_out


@pytest.fixture
def begin(folder: Path, tmp_path: Path) -> Callable[..., TrainingRun]:
    """Starter of runs on the pairs, in `tmp_path`."""

    def go(*assignments: str, name: str = "run", **kwargs: Any) -> TrainingRun:
        scans = {"inputs": folder / "t2", "targets": folder / "t1"}
        return start(folder / "own.yaml", assignments, folder=tmp_path / name, **scans, **kwargs)

    return go


class TestRuns:
    def test_a_run_on_pairs_alone_goes_on_and_is_repeated(
        self, folder, begin, tmp_path, assert_same_run
    ):
        whole = begin(name="whole", labels=folder / "maps")
        whole.fit()
        begin("run.epochs=1", name="half", labels=folder / "maps").fit()
        start(None, ["run.epochs=2"], folder=tmp_path / "half", resume=True).fit()
        assert_same_run(tmp_path / "whole", tmp_path / "half")
        start(tmp_path / "whole/config.yaml", folder=tmp_path / "again").fit()
        assert_same_run(tmp_path / "whole", tmp_path / "again")
        summary = load_model_config(whole.folder.model_path("best")).training
        assert (summary["pairs"], summary["label_maps"]) == (2, 0)

    def test_pairs_are_held_out_and_validated_on(self, begin):
        prepared = begin("validation.held_out=[sub-01_T1w.nii.gz]").prepared
        data = prepared.data()
        data.connect(torch.device("cpu"))
        assert [entry.subject.name for entry in data.fixed.stream.bank.entries] == [
            "sub-01_T1w.nii.gz"
        ]
        assert len(data.stream.bank) == 2

    def test_batches_are_mixed_in_the_share_that_is_asked_for(self, folder, begin):
        prepared = begin("pairs.share=0.25", labels=folder / "maps").prepared
        data = prepared.data()
        data.connect(torch.device("cpu"))
        stream, mixed = data.stream, data.stream.mixed
        assert [entry.scan is None for entry in stream.bank.entries] == [True, True]
        makers = [stream.maker(step)[0] is mixed.generator for step in range(400)]
        assert sum(makers) / 400 == pytest.approx(0.25, abs=0.06)
        for step in (makers.index(True), makers.index(False)):
            generator, bank = stream.maker(step)
            plan = stream.plan(step)
            expected = generator.pair(bank.batch(plan.entries), seed=plan.seed)
            assert torch.equal(stream.pair(step).image, expected.image)
        held_out = data.fixed.stream.bank.entries
        assert len(held_out) == 1
        assert held_out[0].subject.labels not in [e.subject.labels for e in stream.bank.entries]

    def test_the_model_predicts_by_the_command(self, folder, begin, tmp_path):
        begin("run.epochs=1").fit()
        model = tmp_path / "run/models/best.safetensors"
        scan = folder / "t2/sub-00_T2w.nii.gz"
        result = run("predict", scan, tmp_path / "out.nii.gz", "--model", model, "--device", "cpu")
        assert result.exit_code == 0, result.output
        assert (tmp_path / "out.nii.gz").exists()

    @pytest.mark.parametrize(("options", "told"), [
        (["--inputs", "t2"], "inputs and targets must be given together"),
        (["--inputs", "t2", "--targets", "t1", "--set", "pairs.share=0.5"], "needs label maps"),
        (["--inputs", "t2", "--targets", "t1", "--set", "pairs.share=0"], "pairs.share must be"),
        (["--inputs", "t2", "--targets", "t1", "--images", "t1"], "pairs made from label maps"),
        (["--inputs", "t2", "--targets", "t1", "--set", "validation.held_out=3"], "leave pairs"),
    ])  # fmt: skip
    def test_what_cannot_work_is_refused_before_anything_is_written(
        self, folder, tmp_path, monkeypatch, options, told
    ):
        monkeypatch.chdir(folder)
        result = run("train", "own.yaml", *options, "--out", tmp_path / "run", "--device", "cpu")
        assert told in one_error(result)
        assert not (tmp_path / "run").exists()


def test_real_scans_lie_on_their_label_maps():
    """The one check on heads of people, where they are."""
    place = SHARED_DATA / "real" / "paired_heads"
    if not place.is_dir():
        pytest.skip("no real scans here")
    target = place / "sub-01_T1.mgz"
    asked = settings_of_pairs(
        [ScanPair(target, target)], 4.0, scan=ScanConfig(), label_table="auto"
    )
    known, _ = read_pair(ScanPair(target, target, place / "sub-01_aparc+aseg.mgz"), asked)
    alone, _ = read_pair(ScanPair(target, target), asked)
    white = (known.labels() == 2) | (known.labels() == 41)
    levels = [float(entry.image.float()[white].median()) for entry in (known, alone)]
    assert levels[0] == pytest.approx(110, abs=3)
    assert levels[1] == pytest.approx(110, abs=12)
