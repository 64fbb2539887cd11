"""Every recorded case of the original, within the tolerances stated beside the vectors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from .vectors import FAMILIES, Agreement, Vector


def test_agrees_with_the_original(
    recorded_case: tuple[Path, str | None, str | None],
    device: torch.device,
    note: Callable[[str, Agreement], None],
):
    path, kind, case = recorded_case
    if kind is None or case is None:
        pytest.fail(f"{path.name} is of no known family, or has no case: write how to compare it")
    compared = 0
    for agreement in FAMILIES[kind].compare(Vector.read(path, device), case):
        agreement.check()
        note(kind, agreement)
        compared += 1
    assert compared or kind in ("shapes", "load_labels_ras"), "nothing was compared"
