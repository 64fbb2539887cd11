"""Scans that went wrong, of heads whose label map is known: what a quality score must tell apart.

Each degradation changes a `Case` in place and says what it did. What is wrong in the header of the
scan is wrong in that of the label map as well: voxels keep their labels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from scipy.spatial.transform import Rotation

from synthsr_transforms.io.grids import spacing_of

from .slices import acquire

Affine = npt.NDArray[np.float64]
Rng = np.random.Generator
AXES = "xyz"
MOST_ISOTROPIC = 1.5
"""Largest factor of all three spacings: volumes grow by its cube."""


@dataclass
class Case:
    """A head, its truth, and what is done to it."""

    head: str
    """Its name."""
    data: npt.NDArray[np.float32]
    """Intensities `(X, Y, Z)`, axes to the right, front and top."""
    labels: npt.NDArray[np.uint8]
    """Channel of the network that each voxel of the head belongs to."""
    brain: npt.NDArray[np.bool_]
    """Where the brain is."""
    affine: Affine = field(default_factory=lambda: np.eye(4))
    """Voxel-to-world matrix of the scan."""
    label_affine: Affine = field(default_factory=lambda: np.eye(4))
    """That of the label map."""
    words: list[str] = field(default_factory=list)
    """What was done."""
    empty: bool = False
    """Whether no brain is left."""
    mirrors: tuple[bool, ...] = (False,)
    """Whether the sides of the truth are exchanged; with both, the better one counts."""

    def __post_init__(self) -> None:
        self.data = self.data.astype(np.float32)
        low, high = np.percentile(self.data, (1, 99.5))
        self.low, self.range = float(low), float(high - low)

    def done(self, what: str, *numbers: float) -> None:
        """Say what was done."""
        self.words.append(" ".join([what, *(f"{number:.3g}" for number in numbers)]))


def _between(rng: Rng, low: float, high: float) -> float:
    """A number between two, uniform in its logarithm."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


# Acquisition -------------------------------------------------------------------------------------


def slices(case: Case, rng: Rng) -> None:
    """Slices of 1.5 to 9 mm."""
    mm, axis = float(rng.uniform(1.5, 9)), int(rng.integers(3))
    made = acquire(torch.from_numpy(case.data), case.affine, mm, axis)
    case.data, case.affine = made.data.numpy(), np.asarray(made.affine)
    case.done(f"slices {AXES[axis]}", mm)


def noise(case: Case, rng: Rng) -> None:
    """Rician noise."""
    level = _between(rng, 0.03, 0.6)
    real, imaginary = rng.normal(0, level * case.range, (2, *case.data.shape))
    made = np.hypot(case.data - case.low + real, imaginary) + case.low
    case.data = made.astype(np.float32)
    case.done("noise", level)


def motion(case: Case, rng: Rng) -> None:
    """Parts of k-space, but for its centre, that were taken while the head lay elsewhere."""
    grade, number, axis = rng.uniform(0.5, 3.5), int(rng.integers(2, 6)), int(rng.integers(3))
    size = case.data.shape[axis]
    order = np.fft.fftshift(np.arange(size))
    starts = [0, *np.sort(rng.integers(0, size, number))]
    spectrum = np.zeros(case.data.shape, complex)
    for start, end in zip(starts, [*starts[1:], size], strict=True):
        place = [slice(None)] * 3
        place[axis] = order[start:end]
        still = start <= size // 2 < end  # the head is seen where it lay then
        seen = case.data if still else _moved(case, rng, grade)
        spectrum[tuple(place)] = np.fft.fftn(seen)[tuple(place)]
    case.data = np.abs(np.fft.ifftn(spectrum)).astype(np.float32)
    case.done("motion", grade, number)


def _moved(case: Case, rng: Rng, grade: float) -> npt.NDArray[np.float32]:
    turn = Rotation.from_euler("xyz", rng.normal(0, 1.2 * grade, 3), degrees=True).as_matrix()
    centre = (np.array(case.data.shape) - 1) / 2
    shift = centre - turn @ centre + rng.normal(0, 1.5 * grade, 3) / spacing_of(case.affine)
    return ndimage.affine_transform(case.data, turn, shift, order=1, cval=case.low)


def jitter(case: Case, rng: Rng) -> None:
    """Slices that lie beside each other, from motion between them."""
    axis, grade = int(rng.integers(3)), _between(rng, 0.5, 8)
    planes = [
        ndimage.shift(plane, rng.normal(0, grade, 2), order=1, cval=case.low)
        for plane in np.moveaxis(case.data, axis, 0)
    ]
    case.data = np.stack(planes, axis)
    case.done(f"jitter {AXES[axis]}", grade)


def ghost(case: Case, rng: Rng) -> None:
    """A weaker copy of the head that is shifted."""
    axis, share = int(rng.integers(3)), float(rng.uniform(0.2, 0.8))
    shift = case.data.shape[axis] // int(rng.integers(2, 5))
    case.data = case.data + np.float32(share) * np.roll(case.data, shift, axis)
    case.done(f"ghost {AXES[axis]}", share)


def blur(case: Case, rng: Rng) -> None:
    """Gaussian blur."""
    sigma_mm = _between(rng, 0.7, 6)
    case.data = ndimage.gaussian_filter(case.data, sigma_mm / spacing_of(case.affine))
    case.done("blur", sigma_mm)


def hot(case: Case, rng: Rng) -> None:
    """Single voxels that are much too bright."""
    share, height = _between(rng, 1e-5, 0.02), _between(rng, 1.5, 12)
    wrong = rng.random(case.data.shape) < share
    case.data[wrong] = case.low + height * case.range
    case.done("hot", share, height)


def partial(case: Case, rng: Rng) -> None:
    """A quarter to most of the field of view, from one of its ends or from its middle."""
    axis, share = int(rng.integers(3)), float(rng.uniform(0.25, 0.85))
    size = case.data.shape[axis]
    length = max(4, round(share * size))
    start = int(rng.choice([0, size - length, rng.integers(size - length + 1)]))
    place = tuple(slice(start, start + length) if a == axis else slice(None) for a in range(3))
    case.data, case.affine = case.data[place], case.affine.copy()
    case.affine[:3, 3] += case.affine[:3, axis] * start
    case.done(f"partial {AXES[axis]}", share, start)


def bias(case: Case, rng: Rng) -> None:
    """A strong bias field."""
    std, number = float(rng.uniform(0.2, 1.5)), int(rng.integers(2, 5))
    knots = rng.normal(0, std, (number,) * 3)
    zoom = [(size + 0.01) / number for size in case.data.shape]
    log = ndimage.zoom(knots, zoom, order=3, mode="nearest", grid_mode=True)
    case.data = ((case.data - case.low) * np.exp(log) + case.low).astype(np.float32)
    case.done("bias", std)


def clipping(case: Case, rng: Rng) -> None:
    """Bright tissue at the highest value, often with dark tissue at the lowest."""
    head = case.data[case.data > case.low + 0.1 * case.range]
    high = np.percentile(head, rng.uniform(40, 97)) if head.size else case.low + case.range
    low = case.low + (high - case.low) * rng.uniform(0, 0.8) * rng.integers(2)
    case.data = np.clip(case.data, low, high).astype(np.float32)
    case.done("clipping", *((np.array([low, high]) - case.low) / case.range))


def gamma(case: Case, rng: Rng) -> None:
    """Another course of intensities."""
    power = _between(rng, 0.22, 4.5)
    share = (case.data - case.data.min()) / max(float(np.ptp(case.data)), 1e-6)
    case.data = (255 * share**power).astype(np.float32)
    case.done("gamma", power)


def tilted(case: Case, rng: Rng) -> None:
    """A head that lies 10 to 60 degrees from where it should."""
    axis, degrees = int(rng.integers(3)), float(rng.uniform(10, 60) * rng.choice([-1, 1]))
    _change_world(case, Rotation.from_euler(AXES[axis], degrees, degrees=True).as_matrix())
    case.done(f"tilted {AXES[axis]}", degrees)


# Wrong headers and contents ----------------------------------------------------------------------


def spacing(case: Case, rng: Rng) -> None:
    """A spacing that is wrong by a factor of 0.5 to 2, of one axis or of all."""
    factor, factors = 1.0, np.ones(3)
    while abs(np.log(factor)) < 0.1:
        factor = _between(rng, 0.5, 2)
    if rng.random() < 0.6:
        factors[:] = min(factor, MOST_ISOTROPIC)
    else:
        factors[int(rng.integers(3))] = factor
    _change_world(case, np.diag(factors))
    case.done("spacing", *factors)


def turned(case: Case, rng: Rng) -> None:
    """Upside down, or on its side, or facing backwards."""
    turns = ((180, 0, 0), (90, 0, 0), (-90, 0, 0), (0, 90, 0), (0, 0, 90), (0, 0, 180))
    number = int(rng.integers(len(turns) + 1))
    upside_down = np.diag([1.0, 1.0, -1.0])
    turn = Rotation.from_euler("xyz", turns[number % len(turns)], degrees=True).as_matrix()
    _change_world(case, turn if number < len(turns) else upside_down)
    case.mirrors = (False, True)
    case.done("turned", number)


def mirrored(case: Case, rng: Rng) -> None:
    """Left and right exchanged, which nothing in a scan can tell: sides are those of the header."""
    _change_world(case, np.diag([-1.0, 1.0, 1.0]))
    case.mirrors = (True,)
    case.done("mirrored")


def _change_world(case: Case, matrix: Affine) -> None:
    change = np.eye(4)
    change[:3, :3] = matrix
    case.affine, case.label_affine = change @ case.affine, change @ case.label_affine


def inverted(case: Case, rng: Rng) -> None:
    """Dark for bright, air included."""
    case.data = case.data.max() - case.data
    case.done("inverted")


def edges(case: Case, rng: Rng) -> None:
    """The gradient of the scan in its place."""
    case.data = ndimage.gaussian_gradient_magnitude(case.data, 1).astype(np.float32)
    case.done("edges")


# No brain at all ---------------------------------------------------------------------------------


def empty_skull(case: Case, rng: Rng) -> None:
    """A head whose brain is dark, flat, structureless or smoothed away."""
    data, level = case.data, float(np.median(case.data[case.brain]))
    kind = str(rng.choice(["dark", "flat", "texture", "smoothed"]))
    made = {
        "dark": lambda: case.low + np.abs(rng.normal(0, 0.03 * case.range, data.shape)),
        "flat": lambda: np.full(data.shape, level),
        "texture": lambda: level + 0.25 * case.range * _texture(data.shape, rng, 1.5, 5),
        "smoothed": lambda: ndimage.gaussian_filter(data, 12),
    }[kind]()
    around = ndimage.binary_dilation(case.brain)
    _replace(case, np.where(around, made, data), f"empty skull {kind}")


def object_in_place(case: Case, rng: Rng) -> None:
    """Noise, a test object, a ball, shells like those of a head, or a trunk with lungs."""
    shape = case.data.shape
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    half = rng.uniform(0.5, 0.95, 3)
    radius = np.sqrt((x / half[0]) ** 2 + (y / half[1]) ** 2 + (z / half[2]) ** 2)
    kind = str(rng.choice(["noise", "clouds", "ball", "shells", "grid", "rods", "trunk"]))
    made = {
        "noise": lambda: np.abs(rng.normal(0, 100, shape)),
        "clouds": lambda: 100 + 40 * _texture(shape, rng, 2, 12),
        "ball": lambda: (radius < 1) * (100 + rng.uniform(0, 25) * _texture(shape, rng, 1, 6)),
        "shells": lambda: _shells(radius) + 15 * (radius < 1) * _texture(shape, rng, 3, 3.1),
        "grid": lambda: (radius < 1) * (120 + 80 * _checks(shape, int(rng.integers(4, 20)))),
        "rods": lambda: _rods(x, y, z, rng),
        "trunk": lambda: _trunk(x, y, z) + 10 * _texture(shape, rng, 2, 2.1),
    }[kind]()
    _replace(case, np.abs(made + rng.normal(0, 3, shape)), kind)


def _replace(case: Case, data: npt.NDArray[np.floating], what: str) -> None:
    case.data, case.empty = data.astype(np.float32), True
    case.done(what)


def _texture(shape: tuple[int, ...], rng: Rng, low: float, high: float) -> Affine:
    made = ndimage.gaussian_filter(rng.normal(0, 1, shape), _between(rng, low, high))
    return np.asarray(made / made.std())


def _shells(radius: Affine) -> Affine:
    return np.select([radius < 0.55, radius < 0.75, radius < 0.85, radius < 1], [160, 110, 20, 180])


def _checks(shape: tuple[int, ...], size: int) -> Affine:
    return np.asarray(np.indices(shape).sum(0) // size % 2)


def _rods(x: Affine, y: Affine, z: Affine, rng: Rng) -> Affine:
    made = 150.0 * ((x / 0.75) ** 2 + (y / 0.75) ** 2 < 1) * (np.abs(z) < 0.8)
    for _ in range(12):
        a, b = rng.uniform(-0.5, 0.5, 2)
        inside = (x - a) ** 2 + (y - b) ** 2 < rng.uniform(0.05, 0.2) ** 2
        made[inside & (np.abs(z) < 0.7)] = rng.uniform(0, 255)
    return made


def _trunk(x: Affine, y: Affine, z: Affine) -> Affine:
    across = (x / 0.9) ** 2 + (y / 0.6) ** 2
    made = np.select([across < 0.85, across < 1], [120.0, 230.0], 0.0)
    for side in (-0.4, 0.4):
        made[((x - side) / 0.3) ** 2 + (y / 0.4) ** 2 + (z / 0.8) ** 2 < 1] = 15
    made[(x / 0.1) ** 2 + ((y + 0.45) / 0.1) ** 2 < 1] = 200
    return made


# Choice ------------------------------------------------------------------------------------------

Degradation = Callable[[Case, Rng], None]
ACQUISITION: tuple[Degradation, ...] = (
    *(slices, slices, slices, noise, motion, jitter, ghost, blur, hot, partial, partial),
    *(bias, clipping, gamma, tilted),
)
WRONG: tuple[Degradation, ...] = (
    *(spacing, spacing, spacing, turned, turned, turned, mirrored, inverted, edges),
)
NOTHING: tuple[Degradation, ...] = (empty_skull, object_in_place)
PLAN: Mapping[str, tuple[tuple[Degradation, ...], ...]] = {
    "sound": (),
    "degraded": (ACQUISITION,),
    "degraded twice": (ACQUISITION, ACQUISITION),
    "wrong": (WRONG,),
    "wrong and degraded": (WRONG, ACQUISITION),
    "no brain": (NOTHING,),
}
"""What is drawn for each kind of case."""
CYCLE = (
    *("sound", "degraded", "wrong", "no brain", "degraded", "degraded twice", "degraded"),
    *("wrong", "degraded twice", "degraded", "wrong and degraded", "no brain"),
)
"""Kinds in the order of the cases, over and over."""


def degrade(case: Case, number: int, rng: Rng) -> None:
    """Degrade a head in the way of the case with this number."""
    for choice in PLAN[CYCLE[number % len(CYCLE)]]:
        choice[int(rng.integers(len(choice)))](case, rng)
