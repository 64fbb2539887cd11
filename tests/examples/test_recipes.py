"""Recipes run as they stand in `examples/recipes`, and do what they say."""

from __future__ import annotations

import os
import re
import runpy
import socket
import subprocess
import sys
import types
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from helpers import (
    ROOT,
)
from nibabel.processing import resample_from_to

from synthsr_net import Predictor
from synthsr_net.training.callbacks.metrics_file import MetricsFile
from synthsr_transforms.phantom import head_phantom
from synthsr_transforms.transforms.base import registered_transforms

RECIPES = ROOT / "examples" / "recipes"
DOCS = RECIPES.parents[1] / "docs"
MODULES_OF_NNUNET = (
    "batchgeneratorsv2.transforms.base.basic_transform",
    "nnunetv2.training.nnUNetTrainer.nnUNetTrainer",
)

Run = Callable[..., str]


@pytest.fixture
def recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """Run a recipe in an empty folder, and return what it prints."""
    monkeypatch.chdir(tmp_path)
    states = torch.get_rng_state()

    def run(name: str, *arguments: object) -> str:
        path = RECIPES / f"{name}.py"
        monkeypatch.setattr("sys.argv", [str(path), *map(str, arguments)])
        runpy.run_path(str(path), run_name="__main__")
        return capsys.readouterr().out

    yield run
    torch.set_rng_state(states)


def test_every_transform_is_applied_to_a_scan(recipe, tmp_path):
    lines = recipe("transforms_on_a_scan", "out").splitlines()
    names = {line.partition(":")[0] for line in lines}
    library = {
        name for name, cls in registered_transforms().items() if cls.__module__.startswith("synth")
    }
    assert names == library
    unchanged = [line for line in lines if "nothing" in line]
    assert unchanged == ["AcquisitionResolution: nothing but metadata"]
    for name in library - {"AcquisitionResolution"}:
        assert list((tmp_path / "out").glob(f"{name}_*.nii.gz"))


def test_files_of_ones_own_go_through_every_transform(recipe, tmp_path):
    labels = head_phantom(spacing_mm=6)
    labels.save(tmp_path / "aseg.nii.gz")
    scan = nib.Nifti1Image(labels.data[0].numpy().astype(np.float32), labels.affine.data.numpy())
    nib.save(scan, tmp_path / "T1w.nii.gz")
    recipe("transforms_on_a_scan", "out", "T1w.nii.gz", "aseg.nii.gz")
    shifted = nib.load(tmp_path / "out" / "BiasCorruption_image.nii.gz")
    assert shifted.shape == scan.shape
    np.testing.assert_allclose(shifted.affine, scan.affine, atol=1e-5)


def test_plain_tensors(recipe):
    assert recipe("plain_tensors").splitlines() == [
        "image (4, 1, 48, 48, 48) torch.float32, mask torch.int16 [0, 1]",
        "the same again: True",
        "gradient (4, 1, 48, 48, 48)",
    ]


def test_torchio(recipe):
    lines = recipe("torchio_queue").splitlines()
    assert [line.partition(" (")[0] for line in lines if "history" not in line] == [
        *["whole heads"] * 2,
        *["patches"] * 2,
    ]
    assert lines[-1] == "patches (4, 1, 24, 24, 24)"


def test_monai(recipe):
    pytest.importorskip("monai")
    lines = recipe("monai_pipeline").splitlines()
    assert lines[0] == "MetaTensor (2, 1, 32, 32, 32), voxels of [3.0, 3.0, 3.0] mm"
    assert lines[1].endswith("all whole: True")
    assert lines[-1].startswith("MetaTensor on ")


def test_fine_tuning_starts_from_the_shipped_model_and_predicts(recipe, tmp_path):
    small = ("run.epochs=1", "run.steps_per_epoch=1", "validation.samples=1")
    maps = tmp_path / "maps"
    maps.mkdir()
    for person in range(2):
        head_phantom(spacing_mm=5, seed=person).save(maps / f"head_{person}.nii.gz")
    out = recipe("fine_tune", "tuned", maps, *small)
    assert out.splitlines()[-1] == f"Wrote {Path('tuned/prediction.nii.gz')}"
    assert np.isfinite(np.asarray(nib.load("tuned/prediction.nii.gz").dataobj)).all()
    before, after = (weights_of(model) for model in ("fast", "tuned/run/models/best.safetensors"))
    assert {name: w.shape for name, w in after.items()} == {n: w.shape for n, w in before.items()}
    moved = max(float((after[name] - before[name]).abs().max()) for name in before)
    assert 0 < moved < 1e-3


def weights_of(model: str) -> dict[str, torch.Tensor]:
    from synthsr_net import load_model

    return load_model(model).network.state_dict()


def test_evaluation_finds_thin_slices_better_than_thick_ones(recipe, tmp_path):
    head, *rows = (line.split("\t") for line in recipe("evaluate_predictions", "out").splitlines())
    assert [row[0] for row in rows] == ["slices_4mm", "slices_9mm"]
    for column in range(1, len(head)):
        assert float(rows[0][column]) > float(rows[1][column])
    assert (tmp_path / "out" / "report_slices_4mm" / "report.html").exists()


# nnU-Net -----------------------------------------------------------------------------------------


class StandIn:
    """What the recipe uses of nnU-Net's trainer."""

    enable_deep_supervision = True
    device = torch.device("cpu")
    configuration_manager = types.SimpleNamespace(patch_size=[16, 12, 20])

    @staticmethod
    def get_validation_transforms(deep_supervision_scales: Any, **labels: Any) -> Any:
        return deep_supervision_scales, labels

    def _get_deep_supervision_scales(self) -> list[list[float]]:
        return [[1, 1, 1], [0.5, 0.5, 0.5]]

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        return batch


@pytest.fixture
def nnunet(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """The module `synthsr_trainer`, with stand-ins for what is not installed of nnU-Net."""
    basic, trainer = (types.ModuleType(name) for name in MODULES_OF_NNUNET)
    basic.BasicTransform, trainer.nnUNetTrainer = object, StandIn
    try:
        import nnunetv2.training.nnUNetTrainer.nnUNetTrainer  # noqa: F401
    except ImportError:
        for module in (basic, trainer):
            parts = module.__name__.split(".")
            for k in range(1, len(parts)):
                name = ".".join(parts[:k])
                monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
            monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.syspath_prepend(RECIPES / "nnunet")
    import synthsr_trainer

    yield synthsr_trainer
    for name in ("synthsr_trainer", "synthsr_augmentation"):
        sys.modules.pop(name, None)


def pair(shape: tuple[int, int, int], size: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """A ball off the centre, as an image and as labels."""
    axes = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in shape), indexing="ij")
    ball = ((axes[0] - 0.2) ** 2 + axes[1] ** 2 + axes[2] ** 2 < 0.3).short()
    labels = ball.expand(size, 1, *shape)
    return labels.float() * 3 - 1, labels


def test_the_augmentation_of_nnunet_prints_its_shapes(recipe):
    lines = recipe("nnunet/synthsr_augmentation").splitlines()
    assert lines[0].startswith("image (2, 1, 48, 48, 48), mean ")
    assert lines[1] == "labels (2, 1, 48, 48, 48) torch.int16, values [0, 1]"


def test_patches_of_nnunet_are_those_in_the_middle_and_labels_follow_the_image(nnunet):
    image, labels = pair((30, 26, 34))
    torch.manual_seed(0)
    changed, followed = nnunet.augment(image, labels, (16, 12, 20))
    assert changed.shape == followed.shape == (2, 1, 16, 12, 20)
    assert followed.dtype == labels.dtype
    inside, outside = (changed[followed == value].mean() for value in (1, 0))
    assert inside > outside + 1
    assert not changed[0].equal(changed[1])
    torch.testing.assert_close(changed.mean((2, 3, 4)), image.mean((2, 3, 4)), atol=1e-4, rtol=0)
    torch.testing.assert_close(changed.std((2, 3, 4)), image.std((2, 3, 4)), atol=1e-4, rtol=0)


def test_an_undeformed_patch_of_nnunet_is_the_middle_but_for_mirroring(nnunet, monkeypatch):
    augmentation = sys.modules["synthsr_augmentation"]
    monkeypatch.setattr(augmentation, "GEOMETRY", {})
    image, labels = pair((30, 26, 34), size=1)
    _, followed = nnunet.augment(image, labels, (16, 12, 20))
    middle = labels[:, :, 7:23, 7:19, 7:27]
    mirrors = [axes for n in range(4) for axes in combinations((2, 3, 4), n)]
    assert any(torch.equal(followed.flip(axes), middle) for axes in mirrors)


def test_the_trainer_augments_before_it_trains(nnunet, monkeypatch):
    trainer = nnunet.SynthSRTrainer
    monkeypatch.setattr(trainer.__base__, "train_step", StandIn.train_step)
    own = trainer.__new__(trainer)
    for name in ("enable_deep_supervision", "device", "configuration_manager"):
        setattr(own, name, getattr(StandIn, name))
    own._get_deep_supervision_scales = StandIn()._get_deep_supervision_scales
    image, labels = pair((30, 26, 34))
    batch = trainer.train_step(own, {"data": image, "target": labels})
    assert batch["data"].shape == (2, 1, 16, 12, 20)
    whole, half = batch["target"]
    assert (whole.shape, half.shape) == ((2, 1, 16, 12, 20), (2, 1, 8, 6, 10))
    assert whole.dtype == half.dtype == labels.dtype
    assert not batch["data"].requires_grad


def test_the_trainer_refuses_what_it_does_not_cover(nnunet):
    for patch, flat, masks in (((64, 64), False, None), ((8, 64, 64), True, None)):
        with pytest.raises(NotImplementedError, match="three dimensions"):
            nnunet.SynthSRTrainer.get_training_transforms(patch, None, None, None, flat, masks)
    with pytest.raises(NotImplementedError, match="without masks"):
        nnunet.SynthSRTrainer.get_training_transforms((64,) * 3, None, None, None, False, [True])


def test_the_transform_for_batchgenerators_takes_and_gives_its_dictionary(nnunet):
    image, labels = pair((30, 26, 34), size=1)
    transform = nnunet.SynthSRAugmentation([16, 12, 20])
    given = {"image": image[0], "segmentation": labels[0], "name": "head"}
    made = transform.apply(given)
    assert made["image"].shape == made["segmentation"].shape == (1, 16, 12, 20)
    assert made["name"] == "head"


# Registration ------------------------------------------------------------------------------------


@pytest.fixture
def ants(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """Stand-in for antspyx, whose registrations leave everything where it is."""
    module = types.ModuleType("ants")
    module.calls = []

    def registration(fixed: Any, moving: Any, **settings: Any) -> dict[str, Any]:
        module.calls.append((fixed.get_filename(), moving.get_filename(), settings))
        return {"fwdtransforms": []}

    def apply_transforms(grid: Any, labels: Any, transforms: Any, interpolator: str) -> Any:
        assert interpolator == "nearestNeighbor"
        moved = resample_from_to(labels, grid, order=0)
        moved.numpy = lambda: np.asarray(moved.dataobj)
        return moved

    module.image_read, module.image_write = nib.load, nib.save
    module.registration, module.apply_transforms = registration, apply_transforms
    monkeypatch.setitem(sys.modules, "ants", module)
    return module


def test_labels_are_carried_to_the_scan_its_prediction_and_its_interpolation(
    recipe, ants, tmp_path, monkeypatch
):
    fast = Predictor.from_file("fast", device="cpu", flip=False)
    monkeypatch.setattr(Predictor, "from_file", lambda device: fast)
    head = head_phantom(shape=(84, 90, 82), seed=1)
    labels = nib.Nifti1Image(head.data[0].numpy().astype(np.int16), head.affine.data.numpy())
    scan = nib.Nifti1Image(labels.get_fdata(dtype=np.float32).clip(0, 60), labels.affine)
    for name, image in {"labels": labels, "scan": scan}.items():
        nib.save(image, tmp_path / f"{name}.nii.gz")
    own = ("scan.nii.gz", "labels.nii.gz")
    printed = recipe("register_with_ants", "out", *own, *own)
    head, *rows = (line.split("\t") for line in printed.splitlines())
    assert [row[0] for row in rows] == ["scan", "prediction", "interpolation"]
    assert {value for row in rows for value in row[1:]} == {"1.000"}
    assert len(head) == len(rows[0])
    fixed = [Path(fixed).name for fixed, _, _ in ants.calls]
    assert fixed == ["scan.nii.gz", "prediction.nii.gz", "interpolation.nii.gz"]
    made = {name: nib.load(f"out/{name}.nii.gz") for name in ("scan", "slices", "prediction")}
    assert made["slices"].header.get_zooms() == (1, 1, 5)
    thick, fine = (made[name].get_fdata() for name in ("slices", "scan"))
    np.testing.assert_allclose(thick[:, :, 3], fine[:, :, 15:20].mean(-1), rtol=1e-5)
    middle = [np.array([*(np.array(image.shape) / 2 - 0.5), 1]) for image in made.values()]
    world = [image.affine @ point for image, point in zip(made.values(), middle, strict=True)]
    np.testing.assert_allclose(world, [world[0]] * 3, atol=0.51)


# Several nodes -----------------------------------------------------------------------------------

SRUN = """#!/bin/bash
export SLURM_PROCID SLURM_NODEID SLURM_LOCALID=0
for SLURM_PROCID in 0 1; do
    SLURM_NODEID=$SLURM_PROCID
    "$@" &
    started+=($!)
done
for pid in "${started[@]}"; do wait "$pid" || exit 1; done
"""
SYNTHSR = """#!/bin/bash
exec {python} -W ignore -c 'from synthsr_cli.main import main; main()' "$@"
"""
SMALL = (
    *("run.epochs=1", "run.steps_per_epoch=1", "run.batch_size=1", "crop.shape=32"),
    *("network.num_levels=2", "network.num_features=2", "validation.every_epochs=0"),
    *("optimiser.warmup_steps=0", "run.keep_models=0"),
)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="scripts of bash")
@pytest.mark.parametrize("script", ["cluster/train.sh", "recipes/train_torchrun.sh"])
def test_two_nodes_share_a_training(script, tmp_path):
    """The scripts, with a scheduler that starts both processes here."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, text in (("srun", SRUN), ("synthsr", SYNTHSR.format(python=sys.executable))):
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    (tmp_path / "maps").mkdir()
    head_phantom(spacing_mm=5).save(tmp_path / "maps" / "head.nii.gz")
    sets = [word for setting in SMALL for word in ("--set", setting)]
    words = ["bash", str(RECIPES.parent / script), "maps", "run", "--device", "cpu", *sets]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    about = {
        "PATH": f"{tools}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(sys.path),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "OMP_NUM_THREADS": "1",
    }
    slurm = {
        **{"SLURM_JOB_ID": "1", "SLURM_JOB_NAME": "synthsr", "SLURM_NTASKS": "2"},
        **{"SLURM_JOB_NUM_NODES": "2", "SLURM_NTASKS_PER_NODE": "1", "SLURM_CPUS_PER_TASK": "1"},
        **{"SLURM_NODELIST": "127.0.0.1", "SLURM_STEP_NUM_TASKS": "2"},
    }
    nodes = (
        [slurm]
        if "cluster" in script
        else [{"NODES": "2", "NODE_RANK": str(rank), "GPUS": "1"} for rank in (0, 1)]
    )
    started = [
        subprocess.Popen(
            words,
            cwd=tmp_path,
            env={**os.environ, **about, **node},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for node in nodes
    ]
    printed = [process.communicate(timeout=300)[0] for process in started]
    assert [process.returncode for process in started] == [0] * len(nodes), "\n".join(printed)
    for rank in (1, 2):
        said = rf"Process {rank} of 2 on \S+: trained 1 batches of its own on cpu, in "
        assert len(re.findall(said, "".join(printed))) == 1, printed
    (row,) = MetricsFile(tmp_path / "run" / "metrics.csv").rows()
    assert row["global_step"] == 1
    assert (tmp_path / "run" / "models" / "last.safetensors").exists()


# Documentation -----------------------------------------------------------------------------------


def test_the_page_shows_every_recipe():
    page = (DOCS / "recipes.md").read_text(encoding="utf-8")
    for path in RECIPES.rglob("*"):
        if path.suffix in (".py", ".sh"):
            shown = f'--8<-- "examples/recipes/{path.relative_to(RECIPES).as_posix()}"'
            assert shown in page, path.name
