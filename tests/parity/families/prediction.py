"""Scans to inputs of networks, and outputs back to scans, as the original and FreeSurfer do it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from synthsr_net.models.checkpoint import Model, ModelConfig
from synthsr_net.models.loading import load_model
from synthsr_net.networks.unet import UNet3d
from synthsr_net.prediction.resampling import resample, reslice
from synthsr_net.prediction.space.postprocess import Prediction, from_network_space, pass_finisher
from synthsr_net.prediction.space.preprocess import ScanSpace, scan_config, to_network_space
from synthsr_transforms.io.grids import Volume, ras_axes, reorient
from synthsr_transforms.io.scans import Scan

from ..vectors import (
    INTENSITY,
    Agreement,
    ImageAgreement,
    Vector,
    family,
    near,
    numbered,
)

AFFINE = 1e-6
"""Largest difference of affines."""
GREY_LEVELS = 0.05
"""Largest difference of predictions, whose scale is 0 to 128."""


def same_volume(what: str, ours: Any, theirs: npt.NDArray[Any]) -> Agreement:
    """Two `(X, Y, Z)` volumes, relative to their range."""
    return ImageAgreement(what, np.asarray(ours), theirs, INTENSITY)


def written(affine: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """An affine as NIfTI files keep it, in float32."""
    return affine.astype(np.float32).astype(np.float64)


@family("resample_volume", numbered(r"volume_(\d+)"))
def resample_volume(vector: Vector, case: str) -> Iterator[Agreement]:
    """To three spacings, with and without blur, with the sizes of the original (B22)."""
    volume = Volume(vector[f"volume_{case}"], vector[f"affine_{case}"])
    spacings = {"1mm": 1.0, "1p5_1_2": (1.5, 1.0, 2.0), "1mm_noblur": 1.0}
    for name, spacing in spacings.items():
        if f"out_{name}_{case}" not in vector:
            continue
        ours = resample(volume, spacing, exact=True, blur="noblur" not in name)
        yield same_volume(name, ours.data, vector[f"out_{name}_{case}"])
        if f"affine_{name}_{case}" in vector:
            yield near(f"{name} affine", ours.affine, vector[f"affine_{name}_{case}"], AFFINE)


@family("predict_v1")
def predict_v1(vector: Vector, case: str) -> Iterator[Agreement]:
    """The original repository: preparation step by step, then predictions."""
    scan, model = Scan(vector["volume"], vector["affine"]), _model(vector, "unet_1ch.h5")
    yield near("RAS axes", ras_axes(scan.affine, legacy=True), vector["ras_axes"], 0)
    resampled = resample(scan.volume, 1.0, exact=True)
    yield same_volume("resampled", resampled.data, vector["resampled"])
    yield near("resampled affine", resampled.affine, vector["resampled_affine"], AFFINE)
    aligned = reorient(resampled, legacy=True)
    yield same_volume("aligned", aligned.data, vector["aligned"])
    yield near("aligned affine", aligned.affine, vector["aligned_affine"], AFFINE)
    x, space = to_network_space([scan], model[0], legacy="v1")
    yield near("padded shape", x.shape[1:], vector["padded_shape"], 0)
    yield near("first voxel", space.begin, vector["pad_begin"], 0)
    yield same_volume("normalised", x[(0, *space.inside)], vector["normalised"])
    variants = {"pred_flip": {}, "pred_noflip": {"flip": False}, "pred_ct": {"ct": True}}
    yield from _variants(vector, variants, [scan], model, "v1")


@family("predict_fsv2")
def predict_fsv2(vector: Vector, case: str) -> Iterator[Agreement]:
    """FreeSurfer's script; `file_uint8` is what its port makes of a prediction before saving."""
    scan, model = Scan(vector["volume"], vector["affine"]), _model(vector, "unet_1ch.h5")
    for key, ct in (("network_input", False), ("network_input_ct", True)):
        if key in vector:
            x, space = to_network_space([scan], model[0], ct=ct, legacy="v2")
            yield same_volume(key, x[0], vector[key])
            ends = np.add(space.begin, space.aligned_grid[0])
            yield near("padding", [*space.begin, *ends], vector["pad_idx"], 0)
            yield near("affine", space.grid[1], vector["resampled_affine"], AFFINE)
    variants = {
        "pred_default": {},
        "pred_noflip": {"flip": False},
        "pred_nosharp": {"sharpen": False},
        "pred_ct": {"ct": True},
    }
    yield from _variants(vector, variants, [scan], model, "v2")
    ours = _predict([scan], model, "v2")[1].image.data
    as_bytes = np.minimum(np.maximum(2 * ours, 0), 255).astype(np.uint8)
    yield near("file_uint8", as_bytes, vector["file_uint8"], 1)


@family("predict_hyperfine")
def predict_hyperfine(vector: Vector, case: str) -> Iterator[Agreement]:
    """Two scans; the network predicts what to add to the first."""
    t1 = Scan(vector["t1"], vector["t1_affine"])
    t2 = Scan(vector["t2"], vector["t2_affine"])
    model = _model(vector, "unet_2ch.h5")
    aligned = reorient(resample(t1.volume, 1.0, exact=True), legacy=True)
    yield same_volume("aligned T1", aligned.data, vector["t1_aligned"])
    yield near("affine", aligned.affine, vector["t1_aligned_affine"], AFFINE)
    x, space = to_network_space([t1, t2], model[0], legacy="v1")
    expected = vector["t2_resampled_like"]
    resliced, _ = reslice(t2.volume, space.aligned_grid, outside=0.0, margin=0.0)
    yield same_volume("resliced T2", resliced, expected)
    scaled = 2 * (expected - expected.min()) / np.ptp(expected)
    yield same_volume("input T2", x[(1, *space.inside)], scaled)
    yield from _variants(vector, {"pred": {}}, [t1, t2], model, "v1")


def _variants(
    vector: Vector,
    variants: dict[str, dict[str, Any]],
    scans: Sequence[Scan],
    model: tuple[ModelConfig, UNet3d],
    legacy: str,
) -> Iterator[Agreement]:
    for key, options in variants.items():
        if key in vector:
            _, prediction = _predict(scans, model, legacy, **options)
            yield near(key, prediction.image.data, vector[key], GREY_LEVELS)
            affine = written(prediction.image.affine)
            yield near(f"{key} affine", affine, vector["pred_affine"], AFFINE)


def _predict(
    scans: Sequence[Scan],
    model: tuple[ModelConfig, UNet3d],
    legacy: str,
    *,
    ct: bool = False,
    flip: bool | None = None,
    sharpen: bool | None = None,
) -> tuple[ScanSpace, Prediction]:
    """A prediction with a plain forward pass, on the device of the network."""
    config, network = model
    x, space = to_network_space(scans, config, ct=ct, legacy=legacy)
    finish = pass_finisher(config, scan_config(config, legacy))
    x = x.to(next(network.parameters()).device)
    output = finish(network(x[None])[0])
    if scan_config(config, legacy).flip if flip is None else flip:
        mirrored = finish(network(x.flip(1)[None])[0])
        output = 0.5 * (output + mirrored.flip(1))
    return space, from_network_space(output, space, config, sharpen=sharpen)


def _model(vector: Vector, name: str) -> tuple[ModelConfig, UNet3d]:
    """The weights that the vectors were recorded with, with the settings that such files get."""
    model = _loaded(vector.beside(name))
    return model.config, model.network.to(vector.device)


@cache
def _loaded(path: Path) -> Model:
    return load_model(path)
