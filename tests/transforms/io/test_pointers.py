"""Links without target and pointers of git-annex and Git LFS, in every reader."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from synthsr_net.models.checkpoint import read_config
from synthsr_net.models.keras.weights import read_keras
from synthsr_net.models.loading import load_model
from synthsr_net.prediction.files import find_scans
from synthsr_net.prediction.runs.bids import read_description
from synthsr_transforms.generator.config import read_settings
from synthsr_transforms.io.files import list_volumes
from synthsr_transforms.io.volumes import read_image, read_labels
from synthsr_transforms.labels.table import LabelTable
from synthsr_transforms.support.config import read_yaml
from synthsr_transforms.support.messages import SynthSRError
from synthsr_transforms.support.pointers import refuse_pointer

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n"
POINTERS = {
    b"/annex/objects/MD5E-s1--d4.nii.gz\n": "git-annex pointer.*datalad get",
    b"/annex/objects/SHA256E-s1--d4.nii\r\n": "git-annex pointer.*datalad get",
    b"../.git/annex/objects/Xx/Yy/MD5E-s1--d4.nii.gz": "git-annex pointer",
    b"../../.git\\annex\\objects\\a": "git-annex pointer",
    b".git/annex/objects/a/b": "git-annex pointer",
    LFS: "Git LFS pointer.*git lfs pull",
    b"version https://hawser.github.com/spec/v1\noid sha256:00\n": "Git LFS pointer",
    b"version http://git-media.io/v/2\nsha256:00\n": "Git LFS pointer",
}
LINKS = {
    "../.git/annex/objects/Xx/Yy/MD5E-s1--d4.nii.gz": "link to a file that is not here.*datalad",
    "/data/set/.git/annex/objects/a/b/c": "link to a file that is not here.*datalad",
    "nowhere.nii": r"link to a file that is not here \(nowhere.nii\)",
    "scan.nii": "link to a file that is not here",  # to itself
}


@pytest.mark.parametrize(("content", "text"), POINTERS.items())
def test_pointers_say_what_they_are(tmp_path: Path, content: bytes, text: str) -> None:
    """What it is, and how to get the file."""
    for name in ("scan.nii.gz", "scan.nii", "scan.mgz", "scan.npz"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(SynthSRError, match=text):
            read_image(tmp_path / name)


@pytest.mark.parametrize(("target", "text"), LINKS.items())
def test_links_without_target_say_so(tmp_path: Path, target: str, text: str) -> None:
    """Also among other scans of a folder, where reading says so."""
    link = tmp_path / "scan.nii"
    link.symlink_to(target)
    assert find_scans(tmp_path).scans == (link,)
    for reader in (read_image, read_labels, find_scans, list_volumes):
        with pytest.raises(SynthSRError, match=text):
            reader(link)


READERS: dict[str, Callable[[Path], Any]] = {
    "model.safetensors": read_config,
    "named.safetensors": load_model,
    "weights.h5": read_keras,
    "list.npy": LabelTable.resolve,
    "table.tsv": LabelTable.resolve,
    "priors.yaml": read_yaml,
    "settings.yaml": read_settings,
    "scans.txt": find_scans,
    "dataset_description.json": lambda path: read_description(path.parent),
}


@pytest.mark.parametrize("name", READERS)
def test_every_reader_knows_pointers(tmp_path: Path, name: str) -> None:
    """Weights, tables, lists, priors and settings are kept in Git LFS and DataLad, too."""
    (tmp_path / name).write_bytes(LFS)
    with pytest.raises(SynthSRError, match=r"Git LFS pointer.*git lfs pull"):
        READERS[name](tmp_path / name)
    (tmp_path / name).unlink()
    (tmp_path / name).symlink_to(".git/annex/objects/a/b")
    with pytest.raises(SynthSRError, match=r"link to a file that is not here.*datalad get"):
        READERS[name](tmp_path / name)


def test_other_files_and_links_pass(tmp_path: Path) -> None:
    """A link to a file that is here, a folder, a missing file, texts that mention annexes."""
    (tmp_path / "notes.txt").write_text(
        "see /annex/objects/ and version https://git-lfs.github.com"
    )
    (tmp_path / "link.txt").symlink_to("notes.txt")
    for name in ("notes.txt", "link.txt", "missing", "."):
        refuse_pointer(tmp_path / name)


def test_files_named_for_another_compression(tmp_path: Path) -> None:
    """A gzip file named .nii, and a plain one named .nii.gz, say how to name them."""
    image = nib.Nifti1Image(np.ones((4, 4, 4), np.int16), np.eye(4))
    (tmp_path / "a.nii").write_bytes(gzip.compress(image.to_bytes()))
    (tmp_path / "B.NPZ").write_bytes(gzip.compress(image.to_bytes()))
    (tmp_path / "c.nii.gz").write_bytes(image.to_bytes())
    with pytest.raises(SynthSRError, match=r"a.nii is a gzip file. Name it a.nii.gz"):
        read_labels(tmp_path / "a.nii")
    with pytest.raises(SynthSRError, match=r"is a gzip file. Name it B.nii.gz"):
        read_labels(tmp_path / "B.NPZ")
    with pytest.raises(SynthSRError, match=r"plain NIfTI file. Name it c.nii"):
        read_labels(tmp_path / "c.nii.gz")


def test_lists_may_hold_comments(tmp_path: Path) -> None:
    """Comments, empty lines, a byte order mark and both ends of lines."""
    text = "\ufeff# scans\r\n\r\n  a.nii  \r\n  # b.nii\nc #2.nii\n"
    (tmp_path / "list.txt").write_bytes(text.encode())
    for name in ("a.nii", "c #2.nii"):
        (tmp_path / name).touch()
    assert [p.name for p in find_scans(tmp_path / "list.txt").scans] == ["a.nii", "c #2.nii"]
    (tmp_path / "list.txt").write_text("# nothing\n\n")
    with pytest.raises(SynthSRError, match=r"must hold one path per line"):
        find_scans(tmp_path / "list.txt")
