"""Promises of training a segmentation: loss, Dice, model files, the regulariser, pictures."""

from __future__ import annotations

import runpy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import (
    ROOT,
)

from synthsr_net import Predictor
from synthsr_net.losses import build_loss
from synthsr_net.losses.segmentation import DiceCrossEntropyLoss
from synthsr_net.metrics.volumes import DiceMeans, dice
from synthsr_net.models.checkpoint import read_model
from synthsr_net.training.callbacks.metrics_file import MetricsFile
from synthsr_net.training.config import LossConfig, SegmentationConfig
from synthsr_net.training.task.objective import make_segmentation
from synthsr_transforms.drawing.slices import outlined
from synthsr_transforms.labels.structures import StructureTable
from synthsr_transforms.labels.table import LabelTable
from synthsr_transforms.support.messages import SynthSRError

OWN = """
label_table: freesurfer_aseg
steps:
  crop: {name: PatchCrop, params: {shape: 12}}
  mixture: {name: TissueMixture}
  target: {name: GroupLabels}
  rescale: {name: MinMaxRescale, params: {include: [image]}}
training:
  network: {num_levels: 2, num_features: 4}
  loss: {name: dice_cross_entropy}
  optimiser: {learning_rate: 1.0e-2, ema_decay: 0.9}
  run: {epochs: 2, steps_per_epoch: 3}
  validation: {previews: 1, held_out: 1, samples: 2, metric: dice/mean}
"""
VALUES = [0, 2, 41]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, save_label_maps):
    place = tmp_path_factory.mktemp("segmentation")
    save_label_maps(place / "maps", 3)
    (place / "own.yaml").write_text(OWN)
    return place


def labels_and_logits(seed: int = 0, batch: int = 2, shape=(6, 5, 4)):
    generator = torch.Generator().manual_seed(seed)
    index = torch.randint(3, (batch, 1, *shape), generator=generator)
    return torch.tensor(VALUES)[index], torch.randn(batch, 3, *shape, generator=generator)


class TestLoss:
    def test_it_equals_its_formula(self):
        labels, logits = labels_and_logits()
        p = logits.double().softmax(1).numpy()
        g = np.stack([labels[:, 0] == v for v in VALUES], 1).astype(float)
        axes = (0, 2, 3, 4)
        dice = 1 - 2 * (p * g).sum(axes) / ((p**2).sum(axes) + (g**2).sum(axes))
        entropy = -np.log((p * g).sum(1)).mean()
        for weight in (0.0, 1.0, 0.3):
            found = DiceCrossEntropyLoss(VALUES, weight)(logits, labels).item()
            assert found == pytest.approx(dice.mean() + weight * entropy, rel=1e-5)

    def test_what_is_right_costs_nothing_and_what_is_wrong_more(self):
        labels, logits = labels_and_logits()
        loss = DiceCrossEntropyLoss(VALUES)
        right = 30 * torch.cat([labels == v for v in VALUES], 1).float()
        assert loss(right, labels).item() == pytest.approx(0, abs=1e-5)
        assert loss(right.roll(1, 1), labels).item() > loss(logits, labels).item() > 0.1

    def test_a_coarser_prediction_is_compared_with_shares(self):
        labels, logits = labels_and_logits(shape=(4, 4, 4))
        loss = DiceCrossEntropyLoss(VALUES)
        shares = loss.shares(labels, (2, 2, 2))
        assert torch.allclose(shares.sum(1), torch.ones(()))
        first = labels[0, 0, :2, :2, :2].flatten().tolist()
        expected = [first.count(v) / 8 for v in VALUES]
        assert shares[0, :, 0, 0, 0].tolist() == pytest.approx(expected)
        best = loss(shares.clamp(min=1e-9).log(), labels)
        assert best < loss(F.avg_pool3d(logits, 2), labels)

    def test_values_of_no_structure_teach_nothing_but_what_is_not_there(self):
        labels, logits = labels_and_logits()
        unknown = torch.where(labels == 41, 99, labels)
        shares = DiceCrossEntropyLoss(VALUES).shares(unknown, labels.shape[2:])
        assert not shares[:, 2].any()
        assert torch.isfinite(DiceCrossEntropyLoss(VALUES)(logits, unknown))

    def test_gradients_are_finite_in_low_precision(self):
        labels, logits = labels_and_logits()
        logits = (1e3 * logits).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            loss = DiceCrossEntropyLoss(VALUES)(logits, labels)
        assert loss.dtype == torch.float32
        loss.backward()
        assert torch.isfinite(logits.grad).all()

    @pytest.mark.parametrize("values", [[1], [0, 0], [-1, 2]])
    def test_wrong_values_are_refused(self, values):
        with pytest.raises(ValueError, match="two different labels"):
            build_loss("dice_cross_entropy", {"values": values})

    def test_shapes_that_do_not_fit_are_refused(self):
        labels, logits = labels_and_logits()
        with pytest.raises(ValueError, match="target"):
            DiceCrossEntropyLoss([0, 1])(logits, labels)


class TestDice:
    def test_it_is_the_mean_over_volumes_that_have_the_structure(self):
        metrics = DiceMeans(["dice/none", "dice/a", "dice/b"])
        for seed in range(3):
            generator = torch.Generator().manual_seed(seed)
            found, truth = (
                torch.randint(3 if seed else 2, (1, 1, 5, 5, 5), generator=generator)
                for _ in range(2)
            )
            masks = [m == torch.arange(3).view(1, 3, 1, 1, 1) for m in (found, truth)]
            metrics.update(*dice(*masks))
        values = metrics.compute()
        mean = values.pop("dice/mean")
        assert list(values) == ["dice/none", "dice/a", "dice/b"]
        assert mean == pytest.approx(sum(values.values()) / 3)
        assert metrics.counts.tolist() == [3, 3, 2]

    def test_structures_that_never_occur_have_none(self):
        metrics = DiceMeans(["dice/none", "dice/a"])
        empty = torch.zeros(1, 2, 3, 3, 3, dtype=torch.bool)
        metrics.update(*dice(empty, empty))
        assert metrics.compute() == {"dice/mean": 0.0}


class TestRun:
    @pytest.fixture
    def run(self, begin):
        run = begin()
        run.fit()
        return run

    def test_the_model_file_knows_its_structures(self, run):
        model = read_model(run.folder.model_path("best"))
        table = StructureTable.ready("freesurfer")
        assert [s.value for s in model.config.structures] == table.values
        assert [s.name for s in model.config.structures] == table.names
        assert model.config.output == "segmentation"
        with torch.no_grad():
            shares = model.network(torch.rand(1, 1, 8, 8, 8))
        assert torch.allclose(shares.sum(1), torch.ones(()), atol=1e-5)

    def test_metrics_have_a_column_for_each_structure(self, run):
        last = MetricsFile(run.folder.metrics_path).rows()[-1]
        dice = [value for name, value in last.items() if name.startswith("validation/dice/")]
        assert len(dice) > 3
        assert all(0 <= value <= 1 for value in dice)
        assert (run.folder.path / "previews" / "epoch_001.png").exists()

    def test_a_resumed_run_equals_one_in_one_go(self, begin, assert_same_run):
        whole = begin(name="whole")
        whole.fit()
        begin("run.epochs=1", name="parts").fit()
        parts = begin("run.epochs=2", name="parts", resume=True)
        parts.fit()
        assert_same_run(whole.folder, parts.folder)

    def test_training_goes_on_from_its_model_file_with_the_head(self, run, begin):
        best = run.folder.model_path("best")
        again = begin(f"initial_weights={best}", name="again")
        assert not [note for note in again.prepared.notes if "new" in note]

    def test_it_regularises_without_a_list_of_labels(self, run):
        settings = SegmentationConfig(model=str(run.folder.model_path("best")))
        table = LabelTable.ready("freesurfer_aseg")
        loss = make_segmentation(LossConfig(segmentation=settings), table)
        assert loss is not None
        image, labels = torch.rand(1, 1, 8, 8, 8), torch.full((1, 1, 8, 8, 8), 31)
        grouped = torch.full_like(labels, 4)
        assert loss(image, labels) == loss(image, grouped) != loss(image, 0 * labels)

    def test_it_is_not_for_predict(self, run):
        with pytest.raises(SynthSRError, match="34 structures"):
            Predictor(read_model(run.folder.model_path("best")), device="cpu")

    def test_the_network_learns_slabs_that_differ_in_brightness(self, begin):
        run = begin(
            "run.epochs=1",
            "run.steps_per_epoch=60",
            "mixture.prior_means=[10, 250]",
            "mixture.prior_stds=[0, 1]",
            "target.structures=each",
            "optimiser.ema_decay=0",
            "validation.samples=1",
        )
        run.fit()
        losses = [row["train/loss"] for row in MetricsFile(run.folder.metrics_path).rows()]
        untrained = np.log(run.prepared.network.config.out_channels) + 1
        assert losses[0] < 0.9 * untrained

    @pytest.mark.parametrize(
        ("assignments", "message"),
        [
            (["loss.name=l1"], "dice_cross_entropy"),
            (["validation.metric=brain/l1"], "dice/mean"),
            (["validation.metric=dice/left thalmus"], "did you mean 'dice/left thalamus'"),
            (["loss.residual_channels=[0]"], "loss.residual_channels must be left out"),
            (["adversarial.weight=0.01"], "adversarial.weight must be left out"),
            (["target.structures=aseg"], "freesurfer"),
            (["network.out_channels=5"], "out_channels must be 34"),
        ],
    )
    def test_what_does_not_go_together_is_refused(self, begin, assignments, message):
        with pytest.raises(ValueError, match=message):
            begin(*assignments)

    def test_the_loss_needs_a_target_of_structures(self, begin):
        with pytest.raises(ValueError, match="GroupLabels"):
            begin("target.name=CopyImage")


def test_outlines_have_the_colour_of_their_label_and_leave_the_rest_grey():
    labels = np.zeros((6, 8), int)
    labels[2:4, 2:6] = 10
    drawn = outlined(np.full((6, 8), 0.5), (0, 1), labels)
    assert drawn.shape == (24, 32, 3)
    coloured = (drawn != drawn[..., :1]).any(2)
    assert not coloured[labels.repeat(4, 0).repeat(4, 1) == 0].any()
    assert coloured[8, 8:24].all()
    assert not coloured[10:14, 10:22].any()
    assert (drawn[~coloured] == 127).all()


def test_monai_trains_on_the_pairs(capsys, monkeypatch):
    pytest.importorskip("monai")
    example = runpy.run_path(str(ROOT / "examples" / "segmentation_monai.py"))
    monkeypatch.setattr("sys.argv", ["segmentation_monai.py"])
    example["main"].__globals__["STEPS"] = 1
    example["main"]()
    assert "step 0: loss" in capsys.readouterr().out
