"""Promises of lesions: shapes of masks, where they lie, and cavities."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
import torchio as tio
from torch import Tensor
from torchio.data.batch import SubjectsBatch

import synthsr_transforms as synth
from synthsr_transforms.support.messages import SynthSRError
from synthsr_transforms.transforms.base import grid_of
from synthsr_transforms.transforms.common.lesion_masks import read_lesion_mask
from synthsr_transforms.transforms.lesions import _random_voxel

ASEG = "freesurfer_aseg"
MASKS = Path(__file__).with_name("lesion_masks")
BALL = MASKS / "ball.nii.gz"
AS_THEY_ARE = {
    **{"rotation_degrees": 0, "scaling": 1, "mirror_probability": 0},
    **{"velocity_std_mm": 0, "border_mm": 0},
}
Maker = Callable[..., Any]


def heads(number: int = 1, size: int = 40, spacing_mm: float = 1.0) -> SubjectsBatch:
    """White matter, with grey matter on the left and fluid on the right."""
    labels = torch.full((1, size, size, size), 2, dtype=torch.int16)
    labels[:, :4], labels[:, -4:] = 3, 24
    image = torch.where(labels == 24, 70.0, 10.0)
    affine = np.diag([*[spacing_mm] * 3, 1])
    subject = tio.Subject(
        labels=tio.LabelMap(labels, affine=affine), image=tio.ScalarImage(image, affine=affine)
    )
    return SubjectsBatch.from_subjects([subject] * number)


def insertion(**arguments: Any) -> synth.LesionInsertion:
    return synth.LesionInsertion(
        **{"label_table": ASEG, "masks": BALL, "include": ["image"], **arguments}
    )


def fraction_of(lesions: Any, batch: SubjectsBatch, seed: int = 0) -> Tensor:
    """Share of lesion, `(B, X, Y, Z)`."""
    record = lesions.sample_record(batch, torch.Generator().manual_seed(seed))
    labels = batch.images["labels"]
    params = lesions.to_params(record, batch.batch_size)
    return lesions.lesion_fraction(labels.data, params, grid_of(labels))[:, 0]


def write(path: Path, data: np.ndarray, affine: np.ndarray) -> Path:
    nib.save(nib.Nifti1Image(data.astype(np.uint8), affine), path)
    return path


def ball_of(path: Path, spacing: tuple[float, float, float], radius_mm: float = 6) -> Path:
    """A mask of a ball, with voxels of some size."""
    where = np.indices([int(20 / s) for s in spacing]).reshape(3, -1).T * spacing
    inside = (((where - 9) ** 2).sum(1) <= radius_mm**2).reshape([int(20 / s) for s in spacing])
    return write(path, inside, np.diag([*spacing, 1.0]))


class TestPlace:
    def test_a_shape_that_is_left_as_it_is_is_the_mask_somewhere_else(self) -> None:
        mask = read_lesion_mask(BALL).data.float() / 255
        for seed in range(20):
            share = fraction_of(insertion(**AS_THEY_ARE), heads(), seed)[0]
            found = torch.nonzero(share)
            first, end = found.amin(0).tolist(), (found.amax(0) + 1).tolist()
            if min(first) == 0 or max(end) >= 36:  # cut by the border, or by fluid
                continue
            box = tuple(slice(a, b) for a, b in zip(first, end, strict=True))
            torch.testing.assert_close(share[box], mask[1:-1, 1:-1, 1:-1])
            return
        pytest.fail("no lesion lay inside")

    def test_a_voxel_of_the_tissue_is_always_inside(self) -> None:
        share = fraction_of(insertion(masks=MASKS, velocity_std_mm=3, border_mm=0), heads(24))
        assert bool((share.amax((1, 2, 3)) > 0.5).all())

    def test_every_voxel_of_the_tissue_is_as_likely(self, device: torch.device) -> None:
        mask = torch.rand(2, 1, 4, 5, 6, generator=torch.Generator().manual_seed(0)) < 0.4
        for element in mask[:, :, None].unbind():
            number = int(element.sum())
            unit = (torch.arange(number) + 0.5) / number
            many = element.float().expand(number, -1, -1, -1, -1).to(device)
            found = _random_voxel(many, unit).cpu()
            assert torch.equal(found, torch.nonzero(element.flatten())[:, 0])

    def test_lesions_lie_in_the_tissues_and_the_chosen_image_alone(self) -> None:
        batch = heads(8)
        lesions = insertion(tissues=["grey_matter"], scaling=0.5, intensity=500)
        out = lesions(batch, generator=torch.Generator().manual_seed(0))
        changed = out.images["image"].data != batch.images["image"].data
        labels = batch.images["labels"].data
        assert torch.equal(out.images["labels"].data, labels)
        assert bool(changed.flatten(1).any(1).all())
        assert not bool((changed & (labels != 3)).any())

    def test_without_masks_nothing_happens(self) -> None:
        batch = heads()
        out = insertion(masks=None)(batch)
        assert torch.equal(out.images["image"].data, batch.images["image"].data)
        assert out.applied_transforms == []

    def test_scans_of_a_head_show_the_same_lesions(self) -> None:
        changes = {
            **{"crop.shape": 32, "crop.multiple_of": None, "scans.probabilities": [0, 1]},
            **{"patient_lesions.masks": str(MASKS), "patient_lesions.p": 1},
        }
        generator = synth.Generator.from_preset("exam", changes)
        _, record = generator.run(heads(2), 0)
        step = record["patient_lesions"]
        of_scan = ("intensity", "std", "noise_seed")
        for name in step["_batched_keys"]:
            same = [step[name][i] == step[name][i + 1] for i in (0, 2)]
            assert same == [name.split(".")[-1] not in of_scan] * 2, name


class TestShape:
    @pytest.mark.parametrize("factor", [0.7, 1.0, 1.4])
    def test_volume_follows_the_scaling(self, factor: float) -> None:
        turned = {"rotation_degrees": (-90, 90), "scaling": factor, "velocity_std_mm": 0}
        lesions = insertion(masks=MASKS / "two_parts.nii.gz", border_mm=0.5, **turned)
        size = float(read_lesion_mask(MASKS / "two_parts.nii.gz").data.sum()) / 255
        shares = fraction_of(lesions, heads(24, 48))
        whole = max(float(share.sum()) for share in shares)
        assert whole == pytest.approx(size / factor**3, rel=0.05)

    @pytest.mark.parametrize("spacing", [(0.5, 0.5, 0.8), (1, 1, 1), (2, 1, 1)])
    @pytest.mark.parametrize("grid_mm", [1.0, 2.0])
    def test_volume_is_that_of_the_mask_whatever_the_voxels(
        self, spacing: tuple[float, float, float], grid_mm: float, tmp_path: Path
    ) -> None:
        file = ball_of(tmp_path / "ball.nii.gz", spacing)
        volume = nib.load(file).get_fdata().sum() * np.prod(spacing)
        batch = heads(24, 40, grid_mm)
        shares = fraction_of(insertion(masks=file, **AS_THEY_ARE), batch)
        cut = shares[:, :5].sum((1, 2, 3)) + shares[:, 35:].sum((1, 2, 3))
        for axis in (2, 3):
            cut = cut + shares.select(axis, 0).sum((1, 2)) + shares.select(axis, 39).sum((1, 2))
        whole = shares[cut == 0].sum((1, 2, 3)) * grid_mm**3
        assert float(whole.mean()) == pytest.approx(volume, rel=0.1)

    def test_axes_of_masks_run_right_front_and_up(self, tmp_path: Path) -> None:
        data = np.zeros((6, 7, 8))
        data[1, 2:4, 3:6] = data[2, 3, 3] = 1
        straight = write(tmp_path / "a.nii.gz", data, np.eye(4))
        turned = data.transpose(2, 0, 1)[::-1]
        affine = np.array([[0, 1, 0, 0], [0, 0, 1, 0], [-1, 0, 0, 7], [0, 0, 0, 1.0]])
        other = write(tmp_path / "b.nii.gz", turned, affine)
        assert torch.equal(read_lesion_mask(straight).data, read_lesion_mask(other).data)

    def test_a_mask_without_lesions_is_named(self, tmp_path: Path) -> None:
        file = write(tmp_path / "empty.nii.gz", np.zeros((4, 4, 4)), np.eye(4))
        with pytest.raises(SynthSRError, match="empty"):
            insertion(masks=tmp_path)(heads())
        assert file.exists()


@pytest.mark.parametrize(
    "lesions",
    [insertion, lambda **more: synth.LesionSimulation(height=-1, label_table=ASEG, **more)],
)
class TestCavities:
    def test_they_are_as_bright_as_fluid(self, lesions: Maker) -> None:
        settings = {"include": ["image"], "intensity": 300, "cavity_probability": 1}
        transform, batch = lesions(cavity_share=1, **settings), heads(2)
        out = transform(batch, generator=torch.Generator().manual_seed(0)).images["image"].data
        share = fraction_of(transform, batch)[:, None]
        expected = torch.lerp(batch.images["image"].data, torch.tensor(70.0), share)
        torch.testing.assert_close(out, expected)

    def test_without_fluid_lesions_keep_their_intensity(self, lesions: Maker) -> None:
        batch = heads()
        batch.images["labels"].data = torch.full_like(batch.images["labels"].data, 2)
        settings = {"include": ["image"], "intensity": 300, "cavity_share": 1}
        first, second = (
            lesions(cavity_probability=p, **settings)(
                batch, generator=torch.Generator().manual_seed(0)
            )
            for p in (0, 1)
        )
        assert torch.equal(first.images["image"].data, second.images["image"].data)

    @pytest.mark.parametrize("share", [0.2, 0.6])
    def test_they_fill_their_share_of_the_lesions(self, lesions: Maker, share: float) -> None:
        settings = {"include": ["image"], "intensity": 300, "cavity_probability": 1}
        more = {"cavity_share": share, "cavity_size_mm": 2}
        transform, batch = lesions(**settings, **more), heads(12)
        out = transform(batch, generator=torch.Generator().manual_seed(0)).images["image"].data
        lesion = fraction_of(transform, batch)[:, None]
        cavity = (10 + 290 * lesion - out) * (lesion > 0) / 230
        assert float(cavity.sum() / lesion.sum()) == pytest.approx(share, abs=0.08)

    def test_some_lesions_hold_none(self, lesions: Maker) -> None:
        transform = lesions(cavity_probability=0.5, include=["image"])
        record = transform.sample_record(heads(64), torch.Generator().manual_seed(0))
        held = [share > 0 for share in record["cavity_share"]]
        assert 16 < sum(held) < 48
