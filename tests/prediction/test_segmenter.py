"""Promises of segmentations: probabilities become label maps and volumes, where the scan lies."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
import torchio as tio
from helpers import COARSE_MM, STRUCTURES, segmentation_model

from synthsr_net import Predictor, Segmenter
from synthsr_net.models.checkpoint import Model, ModelConfig, ScanConfig, StructureConfig
from synthsr_net.networks.unet import UNet3d, UNetConfig
from synthsr_net.prediction.refinement.brain_mask import brain_box
from synthsr_net.prediction.runs.rows import RowTable
from synthsr_net.prediction.segmenter import other_sides
from synthsr_transforms.io.grids import reorient
from synthsr_transforms.io.scans import Scan
from synthsr_transforms.support.messages import SynthSRError


@pytest.fixture
def model() -> Model:
    return segmentation_model()


@pytest.fixture
def scan() -> Scan:
    """Smooth noise of 6 x 6 x 12 mm in a space of its own."""
    noise = torch.rand(1, 1, 12, 14, 6, generator=torch.Generator().manual_seed(1))
    data = torch.nn.functional.interpolate(noise, (24, 28, 12), mode="trilinear")[0, 0]
    affine = np.diag([-COARSE_MM, COARSE_MM, 2 * COARSE_MM, 1.0])
    affine[:3, 3] = 60, -70, 12
    return Scan(data.numpy(), affine)


def with_posteriors(model: Model, **settings: Any) -> Segmenter:
    segmenter = Segmenter(model, device="cpu", **settings)
    segmenter.keeps_posteriors = True
    return segmenter


class TestSegmenter:
    @pytest.mark.parametrize("grid", ["1mm", "input"])
    def test_each_voxel_is_of_the_most_probable_structure(self, model, scan, grid):
        result = with_posteriors(model, grid=grid).predict([scan])
        assert result.posteriors is not None
        values = np.array(list(STRUCTURES))
        expected = values[result.posteriors.data.argmax(-1)]
        np.testing.assert_array_equal(result.image.data, expected)
        assert len(np.unique(expected)) >= 4
        assert np.issubdtype(result.image.data.dtype, np.integer)
        np.testing.assert_allclose(result.posteriors.data.sum(-1), 1, atol=1e-5)
        np.testing.assert_array_equal(result.image.affine, result.posteriors.affine)

    def test_the_grid_is_that_of_the_scan_or_of_the_network(self, model, scan):
        own = Segmenter(model, device="cpu", grid="input").predict([scan]).image
        fine = Segmenter(model, device="cpu").predict([scan]).image
        assert own.data.shape == scan.data.shape
        np.testing.assert_allclose(own.affine, scan.affine)
        assert fine.data.shape == (24, 28, 24)
        assert fine.spacing_mm == (COARSE_MM,) * 3

    def test_volumes_are_sums_of_probabilities_in_ml(self, model, scan):
        result = with_posteriors(model).predict([scan])
        assert result.posteriors is not None
        sums = result.posteriors.data.sum((0, 1, 2), dtype=np.float64) * COARSE_MM**3 / 1000
        by_name = dict(zip(STRUCTURES.values(), sums, strict=True))
        inside = {name: by_name[name] for v, name in STRUCTURES.items() if v not in (0, 258)}
        assert list(result.volumes_ml) == ["intracranial", *inside]
        assert result.volumes_ml == pytest.approx(
            {"intracranial": sum(inside.values()), **inside}, rel=1e-5
        )

    @pytest.mark.parametrize("codes", ["LPS", "SAR", "PIR", "ASL"])
    def test_orientation_in_storage_changes_nothing_in_the_world(self, model, scan, codes):
        target = nib.orientations.axcodes2ornt(codes)
        image = nib.Nifti1Image(scan.data, scan.affine)
        turned = image.as_reoriented(
            nib.orientations.ornt_transform(nib.io_orientation(image.affine), target)
        )
        segmenter = Segmenter(model, device="cpu")
        here = segmenter.predict([scan])
        there = segmenter.predict([Scan(turned.get_fdata(dtype=np.float32), turned.affine)])
        straight, other = reorient(here.image), reorient(there.image)
        np.testing.assert_allclose(straight.affine, other.affine, atol=1e-4)
        assert (straight.data == other.data).mean() > 0.999
        assert there.volumes_ml == pytest.approx(here.volumes_ml, rel=1e-4)

    def test_with_flip_a_mirrored_head_has_its_sides_swapped(self, model, scan):
        segmenter = with_posteriors(model, flip=True)
        result = segmenter.predict([scan]).posteriors
        mirrored = segmenter.predict([Scan(scan.data[::-1].copy(), scan.affine)]).posteriors
        assert result is not None
        assert mirrored is not None
        swapped = result.data[::-1][..., [0, 1, 3, 2, 4, 5]]
        np.testing.assert_allclose(mirrored.data, swapped, atol=1e-5)

    def test_images_come_back_as_images(self, model, scan, tmp_path):
        segmenter = Segmenter(model, device="cpu")
        expected = segmenter.predict([scan]).image
        image = nib.Nifti1Image(scan.data, scan.affine)
        result = segmenter(image)
        np.testing.assert_array_equal(result.dataobj, expected.data)
        assert int(result.header["sform_code"]) == 1
        labels = segmenter(tio.ScalarImage(torch.as_tensor(scan.data)[None], affine=scan.affine))
        assert isinstance(labels, tio.LabelMap)
        assert torch.equal(labels.data[0], torch.as_tensor(expected.data))
        nib.save(image, tmp_path / "scan.nii.gz")
        path = segmenter(tmp_path / "scan.nii.gz")
        assert path == tmp_path / "scan_synthsr_seg.nii.gz"
        np.testing.assert_array_equal(nib.load(path).dataobj, expected.data)

    def test_models_of_the_other_kind_are_refused(self, model):
        with pytest.raises(SynthSRError, match="Use synthsr segment"):
            Predictor(model)
        config = UNetConfig(num_levels=2, num_features=2)
        with pytest.raises(SynthSRError, match="segmentation network"):
            Segmenter(Model(ModelConfig(name="t1", network=config), UNet3d(config)))


def test_sides_are_found_by_their_names():
    names = ["background", "Left-Amygdala", "stem", "Right-Amygdala", "left caudate"]
    structures = [StructureConfig(value=i, name=name) for i, name in enumerate(names)]
    assert other_sides(structures) == [0, 3, 2, 1, 4]


class TestOfPredictions:
    @pytest.fixture
    def predictor(self, model) -> Predictor:
        torch.manual_seed(0)
        config = UNetConfig(num_levels=2, num_features=4)
        scan = ScanConfig(spacing_mm=COARSE_MM, divisor=8, flip=False)
        network = UNet3d(config).eval().requires_grad_(False)
        network.head.bias.fill_(0.2)
        return Predictor(Model(ModelConfig(network=config, scan=scan), network), device="cpu")

    def test_a_prediction_is_segmented_like_any_scan(self, model, predictor, scan):
        segmenter = Segmenter(model, device="cpu")
        alone = predictor.predict([scan])
        predictor.add_segmenter(segmenter)
        both = predictor.predict([scan])
        np.testing.assert_array_equal(both.image.data, alone.image.data)
        expected = segmenter.predict([Scan(alone.image.data, alone.image.affine)])
        assert both.segmentation is not None
        assert (both.segmentation.image.data == expected.image.data).mean() > 0.998
        np.testing.assert_allclose(both.segmentation.image.affine, expected.image.affine)
        assert both.segmentation.volumes_ml == pytest.approx(expected.volumes_ml, rel=1e-4)

    def test_its_grid_is_that_of_the_prediction(self, model, scan, predictor):
        own = Predictor(Model(predictor.config, predictor.network), grid="input", device="cpu")
        own.add_segmenter(Segmenter(model, device="cpu"))
        result = own.predict([scan])
        assert result.segmentation is not None
        assert result.segmentation.image.data.shape == scan.data.shape == result.image.data.shape

    def test_the_brain_alone_is_segmented_like_the_whole(self, model, predictor, monkeypatch):
        grid = torch.stack(torch.meshgrid(*[torch.arange(32.0)] * 3, indexing="ij"))
        distance = (grid - 15).square().sum(0).sqrt()
        t1 = torch.where(distance < 7, 110.0, torch.where(distance < 9, 80.0, 5.0))
        t1 += torch.rand(t1.shape, generator=torch.Generator().manual_seed(0))
        monkeypatch.setattr("synthsr_net.prediction.segmenter.AROUND_BRAIN_MM", 2 * COARSE_MM)
        segmenter = Segmenter(model, device="cpu")
        space = predictor.prepare([Scan(t1.numpy(), np.diag([*[COARSE_MM] * 3, 1.0]))]).space
        whole = segmenter.segment_prediction(t1, t1[None], space, "1mm").image.data
        part = segmenter.segment_prediction(t1, t1[None], space, "1mm", brain_only=True).image.data
        box = brain_box(t1, COARSE_MM, 2 * COARSE_MM)
        assert box is not None
        assert bool((distance < 9)[box].sum() == (distance < 9).sum())
        assert (part[box] == whole[box]).all()
        part[box] = 0
        assert not part.any()

    def test_where_no_brain_is_found_all_is_segmented(self, model, predictor, scan):
        segmenter = Segmenter(model, device="cpu")
        space, nothing = predictor.prepare([scan]).space, torch.zeros(24, 28, 24)
        whole = segmenter.segment_prediction(nothing, nothing[None], space, "1mm")
        part = segmenter.segment_prediction(nothing, nothing[None], space, "1mm", brain_only=True)
        np.testing.assert_array_equal(part.image.data, whole.image.data)
        assert part.volumes_ml == whole.volumes_ml

    def test_another_spacing_is_refused(self, model, predictor):
        fine = ModelConfig(network=predictor.config.network)
        with pytest.raises(SynthSRError, match=r"predictions of 1 mm .* of 6 mm"):
            Predictor(Model(fine, predictor.network)).add_segmenter(Segmenter(model))


class TestRows:
    """Rows of numbers in place of segmentations."""

    @staticmethod
    def table(path: Path) -> RowTable:
        return RowTable(path, ["a", "b"], lambda values: values)

    @pytest.mark.parametrize("ending", [".csv", ".tsv"])
    def test_a_row_takes_the_place_of_an_earlier_one(self, tmp_path, ending):
        table = self.table(tmp_path / f"new/t{ending}")
        table.put("x, y.nii", [1.0, "no"])
        table.put("z\tz.nii", [2.0, None])
        table.put("x, y.nii", [3.0, "yes"])
        again = self.table(table.path)
        assert again.among(["x, y.nii", "z\tz.nii", "w.nii"]) == {"x, y.nii", "z\tz.nii"}
        text = table.path.read_text()
        assert text.count("\n") == 3
        assert "3.0000" in text
        assert "1.0000" not in text
        assert [path.name for path in table.path.parent.iterdir()] == [table.path.name]

    def test_other_files_are_not_touched(self, tmp_path):
        path = tmp_path / "mine.csv"
        for content in (b"subject,age\n1,40\n", b"", b"\x00\xff\x00"):
            path.write_bytes(content)
            with pytest.raises(SynthSRError):
                self.table(path)
            assert path.read_bytes() == content
        with pytest.raises(SynthSRError, match=r"\.csv or \.tsv"):
            self.table(tmp_path / "t.xlsx")

    def test_processes_add_to_one_table(self, tmp_path: Path):
        program = (
            "import sys; from synthsr_net.prediction.runs.rows import RowTable\n"
            "t = RowTable(sys.argv[1], ['a', 'b'], lambda values: values)\n"
            "for i in range(25): t.put(f'{sys.argv[2]}-{i}', [1.0, 2])"
        )
        path = tmp_path / "t.csv"
        running = [subprocess.Popen([sys.executable, "-c", program, path, n]) for n in "abc"]
        assert [process.wait(90) for process in running] == [0, 0, 0]
        names = [f"{name}-{i}" for name in "abc" for i in range(25)]
        assert self.table(path).among(names) == set(names)
