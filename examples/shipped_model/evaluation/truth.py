"""Parts (a) and (b): scans whose truth is known, seen through simulated slices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np
from torch import Tensor

from synthsr_net.metrics.comparison import Reference, compare, measure_inside, reference_of
from synthsr_net.prediction.intensities import CT_WINDOW_HU
from synthsr_net.training.validation import RealPair, on_grid_of_network
from synthsr_transforms.io.grids import Volume
from synthsr_transforms.subjects.files import SubjectFiles
from synthsr_transforms.support.messages import SynthSRError

from .contrasts import CONTRASTS, NOISE_STD, TARGET_PRESET
from .heads import MARGIN_MM, Head, read_head
from .network import HeadNetwork
from .pictures import Pictures
from .slices import AXES, Slices, acquire, check_slices, cubic, predict_from


@dataclass(frozen=True, kw_only=True)
class SimulationPlan:
    """Simulated scans.

    Raises:
        SynthSRError: If a contrast is unknown, or a number out of its range.
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
    """Contrasts that are also seen with lesions, see `lesions.evaluate_head_lesions`."""
    lesions_mm: float = 5.0
    """Slice spacing with lesions, across the last of `axes`."""
    axes: Sequence[int] = (0, 1, 2)
    """Axes across which slices lie. Each has a random contrast of its own."""
    seed: int = 0
    """Of noise, bias fields and random contrasts."""
    target: str = TARGET_PRESET
    """Preset whose target is the truth."""

    def __post_init__(self) -> None:
        unknown = {*self.contrasts, *self.stripped, *self.with_lesions} - set(CONTRASTS)
        if unknown:
            raise SynthSRError(
                f"contrasts must be of {', '.join(CONTRASTS)}, got {', '.join(sorted(unknown))}."
            )
        if "random" in self.with_lesions:
            raise SynthSRError(
                "contrasts with lesions must be those of scanners, got random. Leave it out."
            )
        check_slices(self.spacings_mm, self.axes)


class Setting(NamedTuple):
    """One way to scan a head."""

    contrast: str
    stripped: bool
    slice_mm: float
    axis: int


# Held-out label maps -----------------------------------------------------------------------------


def evaluate_label_maps(
    subjects: Sequence[SubjectFiles],
    network: HeadNetwork,
    plan: SimulationPlan,
    pictures: Pictures | None = None,
) -> Iterator[dict[str, Any]]:
    """Predict from simulated scans and compare with the standard T1.

    Args:
        subjects: Label maps, from `find_label_maps`.
        network: The model.
        plan: Which scans to simulate.
        pictures: Where to draw the first label map, at the thickest slices of each contrast.

    Yields:
        One row per prediction: `map`, `contrast`, `skull`, `slice_mm`, `axis`, and measures in the
        brain of the prediction (`network`, after a cubic mapping of intensities; `raw`, without)
        and of cubic interpolation of the same scan (`interpolation`, mapped).
    """
    for number, subject in enumerate(subjects):
        head = head_for(subject, network, plan)
        reference = head.reference
        for setting, scan in scans_of(head, plan, network.spacing_mm):
            prediction = predict_from(scan, network)
            raw = measure_inside(reference.in_range(prediction), reference.image, reference.brain)
            about = {
                "map": head.name,
                "contrast": setting.contrast,
                "skull": not setting.stripped,
                "slice_mm": setting.slice_mm,
                "axis": AXES[setting.axis],
            }
            yield {**about, **_mapped(prediction, scan, reference), "raw": raw}
            if pictures is not None and not number and _is_drawn(setting, plan):
                name = setting.contrast + ("_without_skull" if setting.stripped else "")
                title = f"{head.name}: {name.replace('_', ' ')}, {_in_words(*setting[2:])}"
                target = {"target": Volume(head.target.cpu().numpy(), head.affine)}
                _draw(pictures, f"held_out_{name}", scan, target, prediction, title)


def scans_of(
    head: Head, plan: SimulationPlan, spacing_mm: float
) -> Iterator[tuple[Setting, Slices]]:
    """Simulated scans of a head, each with how it is scanned."""
    for setting, image in _images(head, plan, spacing_mm):
        yield setting, scan_of_head(head, setting, image, plan.seed)


def head_for(
    subject: SubjectFiles,
    network: HeadNetwork,
    plan: SimulationPlan,
    *,
    margin_mm: float = MARGIN_MM,
) -> Head:
    """Read a label map as a model needs it."""
    size = (network.spacing_mm, network.config.scan.divisor)
    return read_head(subject, *size, network.device, plan.target, margin_mm)


def _images(
    head: Head, plan: SimulationPlan, spacing_mm: float
) -> Iterator[tuple[Setting, Tensor]]:
    """Settings, each with the head in its contrast, made once for all slice spacings."""
    kinds = [*((name, False) for name in plan.contrasts), *((name, True) for name in plan.stripped)]
    for name, stripped in kinds:
        random = CONTRASTS[name].by_tissue is None
        settings = _settings(plan, name, stripped, spacing_mm)
        groups = [[s for s in settings if s.axis == a] for a in plan.axes] if random else [settings]
        for group in groups:
            own = f"axis {group[0].axis}" if random and group else ""
            image = head.image(name, seed_of(plan.seed, head.name, name, own), stripped=stripped)
            for setting in group:
                yield setting, image


def _settings(plan: SimulationPlan, name: str, stripped: bool, spacing_mm: float) -> list[Setting]:
    found = []
    for slice_mm in [plan.stripped_mm] if stripped else plan.spacings_mm:
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
    ct = CONTRASTS[setting.contrast].ct
    seed = seed_of(seed, head.name, *map(str, setting))
    where = (setting.slice_mm, setting.axis)
    scan = acquire(image, head.affine, *where, noise_std=NOISE_STD, rician=not ct, seed=seed)
    return scan._replace(data=scan.data.clamp(*CT_WINDOW_HU)) if ct else scan


def _is_drawn(setting: Setting, plan: SimulationPlan) -> bool:
    thickest = plan.stripped_mm if setting.stripped else sorted(plan.spacings_mm)[-1]
    wanted = plan.stripped_mm if plan.stripped_mm in plan.spacings_mm else thickest
    return setting.slice_mm == wanted and setting.axis == plan.axes[-1]


# Real scans with label maps ----------------------------------------------------------------------


def evaluate_real_pairs(
    pairs: Sequence[RealPair],
    network: HeadNetwork,
    plan: SimulationPlan,
    pictures: Pictures | None = None,
) -> Iterator[dict[str, Any]]:
    """Predict from slices of real scans and compare with the scans.

    Slices and measures are those of `synthsr_net.training.validation`, whose means the means of
    these rows equal; interpolation is cubic here, and linear there.

    Args:
        pairs: From `read_real_pairs`.
        network: The model.
        plan: Slice spacings (one that is not above that of the network stands for the scan as it
            is) and axes.
        pictures: Where to draw each scan, from slices of 5 mm or the thickest.

    Yields:
        One row per prediction: `scan`, `slice_mm`, `axis`, and measures in the brain of the
        prediction (`network`) and of cubic interpolation of the same slices (`interpolation`),
        both after a cubic mapping of intensities.
    """
    affine = np.diag([*[network.spacing_mm] * 3, 1.0])
    drawn = 5.0 if 5.0 in plan.spacings_mm else max(plan.spacings_mm)
    for pair in pairs:
        image, tissues = on_grid_of_network(pair, network.spacing_mm)
        reference, box = reference_of(pair.name, image, tissues)
        image, reference = image[box].contiguous().to(network.device), reference.to(network.device)
        for slice_mm in plan.spacings_mm:
            for axis in plan.axes if slice_mm > network.spacing_mm else plan.axes[-1:]:
                scan = acquire(image, affine, slice_mm, axis)
                prediction = predict_from(scan, network)
                about = {"scan": pair.name, "slice_mm": float(slice_mm), "axis": AXES[axis]}
                yield {**about, **_mapped(prediction, scan, reference)}
                if pictures is not None and slice_mm == drawn and axis == plan.axes[-1]:
                    whole = {"scan": Volume(image.cpu().numpy(), affine)}
                    title = f"{pair.name}: {_in_words(slice_mm, axis)}"
                    _draw(pictures, f"real_{pair.name}", scan, whole, prediction, title)


def _mapped(prediction: Tensor, scan: Slices, reference: Reference) -> dict[str, Any]:
    """Measures in the brain of a prediction and of interpolation, after a cubic mapping."""
    return {
        what: {
            name.removeprefix("brain/"): value
            for name, value in compare(volume, reference, head=False).items()
        }
        for what, volume in (("network", prediction), ("interpolation", cubic(scan)))
    }


def _in_words(slice_mm: float, axis: int) -> str:
    return f"{AXES[axis]} slices of {slice_mm:g} mm"


def _draw(
    pictures: Pictures,
    name: str,
    scan: Slices,
    truth: dict[str, Volume],
    prediction: Tensor,
    title: str,
) -> None:
    """Draw slices, the truth by its name, and the prediction on the grid of the truth."""
    (whole,) = truth.values()
    above = {"input": Volume(scan.data.cpu().numpy(), scan.affine), **truth}
    pictures.add(name, above, Volume(prediction.cpu().numpy(), whole.affine), title)
