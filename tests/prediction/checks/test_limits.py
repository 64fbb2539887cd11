"""Promises about values that no tissue has: replaced and told; sound scans stay untouched."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from synthsr_net.example import EXAMPLE_SCAN
from synthsr_net.models.checkpoint import Model, ModelConfig, ScanConfig
from synthsr_net.networks.unet import UNet3d, UNetConfig
from synthsr_net.prediction.checks.limits import limited
from synthsr_net.prediction.predictor import Predictor
from synthsr_transforms.io.scans import Scan, read_scan

Array = np.ndarray
EXAMPLE = read_scan(EXAMPLE_SCAN)
CLEAN = np.ascontiguousarray(EXAMPLE.data[::3, ::3])
TOP = float(CLEAN.max())
SHAPE = CLEAN.shape
MIDDLE = tuple(n // 2 for n in SHAPE)
RING = np.hypot(*np.meshgrid(*[np.linspace(-1, 1, n) for n in SHAPE[:2]], indexing="ij")) > 1
HEAD = CLEAN > 0.2 * TOP
NUMBERS = np.random.default_rng(0)
NOISE = NUMBERS.normal(0, 3, SHAPE).astype(np.float32)


def scan_of(data: Array) -> Scan:
    return Scan(np.asarray(data, np.float32), EXAMPLE.affine)


def stripped(background: float = 0) -> Array:
    return np.where(ndimage.binary_erosion(HEAD, iterations=2), CLEAN, np.float32(background))


def with_ball(brightness: float, radius: int = 2) -> Array:
    """A bright region, such as eyes in T2 or a vessel with contrast agent."""
    data = CLEAN.copy()
    around = tuple(slice(m - radius, m + radius) for m in MIDDLE)
    data[around] = brightness
    return data


def standardised(data: Array, inside: Array) -> Array:
    return (data - data[inside].mean()) / data[inside].std()


def set_at(count: int, values: Callable[[int], Array | float], data: Array = CLEAN) -> Array:
    data = data.copy()
    data.flat[np.random.default_rng(1).choice(data.size, count, replace=False)] = values(count)
    return data


def times(factor: float, *place: slice | int) -> Array:
    data = CLEAN.copy()
    data[place] *= factor
    return data


def put(value: float, *place: slice | int) -> Array:
    data = CLEAN.copy()
    data[place] = value
    return data


def as_signed(top: float, bits: int) -> Array:
    whole = np.rint(CLEAN * (top / TOP))
    return np.where(whole >= 2 ** (bits - 1), whole - 2**bits, whole)


ALL = slice(None)
LEVEL = float(np.percentile(CLEAN[HEAD], 50))
SOUND = {
    "example": CLEAN,
    "offset": CLEAN + 500,
    "negative offset": CLEAN - 700,
    "tiny": CLEAN * 1e-6 / TOP,
    "large": CLEAN * 1e6,
    "16 levels": np.rint(CLEAN * (15 / TOP)),
    "4 levels": np.rint(CLEAN * (3 / TOP)),
    "saturated": CLEAN.clip(0, 0.6 * TOP),
    "standardised": standardised(CLEAN, HEAD),
    "skull-stripped": stripped(),
    "skull-stripped, standardised, background at 0": np.where(
        stripped() > 0, standardised(CLEAN, HEAD), 0
    ),
    "skull-stripped, standardised": standardised(stripped(), stripped() > 0),
    "skull-stripped and narrow": np.where(stripped() > 0, 100 + 0.1 * stripped(), 0),
    "a ball in nothing": np.where(stripped() > 0, 100 + NOISE, 0),
    "tissues of one value each": np.digitize(stripped(), [1, 0.3 * TOP, 0.6 * TOP]) ** 2 * 40,
    "uniform in nothing": np.where(stripped() > 0, NUMBERS.uniform(60, 220, SHAPE), 0),
    "much background": np.pad(stripped(), ((60, 60), (60, 60), (20, 20))),
    "vessels with contrast agent": with_ball(3 * LEVEL, 1),
    "eyes in T2": with_ball(2.5 * LEVEL, 4),
    "fluid in T2": np.where(HEAD, 1.2 * TOP - CLEAN, CLEAN),
    "undershoot": CLEAN - 0.05 * TOP * (NOISE > 5),
    "coil": CLEAN * np.linspace(3, 1, SHAPE[0])[:, None, None],
    "CT": np.where(HEAD, CLEAN / 5, -1000) + NOISE,
    "CT in its field of view": np.where(RING[..., None], -1024, CLEAN - 1000),
    "noise": NUMBERS.random((14, 12, 10)),
    "near the largest number": np.clip(CLEAN * (2e38 / TOP), 0, 3e38),
    "few voxels": NUMBERS.random((2, 3, 4)),
    "one slice": NUMBERS.random((30, 30, 1)),
    "mask": (HEAD & (NOISE > 4)).astype(float),
}
BROKEN = {
    "one voxel of 1000 times the maximum": (put(1000 * TOP, *MIDDLE), "above .* 1 of"),
    "one voxel of 10 times the maximum": (put(10 * TOP, *MIDDLE), "above .* 1 of"),
    "one at the border": (put(10 * TOP, 0, 0, 0), "above .* 1 of"),
    "ten voxels": (set_at(10, lambda n: 100 * TOP), "above .* 10 of"),
    "the largest number": (put(3e38, *MIDDLE), "above .* 1 of"),
    "both ends": (put(-3e38, *MIDDLE) + put(3e38, 3, 3, 3) - CLEAN, "below .* 1 of"),
    "salt": (set_at(300, lambda n: 32767), "above .* 300 of"),
    "salt and pepper": (set_at(100, lambda n: NUMBERS.choice([-32768, 32767], n)), "below"),
    "spikes of any height": (set_at(100, lambda n: TOP * NUMBERS.uniform(1, 10, n)), "above"),
    "overflow": (set_at(20, lambda n: NUMBERS.uniform(-32768, -20000, n)), "below .* 20 of"),
    "hot first slice": (times(10, ALL, ALL, 0), "slices 0 along axis 2"),
    "hot first two slices": (times(10, ALL, ALL, slice(0, 2)), "slices 0, 1 along axis 2"),
    "hot slice": (times(10, ALL, MIDDLE[1]), f"slices {MIDDLE[1]} along axis 1"),
    "hot row": (put(10 * TOP, MIDDLE[0], MIDDLE[1]), "above .* 30 of"),
    "hot corner": (put(10 * TOP, slice(5), slice(5), slice(5)), "above .* 125 of"),
    "padding below": (np.where(RING[..., None], -1024, CLEAN), "down to -1024"),
    "padding far below": (np.where(RING[..., None], -32768, CLEAN), "down to -32768"),
    "padding of 12 bits": (np.where(RING[..., None], 4095, CLEAN), "up to 4095"),
    "padding of 16 bits": (np.where(RING[..., None], 65535, CLEAN), "up to 65535"),
    "padded slices": (put(-1024, ALL, ALL, slice(0, 3)), "down to -1024"),
    "padded slices above": (put(4095, ALL, ALL, slice(0, 3)), "up to 4095"),
    "zeros around an offset": (np.where(RING[..., None], 0, CLEAN + 500), "down to 0"),
    "padding of two kinds": (
        np.where(RING[..., None], np.where(NOISE > 0, -1024, -32768), CLEAN),
        "down to -32768",
    ),
    "16 bits, just above": (as_signed(34000, 16), "wrong sign .* 65536 was added"),
    "16 bits": (as_signed(65000, 16), "wrong sign .* 65536 was added"),
    "12 bits": (as_signed(4000, 12), "wrong sign .* 4096 was added"),
    "8 bits": (as_signed(250, 8), "wrong sign .* 256 was added"),
    "much signed noise read as unsigned": (
        np.where(HEAD, np.rint(CLEAN), np.rint(2 * NOISE) % 65536),
        "up to 65535",
    ),
    "signed noise read as unsigned": (np.rint(CLEAN + NOISE) % 65536, "up to 65535"),
}


class TestSound:
    @pytest.mark.parametrize("name", SOUND)
    def test_nothing_is_touched_or_told(self, name: str):
        scan = scan_of(SOUND[name])
        assert limited(scan) is scan


class TestBroken:
    @pytest.mark.parametrize("name", BROKEN)
    def test_the_head_keeps_its_place_between_darkest_and_brightest(self, name: str):
        data, message = BROKEN[name]
        result = limited(scan_of(data))
        assert re.search(message, " ".join(result.warnings))
        assert all(len(text) <= 500 and "\n" not in text for text in result.warnings)
        head = HEAD.copy()
        if "padding" in name or "zeros" in name:
            head[RING] = False
        head[..., :3] &= "padded slices" not in name
        shown = (result.data - result.data.min()) / np.ptp(result.data)
        expected = CLEAN / TOP
        assert np.corrcoef(shown[head], expected[head])[0, 1] > 0.99
        slope = float(shown[head] @ expected[head] / np.square(expected[head]).sum())
        assert slope == pytest.approx(1, abs=0.1) or name == "spikes of any height"

    def test_all_sound_voxels_keep_their_values(self):
        data = put(1000 * TOP, *MIDDLE)
        result = limited(scan_of(data)).data
        changed = np.argwhere(result != CLEAN)
        assert changed.tolist() == [list(MIDDLE)]
        around = CLEAN[tuple(slice(m - 1, m + 2) for m in MIDDLE)]
        assert around.min() <= result[MIDDLE] <= around.max()

    def test_slices_through_a_hot_beam_are_not_hot_as_a_whole(self):
        data = put(10 * TOP, slice(18, 26), slice(36, 42))
        result = limited(scan_of(data)).data
        assert np.array_equal(result[data == CLEAN], CLEAN[data == CLEAN])

    @settings(max_examples=15)
    @given(st.integers(1, 200), st.floats(8, 1e6), st.integers(0, 99), st.booleans())
    def test_voxels_at_any_place(self, count: int, factor: float, seed: int, below: bool):
        places = np.random.default_rng(seed).choice(CLEAN.size, count, replace=False)
        data = CLEAN.copy()
        data.flat[places] = factor * TOP * (-1 if below else 1)
        result = limited(scan_of(data))
        assert f"in {count} of {data.size} voxels" in result.warnings[-1]
        assert CLEAN.min() <= result.data.min()
        assert result.data.max() <= TOP

    def test_the_scan_given_is_not_changed(self):
        for data, _ in BROKEN.values():
            scan = scan_of(data)
            before = scan.data.copy()
            limited(scan)
            assert np.array_equal(scan.data, before)


class TestPrediction:
    @pytest.fixture
    def model(self) -> Model:
        network = UNetConfig(num_levels=2, num_features=2)
        config = ModelConfig(network=network, scan=ScanConfig(spacing_mm=5.0, divisor=2))
        return Model(config, UNet3d(network).eval())

    def test_it_is_told_once_and_legacy_and_ct_take_what_is_there(self, model: Model):
        hot = scan_of(put(1000 * TOP, *MIDDLE))
        (text,) = Predictor(model, device="cpu").predict([hot]).warnings
        assert "which no tissue has" in text
        for options in ({"legacy": "v1"}, {"ct": True}):
            prepared = Predictor(model, device="cpu", **options).prepare([hot])
            assert prepared.scans[0] is hot
            assert not any("no tissue" in text for text in prepared.space.warnings)

    def test_a_hot_voxel_hardly_changes_the_prediction(self):
        predictor = Predictor.from_file("fast", device="cpu", flip=False)
        clean = scan_of(CLEAN[::2, ::2])
        expected = predictor.predict([clean])
        assert expected.warnings == ()
        head = expected.image.data > 10
        for factor in (10, 1000):
            data = clean.data.copy()
            data[10, 10, 10] = factor * TOP
            result = predictor.predict([dataclasses.replace(clean, data=data)]).image.data
            assert np.corrcoef(result[head], expected.image.data[head])[0, 1] > 0.98


def test_scans_in_files_are_alike(tmp_path):
    """Through a file, as whole numbers in 16 bits."""
    data = put(32767, *MIDDLE)
    nib.save(nib.Nifti1Image(data.astype(np.int16), EXAMPLE.affine), tmp_path / "hot.nii.gz")
    assert "up to 32767" in limited(read_scan(tmp_path / "hot.nii.gz")).warnings[-1]
