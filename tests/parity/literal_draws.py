"""Random inputs and draws for the literal generator, as the original makes them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from .literal_generator import Run


def draws(
    rng: np.random.Generator, settings: Mapping[str, Any], shape: tuple[int, int, int]
) -> dict[str, npt.NDArray[Any]]:
    """Random inputs and draws of the generative model for some settings, as a `gen` vector."""
    values = np.array([0, 14, 16, 24, 2, 3, 4, 41, 42, 43], np.int32)
    blocks = rng.integers(0, len(values), [math.ceil(n / 4) for n in shape])
    labels = values[np.kron(blocks, np.ones((4, 4, 4), int))[tuple(map(slice, shape))]]
    count = len(settings["input_channels"])
    arrays = {
        "labels": labels[None, ..., None],
        "generation_labels": values,
        "n_neutral_labels": np.array(4),
        "means": rng.uniform(20, 230, (1, len(values), count)).astype(np.float32),
        "stds": rng.uniform(2, 25, (1, len(values), count)).astype(np.float32),
        **{f"param_{name}": np.asarray(value) for name, value in settings.items()},
    }
    if "output_channel" not in settings:
        arrays["real_image"] = rng.uniform(-5, 300, arrays["labels"].shape).astype(np.float32)
    run = Run(arrays)
    margin = np.broadcast_to(settings.get("padding_margin", 0), 3)
    padded = np.array(shape) + 2 * margin
    arrays |= _spatial_draws(rng, settings, padded, np.array(run.crop))
    noise = rng.standard_normal((1, *run.crop, count))
    arrays["draw_gmm_standard_normal"] = noise.astype(np.float32)
    for i in range(count):
        for name, value in _channel_draws(rng, run, i).items():
            arrays[f"draw_ch{i}_{name}"] = np.asarray(value, np.float32)
    return arrays


def _spatial_draws(
    rng: np.random.Generator, settings: Mapping[str, Any], size: Any, crop: Any
) -> dict[str, npt.NDArray[Any]]:
    found = {
        "deform_rotation_deg": rng.uniform(-15, 15, (1, 3)),
        "deform_shearing": rng.uniform(-0.012, 0.012, (1, 6)),
        "deform_scaling": rng.uniform(0.85, 1.15, (1, 3)),
    }
    if settings.get("translation_bounds", 0):
        found["deform_translation"] = rng.uniform(-5, 5, (1, 3))
    if settings.get("nonlin_std", 3) > 0:
        factor = settings.get("nonlin_shape_factor", 0.0625)
        coarse = [math.ceil(n * factor) for n in size]
        found["deform_small_field"] = rng.normal(0, 2, (1, *coarse, 3))
    if list(size) != list(crop):
        found["crop_uniform"] = rng.uniform(0, 1, 3) * (size - crop)
    if settings.get("flipping", 1):
        found["flip_uniform_draw"] = rng.uniform(0, 1, (1, 1))
    return {f"draw_{name}": value.astype(np.float32) for name, value in found.items()}


def _channel_draws(rng: np.random.Generator, run: Run, i: int) -> dict[str, Any]:
    found: dict[str, Any] = {"log_gamma": rng.normal(0, 0.5, (1, 1, 1, 1, 1))}
    if not run.inputs[i]:
        return found
    if run.setting("bias_field_std") > 0:
        factor = run.setting("bias_shape_factor")
        coarse = [math.ceil(n * factor) for n in run.crop]
        found["bias_small_grid"] = rng.normal(0, 0.2, (1, *coarse, 1))
        found["bias_uniform_draw"] = rng.uniform(0.7, 1, 1)
    if run.flag("simulate_registration_error", i) and i != int(np.argmax(run.inputs)):
        for kind, bound in (("reg", 5), ("regerr", 0.5)):
            found[f"{kind}_rotation_deg"] = rng.uniform(-bound, bound, (1, 3))
            found[f"{kind}_translation"] = rng.uniform(-bound, bound, (1, 3))
    random = run.flag("randomise_res", i)
    if random:
        found["resolution_draw"] = rng.uniform(run.atlas, 9, (1, 3))
        found["prob_min_draw"] = rng.uniform(0, 0.2, 1)
        least = found["prob_min_draw"] < 0.05
        top = run.atlas if least else found["resolution_draw"]
        found["thickness"] = rng.uniform(run.atlas, top, (1, 3))
    if run.setting("blur_range") is not None:
        found["blur_multiplier"] = rng.uniform(0.87, 1.15, (1, 3) if random else 3)
    return found
