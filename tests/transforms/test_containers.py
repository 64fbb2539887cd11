"""Tensors, arrays and dictionaries of other projects keep form, type, class and affine."""

from __future__ import annotations

from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
import torchio as tio
from hypothesis import given, settings
from hypothesis import strategies as st

import synthsr_transforms as synth
from synthsr_transforms.transforms.base import SynthTransform, registered_transforms
from synthsr_transforms.transforms.containers import is_label_key
from synthsr_transforms.transforms.kinds import SynthLabelTransform

from .test_contract import CASES

SHAPE = (10, 9, 8)
CLINICAL = torch.diag(torch.tensor([0.72, 0.72, 3.0, 1.0], dtype=torch.float64))


class MetaTensor(torch.Tensor):
    """A tensor with an affine that operations keep, in the way of MONAI."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        result = super().__torch_function__(func, types, args, kwargs or {})
        given = [a.meta for a in args if isinstance(a, MetaTensor) and hasattr(a, "meta")]
        if isinstance(result, MetaTensor) and given and not hasattr(result, "meta"):
            result.meta = dict(given[0])
        return result

    @staticmethod
    def make(data: torch.Tensor, affine: Any) -> MetaTensor:
        tensor = data.clone().as_subclass(MetaTensor)
        tensor.meta = {"affine": affine, "name": "scan"}
        return tensor

    @property
    def affine(self) -> Any:
        return self.meta["affine"]

    @affine.setter
    def affine(self, value: Any) -> None:
        self.meta["affine"] = value

    def __deepcopy__(self, memo: dict[int, Any]) -> MetaTensor:
        return MetaTensor.make(self.as_subclass(torch.Tensor), self.affine)


def values(labels: bool, *leading: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    if labels:
        index = torch.randint(5, (*leading, *SHAPE), generator=generator)
        return torch.tensor([0, 2, 3, 41, 42])[index].short()
    return 100 * torch.rand(*leading, *SHAPE, generator=generator)


def cases(most: int | None = None) -> list[Any]:
    return [
        pytest.param(registered_transforms()[name], params, id=f"{name}-{k}")
        for name, every in CASES.items()
        for k, params in enumerate(every[:most])
        if not {1, 2} & set(params.get("channels") or [])
    ]


every_case = pytest.mark.parametrize(("cls", "params"), cases())
every_first_case = pytest.mark.parametrize(("cls", "params"), cases(most=1))


def seeded(transform: SynthTransform, data: Any) -> Any:
    return transform(data, generator=torch.Generator().manual_seed(7))


def pair(labels_too: bool = True, *leading: int) -> dict[str, torch.Tensor]:
    """Image, target and label map, as dictionaries hold them."""
    data = {"image": values(False, *leading), "target": values(False, *leading)}
    return data | ({"labels": values(True, *leading)} if labels_too else {})


def prepared(cls: type[SynthTransform], data: dict[str, Any]) -> dict[str, Any]:
    """What the steps before a step leave for it."""
    if cls.__name__ == "RegistrationCorrection":
        return synth.RegistrationError()(data)
    return data


class TestForms:
    @every_case
    def test_a_dictionary_keeps_its_form(self, cls, params):
        transform = cls(**params)
        flat, channels, batch = (prepared(cls, pair(True, *n)) for n in ((), (1,), (1, 1)))
        results = [seeded(transform, data) for data in (flat, channels, batch)]
        for name, value in results[1].items():
            if not isinstance(value, torch.Tensor) or value.ndim < 4:
                continue
            assert torch.equal(results[2][name], value[None])
            alone = results[0][name]
            assert torch.equal(alone if alone.ndim == 4 else alone[None], value)
            assert alone.ndim == (3 if len(value) == 1 else 4)

    @every_first_case
    def test_a_bare_tensor_and_array_keep_their_form(self, cls, params):
        if cls.__name__ in ("RegistrationCorrection", "SharedTexture"):
            pytest.skip("needs more than one image, or a step before it")
        is_labels = issubclass(cls, SynthLabelTransform)
        transform = cls(**params)
        for leading in ((), (1,), (2, 1)):
            tensor = values(is_labels, *leading)
            result = seeded(transform, tensor)
            array = seeded(transform, tensor.numpy())
            assert isinstance(array, np.ndarray)
            assert np.array_equal(array, result.numpy(), equal_nan=True)
            assert result.ndim in (tensor.ndim, 4 if tensor.ndim == 3 else tensor.ndim)

    def test_elements_of_a_batched_dictionary_are_independent(self):
        transform = synth.GammaContrast(log_gamma=(-0.5, 0.5))
        data = {"image": values(False, 1, 1).repeat(3, 1, 1, 1, 1)}
        made = seeded(transform, data)["image"]
        assert not torch.equal(made[0], made[1])

    def test_mixed_numbers_of_elements_are_refused(self):
        data = {"image": values(False, 2, 1), "labels": values(True, 1)}
        with pytest.raises(ValueError, match="same number of elements"):
            synth.MinMaxRescale()(data)

    @pytest.mark.parametrize("shape", [(3,), (3, 4), (1, 1, 1, 3, 3, 3)])
    def test_other_numbers_of_dimensions_are_refused(self, shape):
        with pytest.raises(ValueError, match="X, Y, Z"):
            synth.MinMaxRescale()(torch.ones(shape))

    def test_what_is_no_image_stays_the_same_object(self):
        data = {
            "image": values(False, 2, 1),
            "age": [70, 71],
            "matrix": torch.eye(4),
            "affine": torch.eye(4).repeat(2, 1, 1),
            "name": "scan",
            "weight": torch.ones(3),
        }
        made = synth.MinMaxRescale(copy=False)(data)
        assert all(made[name] is data[name] for name in data if name != "image")

    def test_notes_of_a_step_reach_the_next_through_a_batched_dictionary(self):
        data = {"image": values(False, 2, 1)}
        drawn = synth.AcquisitionResolution(max_anisotropic_mm=6)(data)
        assert len(drawn["acquisition_spacing_mm"]) == 2
        assert synth.SliceAcquisition()(drawn)["image"].shape == data["image"].shape

    def test_the_only_image_beside_label_maps_needs_no_name(self):
        thick = synth.SliceAcquisition(spacing_mm=(1, 1, 4))
        image = values(False, 1)
        alone = seeded(thick, image)
        made = seeded(thick, {"t1": image, "seg": values(True, 1)})
        assert torch.equal(made["t1"], alone)
        with pytest.raises(ValueError, match="image must be one of"):
            thick({"t1": image, "t2": image})


class TestLabels:
    @pytest.mark.parametrize(
        ("key", "dtype"),
        [
            ("labels", torch.float32),
            ("label", torch.float64),
            ("seg", torch.int16),
            ("segmentation", torch.uint8),
            ("mask", torch.float32),
            ("lesion_mask", torch.uint8),
        ],
    )
    def test_whole_numbers_under_a_label_key_keep_values_and_type(self, key, dtype):
        labels = values(True, 1).to(dtype)
        turn = synth.SpatialDeformation(rotation_degrees=(20, 20), velocity_std_mm=1)
        made = seeded(turn, {"image": values(False, 1), key: labels})[key]
        assert made.dtype == dtype
        assert set(made.unique().tolist()) <= set(labels.unique().tolist())
        whole = seeded(turn, {"image": values(False, 1), key: labels.short()})[key]
        assert torch.equal(made.short(), whole)

    def test_booleans_are_labels(self):
        made = synth.SpatialDeformation(rotation_degrees=(20, 20))({"mask": values(True, 1) > 2})
        assert made["mask"].dtype == torch.bool

    @pytest.mark.parametrize("dtype", [np.uint16, np.int64, np.float32, ">i2", ">f4"])
    def test_arrays_of_any_type(self, dtype):
        labels = values(True, 1).numpy().astype(dtype)
        made = synth.SpatialDeformation(rotation_degrees=(20, 20))({"seg": labels})["seg"]
        assert made.dtype.newbyteorder("=") == np.dtype(dtype).newbyteorder("=")
        assert set(np.unique(made)) <= set(np.unique(labels))

    def test_probabilities_under_a_label_key_are_interpolated(self):
        soft = values(True, 1).float() / 42
        made = synth.SpatialDeformation(rotation_degrees=(20, 20))({"mask": soft})["mask"]
        assert len(made.unique()) > len(soft.unique())

    @pytest.mark.parametrize("key", ["image", "t1", "masked_t1", "unmasked", "sequence"])
    def test_whole_numbers_under_another_key_are_interpolated(self, key):
        image = values(True, 1).float()
        made = synth.SpatialDeformation(rotation_degrees=(20, 20))({key: image})[key]
        assert len(made.unique()) > len(image.unique())

    @given(
        st.sampled_from(["label", "seg", "mask", "labels"]), st.sampled_from(["_", "-", ".", "1"])
    )
    @settings(max_examples=20)
    def test_words_around_a_label_word_do_not_matter(self, word, sign):
        assert is_label_key(f"lesion{sign}{word}{sign}gt")
        assert is_label_key(word.upper())
        assert not is_label_key(f"un{word}able")


class TestAffines:
    def metas(self, affine: Any, *leading: int) -> dict[str, MetaTensor]:
        return {k: MetaTensor.make(v, affine) for k, v in pair(True, *leading).items()}

    @every_first_case
    def test_a_tensor_with_an_affine_is_treated_as_an_image_with_it(self, cls, params):
        transform = cls(**params)
        data = prepared(cls, self.metas(CLINICAL, 1))
        plain = {k: v.as_subclass(torch.Tensor) for k, v in self.metas(CLINICAL, 1).items()}
        subject = prepared(
            cls,
            tio.Subject(
                image=tio.ScalarImage(plain["image"], affine=CLINICAL),
                target=tio.ScalarImage(plain["target"], affine=CLINICAL),
                labels=tio.LabelMap(plain["labels"], affine=CLINICAL),
            ),
        )
        if cls.__name__ == "RegistrationCorrection":
            pytest.skip("the step before it draws from the global generator")
        made, expected = seeded(transform, data), seeded(transform, subject)
        for name, image in expected.images.items():
            assert type(made[name]) is MetaTensor
            assert torch.equal(made[name].as_subclass(torch.Tensor), image.data)
            assert torch.allclose(made[name].affine, torch.as_tensor(image.affine.data).double())
        assert torch.equal(data["image"].affine, CLINICAL)

    def test_a_bare_tensor_with_an_affine(self):
        image = MetaTensor.make(values(False, 1), CLINICAL.numpy())
        made = synth.TargetResolution(spacing_mm=1)(image)
        assert type(made) is MetaTensor
        assert made.meta["name"] == "scan"
        assert isinstance(made.affine, np.ndarray)
        assert made.shape == (1, 7, 6, 24)
        spacing = np.linalg.norm(made.affine[:3, :3], axis=0)
        assert spacing == pytest.approx([7.2 / 7, 6.48 / 6, 1], rel=1e-3)

    def test_a_crop_moves_the_origin(self):
        image = MetaTensor.make(torch.arange(720.0).reshape(1, *SHAPE), CLINICAL)
        made = seeded(synth.PatchCrop(shape=(4, 5, 6)), image)
        first = np.unravel_index(int(made[0, 0, 0, 0]), SHAPE)
        assert made.affine[:3, 3].tolist() == pytest.approx(
            [0.72 * first[0], 0.72 * first[1], 3 * first[2]]
        )

    def test_each_element_of_a_batch_has_its_own(self):
        affines = torch.stack([CLINICAL, torch.eye(4, dtype=torch.float64)])
        image = MetaTensor.make(values(False, 1, 1).repeat(2, 1, 1, 1, 1), affines)
        blurred = synth.GaussianSmoothing(sigma_mm=2)(image)
        for k in range(2):
            alone = synth.GaussianSmoothing(sigma_mm=2)(MetaTensor.make(image[k], affines[k]))
            assert torch.allclose(blurred[k], alone, atol=1e-4)
        assert blurred.affine.shape == (2, 4, 4)

    def test_what_a_step_makes_has_the_class_and_affine_of_the_label_map(self):
        labels = MetaTensor.make(values(True, 1), CLINICAL.float())
        made = synth.TissueMixture(label_table="freesurfer_aseg")({"labels": labels})
        assert type(made["image"]) is MetaTensor
        assert torch.equal(made["image"].affine, CLINICAL.float())

    def test_a_generator_reads_the_affine_of_its_labels(self):
        generator = synth.Generator.from_preset("all_purpose", {"crop.shape": 32})
        labels = torch.zeros(1, 40, 40, 40).index_fill(1, torch.arange(10, 30), 2)
        batch, _ = generator.run(MetaTensor.make(labels, CLINICAL), seed=0)
        assert batch.images["image"].affines[0].data.diagonal()[2] == pytest.approx(3)

    def test_an_affine_of_another_shape_is_refused(self):
        with pytest.raises(ValueError, match="affine of a tensor"):
            synth.MinMaxRescale()(MetaTensor.make(values(False, 1), torch.eye(3)))

    @pytest.mark.parametrize("first", ["image", "labels"])
    def test_a_tensor_without_an_affine_has_that_of_its_neighbour(self, first):
        data = {"image": MetaTensor.make(values(False, 1), CLINICAL), "labels": values(True, 1)}
        ordered = {first: data[first], **data}
        both = {k: MetaTensor.make(v.as_subclass(torch.Tensor), CLINICAL) for k, v in data.items()}
        turn = synth.SpatialDeformation(rotation_degrees=(20, 20))
        made, expected = seeded(turn, ordered), seeded(turn, both)
        assert all(torch.equal(made[k].as_subclass(torch.Tensor), expected[k]) for k in data)
        assert type(made["labels"]) is torch.Tensor

    def test_an_image_that_was_not_given_the_affine_of_its_tensor_is_refused(self):
        image = MetaTensor.make(values(False, 1), CLINICAL)
        for data in (tio.ScalarImage(image), tio.Subject(image=tio.ScalarImage(image))):
            with pytest.raises(ValueError, match=r"affine=tensor\.affine"):
                synth.MinMaxRescale()(data)
        right = tio.ScalarImage(image.as_subclass(torch.Tensor), affine=CLINICAL)
        assert synth.MinMaxRescale()(right).data.max() == 1


class TestSimpleITK:
    DIRECTION = (0.0, 0, 1, 1, 0, 0, 0, 1, 0)

    def image(self, *channels: int, labels: bool = False):
        array = values(labels, *channels).numpy().transpose(2, 1, 0, *([3] if channels else []))
        image = sitk.GetImageFromArray(array, isVector=bool(channels))
        image.SetSpacing((0.72, 0.9, 3))
        image.SetOrigin((-70, 20, 5))
        image.SetDirection(self.DIRECTION)
        return image

    def test_what_a_step_leaves_alone_comes_back_equal(self):
        image = self.image()
        made = synth.GammaContrast(log_gamma=0.0, p=0)(image)
        assert made.GetSize() == image.GetSize() == SHAPE
        assert np.array_equal(sitk.GetArrayFromImage(made), sitk.GetArrayFromImage(image))
        for name in ("GetSpacing", "GetOrigin", "GetDirection"):
            assert getattr(made, name)() == pytest.approx(getattr(image, name)())

    def test_axes_and_world_are_those_of_the_file(self, tmp_path):
        sitk.WriteImage(self.image(), tmp_path / "scan.nii.gz")
        resample = synth.TargetResolution(spacing_mm=1.5)
        expected = resample(tio.ScalarImage(tmp_path / "scan.nii.gz"))
        made = resample(self.image())
        assert made.GetSize() == tuple(expected.data.shape[1:])
        array = sitk.GetArrayFromImage(made).transpose(2, 1, 0)
        assert np.allclose(array, expected.data[0], atol=1e-4)
        sitk.WriteImage(made, tmp_path / "made.nii.gz")
        affine = nib.load(tmp_path / "made.nii.gz").affine
        assert np.allclose(affine, np.asarray(expected.affine.data), atol=1e-3)

    def test_two_dimensions_are_refused(self):
        with pytest.raises(ValueError, match="three dimensions"):
            synth.MinMaxRescale()(sitk.Image(4, 4, sitk.sitkFloat32))


@pytest.mark.parametrize("data", [torch.ones(4, 4, 4) * 1j, np.ones((1, 4, 4, 4)) * 1j])
def test_complex_numbers_are_refused(data):
    with pytest.raises(ValueError, match="magnitude"):
        synth.MinMaxRescale()(data)


def test_a_real_metatensor_of_monai_keeps_its_spacing():
    monai = pytest.importorskip("monai.data")
    image = monai.MetaTensor(values(False, 1), affine=CLINICAL)
    made = synth.SliceAcquisition(spacing_mm=(0.72, 0.72, 6))({"image": image})["image"]
    assert type(made) is monai.MetaTensor
    assert torch.equal(made.affine, CLINICAL)
