"""Which vectors are compared, and a summary of how well they agree."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from . import families  # noqa: F401 - registers them
from .vectors import FAMILIES, LATER, OWN, Agreement, Vector, family_of

WORST = pytest.StashKey[dict[str, tuple[int, float, float]]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[WORST] = {}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test per case of each file in the folder that `--reference-dir` names."""
    if "recorded_case" in metafunc.fixturenames:
        folder = Path(metafunc.config.getoption("--reference-dir") or OWN)
        paths = sorted(p for p in folder.glob("*") if p.suffix in (".npz", ".h5"))
        paths = [p for p in paths if not _is_partner(p)]
        if not paths:
            raise pytest.UsageError(f"--reference-dir must hold vectors (.npz), got {folder}.")
        metafunc.parametrize("recorded_case", [case for path in paths for case in _cases(path)])


def _is_partner(path: Path) -> bool:
    """Whether a weight file is read by the cases of its recorded input and output."""
    return path.suffix == ".h5" and path.with_name(f"{path.stem}_io.npz").is_file()


def _cases(path: Path) -> list[Any]:
    kind = family_of(path.stem)
    if kind in LATER:
        later = pytest.mark.xfail(reason=f"later work: {LATER[kind]}", strict=True, run=False)
        return [pytest.param((path, kind, ""), id=path.name, marks=later)]
    names = FAMILIES[kind].cases(Vector.read(path)) if kind else []
    if not names:  # fails, so that no file is passed over in silence
        return [pytest.param((path, kind, None), id=f"{path.stem}-unknown")]
    return [pytest.param((path, kind, name), id=f"{path.stem}-{name}") for name in names]


@pytest.fixture
def note(request: pytest.FixtureRequest) -> Callable[[str, Agreement], None]:
    """Keep the largest error of a family, as a share of what is allowed, for the summary."""
    worst = request.config.stash[WORST]

    def keep(kind: str, agreement: Agreement) -> None:
        count, error, tolerance = worst.get(kind, (0, 0.0, 0.0))
        before = error / tolerance if tolerance else error
        now = agreement.error / agreement.tolerance if agreement.tolerance else agreement.error
        if now > before or not count:
            error, tolerance = agreement.error, agreement.tolerance
        worst[kind] = (count + 1, error, tolerance)

    return keep


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    worst = config.stash.get(WORST, {})
    if worst and config.getoption("--reference-dir"):
        terminalreporter.section("parity with the original")
        for kind, (count, error, tolerance) in sorted(worst.items()):
            text = f"{kind:28} {count:5} comparisons, largest error {error:.2g} of {tolerance:.2g}"
            terminalreporter.write_line(text)
