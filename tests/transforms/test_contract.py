"""The promises of every transform, whoever wrote it and wherever it is.

A new transform is covered as soon as it is registered: give it a row in `CASES`, with arguments
under which it does something, and in `NONSENSE`, with values that its constructor must refuse.
"""

from __future__ import annotations

import copy
import importlib
import json
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import pytest
import torch
import torchio as tio
from torchio.data.batch import ImagesBatch, SubjectsBatch

import synthsr_transforms
from synthsr_transforms.labels.table import LabelTable
from synthsr_transforms.support import devices
from synthsr_transforms.transforms.base import SynthTransform, registered_transforms
from synthsr_transforms.transforms.build import build_transform
from synthsr_transforms.transforms.kinds import (
    SynthIntensityTransform,
    SynthLabelTransform,
    SynthSpatialTransform,
)
from synthsr_transforms.transforms.spec import constructor_params

ASEG = "freesurfer_aseg"
MASKS = Path(__file__).with_name("lesion_masks")
AXES_2_TO_6 = {"uniform": [[1, 1, 2], [1, 1, 6]]}

PRIORS = {"distribution": "normal", "means": [[9] * 16, [2] * 16], "stds": [[3] * 16, [1] * 16]}

CASES: dict[str, list[dict[str, Any]]] = {
    "AcquisitionResolution": [
        {"max_isotropic_mm": 6, "max_anisotropic_mm": [4, 6, 8], "probability_isotropic": 0.5},
        {"min_mm": 2, "max_isotropic_mm": 4, "probability_minimum": 0.3},
    ],
    "BiasCorruption": [
        {"std": [0.1, 0.5], "shape_factor": 0.3, "probability": 0.7},
        {"std": 0.4, "shape_factor": 0.1, "channels": [1]},
    ],
    "CopyImage": [
        {},
        {"destination": "one", "channels": [1]},
        {"destination": "image", "channels": [1, 0], "replace": True},
    ],
    "GammaContrast": [{"log_gamma": {"normal": [0, 0.3]}}, {"log_gamma": 0.2, "channels": [0]}],
    "GaussianSmoothing": [
        {"sigma_mm": [0.3, 2]},
        {"sigma_mm": 1, "multiplier": [0.8, 1.2], "max_sigma_mm": 2, "boundary": "zero"},
        {"sigma_mm": [0.3, 2], "shared": True},
    ],
    "GroupLabels": [{"label_table": ASEG}, {"label_table": ASEG, "structures": "each"}],
    "HemisphereFlip": [{"label_table": ASEG}, {}],
    "LesionInsertion": [
        {"label_table": ASEG, "masks": MASKS, "intensity": [200, 300], "std": [0, 9]},
        {
            **{"label_table": ASEG, "masks": MASKS / "ball.nii.gz", "intensity": 300},
            **{"cavity_probability": 0.9, "cavity_size_mm": 3, "velocity_std_mm": 0},
        },
    ],
    "LesionSimulation": [
        {"label_table": ASEG, "intensity": [200, 300], "std": [0, 9], "height": [-0.5, 0.5]},
        {"label_table": ASEG, "tissues": ["grey_matter", "csf"], "size_mm": 3, "height": -9},
        {"label_table": ASEG, "height": 1, "beside": [4, 43], "beside_lift": [0, 3]},
        {"label_table": ASEG, "height": -1, "cavity_probability": 0.7, "cavity_size_mm": 3},
    ],
    "MinMaxRescale": [{}, {"clip": [10, 90]}, {"input_range": [0, 50], "channels": [1]}],
    "PartialFieldOfView": [{"fraction": [0.3, 0.8], "value": -1}],
    "PatchCrop": [{"shape": [8, 7, 9]}, {"shape": 9, "multiple_of": 4}],
    "RegistrationCorrection": [{"rotation_degrees": [-9, 9], "translation_mm": [-2, 2]}],
    "RegistrationError": [{}, {"reference_channel": None, "index_grid": True}],
    "ReliabilityMap": [
        {"spacing_mm": AXES_2_TO_6, "kind": "distance_mm"},
        {"spacing_mm": [1, 1, 3], "alignment": "corner"},
    ],
    "ScannerNoise": [{"std": [1, 9], "rician_probability": 0.5}, {"std": 3, "channels": [1]}],
    "SelectChannels": [{"channels": [1], "include": ["image"]}, {"channels": [0]}],
    "SharedTexture": [
        {"std": [0.1, 0.2], "size_mm": [2, 3], "target": "image"},
        {"std": 0.1, "target": "image"},
        {"std": 0.1, "target": "image", "tissues": ["white_matter"], "label_table": ASEG},
    ],
    "SkullStripping": [
        {"label_table": ASEG, "margin_mm": [-2, 1]},
        {"label_table": ASEG, "margin_mm": {"choice": [0, -2]}, "value": 5},
        {"label_table": ASEG},
    ],
    "SliceAcquisition": [
        {
            "spacing_mm": AXES_2_TO_6,
            "thickness_mm": [1, 1, 2],
            "blur_multiplier": [0.8, 1.2],
            "noise_std": [0, 5],
            "rician_probability": 0.5,
        },
        {"spacing_mm": [1, 3, 1], "alignment": "corner", "boundary": "zero", "output_shape": 8},
        {"spacing_mm": 2.5, "alignment": "corner_open", "max_spacing_mm": 9},
    ],
    "SpatialDeformation": [
        {
            "rotation_degrees": [-15, 15],
            "scaling": [0.9, 1.1],
            "shearing": [-0.02, 0.02],
            "translation_mm": [-2, 2],
            "velocity_std_mm": [0, 2],
            "velocity_shape_factor": 0.25,
        },
        {"velocity_std_mm": 1, "half_grid_units": True, "index_grid": True},
    ],
    "TargetResolution": [{"spacing_mm": 2}, {"spacing_mm": [1, 1.5, 2.5], "boundary": "zero"}],
    "TissueContrast": [
        {"label_table": ASEG, "by_tissue": {"white_matter": [100, 120]}, "std": [1, 2]},
        {"label_table": ASEG, "by_value": {17: 5, 53: [6, 7]}, "destination": "t1"},
        {"label_table": ASEG, "std": 9, "destination": "image", "replace": True},
        {"label_table": ASEG, "std": 9, "coil": False, "destination": "ct"},
    ],
    "TissueMixture": [
        {"label_table": ASEG},
        {"label_table": ASEG, "num_channels": 2, "prior_means": [9, 90], "background_mean": 3},
    ],
}

NONSENSE: dict[str, dict[str, list[Any]]] = {
    "AcquisitionResolution": {
        "min_mm": [0],
        "max_isotropic_mm": [[1, 2], None],
        "max_anisotropic_mm": ["9"],
        "probability_minimum": [1.5],
        "probability_isotropic": [float("nan")],
    },
    "BiasCorruption": {
        "std": [-1, None, float("nan")],
        "shape_factor": [0],
        "probability": [-0.1],
        "channels": [[], [-1]],
    },
    "CopyImage": {"channels": [[], [-1]]},
    "GammaContrast": {"log_gamma": [{"beta": [1, 2]}, "1"]},
    "GaussianSmoothing": {
        "sigma_mm": [[2, 1]],
        "multiplier": [-1],
        "max_sigma_mm": [-1],
        "truncate": [0],
        "boundary": ["reflect"],
    },
    "GroupLabels": {"label_table": ["asegg"], "structures": ["freesurfr", "none.tsv"]},
    "HemisphereFlip": {"label_table": ["asegg"]},
    "LesionInsertion": {
        "masks": ["no_folder", Path(__file__)],
        "rotation_degrees": [[1, 2, 3, 4]],
        "scaling": [0],
        "mirror_probability": [2],
        "velocity_std_mm": [-1],
        "velocity_shape_factor": [2],
        "border_mm": [-1],
    },
    "LesionSimulation": {
        "cavity_probability": [-1],
        "cavity_share": [-1, 2],
        "cavity_size_mm": [0],
        "label_table": ["asegg"],
        "tissues": [["white"]],
        "intensity": [[1, 2, 3, 4]],
        "std": [-1],
        "size_mm": [0],
        "softness": [0],
        "beside": [[-4], [4.5]],
        "beside_mm": [0],
        "beside_lift": [[1, 2, 3, 4]],
    },
    "MinMaxRescale": {"clip": [[2, 1]], "input_range": [[0]]},
    "PartialFieldOfView": {"fraction": [2, [-1, 1]]},
    "PatchCrop": {"shape": [0, 7.5], "multiple_of": [0], "target_spacing_mm": [[1, 1]]},
    "RegistrationCorrection": {"rotation_degrees": [[1, 0]]},
    "RegistrationError": {"rotation_degrees": ["5"], "translation_mm": [{"normal": [0, -1]}]},
    "ReliabilityMap": {"kind": ["distance"], "spacing_mm": [0], "alignment": ["middle"]},
    "ScannerNoise": {"std": [[-1, 1]], "rician_probability": [2]},
    "SelectChannels": {"channels": [[], [-1]]},
    "SharedTexture": {"std": [-1, [[0, 1], [0, 2]]], "size_mm": [0], "label_table": ["asegg"]},
    "SkullStripping": {"label_table": ["asegg"], "margin_mm": [[]]},
    "SliceAcquisition": {
        "spacing_mm": [0],
        "thickness_mm": [[-1, 1]],
        "blur_multiplier": [-1],
        "blur_coefficient": [-0.4],
        "truncate": [-1],
        "boundary": ["wrap"],
        "alignment": ["middle"],
        "noise_std": [-1],
        "rician_probability": [-1],
        "output_shape": [0],
        "max_spacing_mm": [[1, 1]],
    },
    "SpatialDeformation": {
        "scaling": [0],
        "rotation_degrees": [[1, 2, 3, 4]],
        "shearing": [True],
        "translation_mm": [[5, -5]],
        "velocity_std_mm": [-1],
        "velocity_shape_factor": [2],
    },
    "TargetResolution": {"spacing_mm": [-1], "truncate": [0], "boundary": ["none"]},
    "TissueContrast": {"by_tissue": [{"white": 1}], "by_value": [{17: [2, 1]}], "std": [-1]},
    "TissueMixture": {
        "num_channels": [0],
        "prior_means": [[3, 1]],
        "distribution": ["gamma"],
        "background_mean": [-1],
        "priors": [PRIORS | {"means": [[9] * 4, [2] * 4], "stds": [[3] * 4, [1] * 4]}],
    },
}
"""Values that a constructor must refuse, by argument; the message names the argument."""

NAMED_OTHERWISE = {"label_table": "label table", "tissues": "tissue", "prior_means": "means"}

DTYPES = (torch.float16, torch.bfloat16, torch.float64)
LABEL_DTYPES = (torch.int16, torch.int32, torch.uint8)
MAKES_IMAGE = ("TissueMixture",)
MAKES_SCALAR = ("TissueMixture", "TissueContrast", "ReliabilityMap")
CONTAINERS = ("tensor", "array", "image", "nifti", "dict", "images", "subjects")

Maker = Callable[..., Any]


class Case(NamedTuple):
    """A transform and arguments under which it changes something."""

    cls: type[SynthTransform]
    params: dict[str, Any]

    def build(self, **more: Any) -> SynthTransform:
        """Make the transform."""
        return self.cls(**{**self.params, **more})


def _cases(kind: type = SynthTransform, most: int | None = None) -> list[Any]:
    return [
        pytest.param(Case(cls, params), id=f"{name}-{number}")
        for name, cls in registered_transforms().items()
        for number, params in enumerate(CASES.get(name, [])[:most])
        if issubclass(cls, kind)
    ]


def _has_neutral(case: Case) -> bool:
    """Whether elements that were not chosen can go through with neutral parameters."""
    return case.cls.neutral is not SynthTransform.neutral and case.build().preserves_layout


every_case = pytest.mark.parametrize("case", _cases())
every_first_case = pytest.mark.parametrize("case", _cases(most=1))
"""For what is the same code whatever the arguments."""
every_intensity_case = pytest.mark.parametrize("case", _cases(SynthIntensityTransform))
every_class = pytest.mark.parametrize(
    "cls", registered_transforms().values(), ids=lambda c: c.__name__
)


def spec_of(transform: SynthTransform) -> dict[str, Any]:
    """Description of a transform, from which `build_transform` makes it again."""
    return {"name": type(transform).__name__, "params": constructor_params(transform)}


def last_params(batch: SubjectsBatch) -> dict[str, Any]:
    """Parameters of the last step, through JSON, which must keep them exactly."""
    params = batch.applied_transforms[-1].params
    read = json.loads(json.dumps(params, allow_nan=False))
    assert read == params
    return read


@pytest.fixture
def make_subject(make_subject: Maker, request: pytest.FixtureRequest) -> Maker:
    """As elsewhere, but with one channel where a contrast takes the place of the image."""
    case = request.node.callspec.params.get("case")
    one = case is not None and case.params.get("replace") and "label_table" in case.params
    return partial(make_subject, channels=1) if one else make_subject


@every_class
def test_every_transform_has_rows_in_both_tables(cls: type[SynthTransform]) -> None:
    assert cls.__name__ in CASES, f"add a row for {cls.__name__} to CASES"
    assert cls.__name__ in NONSENSE, f"add a row for {cls.__name__} to NONSENSE"


def test_tables_name_registered_transforms_only() -> None:
    assert set(CASES) | set(NONSENSE) <= set(registered_transforms())


@every_case
def test_arguments_of_the_table_change_something(
    case: Case, make_batch: Maker, seeded: Maker, snapshot: Maker
) -> None:
    batch = make_batch(affine="anisotropic")
    before = snapshot(batch)
    after = snapshot(case.build()(batch, generator=seeded(1)))
    same_data = before["data"].keys() == after["data"].keys() and all(
        torch.equal(data, after["data"][name]) for name, data in before["data"].items()
    )
    assert not same_data or before["metadata"] != after["metadata"]


class TestHistory:
    """Parameters are plain data from which the result comes back."""

    @every_case
    def test_replay_gives_the_output_again(
        self, case: Case, make_batch: Maker, assert_same: Maker
    ) -> None:
        transform, batch = case.build(), make_batch(affine="oblique")
        out = transform(batch)
        assert_same(transform.replay(batch, last_params(out)), out)

    @every_case
    def test_an_element_equals_that_element_alone(
        self, case: Case, make_batch: Maker, seeded: Maker, assert_same: Maker
    ) -> None:
        transform, batch = case.build(), make_batch(2, affine="swapped")
        elements = transform(batch, generator=seeded(5)).unbatch()
        for before, after in zip(batch.unbatch(), elements, strict=True):
            trace = after.applied_transforms[-1]
            assert trace.name == case.cls.__name__
            alone = transform.replay(before, json.loads(json.dumps(trace.params)))
            first, second = (SubjectsBatch.from_subjects([s]) for s in (alone, after))
            assert_same(first, second, tolerance=1e-5)


class TestProbability:
    """`p` decides per element where the layout stays, else for the whole batch."""

    @every_case
    def test_zero_is_identity_without_history(
        self, case: Case, make_batch: Maker, assert_same: Maker
    ) -> None:
        batch = make_batch()
        out = case.build(p=0)(batch)
        assert_same(out, batch)
        assert out.applied_transforms == []

    @every_case
    def test_half_decides_for_each_element_or_for_all(
        self, case: Case, make_batch: Maker, seeded: Maker
    ) -> None:
        transform, batch = case.build(p=0.5), make_batch(2)
        shares = set()
        for seed in range(16):
            drawn = transform.sample_record(batch, seeded(seed))
            shares.add(sum(drawn.get("_keep", [True, True])))
        assert shares == ({0, 1, 2} if transform.preserves_layout else {0, 2})

    @every_case
    def test_elements_left_out_are_bit_identical_and_the_others_replay(
        self, case: Case, make_batch: Maker, seeded: Maker, assert_same: Maker
    ) -> None:
        transform, batch = case.build(p=0.5), make_batch(4)
        out = transform(batch, generator=seeded(2))
        for before, after in zip(batch.unbatch(), out.unbatch(), strict=True):
            traces = after.applied_transforms
            expected = transform.replay(before, traces[0].params) if traces else before
            first, second = (SubjectsBatch.from_subjects([s]) for s in (expected, after))
            if traces:
                assert_same(first, second, tolerance=1e-5)
            else:
                for name, image in first.images.items():
                    assert torch.equal(image.data, second.images[name].data)
        assert len(out.applied_transforms) <= 1

    @pytest.mark.parametrize("case", [c for c in _cases() if _has_neutral(c.values[0])])
    def test_computing_all_elements_equals_computing_the_chosen_bit_for_bit(
        self,
        case: Case,
        make_batch: Maker,
        seeded: Maker,
        assert_same: Maker,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(devices, "computes_all", lambda device: True)
        transform, batch = case.build(p=0.5), make_batch(4, affine="anisotropic")
        for seed in (1, 2, 4):
            outputs = [transform(batch, generator=seeded(seed))]
            with monkeypatch.context() as alone:
                alone.setattr(case.cls, "neutral", SynthTransform.neutral)
                outputs.append(transform(batch, generator=seeded(seed)))
            keep = outputs[0].applied_transforms[-1].params["_keep"]
            assert 0 < sum(keep) < 4
            assert_same(*outputs, history=True)


class TestTypes:
    """The output is as the input."""

    @every_case
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_dtype_and_device_stay_and_lose_no_more_than_their_own_rounding(
        self,
        case: Case,
        dtype: torch.dtype,
        make_batch: Maker,
        seeded: Maker,
        device: torch.device,
    ) -> None:
        narrow = make_batch(2, dtype=dtype)
        wide = make_batch(2, dtype=dtype)
        wide.images["image"].data = wide.images["image"].data.float()
        transform = case.build()
        first, second = (transform(b, generator=seeded(4)).images for b in (narrow, wide))
        assert {image.data.device.type for image in first.values()} == {device.type}
        assert first["labels"].data.dtype == torch.int16
        if case.cls.__name__ not in MAKES_IMAGE:
            assert [x["image"].data.dtype for x in (first, second)] == [dtype, torch.float32]
        for name, image in first.items():
            expected = second[name].data
            if image.data.is_floating_point():
                expected = expected.to(image.data.dtype).float()
            scale = max(expected.float().abs().max().item(), 1e-3)
            apart = (image.data.float() - expected.float()).abs().max().item()
            assert apart <= 2 * torch.finfo(dtype).eps * scale + 1e-5 * scale

    @every_case
    def test_label_dtype_does_not_matter(
        self, case: Case, make_batch: Maker, seeded: Maker
    ) -> None:
        transform = case.build()
        reference = transform(make_batch(2, label_dtype=torch.int64), generator=seeded(6))
        for dtype in LABEL_DTYPES:
            out = transform(make_batch(2, label_dtype=dtype), generator=seeded(6))
            assert out.images["labels"].data.dtype == dtype
            for name, image in out.images.items():
                assert torch.equal(image.data.double(), reference.images[name].data.double())

    @every_first_case
    @pytest.mark.parametrize("container", CONTAINERS)
    def test_output_type_is_input_type(
        self, case: Case, container: str, make_subject: Maker
    ) -> None:
        data = contain(make_subject(), container, kind_read_by(case.cls))
        out = case.build()(data)
        if isinstance(data, tio.Image):
            assert isinstance(
                out, tio.ScalarImage if case.cls.__name__ in MAKES_SCALAR else type(data)
            )
        else:
            assert type(out) is type(data)
        if isinstance(data, dict):
            assert set(data) <= set(out)
            assert all(isinstance(out[name], torch.Tensor) for name in data)

    @every_first_case
    def test_a_subject_comes_back_as_a_subject_with_what_else_it_held(
        self, case: Case, make_subject: Maker
    ) -> None:
        subject = make_subject()
        subject = tio.Subject(**subject.images, age=70, name="anonymous")
        out = case.build()(subject)
        assert type(out) is tio.Subject
        assert (out.age, out.name) == (70, "anonymous")
        assert [trace.name for trace in out.applied_transforms] == [case.cls.__name__]


def kind_read_by(cls: type[SynthTransform]) -> str:
    """Name of the image of a subject that a transform can take alone."""
    return "labels" if issubclass(cls, SynthLabelTransform) else "image"


def contain(subject: tio.Subject, container: str, name: str) -> Any:
    """One image of a subject in a container of another kind; some kinds hold both images."""
    image, labels = subject.images["image"], subject.images["labels"]
    chosen = subject.images[name]
    makers: dict[str, Callable[[], Any]] = {
        "tensor": lambda: chosen.data,
        "array": lambda: chosen.data.cpu().numpy(),
        "image": lambda: chosen,
        "nifti": lambda: nib.Nifti1Image(
            np.moveaxis(chosen.data.cpu().numpy(), 0, -1), np.diag([1.0, 1.5, 3.0, 1.0])
        ),
        "dict": lambda: {"image": image.data, "labels": labels},
        "images": lambda: SubjectsBatch.from_subjects([subject]).images[name],
        "subjects": lambda: SubjectsBatch.from_subjects([subject]),
    }
    return makers[container]()


class TestInput:
    """The input stays as it is."""

    @every_first_case
    @pytest.mark.parametrize("container", ["images", "tensor", "dict"])
    def test_input_is_not_modified(self, case: Case, container: str, make_subject: Maker) -> None:
        data = contain(make_subject(), container, kind_read_by(case.cls))
        kept = copy.deepcopy(data)
        case.build()(data)
        assert _equal(data, kept)

    @every_case
    def test_without_copy_the_callers_memory_is_not_written(
        self, case: Case, make_batch: Maker
    ) -> None:
        batch = make_batch(2)
        tensors = {name: image.data for name, image in batch.images.items()}
        kept = {name: data.clone() for name, data in tensors.items()}
        case.build(copy=False)(batch)
        assert all(torch.equal(data, kept[name]) for name, data in tensors.items())

    @every_case
    def test_a_call_and_a_replay_leave_their_input_alone(
        self, case: Case, make_batch: Maker, snapshot: Maker, assert_same: Maker
    ) -> None:
        transform, batch = case.build(), make_batch(2)
        before = snapshot(batch)
        transform(batch)
        transform.replay(batch, transform.sample_record(batch))
        assert_same(batch, before, history=True)

    @every_case
    def test_labels_are_touched_by_spatial_effects_only(
        self, case: Case, make_batch: Maker
    ) -> None:
        batch = make_batch(affine="anisotropic")
        out = case.build()(batch)
        if (
            not issubclass(case.cls, SynthSpatialTransform)
            and case.cls.__name__ != "SelectChannels"
        ):
            assert torch.equal(out.images["labels"].data, batch.images["labels"].data)
        else:
            assert out.images["labels"].data.dtype == batch.images["labels"].data.dtype
            values = set(out.images["labels"].data.unique().tolist())
            partners = LabelTable.ready(ASEG).swapped_values()
            present = set(batch.images["labels"].data.unique().tolist())
            assert values <= present | {partners[v] for v in present}

    @every_intensity_case
    @pytest.mark.parametrize(
        "scope", [{"include": ["image"]}, {"exclude": ["other", "labels"]}], ids=str
    )
    def test_intensity_effects_leave_other_images_alone(
        self,
        case: Case,
        scope: dict[str, list[str]],
        make_batch: Maker,
        make_image: Maker,
        device: torch.device,
    ) -> None:
        batch = make_batch(2)
        other = make_image(seed=5).to(device).expand(2, -1, -1, -1, -1)
        batch.images["other"] = ImagesBatch(other, batch.images["image"].affines)
        out = case.build(**scope, p=1)(batch)
        assert not torch.equal(out.images["image"].data, batch.images["image"].data)
        assert torch.equal(out.images["other"].data, other)


def _equal(first: Any, second: Any) -> bool:
    """Whether two containers hold the same voxels, affines, metadata and history."""
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return list(first) == list(second) and all(_equal(first[k], second[k]) for k in first)
    if isinstance(first, tio.Image):
        return torch.equal(first.data, second.data) and first.affine == second.affine
    if isinstance(first, ImagesBatch):
        same_history = first.applied_transforms == second.applied_transforms
        return same_history and first.affines == second.affines and _equal(first.data, second.data)
    assert isinstance(first, SubjectsBatch)
    same = first.metadata == second.metadata
    same = same and first.applied_transforms == second.applied_transforms
    return same and _equal(first.images, second.images)


class TestDescription:
    """A transform is data: spec, Hydra, pickle, repr."""

    @every_case
    def test_spec_comes_back_through_json(
        self, case: Case, make_batch: Maker, seeded: Maker, assert_same: Maker
    ) -> None:
        transform = case.build(p=0.9)
        spec = json.loads(json.dumps(spec_of(transform)))
        again = build_transform(spec)
        assert type(again) is case.cls
        assert spec_of(again) == spec
        batch = make_batch()
        assert_same(*(t(batch, generator=seeded(7)) for t in (transform, again)), history=True)

    @every_case
    def test_hydra_names_an_importable_class(self, case: Case) -> None:
        transform = case.build()
        settings = json.loads(json.dumps(transform.to_hydra()))
        module, _, name = settings.pop("_target_").rpartition(".")
        again = getattr(importlib.import_module(module), name)(**settings)
        assert spec_of(again) == spec_of(transform)

    @every_case
    def test_copies_do_the_same(
        self, case: Case, make_batch: Maker, seeded: Maker, assert_same: Maker
    ) -> None:
        transform, batch = case.build(), make_batch(2)
        expected = transform(batch, generator=seeded(8))
        for again in (copy.deepcopy(transform), pickle.loads(pickle.dumps(transform))):
            assert spec_of(again) == spec_of(transform)
            assert_same(again(batch, generator=seeded(8)), expected, history=True)

    @every_case
    def test_repr_is_short_and_makes_the_transform_again(self, case: Case) -> None:
        transform = case.build()
        shown = repr(transform)
        assert len(shown) < 400
        again = eval(shown, {n: getattr(synthsr_transforms, n) for n in synthsr_transforms.__all__})
        assert spec_of(again) == spec_of(transform)

    def test_repr_of_large_arguments_is_short(self) -> None:
        table = LabelTable.from_values(range(1, 35), classes=range(34), sort=False)
        priors = np.tile([[1.0], [2.0]], (1, 34)).tolist()
        shown = repr(synthsr_transforms.TissueMixture(label_table=table, prior_means=priors))
        assert len(shown) < 600

    @pytest.mark.parametrize(
        "name", [name for name, cases in CASES.items() if "label_table" in cases[0]]
    )
    def test_a_custom_label_table_survives_a_spec(self, name: str) -> None:
        rows = tuple(reversed(LabelTable.ready(ASEG).rows))
        table = LabelTable(rows, keep_order=True)
        transform = registered_transforms()[name](**{**CASES[name][0], "label_table": table})
        spec = json.loads(json.dumps(spec_of(transform)))
        assert build_transform(spec).label_table == table

    @every_class
    def test_constructor_refuses_nonsense_and_names_it(self, cls: type[SynthTransform]) -> None:
        needed = {k: v for k, v in CASES[cls.__name__][0].items() if k == "label_table"}
        with pytest.raises(ValueError, match=r"[Pp]robability"):
            cls(**needed, p=1.5)
        for name, values in NONSENSE[cls.__name__].items():
            for wrong in values:
                with pytest.raises(ValueError, match=NAMED_OTHERWISE.get(name, name)):
                    cls(**{**needed, name: wrong})

    @pytest.mark.parametrize(
        ("cls", "params", "name"),
        [
            (synthsr_transforms.SharedTexture, {"tissues": ["white_matter"]}, "label_table"),
            (synthsr_transforms.SkullStripping, {"margin_mm": 9}, "smoothness_mm"),
            (synthsr_transforms.TissueMixture, {"priors": PRIORS, "prior_means": 20}, "priors"),
        ],
    )
    def test_arguments_that_do_not_fit_each_other_are_named(
        self, cls: type[SynthTransform], params: dict[str, Any], name: str
    ) -> None:
        needed = {} if name == "label_table" else {"label_table": ASEG}
        with pytest.raises(ValueError, match=name):
            cls(**needed, **params)

    @every_class
    def test_an_unknown_parameter_of_a_spec_gets_a_suggestion(
        self, cls: type[SynthTransform]
    ) -> None:
        with pytest.raises(ValueError, match="did you mean 'exclude'"):
            build_transform({"name": cls.__name__, "params": {"exclud": []}})


class TestChance:
    """One generator governs everything; the global one is left alone."""

    @every_case
    def test_same_seed_same_output_and_global_state_untouched(
        self, case: Case, make_batch: Maker, seeded: Maker, assert_same: Maker
    ) -> None:
        transform, batch = case.build(p=0.8), make_batch()
        state, numpy_state = torch.get_rng_state(), repr(np.random.get_state())  # noqa: NPY002
        first = transform(batch, generator=seeded(9))
        second = transform(batch, generator=seeded(9))
        assert torch.equal(torch.get_rng_state(), state)
        assert repr(np.random.get_state()) == numpy_state  # noqa: NPY002
        assert_same(first, second, history=True)

    @every_case
    def test_without_a_generator_the_seed_of_torch_gives_the_same(
        self, case: Case, make_batch: Maker, seeded: Maker, assert_same: Maker
    ) -> None:
        transform, batch = case.build(p=0.8), make_batch()
        with torch.random.fork_rng():
            torch.manual_seed(11)
            first = transform(batch)
        assert_same(first, transform(batch, generator=seeded(11)), history=True)

    @every_case
    def test_the_generator_is_used_up_by_draws_alone(
        self, case: Case, make_batch: Maker, seeded: Maker
    ) -> None:
        transform, batch = case.build(), make_batch()
        sampling, running = seeded(12), seeded(12)
        transform.sample_record(batch, sampling)
        transform(batch, generator=running)
        assert torch.equal(sampling.get_state(), running.get_state())


class TestPrecision:
    """A sample does not depend on the precision that a training script set for its network."""

    @every_case
    def test_autocast_and_fast_matrix_products_change_nothing(
        self, case: Case, make_batch: Maker, seeded: Maker, device: torch.device, assert_same: Maker
    ) -> None:
        transform, batch = case.build(), make_batch()
        expected = transform(batch, generator=seeded(13))
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("medium")
        try:
            with torch.autocast(device.type, dtype=torch.bfloat16):
                out = transform(batch, generator=seeded(13))
            assert torch.get_float32_matmul_precision() == "medium"
        finally:
            torch.set_float32_matmul_precision(before)
        assert_same(out, expected)
