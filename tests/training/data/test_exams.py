"""Training with several scans of each head: the mean of the predictions from them learns."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from synthsr_net.models.checkpoint import read_model
from synthsr_net.training.task.watch import NonFiniteLossError, report_failure
from synthsr_transforms.generator.scans import ExamPair

EXAMS = """
label_table: freesurfer_aseg
scans: {probabilities: [0.3, 0.3, 0.4], first_step: mixture}
steps:
  crop: {name: PatchCrop, params: {shape: 12}}
  target: {name: TissueContrast, params: {by_tissue: {white_matter: 1, grey_matter: 0.5}}}
  mixture: {name: TissueMixture}
  rescale: {name: MinMaxRescale, params: {include: [image]}}
training:
  network: {num_levels: 2, num_features: 4}
  optimiser: {learning_rate: 1.0e-2}
  run: {epochs: 1, steps_per_epoch: 3, batch_size: 2}
  validation: {every_epochs: 1, previews: 2, held_out: 1, samples: 4}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory, save_label_maps: Callable) -> Path:
    place: Path = tmp_path_factory.mktemp("exams")
    save_label_maps(place / "maps", 3)
    (place / "own.yaml").write_text(EXAMS)
    return place


def test_a_network_of_one_scan_learns_from_several(begin):
    run = begin()
    before = [p.detach().clone() for p in run.prepared.network.parameters()]
    run.fit()
    model = read_model(run.folder.model_path("last"))
    assert model.config.num_channels == 1
    assert model.config.takes_exams
    after = model.network.parameters()
    assert not any(torch.equal(a, b) for a, b in zip(before, after, strict=True) if a.ndim == 5)
    assert list(run.folder.path.rglob("*.png"))


def test_each_head_is_predicted_of_the_scans_that_are_present(begin):
    prepared = begin().prepared
    task, data = prepared.task().eval(), prepared.data()
    data.connect(torch.device("cpu"))
    pairs = [data.stream.pair(step) for step in range(8)]
    pair = next(p for p in pairs if not p.present.all())
    assert isinstance(pair, ExamPair)
    with torch.no_grad():
        predicted = task.predicted(pair)
        for element, present in enumerate(pair.present):
            alone = ExamPair(*(tensor[element : element + 1] for tensor in pair))
            own = alone._replace(image=alone.image[:, present], present=alone.present[:, present])
            torch.testing.assert_close(task.predicted(own)[0], predicted[element])
            mean = task.network(own.image[0]).mean(0)
            torch.testing.assert_close(mean, predicted[element])
            shown = task.measure(own, task.intensities(own.image, own.present))
            assert shown.image.shape == (1, present.sum(), 12, 12, 12)


def test_a_pair_of_a_loss_that_is_not_finite_is_written_with_all_scans(begin):
    run = begin()
    data = run.prepared.data()
    data.connect(torch.device("cpu"))
    error = report_failure(NonFiniteLossError(1, float("nan")), data.stream, run.folder, 4.0)
    assert "could not" not in str(error)
    (record,) = run.folder.path.rglob("pair.json")
    number = data.stream.pair(1).image.shape[1]
    assert json.loads(record.read_text())["step"] == 1
    images = {path.name for path in record.parent.glob("image_*")}
    assert images == {f"image_{b}_{n}.nii.gz" for b in range(2) for n in range(number)}
