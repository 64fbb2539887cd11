"""Means around voxels of those voxels that count."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from synthsr_net.prediction.neighbourhoods import WIDTH_MM, Neighbourhoods

SHAPE = (40, 33, 26)


def ball(radius: float) -> torch.Tensor:
    """Voxels around the middle."""
    where = np.indices(SHAPE) - (np.array(SHAPE)[:, None, None, None] - 1) / 2
    return torch.from_numpy((where**2).sum(0) < radius**2)


def noise(seed: int) -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


class TestNeighbourhoods:
    @pytest.mark.parametrize("spacing_mm", [1.0, 3.0, (1.0, 2.0, 5.0), (7.0, 1.0, 0.5)])
    def test_they_are_nearly_those_around_every_voxel(self, spacing_mm):
        inside, volume = ball(11.0), 5 + noise(0)
        sigma = WIDTH_MM / np.broadcast_to(spacing_mm, 3)
        weighted, weight = (
            gaussian_filter(x.double().numpy(), sigma) for x in (volume * inside, inside)
        )
        plain = volume - torch.from_numpy(weighted / np.maximum(weight, 1e-9)).float()
        found = Neighbourhoods(inside, spacing_mm).centred(volume)
        assert float((found - plain)[inside].abs().max()) < 0.05

    def test_one_spacing_is_that_of_all_axes(self):
        inside, volume = ball(9.0), noise(1)
        one, each = (Neighbourhoods(inside, mm).centred(volume) for mm in (2, (2.0, 2.0, 2.0)))
        assert torch.equal(one, each)

    def test_voxels_that_do_not_count_change_nothing(self):
        inside, volume = ball(9.0), noise(2)
        own = Neighbourhoods(inside, 1.0)
        changed = torch.where(inside, volume, 100 * noise(3))
        assert torch.equal(own.mean(changed), own.mean(volume))

    def test_nothing_is_left_of_a_constant(self):
        inside = ball(9.0)
        left = Neighbourhoods(inside, 1.0).centred(torch.full(SHAPE, 7.0))
        assert float(left[inside].abs().max()) < 1e-4

    def test_where_nothing_counts_means_are_0(self):
        nothing = Neighbourhoods(torch.zeros(SHAPE, dtype=torch.bool), 1.0)
        assert not nothing.mean(noise(4)).any()
