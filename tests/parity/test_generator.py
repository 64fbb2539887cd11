"""The library's generator against the literal one, on settings that no recorded vector has."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from .literal_draws import draws
from .literal_generator import generate
from .vectors import FAMILIES, Vector

SHAPE = (17, 20, 14)
THICK = [[1, 1, 3], [1, 4.5, 1]]
MAPS = {"build_reliability_maps": 1}
COARSE = {"target_res": [1.5, 2.0, 1.6]}  # with 1.6 the window hangs on the last bit of float64
FINE = {"target_res": 0.7}

SETTINGS: dict[str, dict[str, Any]] = {
    "the input is the target": {
        "input_channels": [1],
        "output_channel": [0],
        "data_res": [[1, 1, 3]],
        **MAPS,
        "downsample": 1,
    },
    "one of two inputs is the target": {
        "input_channels": [1, 1],
        "output_channel": 1,
        "data_res": THICK,
        "thickness": [[1, 1, 2], [1, 3, 1]],
        **MAPS,
    },
    "coarser target": {
        "input_channels": [0, 1, 1],
        "output_channel": [0],
        "data_res": THICK,
        "downsample": 1,
        **COARSE,
        **MAPS,
    },
    "coarser target, nothing downsampled": {
        "input_channels": [0, 1, 1],
        "output_channel": [0],
        "data_res": THICK,
        **COARSE,
        **MAPS,
    },
    "finer target in multiples of 8": {
        "input_channels": [1, 1, 0],
        "output_channel": [2],
        "data_res": THICK,
        "downsample": [0, 1, 0],
        "output_div_by_n": 8,
        **FINE,
        **MAPS,
    },
    "the input is the coarser target": {
        "input_channels": [1, 1],
        "output_channel": [1],
        "data_res": THICK,
        "downsample": 1,
        **COARSE,
        **MAPS,
    },
    "the input at random resolution is the finer target": {
        "input_channels": [1],
        "output_channel": [0],
        "randomise_res": 1,
        "output_shape": [16, 20, 13],
        **FINE,
        **MAPS,
    },
    "anisotropic atlas at random resolution": {
        "input_channels": [1, 0, 1],
        "output_channel": [1],
        "atlas_res": [0.7, 1.2, 2.0],
        "randomise_res": 1,
        "blur_range": 1.15,
        **MAPS,
    },
    "anisotropic atlas and target at fixed resolution": {
        "input_channels": [1, 0, 1],
        "output_channel": [1],
        "atlas_res": [1.25, 1.2, 0.8],
        "target_res": [2.0, 1.2, 1.0],
        "data_res": [[1.25, 1.2, 3.3], [1.25, 6, 0.8]],
        "thickness": [[1.25, 1.2, 3], [1.25, 5, 0.8]],
        "downsample": 1,
        **MAPS,
    },
    "atlas of 0.8 mm, whose float32 rounds the crop down": {
        "input_channels": [1],
        "output_channel": [0],
        "atlas_res": np.float32([0.8, 0.8, 0.8]),
        "target_res": 1.0,
        "output_shape": [6, 14, 6],
    },
    "one channel fixed, one random": {
        "input_channels": [1, 1, 0],
        "output_channel": [2],
        "randomise_res": [0, 1, 0],
        "data_res": THICK,
        "simulate_registration_error": [0, 1, 1],
        **MAPS,
    },
    "nothing random but the mixture": {
        "input_channels": [0, 1],
        "output_channel": [0],
        "flipping": 0,
        "nonlin_std": 0,
        "bias_field_std": 0,
        "simulate_registration_error": 0,
    },
    "real target on another grid": {
        "input_channels": [1, 1],
        "padding_margin": [3, 0, 2],
        "output_shape": 12,
        "data_res": [1, 1, 4],
        "downsample": 1,
        "translation_bounds": 5,
        "nonlin_shape_factor": 0.15,
        "bias_shape_factor": 0.2,
        **COARSE,
        **MAPS,
    },
    "real target, padded and cropped": {
        "input_channels": [1],
        "padding_margin": 4,
        "output_shape": [24, 12, 20],
        "output_div_by_n": 4,
    },
    "several targets": {
        "input_channels": [1, 1, 1],
        "output_channel": [2, 0],
        "data_res": [[1, 1, 3], [1, 4.5, 1], [2, 2, 2]],
        "simulate_registration_error": [1, 0, 1],
        "downsample": [1, 1, 0],
        "output_shape": 12,
    },
}


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("seed", range(2))
def test_agrees_with_the_literal_generator(name: str, seed: int):
    rng = np.random.default_rng([seed, *name.encode()])
    arrays = draws(rng, SETTINGS[name], SHAPE)
    expected = generate(arrays)
    vector = Vector(name, {**arrays, **expected})
    for agreement in FAMILIES["gen"].compare(vector, "all"):
        agreement.check()
