"""A first look: the same few damaged files each time, through every reader but no command."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from synthsr_transforms.io.volumes import read_volume

from . import uses
from .mutations import DAMAGES, damaged, ending
from .originals import write_originals

PER_KIND = 3


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_originals(tmp_path_factory.mktemp("originals"))


@pytest.mark.filterwarnings("default")
def test_damaged_files_are_refused_or_read(originals, tmp_path, monkeypatch):
    monkeypatch.setattr(uses, "COMMANDS", {})
    slow = {"remake_sample", "training"}
    monkeypatch.setattr(
        uses,
        "READERS",
        {k: {u: f for u, f in v.items() if u not in slow} for k, v in uses.READERS.items()},
    )
    faults = []
    for path in originals:
        voxels = read_volume(path).data if path.stem.split(".")[0] in ("scan", "labels") else None
        for number in range(PER_KIND):
            damage, content = damaged(path, Random(f"{path.name}/{number}"))
            case = uses.Case(tmp_path / path.name, path.parent, tmp_path / "out")
            case.path.write_bytes(content)
            for outcome in uses.outcomes(case, path.name.partition(".")[0], voxels):
                if outcome.result not in ("read", "refused") or outcome.noise:
                    faults.append((path.name, number, damage, outcome))
    assert not faults


def test_every_kind_of_file_is_damaged(originals):
    assert {ending(path) for path in originals} == set(DAMAGES)
    assert all(uses.uses_of(path.name.partition(".")[0]) for path in originals)


def test_damage_is_the_same_each_time(originals):
    path = originals[0]
    first, again = (damaged(path, Random("3/7")) for _ in range(2))
    assert first == again
    assert first[1] != path.read_bytes()


def test_what_checksums_say(originals):
    for path in originals:
        assert uses.what_checksums_say(path) == ""
