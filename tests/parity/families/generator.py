"""The complete generative model, through `Generator.replay` with every recorded draw.

Options that restore the original: `index_grid` and `half_grid_units` (voxels instead of mm),
`truncate=1.25` and `boundary="zero"` (blurs), `alignment="corner"` for a fixed and
`"corner_open"` for a random resolution with `max_spacing_mm` (windows of its blur).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torchio.data.affine import AffineMatrix
from torchio.data.batch import ImagesBatch, SubjectsBatch

from synthsr_transforms import Generator, GeneratorConfig
from synthsr_transforms.functional.acquisition import random_resolution
from synthsr_transforms.functional.layout import plan_patch

from ..replay import Steps, batch_of
from ..vectors import (
    Agreement,
    Vector,
    family,
    near,
    same_image,
    same_labels,
)
from .acquisition import same_reliability
from .blur import ORIGINAL
from .recorded_run import Group, RecordedRun
from .spatial import deformation_draws


@family("gen")
def gen(vector: Vector, case: str) -> Iterator[Agreement]:
    """Labels, target, and each channel and map of the input."""
    model = Model(vector)
    batch = model.spatial_steps().run(model.table, model.start())
    _, output_shape = model.crop()
    if output_shape is not None:
        batch.metadata["output_shape"] = [list(output_shape)] * model.size
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


class Model(RecordedRun):
    """A recorded run of the original as steps of this library."""

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
        crop, _ = self.crop()
        steps.add("PatchCrop", crop, start=start.trunc().long().expand(self.size, 3))
        flip = self.draw("flip_uniform_draw")
        if flip is not None:
            steps.add("HemisphereFlip", {"p": 0.5})
            keep = (flip.flatten().expand(self.size) < 0.5).tolist()
            steps.record[list(steps.record)[-1]]["_keep"] = keep
        return steps

    def crop(self) -> tuple[dict[str, Any], tuple[int, int, int] | None]:
        """Arguments of the crop, and the size on the target grid where these do not imply it.

        A spacing in float32 rounds some sizes down (B42), which the library avoids: they are given.
        """
        shape = self.vector.given("param_output_shape")
        divisor = self.vector.given("param_output_div_by_n")
        shape = None if shape is None else np.broadcast_to(shape, 3).astype(int).tolist()
        divisor = None if divisor is None else int(divisor)
        target = self.target_spacing.tolist()
        margin = np.broadcast_to(self.setting("padding_margin", 0), 3)
        sizes = np.add(self.vector["labels"].shape[1:4], 2 * margin).tolist()
        same = {"target_spacing_mm": target, "output_shape": shape, "multiple_of": divisor}
        plans = [
            plan_patch(sizes, spacing_mm=spacing, **same)
            for spacing in (self.spacing.tolist(), self.header_spacing)
        ]
        if plans[0] != plans[1]:
            return {"shape": plans[1].crop_shape}, plans[1].output_shape
        return {"shape": shape, "multiple_of": divisor, "target_spacing_mm": target}, None

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
        self.add_target_grid(steps, "target")
        return steps

    def _add_bias(self, steps: Steps) -> None:
        grids = {}
        for c in self.inputs:
            if f"draw_ch{c}_bias_small_grid" in self.vector:
                draw = self.draw(f"ch{c}_bias_uniform_draw")
                grid = self.vector.volume(f"draw_ch{c}_bias_small_grid")
                if draw is not None:
                    grid = grid * (draw < 0.95).to(grid).view(-1, 1, 1, 1, 1)
                grids[c] = grid
        if not grids:
            return
        nothing = torch.zeros_like(next(iter(grids.values())))
        log_field = torch.cat([grids.get(c, nothing) for c in self.inputs], dim=1)
        factor = float(self.setting("bias_shape_factor", 0.025))
        params = {"shape_factor": factor, "include": ["image"], "channels": self.inputs}
        steps.add("BiasCorruption", params, image__log_field=log_field)

    def add_target_grid(self, steps: Steps, image: str) -> None:
        """Resampling of an image to the target grid, if that is another one."""
        spacing = {"spacing_mm": self.target_spacing.tolist()}
        steps.add(
            "TargetResolution", {**spacing, **ORIGINAL, "alignment": "corner", "include": [image]}
        )

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
        spacing, thickness = self.resolutions()
        index = list(channels)
        steps.add(
            "SliceAcquisition",
            {
                "spacing_mm": 1,
                "alignment": "corner",
                "downsample": [self.downsampled()[c] for c in index],
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
        never = torch.zeros(minimum.shape, dtype=torch.bool)
        spacing = random_resolution(
            self.spacing.float().expand_as(drawn),
            isotropic_mm=drawn,
            anisotropic_mm=None,
            axis=never.long(),
            choose_isotropic=never,
            choose_minimum=minimum,
        )
        thickness = self.draws_of(channels, "thickness", 0)
        modes = {"max_isotropic_mm": coarsest}
        steps.add("AcquisitionResolution", modes, spacing_mm=spacing, thickness_mm=thickness)
        steps.add(
            "SliceAcquisition",
            {"alignment": "corner_open", "max_spacing_mm": coarsest, **ORIGINAL},
            blur_multiplier=self.draws_of(channels, "blur_multiplier", 1),
            noise_std=torch.zeros(self.size, len(channels)),
        )


def _start_of_group(model: Model, batch: SubjectsBatch, group: Group) -> SubjectsBatch:
    """The channels of a group as an image of their own, on the grid that the original uses.

    A channel that is input and target is resampled to the target grid first, and acquired from
    there with the widths and ratios of the atlas grid (B15). The library keeps two branches; here
    its steps run in the order of the original, on a grid that claims the spacing of the atlas.
    """
    steps = Steps()
    steps.add("SelectChannels", {"channels": list(group.channels), "include": ["image"]})
    if group.resampled_first:
        model.add_target_grid(steps, "image")
    part = steps.run(model.table, batch)
    if group.resampled_first:
        atlas = torch.diag(torch.cat([model.spacing, torch.ones(1)]))
        affines = [AffineMatrix(atlas.clone()) for _ in range(model.size)]
        part.images["image"] = ImagesBatch(part.images["image"].data, affines)
    return part
