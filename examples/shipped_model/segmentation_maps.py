"""Make the label maps that `train_segmentation.py` trains the later portions on.

Usage: python examples/shipped_model/segmentation_maps.py SYNTHSEG LAB2IM BRAINS OUTPUT

SYNTHSEG is the folder with the 20 heads of SynthSeg, LAB2IM the head of lab2im, and BRAINS the
folder with the 5 brains of SynthSR. OUTPUT gets

* the held-out heads as they are, and the other heads with structures of the size that they have in
  FreeSurfer's segmentations and in SynthSR's brains: a larger pallidum (0.27 of the volume of the
  putamen in these maps, 0.4 there), smaller accumbens area and amygdala, and thinner inferior
  lateral ventricles;
* the same heads with smaller ventricles, where the lateral ones have more than 20 ml;
* the brains of SynthSR in heads of SynthSeg, fitted to them, with fluid between; half of them with
  the cerebellum of the head.

The maps of the second portion had a `PALLIDUM_GAIN` of 1.4 and were not `reduced`; all had the
cerebellum of the brain.

The head of lab2im and the brains get sides.
"""

from __future__ import annotations

import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from scipy import ndimage
from scipy.optimize import minimize
from train_segmentation import FOREIGN, HELD_OUT, IN_HEAD, OPPOSITE, with_sides

from synthsr_transforms.io.files import stem
from synthsr_transforms.io.grids import Volume, reorient
from synthsr_transforms.io.volumes import read_labels, write_volume

PALLIDUM_GAIN = 1.25
"""Volume of the pallidum after enlarging it over that before."""
REDUCED = (
    # Label, volume to keep (share and least ml), and what takes the rest.
    (26, 0.75, 0.0, (2, 3)),
    (58, 0.75, 0.0, (41, 42)),
    (18, 0.85, 0.0, (2, 3)),
    (54, 0.85, 0.0, (41, 42)),
    (5, 0.4, 0.35, (2, 17, 18)),
    (44, 0.4, 0.35, (41, 53, 54)),
)
SMALLER = (
    # Labels, range of the volume to reach (ml, both sides), and what it may be shrunk by (voxels).
    ((4, 43, 31, 63, 136, 163), (6.0, 20.0), 4.0),
    ((5, 44, 137, 164), (0.25, 0.9), 1.5),
    ((14,), (0.5, 1.2), 1.5),
)
REACH = 10.0
"""Distance in voxels from a ventricle up to which its surroundings follow when it shrinks."""
LARGE_ML = 20.0
"""Lateral ventricles of more than this are worth shrinking."""
DONORS = ((3, 13, 10), (4, 20, 8), (7, 9, 12), (9, 19, 17), (13, 4, 15))
"""Heads of SynthSeg that each brain is put into."""
SHAPE = (192, 240, 240)
"""Of the maps of brains in other heads."""
FLUID, STEM, CORD = 24, 16, 512
CEREBELLUM = (7, 8, 46, 47)


def enlarged(labels: np.ndarray, gain: float = PALLIDUM_GAIN) -> np.ndarray:
    """Labels with a larger pallidum, at the cost of white matter and putamen next to it."""
    labels = labels.copy()
    for pallidum, others in ((13, (2, 12)), (52, (41, 51))):
        part = labels[_box_around(labels == pallidum, 16)]
        inside = part == pallidum
        distance = ndimage.distance_transform_edt(~inside)
        # Smoothed, so that the order of voxels is not that of the grid.
        height = ndimage.gaussian_filter(np.minimum(distance, 6), 0.7)
        height[inside | ~np.isin(part, others)] = np.inf
        more = round((gain - 1) * inside.sum())
        part[height <= np.partition(height.ravel(), more)[more]] = pallidum
    return labels


def reduced(labels: np.ndarray) -> np.ndarray:
    """Labels with smaller structures of `REDUCED`; the nearest of its neighbours takes a voxel."""
    labels = labels.copy()
    for value, share, least_ml, others in REDUCED:
        if value not in labels:
            continue
        part = labels[_box_around(labels == value, 8)]
        inside = part == value
        size = int(inside.sum())
        kept = min(size, max(round(share * size), round(1000 * least_ml)))
        distance, nearest = ndimage.distance_transform_edt(
            ~np.isin(part, others), return_indices=True
        )
        depth = ndimage.gaussian_filter(np.minimum(distance, 8), 0.7)
        depth[~inside] = np.inf
        lost = depth < np.partition(depth.ravel(), size - kept)[size - kept]
        part[lost] = part[tuple(nearest)][lost]
    return labels


def _box_around(mask: np.ndarray, margin: int) -> tuple[slice, ...]:
    box = ndimage.find_objects(mask.astype(np.uint8))[0]
    return tuple(slice(max(0, s.start - margin), s.stop + margin) for s in box)


def with_small_ventricles(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Labels whose ventricles shrink to the volume of young ones; what surrounds them follows."""
    for values, (low, high), most in SMALLER:
        inside = np.isin(labels, values)
        box = _box_around(inside, int(REACH) + 6)
        labels = labels.copy()
        labels[box] = _shrunk(labels[box], inside[box], 1000 * rng.uniform(low, high), most)
    return labels


def _shrunk(labels: np.ndarray, inside: np.ndarray, volume: float, most: float) -> np.ndarray:
    outer = ndimage.distance_transform_edt(~inside)
    inner = ndimage.distance_transform_edt(inside)
    depth = ndimage.gaussian_filter(np.where(inside, 0.5 - inner, outer - 0.5), 0.7)
    share = min(1.0, volume / inside.sum())
    shift = float(np.clip(np.quantile(-depth[inside], 1 - share), 0, most))
    # A distance of -shift has to show what lies at 0, and REACH what lies there.
    source = np.where(depth < -shift, depth + shift, (depth + shift) * REACH / (REACH + shift))
    move = np.where(depth < REACH, source - depth, 0)
    slope = np.stack(np.gradient(ndimage.gaussian_filter(depth, 1.0)))
    slope /= np.maximum(np.sqrt((slope**2).sum(0)), 0.3)
    field = np.stack([ndimage.gaussian_filter(move * part, 0.7) for part in slope])
    places = np.stack(np.meshgrid(*(np.arange(n) for n in labels.shape), indexing="ij")) + field
    return ndimage.map_coordinates(labels, places, order=0, mode="nearest")


def in_head(brain: np.ndarray, head: np.ndarray, *, keep_cerebellum: bool = False) -> np.ndarray:
    """A brain in a head that is fitted to it; labels of the shape `SHAPE`.

    Args:
        brain: Labels of the brain.
        head: Labels of the head.
        keep_cerebellum: The cerebellum stays that of the head.
    """
    canvas = np.zeros(SHAPE, brain.dtype)
    starts = [(n - m) // 2 for n, m in zip(SHAPE, brain.shape, strict=True)]
    starts[2] += 20  # space for the neck
    canvas[tuple(slice(a, a + m) for a, m in zip(starts, brain.shape, strict=True))] = brain
    matrix, offset = _fit(*(_is_brain(part) & (part != STEM) for part in (head, canvas)))
    fitted = ndimage.affine_transform(head, matrix, offset, output_shape=SHAPE, order=0)
    if keep_cerebellum:
        canvas = _with_cerebellum(canvas, fitted)
    inside = _is_brain(canvas)
    bottom = np.argwhere(canvas == STEM)[:, 2].min()
    below = np.arange(SHAPE[2]) < bottom
    fitted[(fitted == STEM) & below] = CORD
    fitted[_is_brain(fitted)] = FLUID
    folds = ndimage.binary_closing(inside, iterations=4)
    rim = ndimage.binary_dilation(inside) & (fitted > 500) & ~below
    fitted[(folds & ~(fitted == CORD)) | rim] = FLUID
    return np.where(inside, canvas, fitted)


def _with_cerebellum(brain: np.ndarray, head: np.ndarray) -> np.ndarray:
    """The brain with the cerebellum of a head; its own stays next to the brain stem."""
    own, other = (np.isin(labels, CEREBELLUM) for labels in (brain, head))
    near = ndimage.binary_dilation(brain == STEM, iterations=5) & np.isin(brain, (7, 46))
    room = (own & ~near) | ~_is_brain(brain)
    return np.where(room & other, head, np.where(own & ~near, 0, brain))


def _is_brain(labels: np.ndarray) -> np.ndarray:
    return (labels > 0) & (labels < 500) & ~np.isin(labels, (FLUID, 85))


def _fit(moving: np.ndarray, fixed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Matrix and offset from voxels of the fixed mask to those of the moving one."""
    step = 4
    there, here = (_coarse(mask, step) for mask in (moving, fixed))
    centres = [np.argwhere(mask).mean(0) for mask in (fixed, moving)]

    def affine(p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        a, b, c = p[:3]
        turn = np.array([[1, -c, b], [c, 1, -a], [-b, a, 1]])
        matrix = turn @ np.diag(np.exp(p[3:6]))
        return matrix, centres[1] + 10 * p[6:9] - matrix @ centres[0]

    def mismatch(p: np.ndarray) -> float:
        matrix, offset = affine(p)
        offset = (offset + (matrix @ np.ones(3) - 1) * (step - 1) / 2) / step
        moved = ndimage.affine_transform(there, matrix, offset, output_shape=here.shape, order=1)
        return -2 * float((moved * here).sum() / (moved.sum() + here.sum()))

    steps = np.vstack([np.zeros(9), np.diag([0.15] * 3 + [0.1] * 3 + [0.4] * 3)])
    options = {"initial_simplex": steps, "maxfev": 700, "xatol": 1e-3, "fatol": 1e-5}
    found = minimize(mismatch, np.zeros(9), method="Nelder-Mead", options=options)
    print(f"fitted a head: Dice of the masks {-found.fun:.3f}", flush=True)
    return affine(found.x)


def _coarse(mask: np.ndarray, step: int) -> np.ndarray:
    pads = [(0, -n % step) for n in mask.shape]
    x, y, z = (n // step for n in np.pad(mask, pads).shape)
    blocks = np.pad(mask, pads).reshape(x, step, y, step, z, step)
    return blocks.mean((1, 3, 5)).astype(np.float32)


def read(path: Path) -> Volume:
    """A label map with axes to the right, front and top, and with sides."""
    volume = reorient(read_labels(path))
    labels = volume.data.astype(np.int16)
    if 41 not in labels:
        labels = with_sides(labels, OPPOSITE)
        for value, other in FOREIGN.items():
            labels[labels == value] = other
    return volume._replace(data=labels)


def write_head(path: Path, out: Path) -> None:
    """Write a head and, where its ventricles are large, the same with smaller ones."""
    volume, name = read(path), stem(path)
    if name in HELD_OUT:
        write_volume(out / f"{name}.nii.gz", volume)
        return
    volume = volume._replace(data=reduced(enlarged(volume.data)))
    write_volume(out / f"{name}.nii.gz", volume)
    if np.isin(volume.data, SMALLER[0][0]).sum() > 1000 * LARGE_ML:
        rng = np.random.default_rng(sum(name.encode()))
        small = with_small_ventricles(volume.data, rng)
        write_volume(out / f"{name}_small.nii.gz", volume._replace(data=small))


def write_brain(path: Path, donor: Path, out: Path, *, keep_cerebellum: bool = False) -> None:
    """Write a brain in another head."""
    labels = in_head(read(path).data, read(donor).data, keep_cerebellum=keep_cerebellum)
    volume = Volume(data=labels, affine=np.eye(4))
    write_volume(out / f"{stem(path)}{IN_HEAD}{stem(donor)[-2:]}.nii.gz", volume)


def main() -> None:
    """Read the arguments and write all maps."""
    heads, lab2im, brains, out = map(Path, sys.argv[1:])
    out.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor() as pool:
        jobs = [pool.submit(write_head, path, out) for path in sorted(heads.glob("*.nii.gz"))]
        jobs.append(pool.submit(write_head, lab2im, out))
        for path, donors in zip(sorted(brains.glob("*.nii.gz")), DONORS, strict=True):
            for donor in donors:
                head = heads / f"training_seg_{donor:02d}.nii.gz"
                keep = len(jobs) % 2 == 0
                jobs.append(pool.submit(write_brain, path, head, out, keep_cerebellum=keep))
        for job in jobs:
            job.result()


if __name__ == "__main__":
    main()
