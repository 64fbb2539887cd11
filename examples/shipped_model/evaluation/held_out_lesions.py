"""Part (d), continued: lesions of white matter in simulated scans of held-out label maps.

A model that fills in lesions must predict what it predicts without them. Caps and bands beside the
ventricles are harder than blobs in deep white matter: grey matter and fluid are near.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from synthsr_net.prediction.refinement.brain_mask import Regions, dilated
from synthsr_transforms.labels.table import LabelTable
from synthsr_transforms.subjects.files import SubjectFiles

from .contrasts import CONTRASTS, LATERAL_VENTRICLES
from .heads import Head, read_head
from .held_out import AXES, HeldOutPlan, Setting, scan_of_head, seed_of
from .lesions import SHELL_MM, contrast, draw_lesions
from .likeness import brain_of
from .network import HeadNetwork
from .pictures import Pictures
from .slices import linear, operators

NEAR_MM = 6.0
"""Distance from the lateral ventricles up to which lesions count as beside them."""
NEAR, FAR = "beside the ventricles", "elsewhere"
_TRACE = 0.05  # share of lesion up to which a voxel is healthy
_TABLE = "synthseg"  # of tissues; other labels belong to none


def evaluate_head_lesions(
    subjects: Sequence[SubjectFiles],
    network: HeadNetwork,
    plan: HeldOutPlan,
    pictures: Pictures | None = None,
    *,
    on_row: Callable[[], object] | None = None,
) -> list[dict[str, Any]]:
    """Predict from scans of heads with and without lesions, and compare the lesions' contrasts.

    Args:
        subjects: Label maps, from `heads.find_label_maps`.
        network: The model.
        plan: Contrasts `with_lesions`, their slices, and the seed.
        pictures: Where to draw the first label map in each contrast.
        on_row: Called after each prediction, to show progress.

    Returns:
        Two rows per label map and contrast: `map`, `contrast`, `slice_mm`, `axis`, `place` (beside
        the lateral ventricles or elsewhere), `ml`, and `lesions`: the contrasts `input`,
        `prediction`, and `without`, which is that of the prediction from the scan without lesions;
        see `evaluation.lesions.contrast`. One that cannot be measured is left out.
    """
    rows = []
    for number, subject in enumerate(subjects):
        head = read_head(subject, network.spacing_mm, network.config.scan.divisor, network.device)
        weights = head.lesion_weights(seed_of(plan.seed, head.name, "lesions"))
        regions = _regions(head, weights > _TRACE, network.spacing_mm)
        places = _places(head, weights > 0.5, network.spacing_mm)
        for setting, volumes in _predicted(head, weights, network, plan, on_row):
            for place, lesions in places.items():
                found = {
                    name: contrast(volume, lesions, regions, network.spacing_mm)
                    for name, volume in volumes.items()
                }
                rows.append({**_about(head, setting, place, lesions, network), "lesions": found})
            if pictures is not None and not number and bool(places[NEAR].any()):
                name = f"held_out_{setting.contrast}_with_lesions"
                title = f"{head.name}: {setting.contrast} with lesions, slices of"
                title += f" {setting.slice_mm:g} mm"
                draw_lesions(pictures, name, title, head.affine, places[NEAR], volumes)
    return [
        {**row, "lesions": {k: v for k, v in row["lesions"].items() if not math.isnan(v)}}
        for row in rows
    ]


def num_lesion_predictions(plan: HeldOutPlan, num_maps: int) -> int:
    """How many predictions `evaluate_head_lesions` makes."""
    return 2 * num_maps * len(plan.with_lesions)


def _predicted(
    head: Head,
    weights: Tensor,
    network: HeadNetwork,
    plan: HeldOutPlan,
    on_row: Callable[[], object] | None,
) -> Iterator[tuple[Setting, dict[str, Tensor]]]:
    """For each contrast, the scan with lesions and the predictions with and without them."""
    for name in plan.with_lesions:
        setting = Setting(name, False, plan.lesions_mm, plan.axes[-1])
        healthy = head.image(name, seed_of(plan.seed, head.name, name, ""))
        lesion = torch.full_like(healthy, (CONTRASTS[name].by_tissue or {})["lesion"])
        ill = torch.lerp(healthy, lesion, weights)
        scans = [scan_of_head(head, setting, image, plan.seed) for image in (ill, healthy)]
        volumes = {"input": linear(scans[0])}
        for which, scan in zip(("prediction", "without"), scans, strict=True):
            volumes[which] = network(linear(scan), slices=operators(scan))
            if on_row is not None:
                on_row()
        yield setting, volumes


def _places(head: Head, lesions: Tensor, spacing_mm: float) -> dict[str, Tensor]:
    """Masks of the lesions beside the lateral ventricles, and of the others."""
    ventricles = _where(head, LATERAL_VENTRICLES)
    near = dilated(ventricles, NEAR_MM / spacing_mm)
    return {NEAR: lesions & near, FAR: lesions & ~near}


def _regions(head: Head, lesions: Tensor, spacing_mm: float) -> Regions:
    """Regions as the labels say, white and grey matter apart from all lesions."""
    others = ~dilated(lesions, SHELL_MM[0] / spacing_mm)
    table = LabelTable.ready(_TABLE)
    white, grey = (
        _where(head, table.values_of(tissue)) & others for tissue in ("white_matter", "grey_matter")
    )
    return Regions(brain_of(head.reference), white, grey, head.labels > 0)


def _where(head: Head, values: Sequence[int]) -> Tensor:
    return torch.isin(head.labels, torch.tensor(list(values), device=head.labels.device))


def _about(
    head: Head, setting: Setting, place: str, lesions: Tensor, network: HeadNetwork
) -> dict[str, Any]:
    return {
        "map": head.name,
        "contrast": setting.contrast,
        "slice_mm": setting.slice_mm,
        "axis": AXES[setting.axis],
        "place": place,
        "ml": float(lesions.sum()) * network.spacing_mm**3 / 1000,
    }
