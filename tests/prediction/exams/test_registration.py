"""Promises of the alignment of exams: moves are found, and what does not fit is left out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from helpers import tiny_model
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

from synthsr_net.prediction.exams.alignment import (
    MAX_DEGREES,
    MIN_CORRELATION,
    MIN_COVERED,
    aligned_as_told,
    registered,
    why_left_out,
)
from synthsr_net.prediction.exams.registration import RAS_LPS, Registration, head_of, register
from synthsr_net.prediction.exams.transforms import read_transform
from synthsr_net.prediction.predictor import Predictor
from synthsr_net.prediction.resampling import reslice
from synthsr_transforms.io.grids import Volume
from synthsr_transforms.io.scans import Scan
from synthsr_transforms.labels.table import LabelTable
from synthsr_transforms.phantom import head_phantom
from synthsr_transforms.support.messages import SynthSRError

T1 = {"white_matter": 110.0, "grey_matter": 78.0, "deep_grey": 90.0, "csf": 30.0}
SPACING = 2.0


def predicted(seed: int) -> Volume:
    """A T1-weighted head, as a network would predict it."""
    phantom = head_phantom(spacing_mm=SPACING, seed=seed)
    labels = phantom.data[0]
    table = LabelTable.ready("synthseg")
    image = torch.where(labels > 0, 45.0, 0.0)
    for tissue, mean in T1.items():
        image[torch.isin(labels, torch.tensor(table.values_of(tissue)))] = mean
    return Volume(gaussian_filter(image.numpy(), 0.6), np.asarray(phantom.affine.data))


def rigid(vector_degrees: Sequence[float], shift_mm: Sequence[float]) -> np.ndarray:
    """A rotation about the origin of the world, then a translation."""
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_rotvec(vector_degrees, degrees=True).as_matrix()
    matrix[:3, 3] = shift_mm
    return matrix


def moved(volume: Volume, first_to_scan: np.ndarray) -> Volume:
    """The head somewhere else in the field of view of another scan, with axes of its own."""
    affine = volume.affine @ rigid((0, 0, 8), (5, -3, 0))
    grid = volume.data.shape, np.linalg.inv(first_to_scan) @ affine
    return Volume(reslice(volume, grid, outside=0.0)[0], affine)


@pytest.fixture(scope="module")
def head() -> Volume:
    return predicted(2)


MOVE = rigid((3, -2, 3), (3, -2, 3))


def scans_of(volumes: Sequence[Volume]) -> list[Scan]:
    return [Scan(v.data, v.affine, name=f"in/{i}.nii") for i, v in enumerate(volumes)]


class TestRegister:
    def test_a_move_is_found(self, head):
        first = head_of(head)
        found = register(first, moved(head, MOVE))
        apart = np.linalg.inv(MOVE) @ found.first_to_scan
        centre = first.centre_mm
        assert np.linalg.norm(apart[:3, :3] @ centre + apart[:3, 3] - centre) < 0.3
        assert np.degrees(np.arccos(min(1.0, (np.trace(apart[:3, :3]) - 1) / 2))) < 0.3
        assert found.before < found.after
        assert found.after > 0.95
        assert why_left_out(found) is None

    def test_it_gives_the_same_each_time(self, head):
        first, other = head_of(head), moved(head, MOVE)
        once, again = (register(first, other).first_to_scan for _ in range(2))
        np.testing.assert_array_equal(once, again)

    def test_headers_that_put_the_heads_far_apart_do_not_matter(self, head):
        far = Volume(head.data, rigid((0, 0, 0), (0, 20, -70)) @ head.affine)
        found = register(head_of(head), far)
        np.testing.assert_allclose(found.first_to_scan[:3, 3], (0, 20, -70), atol=0.3)
        assert why_left_out(found) is None

    def test_no_brain_is_none(self):
        assert head_of(Volume(np.zeros((40, 40, 40), np.float32), np.diag([2.0, 2, 2, 1]))) is None


class TestLeftOut:
    def test_half_a_head(self, head):
        half = Volume(head.data[..., head.data.shape[2] // 2 :], head.affine.copy())
        half.affine[:3, 3] += head.affine[:3, 2] * (head.data.shape[2] // 2)
        assert "of the brain" in why_left_out(register(head_of(head), half))

    def test_a_head_upside_down(self, head):
        turned = Volume(head.data[..., ::-1], head.affine)
        assert why_left_out(register(head_of(head), turned)) is not None

    @pytest.mark.parametrize(
        "change",
        [
            {"after": MIN_CORRELATION - 0.01},
            {"after": float("nan")},
            {"covered": MIN_COVERED - 0.01},
            {"shift_mm": 100.0},
            {"angle_degrees": MAX_DEGREES + 1},
        ],
    )
    def test_each_limit(self, change):
        good = Registration(np.eye(4), 0.5, 0.95, 4.0, 4.0, 1.0)
        assert why_left_out(good) is None
        assert why_left_out(good._replace(**change)) is not None


class TestExam:
    def test_scans_are_moved_by_their_headers_alone(self, head):
        scans = scans_of([head, moved(head, MOVE)])
        exam = registered(scans, lambda i: scans[i].volume, [None, None])
        assert exam.scans[0] is scans[0]
        assert exam.scans[1].data is scans[1].data
        expected = np.linalg.inv(MOVE) @ scans[1].affine
        np.testing.assert_allclose(exam.scans[1].affine, expected, atol=0.6)
        assert [p.how for p in exam.placements] == ["first scan", "registration"]
        assert exam.warnings == ()

    def test_what_does_not_fit_is_left_out_with_a_warning_and_the_rest_stays(self, head):
        upside_down = Volume(np.ascontiguousarray(head.data[..., ::-1]), head.affine)
        scans = scans_of([head, upside_down, moved(head, MOVE)])
        exam = registered(scans, lambda i: scans[i].volume, [None] * 3)
        without = registered([scans[0], scans[2]], lambda i: scans[2 * i].volume, [None] * 2)
        assert len(exam.scans) == 2
        np.testing.assert_array_equal(exam.scans[1].affine, without.scans[1].affine)
        (warning,) = exam.warnings
        assert warning.startswith("scan 2 (1.nii) is left out: ")
        left_out = exam.placements[1].as_json()
        assert left_out["Used"] is False
        assert left_out["LeftOut"]

    def test_known_transforms_are_taken_and_nothing_is_predicted(self, head):
        scans = scans_of([head, moved(head, MOVE)])

        def refuse(index: int) -> Volume:
            raise AssertionError(index)

        exam = registered(scans, refuse, [None, MOVE])
        np.testing.assert_allclose(exam.scans[1].affine, np.linalg.inv(MOVE) @ scans[1].affine)
        assert exam.placements[1].how == "given"

    def test_without_transforms_headers_are_trusted(self, head):
        scans = scans_of([head, head])
        assert aligned_as_told(scans, [None, None]).scans == tuple(scans)

    def test_a_first_scan_without_a_brain_is_told(self, head):
        nothing = Volume(np.zeros_like(head.data), head.affine)
        scans = scans_of([head, head])
        exam = registered(scans, lambda i: nothing, [None, None])
        assert exam.scans == tuple(scans)
        assert "no brain was found in scan 1 (0.nii)" in exam.warnings[0]


class Shown:
    """A registrar to which scans are their own predictions."""

    def prepare(self, scans: Sequence[Scan], ct: bool | None) -> Scan:
        return scans[0]

    def infer(self, prepared: Scan) -> None:
        return None

    def finish(self, prepared: Scan, output: None) -> SimpleNamespace:
        return SimpleNamespace(image=prepared.volume)


class TestPredictor:
    @pytest.fixture
    def predictor(self) -> Predictor:
        made = Predictor(tiny_model(), device="cpu", force=True)
        made._registrar = Shown()
        return made

    def test_a_prediction_is_as_without_what_is_left_out(self, head, predictor):
        upside_down = Volume(np.ascontiguousarray(head.data[..., ::-1]), head.affine)
        first, odd, other = scans_of([head, upside_down, moved(head, MOVE)])
        alone, with_odd = predictor.predict([first]), predictor.predict([first, odd])
        np.testing.assert_array_equal(with_odd.image.data, alone.image.data)
        assert [w for w in with_odd.warnings if "is left out" in w]
        pair, with_odd = predictor.predict([first, other]), predictor.predict([first, odd, other])
        np.testing.assert_array_equal(with_odd.image.data, pair.image.data)
        assert not np.array_equal(pair.image.data.shape, alone.image.data.shape)

    def test_a_scan_that_moved_is_read_where_the_first_one_is(self, head, predictor):
        first, other = scans_of([head, moved(head, MOVE)])
        prepared = predictor.prepare([first, other])
        ours, theirs = (prepared.tensor[i, 0] for i in range(2))
        inside = (ours > 0) & (theirs > 0)
        assert np.corrcoef(ours[inside], theirs[inside])[0, 1] > 0.95


class TestTransformFiles:
    @pytest.mark.parametrize("name", ["a.tfm", "a.txt", "a.mat"])
    def test_they_map_points_of_the_first_scan_to_the_other(self, tmp_path: Path, name: str):
        lps = RAS_LPS @ MOVE @ RAS_LPS
        transform = sitk.AffineTransform(lps[:3, :3].ravel().tolist(), lps[:3, 3].tolist())
        sitk.WriteTransform(transform, str(tmp_path / name))
        np.testing.assert_allclose(read_transform(tmp_path / name), MOVE, atol=1e-6)

    def test_files_that_do_not_fit_are_refused_in_one_line(self, tmp_path: Path):
        (tmp_path / "text.tfm").write_text("1 0 0 0\n")
        mirror = sitk.AffineTransform([-1, 0, 0, 0, 1, 0, 0, 0, 1], [0, 0, 0])
        sitk.WriteTransform(mirror, str(tmp_path / "mirror.tfm"))
        sitk.WriteTransform(sitk.Euler2DTransform(), str(tmp_path / "flat.tfm"))
        for name, words in {
            "none.tfm": "does not exist",
            "text.tfm": "cannot be read",
            "mirror.tfm": "not mirror it",
            "flat.tfm": "linear and in 3-D",
        }.items():
            with pytest.raises(SynthSRError, match=words) as error:
                read_transform(tmp_path / name)
            assert "\n" not in str(error.value)
