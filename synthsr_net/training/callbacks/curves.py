"""The training curve: losses, learning rate and metrics of a run against its steps, as a picture.

Columns of the metrics are told by their names: `step` (or else `epoch`), `learning_rate`, losses
that end in `loss` (`train/loss`, `validation/loss`), and metrics that end in a region and a measure
(`validation/brain/psnr`). Metrics of real scans begin with `real`, such as `real/5mm/brain/ssim`,
and those of plain interpolation have it in their name, `real/5mm/interpolation/brain/ssim`.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from matplotlib.lines import Line2D
from matplotlib.ticker import (
    EngFormatter,
    FixedLocator,
    LogLocator,
    MaxNLocator,
    NullLocator,
    StrMethodFormatter,
)

from synthsr_transforms.drawing.panels import save_figure

Rows = Sequence[Mapping[str, Any]]

SAMPLES, REAL = "samples", "real scans"
AXES = {"psnr": "PSNR (dB)", "ssim": "SSIM"}
"""Measures that are drawn, with the names of their axes."""

_METRIC = re.compile(r"(?:(?P<where>.+)/)?(?P<region>brain|head)/(?P<measure>psnr|ssim)")
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # Okabe and Ito
_INTERPOLATION = "interpolation"
_LINES = {"brain": ("-", "o"), "head": ("--", "s"), _INTERPOLATION: (":", "x")}
_WORDS = {"": "training", "train": "training", "val": "validation"}
_WIDTH, _DPI = 11.0, 100  # inches
_HEIGHTS = {"loss": 3.0, "rate": 0.9, "metrics": 2.5}  # inches
_MAX_MARKED = 40  # points of a line beyond which they are not marked


class _Line(NamedTuple):
    """Points in order, and how the line is called and drawn."""

    label: str
    points: list[tuple[float, float]]
    colour: str
    kind: str = "brain"


def save_curve(path: str | os.PathLike[str], rows: Rows) -> None:
    """Write the picture of a run, see `curve_figure`, as PNG, atomically.

    Args:
        path: The picture.
        rows: One mapping per epoch, as `MetricsFile.rows` gives them.
    """
    save_figure(path, partial(curve_figure, rows))


def curve_figure(rows: Rows) -> Figure:
    """Draw a run: losses, learning rate, and PSNR and SSIM of samples and of real scans.

    What no row has gets no panel. Values that are missing, NaN or infinite are left out of their
    line. Losses have a logarithmic axis where they span more than a decade. Legends give the last
    value of each line.

    Args:
        rows: One mapping per epoch; see the head of this module for the names.

    Returns:
        A figure outside the state of pyplot.

    Examples:
        >>> rows = [{"global_step": 10, "train/loss": 0.5}, {"global_step": 20, "train/loss": 0.3}]
        >>> [axes.get_ylabel() for axes in curve_figure(rows).axes]
        ['loss']
    """
    metrics, rate = _metrics(rows), _points(rows, "learning_rate")
    groups = [group for group in (SAMPLES, REAL) if any(g == group for g, _ in metrics)]
    heights = [_HEIGHTS["loss"], *[_HEIGHTS["rate"]] * bool(rate)]
    above, heights = len(heights), heights + [_HEIGHTS["metrics"]] * len(groups)
    figure = Figure(figsize=(_WIDTH, sum(heights) + 0.3), dpi=_DPI, layout="constrained")
    grid = figure.add_gridspec(len(heights), len(AXES), height_ratios=heights)
    loss = figure.add_subplot(grid[0, :])
    _draw_losses(loss, _losses(rows))
    if rate:
        _draw_rate(figure.add_subplot(grid[1, :], sharex=loss), rate)
    for number, group in enumerate(groups, start=above):
        _draw_metrics(figure, grid, number, group, metrics)
    lowest = [figure.axes[bool(rate)], *figure.axes[-len(AXES) * bool(groups) :]]
    _label_steps(figure, lowest, "step" if "global_step" in _names(rows) else "epoch")
    return figure


# Reading -----------------------------------------------------------------------------------------


def _points(rows: Rows, name: str) -> list[tuple[float, float]]:
    """Steps and values of a column, where it has finite ones."""
    points = []
    for number, row in enumerate(rows):
        step, value = row.get("global_step", row.get("epoch", number)), row.get(name)
        if all(isinstance(x, int | float) and math.isfinite(x) for x in (step, value)):
            points.append((float(step), float(value)))  # type: ignore[arg-type]
    return points


def _names(rows: Rows) -> list[str]:
    """All columns, in the order in which they first occur."""
    return list(dict.fromkeys(name for row in rows for name in row))


def _losses(rows: Rows) -> list[_Line]:
    lines: list[_Line] = []
    for name in _names(rows):
        where, _, last = name.rpartition("/")
        if last == "loss" and (points := _points(rows, name)):
            lines.append(_Line(_WORDS.get(where, where), points, _colour(len(lines))))
    return lines


def _metrics(rows: Rows) -> dict[tuple[str, str], list[_Line]]:
    """Lines by group (samples, real scans) and measure; each place has one colour."""
    metrics: dict[tuple[str, str], list[_Line]] = {}
    places: dict[str, list[str]] = {SAMPLES: [], REAL: []}
    for name in _names(rows):
        match = _METRIC.fullmatch(name)
        points = _points(rows, name) if match else []
        if not match or not points:
            continue
        first, *rest = (match["where"] or "").split("/")
        group, place = (REAL, rest[0] if rest else "") if first == "real" else (SAMPLES, first)
        if place not in places[group]:
            places[group].append(place)
        kind = _INTERPOLATION if _INTERPOLATION in rest else match["region"]
        if kind == _INTERPOLATION and match["region"] != "brain":
            continue  # too many lines
        label = f"{_spaced(place)} {kind}".strip() if group == REAL else kind
        line = _Line(label, points, _colour(places[group].index(place)), kind)
        metrics.setdefault((group, match["measure"]), []).append(line)
    return metrics


def _spaced(place: str) -> str:
    """Numbers apart from their units.

    Examples:
        >>> _spaced("5mm")
        '5 mm'
    """
    return re.sub(r"(?<=\d)(?=mm)", " ", place)


def _colour(number: int) -> str:
    return _COLOURS[number % len(_COLOURS)]


# Drawing -----------------------------------------------------------------------------------------


def _draw(axes: Axes, lines: Iterable[_Line], name: str) -> dict[str, Line2D]:
    """Draw lines; the artists by label."""
    artists = {}
    for label, points, colour, kind in lines:
        style, marker = _LINES[kind]
        (artists[label],) = axes.plot(
            *zip(*points, strict=True),
            color=colour,
            linestyle=style,
            linewidth=1.5,
            marker=marker if len(points) <= _MAX_MARKED else "",
            markersize=3.5,
        )
    axes.set_ylabel(name, fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(True, color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if not artists:
        axes.text(0.5, 0.5, "no values yet", transform=axes.transAxes, ha="center", color="#777777")
    return artists


def _add_legend(axes: Axes, entries: Mapping[str, Line2D], title: str) -> None:
    if entries:
        legend = axes.legend(
            list(entries.values()),
            list(entries),
            title=title,
            loc="upper left",
            bbox_to_anchor=(1.0, 1.03),
            fontsize=8,
            title_fontsize=8,
            alignment="left",
            frameon=False,
            handlelength=2.4,
        )
        legend.get_title().set_color("#555555")


def _draw_losses(axes: Axes, lines: Sequence[_Line]) -> None:
    artists = _draw(axes, lines, "loss")
    last = {line.label: f"{line.label}  {line.points[-1][1]:.4g}" for line in lines}
    _add_legend(axes, {last[label]: artist for label, artist in artists.items()}, "loss")
    values = [value for line in lines for _, value in line.points]
    if values and min(values) > 0 and max(values) > 10 * min(values):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))


def _draw_rate(axes: Axes, points: list[tuple[float, float]]) -> None:
    _draw(axes, [_Line("", points, "#8c8c8c")], "learning\nrate")
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
    axes.yaxis.get_offset_text().set_fontsize(8)
    axes.set_ylim(bottom=0)


def _draw_metrics(
    figure: Figure,
    grid: GridSpec,
    number: int,
    group: str,
    metrics: Mapping[tuple[str, str], list[_Line]],
) -> None:
    """PSNR and SSIM of a group side by side, with one legend."""
    artists: dict[str, Line2D] = {}
    last: dict[str, list[str]] = {}
    for column, (measure, name) in enumerate(AXES.items()):
        axes = figure.add_subplot(grid[number, column], sharex=figure.axes[0])
        lines = metrics.get((group, measure), [])
        artists = {**_draw(axes, lines, name), **artists}
        for label, points, *_ in lines:
            value = points[-1][1]
            last.setdefault(label, []).append(
                f"{value:.2f} dB" if measure == "psnr" else f"{value:.3f}"
            )
    entries = {f"{label}  {', '.join(last[label])}": artist for label, artist in artists.items()}
    _add_legend(figure.axes[-1], entries, group)


def _label_steps(figure: Figure, lowest: Sequence[Axes], name: str) -> None:
    """Whole numbers below the lowest panels; the others share them."""
    lines = [line for axes in figure.axes for line in axes.lines]
    steps = {float(step) for line in lines for step in np.asarray(line.get_xdata())}
    for axes in figure.axes:
        one = FixedLocator(list(steps)) if len(steps) == 1 else None
        axes.xaxis.set_major_locator(one or MaxNLocator(integer=True, nbins=7))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.tick_params(labelbottom=axes in lowest)
        if axes in lowest:
            axes.set_xlabel(name, fontsize=9)
