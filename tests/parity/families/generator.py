"""The complete generative model, through `Generator.replay` with every recorded draw.

Options that restore the original: `index_grid` and `half_grid_units` (voxels instead of mm),
`truncate=1.25` and `boundary="zero"` (blurs), `alignment="corner"` for a fixed and
`"corner_open"` for a random resolution with `max_spacing_mm` (windows of its blur).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchio.data.affine import AffineMatrix
from torchio.data.batch import ImagesBatch, SubjectsBatch

from synthsr_transforms import Generator, GeneratorConfig
from synthsr_transforms.functional.acquisition import random_resolution
from synthsr_transforms.generator import StepConfig

from ..vectors import (
    Agreement,
    Vector,
    batch_of,
    decimals,
    family,
    near,
    recorded,
    same_image,
    same_labels,
)
from .acquisition import same_reliability
from .blur import ORIGINAL
from .spatial import deformation_draws
from .tables import sided_table


@family("gen")
def gen(vector: Vector, case: str) -> Iterator[Agreement]:
    """Labels, target, and each channel and map of the input."""
    model = Model(vector)
    batch = model.spatial_steps().run(model.table, model.start())
    labels = vector["segmentation_target"]
    yield same_labels("segmentation_target", batch.images["labels"].data, labels)
    # Later steps start from the same labels, so that a tie does not spread.
    batch.images["labels"].data = vector.volume("segmentation_target")
    batch = model.intensity_steps().run(model.table, batch)
    target = batch.images["target"].data
    yield same_image("regression_target", target, vector["regression_target"])
    yield from _inputs(model, batch)


def _inputs(model: Model, batch: SubjectsBatch) -> Iterator[Agreement]:
    """Compare `image_out`: each input channel, followed by its map if there are maps."""
    expected = model.vector["image_out"]
    step = 2 if model.maps else 1
    for group in model.groups():
        part = model.acquisition_steps(group).run(model.table, _start_of_group(model, batch, group))
        low_shapes = [record["low_shape"] for record in part.metadata["slices"]]
        config = GeneratorConfig(reliability="reliability" if model.maps else None)
        made = Generator(config, model.table).as_pair(part).image
        for k, channel in enumerate(group.channels):
            place = step * model.inputs.index(channel)
            theirs = expected[..., place : place + 1]
            yield same_image(f"image of channel {channel}", made[:, step * k][:, None], theirs)
            if not model.maps:
                continue
            theirs = expected[..., place + 1 : place + 2]
            ours, name = made[:, step * k + 1][:, None], f"map of channel {channel}"
            if group.random or model.moves(channel):
                yield same_image(name, ours, theirs)
            else:
                low_shape = torch.tensor([low_shapes[0][k]])[None]
                yield same_reliability(name, ours, theirs, low_shape)
    yield near("number of channels", step * len(model.inputs), expected.shape[-1], 0)


@dataclass
class Steps:
    """Steps of a generator and the parameters to replay them with."""

    configs: dict[str, StepConfig] = field(default_factory=dict)
    record: dict[str, Any] = field(default_factory=dict)

    def add(self, transform: str, params: dict[str, Any], **draws: Any) -> None:
        """Add a step; draws are named as the transform records them, dots written as `__`."""
        name = f"{len(self.configs)}_{transform}"
        self.configs[name] = StepConfig(name=transform, params=params)
        self.record[name] = recorded(**{k.replace("__", "."): v for k, v in draws.items()})
        self.record[name]["global_seed"] = 0  # for steps of TorchIO, which draw nothing here

    def run(self, table: Any, batch: SubjectsBatch) -> SubjectsBatch:
        """Replay all steps on a batch."""
        return Generator(GeneratorConfig(steps=self.configs), table).replay(batch, self.record)


@dataclass(frozen=True)
class Group:
    """Input channels that are acquired alike.

    Attributes:
        channels: Their indices among the synthetic channels.
        random: Whether their resolution is random.
        resampled_first: Whether they are targets too and lie on the target grid already (B15).
    """

    channels: tuple[int, ...]
    random: bool
    resampled_first: bool


class Model:
    """A recorded run of the original: its settings and draws as steps of this library."""

    def __init__(self, vector: Vector) -> None:
        self.vector = vector
        self.table = sided_table(
            vector["generation_labels"].tolist(), vector.given("n_neutral_labels")
        )
        self.spacing = decimals(np.broadcast_to(self.setting("atlas_res", 1.0), 3))
        target = vector.given("param_target_res")
        self.target_spacing = self.spacing if target is None else decimals(np.resize(target, 3))
        self.count = vector["means"].shape[-1]
        flags = np.broadcast_to(self.setting("input_channels", 1), self.count)
        self.inputs = np.flatnonzero(flags).tolist()
        outputs = vector.given("param_output_channel")
        self.outputs = [] if outputs is None else sorted(np.atleast_1d(outputs).tolist())
        self.real = "real_image" in vector
        self.maps = bool(self.setting("build_reliability_maps", 0))

    def setting(self, name: str, default: Any) -> Any:
        """A setting of the original, or its default."""
        array = self.vector.given(f"param_{name}")
        return default if array is None else array

    def per_channel(self, name: str, default: Any) -> list[bool]:
        """A flag, or a list of flags, for each synthetic channel."""
        return np.broadcast_to(self.setting(name, default), self.count).astype(bool).tolist()

    @property
    def size(self) -> int:
        """Number of elements of the batch."""
        return len(self.vector["labels"])

    def draw(self, name: str) -> Tensor | None:
        """A recorded draw, or None where its step was off."""
        array = self.vector.given(f"draw_{name}")
        return None if array is None else torch.from_numpy(array)

    def draws_of(self, channels: Sequence[int], name: str, neutral: float) -> Tensor:
        """Three numbers per element and channel, `(B, C, 3)`."""
        drawn = [self.draw(f"ch{c}_{name}") for c in channels]
        rows = [torch.full((3,), neutral) if d is None else d for d in drawn]
        return torch.stack([row.expand(self.size, 3) for row in rows], dim=1)

    def moves(self, channel: int) -> bool:
        """Whether a channel was misaligned."""
        return self.draw(f"ch{channel}_reg_rotation_deg") is not None

    @cached_property
    def changes_grid(self) -> bool:
        """Whether the output has another shape than the crop."""
        labels = self.vector["segmentation_target"].shape[1:4]
        return labels != self.vector["image_out"].shape[1:4]

    # Steps -----------------------------------------------------------------------------------

    def start(self) -> SubjectsBatch:
        """Label maps, and real targets if there are any."""
        images = {"labels": self.vector.volume("labels")}
        if self.real:
            images["target"] = self.vector.volume("real_image")
        return batch_of(self.spacing.tolist(), **images)

    def spatial_steps(self) -> Steps:
        """Padding, deformation, crop and flip."""
        steps = Steps()
        margin = self.vector.given("param_padding_margin")
        if margin is not None:
            steps.add("Pad", {"padding": np.broadcast_to(margin, 3).tolist()})
        factor = float(self.setting("nonlin_shape_factor", 0.0625))
        params = {"index_grid": True, "half_grid_units": True, "velocity_shape_factor": factor}
        draws = deformation_draws(self.vector, "draw_deform_", self.size)
        steps.add("SpatialDeformation", params, **draws)
        # The start is explicit, as the original never draws the last place (B19).
        start = self.draw("crop_uniform")
        start = torch.zeros(3) if start is None else start
        steps.add("PatchCrop", self._crop(), start=start.trunc().long().expand(self.size, 3))
        flip = self.draw("flip_uniform_draw")
        if flip is not None:
            steps.add("HemisphereFlip", {"p": 0.5})
            keep = (flip.flatten().expand(self.size) < 0.5).tolist()
            steps.record[list(steps.record)[-1]]["_keep"] = keep
        return steps

    def _crop(self) -> dict[str, Any]:
        shape = self.vector.given("param_output_shape")
        divisor = self.vector.given("param_output_div_by_n")
        return {
            "shape": None if shape is None else np.broadcast_to(shape, 3).astype(int).tolist(),
            "multiple_of": None if divisor is None else int(divisor),
            "target_spacing_mm": self.target_spacing.tolist(),
        }

    def intensity_steps(self) -> Steps:
        """Mixture, bias, contrast, blur of half a voxel, and the target.

        The target is copied after the bias field, as in the original (B14).
        """
        steps, image = Steps(), {"include": ["image"]}
        means, stds = (self.vector.tensor(key).movedim(-1, 1) for key in ("means", "stds"))
        noise = self.vector.volume("draw_gmm_standard_normal")
        mixture = {"num_channels": self.count}
        steps.add("TissueMixture", mixture, means=means, stds=stds, noise=noise)
        self._add_bias(steps)
        steps.add("MinMaxRescale", {"clip": [0, 300], **image})
        gammas = [self.draw(f"ch{c}_log_gamma") for c in range(self.count)]
        none = torch.zeros(self.size)
        log_gamma = torch.stack([none if g is None else g.flatten() for g in gammas], dim=1)
        steps.add("GammaContrast", image, image__log_gamma=log_gamma)
        half_voxel = (0.5 * self.spacing).expand(self.size, self.count, 3)
        steps.add(
            "GaussianSmoothing",
            {**ORIGINAL, **image},
            image__sigma_mm=half_voxel,
            image__multiplier=torch.ones_like(half_voxel),
        )
        if self.real:
            steps.add("MinMaxRescale", {"include": ["target"]})
        else:
            steps.add("CopyImage", {"channels": self.outputs})
        self._add_target_grid(steps, "target")
        return steps

    def _add_bias(self, steps: Steps) -> None:
        grids = {}
        for c in self.inputs:
            if f"draw_ch{c}_bias_small_grid" in self.vector:
                draw = self.draw(f"ch{c}_bias_uniform_draw")
                applied = 1.0 if draw is None else (draw < 0.95).float().view(-1, 1, 1, 1, 1)
                grids[c] = self.vector.volume(f"draw_ch{c}_bias_small_grid") * applied
        if not grids:
            return
        nothing = torch.zeros_like(next(iter(grids.values())))
        log_field = torch.cat([grids.get(c, nothing) for c in self.inputs], dim=1)
        factor = float(self.setting("bias_shape_factor", 0.025))
        params = {"shape_factor": factor, "include": ["image"], "channels": self.inputs}
        steps.add("BiasCorruption", params, image__log_field=log_field)

    def _add_target_grid(self, steps: Steps, image: str) -> None:
        spacing = {"spacing_mm": self.target_spacing.tolist()}
        steps.add("TargetResolution", {**spacing, **ORIGINAL, "include": [image]})

    # Acquisition -----------------------------------------------------------------------------

    def groups(self) -> list[Group]:
        """Input channels by how they are acquired, which the original decides one by one."""
        random = self.per_channel("randomise_res", 0)
        found: dict[tuple[bool, bool], list[int]] = {}
        for c in self.inputs:
            found.setdefault((random[c], self.changes_grid and c in self.outputs), []).append(c)
        return [Group(tuple(channels), *key) for key, channels in found.items()]

    def acquisition_steps(self, group: Group) -> Steps:
        """Misalignment, acquisition, map and re-alignment."""
        steps, channels = Steps(), group.channels
        moved = any(map(self.moves, channels))
        if moved:
            steps.add(
                "RegistrationError",
                {"index_grid": True, "include": ["image"]},
                rotation_degrees=self.draws_of(channels, "reg_rotation_deg", 0),
                translation_mm=self.draws_of(channels, "reg_translation", 0),
            )
        (self._add_random if group.random else self._add_fixed)(steps, channels)
        if self.maps:
            kind = "distance_mm" if group.random else "reliability"
            steps.add("ReliabilityMap", {"kind": kind})
        if moved:  # voxels of the output grid, as in the original (B16)
            images = ["image", "reliability"] if self.maps else ["image"]
            steps.add(
                "RegistrationCorrection",
                {"index_grid": True, "include": images},
                rotation_degrees=self.draws_of(channels, "regerr_rotation_deg", 0),
                translation_mm=self.draws_of(channels, "regerr_translation", 0),
            )
        return steps

    def _add_fixed(self, steps: Steps, channels: Sequence[int]) -> None:
        spacing, thickness = self._resolutions()
        index = list(channels)
        steps.add(
            "SliceAcquisition",
            {
                "spacing_mm": 1,
                "alignment": "corner",
                "downsample": [self._downsampled()[c] for c in index],
                **ORIGINAL,
            },
            spacing_mm=spacing[index].expand(self.size, -1, -1),
            thickness_mm=thickness[index].expand(self.size, -1, -1),
            blur_multiplier=self.draws_of(index, "blur_multiplier", 1),
            noise_std=torch.zeros(self.size, len(index)),
        )

    def _add_random(self, steps: Steps, channels: Sequence[int]) -> None:
        coarsest = np.broadcast_to(self.setting("max_res", 9.0), 3).tolist()
        drawn = self.draws_of(channels, "resolution_draw", 0)
        chances = [self.draw(f"ch{c}_prob_min_draw") for c in channels]
        share = float(self.setting("prob_min", 0.05))
        rows = [torch.ones(1) if d is None else d.flatten() for d in chances]
        minimum = torch.stack([row.expand(self.size) < share for row in rows], dim=1)
        finest = self.spacing.float()
        spacing = random_resolution(finest, isotropic_mm=drawn, choose_minimum=minimum)
        thickness = self.draws_of(channels, "thickness", 0)
        law = {"max_isotropic_mm": coarsest}
        steps.add("AcquisitionResolution", law, spacing_mm=spacing, thickness_mm=thickness)
        steps.add(
            "SliceAcquisition",
            {"alignment": "corner_open", "max_spacing_mm": coarsest, **ORIGINAL},
            blur_multiplier=self.draws_of(channels, "blur_multiplier", 1),
            noise_std=torch.zeros(self.size, len(channels)),
        )

    def _resolutions(self) -> tuple[Tensor, Tensor]:
        """Spacing and thickness of every synthetic channel, `(C, 3)` each."""
        spacing = self._per_input("data_res", self.spacing.expand(self.count, 3))
        return spacing, self._per_input("thickness", spacing)

    def _per_input(self, name: str, default: Tensor) -> Tensor:
        """Rows of a setting: one for all, one per input channel, or one per synthetic channel."""
        array = self.vector.given(f"param_{name}")
        if array is None:
            return default
        values = torch.round(decimals(array), decimals=3)
        if values.ndim < 2 or len(values) == 1 or len(values) == self.count:
            return values.expand(self.count, 3)
        rows = torch.ones(self.count, 3, dtype=torch.float64)
        rows[self.inputs] = values
        return rows

    def _downsampled(self) -> list[bool]:
        """Channels whose slices are sampled: as told, or those with gaps inside slices (2.6)."""
        flags = self.setting("downsample", np.array(0))
        if flags.ndim > 0 or flags:
            return self.per_channel("downsample", 0)
        spacing, thickness = self._resolutions()
        return ((thickness - spacing).min(dim=1).values < 0).tolist()


def _start_of_group(model: Model, batch: SubjectsBatch, group: Group) -> SubjectsBatch:
    """The channels of a group as an image of their own, on the grid that the original uses.

    A channel that is input and target is resampled to the target grid first, and acquired from
    there with the widths and ratios of the atlas grid (B15). The library keeps two branches; here
    its steps run in the order of the original, on a grid that claims the spacing of the atlas.
    """
    steps = Steps()
    steps.add("SelectChannels", {"channels": list(group.channels), "include": ["image"]})
    if group.resampled_first:
        model._add_target_grid(steps, "image")
    part = steps.run(model.table, batch)
    if group.resampled_first:
        atlas = torch.diag(torch.cat([model.spacing, torch.ones(1)]))
        affines = [AffineMatrix(atlas.clone()) for _ in range(model.size)]
        part.images["image"] = ImagesBatch(part.images["image"].data, affines)
    return part


