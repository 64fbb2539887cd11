"""The complete generative model, transcribed step by step from section 1 of the specification.

It reads settings and draws from a mapping with the keys of the `gen` vectors, batch of one.
Nothing is shared with the library, nor with how the vectors are fed to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from . import literal

Arrays = Mapping[str, npt.NDArray[Any]]
Array = npt.NDArray[np.float64]

DEFAULTS: dict[str, Any] = {
    "atlas_res": 1.0,
    "blur_range": 1.15,
    "bias_shape_factor": 0.025,
    "simulate_registration_error": 1,
    "randomise_res": 0,
    "downsample": 0,
    "build_reliability_maps": 0,
    "bias_field_std": 0.3,
    "max_res": 9.0,
    "prob_min": 0.05,
}


def generate(arrays: Arrays) -> dict[str, npt.NDArray[Any]]:
    """`segmentation_target`, `regression_target` and `image_out`, channels last, batch of one."""
    return Run(arrays).outputs()


class Run:
    """One run, step by step."""

    def __init__(self, arrays: Arrays) -> None:
        self.arrays = arrays
        self.channels = arrays["means"].shape[-1]
        self.atlas = np.broadcast_to(self.setting("atlas_res"), 3).astype(float)
        target = self.setting("target_res")
        self.target = self.atlas if target is None else np.broadcast_to(target, 3).astype(float)
        self.inputs = np.broadcast_to(self.setting("input_channels"), self.channels).astype(bool)
        outputs = self.setting("output_channel")
        self.targets = () if outputs is None else tuple(np.atleast_1d(outputs))
        self.crop, self.output = self.shapes()

    def setting(self, name: str) -> Any:
        return self.arrays.get(f"param_{name}", DEFAULTS.get(name))

    def flag(self, name: str, channel: int) -> bool:
        return bool(np.broadcast_to(self.setting(name), self.channels)[channel])

    def draw(self, name: str) -> Any:
        return self.arrays.get(f"draw_{name}")

    def shapes(self) -> tuple[list[int], list[int]]:
        """2.4: crop and output shape."""
        size = np.array(self.arrays["labels"].shape[1:4])
        margin = self.setting("padding_margin")
        size = size if margin is None else size + 2 * np.broadcast_to(margin, 3)
        wanted, divisor = self.setting("output_shape"), self.setting("output_div_by_n")
        resampling = list(self.atlas) != list(self.target)
        ratio = self.atlas / self.target
        reach = np.trunc(size * ratio).astype(int) if resampling else size
        output = reach if wanted is None else np.minimum(np.broadcast_to(wanted, 3), reach)
        if divisor is not None:
            output = output // int(divisor) * int(divisor)
        if wanted is None and divisor is None:
            return list(size), list(output)
        crop = np.rint(output / ratio).astype(int) if resampling else output
        return list(crop), list(output)

    def outputs(self) -> dict[str, npt.NDArray[Any]]:
        labels, real = self.spatial()
        targets: list[Array] = []
        inputs: list[Array] = []
        for i in range(self.channels):
            self.channel(i, self.synthesised(i, labels), targets, inputs)
        if real is not None:
            low, high = real.min(), real.max()
            targets.append(self.on_target_grid((real - low) / (high - low + 1e-7)))
        return {
            "segmentation_target": labels[None, ..., None],
            "image_out": np.stack(inputs, -1)[None],
            "regression_target": np.stack(targets, -1)[None],
        }

    def spatial(self) -> tuple[npt.NDArray[Any], Array | None]:
        """4 to 6: the same for labels and real target."""
        volumes = [self.arrays["labels"][0, ..., 0]]
        if "real_image" in self.arrays:
            volumes.append(self.arrays["real_image"][0, ..., 0].astype(float))
        margin = self.setting("padding_margin")
        if margin is not None:
            volumes = [np.pad(v, [(m, m) for m in np.broadcast_to(margin, 3)]) for v in volumes]
        matrix, field = self.deformation(volumes[0].shape)
        modes = ("nearest", "linear")[: len(volumes)]
        pairs = zip(volumes, modes, strict=True)
        volumes = [literal.warp(v, matrix, field, mode) for v, mode in pairs]
        uniform = self.draw("crop_uniform")
        if uniform is not None:
            start = np.trunc(uniform).astype(int)
            box = tuple(slice(s, s + n) for s, n in zip(start, self.crop, strict=True))
            volumes = [v[box] for v in volumes]
        flip = self.draw("flip_uniform_draw")
        if flip is not None and flip.item() < 0.5:
            volumes = [v[::-1] for v in volumes]
            volumes[0] = self.swapped(volumes[0])
        return volumes[0], volumes[1] if len(volumes) > 1 else None

    def deformation(self, shape: Any) -> tuple[Array, Array | None]:
        keys = {
            "rotation": "rotation_deg",
            "shearing": "shearing",
            "scaling": "scaling",
            "translation": "translation",
        }
        drawn = {name: self.draw(f"deform_{key}") for name, key in keys.items()}
        matrix = literal.affine(**{k: v[0] for k, v in drawn.items() if v is not None})
        small = self.draw("deform_small_field")
        return matrix, None if small is None else literal.displacement(small[0], shape)

    def swapped(self, labels: npt.NDArray[Any]) -> npt.NDArray[Any]:
        values, neutral = self.arrays["generation_labels"], int(self.arrays["n_neutral_labels"])
        half = (len(values) - neutral) // 2
        left, right = values[neutral : neutral + half], values[neutral + half :]
        result = labels.copy()
        for one, other in zip(left, right, strict=True):
            result[labels == one], result[labels == other] = other, one
        return result

    def synthesised(self, i: int, labels: npt.NDArray[Any]) -> Array:
        """7 and 8: mixture, bias, contrast, blur of half a voxel."""
        noise = self.draw("gmm_standard_normal")[0, ..., i]
        image = np.zeros(labels.shape)
        for k, value in enumerate(self.arrays["generation_labels"]):
            here = labels == value
            mean, std = self.arrays["means"][0, k, i], self.arrays["stds"][0, k, i]
            image[here] = mean + std * noise[here]
        grid = self.draw(f"ch{i}_bias_small_grid")
        if self.inputs[i] and grid is not None and self.draw(f"ch{i}_bias_uniform_draw") < 0.95:
            image = image * np.exp(literal.resize(grid[0, ..., 0], image.shape))
        image = np.clip(image, 0, 300)
        image = (image - image.min()) / (image.max() - image.min() + 1e-7)
        image = image ** np.exp(self.draw(f"ch{i}_log_gamma").item())
        return literal.blur(image, [0.5] * 3)

    def on_target_grid(self, image: Array) -> Array:
        """8.4."""
        if list(self.crop) == list(self.output):
            return image
        sigma = literal.acquisition_sigma(self.atlas, self.target, None)
        return literal.resize(literal.blur(image, sigma), self.output)

    def channel(self, i: int, image: Array, targets: list[Array], inputs: list[Array]) -> None:
        """7d and 7e: target, then misalignment, acquisition and re-alignment."""
        if i in self.targets:
            image = self.on_target_grid(image)  # goes on from here (B15)
            targets.append(image)
        if not self.inputs[i]:
            return
        moves = self.flag("simulate_registration_error", i) and i != int(np.argmax(self.inputs))
        if moves:
            error = self.rigid(i, "reg")
            image = literal.warp(image, error)
        acquire = self.random if self.flag("randomise_res", i) else self.fixed
        image, known = acquire(i, image)
        if moves:
            back = self.rigid(i, "regerr") @ np.linalg.inv(error)
            image, known = literal.warp(image, back), literal.warp(known, back)
        inputs.append(image)
        if self.setting("build_reliability_maps"):
            inputs.append(known)

    def rigid(self, i: int, kind: str) -> Array:
        angles, shifts = (self.draw(f"ch{i}_{kind}_{k}") for k in ("rotation_deg", "translation"))
        return literal.affine(rotation=angles[0], translation=shifts[0])

    def factor(self, i: int) -> Array:
        drawn = self.draw(f"ch{i}_blur_multiplier")
        return np.ones(3) if drawn is None else np.ravel(drawn)

    def fixed(self, i: int, image: Array) -> tuple[Array, Array]:
        """10.2 and 10.3."""
        resolution = self.row("data_res", i, self.atlas)
        thickness = self.row("thickness", i, resolution)
        sigma = literal.acquisition_sigma(self.atlas, resolution, 0.42, thickness)
        image = literal.blur(image, sigma * self.factor(i), sigma)
        low = image.shape
        if self.downsampled(i, resolution, thickness):
            low = tuple(literal.low_shape(image.shape, self.atlas, resolution))
        known = literal.reliability(image.shape, low, self.output)
        return literal.acquire_fixed(image, low, self.output), known

    def row(self, name: str, i: int, default: Array) -> Array:
        """2.6: rows are those of the input channels, then indexed by channel."""
        value = self.setting(name)
        if value is None:
            return default
        value = np.round(np.asarray(value, float), 3)
        return np.broadcast_to(value, 3) if value.ndim < 2 else value[self.inputs[:i].sum()]

    def downsampled(self, i: int, resolution: Array, thickness: Array) -> bool:
        value = np.asarray(self.setting("downsample"))
        if value.ndim or value:
            return bool(np.broadcast_to(value, self.channels)[i])
        return bool(np.min(thickness - resolution) < 0)

    def random(self, i: int, image: Array) -> tuple[Array, Array]:
        """10.4 and 10.5."""
        resolution = self.draw(f"ch{i}_resolution_draw")[0]
        if self.draw(f"ch{i}_prob_min_draw").item() < self.setting("prob_min"):
            resolution = self.atlas
        thickness = self.draw(f"ch{i}_thickness")[0]
        sigma = literal.acquisition_sigma(self.atlas, resolution, 0.42, thickness)
        largest = 0.75 * np.broadcast_to(self.setting("max_res"), 3) / self.atlas
        image = literal.blur(image, sigma * self.factor(i), largest)
        return literal.acquire_random(image, self.atlas, resolution, self.output)
