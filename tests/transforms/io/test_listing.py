"""Which files of a folder are volumes, and where they are looked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from synthsr_transforms.io import files
from synthsr_transforms.io.files import left_below, list_volumes
from synthsr_transforms.support.messages import SynthSRError


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    return folder


def below(folder: Path) -> list[str]:
    found = list_volumes(folder, recursive=True)
    return [path.relative_to(folder).as_posix() for path in found]


def test_hidden_files_and_folders_do_not_count(tmp_path: Path) -> None:
    """Of .git, of editors, and the resource forks of macOS."""
    touch(tmp_path, "a.nii", "._a.nii", "b/._c.nii.gz", "b/c.NII.GZ", ".git/d.nii", "b/e.txt")
    assert list_volumes(tmp_path) == [tmp_path / "a.nii"]
    assert below(tmp_path) == ["a.nii", "b/c.NII.GZ"]


def test_a_folder_may_be_named_like_a_volume(tmp_path: Path) -> None:
    """As some programs unpack archives: an item that cannot be read, or a folder to search."""
    touch(tmp_path, "a.nii.gz/a.nii", "b.nii")
    assert [path.name for path in list_volumes(tmp_path)] == ["a.nii.gz", "b.nii"]
    assert below(tmp_path) == ["a.nii.gz/a.nii", "b.nii"]


def test_links_are_followed_once(tmp_path: Path) -> None:
    """Loops, several ways to a folder (the real one counts), links out of the folder."""
    touch(tmp_path, "x/b/a.nii", "x/c/d/e.nii", "outside/f.nii")
    for link, target in {
        **{"x/a": "b", "x/b/up": "..", "x/b/self": ".", "x/c/d/top": "../../..", "x/c/gone": "no"},
        **{"x/c/b": "../b", "x/b/c": "../c", "x/z": "../outside", "x/b/link.nii": "a.nii"},
    }.items():
        (tmp_path / link).symlink_to(target)
    found = below(tmp_path / "x")
    assert [name for name in found if "f.nii" not in name] == ["b/a.nii", "b/link.nii", "c/d/e.nii"]
    assert sum("f.nii" in name for name in found) == 1


def test_a_folder_that_cannot_be_searched_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only where it was asked for."""
    touch(tmp_path, "a.nii", "locked/b.nii")
    scandir = files.os.scandir

    def scan(path: str) -> object:
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(files.os, "scandir", scan)
    with pytest.raises(SynthSRError, match=r"locked must be readable, .*Permission denied"):
        list_volumes(tmp_path, recursive=True)
    assert list_volumes(tmp_path) == [tmp_path / "a.nii"]
    assert left_below(tmp_path) is None


def test_counting_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of folders is not searched to its end to say what is left."""
    monkeypatch.setattr(files, "_MOST_FOLDERS", 4)
    touch(tmp_path, *(f"{number}/a.nii" for number in range(9)))
    assert left_below(tmp_path) == "3 or more files are in subfolders (0, 1, 2)"
