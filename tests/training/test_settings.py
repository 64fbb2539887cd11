"""Promises of the settings of a run: reading, splitting, fitting, initial weights, model files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from textwrap import indent
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from synthsr_net.losses import LOSSES, build_loss
from synthsr_net.losses.base import crop_sizes
from synthsr_net.metrics.volumes import REGION_MEASURES
from synthsr_net.models.checkpoint import InputConfig, ModelConfig, save_model
from synthsr_net.models.loading import load_weights
from synthsr_net.models.transfer import start_from
from synthsr_net.networks.unet import NORMALISATIONS, UNet3d, UNetConfig
from synthsr_net.training.config import (
    AdversarialConfig,
    Experiment,
    LossConfig,
    ModelSettings,
    OptimiserConfig,
    RunConfig,
    TrainingConfig,
    ValidationConfig,
)
from synthsr_net.training.data.bank import read_bank
from synthsr_net.training.setup.experiment import RunPlan, hold_out, load_experiment
from synthsr_net.training.setup.fitting import (
    ADDED_STEP,
    Fitted,
    check_spacing,
    fit,
    output_shapes,
    padding,
    probe,
)
from synthsr_net.training.setup.model_config import model_config
from synthsr_transforms.generator.config import StepConfig, load_config, preset_names
from synthsr_transforms.generator.generator import Generator
from synthsr_transforms.subjects.files import SubjectFiles
from synthsr_transforms.support.config import to_yaml
from synthsr_transforms.support.messages import SynthSRError

SHAPE = (20, 18, 22)
OWN = """
label_table: freesurfer_aseg
steps:
  crop: {name: PatchCrop, params: {shape: 12}}
  mixture: {name: TissueMixture}
  target: {name: CopyImage}
training:
  network: {num_levels: 2, num_features: 4}
  optimiser:
    learning_rate: 1.0e-3
  run:
    # nothing but a comment
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A configuration of one's own."""
    path = tmp_path / "own.yaml"
    path.write_text(OWN)
    return path


@pytest.fixture
def save_maps(tmp_path: Path, make_labels: Callable) -> Callable[..., list[SubjectFiles]]:
    """Maker of label maps of given shapes and voxel spacings."""

    def save(*shapes: tuple[int, ...], spacings_mm: Sequence[float] = ()) -> list[SubjectFiles]:
        subjects = []
        for k, shape in enumerate(shapes):
            spacing = spacings_mm[k] if spacings_mm else 4.0
            image = nib.Nifti1Image(make_labels(shape, k)[0].numpy(), np.diag([*[spacing] * 3, 1]))
            (tmp_path / "maps").mkdir(exist_ok=True)
            path = tmp_path / "maps" / f"sub-{k}.nii"
            nib.save(image, path)
            subjects.append(SubjectFiles(path))
        return subjects

    return save


@pytest.fixture
def fitted_to(save_maps: Callable, own: Path) -> Callable[..., tuple[Fitted, TrainingConfig]]:
    """Maker of fitted generators for label maps of given shapes."""

    def make(
        *assignments: str, shapes: Sequence[tuple[int, ...]] = (SHAPE,), steps: Any = None
    ) -> tuple[Fitted, TrainingConfig]:
        experiment = load_experiment(own, assignments)
        generator = (
            experiment.generator if steps is None else replace(experiment.generator, steps=steps)
        )
        entries = read_bank(save_maps(*shapes), target="target")
        return fit(generator, experiment.training, entries), experiment.training

    return make


class TestConfig:
    @pytest.mark.parametrize(
        ("kind", "name", "wrong"),
        [
            (OptimiserConfig, "name", "sgd"),
            (OptimiserConfig, "schedule", "linear"),
            (OptimiserConfig, "learning_rate", 0.0),
            (OptimiserConfig, "final_learning_rate_ratio", 1.5),
            (OptimiserConfig, "inverse_time_decay", -1.0),
            (OptimiserConfig, "epsilon", -1.0),
            (OptimiserConfig, "weight_decay", -0.1),
            (OptimiserConfig, "betas", (0.9, 1.0)),
            (OptimiserConfig, "warmup_steps", -1),
            (OptimiserConfig, "clip_norm", 0.0),
            (OptimiserConfig, "accumulate_batches", 0),
            (OptimiserConfig, "ema_decay", 1.0),
            (RunConfig, "epochs", 0),
            (RunConfig, "steps_per_epoch", 0),
            (RunConfig, "batch_size", 0),
            (RunConfig, "seed", -1),
            (RunConfig, "precision", "fp16"),
            (RunConfig, "label_map_memory", "disk"),
            (RunConfig, "save_every_steps", 0),
            (RunConfig, "save_every_minutes", 0.0),
            (RunConfig, "keep_models", -2),
            (ValidationConfig, "every_epochs", -1),
            (ValidationConfig, "samples", 0),
            (ValidationConfig, "previews", -1),
            (ValidationConfig, "seed", -1),
            (ValidationConfig, "slice_spacings_mm", []),
            (ValidationConfig, "slice_spacings_mm", [3.0, 0.0]),
            (ValidationConfig, "metric", "brain/l2"),
            (ValidationConfig, "metric", "real/5mm/brain/ssim"),
            (AdversarialConfig, "weight", 1.0),
            (AdversarialConfig, "gradient_penalty_weight", -1.0),
            (AdversarialConfig, "learning_rate", 0.0),
            (AdversarialConfig, "first_critic_steps", 0),
            (AdversarialConfig, "num_levels", 0),
        ],
    )
    def test_a_wrong_value_is_named(self, kind, name, wrong):
        with pytest.raises(ValueError, match=rf"\w+\.{name} must be .*, got ") as caught:
            kind(**{name: wrong})
        assert str(wrong) in str(caught.value)

    def test_the_metrics_of_validation_are_known(self):
        for name in REGION_MEASURES:
            assert ValidationConfig(metric=name).metric == name
        real = ValidationConfig(images="i", labels="l", metric="real/5mm/brain/dice_wm")
        assert real.slice_spacings_mm[-1] == 5
        with pytest.raises(ValueError, match="must be given together"):
            ValidationConfig(images="i")

    def test_weights_of_losses_leave_something_for_the_image(self):
        segmentation = replace(LossConfig().segmentation, model="a.h5", weight=0.3)
        loss = LossConfig(segmentation=segmentation)
        TrainingConfig(loss=loss, adversarial=AdversarialConfig(weight=0.7))
        with pytest.raises(ValueError, match=r"at most 1 together.*got 0\.8 and 0\.3"):
            TrainingConfig(loss=loss, adversarial=AdversarialConfig(weight=0.8))

    def test_a_critic_does_not_accumulate(self):
        with pytest.raises(
            ValueError, match=r"accumulate_batches must be 1 in adversarial training"
        ):
            TrainingConfig(
                adversarial=AdversarialConfig(weight=0.1),
                optimiser=OptimiserConfig(accumulate_batches=2),
            )

    @pytest.mark.parametrize("mode", ["reduce-overhead", "max-autotune"])
    def test_a_recorded_step_has_no_critic_and_does_not_accumulate(self, mode):
        run = RunConfig(compile=mode)
        TrainingConfig(run=run)
        with pytest.raises(ValueError, match=r"run.compile must be true or false with a critic"):
            TrainingConfig(run=run, optimiser=OptimiserConfig(accumulate_batches=2))
        with pytest.raises(ValueError, match=r"run.compile must be true or false with a critic"):
            TrainingConfig(run=run, adversarial=AdversarialConfig(weight=0.1))

    @pytest.mark.parametrize("name", NORMALISATIONS)
    def test_features_are_padded_where_zeros_change_nothing(self, name):
        sections = {
            "network": UNetConfig(normalisation=name),
            "run": RunConfig(feature_multiple=32),
        }
        if name in ("instance", "none"):
            assert TrainingConfig(**sections).run.feature_multiple == 32
        else:
            with pytest.raises(ValueError, match=f"feature_multiple must be 1 .* {name}, whose"):
                TrainingConfig(**sections)

    @pytest.mark.parametrize("wrong", ["fast", None, 2, ["reduce-overhead"]])
    def test_compilation_is_a_wish_or_a_mode(self, wrong):
        with pytest.raises(ValueError, match=r"run.compile must be true, false or one of default"):
            RunConfig(compile=wrong)

    @pytest.mark.parametrize("value", [None, 0, [0, 0, 0]])
    def test_no_size_means_all(self, value):
        assert crop_sizes(value, "loss.crop") == (0, 0, 0)

    def test_a_size_is_one_number_or_three(self):
        assert crop_sizes(8, "loss.crop") == (8, 8, 8)
        assert crop_sizes([8, 0, 4], "loss.crop") == (8, 0, 4)
        for wrong in ([1, 2], "abc", [1.5, 2, 3], -4, [8, -1, 4], True):
            with pytest.raises(ValueError, match=r"loss\.crop must be a whole number of voxels"):
                crop_sizes(wrong, "loss.crop")


class TestRecipe:
    @pytest.mark.parametrize("name", preset_names())
    def test_settings_survive_their_file(self, name, tmp_path):
        experiment = load_experiment(name, ["run.epochs=3", "loss.crop=[64, 32, 16]"])
        (tmp_path / "training.yaml").write_text(
            f"{to_yaml(experiment.generator)}training:\n"
            + "".join(f"  {line}\n" for line in to_yaml(experiment.training).splitlines())
        )
        again = load_experiment(tmp_path / "training.yaml")
        assert again.training == experiment.training
        assert again.generator.steps == experiment.generator.steps

    def test_what_is_left_out_has_defaults(self, own):
        training = load_experiment(own).training
        assert training.run == RunConfig()
        assert training.optimiser == OptimiserConfig(learning_rate=1e-3)
        assert training.network == UNetConfig(num_levels=2, num_features=4)

    def test_the_network_takes_the_architecture_of_its_weights(self, own, tmp_path):
        theirs = UNetConfig(out_channels=2, num_levels=3, num_features=6, activation="relu")
        path = tmp_path / "theirs.safetensors"
        save_model(path, ModelConfig(name="a", network=theirs), UNet3d(theirs).state_dict())
        weights = [f"initial_weights={path}"]
        own.write_text(OWN.replace("num_levels: 2, ", ""))
        expected = replace(theirs, out_channels=1, num_features=4)
        assert load_experiment(own, weights).training.network == expected
        chosen = load_experiment(own, [*weights, "network.activation=gelu"]).training.network
        assert chosen == replace(expected, activation="gelu")

    def test_recorded_settings_need_no_initial_weights(self, own, tmp_path):
        training = load_experiment(own).training
        lost = to_yaml(replace(training, initial_weights=str(tmp_path / "lost.safetensors")))
        own.write_text(OWN.partition("training:")[0] + "training:\n" + indent(lost, "  "))
        assert load_experiment(own).training.network == training.network

    def test_assignments_go_to_training_or_generator(self, own):
        assignments = ["crop.shape=8", "run.seed=4", "training.run.epochs=2", "label_table=auto"]
        experiment = load_experiment(own, assignments)
        assert experiment.generator == load_config(own, [assignments[0], assignments[3]])
        assert experiment.training.run == RunConfig(seed=4, epochs=2)

    @pytest.mark.parametrize(
        ("assignment", "offered"),
        [
            ("optimser.learning_rate=1", "did you mean 'optimiser'?"),
            ("optimiser.learnin_rate=1", "did you mean 'learning_rate'?"),
            ("loss.segmentation.modle=a", "did you mean 'model'?"),
            ("model.scan.spacin=1", "did you mean 'spacing_mm'?"),
            ("network.num_level=1", "did you mean 'num_levels'?"),
            ("corp.shape=8", "did you mean 'crop'?"),
            ("crop.shap=8", "did you mean 'shape'?"),
            ("loss=l2", "such as loss.name, got 'l2'"),
            ("run.epochs=many", "run.epochs"),
            ("run.epochs", "name=value"),
        ],
    )
    def test_a_mistake_is_told_with_the_nearest_spelling(self, own, assignment, offered):
        with pytest.raises(SynthSRError) as caught:
            Generator(load_experiment(own, [assignment]).generator)
        assert offered in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_a_section_in_a_file_is_checked_as_well(self, own):
        own.write_text(OWN.replace("learning_rate", "learnig_rate"))
        with pytest.raises(SynthSRError, match=r"'training\.optimiser\.learnig_rate' \(did you"):
            load_experiment(own)
        own.write_text(OWN.split("training:")[0] + "training: 5\n")
        with pytest.raises(SynthSRError, match=r"training must hold settings, such as .*, got 5"):
            load_experiment(own)


SUBJECTS = [SubjectFiles(Path(f"sub-{n:02}.nii")) for n in range(10)]


class TestHoldingOut:
    @pytest.mark.parametrize(
        ("wish", "number"), [(0, 0), (0.1, 1), (0.19, 1), (0.35, 3), (1, 1), (9, 9), (4.0, 4)]
    )
    def test_every_case_is_on_one_side(self, wish, number):
        rest, held = hold_out(SUBJECTS, wish, seed=0)
        assert len(held) == number
        assert sorted([*rest, *held], key=str) == SUBJECTS

    def test_the_choice_follows_from_the_seed(self):
        choices = [tuple(hold_out(SUBJECTS, 3, seed)[1]) for seed in (0, 0, 1, 2, 3)]
        assert choices[0] == choices[1]
        assert len(set(choices)) > 2

    def test_cases_are_named(self):
        _, held = hold_out(SUBJECTS, ["sub-07.nii", "sub-02.nii"], seed=0)
        assert {subject.labels.name for subject in held} == {"sub-07.nii", "sub-02.nii"}

    @pytest.mark.parametrize("wish", [10, 12, 1.0e9, [f"sub-{n:02}.nii" for n in range(10)]])
    def test_something_is_left_for_training(self, wish):
        with pytest.raises(SynthSRError, match=r"held_out must leave label maps for training"):
            hold_out(SUBJECTS, wish, seed=0)

    @pytest.mark.parametrize("wish", [-1, -0.1, 1.5, "sub-01.nii", None, True])
    def test_a_wish_must_be_a_ratio_a_number_or_names(self, wish):
        with pytest.raises(SynthSRError, match=r"held_out must be a ratio below 1"):
            hold_out(SUBJECTS, wish, seed=0)

    def test_an_unknown_name_is_told(self):
        with pytest.raises(SynthSRError, match=r"got sub-11.nii, which is not among sub-00.nii"):
            hold_out(SUBJECTS, ["sub-11.nii"], seed=0)


class TestPlan:
    def test_label_maps_of_a_folder_are_shared_out(self, own, save_maps):
        subjects = save_maps(*[SHAPE] * 3)
        plan = RunPlan.from_source(own, ["validation.held_out=1"], labels=subjects[0].labels.parent)
        assert (len(plan.subjects), len(plan.held_out)) == (2, 1)
        assert {*plan.subjects, *plan.held_out} == set(subjects)

    def test_real_targets_need_images_and_others_none(self, own, save_maps, tmp_path):
        labels = save_maps(SHAPE)[0].labels.parent
        with pytest.raises(SynthSRError, match="real targets need an image"):
            RunPlan.from_source(own, ["real_target=true"], labels=labels)
        (tmp_path / "images").mkdir()
        (tmp_path / "images" / "sub-0.nii").write_bytes((labels / "sub-0.nii").read_bytes() + b" ")
        with pytest.raises(SynthSRError, match="images serve generators with a real target"):
            RunPlan.from_source(own, labels=labels, images=tmp_path / "images")
        with pytest.raises(SynthSRError, match="images need label maps"):
            RunPlan.from_source(own, ["real_target=true"], images=tmp_path / "images")

    def test_a_run_brings_its_label_maps_along(self, own, save_maps, tmp_path):
        subjects = save_maps(*[SHAPE] * 4)
        sources = [f"  - labels: {subject.labels}\n" for subject in subjects]
        job = f"job:\n  sources:\n{''.join(sources[:3])}"
        held = f"  validation: {{held_out: 1}}\n  validation_sources:\n{sources[3]}"
        (tmp_path / "run.yaml").write_text(OWN.lstrip() + held + job)
        plan = RunPlan.from_source(tmp_path / "run.yaml")
        assert (plan.subjects, plan.held_out) == (subjects[:3], subjects[3:])
        plan = RunPlan.from_source(tmp_path / "run.yaml", ["validation.held_out=2"])
        assert (plan.subjects, plan.held_out) == hold_out(subjects, 2, seed=0)
        (tmp_path / "job.yaml").write_text(OWN.split("training:")[0] + job)
        plan = RunPlan.from_source(tmp_path / "job.yaml", ["validation.held_out=1"])
        assert (plan.subjects, plan.held_out) == hold_out(subjects[:3], 1, seed=0)

    def test_steps_are_built_before_label_maps_are_read(self, own, tmp_path):
        (tmp_path / "broken.nii").write_bytes(b"no label map")
        with pytest.raises(SynthSRError, match="step 'crop'"):
            RunPlan.from_source(own, ["crop.shape=[1, 2]"], labels=tmp_path / "broken.nii")


class TestFitting:
    def test_a_patch_that_fits_stays(self, fitted_to):
        fitted, _ = fitted_to()
        assert fitted.notes == []
        assert output_shapes(fitted) == {(12, 12, 12)}
        assert fitted.entries[0].shape == SHAPE

    @pytest.mark.parametrize(("levels", "size"), [(1, 13), (2, 12), (3, 12), (4, 8)])
    def test_a_patch_is_rounded_down_and_that_is_said(self, fitted_to, levels, size):
        sets = (f"network.num_levels={levels}", "crop.shape=13", "network.normalisation=group")
        fitted, training = fitted_to(*sets)
        assert output_shapes(fitted) == {(size,) * 3}
        assert probe(fitted, training).image.shape[2:] == (size,) * 3
        told = f"patches of 13 x 13 x 13 voxels become {size} x {size} x {size}"
        assert [told in note for note in fitted.notes] == [True] * (size != 13)

    @pytest.mark.parametrize("first", [False, True])
    def test_whole_label_maps_are_cropped_after_the_deformation(self, fitted_to, first):
        steps = {
            **({"warp": StepConfig(name="SpatialDeformation")} if first else {}),
            "mixture": StepConfig(name="TissueMixture"),
            "target": StepConfig(name="CopyImage"),
        }
        shapes = [(20, 18, 22), (17, 16, 24)]
        fitted, training = fitted_to("network.num_levels=3", steps=steps, shapes=shapes)
        assert list(fitted.generator.config.steps).index(ADDED_STEP) == int(first)
        assert output_shapes(fitted) == {(20, 16, 20), (16, 16, 24)}
        assert probe(fitted, training).target.shape[2:] == (20, 16, 20)
        assert fitted.notes == ["label maps are cropped to sizes that are multiples of 4"]

    def test_whole_label_maps_that_fit_are_left_alone(self, fitted_to):
        steps = {
            "mixture": StepConfig(name="TissueMixture"),
            "target": StepConfig(name="CopyImage"),
        }
        fitted, training = fitted_to(steps=steps, shapes=[(20, 18, 22)])
        assert (fitted.notes, list(fitted.generator.config.steps)) == ([], list(steps))
        assert probe(fitted, training).image.shape[2:] == (20, 18, 22)

    def test_a_patch_larger_than_a_label_map_is_refused_with_two_ways_out(self, fitted_to):
        shapes = [(30, 30, 30), (20, 18, 22)]
        with pytest.raises(SynthSRError, match=r"crop\.shape must be at most .*sub-1") as caught:
            fitted_to("crop.shape=24", shapes=shapes)
        assert "--set crop.shape=18 or less" in str(caught.value)
        assert "--set loss.padding_voxels=3" in str(caught.value)
        fitted_to("crop.shape=18", shapes=shapes)
        fitted_to("crop.shape=24", "loss.padding_voxels=3", shapes=shapes)
        for less in (1, 2):
            with pytest.raises(SynthSRError, match=r"loss\.padding_voxels=3\."):
                fitted_to("crop.shape=24", f"loss.padding_voxels={less}", shapes=shapes)

    @pytest.mark.parametrize("size", [3, [12, 12, 7]])
    def test_a_patch_below_the_divisor_is_refused(self, fitted_to, size):
        with pytest.raises(SynthSRError, match=r"crop\.shape must be at least 8, the multiple"):
            fitted_to("network.num_levels=4", f"crop.shape={size}")

    def test_batch_normalisation_needs_more_than_a_voxel(self, fitted_to):
        fitted, training = fitted_to("network.num_levels=3", "crop.shape=4")
        with pytest.raises(SynthSRError, match="batch normalisation needs more than one voxel"):
            probe(fitted, training)
        two = replace(training, run=RunConfig(batch_size=2))
        group = replace(training, network=replace(training.network, normalisation="group"))
        for good in (two, group):
            assert probe(fitted, good).image.shape[2:] == (4, 4, 4)

    @pytest.mark.parametrize(
        ("patch", "crop", "given", "margin"),
        [
            (12, None, None, (0, 0, 0)),
            (12, 8, None, (2, 2, 2)),
            (12, [6, 0, 7], None, (3, 0, 2)),
            (12, 8, 0, (0, 0, 0)),
            (12, 8, [1, 2, 3], (1, 2, 3)),
            (None, 8, None, (0, 0, 0)),
        ],
    )
    def test_padding_is_half_of_what_the_loss_leaves_out(self, patch, crop, given, margin):
        loss = LossConfig(crop=crop, padding_voxels=given)
        shape = None if patch is None else (patch,) * 3
        assert padding(TrainingConfig(loss=loss), shape) == margin

    def test_padded_label_maps_let_the_box_reach_every_voxel(self, fitted_to):
        fitted, _ = fitted_to("loss.crop=8", "network.num_levels=1")
        assert fitted.notes == ["label maps are padded by 2 x 2 x 2 voxels"]
        (entry,) = fitted.entries
        assert entry.shape == tuple(n + 4 for n in SHAPE)
        starts = [range(n - 12 + 1) for n in entry.shape]
        reached = [{s + 2 + k for s in axis for k in range(8)} for axis in starts]
        assert [min(r) for r in reached] == [2, 2, 2]
        assert [max(r) + 1 for r in reached] == [n - 2 for n in entry.shape]

    def test_label_maps_of_batches_get_one_shape(self, fitted_to):
        shapes = [(20, 18, 22), (16, 24, 20)]
        fitted, _ = fitted_to("run.batch_size=2", shapes=shapes)
        assert {entry.shape for entry in fitted.entries} == {(20, 24, 22)}
        assert fitted.notes == ["label maps are padded to 20 x 24 x 22 voxels, for batches"]
        assert {entry.shape for entry in fitted_to(shapes=shapes)[0].entries} == set(shapes)

    def test_label_maps_of_several_spacings_are_refused(self, save_maps):
        entries = read_bank(save_maps(*[SHAPE] * 3, spacings_mm=[4, 4.1, 5]), target="target")
        assert check_spacing(entries[:2]) == 4
        with pytest.raises(SynthSRError, match=r"one isotropic .*4 to 5 mm \(sub-2\.nii\)"):
            check_spacing(entries)

    def test_batches_that_are_resampled_need_one_spacing(self, save_maps, own):
        entries = read_bank(save_maps(*[SHAPE] * 2, spacings_mm=[4, 4.1]), target="target")
        experiment = load_experiment(own, ["run.batch_size=2"])
        fit(experiment.generator, experiment.training, entries)
        resample = StepConfig(
            name="TargetResolution", params={"spacing_mm": 6, "include": ["target"]}
        )
        steps = {**experiment.generator.steps, "resample": resample}
        with pytest.raises(SynthSRError, match="need label maps of one voxel spacing"):
            fit(replace(experiment.generator, steps=steps), experiment.training, entries)

    def test_labels_that_the_table_lacks_are_named(self, save_maps, own):
        entries = read_bank(save_maps(SHAPE), target="target")
        experiment = load_experiment(own, ["label_table=synthseg"])
        with pytest.raises(SynthSRError, match=r"lacks labels of the label maps: 31, 63"):
            fit(experiment.generator, experiment.training, entries)

    def test_a_target_is_real_or_made(self, fitted_to):
        with pytest.raises(SynthSRError, match=r"got both: .* step 'target' makes 'target'"):
            fitted_to("real_target=true")
        fitted, training = fitted_to(steps={"mixture": StepConfig(name="TissueMixture")})
        with pytest.raises(SynthSRError, match="must make an image 'target'"):
            probe(fitted, training)

    def test_input_and_target_must_have_one_size(self, fitted_to, own):
        steps = dict(load_config(own).steps)
        steps["coarse"] = StepConfig(
            name="TargetResolution", params={"spacing_mm": 8, "include": ["target"]}
        )
        fitted, training = fitted_to(steps=steps)
        with pytest.raises(SynthSRError, match="one size, got 12 x 12 x 12 and 6 x 6 x 6"):
            probe(fitted, training)


class TestInitialWeights:
    CONFIG = UNetConfig(num_levels=2, num_features=4, in_channels=2, out_channels=2)

    @pytest.fixture
    def source(self, tmp_path: Path) -> Callable[..., tuple[Path, UNet3d]]:
        """Maker of model files."""

        def make(**changes: Any) -> tuple[Path, UNet3d]:
            config = replace(self.CONFIG, **changes)
            torch.manual_seed(5)
            network = UNet3d(config)
            with torch.no_grad():
                for tensor in network.state_dict().values():
                    if tensor.is_floating_point():
                        tensor += torch.rand_like(tensor)
            path = tmp_path / "first.safetensors"
            model = ModelConfig(network=config, inputs=inputs(config.in_channels))
            save_model(path, model, network.state_dict())
            return path, network

        return make

    def test_the_same_architecture_gives_the_same_network(self, source):
        path, other = source()
        network = UNet3d(self.CONFIG)
        assert start_from(network, path) == []
        own, theirs = network.state_dict(), other.state_dict()
        assert all(torch.equal(own[name], theirs[name]) for name in own)
        assert load_weights(path)[0] == self.CONFIG

    @pytest.mark.parametrize("count", [1, 3])
    def test_shared_input_channels_are_taken(self, source, count):
        path, other = source(in_channels=count)
        network = UNet3d(self.CONFIG)
        before = network.encoder[0].convs[0].weight.detach().clone()
        (note,) = start_from(network, path)
        name = "encoder.0.convs.0.weight"
        own, theirs = network.state_dict(), other.state_dict()
        shared = min(count, 2)
        assert torch.equal(own[name][:, :shared], theirs[name][:, :shared])
        assert torch.equal(own[name][:, shared:], before[:, shared:])
        assert note == f"{name} is new from input channel {shared} on"
        assert all(torch.equal(own[key], theirs[key]) for key in own if key != name)

    @pytest.mark.parametrize("count", [1, 3])
    def test_shared_output_channels_are_taken(self, source, count):
        path, other = source(out_channels=count)
        network = UNet3d(self.CONFIG)
        before = network.head.weight.detach().clone()
        notes = start_from(network, path)
        shared = min(count, 2)
        assert torch.equal(network.head.weight[:shared], other.head.weight[:shared])
        assert torch.equal(network.head.weight[shared:], before[shared:])
        assert [note.split()[0] for note in notes] == ["head.weight", "head.bias"]

    def test_the_output_layer_of_a_segmentation_network_is_left(self, source):
        path, _ = source(softmax=True)
        network = UNet3d(self.CONFIG)
        before = network.head.weight.detach().clone()
        assert start_from(network, path) == ["head.weight is new", "head.bias is new"]
        assert torch.equal(network.head.weight, before)

    @pytest.mark.parametrize("kind", ["instance", "group", "none"])
    def test_other_normalisations_share_what_they_have(self, source, kind):
        path, other = source(normalisation=kind)
        network = UNet3d(self.CONFIG)
        notes = start_from(network, path)
        assert torch.equal(network.head.weight, other.head.weight)
        assert any("running_mean is new" in note for note in notes)
        assert any("norm.weight is new" in note for note in notes) == (kind == "none")
        if kind != "none":
            assert torch.equal(network.encoder[0].norm.weight, other.encoder[0].norm.weight)

    @pytest.mark.parametrize(
        ("name", "value"),
        [("num_levels", 3), ("num_features", 5), ("kernel_size", 1), ("activation", "relu")],
    )
    def test_another_architecture_is_refused_with_the_way_out(self, source, name, value):
        path, _ = source(**{name: value})
        with pytest.raises(ValueError, match=rf"network with {name} .*--set network\.{name}="):
            start_from(UNet3d(self.CONFIG), path)

    def test_a_file_that_is_none_is_refused(self, tmp_path):
        with pytest.raises(ValueError, match="does not exist"):
            start_from(UNet3d(self.CONFIG), tmp_path / "none.safetensors")


def inputs(count: int) -> list[InputConfig]:
    return [InputConfig(name=f"image_{n}") for n in range(count)]


class TestModelConfig:
    def config(self, experiment: Experiment, channels: int, outputs: int = 1) -> ModelConfig:
        network = replace(experiment.training.network, in_channels=channels, out_channels=outputs)
        return model_config(
            Generator(experiment.generator),
            experiment.training,
            network,
            spacing_mm=1.0,
            folder_name="run7",
            num_maps=3,
        )

    def test_the_run_decides_how_scans_are_read(self, own):
        model = self.config(load_experiment(own), 1)
        assert model.name == "run7"
        assert (model.scan.spacing_mm, model.scan.divisor) == (1.0, 4)
        assert (model.scan.residual_input, model.scan.output_range) == (None, (0.0, 255.0))
        assert [image.name for image in model.inputs] == ["image"]
        assert model.training["label_maps"] == 3

    def test_a_resampled_target_gives_its_spacing(self):
        assert self.config(load_experiment("tutorial_2_sr_synthetic"), 2).scan.spacing_mm == 1.5
        with pytest.raises(SynthSRError, match="one spacing along all axes"):
            self.config(
                load_experiment(
                    "tutorial_2_sr_synthetic", ["target_resolution.spacing_mm=[1, 1, 2]"]
                ),
                2,
            )

    def test_reliability_maps_belong_to_their_images(self):
        model = self.config(load_experiment("hyperfine"), 4)
        assert [image.reliability_map for image in model.inputs] == [True, True]
        assert [image.name for image in model.inputs] == ["T1", "T2"]
        assert model.scan.residual_input == 0
        assert model.scan.output_range is None
        assert model.num_channels == 4

    def test_the_second_image_can_be_the_base(self):
        experiment = load_experiment("hyperfine", ["loss.residual_channels=[1]"])
        assert self.config(experiment, 4).scan.residual_input == 1

    @pytest.mark.parametrize("loss", sorted(LOSSES))
    def test_a_loss_with_spreads_says_so(self, own, loss):
        experiment = load_experiment(own, [f"loss.name={loss}"])
        outputs = build_loss(loss).outputs_per_target
        assert self.config(experiment, 1, outputs).spread == (outputs == 2)

    def test_what_the_user_says_is_told(self, own):
        settings = ModelSettings(
            name="mine",
            description="d",
            citation="c",
            licence="MIT",
            inputs=["CT"],
            contrasts=["CT"],
        )
        experiment = load_experiment(own)
        experiment = replace(experiment, training=replace(experiment.training, model=settings))
        model = self.config(experiment, 1)
        for name in ("name", "description", "citation", "licence"):
            assert getattr(model, name) == getattr(settings, name)
        assert (model.inputs[0].name, model.inputs[0].contrast) == ("CT", "CT")

    @pytest.mark.parametrize("name", ["inputs", "contrasts"])
    def test_another_number_of_images_is_refused(self, own, name):
        experiment = load_experiment(own, [f"model.{name}=[a, b]"])
        with pytest.raises(SynthSRError, match=rf"model\.{name} must name the 1 images"):
            self.config(experiment, 1)
