"""One sampling of the patch equals its steps, and every voxel lies where its affine says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torchio as tio
from torch import Tensor
from torchio.data.batch import ImagesBatch, SubjectsBatch

from synthsr_transforms import (
    CopyImage,
    GaussianSmoothing,
    HemisphereFlip,
    PatchCrop,
    SliceAcquisition,
    SpatialDeformation,
    TargetResolution,
    TissueContrast,
    TissueMixture,
)
from synthsr_transforms.generator.stages import Stage
from synthsr_transforms.transforms.base import SynthTransform, shallow_copy

AFFINES = ("identity", "anisotropic", "oblique", "swapped")
ORDERS = ("deform crop flip", "deform flip crop", "deform flip", "deform crop")
DEFORM: dict[str, Any] = {
    "rotation_degrees": (-15, 15),
    "scaling": (0.9, 1.1),
    "shearing": (-0.02, 0.02),
    "translation_mm": (-3, 3),
    "velocity_std_mm": (0, 2),
    "velocity_shape_factor": 0.25,
}
Maker = Callable[..., Any]


def make_steps(order: str, **deform: Any) -> list[SynthTransform]:
    makers: dict[str, Callable[[], SynthTransform]] = {
        "deform": lambda: SpatialDeformation(**{**DEFORM, **deform}),
        "crop": lambda: PatchCrop(shape=(7, 6, 9)),
        "flip": lambda: HemisphereFlip(label_table="freesurfer_aseg", p=0.5),
    }
    return [makers[word]() for word in order.split()]


def one_after_the_other(
    batch: SubjectsBatch, steps: Sequence[SynthTransform], params: Sequence[dict[str, Any]]
) -> SubjectsBatch:
    result = shallow_copy(batch)
    for step, own in zip(steps, params, strict=True):
        step.apply_transform(result, own)
    return result


class TestSpatialRun:
    @pytest.mark.parametrize("affine", AFFINES)
    @pytest.mark.parametrize("order", ORDERS)
    def test_it_equals_the_steps_one_after_the_other(
        self, affine: str, order: str, make_batch: Maker, seeded: Maker, assert_same: Maker
    ) -> None:
        batch, steps = make_batch(4, affine=affine), make_steps(order)
        run = Stage(steps)
        params = run.sample_record(batch, seeded(3))
        if "flip" in order:
            kept = params[order.split().index("flip")]["_keep"]
            assert 0 < sum(kept) < 4
        together = shallow_copy(batch)
        run.apply(together, params)
        assert_same(together, one_after_the_other(batch, steps, params), tolerance=1e-6)

    @pytest.mark.parametrize("units", [{"half_grid_units": True}, {"index_grid": True}], ids=str)
    def test_it_does_so_in_the_units_of_the_original(
        self, units: dict[str, bool], make_batch: Maker, seeded: Maker, assert_same: Maker
    ) -> None:
        batch, steps = make_batch(affine="anisotropic"), make_steps(ORDERS[0], **units)
        run = Stage(steps)
        params = run.sample_record(batch, seeded(4))
        together = shallow_copy(batch)
        run.apply(together, params)
        assert_same(together, one_after_the_other(batch, steps, params), tolerance=1e-6)

    def test_it_remembers_every_step_in_order(self, make_batch: Maker, seeded: Maker) -> None:
        batch, run = make_batch(), Stage(make_steps(ORDERS[0]))
        params = run.sample_record(batch, seeded(3))
        run.apply(batch, params)
        traces = batch.applied_transforms
        assert [t.name for t in traces] == ["SpatialDeformation", "PatchCrop", "HemisphereFlip"]
        assert [t.params for t in traces] == params

    def test_the_callers_tensors_are_not_written(self, make_batch: Maker, seeded: Maker) -> None:
        batch = make_batch()
        tensors = {name: image.data for name, image in batch.images.items()}
        kept = {name: data.clone() for name, data in tensors.items()}
        run = Stage(make_steps(ORDERS[0]))
        run.apply(batch, run.sample_record(batch, seeded(6)))
        assert all(torch.equal(data, kept[name]) for name, data in tensors.items())

    def test_only_steps_that_gain_run_as_one(self) -> None:
        deform, crop, flip = make_steps(ORDERS[0])
        blur = GaussianSmoothing(sigma_mm=1)
        assert Stage.length([deform, crop, flip, blur]) == 3
        assert Stage.length([deform, flip, crop, flip]) == 3
        assert Stage.length([deform, blur, crop]) == 1
        assert Stage.length([crop, deform]) == 1
        assert Stage.length([SpatialDeformation(p=0.5), crop]) == 1
        assert Stage.length([SpatialDeformation(include=["image"]), crop]) == 1
        assert Stage.length([deform, PatchCrop(shape=4, p=0.5)]) == 1
        assert Stage.length([deform, HemisphereFlip(exclude=["image"])]) == 1


def painters(**more: Any) -> list[SynthTransform]:
    """Steps that paint one over the other."""
    table: dict[str, Any] = {"label_table": "freesurfer_aseg"}
    contrast = {**table, "destination": "image", "replace": True, "by_tissue": {"csf": [1, 9]}}
    return [
        TissueContrast(**table, by_tissue={"white_matter": [100, 120]}, same_sides=True),
        TissueMixture(**table, background_mean=3, **more),
        TissueContrast(**contrast, std=[1, 4], p=0.5),
        CopyImage(source="target", destination="image", replace=True, p=0.3),
        TissueContrast(**contrast, p=0.3, coil=False),
        CopyImage(source="image", destination="target", replace=True, p=0.2),
    ]


class TestPainting:
    @pytest.mark.parametrize("seed", range(6))
    def test_it_equals_the_steps_one_after_the_other_bit_for_bit(
        self, seed: int, make_batch: Maker, seeded: Maker, assert_same: Maker
    ) -> None:
        batch, steps = make_batch(5, affine="oblique"), painters()
        run = Stage(steps)
        params = run.sample_record(batch, seeded(seed))
        together = shallow_copy(batch)
        run.apply(together, params)
        assert_same(together, one_after_the_other(batch, steps, params))
        assert list(together.images) == ["labels", "image", "target"]

    def test_it_draws_and_remembers_what_the_steps_do(
        self, make_batch: Maker, seeded: Maker
    ) -> None:
        batch, steps = make_batch(4), painters()
        run = Stage(steps)
        drawn, generator, apart = run.draw(batch, seeded(2)), seeded(2), make_batch(4)
        records = [step.run(apart, generator) for step in steps]
        assert [one.record for one in drawn] == records
        run.apply(batch, records, [one.tensors for one in drawn])
        traces, expected = batch.applied_transforms, apart.applied_transforms
        assert [(t.name, t.params) for t in traces] == [(t.name, t.params) for t in expected]
        assert batch.metadata == apart.metadata

    def test_noise_that_is_given_is_used(
        self, make_batch: Maker, seeded: Maker, assert_same: Maker
    ) -> None:
        batch, steps = make_batch(2), painters()
        run = Stage(steps)
        params = run.sample_record(batch, seeded(1))
        shape = (2, 1, *batch.images["labels"].data.shape[2:])
        params[1]["noise"] = torch.ones(shape).tolist()
        together = shallow_copy(batch)
        run.apply(together, params)
        assert_same(together, one_after_the_other(batch, steps, params))

    def test_only_steps_on_one_label_map_and_channel_paint_together(self) -> None:
        target, mixture, contrast, copied, *_ = painters()
        assert Stage.length([target, mixture, contrast, copied, GaussianSmoothing()]) == 4
        assert Stage.length([contrast, mixture]) == 1  # it replaces what is not made here
        assert Stage.length([mixture, copied]) == 1  # which copies what is not made here
        assert Stage.length([target, painters(labels="other")[1]]) == 1
        assert Stage.length([target, painters(num_channels=2)[1]]) == 1
        assert Stage.length([target, painters(p=0.5)[1]]) == 1

    def test_unknown_labels_are_refused(self, make_batch: Maker, seeded: Maker) -> None:
        batch, run = make_batch(2), Stage(painters())
        batch.images["labels"].data = batch.images["labels"].data + 20000
        with pytest.raises(ValueError, match="labels must be in the label table"):
            run.apply(batch, run.sample_record(batch, seeded(0)))


def world_of(image: ImagesBatch) -> Tensor:
    """World coordinates of every voxel, `(B, 3, X, Y, Z)` float32."""
    shape = image.data.shape[2:]
    rows = [torch.arange(n, dtype=torch.float64) for n in shape]
    voxels = torch.stack(torch.meshgrid(*rows, indexing="ij")).flatten(1)
    worlds = [
        (a.data.cpu()[:3, :3] @ voxels + a.data.cpu()[:3, 3:]).view(3, *shape)
        for a in image.affines
    ]
    return torch.stack(worlds).float().to(image.data.device)


@pytest.fixture
def located(make_batch: Maker) -> Callable[[str], SubjectsBatch]:
    """Maker of batches whose image holds the world coordinates of its own voxels."""

    def make(affine: str) -> SubjectsBatch:
        batch = make_batch(2, affine=affine, shape=(18, 20, 22))
        batch.images["image"].data = world_of(batch.images["image"])
        return batch

    return make


def apart_mm(image: ImagesBatch, margin: int) -> float:
    """Largest distance between where voxels lie and where they say they lie, inside a margin."""
    inside = slice(margin, -margin)
    off = (image.data - world_of(image))[..., inside, inside, inside]
    assert off.numel() > 0
    return off.norm(dim=1).max().item()


@pytest.mark.parametrize("affine", AFFINES)
class TestWorld:
    def test_a_crop_stays_in_place(self, affine: str, located: Maker) -> None:
        out = PatchCrop(shape=(7, 9, 8))(located(affine))
        assert apart_mm(out.images["image"], 1) < 1e-4
        assert tuple(out.images["labels"].data.shape[2:]) == (7, 9, 8)
        for mine, other in zip(
            out.images["image"].affines, out.images["labels"].affines, strict=True
        ):
            assert mine == other

    def test_a_target_resolution_stays_in_place(self, affine: str, located: Maker) -> None:
        batch = located(affine)
        spacing = [1.7 * s for s in batch.images["image"].affines[0].spacing]
        out = TargetResolution(spacing_mm=spacing)(batch).images["image"]
        assert out.affines[0].spacing == pytest.approx(spacing, rel=0.1)
        assert apart_mm(out, 2) < 1e-3

    def test_a_crop_for_a_target_resolution_stays_in_place(
        self, affine: str, located: Maker
    ) -> None:
        batch = located(affine)
        spacing = [1.25 * s for s in batch.images["image"].affines[0].spacing]
        crop = PatchCrop(shape=12, target_spacing_mm=spacing)
        out = TargetResolution(spacing_mm=spacing)(crop(batch))
        assert tuple(out.images["image"].data.shape[2:]) == (12, 12, 12)
        assert tuple(out.images["labels"].data.shape[2:]) == (12, 12, 12)
        assert apart_mm(out.images["image"], 2) < 1e-3

    @pytest.mark.parametrize("alignment", ["centre", "corner"])
    @pytest.mark.parametrize("output_shape", [(18, 20, 22), (12, 15, 11), (36, 30, 44)])
    def test_an_acquisition_stays_in_place(
        self, affine: str, alignment: str, output_shape: tuple, located: Maker
    ) -> None:
        batch = located(affine)
        coarse = [2 * s for s in batch.images["image"].affines[0].spacing]
        acquire = SliceAcquisition(
            spacing_mm=coarse, alignment=alignment, output_shape=output_shape
        )
        out = acquire(batch).images["image"]
        assert tuple(out.data.shape[2:]) == output_shape
        assert apart_mm(out, 8 if output_shape[0] > 18 else 4) < 1e-3

    def test_a_flip_mirrors_about_the_middle_of_the_image(
        self, affine: str, located: Maker
    ) -> None:
        batch = located(affine)
        out = HemisphereFlip()(batch)
        before, after = (b.images["image"] for b in (batch, out))
        assert after.affines == before.affines
        axis = max(
            range(3),
            key=lambda a: abs(before.affines[0].data[0, a].item() / before.affines[0].spacing[a]),
        )
        assert torch.equal(after.data, before.data.flip(axis + 2))

    def test_a_translation_moves_by_millimetres_along_the_axes(
        self, affine: str, located: Maker
    ) -> None:
        batch, shift = located(affine), torch.tensor([2.0, -1.5, 3.0])
        out = SpatialDeformation(translation_mm=shift.tolist())(batch).images["image"]
        direction = out.affines[0].direction.float().cpu()
        moved = (out.data - world_of(out)).cpu()[..., 4:-4, 4:-4, 4:-4]
        expected = (direction @ shift)[None, :, None, None, None].expand_as(moved)
        torch.testing.assert_close(moved, expected, rtol=0, atol=1e-3)

    def test_a_rotation_keeps_distances_in_millimetres(self, affine: str, located: Maker) -> None:
        batch = located(affine)
        out = SpatialDeformation(rotation_degrees=(10, -5, 8))(batch).images["image"]
        read = out.data[..., 6:-6, 6:-6, 6:-6].flatten(2)[0].double().cpu()
        own = world_of(out)[..., 6:-6, 6:-6, 6:-6].flatten(2)[0].double().cpu()
        torch.testing.assert_close(
            torch.cdist(read.T, read.T), torch.cdist(own.T, own.T), rtol=0, atol=1e-2
        )


class TestSizes:
    def test_batches_of_two_spacings_cannot_share_a_target_resolution(
        self, make_subject: Maker
    ) -> None:
        batch = SubjectsBatch.from_subjects(
            [make_subject(affine="identity"), make_subject(affine="anisotropic")]
        )
        for transform in (
            TargetResolution(spacing_mm=2),
            PatchCrop(shape=4, target_spacing_mm=2),
        ):
            with pytest.raises(ValueError, match="spacing must be the same for all elements"):
                transform(batch)

    def test_a_crop_without_target_spacing_leaves_no_size_behind(self, make_batch: Maker) -> None:
        cropped = PatchCrop(shape=8)(make_batch())
        padded = tio.Pad(padding=2)(cropped)
        out = SliceAcquisition(spacing_mm=2)(padded)
        assert tuple(out.images["image"].data.shape[2:]) == (12, 12, 12)

    def test_images_of_two_shapes_are_refused(self, make_batch: Maker) -> None:
        batch = make_batch()
        image = batch.images["image"]
        batch.images["small"] = ImagesBatch(image.data[..., :5], image.affines)
        with pytest.raises(ValueError, match="needs images of one shape"):
            SpatialDeformation()(batch)

    def test_batches_of_two_orientations_cannot_be_flipped(self, make_subject: Maker) -> None:
        batch = SubjectsBatch.from_subjects(
            [make_subject(affine="identity"), make_subject(affine="swapped")]
        )
        with pytest.raises(ValueError, match="one orientation"):
            HemisphereFlip()(batch)
