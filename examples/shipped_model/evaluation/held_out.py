"""Part (a): synthetic scans of held-out label maps, where the truth is known."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from zlib import crc32

from torch import Tensor

from synthsr_net.metrics.comparison import measure_inside
from synthsr_net.prediction.intensities import CT_WINDOW_HU
from synthsr_transforms.io.grids import Volume
from synthsr_transforms.subjects.files import SubjectFiles

from .contrasts import CONTRASTS
from .heads import Head, read_head
from .likeness import brain_of, mapped_scores
from .network import EvaluationError, HeadNetwork
from .pictures import Pictures
from .slices import Slices, acquire, cubic, linear, operators

AXES = ("sagittal", "coronal", "axial")
"""Orientations of slices, by the axis across which they lie."""


@dataclass(frozen=True, kw_only=True)
class HeldOutPlan:
    """Which scans are simulated.

    Raises:
        EvaluationError: If a contrast is unknown, or a number out of its range.
    """

    contrasts: Sequence[str] = tuple(CONTRASTS)
    """Names of `CONTRASTS`."""
    stripped: Sequence[str] = ("T1",)
    """Contrasts that are also seen without skull."""
    spacings_mm: Sequence[float] = (1.0, 3.0, 5.0, 7.0)
    """Slice spacings; one that is not above that of the network is simulated in one orientation,
    but for random contrasts."""
    stripped_mm: float = 5.0
    """Slice spacing without skull."""
    with_lesions: Sequence[str] = ("T1", "T2", "FLAIR")
    """Contrasts that are also seen with lesions, see `held_out_lesions`."""
    lesions_mm: float = 5.0
    """Slice spacing with lesions, across the last of `axes`."""
    axes: Sequence[int] = (0, 1, 2)
    """Axes across which slices lie. Each has a random contrast of its own."""
    seed: int = 0
    """Of noise, bias fields and random contrasts."""

    def __post_init__(self) -> None:
        unknown = {*self.contrasts, *self.stripped, *self.with_lesions} - set(CONTRASTS)
        if unknown:
            raise EvaluationError(
                f"contrasts must be of {', '.join(CONTRASTS)}, got {', '.join(sorted(unknown))}."
            )
        if any(CONTRASTS[name].by_tissue is None for name in self.with_lesions):
            raise EvaluationError(
                "contrasts with lesions must be those of scanners, got random. Leave it out."
            )
        check_slices(self.spacings_mm, self.axes)


class Setting(NamedTuple):
    """One way to scan a head."""

    contrast: str
    stripped: bool
    slice_mm: float
    axis: int


def check_slices(spacings_mm: Sequence[float], axes: Sequence[int]) -> None:
    """Refuse slices that cannot be.

    Raises:
        EvaluationError: If a spacing is not above 0, or an axis not 0, 1 or 2.
    """
    if min(spacings_mm, default=1.0) <= 0 or not set(axes) <= {0, 1, 2}:
        raise EvaluationError(
            f"slices must be above 0 mm thick and across axes 0, 1 or 2, got {list(spacings_mm)}"
            f" and {list(axes)}. Correct them."
        )


def evaluate_label_maps(
    subjects: Sequence[SubjectFiles],
    network: HeadNetwork,
    plan: HeldOutPlan,
    pictures: Pictures | None = None,
    *,
    on_row: Callable[[], object] | None = None,
) -> list[dict[str, Any]]:
    """Predict from simulated scans and compare with the standard T1.

    Args:
        subjects: Label maps, from `find_label_maps`.
        network: The model.
        plan: Which scans to simulate.
        pictures: Where to draw the first label map, at the thickest slices of each contrast.
        on_row: Called after each prediction, to show progress.

    Returns:
        One row per prediction: `map`, `contrast`, `skull`, `slice_mm`, `axis`, and measures in the
        brain of the prediction (`network`, after a cubic mapping of intensities; `raw`, without)
        and of cubic interpolation of the same scan (`interpolation`, mapped).
    """
    rows = []
    for number, subject in enumerate(subjects):
        divisor = network.config.scan.divisor
        head = read_head(subject, network.spacing_mm, divisor, network.device)
        for setting, image in _images(head, plan, network.spacing_mm):
            scan = scan_of_head(head, setting, image, plan.seed)
            prediction = network(linear(scan), slices=operators(scan))
            rows.append({**_about(head, setting), **_measured(head, prediction, scan)})
            if pictures is not None and not number and _is_drawn(setting, plan):
                _draw(pictures, head, setting, scan, prediction)
            if on_row is not None:
                on_row()
    return rows


def num_predictions(plan: HeldOutPlan, num_maps: int, spacing_mm: float) -> int:
    """How many predictions `evaluate_label_maps` makes."""
    return num_maps * sum(len(_settings(plan, *kind, spacing_mm)) for kind in _kinds(plan))


def _images(head: Head, plan: HeldOutPlan, spacing_mm: float) -> Iterator[tuple[Setting, Tensor]]:
    """Settings, each with the head in its contrast, drawn once for all slice spacings."""
    for name, stripped in _kinds(plan):
        random = CONTRASTS[name].by_tissue is None
        settings = _settings(plan, name, stripped, spacing_mm)
        groups = [[s for s in settings if s.axis == a] for a in plan.axes] if random else [settings]
        for group in groups:
            own = f"axis {group[0].axis}" if random and group else ""
            image = head.image(name, seed_of(plan.seed, head.name, name, own), stripped=stripped)
            for setting in group:
                yield setting, image


def _kinds(plan: HeldOutPlan) -> list[tuple[str, bool]]:
    """Contrasts, and whether the skull is removed."""
    return [*((name, False) for name in plan.contrasts), *((name, True) for name in plan.stripped)]


def _settings(plan: HeldOutPlan, name: str, stripped: bool, spacing_mm: float) -> list[Setting]:
    spacings = [plan.stripped_mm] if stripped else plan.spacings_mm
    found = []
    for slice_mm in spacings:
        whole = slice_mm <= spacing_mm and CONTRASTS[name].by_tissue is not None
        axes = plan.axes[-1:] if whole else plan.axes
        found += [Setting(name, stripped, float(slice_mm), axis) for axis in axes]
    return found


def seed_of(seed: int, *words: str) -> int:
    """A seed of its own for what some words name, the same on every machine."""
    return crc32("/".join([str(seed), *words]).encode())


def scan_of_head(head: Head, setting: Setting, image: Tensor, seed: int) -> Slices:
    """Slices of a head, with noise.

    Args:
        head: The head.
        setting: How it is scanned.
        image: From `Head.image`.
        seed: Of the noise.
    """
    contrast = CONTRASTS[setting.contrast]
    words = (head.name, *map(str, setting))
    scan = acquire(
        image,
        head.affine,
        setting.slice_mm,
        setting.axis,
        noise_std=contrast.noise_std,
        rician=not contrast.ct,
        seed=seed_of(seed, *words),
    )
    return scan._replace(data=scan.data.clamp(*CT_WINDOW_HU)) if contrast.ct else scan


def _about(head: Head, setting: Setting) -> dict[str, Any]:
    return {
        "map": head.name,
        "contrast": setting.contrast,
        "skull": not setting.stripped,
        "slice_mm": setting.slice_mm,
        "axis": AXES[setting.axis],
    }


def _measured(head: Head, prediction: Tensor, scan: Slices) -> dict[str, Any]:
    reference = head.reference
    raw = measure_inside(head.in_range(prediction), reference.image, brain_of(reference))
    return {
        "network": mapped_scores(prediction, reference),
        "raw": raw,
        "interpolation": mapped_scores(cubic(scan), reference),
    }


def _is_drawn(setting: Setting, plan: HeldOutPlan) -> bool:
    thickest = plan.stripped_mm if setting.stripped else sorted(plan.spacings_mm)[-1]
    wanted = plan.stripped_mm if plan.stripped_mm in plan.spacings_mm else thickest
    return setting.slice_mm == wanted and setting.axis == plan.axes[-1]


def _draw(
    pictures: Pictures, head: Head, setting: Setting, scan: Slices, prediction: Tensor
) -> None:
    contrast = setting.contrast + ("_without_skull" if setting.stripped else "")
    slices = f"{AXES[setting.axis]} slices of {setting.slice_mm:g} mm"
    target = Volume(head.target.cpu().numpy(), head.affine)
    pictures.add(
        f"held_out_{contrast}",
        {"input": Volume(scan.data.cpu().numpy(), scan.affine), "target": target},
        Volume(prediction.cpu().numpy(), head.affine),
        f"{head.name}: {contrast.replace('_', ' ')}, {slices}",
    )
