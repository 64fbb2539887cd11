"""Promises of the evaluation of exams: moves, registrations and remapped contrasts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import measure_registration
import numpy as np
import pytest
import torch
from evaluation import moves
from evaluation.exams import (
    REGISTERED_MEAN,
    SAME_PLANE_TOGETHER,
    TOGETHER,
    evaluate_moved_exams,
    evaluate_real_exams,
    remapped,
)
from evaluation.heads import Head, find_label_maps
from evaluation.moves import (
    MOST_DEGREES,
    MOST_MM,
    misalignment,
    moved,
    moved_exam,
    random_move,
    read_registrations,
)
from evaluation.network import HeadNetwork
from evaluation.truth import SimulationPlan
from measure_registration import table_text

from synthsr_net.models.checkpoint import Model, ModelConfig, ScanConfig
from synthsr_net.networks.unet import UNet3d, UNetConfig
from synthsr_net.prediction.exams.alignment import by_headers
from synthsr_net.prediction.predictor import Predictor, Prepared
from synthsr_net.training.validation import RealPair
from synthsr_transforms.io.files import VolumeError
from synthsr_transforms.io.grids import Volume
from synthsr_transforms.phantom import head_phantom
from synthsr_transforms.subjects.files import SubjectFiles

SPACING = 4.0
PLAN = SimulationPlan()


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> SubjectFiles:
    path = tmp_path_factory.mktemp("labels") / "head.nii.gz"
    head_phantom(spacing_mm=SPACING, seed=1).save(path)
    return find_label_maps([path])[0]


@pytest.fixture(scope="module")
def pair() -> RealPair:
    """A T1-weighted scan and its label map."""
    labels = head_phantom(spacing_mm=SPACING, seed=1)
    head = Head("real", labels.data[0], np.asarray(labels.affine.data), "cpu")
    image = Volume(head.image("T1", 0).numpy(), head.affine)
    return RealPair("real", image, Volume(labels.data[0].numpy(), head.affine))


def copied(_: Predictor, prepared: Prepared, **_flip: object) -> torch.Tensor:
    """What a network gives that changes nothing."""
    tensor = prepared.tensor
    if prepared.shares is not None:
        tensor = (tensor[:, 0] * prepared.shares).sum(0)[None]
    return 0.43 * tensor


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> HeadNetwork:
    """A network that changes nothing, at 4 mm."""
    monkeypatch.setattr(Predictor, "infer", copied)
    layers = UNetConfig(num_levels=2, num_features=2)
    config = ModelConfig(network=layers, scan=ScanConfig(spacing_mm=SPACING, divisor=8))
    return HeadNetwork(Predictor(Model(config, UNet3d(layers).eval()), device="cpu", force=True))


class TestMoves:
    def test_a_volume_goes_where_the_move_takes_it(self):
        grid = (24, 20, 22), np.diag([2.0, 2.0, 2.0, 1.0])
        move = random_move(np.random.default_rng(3), moves.centre_of(grid))
        where = np.indices(grid[0]).reshape(3, -1) * 2.0

        def ball(centre: np.ndarray) -> np.ndarray:
            away = ((where - np.asarray(centre)[:, None]) ** 2).sum(0)
            return np.exp(-away / 50).reshape(grid[0]).astype(np.float32)

        start = np.array([20.0, 24.0, 18.0])
        found = moved(torch.from_numpy(ball(start)), grid[1], move, grid)
        goal = ball(move[:3, :3] @ start + move[:3, 3])
        np.testing.assert_allclose(found.numpy(), goal, atol=0.02)

    def test_moves_are_as_large_as_they_are_said_to_be(self):
        centre, rng = np.array([10.0, -20.0, 30.0]), np.random.default_rng(0)
        sizes = [misalignment(random_move(rng, centre), np.eye(4), centre) for _ in range(200)]
        largest = np.array(sizes).max(0)
        assert np.all(largest <= [MOST_MM + 1e-9, MOST_DEGREES + 1e-9])
        assert np.all(largest > [0.9 * MOST_MM, 0.9 * MOST_DEGREES])

    def test_what_is_left_does_not_depend_on_the_move(self):
        rng, centre = np.random.default_rng(1), np.array([5.0, 6.0, 7.0])
        truth, off = random_move(rng, centre), random_move(rng, centre)
        found = misalignment(truth @ off, truth, centre)
        np.testing.assert_allclose(found, misalignment(off, np.eye(4), centre))

    def test_the_first_scan_stays_and_the_others_move_anew(self, subject, network):
        head, first = moved_exam(subject, network, PLAN, 0)
        _, second = moved_exam(subject, network, PLAN, 1)
        assert torch.equal(first[0].slices.data, second[0].slices.data)
        np.testing.assert_array_equal(first[0].first_to_scan, np.eye(4))
        for one, other in zip(first[1:], second[1:], strict=True):
            assert one.name == other.name
            assert np.abs(one.first_to_scan - other.first_to_scan).max() > 0.01
        assert head.name == "head"


class TestRegistrations:
    def test_what_is_left_is_measured(self, subject, network, monkeypatch):
        monkeypatch.setattr(Predictor, "aligned", lambda _self, scans, *_: by_headers(scans))
        rows = list(measure_registration.registered(subject, network, PLAN, 0))
        assert [row["scan"] for row in rows] == ["T2, axial", "FLAIR, coronal", "T2, sagittal"]
        for row in rows:
            np.testing.assert_allclose(row["rest"], row["moved"])
            assert row["left_out"] is None

    def test_broken_off_runs_go_on_and_shares_make_what_one_run_makes(
        self, subject, network, monkeypatch, tmp_path
    ):
        asked = []

        def registered(*_: object) -> list[dict[str, Any]]:
            asked.append(_[-1])
            row = {"map": "head", "move": _[-1], "scan": "T2", "rest": [0.1, 0.1]}
            return [row | {"left_out": None, "correlation": 0.9}]

        def run(out: str, *words: str) -> str:
            label_map = ["--labels", str(subject.labels)]
            assert measure_registration.main([str(tmp_path / out), *label_map, *words]) == 0
            table = tmp_path / out / "table.md"
            return table.read_text() if table.exists() else ""

        monkeypatch.setattr(Predictor, "from_file", lambda *_, **__: network.predictor)
        monkeypatch.setattr(measure_registration, "registered", registered)
        run("one", "--moves", "1")
        one = run("one", "--moves", "4")
        assert asked == [0, 1, 2, 3]
        for number in (1, 2):
            assert run("two", "--moves", "4", "--share", f"{number}/2") == ""
        assert run("two", "--moves", "4") == one
        assert asked == [0, 1, 2, 3] * 2

    def test_good_ones_are_counted(self):
        def row(rest: list[float], left_out: str | None = None) -> dict[str, Any]:
            return {"map": "a", "scan": "T2", "rest": rest, "left_out": left_out}

        text = table_text([row([0.1, 0.1]), row([0.1, 0.4]), row([9.0, 9.0], "why")])
        assert text.splitlines()[-1] == "| all |  | 3 | 1 | 0.100 | 9.000 | 0.400 | 9.000 | 1 |"


class TestMovedExams:
    def rows(
        self, subject: SubjectFiles, network: HeadNetwork, **changed: Any
    ) -> dict[str, dict[str, Any]]:
        _, scans = moved_exam(subject, network, PLAN, 0)
        found = [
            {"map": "head", "move": 0, "scan": each.name, "left_out": None}
            | {"first_to_scan": each.first_to_scan.tolist()}
            | changed
            for each in scans[1:]
        ]
        rows = list(evaluate_moved_exams([subject], network, PLAN, found))
        assert {(row["map"], row["move"]) for row in rows} == {("head", 0)}
        return {row["scans"]: row for row in rows}

    @pytest.fixture(autouse=True)
    def of_one_contrast(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(moves, "EXAM", (("T1", 0), ("T1", 2), ("T1", 1)))
        monkeypatch.setattr(moves, "SAME_PLANE", ("PD", 0))
        monkeypatch.setattr(moves, "SLICE_MM", 10.0)

    def test_a_good_registration_makes_several_scans_better_than_one(self, subject, network):
        rows = self.rows(subject, network)
        wrong = self.rows(subject, network, first_to_scan=np.eye(4).tolist())
        for name in (TOGETHER, REGISTERED_MEAN, SAME_PLANE_TOGETHER):
            assert rows[name]["brain/psnr"] > wrong[name]["brain/psnr"] + 0.2
        for name in ("T1, sagittal", "T1, axial", "T1, coronal"):
            assert rows[name] == wrong[name]
            assert rows[TOGETHER]["brain/psnr"] > rows[name]["brain/psnr"] + 0.5

    def test_scans_that_were_left_out_do_not_count(self, subject, network):
        rows = self.rows(subject, network, left_out="it shows another head")
        for name in (TOGETHER, REGISTERED_MEAN, SAME_PLANE_TOGETHER):
            assert rows[name]["brain/psnr"] == pytest.approx(rows["T1, sagittal"]["brain/psnr"])


class TestRealExams:
    def test_tissues_have_the_order_that_is_named_and_air_stays_dark(self):
        tissues = torch.arange(5).repeat_interleave(20).to(torch.uint8)
        image = torch.tensor([0.0, 60, 110, 75, 30]).repeat_interleave(20)
        orders, rng = set(), np.random.default_rng(0)
        for _ in range(40):
            made, order = remapped(image, tissues, rng)
            orders.add(order)
            levels = {"w": made[50], "g": made[70], "f": made[90]}
            assert "".join(sorted(levels, key=lambda name: float(levels[name]))) == order
            assert float(made[0]) == 0
        assert len(orders) == 6

    def test_each_scan_has_a_contrast_and_an_orientation_of_its_own(self, pair, network):
        rows = list(evaluate_real_exams([pair], network, PLAN))
        assert [row["scans"].split(",")[0] for row in rows] == [
            *("sagittal", "coronal", "axial", "interpolation", "together")
        ]
        assert {row["map"] for row in rows} == {"real"}
        assert list(evaluate_real_exams([pair], network, PLAN)) == rows

    def test_scans_of_another_contrast_are_refused(self, pair, network):
        turned = pair._replace(image=Volume(200 - pair.image.data, pair.image.affine))
        with pytest.raises(VolumeError, match="need T1-weighted scans"):
            list(evaluate_real_exams([turned], network, PLAN))


def test_registrations_are_read_as_they_were_written(tmp_path: Path):
    rows = [{"map": "a", "move": 1}, {"map": "b", "move": 0}]
    file = tmp_path / "registrations.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_registrations(file) == rows
    assert read_registrations(tmp_path / "missing") == []
