"""The training curve: losses, learning rate and metrics of a run against its steps, as a picture.

Columns of the metrics are recognised by their names: `global_step` (or else `epoch`),
`learning_rate`, losses that end in `loss` (`train/loss`, `validation/loss`), and metrics that end
in a region and a measure (`validation/brain/psnr`) or in `dice/mean`. Metrics of real scans begin
with `real`, such as `real/5mm/brain/ssim`, and those of plain interpolation have it in their name,
`real/5mm/interpolation/brain/ssim`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import (
    EngFormatter,
    FixedLocator,
    LogLocator,
    MaxNLocator,
    NullLocator,
    StrMethodFormatter,
)

Rows = Sequence[Mapping[str, Any]]

LOSS, RATE, DICE, SAMPLES, REAL = "loss", "learning rate", "Dice", "samples", "real scans"
AXES = {"psnr": "PSNR (dB)", "ssim": "SSIM"}
"""Measures that are drawn, with the names of their axes."""

_METRIC = re.compile(r"(?:(?P<where>.+)/)?(?P<region>brain|head)/(?P<measure>psnr|ssim)")
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # Okabe and Ito
_INTERPOLATION = "interpolation"
_STYLES = {"brain": ("-", "o"), "head": ("--", "s"), _INTERPOLATION: (":", "x")}
_WORDS = {"": "training", "train": "training", "val": "validation"}
_WIDTH, _DPI = 11.0, 100  # inches
_HEIGHTS = {LOSS: 3.0, RATE: 0.9, DICE: 2.5, SAMPLES: 2.5, REAL: 2.5}  # inches
_WIDE = (LOSS, RATE, DICE)
_MAX_MARKED = 40  # points of a line beyond which they are not marked


class _Line(NamedTuple):
    """Points of a column, and where and how they are drawn."""

    row: str
    axis: str
    label: str
    points: list[tuple[float, float]]
    colour: str
    style: str = "brain"


def curve_figure(rows: Rows) -> Figure:
    """Draw a run: losses, learning rate, Dice, and PSNR and SSIM of samples and of real scans.

    What no row has gets no panel. Values that are missing, NaN or infinite are left out of their
    line. Losses have a logarithmic axis where they span more than a decade. Legends give the last
    value of each line.

    Args:
        rows: One mapping per epoch, as `MetricsFile.rows` gives them; see the head of this module
            for the names.

    Returns:
        A figure outside the state of pyplot.

    Examples:
        >>> rows = [{"global_step": 10, "train/loss": 0.5}, {"global_step": 20, "train/loss": 0.3}]
        >>> [axes.get_ylabel() for axes in curve_figure(rows).axes]
        ['loss']
    """
    lines = _lines(rows)
    shown = [row for row in _HEIGHTS if row == LOSS or any(line.row == row for line in lines)]
    heights = [_HEIGHTS[row] for row in shown]
    figure = Figure(figsize=(_WIDTH, sum(heights) + 0.3), dpi=_DPI, layout="constrained")
    grid = figure.add_gridspec(len(shown), len(AXES), height_ratios=heights)
    for number, row in enumerate(shown):
        wide = row in _WIDE
        names = [row.replace(" ", "\n")] if wide else list(AXES.values())
        own = [line for line in lines if line.row == row]
        artists: dict[str, Line2D] = {}
        for column, name in enumerate(names):
            place = grid[number, :] if wide else grid[number, column]
            axes = figure.add_subplot(place, sharex=figure.axes[0] if figure.axes else None)
            found = _draw(axes, [line for line in own if wide or line.axis == name], name)
            artists = {**found, **artists}
        if row == RATE:
            _scale_rate(axes)
        elif artists:
            _add_legend(axes, artists, own, row)
    _scale_losses(figure.axes[0], [line for line in lines if line.row == LOSS])
    metrics = len(AXES) * any(row in (SAMPLES, REAL) for row in shown)
    wide_rows = sum(row in _WIDE for row in shown)
    lowest = [figure.axes[wide_rows - 1], *figure.axes[len(figure.axes) - metrics :]]
    steps = {step for line in lines for step, _ in line.points}
    name = "global_step" if any("global_step" in row for row in rows) else "epoch"
    _label_steps(figure, lowest, steps, name)
    return figure


# Reading -----------------------------------------------------------------------------------------


def _lines(rows: Rows) -> list[_Line]:
    """Lines of all columns that are drawn; each loss and each place has one colour."""
    lines: list[_Line] = []
    places: dict[str, list[str]] = {LOSS: [], DICE: [], SAMPLES: [], REAL: []}

    def colour(row: str, place: str) -> str:
        if place not in places[row]:
            places[row].append(place)
        return _COLOURS[places[row].index(place) % len(_COLOURS)]

    for name in dict.fromkeys(name for row in rows for name in row):
        points = _points(rows, name)
        where, _, last = name.rpartition("/")
        match = _METRIC.fullmatch(name)
        if not points:
            continue
        if name == "learning_rate":
            lines.append(_Line(RATE, RATE, "", points, "#8c8c8c"))
        elif last == "loss":
            lines.append(_Line(LOSS, LOSS, _WORDS.get(where, where), points, colour(LOSS, name)))
        elif name.endswith("/dice/mean"):
            lines.append(_Line(DICE, DICE, "mean of structures", points, colour(DICE, name)))
        elif match:
            first, *rest = (match["where"] or "").split("/")
            row, place = (REAL, rest[0] if rest else "") if first == "real" else (SAMPLES, first)
            style = _INTERPOLATION if _INTERPOLATION in rest else match["region"]
            if style == _INTERPOLATION and match["region"] != "brain":
                continue  # too many lines
            spaced = re.sub(r"(?<=\d)(?=mm)", " ", place)
            label = f"{spaced} {style}".strip() if row == REAL else style
            axis = AXES[match["measure"]]
            lines.append(_Line(row, axis, label, points, colour(row, place), style))
    return lines


def _points(rows: Rows, name: str) -> list[tuple[float, float]]:
    """Steps and values of a column, where it has finite ones."""
    points = []
    for number, row in enumerate(rows):
        step, value = row.get("global_step", row.get("epoch", number)), row.get(name)
        if all(isinstance(x, int | float) and math.isfinite(x) for x in (step, value)):
            points.append((float(step), float(value)))  # type: ignore[arg-type]
    return points


# Drawing -----------------------------------------------------------------------------------------


def _draw(axes: Axes, lines: Sequence[_Line], name: str) -> dict[str, Line2D]:
    """Draw lines; the artists by label."""
    artists = {}
    for line in lines:
        style, marker = _STYLES[line.style]
        (artists[line.label],) = axes.plot(
            *zip(*line.points, strict=True),
            color=line.colour,
            linestyle=style,
            linewidth=1.5,
            marker=marker if len(line.points) <= _MAX_MARKED else "",
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


def _add_legend(
    axes: Axes, artists: Mapping[str, Line2D], lines: Sequence[_Line], title: str
) -> None:
    """Name the lines of a row at its right, with the last value of each of its axes."""
    form = {LOSS: "{:.4g}", DICE: "{:.3f}", AXES["psnr"]: "{:.2f} dB", AXES["ssim"]: "{:.3f}"}
    entries = {}
    for label, artist in artists.items():
        last = [form[n.axis].format(n.points[-1][1]) for n in lines if n.label == label]
        entries[f"{label}  {', '.join(last)}"] = artist
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


def _scale_losses(axes: Axes, lines: Sequence[_Line]) -> None:
    values = [value for line in lines for _, value in line.points]
    if values and min(values) > 0 and max(values) > 10 * min(values):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))


def _scale_rate(axes: Axes) -> None:
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
    axes.yaxis.get_offset_text().set_fontsize(8)
    axes.set_ylim(bottom=0)


def _label_steps(figure: Figure, lowest: Sequence[Axes], steps: set[float], name: str) -> None:
    """Whole numbers below the lowest panels; the others share them."""
    for axes in figure.axes:
        one = FixedLocator(list(steps)) if len(steps) == 1 else None
        axes.xaxis.set_major_locator(one or MaxNLocator(integer=True, nbins=7))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.tick_params(labelbottom=axes in lowest)
        if axes in lowest:
            axes.set_xlabel(name, fontsize=9)
