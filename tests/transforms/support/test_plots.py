"""Pictures for notebooks show the slices of the volumes, and texts no voxels."""

from __future__ import annotations

import numpy as np
import torch

from synthsr_net.prediction.space.postprocess import Prediction, Segmentation
from synthsr_transforms import LabelTable, TrainingPair
from synthsr_transforms.drawing.colours import label_colours
from synthsr_transforms.generator.scans import ExamPair
from synthsr_transforms.io.grids import Volume

SHAPE = (8, 10, 12)


def shown(axes):
    return np.ma.filled(axes.images[0].get_array(), np.nan)


def ball():
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in (40, 44, 48)), indexing="ij")
    return (100 * (sum(a**2 for a in axes) < 0.6)).astype(np.float32)


def test_a_pair_shows_slices_of_the_element_that_is_asked_for():
    image, labels = torch.rand(2, 1, *SHAPE), torch.full((2, 1, *SHAPE), 2, dtype=torch.int32)
    target = torch.rand(2, 1, *SHAPE)
    figure = TrainingPair(image, target, labels).plot(1, spacing_mm=2)
    assert len(figure.axes) == 9
    for first, volume in ((3, image), (6, target)):
        slices = [shown(axes) for axes in figure.axes[first : first + 3]]
        for axis, pixels in enumerate(slices):
            cuts = volume[1, 0].unbind(axis)
            assert any(np.array_equal(pixels, cut.numpy().T) for cut in cuts)


def test_an_exam_shows_the_scans_that_there_are():
    present = torch.tensor([[True, False]])
    labels = torch.full((1, 1, *SHAPE), 2, dtype=torch.int32)
    pair = ExamPair(torch.rand(1, 2, 1, *SHAPE), torch.rand(1, 1, *SHAPE), labels, present)
    assert len(pair.plot().axes) == 3 * 3
    assert len(pair._replace(present=None).plot().axes) == 3 * 4


def test_a_prediction_shows_its_voxels_and_prints_none():
    image = Volume(ball(), np.eye(4))
    labels = Volume((ball() > 0).astype(np.int16) * 17, np.eye(4))
    segmentation = Segmentation(labels, {"left hippocampus": 1.0}, warnings=("dark",))
    prediction = Prediction(image, torch.zeros(1), segmentation=segmentation)
    assert repr(prediction) == "Prediction(40 x 44 x 48 voxels of 1 x 1 x 1 mm, segmentation)"
    assert repr(segmentation).endswith("of 1 x 1 x 1 mm, 1 warning, 1 volumes)")
    assert len(prediction.plot().axes) == 6
    with_scan = prediction.plot(image)
    assert len(with_scan.axes) == 9
    values = shown(with_scan.axes[3])
    assert set(values[~np.isnan(values)].tolist()) == {0.0, 100.0}
    assert np.array_equal(shown(with_scan.axes[0]), shown(with_scan.axes[3]), equal_nan=True)
    assert len(segmentation.plot(image).axes) == 6


def test_a_table_shows_every_label_in_its_colour():
    table = LabelTable.ready("freesurfer_aseg")
    figure = table.plot()
    colours = np.concatenate([shown(axes)[:, 0] for axes in figure.axes])
    assert np.array_equal(colours, label_colours(np.array(table.values)))
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    for row in table.rows:
        assert f"{row.value}  {row.name}" in texts
