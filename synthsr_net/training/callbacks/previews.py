"""Pictures of validation samples: inputs, prediction and target, drawn while a network learns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from synthsr_net.training.task.regression import ShownSample
from synthsr_transforms.drawing.panels import (
    CAPTION_PIXELS,
    FAINT,
    draw_grid,
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
from synthsr_transforms.io.grids import Volume

_INPUTS_PER_LINE = 3  # of three slices each; 2 with reliability maps
_NAME = 18  # pixels: room for the name of a sample
_WIDTH, _MIN_WIDTH = 1500, 540  # pixels: usual width, all details
Array = npt.NDArray[Any]


def preview_figure(
    samples: Sequence[ShownSample],
    title: str = "",
    *,
    spacing_mm: float = 1.0,
    segmentation: bool = False,
    reliability: bool = False,
) -> Figure:
    """Draw samples: sagittal, coronal and axial slices of inputs, prediction and target.

    A sample with one input has all in one row. One with several has its inputs above, and the
    prediction beside the target below. Both are drawn with the intensity window of the target.
    Slices pass through the centre of the labelled brain, or else of what is bright in the target.

    Args:
        samples: At least one; of a prediction, as many channels are shown as the target has.
        title: Heading of the figure.
        spacing_mm: Voxel spacing.
        segmentation: Whether prediction and target are label maps, drawn as outlines over the first
            image.
        reliability: Whether each channel of the image is followed by its reliability map.

    Returns:
        A figure outside the state of pyplot.

    Examples:
        >>> import torch
        >>> volume = torch.rand(1, 8, 9, 10)
        >>> sample = ShownSample(volume, volume, volume, volume > 0.5)
        >>> len(preview_figure([sample, sample]).axes)
        18
    """
    affine = np.diag([*[spacing_mm] * 3, 1.0])
    panels, names, lines = [], [], []
    for number, sample in enumerate(samples, start=1):
        centre = _centre_mm(sample, affine)
        name = f"validation sample {number}"
        for line in _lines(sample, affine, segmentation, reliability):
            panels.append([slice_panel(row, plane, centre) for row in line for plane in PLANES])
            names.append(name)
            lines.append(line)
            name = ""
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
        for column, row in enumerate(line):
            axes = next(first)
            write_caption(axes, row.title, range_in_words(row.volume.data))
            if name and not column:
                write(axes, name, offset=(0, 17), colour=FAINT)
    return figure


def _lines(
    sample: ShownSample, affine: Array, segmentation: bool, reliability: bool
) -> list[list[Row]]:
    """Rows of a sample, line by line."""
    image, prediction, target = (
        [Volume(channel, affine) for channel in volume.numpy()] for volume in sample[:3]
    )
    inputs = list(_inputs(image, reliability))
    outputs = list(_outputs(prediction, target, image[0] if segmentation else None))
    if len(inputs) == len(target) == 1:
        return [inputs + outputs[0]]
    number = -(-len(inputs) // (2 if reliability else _INPUTS_PER_LINE))
    cuts = [len(inputs) * k // number for k in range(number + 1)]
    return [inputs[a:b] for a, b in pairwise(cuts)] + outputs


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


def _centre_mm(sample: ShownSample, affine: Array) -> Array:
    """World position of the centre of mass of the labelled brain, or of the target."""
    labels, target = sample.labels[0].numpy(), sample.target[0].numpy()
    if labels.shape == target.shape and labels.any():
        return centre_of_labels(Volume(labels, affine))
    target = np.nan_to_num(target, posinf=0.0, neginf=0.0).clip(min=0)
    return centre_of_mass(Volume(target, affine))
