"""A device on which nothing is computed, to count what would be done on a GPU."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture
def meta(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """The device `meta`, where generators of random numbers and autocast are those of the CPU."""
    of_the_cpu, autocast = torch.Generator, torch.is_autocast_enabled
    kind = type("Generator", (of_the_cpu,), {"__new__": lambda cls, device="cpu": of_the_cpu()})
    monkeypatch.setattr(torch, "Generator", kind)
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device_type="cpu": autocast("cpu"))
    return torch.device("meta")
