"""Rigid registration of scans of one head, by the T1-weighted scans predicted from them.

Predictions have one contrast, so that correlation measures how well they agree. It is maximised in
the brain, the rigid part of a head, in three steps from coarse to fine. What lies around the brain
helps to find it at first, and to tell heads apart in the end; in between it would mislead, because
networks know skull and meninges less well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from synthsr_net.prediction.refinement.brain_mask import dilated, find_brain
from synthsr_net.prediction.resampling import Grid, reslice
from synthsr_transforms.io.grids import Affine, Volume

if TYPE_CHECKING:
    from SimpleITK import Euler3DTransform, Image

COARSE = 2
"""Voxels of a prediction that make one of the coarse steps, along each axis."""
MARGIN_MM = 4.0
"""Distance from the brain up to which its surroundings count, in the first step and the check."""
MIN_BRAIN_ML = 300.0
"""Less than this is no brain to register by."""
THREADS = 2
"""Of SimpleITK, whatever the machine: sums depend on their number."""
RELAXATION = 0.7
"""Ratio of the optimiser's moves after and before it changed its direction."""
RAS_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""World coordinates of NIfTI (right, anterior, superior) to those of ITK (left, posterior,
superior), and back."""
_REACH_MM = 30.0  # around the brain of the scan that is moved

Mask = npt.NDArray[np.bool_]


class Step(NamedTuple):
    """A step of the registration.

    Attributes:
        coarse: Whether it takes coarse voxels.
        near: Whether the surroundings of the brain count as well.
        shrink: Further reduction of the voxels that are compared, along each axis.
        sigma_mm: Width of the Gaussian blur.
        share: Of these voxels, how many are compared.
        first_mm: Largest move that the optimiser begins with.
        least_mm: Move at which it ends.
    """

    coarse: bool
    near: bool
    shrink: int
    sigma_mm: float
    share: float
    first_mm: float
    least_mm: float


STEPS = (
    Step(coarse=True, near=True, shrink=3, sigma_mm=4.0, share=1.0, first_mm=2.0, least_mm=0.05),
    Step(coarse=True, near=False, shrink=1, sigma_mm=1.5, share=0.5, first_mm=0.5, least_mm=0.02),
    Step(coarse=False, near=False, shrink=1, sigma_mm=0.8, share=0.1, first_mm=0.25, least_mm=0.01),
)


class Registration(NamedTuple):
    """Result of a registration.

    Attributes:
        first_to_scan: `(4, 4)` from points of the first scan to those of the other, in mm of the
            world of NIfTI.
        before: Correlation in the brain by the headers, NaN where they do not meet.
        after: Correlation in the brain after the registration.
        shift_mm: Displacement of the centre of the brain.
        angle_degrees: Angle of the rotation.
        covered: Share of the brain of the first scan within the field of view of the other.
    """

    first_to_scan: Affine
    before: float
    after: float
    shift_mm: float
    angle_degrees: float
    covered: float


class Head(NamedTuple):
    """The brain of a prediction, cut out with its surroundings.

    Attributes:
        fine: The prediction.
        coarse: The same on coarse voxels.
        brain: The brain, on the coarse voxels.
        near: The brain and its surroundings, likewise.
    """

    fine: Volume
    coarse: Volume
    brain: Mask
    near: Mask

    @property
    def centre_mm(self) -> npt.NDArray[np.float64]:
        """Centre of the brain in the world."""
        affine = self.coarse.affine
        return np.asarray(affine[:3, :3] @ np.argwhere(self.brain).mean(0) + affine[:3, 3])


def head_of(prediction: Volume, margin_mm: float = 0.0) -> Head | None:
    """The brain of a prediction.

    Args:
        prediction: `(X, Y, Z)` float32, white matter near 110, voxels of about 1 mm.
        margin_mm: Further surroundings.

    Returns:
        None if there is no brain.
    """
    coarse = _coarse(prediction)
    spacing_mm = float(np.mean(coarse.spacing_mm))
    brain = find_brain(coarse.data, spacing_mm)
    if float(brain.sum()) * spacing_mm**3 / 1000 < MIN_BRAIN_ML:
        return None
    mask = dilated(brain, MARGIN_MM / spacing_mm)
    margin = round((margin_mm + MARGIN_MM) / spacing_mm)
    cut = []
    for axis, size in enumerate(mask.shape):
        used = np.flatnonzero(mask.any(tuple({0, 1, 2} - {axis})))
        cut.append(slice(max(0, int(used[0]) - margin), min(size, int(used[-1]) + margin + 1)))
    fine = [slice(COARSE * place.start, COARSE * place.stop) for place in cut]
    place = tuple(cut)
    return Head(_cut(prediction, fine), _cut(coarse, cut), brain[place], mask[place])


def register(first: Head, prediction: Volume) -> Registration | None:
    """Register the prediction of another scan to that of the first, rigidly.

    Args:
        first: From `head_of`.
        prediction: Of the other scan.

    Returns:
        None if the prediction shows no brain.
    """
    other = head_of(prediction, _REACH_MM)
    if other is None:
        return None
    apart = np.eye(4)
    apart[:3, 3] = other.centre_mm - first.centre_mm
    before = agreement(first, prediction, np.eye(4))[0]
    start = max(np.eye(4), apart, key=lambda m: np.nan_to_num(agreement(first, prediction, m)[0]))
    matrix = _aligned(first, other, start)
    after, covered = agreement(first, prediction, matrix)
    centre = first.centre_mm
    shift_mm = float(np.linalg.norm(matrix[:3, :3] @ centre + matrix[:3, 3] - centre))
    cosine = (np.trace(matrix[:3, :3]) - 1) / 2
    degrees = float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))
    return Registration(matrix, before, after, shift_mm, degrees, covered)


def agreement(first: Head, prediction: Volume, first_to_scan: Affine) -> tuple[float, float]:
    """Correlation of two predictions near the brain of the first, and the share that both show.

    Args:
        first: From `head_of`.
        prediction: Of the other scan.
        first_to_scan: From points of the first to those of the other.

    Returns:
        The correlation in the brain and its surroundings, NaN where a tenth of them or less is
        shown by both, and the share of the brain.
    """
    grid: Grid = first.brain.shape, first_to_scan @ first.coarse.affine
    data, _ = reslice(_coarse(prediction), grid, outside=np.nan)
    shown = ~np.isnan(data)
    seen = first.near & shown
    share = float((first.brain & shown).sum() / first.brain.sum())
    if seen.sum() <= first.near.sum() / 10:
        return float("nan"), share
    ours, theirs = first.coarse.data[seen], data[seen]
    with np.errstate(invalid="ignore", divide="ignore"):
        return float(np.corrcoef(ours, theirs)[0, 1]), share


def _coarse(volume: Volume) -> Volume:
    """Means of `COARSE` voxels along each axis."""
    x, y, z = (n // COARSE for n in volume.data.shape)
    data = np.asarray(volume.data[: x * COARSE, : y * COARSE, : z * COARSE], np.float32)
    data = data.reshape(x, COARSE, y, COARSE, z, COARSE).mean((1, 3, 5))
    affine = volume.affine @ np.diag([COARSE, COARSE, COARSE, 1.0])
    affine[:3, 3] += volume.affine[:3, :3] @ np.full(3, (COARSE - 1) / 2)
    return Volume(data, affine)


def _cut(volume: Volume, place: list[slice]) -> Volume:
    affine = volume.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ [each.start for each in place]
    return Volume(volume.data[tuple(place)], affine)


def _aligned(first: Head, other: Head, start: Affine) -> Affine:
    """The rigid transform that makes two predictions correlate best, from a translation."""
    import SimpleITK as sitk  # noqa: N813 - the customary name

    brain, near = (_image(Volume(m, first.coarse.affine)) for m in (first.brain, first.near))
    transform = sitk.Euler3DTransform()
    transform.SetCenter((RAS_LPS[:3, :3] @ first.centre_mm).tolist())
    transform.SetTranslation((RAS_LPS[:3, :3] @ start[:3, 3]).tolist())
    for step in STEPS:
        fixed, moving = (h.coarse if step.coarse else h.fine for h in (first, other))
        mask = near if step.near else brain
        _improve(transform, _image(fixed), _image(moving), mask, step)
    return matrix_of(transform)


def _improve(
    transform: Euler3DTransform, fixed: Image, moving: Image, mask: Image, step: Step
) -> None:
    import SimpleITK as sitk  # noqa: N813 - the customary name

    method = sitk.ImageRegistrationMethod()
    method.SetNumberOfThreads(THREADS)
    method.SetMetricAsCorrelation()
    method.SetMetricFixedMask(sitk.Cast(mask, sitk.sitkUInt8))
    method.SetMetricSamplingStrategy(method.REGULAR)
    method.SetMetricSamplingPercentage(step.share, 1)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetShrinkFactorsPerLevel([step.shrink])
    method.SetSmoothingSigmasPerLevel([step.sigma_mm])
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=step.first_mm,
        minStep=step.least_mm,
        numberOfIterations=100,
        relaxationFactor=RELAXATION,
    )
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetInitialTransform(transform, inPlace=True)
    try:
        method.Execute(fixed, moving)
    except RuntimeError:  # they do not meet: as far as it got, which the check finds out
        return


def _image(volume: Volume) -> Image:
    """A volume with axes at right angles as an image of ITK."""
    import SimpleITK as sitk  # noqa: N813 - the customary name

    image = sitk.GetImageFromArray(np.ascontiguousarray(volume.data.T.astype(np.float32)))
    affine = RAS_LPS @ volume.affine
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    image.SetDirection((affine[:3, :3] / spacing).ravel().tolist())
    return image


def matrix_of(transform: Euler3DTransform) -> Affine:
    """A linear transform of ITK as `(4, 4)` matrix of the world of NIfTI."""
    origin = np.array(transform.TransformPoint((0.0, 0.0, 0.0)))
    matrix = np.eye(4)
    for axis, point in enumerate(np.eye(3).tolist()):
        matrix[:3, axis] = np.array(transform.TransformPoint(point)) - origin
    matrix[:3, 3] = origin
    return np.asarray(RAS_LPS @ matrix @ RAS_LPS)
