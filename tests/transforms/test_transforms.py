"""What is particular to single transforms, beyond the contract that all of them keep."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torchio as tio
from torch import Tensor
from torchio import LabelMap, ScalarImage
from torchio.data.affine import AffineMatrix
from torchio.data.batch import ImagesBatch, SubjectsBatch

import synthsr_transforms as synth
from synthsr_transforms.functional.blur import gaussian_blur
from synthsr_transforms.functional.geometry import affine_matrix
from synthsr_transforms.functional.resample import resize
from synthsr_transforms.functional.warp import warp_affine
from synthsr_transforms.labels.table import LabelTable
from synthsr_transforms.transforms.base import SynthTransform, grid_of
from synthsr_transforms.transforms.common.images import find_labels

ASEG = "freesurfer_aseg"
Maker = Callable[..., Any]


def channels_of(*values: float, shape: tuple[int, int, int] = (4, 3, 5)) -> Tensor:
    """An image `(C, X, Y, Z)` with one constant per channel."""
    return torch.tensor(values)[:, None, None, None].expand(-1, *shape).clone()


def rigid_of(rotation_degrees: list[float], translation_mm: list[float]) -> Tensor:
    return affine_matrix(
        torch.tensor([rotation_degrees]), translation=torch.tensor([translation_mm])
    )


@pytest.mark.parametrize(
    "transform",
    [
        synth.BiasCorruption(),
        synth.GammaContrast(),
        synth.GaussianSmoothing(),
        synth.ScannerNoise(),
        synth.PartialFieldOfView(),
        synth.PatchCrop(),
        synth.TargetResolution(),
        synth.RegistrationError(rotation_degrees=0, translation_mm=0),
        synth.BiasCorruption(std=1, probability=0),
        synth.LesionSimulation(label_table=ASEG, height=99),
    ],
    ids=repr,
)
def test_neutral_arguments_change_nothing(transform: SynthTransform, make_batch: Maker) -> None:
    batch = make_batch()
    out = transform(batch)
    for name, image in batch.images.items():
        torch.testing.assert_close(out.images[name].data, image.data, rtol=1e-6, atol=0)
        assert out.images[name].affines == image.affines


def test_a_neutral_deformation_keeps_labels_exactly(make_batch: Maker, assert_same: Maker) -> None:
    batch = make_batch(affine="oblique")
    assert_same(synth.SpatialDeformation()(batch), batch, tolerance=1e-5)


class TestFlip:
    @pytest.mark.parametrize("affine", ["identity", "oblique", "swapped"])
    def test_twice_is_identity(self, affine: str, make_batch: Maker, assert_same: Maker) -> None:
        batch, flip = make_batch(affine=affine), synth.HemisphereFlip(label_table=ASEG)
        assert_same(flip(flip(batch)), batch)

    def test_partners_change_places_and_neutral_labels_stay(self) -> None:
        labels = LabelMap(torch.tensor([0, 2, 53, 16, 9999]).reshape(1, 5, 1, 1))
        out = synth.HemisphereFlip(label_table=ASEG)(labels)
        assert out.data.flatten().tolist() == [9999, 16, 17, 41, 0]

    def test_without_a_table_values_stay(self) -> None:
        labels = LabelMap(torch.tensor([2, 53]).reshape(1, 2, 1, 1))
        assert synth.HemisphereFlip()(labels).data.flatten().tolist() == [53, 2]

    def test_images_are_mirrored_without_an_exchange(self) -> None:
        image = tio.ScalarImage(torch.tensor([2.0, 53.0]).reshape(1, 2, 1, 1))
        out = synth.HemisphereFlip(label_table=ASEG)(image)
        assert out.data.flatten().tolist() == [53, 2]


class TestSmoothing:
    def test_widths_are_millimetres(self, device: torch.device) -> None:
        shape = (51, 31, 21)
        point = torch.zeros(1, 1, *shape, device=device)
        point[..., 25, 15, 10] = 1
        spacing = (0.5, 1.0, 2.0)
        batch = ImagesBatch(point, [AffineMatrix.from_spacing(spacing)])
        spread = synth.GaussianSmoothing(sigma_mm=2, truncate=4)(batch).data[0, 0].double().cpu()
        for axis, mm in enumerate(spacing):
            profile = spread.sum([a for a in range(3) if a != axis])
            index = torch.arange(shape[axis], dtype=torch.float64) - shape[axis] // 2
            variance = (profile * (index * mm) ** 2).sum().item()
            assert variance == pytest.approx(4, rel=0.03)

    def test_the_largest_width_sets_the_window(self) -> None:
        point = torch.zeros(1, 15, 1, 1)
        point[0, 7] = 1
        out = synth.GaussianSmoothing(sigma_mm=0.8, max_sigma_mm=3, truncate=1)(point)
        assert int((out > 0).sum()) == 7

    def test_shared_widths_blur_as_the_same_width_does(self, make_batch: Maker) -> None:
        batch = make_batch(affine="anisotropic", dtype=torch.float64)
        batch = synth.CopyImage(channels=[1])(batch)
        apart, shared = (
            synth.GaussianSmoothing(sigma_mm=1.3, multiplier=0.9, shared=shared)(batch).images
            for shared in (False, True)
        )
        for name in ("image", "target"):
            assert torch.equal(shared[name].data, apart[name].data)
            assert not torch.equal(shared[name].data, batch.images[name].data)

    def test_shared_widths_are_one_for_all_axes_and_images_of_an_element(self) -> None:
        point = torch.zeros(2, 2, 13, 13, 13)
        point[..., 6, 6, 6] = 1
        images = {
            name: ImagesBatch(point, [AffineMatrix(), AffineMatrix()]) for name in ("one", "two")
        }
        batch = SubjectsBatch(images)
        out = synth.GaussianSmoothing(sigma_mm=(0.5, 1.5), shared=True)(batch).images
        one, two = out["one"].data, out["two"].data
        assert torch.equal(one, two)
        torch.testing.assert_close(one[:, 0], one[:, 1])
        torch.testing.assert_close(one, one.transpose(2, 4))
        assert abs(float(one[0, 0, 6, 6, 6] - one[1, 0, 6, 6, 6])) > 1e-4


class TestRescaling:
    def test_it_clips_then_fills_zero_to_one(self) -> None:
        line = torch.tensor([-5.0, 0, 25, 50, 400]).reshape(1, 5, 1, 1)
        out = synth.MinMaxRescale(clip=(0, 100))(line)
        torch.testing.assert_close(out.flatten(), torch.tensor([0, 0, 0.25, 0.5, 1]))

    def test_a_given_range_is_a_fixed_scale(self) -> None:
        line = torch.tensor([0.0, 51, 255]).reshape(1, 3, 1, 1)
        out = synth.MinMaxRescale(input_range=(0, 255))(line)
        torch.testing.assert_close(out.flatten(), torch.tensor([0, 0.2, 1]))

    def test_integer_images_become_floating_point(self) -> None:
        out = synth.MinMaxRescale()(torch.tensor([0, 4, 8]).reshape(1, 3, 1, 1))
        assert out.flatten().tolist() == [0, 0.5, 1]

    def test_channels_that_an_image_lacks_are_named(self) -> None:
        with pytest.raises(ValueError, match=r"channels must be below 2 for image"):
            synth.MinMaxRescale(channels=[2])(channels_of(1, 2))


class TestChannels:
    def test_selection_keeps_the_order_asked_for(self) -> None:
        out = synth.SelectChannels(channels=[2, 0])(channels_of(1, 2, 3))
        assert out[:, 0, 0, 0].tolist() == [3, 1]

    @pytest.mark.parametrize("cls", [synth.SelectChannels, synth.CopyImage])
    def test_channels_that_an_image_lacks_are_named(self, cls: type[SynthTransform]) -> None:
        with pytest.raises(ValueError, match="channels must be below 2 for image 'image'"):
            cls(channels=[0, 2])({"image": channels_of(1, 2)})

    def test_a_copy_keeps_what_the_image_had(self, make_batch: Maker) -> None:
        batch = make_batch()
        copied = synth.CopyImage(channels=[1])(batch)
        later = synth.ScannerNoise(std=9, include=["image"])(copied)
        expected = batch.images["image"].data[:, 1:]
        assert torch.equal(later.images["target"].data, expected)

    def test_a_label_map_is_copied_as_a_label_map(self, make_batch: Maker) -> None:
        out = synth.CopyImage(source="labels", destination="kept")(make_batch())
        assert out.images["kept"]._image_class is LabelMap

    def test_an_image_that_is_not_there_is_named(self, make_batch: Maker) -> None:
        with pytest.raises(
            ValueError, match=r"image must be one of \['labels', 'image'\], got 'ct'"
        ):
            synth.CopyImage(source="ct")(make_batch())


class TestReplacement:
    """With `replace`, an image that exists gives way in the elements that `p` chooses."""

    def test_a_contrast_takes_the_place_of_the_image_in_chosen_elements_alone(
        self, make_batch: Maker, seeded: Maker
    ) -> None:
        batch = make_batch(6, channels=1)
        about = {"label_table": ASEG, "by_tissue": {"white_matter": 110}}
        whole = synth.TissueContrast(**about)(batch).images["target"].data
        transform = synth.TissueContrast(**about, destination="image", replace=True, p=0.5)
        out = transform(batch, generator=seeded(0))
        keep = out.applied_transforms[-1].params["_keep"]
        assert 0 < sum(keep) < 6
        before, after = batch.images["image"].data, out.images["image"].data
        for kept, old, new, contrast in zip(keep, before, after, whole, strict=True):
            assert torch.equal(new, contrast if kept else old)

    def test_a_batch_of_one_is_what_it_is_without_replace(
        self, make_batch: Maker, seeded: Maker
    ) -> None:
        batch = synth.CopyImage(channels=[1], destination="other")(make_batch(1))
        for cls, about in (
            (synth.CopyImage, {"source": "other", "destination": "target"}),
            (synth.TissueContrast, {"label_table": ASEG, "std": 9, "destination": "target"}),
        ):
            start = synth.CopyImage(channels=[0])(batch)
            for seed in range(4):
                outputs = [
                    cls(**about, replace=replace, p=0.5)(start, generator=seeded(seed))
                    for replace in (False, True)
                ]
                assert torch.equal(*(out.images["target"].data for out in outputs))

    @pytest.mark.parametrize("cls", [synth.CopyImage, synth.TissueContrast])
    def test_a_destination_that_is_not_there_or_has_another_shape_is_named(
        self, cls: type[SynthTransform], make_batch: Maker
    ) -> None:
        about: dict[str, Any] = {"replace": True}
        about.update({"label_table": ASEG} if cls is synth.TissueContrast else {"channels": [0]})
        with pytest.raises(ValueError, match=r"one of \['labels', 'image'\], got 'target'"):
            cls(**about, destination="target")(make_batch())
        with pytest.raises(ValueError, match=r"destination 'image' must have the channels and"):
            cls(**about, destination="image")(make_batch())

    @pytest.mark.parametrize(
        ("transform", "text"),
        [
            (partial(synth.CopyImage, replace=True), r"got 'target'"),
            (partial(synth.TissueContrast, label_table=ASEG, replace=True), r"got 'target'"),
            (partial(synth.ScannerNoise, include=["imgae"]), r"got \['imgae'\]"),
        ],
    )
    def test_names_that_are_not_there_are_told_whatever_chance_decides(
        self, transform: Callable[..., SynthTransform], text: str, make_batch: Maker
    ) -> None:
        seldom = transform(p=1e-9)
        for act in (seldom, seldom.run):
            with pytest.raises(ValueError, match=text):
                act(make_batch())
        transform(p=0)(make_batch())

    def test_kind_and_type_of_the_destination_stay(self, make_batch: Maker) -> None:
        batch = make_batch(channels=1, dtype=torch.float16)
        out = synth.CopyImage(source="labels", destination="image", replace=True)(batch)
        assert out.images["image"]._image_class is ScalarImage
        assert out.images["image"].data.dtype == torch.float16
        expected = batch.images["labels"].data.half()
        assert torch.equal(out.images["image"].data, expected)


class TestFieldOfView:
    def test_all_images_keep_the_same_slab(self, make_batch: Maker, seeded: Maker) -> None:
        batch = make_batch(6)
        batch = synth.CopyImage()(batch)
        out = synth.PartialFieldOfView(fraction=0.5, value=-1)(batch, generator=seeded(1))
        image, target = (out.images[n].data for n in ("image", "target"))
        assert torch.equal(image, target)
        kept = image != -1
        assert torch.equal(image[kept], batch.images["image"].data[kept])
        for element in kept:
            profiles = [element[0].float().mean(axes) for axes in ((1, 2), (0, 2), (0, 1))]
            (row,) = [p for p in profiles if bool((p == 0).any())]
            assert int((row > 0).sum()) == round(len(row) / 2)
            edges = (row > 0).float().diff(prepend=torch.zeros(1).to(row))
            assert int((edges > 0).sum()) == 1


class TestStripping:
    def test_the_brain_is_kept_and_the_rest_constant(self, make_batch: Maker) -> None:
        batch = make_batch()
        out = synth.SkullStripping(label_table=ASEG, value=-3)(batch)
        brain = (batch.images["labels"].data > 0).expand_as(out.images["image"].data)
        image = out.images["image"].data
        assert torch.equal(image[brain], batch.images["image"].data[brain])
        assert image[~brain].unique().tolist() == [-3]


class TestCoil:
    """Images that no coil made have no bias field."""

    BIAS = synth.BiasCorruption(std=0.5, include=["image"])

    def test_bias_leaves_the_elements_alone_whose_last_contrast_is_without(
        self, make_batch: Maker, seeded: Maker
    ) -> None:
        settings = {"label_table": ASEG, "by_tissue": {"white_matter": 9.0, "csf": 5.0}}
        some = {"destination": "image", "replace": True, "p": 0.5}
        batch = synth.TissueContrast(**settings, destination="image")(make_batch(12))
        batch = synth.TissueContrast(**settings, **some, coil=False)(batch, generator=seeded(0))
        batch = synth.TissueContrast(**settings, **some)(batch, generator=seeded(5))
        last = [trace.params.get("_keep") for trace in batch.applied_transforms[-2:]]
        without = [ct and not mr for ct, mr in zip(*last, strict=True)]
        assert {*without} == {True, False}
        out = self.BIAS(batch, generator=seeded(1))
        before, after = (b.images["image"].data for b in (batch, out))
        same = [torch.equal(a, b) for a, b in zip(before, after, strict=True)]
        assert same == without

    def test_a_copy_is_as_its_source(self, make_batch: Maker) -> None:
        ct = synth.TissueContrast(
            label_table=ASEG, by_tissue={"white_matter": 9}, coil=False, destination="ct"
        )
        batch = ct(make_batch())
        first = synth.CopyImage(source="ct", destination="image")(batch)
        second = synth.CopyImage(source="image", destination="ct")(batch)
        bias = synth.BiasCorruption(std=0.5, include=["image", "ct"])
        for made, changes in ((batch, "image"), (first, None), (second, "both")):
            out = bias(made).images
            for name in ("image", "ct"):
                same = torch.equal(out[name].data, made.images[name].data)
                assert same == (changes not in (name, "both")), (name, changes)


class TestLesions:
    def test_borders_blend_linearly(self, make_batch: Maker, seeded: Maker) -> None:
        batch = make_batch(2)
        lesions = synth.LesionSimulation(
            label_table=ASEG, intensity=300, height=0, softness=1, include=["image"]
        )
        out = lesions(batch, generator=seeded(1))
        params = lesions.to_params(out.applied_transforms[0].params, 2)
        labels, data = batch.images["labels"], batch.images["image"].data
        share = lesions.lesion_fraction(labels.data, params, grid_of(labels))
        assert 0.2 < share[share > 0].mean() < 0.8
        expected = data + (300 - data) * share
        torch.testing.assert_close(out.images["image"].data, expected, rtol=0, atol=1e-3)

    @pytest.mark.parametrize("way", [{"beside": [999]}, {"beside": [4], "beside_lift": 0}])
    def test_nothing_changes_beside_labels_that_are_absent_or_without_lift(
        self, way: dict[str, Any], make_batch: Maker, seeded: Maker
    ) -> None:
        settings = {"label_table": ASEG, "intensity": 300, "height": 0, "include": ["image"]}
        plain = synth.LesionSimulation(**settings)(make_batch(2), generator=seeded(1))
        drawn = plain.applied_transforms[0].params
        lesions = synth.LesionSimulation(**settings, **way)
        params = lesions.to_params(drawn, 2) | {"beside_lift": torch.full((2,), 0.0)}
        if "beside_lift" not in way:
            params["beside_lift"] += 3
        labels = make_batch(2).images["labels"]
        share = lesions.lesion_fraction(labels.data, params, grid_of(labels))
        del params["beside_lift"]
        torch.testing.assert_close(
            share, lesions.lesion_fraction(labels.data, params, grid_of(labels)), rtol=0, atol=0
        )


class TestTargetResolution:
    def test_labels_take_values_that_were_there(self, make_batch: Maker) -> None:
        batch = make_batch()
        out = synth.TargetResolution(spacing_mm=1.5)(batch)
        values = set(out.images["labels"].data.unique().tolist())
        assert values <= set(batch.images["labels"].data.unique().tolist())
        assert tuple(out.images["labels"].data.shape[2:]) == (8, 6, 9)

    @pytest.mark.parametrize("alignment", ["centre", "corner"])
    def test_it_blurs_by_three_quarters_of_the_spacing_and_half_a_voxel(
        self, alignment: str, make_batch: Maker
    ) -> None:
        batch = make_batch()
        transform = synth.TargetResolution(spacing_mm=[1, 2, 2], alignment=alignment)
        out = transform(batch).images["image"].data
        sigma = torch.tensor([[[0.5, 1.5, 1.5]]])
        blurred = gaussian_blur(batch.images["image"].data, sigma, truncate=2)
        expected = resize(blurred, (12, 5, 7), centred=alignment == "centre")
        torch.testing.assert_close(out, expected, rtol=0, atol=1e-3)

    def test_it_leaves_the_same_place_as_slices_with_the_same_alignment(
        self, make_batch: Maker
    ) -> None:
        for alignment in ("centre", "corner"):
            target = synth.TargetResolution(spacing_mm=2, alignment=alignment)(make_batch())
            shape = target.images["image"].data.shape[2:]
            slices = synth.SliceAcquisition(
                spacing_mm=1, alignment=alignment, output_shape=list(shape)
            )
            scan = slices(make_batch())
            for one, other in zip(
                target.images["image"].affines, scan.images["image"].affines, strict=True
            ):
                torch.testing.assert_close(one.data, other.data)

    def test_the_spacing_it_has_changes_nothing(
        self, make_batch: Maker, assert_same: Maker
    ) -> None:
        batch = make_batch(affine="anisotropic")
        assert_same(synth.TargetResolution(spacing_mm=[1, 1.5, 3])(batch), batch)


class TestAcquisition:
    def test_without_downsampling_it_only_blurs(self, make_batch: Maker) -> None:
        batch = make_batch()
        common = {"spacing_mm": [1, 1, 4], "truncate": 2.0}
        image = synth.SliceAcquisition(**common, downsample=False)(batch).images["image"].data
        sigma = {"constant": [0.42, 0.42, 1.68]}
        blurred = synth.GaussianSmoothing(sigma_mm=sigma, truncate=2.0)(batch).images["image"].data
        torch.testing.assert_close(image, blurred, rtol=0, atol=1e-3)

    def test_downsampling_holds_per_channel(self, make_batch: Maker) -> None:
        batch = make_batch()
        acquire = synth.SliceAcquisition(spacing_mm=[1, 1, 4], downsample=[True, False])
        slices = acquire(batch).metadata["slices"]
        assert slices[0]["low_shape"] == [[12, 10, 4], [12, 10, 14]]

    def test_each_channel_has_its_own_spacing(self, make_batch: Maker) -> None:
        batch = make_batch()
        acquire = synth.SliceAcquisition(spacing_mm=[[1, 1, 7], [4, 1, 1]], alignment="corner")
        out = acquire(batch)
        assert out.metadata["slices"][2]["low_shape"] == [[12, 10, 2], [3, 10, 14]]
        slopes = out.images["image"].data.diff(dim=2).diff(dim=2)
        assert slopes[:, 1, 1:3].abs().max() < 1e-3
        assert slopes[:, 0, 1:3].abs().max() > 1

    def test_triples_for_another_number_of_channels_are_refused(self, make_batch: Maker) -> None:
        with pytest.raises(ValueError, match="spacing_mm must be given for each of the 2 channels"):
            synth.SliceAcquisition(spacing_mm=[[1, 1, 3]] * 3)(make_batch())

    def test_it_acquires_what_was_drawn(self, make_batch: Maker, seeded: Maker) -> None:
        batch = synth.AcquisitionResolution(max_isotropic_mm=6)(make_batch(), generator=seeded(2))
        out = synth.SliceAcquisition()(batch)
        drawn = torch.tensor(batch.metadata["acquisition_spacing_mm"])
        slices = torch.tensor([s["low_shape"] for s in out.metadata["slices"]])
        size = torch.tensor([12.0, 10, 14])
        torch.testing.assert_close(slices.float(), (size / drawn).round(), rtol=0, atol=1)

    @pytest.mark.parametrize("cls", [synth.SliceAcquisition, synth.ReliabilityMap])
    def test_it_says_what_must_come_before(
        self, cls: type[SynthTransform], make_batch: Maker
    ) -> None:
        with pytest.raises(ValueError, match=r"spacing_mm must be given where .* before"):
            cls()(make_batch())

    def test_the_map_describes_the_acquisition(self, make_batch: Maker) -> None:
        acquired = synth.SliceAcquisition(spacing_mm=[1, 1, 7], alignment="corner")(make_batch())
        made = synth.ReliabilityMap()(acquired).images["reliability"].data
        assert made.shape == acquired.images["image"].data.shape
        assert made[0, 0, 0, 0].tolist() == [1, 0, 0, 0, 0, 0, 0] * 2

    def test_a_thin_slice_in_a_wide_gap_blurs_less(self, make_batch: Maker) -> None:
        batch = make_batch()
        blur = [
            synth.SliceAcquisition(spacing_mm=7, thickness_mm=t, downsample=False)(batch)
            for t in (1, 7)
        ]
        thin, thick = (b.images["image"].data.std() for b in blur)
        assert thin > 2 * thick


class TestMixture:
    def test_unknown_labels_are_named(self, make_batch: Maker) -> None:
        batch = make_batch()
        batch.images["labels"].data = batch.images["labels"].data.clone()
        batch.images["labels"].data[0, 0, 0, 0, 0] = 999
        batch.images["labels"].data[1, 0, 0, 0, 0] = -7
        with pytest.raises(ValueError, match=r"label table, got \[-7, 999\]"):
            synth.TissueMixture(label_table=ASEG)(batch)
        free = synth.TissueMixture(label_table=ASEG, check_labels=False)(batch)
        assert free.images["image"].data[0, 0, 0, 0, 0] == 0

    def test_floating_point_label_maps_are_read(self, make_batch: Maker, seeded: Maker) -> None:
        batch, transform = make_batch(), synth.TissueMixture(label_table=ASEG)
        expected = transform(batch, generator=seeded(1)).images["image"].data
        batch.images["labels"].data = batch.images["labels"].data.float() + 0.001
        out = transform(batch, generator=seeded(1)).images["image"].data
        assert torch.equal(out, expected)

    def test_a_value_wins_over_its_tissue(self) -> None:
        transform = synth.TissueContrast(
            label_table=ASEG, by_tissue={"white_matter": 110}, by_value={7: 90}
        )
        labels = torch.tensor([0, 2, 7, 41, 3]).reshape(1, 5, 1, 1)
        assert transform(labels).flatten().tolist() == [0, 110, 90, 110, 0]

    def test_rows_of_a_table_in_any_order_mean_the_same(self) -> None:
        table = LabelTable(tuple(reversed(LabelTable.ready(ASEG).rows)), keep_order=True)
        labels = torch.tensor([0, 2, 17]).reshape(1, 3, 1, 1)
        by_tissue = {"white_matter": 110, "deep_grey": 85}
        made = synth.TissueContrast(label_table=table, by_tissue=by_tissue)(labels)
        assert made.flatten().tolist() == [0, 110, 85]

    def test_a_subject_without_a_clear_label_map_is_refused(self, make_batch: Maker) -> None:
        batch = make_batch()
        image = batch.images["image"]
        two = SubjectsBatch({"a": image, "b": image})
        with pytest.raises(ValueError, match=r"label map must be named 'labels', got images"):
            find_labels(two)
        assert find_labels(SubjectsBatch({"seg": batch.images["labels"], "t1": image}))[0] == "seg"
        assert find_labels(batch, "image")[0] == "image"


class TestRegistration:
    def test_images_move_together(self, make_batch: Maker) -> None:
        batch = synth.CopyImage()(make_batch())
        out = synth.RegistrationError(include=["image", "target"])(batch)
        assert torch.equal(out.images["image"].data, out.images["target"].data)

    def test_the_correction_is_the_error_undone_then_a_rest(self, make_batch: Maker) -> None:
        batch = make_batch(2)
        error = {"rotation_degrees": [20, -10, 5], "translation_mm": [1, 2, -1]}
        rest = {"rotation_degrees": [0, 0, 30], "translation_mm": [-2, 0, 1]}
        moved = synth.RegistrationError(**error)(batch)
        corrected = synth.RegistrationCorrection(**rest)(moved)
        t, e = (rigid_of(**arguments) for arguments in (error, rest))
        matrix = (e @ torch.linalg.inv(t)).expand(2, 4, 4)
        expected = warp_affine(moved.images["image"].data[:, 1:], matrix)
        ours = corrected.images["image"].data[:, 1:]
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-3)

    def test_images_of_two_shapes_cannot(self, make_batch: Maker) -> None:
        batch = synth.CopyImage(channels=[0])(make_batch())
        with pytest.raises(ValueError, match="needs images of one shape"):
            synth.RegistrationError()(batch)

    def test_shifts_are_millimetres_unless_the_grid_is_taken_as_1_mm(
        self, make_batch: Maker
    ) -> None:
        batch = make_batch(affine="anisotropic")
        x = torch.arange(14.0, device=batch.device).expand(3, 2, 12, 10, 14)
        batch.images["image"].data = x.clone()
        for index_grid, voxels in ((False, 1.0), (True, 3.0)):
            move = synth.RegistrationError(
                rotation_degrees=0, translation_mm=[0, 0, 3], index_grid=index_grid
            )
            moved = move(batch).images["image"].data
            step = (moved - x)[:, 1, ..., :10]
            torch.testing.assert_close(step, torch.full_like(step, voxels), rtol=0, atol=1e-4)


class TestNamesOfInputs:
    @pytest.mark.parametrize("key", ["label", "seg", "mask", "labels"])
    def test_whole_numbers_under_a_label_key_are_labels(self, key: str) -> None:
        left = torch.full((1, 4, 4, 4), 2)
        flip = synth.HemisphereFlip(label_table="synthseg")
        assert set(flip({key: left})[key].unique().tolist()) == {41}
        made = synth.TissueMixture(label_table="synthseg")({key: left})
        assert torch.equal(made[key], left)
        assert set(made) == {key, "image"}

    def test_dictionaries_of_arrays_give_arrays(self) -> None:
        array = np.ones((1, 4, 4, 4), dtype=np.float32)
        out = synth.MinMaxRescale()({"image": array})["image"]
        assert isinstance(out, np.ndarray)

    def test_an_include_that_names_nothing_is_an_error(self, make_batch: Maker) -> None:
        with pytest.raises(ValueError, match="did you mean 'image'"):
            synth.GammaContrast(include=["imag"])(make_batch())

    def test_a_misspelt_argument_is_named(self) -> None:
        with pytest.raises(TypeError, match=r"BiasCorruption has no parameter 'sdt'.*'std'"):
            synth.BiasCorruption(sdt=1)
