"""Exams of held-out heads: several scans of each, predicted together and one by one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from synthsr_net.metrics.comparison import compare
from synthsr_transforms.subjects.files import SubjectFiles
from synthsr_transforms.support.messages import SynthSRError

from .network import HeadNetwork
from .slices import AXES, cubic, linear, operators, predict_from
from .truth import Setting, SimulationPlan, head_for, scan_of_head, seed_of

EXAM = (("T1", 0), ("T2", 2), ("FLAIR", 1))
"""Contrast of each scan of an exam, and the axis across which its slices lie."""
SLICE_MM = 5.0
"""Their spacing."""


def evaluate_exams(
    subjects: Sequence[SubjectFiles], network: HeadNetwork, plan: SimulationPlan
) -> Iterator[dict[str, Any]]:
    """Predict from aligned scans of a head, alone and together, and compare with the standard T1.

    Args:
        subjects: Label maps, from `find_label_maps`.
        network: The model.
        plan: Seed and target.

    Yields:
        One row per prediction: `map`, `scans` (one of `EXAM`, `together`, or `interpolation` of the
        first), and measures in brain and head after a cubic
        mapping of intensities.

    Raises:
        SynthSRError: If there are no label maps.
    """
    if not subjects:
        raise SynthSRError("exams need held-out label maps, got none. Give --labels.")
    for subject in subjects:
        head = head_for(subject, network, plan)
        scans = []
        for name, axis in EXAM:
            image = head.image(name, seed_of(plan.seed, head.name, name, "exam"))
            scans.append(scan_of_head(head, Setting(name, False, SLICE_MM, axis), image, plan.seed))
        alone = [predict_from(scan, network) for scan in scans]
        made = {
            f"{name}, {AXES[axis]}": prediction
            for (name, axis), prediction in zip(EXAM, alone, strict=True)
        }
        made["interpolation"] = cubic(scans[0])
        together = network.together([linear(scan) for scan in scans], operators(scans[0]))
        made["together"] = together
        for name, volume in made.items():
            yield {"map": head.name, "scans": name, **compare(volume, head.reference)}
