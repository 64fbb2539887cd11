"""No module that only POSIX systems have is on the way of a command."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
from helpers import python

BLOCKED = ("fcntl", "resource", "pwd")
SCRIPT = f"""
import sys
import psutil  # has another implementation on Windows
for name in {BLOCKED}:
    sys.modules[name] = None  # importing it is an ImportError

import importlib, pkgutil
import synthsr_cli, synthsr_net, synthsr_transforms
for package in (synthsr_transforms, synthsr_net, synthsr_cli):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not module.name.endswith("_program"):  # for GPUs, and imported where these are
            importlib.import_module(module.name)

from synthsr_cli.group import synthsr
synthsr(["example", "whole.nii.gz"], standalone_mode=False)
import nibabel
nibabel.save(nibabel.load("whole.nii.gz").slicer[40:-40, 40:-40, 10:-10], "scan.nii.gz")
synthsr(["predict", "scan.nii.gz", "t1.nii.gz", "--model", "fast", "--precision", "auto"])
"""


def test_the_example_is_predicted_without_modules_of_posix(tmp_path: Path) -> None:
    done = python(SCRIPT, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert nib.load(tmp_path / "t1.nii.gz").get_fdata().std() > 0
