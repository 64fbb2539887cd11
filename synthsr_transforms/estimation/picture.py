"""Pictures of an estimate: the Gaussian of every class over the intensities that it stands for."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.ndimage import gaussian_filter1d

from synthsr_transforms.drawing.colours import label_colours
from synthsr_transforms.drawing.panels import BACKGROUND, FAINT, TEXT

from .estimate import PriorEstimate

FloatArray = npt.NDArray[np.floating[Any]]
Colour = tuple[float, float, float]

_LINE = "#33363c"
_DPI, _WIDTH = 100, 1000  # pixels
_HEAD, _WHOLE, _GAP, _ROW, _AXIS, _FOOT = 58, 210, 58, 40, 22, 46  # pixels, from top to bottom
_LEFT, _RIGHT = 250, 250  # pixels: names, numbers
_BINS = 160
_DARKEST = 0.42


def channel_figure(estimate: PriorEstimate, number: int) -> Figure:
    """Draw a channel: all classes together, then each class to its own height.

    Filled areas are intensities of all scans, lines are the Gaussians with the mean and the
    standard deviation that were estimated. The bar below a curve spans two standard deviations
    of the mean over scans.

    Args:
        estimate: An estimate that kept samples.
        number: Channel of the priors, from 1.

    Returns:
        A figure outside the state of pyplot.
    """
    picture = _Picture(estimate, number)
    height = _HEAD + _WHOLE + _GAP + _ROW * len(picture.names) + _AXIS + _FOOT
    figure = Figure(figsize=(_WIDTH / _DPI, height / _DPI), dpi=_DPI, facecolor=BACKGROUND)
    width = _WIDTH - _LEFT - _RIGHT

    def panel(top: float, tall: float) -> Axes:
        box = (_LEFT / _WIDTH, 1 - (top + tall) / height, width / _WIDTH, tall / height)
        return figure.add_axes(box, facecolor="none")

    picture.draw_heading(figure, height)
    picture.draw_whole(panel(_HEAD, _WHOLE))
    top = _HEAD + _WHOLE + _GAP
    for k in picture.classes:
        picture.draw_class(panel(top + k * _ROW, _ROW), k)
    picture.draw_axis(panel(top + len(picture.names) * _ROW, _AXIS))
    return figure


class _Picture:
    """Panels of one channel."""

    def __init__(self, estimate: PriorEstimate, number: int) -> None:
        channel = estimate.channels[number - 1]
        self.estimate, self.channel, self.number = estimate, channel, number
        self.names = estimate.table.class_names
        self.classes = range(len(self.names))
        self.means, self.stds = estimate.priors.means[number - 1], estimate.priors.stds[number - 1]
        self.values, self.weights = zip(*(_pooled(channel, k) for k in self.classes), strict=True)
        self.colours = [_colour(estimate, k) for k in self.classes]
        self.edges = self._edges()
        self.middles = (self.edges[1:] + self.edges[:-1]) / 2

    def _edges(self) -> FloatArray:
        """Edges of the bins, over nearly all intensities of the classes but background."""
        chosen = [v for v in self.values[1:] if v.size] or [v for v in self.values if v.size]
        pooled = np.concatenate(chosen) if chosen else np.zeros(1)
        low, high = (float(x) for x in np.percentile(pooled, (0.2, 99.8)))
        if self.estimate.settings.rescale:
            low, high = 0.0, 255.0
        background = float(self.means[0, 0])
        if abs(background - (low + high) / 2) < 1.5 * (high - low):
            low, high = min(low, background), max(high, background)
        margin = 0.03 * (high - low) or 1.0
        return np.linspace(low - margin, high + margin, _BINS + 1)

    def _histogram(self, k: int) -> FloatArray:
        """Number of voxels in each bin, smoothed by one bin: intensities are often whole."""
        counts = np.histogram(self.values[k], self.edges, weights=self.weights[k])[0]
        return np.asarray(gaussian_filter1d(counts.astype(np.float64), 1.0, mode="constant"))

    def _gaussian(self, k: int) -> FloatArray:
        """Expected number of voxels in each bin, were they drawn from the Gaussian of the class."""
        mean, std = self.means[0, k], max(self.stds[0, k], 0.3 * float(np.diff(self.edges[:2])[0]))
        step = float(self.edges[1] - self.edges[0])
        density = np.exp(-0.5 * ((self.middles - mean) / std) ** 2) / (std * np.sqrt(2 * np.pi))
        return np.asarray(density * step * self.weights[k].sum())

    # Parts

    def draw_heading(self, figure: Figure, height: int) -> None:
        channel = self.channel
        folder = self.estimate.data_sets[channel.data_set - 1].images
        scans = "1 scan" if channel.num_scans == 1 else f"{channel.num_scans} scans"
        kind = "rescaled to 0..255" if self.estimate.settings.rescale else "as stored"
        details = f"channel {channel.channel} of {_short(str(folder))}   {scans}   {kind}"
        title, left = f"Tissue priors, channel {self.number}", 18 / _WIDTH
        style: dict[str, Any] = {"va": "top", "parse_math": False}
        figure.text(left, 1 - 12 / height, title, color=TEXT, fontsize=12, weight="bold", **style)
        figure.text(left, 1 - 33 / height, details, color=FAINT, fontsize=8.5, **style)

    def draw_whole(self, axes: Axes) -> None:
        """All classes but background: intensities grey, Gaussians in colour, their sum white."""
        total = np.sum([self._histogram(k) for k in self.classes[1:]] or [0 * self.middles], axis=0)
        curves = {k: self._gaussian(k) for k in self.classes[1:]}
        axes.fill_between(self.middles, total, step="mid", color="#5b626b", alpha=0.55, lw=0)
        for k, curve in curves.items():
            axes.plot(self.middles, curve, color=self.colours[k], lw=1.2, alpha=0.95)
        if curves:
            axes.plot(self.middles, sum(curves.values()), color=TEXT, lw=1, ls=(0, (4, 3)))
        top = max(min(1.15 * float(total.max()), 9 * float(total.mean())), 1e-9)
        self._frame(axes, top, "bottom")
        _beside(axes, "all classes\nbut background", "grey: intensities\ndashed: sum of Gaussians")

    def draw_class(self, axes: Axes, k: int) -> None:
        colour = self.colours[k]
        counts, curve = self._histogram(k), self._gaussian(k)
        mean, spread = self.means[:, k]
        top = max(float(curve.max()), min(float(counts.max()), 2 * float(curve.max())), 1e-9)
        shown = self.edges[0] <= mean <= self.edges[-1]
        if shown:
            axes.fill_between(self.middles, counts, step="mid", color=colour, alpha=0.3, lw=0)
            axes.plot(self.middles, curve, color=colour, lw=1.3)
            axes.plot([mean - spread, mean + spread], [0, 0], color=colour, lw=3, clip_on=False)
        self._frame(axes, 1.12 * top)
        axes.axhline(0, color=_LINE, lw=0.8, zorder=0)
        std, std_spread = self.stds[:, k]
        held = int(self.channel.scans_with[k])
        few = "" if held == self.channel.num_scans else f"   in {held} of {self.channel.num_scans}"
        few += "" if shown else "   outside the picture"
        numbers = f"{mean:.4g} ± {spread:.3g}    width {std:.3g} ± {std_spread:.2g}{few}"
        _beside(axes, _short(self.names[k], 38), numbers, colour)

    def draw_axis(self, axes: Axes) -> None:
        self._frame(axes, 1.0, "top")
        axes.xaxis.set_visible(True)
        axes.xaxis.tick_top()
        axes.tick_params(axis="x", colors=FAINT, labelsize=8, direction="out", length=3, pad=-14)
        style: dict[str, Any] = {"xycoords": "axes fraction", "ha": "center", "va": "top"}
        axes.annotate("intensity", (0.5, -0.1), color=FAINT, fontsize=8, **style)

    def _frame(self, axes: Axes, top: float, line: str = "") -> None:
        """Limits of a panel, without axes, or with a line at one side."""
        axes.set_xlim(self.edges[0], self.edges[-1])
        axes.set_ylim(0, top)
        axes.xaxis.set_visible(False)
        axes.yaxis.set_visible(False)
        for side, spine in axes.spines.items():
            spine.set_visible(side == line)
            spine.set_color(_LINE)


def _pooled(channel: Any, k: int) -> tuple[FloatArray, FloatArray]:
    """Intensities of a class from all scans, and how many voxels each stands for."""
    groups = [scan[k] for scan in channel.samples]
    weights = [
        np.full(group.size, count / max(group.size, 1))
        for group, count in zip(groups, channel.voxels[:, k], strict=True)
    ]
    return np.concatenate(groups), np.concatenate(weights)


def _colour(estimate: PriorEstimate, k: int) -> Colour:
    """The colour of the first label of the main tissue of a class, light enough for a dark page."""
    rows = [row for row in estimate.table.rows if row.label_class == k]
    tissue = Counter(row.tissue for row in rows).most_common(1)[0][0]
    value = min(row.value for row in rows if row.tissue == tissue)
    red, green, blue = (label_colours(np.array([value]))[0] / 255).tolist()
    light = 0.3 * red + 0.59 * green + 0.11 * blue
    lift = max(0.0, (_DARKEST - light) / (1 - light))
    return red + lift * (1 - red), green + lift * (1 - green), blue + lift * (1 - blue)


def _beside(axes: Axes, name: str, numbers: str, colour: Any = FAINT) -> None:
    style: dict[str, Any] = {
        "xycoords": "axes fraction", "textcoords": "offset points", "fontsize": 8,
        "annotation_clip": False, "parse_math": False, "linespacing": 1.5,
    }  # fmt: skip
    axes.annotate(name, (0, 0.42), xytext=(-12, 0), ha="right", va="center", color=colour, **style)
    axes.annotate(numbers, (1, 0.42), xytext=(14, 0), ha="left", va="center", color=FAINT, **style)


def _short(text: str, longest: int = 70) -> str:
    return text if len(text) <= longest else f"{text[: longest - 3]}..."
