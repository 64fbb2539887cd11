"""Pictures of samples: sagittal, coronal and axial slices of every volume."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy.typing as npt
from matplotlib.figure import Figure

from synthsr_transforms.io.grids import Volume, reorient
from synthsr_transforms.io.kinds import looks_like_labels

from .panels import (
    CAPTION_PIXELS,
    FAINT,
    draw_grid,
    write,
    write_caption,
)
from .slices import (
    PLANES,
    Kind,
    Row,
    centre_of_labels,
    range_in_words,
    size_in_words,
    slice_panel,
)

_MIN_WIDTH, _NAME = 540, 18  # pixels: all details, name of a sample
_KINDS: Mapping[str, Kind] = {"labels": "labels", "reliability": "reliability"}
_ORDER = ("labels", "image", "reliability", "target")


def preview_figure(volumes: Mapping[str, Volume], *, title: str = "") -> Figure:
    """Draw a sample: one row per volume or channel; sagittal, coronal and axial slices.

    Slices pass through the centre of mass of the labelled brain, or of what there is.

    Args:
        volumes: Volumes by kind (`labels`, `image`, `reliability`, `target`), in any orientation,
            `(X, Y, Z)` or `(X, Y, Z, C)`.
        title: Heading.

    Returns:
        A figure outside the state of pyplot.

    Examples:
        >>> import numpy as np
        >>> labels = Volume(np.ones((8, 9, 10), np.int16), np.eye(4))
        >>> len(preview_figure({"labels": labels}).axes)
        3
    """
    rows = list(rows_of(volumes))
    centre = centre_of_labels(rows[0].volume)
    panels = [[slice_panel(row, plane, centre) for plane in PLANES] for row in rows]
    figure = draw_grid(panels, title=title, min_width=_MIN_WIDTH)
    for axes, row in zip(figure.axes[:: len(PLANES)], rows, strict=True):
        details = size_in_words(row.volume)
        if row.kind != "labels":
            details += f", {range_in_words(row.volume.data)}"
        write_caption(axes, row.title, details)
    return figure


def overview_figure(samples: Mapping[str, Mapping[str, Volume]]) -> Figure:
    """Draw several samples: one row per sample, axial slices of every volume but reliability.

    Args:
        samples: Volumes of each sample, by its name; see `preview_figure`.
    """
    lines = [
        [row for row in rows_of(volumes) if row.kind != "reliability"]
        for volumes in samples.values()
    ]
    centres = [centre_of_labels(line[0].volume) for line in lines]
    panels = [
        [slice_panel(row, 2, centre) for row in line]
        for line, centre in zip(lines, centres, strict=True)
    ]
    figure = draw_grid(panels, caption=CAPTION_PIXELS + _NAME)
    axes = iter(figure.axes)
    for name, line in zip(samples, lines, strict=True):
        for number, row in enumerate(line):
            panel = next(axes)
            write(panel, row.title)
            if number == 0:
                write(panel, name, offset=(0, 17), colour=FAINT)
    return figure


def rows_of(volumes: Mapping[str, Volume]) -> Iterator[Row]:
    """Rows of a picture in the order labels, channels of the image, their maps, target.

    Scans are images with a number, such as `image_2`.

    Examples:
        >>> import numpy as np
        >>> image = Volume(np.zeros((4, 4, 4, 2)), np.eye(4))
        >>> [row.title for row in rows_of({"image": image})]
        ['image 1', 'image 2']
    """
    place = {kind: number for number, kind in enumerate(_ORDER)}
    for name in sorted(volumes, key=lambda n: place.get(n.split("_")[0], len(place))):
        data, affine = reorient(volumes[name])
        channels = [data] if data.ndim == 3 else [data[..., c] for c in range(data.shape[3])]
        for number, channel in enumerate(channels, start=1):
            title = name.replace("_", " ")
            title = title if len(channels) == 1 else f"{title} {number}"
            yield Row(title, Volume(channel, affine), _kind(name.split("_")[0], channel))


def _kind(name: str, channel: npt.NDArray[Any]) -> Kind:
    """Kind of a volume by its name, or, of a target, by its values: labels are whole numbers."""
    is_segmentation = channel.dtype.kind in "iu" and looks_like_labels(channel)
    return _KINDS.get(name, "labels" if is_segmentation else "image")
