"""From the output of a network back to a scan: intensities, sharpening, orientation and grid."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from synthsr_net.losses.intensity import SMALLEST_SCALE, UNIT_SCALE
from synthsr_net.models.checkpoint import ModelConfig, ScanConfig
from synthsr_net.prediction.refinement.data_consistency import Operators, consistent
from synthsr_transforms.functional.operators import (
    along_axes,
    axis_operator,
)
from synthsr_transforms.io.files import VolumeError
from synthsr_transforms.io.grids import (
    MIN_SHEAR_DEGREES,
    Volume,
    format_spacing,
    shear_degrees,
    spacing_of,
    upright,
)
from synthsr_transforms.support.devices import is_on_host, on_device, on_host_together
from synthsr_transforms.support.messages import check_choice

from ..intensities import clip_, replace_nonfinite, scaled, sharpened
from ..resampling import Grid, Image, orthogonal_grid, reslice
from ..segmentation.quality import QualityScore
from .preprocess import ScanSpace, scan_config

if TYPE_CHECKING:
    from ipywidgets import VBox
    from matplotlib.figure import Figure

GRIDS = ("1mm", "input")
"""Grids of predictions: with the network's spacing, or the grid of the scan."""
MAX_LOG_SCALE = 20.0
"""Logarithms of scales are cut here, so that their exponential stays finite."""


@dataclass(frozen=True, eq=False, repr=False)
class Segmentation:
    """Segmentation of a scan.

    Attributes:
        image: `(X, Y, Z)` values of structures, int16 or int32, and affine in mm: the most probable
            structure of each voxel.
        volumes_ml: Volume of each structure in ml, by its name: the sum of its probabilities on the
            grid of the network. First comes `intracranial`, where the network knows the fluid
            around the brain.
        posteriors: `(X, Y, Z, S)` float32 probabilities, if they are kept.
        quality: Dice coefficients to be expected, if the network is calibrated.
        warnings: Doubts about scan and segmentation, one line each.
    """

    image: Volume
    volumes_ml: dict[str, float]
    posteriors: Volume | None = None
    quality: QualityScore | None = None
    warnings: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """Show sizes, not voxels."""
        return f"Segmentation({_about(self.image, self.warnings)}, {len(self.volumes_ml)} volumes)"

    def plot(self, scan: Volume) -> Figure:
        """Draw the outlines of structures over the scan, in three planes.

        Args:
            scan: What was segmented, such as `read_scan(path).volume`.
        """
        return _figure(scan, None, self.image)

    def view(self, scan: Volume) -> VBox:
        """Show structures over the scan in a notebook, see `Prediction.view`.

        Args:
            scan: What was segmented, such as `read_scan(path).volume`.
        """
        return _widget({"scan": scan, "segmentation": self.image})

    @property
    def segmentation(self) -> Segmentation:
        """Itself, as that of a prediction."""
        return self

    @property
    def extra(self) -> dict[str, Volume | None]:
        """Further images that can be written, by the names of `EXTRA_ENDINGS`."""
        return {"posteriors": self.posteriors}


@dataclass(frozen=True, eq=False, repr=False)
class Prediction:
    """Prediction from a scan, or several."""

    image: Volume
    """`(X, Y, Z)` float32, finite, and its affine in mm."""
    aligned: Tensor
    """The image on the aligned grid of its `ScanSpace`, `(X, Y, Z)` float32."""
    laplace_scale: Volume | None = None
    """Scale of a Laplace distribution for each voxel, in the intensities of `image`, if the model
    predicts it. With test-time augmentation it comes from the mean of the two log scales."""
    warnings: tuple[str, ...] = ()
    """Doubts about scans and prediction, one line each."""
    segmentation: Segmentation | None = None
    """Segmentation of the prediction, if it went through a segmentation network as well."""

    def __repr__(self) -> str:
        """Show sizes, not voxels."""
        parts = [name for name, volume in self.extra.items() if volume is not None]
        return f"Prediction({', '.join([_about(self.image, self.warnings), *parts])})"

    def plot(self, scan: Volume | None = None) -> Figure:
        """Draw the prediction in three planes, with uncertainty and structures if there are any.

        Args:
            scan: What it was predicted from, such as `read_scan(path).volume`, to be drawn above.
        """
        labels = self.extra["segmentation"]
        if scan is None:
            return _figure({"prediction": self.image}, None, labels, self.laplace_scale)
        return _figure(scan, self.image, labels, self.laplace_scale)

    def view(self, scan: Volume | None = None) -> VBox:
        """Show the prediction in a notebook: planes that follow the mouse, in NiiVue.

        What else there is lies above it, each with a slider for its opacity: the scan, structures
        and uncertainty.

        Args:
            scan: What it was predicted from, such as `read_scan(path).volume`.

        Returns:
            A widget, whose first child is the `ipyniivue.NiiVue`.

        Raises:
            SynthSRError: If ipyniivue is not installed.
        """
        layers = {"prediction": self.image, "scan": scan, **self.extra}
        return _widget({name: volume for name, volume in layers.items() if volume is not None})

    @property
    def extra(self) -> dict[str, Volume | None]:
        """Further images that can be written, by the names of `EXTRA_ENDINGS`."""
        labels = None if self.segmentation is None else self.segmentation.image
        return {"laplace_scale": self.laplace_scale, "segmentation": labels}


def _about(image: Volume, warnings: Sequence[str]) -> str:
    shape = " x ".join(map(str, image.data.shape))
    many = f", {len(warnings)} warning{'s' * (len(warnings) > 1)}" if warnings else ""
    return f"{shape} voxels of {format_spacing(image.spacing_mm)}{many}"


def _figure(
    scan: Volume | Mapping[str, Volume],
    prediction: Volume | None,
    segmentation: Volume | None,
    uncertainty: Volume | None = None,
) -> Figure:
    from ..report.picture import drawer

    return drawer(scan, prediction, segmentation, uncertainty=uncertainty)()


def _widget(layers: Mapping[str, Volume]) -> VBox:
    from ..viewer.widget import widget_of

    return widget_of(layers)


def pass_finisher(config: ModelConfig, settings: ScanConfig) -> Callable[[Tensor], Tensor]:
    """Function of the output of each pass, to apply before passes are averaged.

    Args:
        config: Of the model.
        settings: From `scan_config`.

    Returns:
        A function that scales and clips image channels (not log scales), or, if that waits for
        `from_network_space`, changes nothing.
    """
    if not settings.clip_each_pass or settings.residual_input is not None:
        return lambda output: output
    images = _num_images(config)

    def finish(output: Tensor) -> Tensor:
        """Scale and clip the images of `(..., O, X, Y, Z)`."""
        image, rest = output.tensor_split([images], dim=-4)
        image = scaled(image, settings)
        return torch.cat([image, rest], dim=-4) if rest.shape[-4] else image

    return finish


def from_network_space(
    output: Tensor,
    space: ScanSpace,
    config: ModelConfig,
    *,
    grid: str = "1mm",
    sharpen: bool | None = None,
    scan: Tensor | None = None,
) -> Prediction:
    """Make a prediction of the output of a network.

    Args:
        output: `(O, X, Y, Z)`, of passes that went through `pass_finisher`, on any device.
        space: From `to_network_space`.
        config: Of the model.
        grid: `"1mm"` for the network's spacing along the axes of the scan (`legacy="v1"`: along
            RAS axes), or `"input"` for the grid of the scan, by linear interpolation. If the axes
            of the scan are sheared, they are replaced by the nearest ones at right angles.
        sharpen: Whether to apply an unsharp mask; None means what the model says. The result stays
            within the model's range of intensities, but with `legacy`.
        scan: First channel `(X, Y, Z)` of the input of the network, of the first scan, whose detail
            is added to the prediction where both have one contrast (`consistent`). None leaves
            this step out.

    Raises:
        ValueError: If `grid` is another word, or the output does not fit to space or model.
    """
    check_choice("grid", grid, GRIDS)
    settings = scan_config(config, space.legacy)
    images = _num_images(config)
    _check_output(output, space, config)
    inside = output[(slice(None), *space.inside)].detach().float()
    image = _intensities(inside[0], space, settings)
    image, number = replace_nonfinite(image, (settings.output_range or (0.0, 0.0))[0])
    image = refined(
        image,
        settings,
        scan=None if scan is None else scan[space.inside][space.first].to(image),
        slices=() if scan is None else space.slices(),
        place=space.first,
        sharpen=settings.sharpen if sharpen is None else sharpen,
        clip_sharpened=space.legacy is None,
    )
    made = [on_grid(image, space, grid)]
    if config.spread:
        unit = _unit(space, settings)
        scales = laplace_scales(inside[images], unit, config.smallest_scale)
        made.append(on_grid(scales, space, grid))
    *arrays, wrong = on_host_together([*(each.data for each in made), number])
    volumes = [
        _on_sheared_grid(Volume(array, each.affine), space, grid)
        for array, each in zip(arrays, made, strict=True)
    ]
    doubts = (*space.warnings, *_doubts(int(wrong), space, grid))
    return Prediction(volumes[0], image, volumes[1] if config.spread else None, doubts)


def _doubts(wrong: int, space: ScanSpace, grid: str) -> Iterator[str]:
    """Doubts about a prediction of which a number of voxels was not finite."""
    if wrong:
        yield (
            f"{wrong} voxels of the prediction are NaN or infinite: set to the minimum. The model"
            " does not suit this scan, or is damaged."
        )
    if grid == "input" and not space.parallel:
        yield (
            f"axes are {shear_degrees(space.input_grid[1]):.2g} degrees off a right angle, which"
            " headers of predictions cannot hold: the grid is that of the scan, but upright."
        )


def laplace_scales(log_scale: Tensor, unit: float, smallest: float = SMALLEST_SCALE) -> Tensor:
    """Scales of Laplace distributions in intensities, finite whatever the network gave.

    Args:
        log_scale: Output S of the network, any shape.
        unit: Intensities per unit of the output.
        smallest: The scale where S is far below 0, in units of the output.

    Examples:
        >>> laplace_scales(torch.tensor([0.0, -100.0]), 100.0)
        tensor([2.0010e+00, 1.0000e-03])
    """
    log_scale = torch.nan_to_num(log_scale, nan=MAX_LOG_SCALE).clamp(max=MAX_LOG_SCALE)
    return unit * (smallest + UNIT_SCALE * torch.exp(log_scale))


def _num_images(config: ModelConfig) -> int:
    """Number of output channels that are images; the others are log scales."""
    return config.network.out_channels // (2 if config.spread else 1)


def _check_output(output: Tensor, space: ScanSpace, config: ModelConfig) -> None:
    channels, shape = config.network.out_channels, space.aligned_grid[0]
    if _num_images(config) != 1:
        raise VolumeError(
            f"model {config.name!r} must predict one image, but its network has {channels} output"
            " channels. Choose another model."
        )
    enough = all(n >= b + m for n, b, m in zip(output.shape[1:], space.begin, shape, strict=True))
    if output.shape[0] != channels or not enough:
        raise ValueError(
            f"output must have {channels} channel(s) and cover the padded scan, got shape"
            f" {tuple(output.shape)}."
        )


def _unit(space: ScanSpace, settings: ScanConfig) -> float:
    """Intensities per unit of the output."""
    if settings.residual_input is None:
        return settings.output_scale
    return space.rescalings[settings.residual_input].unit


def _intensities(image: Tensor, space: ScanSpace, settings: ScanConfig) -> Tensor:
    """Intensities of the image channel `(X, Y, Z)`, cropped to the scan."""
    if settings.residual_input is None:
        return image if settings.clip_each_pass else scaled(image, settings)
    assert space.residual is not None
    base = space.residual[space.inside].to(image.device)
    lowest = space.rescalings[settings.residual_input].lowest
    return clip_(lowest + _unit(space, settings) * (image + base), settings)


def refined(
    image: Tensor,
    settings: ScanConfig,
    *,
    scan: Tensor | None = None,
    slices: Operators = (None, None, None),
    place: tuple[slice, ...] = (slice(None),) * 3,
    sharpen: bool = False,
    clip_sharpened: bool = True,
) -> Tensor:
    """Make a prediction consistent with its scan, and sharpen it, within the model's range.

    Args:
        image: `(X, Y, Z)` float32 intensities.
        settings: Of the model.
        scan: The scan on the same grid, in any unit, see `consistent`; None leaves this step out.
        slices: See `consistent`.
        place: Part of the image that the scan shows.
        sharpen: Whether to sharpen.
        clip_sharpened: Whether to clip what is sharpened, which FreeSurfer does not.
    """
    if scan is not None:
        seen = consistent(image[place], scan, slices, settings.spacing_mm)
        image = image.clone()
        image[place] = clip_(seen, settings)
    if sharpen:
        image = sharpened(image)
        image = clip_(image, settings) if clip_sharpened else image
    return image


def place(image: Tensor, space: ScanSpace, grid: str) -> Volume:
    """Turn a volume on the aligned grid back, and bring it to the grid asked for.

    Args:
        image: `(X, Y, Z)`, cropped to the scan.
        space: From `to_network_space`.
        grid: One of `GRIDS`; `input` by linear interpolation.
    """
    return _on_sheared_grid(on_grid(image, space, grid).on_host(), space, grid)


def on_grid(image: Tensor, space: ScanSpace, grid: str) -> Image:
    """`place` where the volume is; what `_on_sheared_grid` does is left to be done."""
    image = image if image.is_cuda else image.cpu()
    if space.legacy == "v1" and grid == "1mm":
        return Image(image.contiguous(), space.aligned_grid[1])
    legacy = space.legacy is not None
    source = np.eye(4) if legacy else space.aligned_grid[1]
    turned = Image(image, source).turned(space.grid[1], legacy=legacy).data
    own = Image(_in_file_order(turned), space.grid[1])
    if grid == "1mm" or not space.parallel:
        return own
    shape, affine = space.input_grid
    matrix = np.linalg.inv(space.grid[1]) @ affine  # diagonal but for the last column
    operators = [
        axis_operator(
            own.data.shape[axis],
            torch.from_numpy(np.arange(n) * matrix[axis, axis] + matrix[axis, 3]),
        )
        for axis, n in enumerate(shape)
    ]
    operators = [on_device(operator, own.data.device) for operator in operators]
    return Image(_in_file_order(along_axes(own.data, operators)), affine)


def _on_sheared_grid(own: Volume, space: ScanSpace, grid: str) -> Volume:
    """A volume on the grid of the scan, if it is asked for and its axes are sheared."""
    if grid == "1mm" or space.parallel:
        return own
    shape, affine = space.input_grid
    goal: Grid = shape, upright(affine, shape)
    if shear_degrees(affine) >= MIN_SHEAR_DEGREES:
        goal = orthogonal_grid(space.input_grid, spacing_of(affine))
    return Volume(reslice(own, goal, outside=None)[0], goal[1])


def _in_file_order(volume: Tensor) -> Tensor:
    """A volume with its voxels one after the other, on devices as files have them."""
    if is_on_host(volume):
        return volume.contiguous()
    return volume.permute(2, 1, 0).contiguous().permute(2, 1, 0)
