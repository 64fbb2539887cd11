"""Pictures of validation samples: inputs, prediction and target, drawn while a network learns."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from torch import Tensor

from synthsr_transforms.drawing.panels import (
    CAPTION_PIXELS,
    FAINT,
    draw_grid,
    save_figure,
    write,
    write_caption,
)
from synthsr_transforms.drawing.slices import (
    PLANES,
    Kind,
    Row,
    centre_of_labels,
    centre_of_mass,
    intensity_window,
    range_in_words,
    slice_panel,
)
from synthsr_transforms.io.grids import Volume, reorient

_INPUTS_PER_LINE = 3  # of three slices each; 2 with reliability maps
_NAME = 18  # pixels: room for the name of a sample
_WIDTH, _MIN_WIDTH = 1500, 540  # pixels: usual width, all details
Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False, kw_only=True)
class PreviewSample:
    """A validation sample with its prediction; tensors on any device, or arrays."""

    name: str
    """Heading of its pictures."""
    image: Tensor | Array
    """Input of the network `(C, X, Y, Z)`."""
    prediction: Tensor | Array
    """`(P, X, Y, Z)`, of which as many channels are shown as the target has."""
    target: Tensor | Array
    """`(O, X, Y, Z)`."""
    labels: Tensor | Array | None = None
    """Label map `(X, Y, Z)` or `(1, X, Y, Z)`; slices pass through the centre of its brain, or else
    of what is bright in the target."""
    affine: Tensor | Array | None = None
    """`(4, 4)` voxel-to-world matrix in mm; None means 1 mm voxels."""
    segmentation: bool = False
    """Whether prediction and target are label maps, drawn as outlines over the first image."""
    reliability: bool = False
    """Whether each channel of the image is followed by its reliability map."""


def preview_figure(samples: Sequence[PreviewSample], title: str = "") -> Figure:
    """Draw samples: sagittal, coronal and axial slices of inputs, prediction and target.

    A sample with one input has all in one row. One with several has its inputs above, and the
    prediction beside the target below. Both are drawn with the intensity window of the target.

    Args:
        samples: At least one.
        title: Heading of the figure.

    Returns:
        A figure outside the state of pyplot.

    Raises:
        ValueError: If there is no sample, or the volumes of one differ in shape.

    Examples:
        >>> volume = np.random.default_rng(0).random((1, 8, 9, 10))
        >>> sample = PreviewSample(name="a", image=volume, prediction=volume, target=volume)
        >>> len(preview_figure([sample, sample]).axes)
        18
    """
    if not samples:
        raise ValueError("samples must hold at least one sample, got none.")
    panels, names, lines = [], [], []
    for sample in samples:
        of_sample, centre = _lines(sample), _centre_mm(sample)
        for number, line in enumerate(of_sample):
            panels.append([slice_panel(row, plane, centre) for row in line for plane in PLANES])
            names.append("" if number else sample.name)
            lines.append(line)
    width_mm = max(sum(panel.size_mm[0] for panel in line) for line in panels)
    figure = draw_grid(
        panels,
        title=title,
        caption=CAPTION_PIXELS + _NAME,
        min_width=_MIN_WIDTH,
        pixels_per_mm=float(np.clip(_WIDTH / width_mm, 0.1, 4.0)),
    )
    first = iter(figure.axes[:: len(PLANES)])
    for line, name in zip(lines, names, strict=True):
        for number, row in enumerate(line):
            axes = next(first)
            write_caption(axes, row.title, range_in_words(row.volume.data))
            if name and not number:
                write(axes, name, offset=(0, 17), colour=FAINT)
    return figure


def save_previews(
    path: str | os.PathLike[str], samples: Sequence[PreviewSample], title: str = ""
) -> None:
    """Write the picture of samples, see `preview_figure`, as PNG, atomically."""
    save_figure(path, partial(preview_figure, samples, title))


def _lines(sample: PreviewSample) -> list[list[Row]]:
    """Rows of a sample, line by line."""
    affine = _affine(sample)
    image, prediction, target = (
        _channels(volume, affine) for volume in (sample.image, sample.prediction, sample.target)
    )
    if len({volume.data.shape for volume in (*image, *prediction, *target)}) > 1:
        raise ValueError(
            f"volumes of sample {sample.name!r} must have one shape, got image"
            f" {image[0].data.shape}, prediction {prediction[0].data.shape} and target"
            f" {target[0].data.shape}."
        )
    inputs = list(_inputs(image, sample.reliability))
    shown = image[0] if sample.segmentation else None
    outputs = list(_outputs(prediction, target, shown))
    if len(inputs) == len(target) == 1:
        return [inputs + outputs[0]]
    number = -(-len(inputs) // (2 if sample.reliability else _INPUTS_PER_LINE))
    cuts = [len(inputs) * k // number for k in range(number + 1)]
    return [inputs[a:b] for a, b in pairwise(cuts)] + outputs


def _channels(volumes: Tensor | Array, affine: Array) -> list[Volume]:
    data = _array(volumes)
    if data.ndim != 4:
        raise ValueError(f"volumes must be (C, X, Y, Z), got {data.shape}.")
    return [reorient(Volume(channel, affine)) for channel in data]


def _inputs(channels: Sequence[Volume], reliability: bool) -> Iterator[Row]:
    kinds: tuple[Kind, ...] = ("image", "reliability") if reliability else ("image",)
    several = len(channels) > len(kinds)
    for number, volume in enumerate(channels):
        kind = kinds[number % len(kinds)]
        name = "input" if kind == "image" else kind
        title = f"{name} {number // len(kinds) + 1}" if several else name
        yield Row(title, volume, kind, _window(volume.data, kind))


def _outputs(
    prediction: Sequence[Volume], target: Sequence[Volume], image: Volume | None
) -> Iterator[list[Row]]:
    for number, (ours, truth) in enumerate(zip(prediction, target, strict=False), start=1):
        suffix = f" {number}" if len(target) > 1 else ""
        named = {"prediction" + suffix: ours, "target" + suffix: truth}
        window = _window((image or truth).data, "image")
        yield [
            Row(name, image or volume, "image", window, None if image is None else volume)
            for name, volume in named.items()
        ]


def _window(data: Array, kind: Kind) -> tuple[float, float]:
    return intensity_window(np.nan_to_num(data, posinf=0.0, neginf=0.0), kind)


def _array(values: Tensor | Array) -> Array:
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        return (values.float() if values.is_floating_point() else values).numpy()
    return np.asarray(values)


def _affine(sample: PreviewSample) -> npt.NDArray[np.float64]:
    return np.eye(4) if sample.affine is None else _array(sample.affine).astype(np.float64)


def _centre_mm(sample: PreviewSample) -> npt.NDArray[np.float64]:
    """World position of the centre of mass of the labelled brain, or of the target."""
    target = np.nan_to_num(_array(sample.target)[0], posinf=0.0, neginf=0.0).clip(min=0)
    if sample.labels is not None:
        labels = _array(sample.labels).reshape(target.shape)
        if labels.any():
            return centre_of_labels(Volume(labels, _affine(sample)))
    return centre_of_mass(Volume(target, _affine(sample)))
