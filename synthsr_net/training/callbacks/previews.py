"""Pictures of what a network makes of fixed samples, to look at while it learns.

Slices are drawn as in the pictures of `synthsr generate`, see `synthsr_transforms.job.preview`.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from synthsr_transforms.drawing import (
    CAPTION_PIXELS,
    FAINT,
    LETTERS,
    PLANES,
    Panel,
    draw_grid,
    drawing,
    save_figure,
    write,
    write_caption,
)
from synthsr_transforms.io.grids import Volume, reorient
from synthsr_transforms.job.preview import Kind, intensity_window

_INPUTS_PER_LINE = 3  # of three slices each; 2 with reliability maps
_NAME = 18  # pixels: room for the name of a sample
_WIDTH, _MIN_WIDTH = 1500, 540  # pixels: usual width, all details
_EXTRACEREBRAL = (500, 600)  # label values outside the brain
Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False, kw_only=True)
class PreviewSample:
    """A sample and what the network makes of it; tensors on any device, or arrays."""

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
    reliability: bool = False
    """Whether each channel of the image is followed by its reliability map."""


class _Part(NamedTuple):
    """One volume of a sample, with axes to the right, front and top."""

    title: str
    volume: Volume
    kind: Kind
    window: tuple[float, float]


def preview_figure(samples: Sequence[PreviewSample], title: str = "") -> Figure:
    """Draw samples: sagittal, coronal and axial slices of inputs, prediction and target.

    A sample with one input has all in one row. One with several has its inputs above, and the
    prediction beside the target below. Both are drawn with the intensity window of the target.

    Args:
        samples: At least one.
        title: Heading of the figure.

    Returns:
        A figure that no other code knows of. Hold `synthsr_transforms.drawing.drawing`
        while drawing in several threads.

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
    lines, names = [], []
    for sample in samples:
        parts_of_sample, centre = _lines(sample), _centre_mm(sample)
        lines += [[(part, centre) for part in line] for line in parts_of_sample]
        names += [sample.name, *[""] * (len(parts_of_sample) - 1)]
    panels = [[_panel(*part, plane) for part in line for plane in PLANES] for line in lines]
    width_mm = max(sum(panel.size_mm[0] for panel in line) for line in panels)
    figure = draw_grid(
        panels,
        title=title,
        caption=CAPTION_PIXELS + _NAME,
        min_width=_MIN_WIDTH,
        pixels_per_mm=_pixels_per_mm(width_mm),
    )
    axes = iter(figure.axes)
    for line, name in zip(lines, names, strict=True):
        for number, (part, _) in enumerate(line):
            first, *_ = (next(axes) for _ in PLANES)
            write_caption(first, part.title, _details(part))
            if name and not number:
                write(first, name, offset=(0, 17), colour=FAINT)
    return figure


def save_previews(
    path: str | os.PathLike[str], samples: Sequence[PreviewSample], title: str = ""
) -> None:
    """Write the picture of samples, see `preview_figure`, as PNG, atomically."""
    with drawing:
        save_figure(preview_figure(samples, title), path)


def figure_array(figure: Figure) -> npt.NDArray[np.uint8]:
    """Pixels of a figure, `(H, W, 3)`, as TensorBoard takes them.

    Examples:
        >>> figure_array(Figure(figsize=(3, 2), dpi=10)).shape
        (20, 30, 3)
    """
    canvas = FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        canvas.draw()
    return np.array(np.asarray(canvas.buffer_rgba())[..., :3])


def _lines(sample: PreviewSample) -> list[list[_Part]]:
    """Volumes of a sample, line by line."""
    affine = np.eye(4) if sample.affine is None else _array(sample.affine).astype(np.float64)
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
    outputs = list(_outputs(prediction, target))
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


def _inputs(channels: Sequence[Volume], reliability: bool) -> Iterator[_Part]:
    kinds: tuple[Kind, ...] = ("image", "reliability") if reliability else ("image",)
    several = len(channels) > len(kinds)
    for number, volume in enumerate(channels):
        kind = kinds[number % len(kinds)]
        name = "input" if kind == "image" else kind
        title = f"{name} {number // len(kinds) + 1}" if several else name
        yield _Part(title, volume, kind, _window(volume.data, kind))


def _outputs(prediction: Sequence[Volume], target: Sequence[Volume]) -> Iterator[list[_Part]]:
    for number, (ours, truth) in enumerate(zip(prediction, target, strict=False), start=1):
        suffix = f" {number}" if len(target) > 1 else ""
        window = _window(truth.data, "image")
        yield [
            _Part(name + suffix, volume, "image", window)
            for name, volume in (("prediction", ours), ("target", truth))
        ]


def _window(data: Array, kind: Kind) -> tuple[float, float]:
    return intensity_window(np.nan_to_num(data, posinf=0.0, neginf=0.0), kind)


def _array(values: Tensor | Array) -> Array:
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        return (values.float() if values.is_floating_point() else values).numpy()
    return np.asarray(values)


def _centre_mm(sample: PreviewSample) -> npt.NDArray[np.float64]:
    """World position of the centre of mass of the labelled brain, or of the target."""
    affine = np.eye(4) if sample.affine is None else _array(sample.affine).astype(np.float64)
    weights = np.nan_to_num(_array(sample.target)[0], posinf=0.0, neginf=0.0).clip(min=0)
    if sample.labels is not None:
        labels = _array(sample.labels).reshape(weights.shape)
        brain = (labels > 0) & ((labels < _EXTRACEREBRAL[0]) | (labels >= _EXTRACEREBRAL[1]))
        weights = brain if brain.any() else weights
    middle = []
    for axis, size in enumerate(weights.shape):
        profile = weights.sum(axis=tuple({0, 1, 2} - {axis}), dtype=np.float64)
        middle.append(np.average(np.arange(size), weights=profile if profile.any() else None))
    return np.asarray(affine[:3, :3] @ middle + affine[:3, 3])


def _panel(part: _Part, centre_mm: npt.NDArray[np.float64], plane: int) -> Panel:
    data, affine = part.volume
    voxel = np.linalg.inv(affine) @ [*centre_mm, 1.0]
    index = int(np.clip(np.rint(voxel[plane]), 0, data.shape[plane] - 1))
    wide, tall = (data.shape[a] * part.volume.spacing_mm[a] for a in PLANES if a != plane)
    pixels = np.take(data, index, axis=plane).T
    colours = "viridis" if part.kind == "reliability" else "gray"
    return Panel(pixels, (wide, tall), LETTERS[plane], part.window, colours)


def _pixels_per_mm(width_mm: float) -> float:
    """Scale at which a line is about as wide as a screen, but at most 4."""
    return float(np.clip(_WIDTH / width_mm, 0.1, 4.0))


def _details(part: _Part) -> str:
    finite = part.volume.data[np.isfinite(part.volume.data)]
    if not finite.size:
        return "no numbers"
    missing = "" if finite.size == part.volume.data.size else ", not all numbers"
    return f"{finite.min():.3g} to {finite.max():.3g}{missing}"
