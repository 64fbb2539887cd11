"""Promises of transforms and losses of other packages: found by name, or refused in one line."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch
from helpers import (
    ROOT,
    run,
)

from synthsr_net.losses import build_loss
from synthsr_transforms.phantom import head_phantom
from synthsr_transforms.support import plugins
from synthsr_transforms.support.messages import SynthSRError
from synthsr_transforms.support.plugins import find_class, import_module
from synthsr_transforms.transforms.build import build_transform

EXAMPLE = ROOT / "examples" / "own_steps.py"
MODULE = """
from synthsr_net.losses import ImageLoss
from synthsr_transforms.transforms.kinds import SynthIntensityTransform

class {name}Negative(SynthIntensityTransform):
    def apply_to_image(self, image, params, grid):
        return -image

class {name}Loss(ImageLoss):
    def __init__(self, factor=1.0):
        super().__init__()
        self.factor = factor

    def measure(self, prediction, target):
        return self.factor * (prediction - target).abs().mean()
"""


pytestmark = pytest.mark.usefixtures("own_registry")


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Name of a module on Python's path, with a transform and a loss."""
    name = f"own_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(MODULE.format(name=name))
    (tmp_path / "broken.py").write_text("1 / 0\n")
    (tmp_path / "torch.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    yield name
    sys.modules.pop(name, None)


def test_a_transform_by_the_path_of_its_class(package):
    negative = build_transform({"name": f"{package}.{package}Negative", "params": {"p": 1}})
    scan = torch.rand(1, 3, 4, 5)
    assert torch.equal(negative(scan), -scan)


def test_a_transform_of_an_imported_file_by_its_name(package, tmp_path):
    import_module(str(tmp_path / f"{package}.py"), "--import")
    assert type(build_transform({"name": f"{package}Negative"})).__module__ == package
    assert import_module(str(tmp_path / f"{package}.py"), "--import") is sys.modules[package]


@pytest.mark.parametrize("imported", [True, False])
def test_a_loss_with_its_arguments(package, imported):
    if imported:
        import_module(package, "--import")
    name = f"{package}Loss" if imported else f"{package}.{package}Loss"
    ones = torch.ones(1, 1, 2, 2, 2)
    assert float(build_loss(name, {"factor": 3.0})(2 * ones, ones)) == pytest.approx(3)
    with pytest.raises(SynthSRError, match="factr"):
        build_loss(name, {"factr": 3.0})


def test_what_packages_declare(package, monkeypatch):
    declared = EntryPoint("Inverted", f"{package}:{package}Negative", "synthsr.transforms")
    wrong = EntryPoint("Wrong", f"{package}:{package}Loss", "synthsr.transforms")
    asked = []
    monkeypatch.setattr(
        plugins, "entry_points", lambda group: asked.append(group) or [declared, wrong]
    )
    assert type(build_transform({"name": "Inverted"})).__name__ == f"{package}Negative"
    assert asked == ["synthsr.transforms"]
    with pytest.raises(SynthSRError, match="must be a subclass of"):
        build_transform({"name": "Wrong"})
    with pytest.raises(SynthSRError, match="did you mean 'Inverted'"):
        build_transform({"name": "inverte"})


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("no_such_package.Negative", "no module 'no_such_package' was found"),
        ("broken.Negative", "ZeroDivisionError: division by zero"),
        ("{package}.Positive", "which has no Positive"),
        ("{package}.{package}Negativ", "did you mean '{package}Negative'"),
        ("{package}.{package}Loss", "must be a subclass of torchio"),
        ("Negative", "or package.module.Class, got 'Negative'"),
        ("..", "transform '..'"),
    ],
)
def test_what_is_not_found_says_where_it_was_looked_for(package, name, said):
    with pytest.raises(SynthSRError) as caught:
        build_transform({"name": name.format(package=package)})
    assert said.format(package=package) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("lost.py", "must be a file of Python"),
        ("torch.py", "must not have the name of another module, torch"),
        ("broken.py", "ZeroDivisionError"),
    ],
)
def test_files_that_cannot_be_imported(package, tmp_path, name, said):
    for _ in range(2):  # a module that failed is not kept
        with pytest.raises(SynthSRError, match=said):
            import_module(str(tmp_path / name), "--import")


def test_a_transform_may_not_take_the_name_of_ours(tmp_path):
    (tmp_path / "same.py").write_text(MODULE.format(name="").replace("Negative", "GammaContrast"))
    with pytest.raises(SynthSRError, match="must have a name of its own, got GammaContrast"):
        import_module(str(tmp_path / "same.py"), "--import")


def test_the_name_of_a_known_class_needs_no_search():
    assert find_class("loss", "a.b", dict, {"a.b": dict}) is dict


def test_the_example_in_a_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    step = "  ringing: {name: GibbsRinging, params: {kept: [0.5, 1], include: [image]}}\n"
    small = "  crop: {params: {shape: 32}}\n"
    Path("ringing.yaml").write_text(f"base: all_purpose\nsteps:\n{step}{small}")
    refused = run("generate", "ringing.yaml")
    assert refused.exit_code == 2
    assert "--import" in refused.stderr
    small_run = ["network.num_levels=2", "network.num_features=2", "run.epochs=1"]
    small_run += ["run.steps_per_epoch=1", "loss.name=CharbonnierLoss", "loss.params.width=0.02"]
    chosen = [word for setting in small_run for word in ("--set", setting)]
    head_phantom(spacing_mm=5).save("head.nii.gz")
    source = ("ringing.yaml", "--labels", "head.nii.gz", "--import", EXAMPLE)
    done = run("train", *source, "--out", "run", *chosen)
    assert done.exit_code == 0, done.stderr
