"""The adapter between this library and TorchIO 2: the only module that knows its private names.

A transform samples its parameters first: `sample_params` makes every random choice, one value per
batch element, and `apply_params` is deterministic. One path serves any batch size, so an element of
a batch equals that element alone, replayed from its history.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import reprlib
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import numpy as np
import SimpleITK
import torch
from torch import Generator, Tensor
from torchio import Image, LabelMap, ScalarImage, Subject
from torchio.data.affine import AffineMatrix
from torchio.data.batch import ImagesBatch, SubjectsBatch
from torchio.transforms.transform import AppliedTransform, Transform

from synthsr_transforms.support import devices
from synthsr_transforms.support.messages import suggest

from .containers import BARE_IMAGE, check_affines, wrap_bare, wrap_dict, wrap_sitk
from .prepared import Prepared, sent
from .spec import constructor_params, unknown_parameter

Params = dict[str, Tensor]

_REGISTRY: dict[str, type[SynthTransform]] = {}
_LIBRARY = __name__.partition(".")[0]


def registered_transforms() -> dict[str, type[SynthTransform]]:
    """Every transform of this library and of modules that were imported, by class name."""
    return dict(sorted(_REGISTRY.items()))


@dataclasses.dataclass(frozen=True)
class Grid:
    """Layout of an image, which is all that sampling may depend on.

    Attributes:
        batch_size: Number B of elements.
        channels: Number C of channels that the transform changes.
        shape: Three sizes in voxels.
        affines: One voxel-to-world matrix per element.
    """

    batch_size: int
    channels: int
    shape: tuple[int, int, int]
    affines: Sequence[AffineMatrix]

    @cached_property
    def spacing_mm(self) -> Tensor:
        """Voxel spacing in mm, `(B, 3)` on the CPU, rounded to a thousandth; not to be changed."""
        return _spacings(*(affine.data.numpy().tobytes() for affine in self.affines))

    @property
    def common_spacing_mm(self) -> list[float]:
        """The voxel spacing in mm that all elements share.

        Raises:
            ValueError: If they do not, so that no one size fits all.
        """
        first, *others = self.spacing_mm.tolist()
        if any(spacing != first for spacing in others):
            raise ValueError(
                f"spacing must be the same for all elements, got {[first, *others]} mm."
                " Resample them to one spacing or make batches of equal ones."
            )
        return first


@lru_cache(256)
def _spacings(*matrices: bytes) -> Tensor:
    """Lengths of the columns of 4 x 4 matrices of float64, `(B, 3)`, rounded to a thousandth."""
    rows = [np.frombuffer(matrix).reshape(4, 4)[:3, :3].T.tolist() for matrix in matrices]
    lengths = [[round(math.hypot(*column), 3) for column in columns] for columns in rows]
    return torch.tensor(lengths, dtype=torch.float64)


def grid_of(image: ImagesBatch, channels: int | None = None) -> Grid:
    """Describe an image batch."""
    batch, count, x, y, z = image.data.shape
    _bring_affines_home(image)
    return Grid(batch, count if channels is None else channels, (x, y, z), image.affines)


class Drawn(NamedTuple):
    """Parameters that were drawn for a batch.

    Attributes:
        record: In the form that TorchIO keeps in histories.
        tensors: The same for `apply_params`; None where they must be read from the record.
    """

    record: dict[str, Any]
    tensors: Params | None = None


class SynthTransform(Transform):
    """Base class of every transform of this library.

    Args:
        p: Probability of the transform, decided for each batch element. Transforms that change
            shapes, channels or the set of images decide once for the whole batch.
        copy: Deep-copy the input first.
        include: Names of the only images to transform.
        exclude: Names of images to leave alone.
    """

    preserves_layout: bool = True
    """Whether shapes, channels and the set of images stay, so that `p` can hold per element."""
    of_the_scan: tuple[str, ...] = ()
    """Last words of the names of parameters that belong to a scan, and never to the head: scans of
    one head that share the step differ in these."""

    def __init__(
        self,
        *,
        p: float = 1.0,
        copy: bool = True,
        include: Sequence[str] | None = None,
        exclude: Sequence[str] | None = None,
        **unknown: Any,
    ) -> None:
        for name in unknown:
            raise TypeError(unknown_parameter(type(self), name))
        super().__init__(
            p=p,
            copy=copy,
            include=None if include is None else list(include),
            exclude=None if exclude is None else list(exclude),
        )

    def __init_subclass__(cls, *, abstract: bool = False, **kwargs: Any) -> None:
        there = _REGISTRY.get(cls.__name__, cls)
        if there.__module__.startswith(f"{_LIBRARY}.") and there.__module__ != cls.__module__:
            raise TypeError(
                f"a transform must have a name of its own, got {cls.__name__}, which is one of"
                f" {_LIBRARY}. Rename the class."
            )
        super().__init_subclass__(**kwargs)
        if not abstract:
            _REGISTRY[cls.__name__] = cls

    # Hooks of a subclass

    def check(self, batch: SubjectsBatch) -> None:
        """Refuse a batch that lacks what the transform needs, even where `p` leaves it alone.

        Raises:
            ValueError: If `include` names no image of the batch.
        """
        if self.include:
            self.chosen_images(batch)

    def sample_params(self, batch: SubjectsBatch, generator: Generator | None) -> Params:
        """Make every random choice.

        Args:
            batch: The batch to be transformed; only its layout may be read.
            generator: Random generator on the CPU; torch's default one if None.

        Returns:
            Named tensors on the CPU with the batch as first dimension.
        """
        return {}

    def apply_params(self, batch: SubjectsBatch, params: Params) -> None:
        """Change the batch, by replacing tensors and never writing into them.

        A subclass may define this, or its halves `prepare`, `note` and `compute`.
        """
        prepared = self.prepare(batch, params)
        self.note(batch, prepared)
        self.compute(batch, sent(prepared, batch.device))

    def prepare(self, batch: SubjectsBatch, params: Params) -> Prepared:
        """What the host has to compute of the parameters before voxels are computed.

        Args:
            batch: The batch to be transformed; only its layout may be read.
            params: Parameters of all elements.
        """
        raise NotImplementedError

    def note(self, batch: SubjectsBatch, prepared: Prepared) -> None:
        """Change affines and metadata of a batch whose voxels are as before."""

    def compute(self, batch: SubjectsBatch, prepared: Prepared) -> None:
        """Compute voxels, without a number that the host reads from the device or sends there.

        Args:
            batch: The batch to change, by replacing tensors.
            prepared: See `prepare`, with tensors on the device.
        """
        raise NotImplementedError

    def repeats(self) -> bool:
        """Whether `compute` is the same work for all random numbers on devices like GPUs.

        Then it can be recorded and repeated with what `prepare` makes of other numbers.
        """
        return False

    def may_happen(self) -> bool:
        """Whether any element is ever transformed."""
        return self.p > 0

    def neutral(self, params: Params, keep: Tensor) -> Params | None:
        """Parameters with which elements that were not chosen stay as they are, bit for bit.

        With these, all elements of a batch are computed at once where that costs less than to take
        some out and put them back, as on a GPU.

        Args:
            params: Parameters of all elements.
            keep: Which elements were chosen, `(B,)` booleans on the CPU.

        Returns:
            The parameters; None where there are no such.
        """
        return None

    # For callers

    def forward(self, data: Any, *, generator: Generator | None = None) -> Any:
        """Transform a subject, image, tensor, array, NIfTI image, dict or batch.

        Args:
            data: The input; the output has the same type. Of a dict, images that the transform
                adds come back too.
            generator: Random generator on the CPU; torch's default one if None.
        """
        batch, unwrap = self._wrap(copy.deepcopy(data) if self.copy else data)
        self.run(batch, generator)
        result = unwrap(batch)
        if isinstance(result, Image | Subject | ImagesBatch):
            result.applied_transforms = list(batch.applied_transforms)
        return result

    def run(self, batch: SubjectsBatch, generator: Generator | None = None) -> dict[str, Any]:
        """Sample, transform a batch in place and record the step in its history.

        Args:
            batch: The batch to change.
            generator: Random generator on the CPU.

        Returns:
            The recorded parameters.
        """
        self.check_possible(batch)
        params, tensors = self.draw(batch, generator)
        self.apply_transform(batch, params, tensors)
        append_history(batch, self, params)
        return params

    def sample_record(
        self, batch: SubjectsBatch, generator: Generator | None = None
    ) -> dict[str, Any]:
        """Sample the parameters for a batch, in the form that TorchIO keeps in histories."""
        self.check_possible(batch)
        return self.draw(batch, generator).record

    def check_possible(self, batch: SubjectsBatch) -> None:
        """Refuse a batch that lacks what the transform needs, unless it never happens."""
        if self.p > 0:
            self.check(batch)

    def draw(self, batch: SubjectsBatch, generator: Generator | None = None) -> Drawn:
        """Sample the parameters for a batch that was checked."""
        keep = self.sample_keep(batch.batch_size, generator)
        sampled = self.sample_params(batch, generator) if any(keep) else {}
        recorded: dict[str, Any] = {name: value.tolist() for name, value in sampled.items()}
        recorded["_batch_size"] = batch.batch_size
        recorded["_batched_keys"] = list(sampled)
        if not all(keep):
            recorded["_keep"] = keep
        return Drawn(recorded, {name: _as_recorded(value) for name, value in sampled.items()})

    def replay(self, data: Any, params: Mapping[str, Any]) -> Any:
        """Transform with recorded parameters instead of new ones.

        Args:
            data: The input, of any type that `forward` takes.
            params: Parameters of one element, or of a batch, from a history.
        """
        batch, unwrap = self._wrap(data)
        batch = shallow_copy(batch)
        return unwrap(self.apply_transform(batch, dict(params)))

    def chosen_images(self, batch: SubjectsBatch) -> dict[str, ImagesBatch]:
        """Images that `include` and `exclude` leave, label maps too.

        Raises:
            ValueError: If `include` names no image of the batch.
        """
        unnamed = BARE_IMAGE in batch.images
        if self.include and not unnamed and not set(self.include) & set(batch.images):
            raise ValueError(
                f"include must name images of the subject, {list(batch.images)}, got"
                f" {self.include}{suggest(self.include[0], list(batch.images))}."
            )
        return self._get_images(batch)

    def sample_keep(self, size: int, generator: Generator | None) -> list[bool]:
        """Decide which elements of a batch to transform."""
        if self.p >= 1 or self.p <= 0:
            return [self.p >= 1] * size
        count = size if self.preserves_layout else 1
        limit = float(np.float32(self.p))
        chosen = [u < limit for u in torch.rand(count, generator=generator).tolist()]
        return chosen * (size // count)

    def apply_transform(
        self, batch: SubjectsBatch, params: dict[str, Any], tensors: Params | None = None
    ) -> SubjectsBatch:
        """Transform with recorded parameters, where `p` decided so.

        Args:
            batch: The batch to change.
            params: Recorded parameters.
            tensors: The same as tensors, where they are at hand, which saves time.
        """
        size = batch.batch_size
        own = self.to_params(params, size) if tensors is None else tensors
        keep = params.get("_keep", [True] * size)
        index = [i for i, chosen in enumerate(keep) if chosen]
        if not index:
            return batch
        neutral = None
        if len(index) < size and devices.computes_all(batch.device):
            neutral = self.neutral(own, torch.tensor(keep))
        if len(index) == size or neutral is not None:
            self.apply_params(batch, own if neutral is None else neutral)
        else:
            part = shallow_copy(batch, index)
            taken = {name: image.data for name, image in part.images.items()}
            self.apply_params(part, {name: value[index] for name, value in own.items()})
            _put_elements(batch, part, taken, index)
        return batch

    @staticmethod
    def to_params(recorded: Mapping[str, Any], size: int) -> Params:
        """Recorded parameters, of a batch or of one element, as tensors for `apply_params`."""
        whole_batch = "_batched_keys" in recorded
        params = {}
        for name, value in recorded.items():
            if not name.startswith("_"):
                params[name] = _as_recorded(
                    torch.as_tensor(value if whole_batch else [value] * size)
                )
        return params

    @staticmethod
    def _wrap(data: Any) -> tuple[Any, Any]:
        if isinstance(data, dict):
            return wrap_dict(data)
        if isinstance(data, Tensor | np.ndarray):
            return wrap_bare(data)
        if isinstance(data, SimpleITK.Image):
            return wrap_sitk(data)
        if isinstance(data, Image | Subject | SubjectsBatch | ImagesBatch):
            check_affines(data)
        return Transform._wrap(data)

    def to_hydra(self) -> dict[str, Any]:
        """`_target_` with the import path of the class, and the arguments that differ."""
        cls = type(self)
        return {"_target_": f"{cls.__module__}.{cls.__qualname__}", **constructor_params(self)}

    def __repr__(self) -> str:
        """Show the arguments that differ from their defaults."""
        inside = ", ".join(f"{k}={_shown(v)}" for k, v in constructor_params(self).items())
        return f"{type(self).__name__}({inside})"


def _as_recorded(value: Tensor) -> Tensor:
    """A tensor of the type that its record is read as."""
    if value.is_floating_point():
        return value.float()
    return value if value.dtype == torch.bool else value.long()


def _shown(value: Any) -> str:
    """A value as code, or shortened where it is a long table."""
    code = repr(value)
    return code if len(code) <= 80 else reprlib.repr(value)


def append_history(batch: SubjectsBatch, transform: Transform, params: dict[str, Any]) -> None:
    """Append a step to the history of a batch, unless it left every element alone."""
    if any(params.get("_keep", [True])):
        batch.applied_transforms.append(
            AppliedTransform(type(transform).__name__, params, transform.include, transform.exclude)
        )


def _bring_affines_home(image: ImagesBatch) -> None:
    """Keep affines on the CPU: TorchIO moves them with the voxels, and reading them there waits."""
    if not all(affine.data.is_cpu for affine in image.affines):
        image._affines = [AffineMatrix(affine.data.cpu()) for affine in image.affines]


def is_label_map(image: ImagesBatch) -> bool:
    """Whether an image batch holds labels."""
    return issubclass(image._image_class, LabelMap)


def is_scalar_image(image: ImagesBatch) -> bool:
    """Whether an image batch holds intensities."""
    return issubclass(image._image_class, ScalarImage)


def add_image(
    batch: SubjectsBatch, name: str, data: Tensor, like: ImagesBatch, *, labels: bool = False
) -> None:
    """Add an image to a batch, or replace it, with the affines of another."""
    affines = [AffineMatrix(affine.data) for affine in like.affines]  # which copies
    batch.images[name] = ImagesBatch(data, affines, image_class=LabelMap if labels else ScalarImage)


def check_destination(batch: SubjectsBatch, name: str) -> None:
    """Refuse a batch without the image that is to be replaced; a bare image has no name.

    Raises:
        ValueError: If there is no such image.
    """
    if name not in batch.images and BARE_IMAGE not in batch.images:
        raise ValueError(
            f"destination must name an image to replace, one of {list(batch.images)}, got"
            f" {name!r}. Make it in a step before, or leave out replace."
        )


def replace_image(batch: SubjectsBatch, name: str, data: Tensor) -> None:
    """Replace the voxels of an image; its kind, affines and floating-point type stay.

    Args:
        batch: The batch to change.
        name: Of the image; a bare image is replaced whatever its name.
        data: `(B, C, X, Y, Z)`.

    Raises:
        ValueError: If there is no such image, or it has another shape or number of channels.
    """
    image = image_to_replace(batch, name, data.shape[1:])
    image.data = data.to(image.data.dtype) if image.data.is_floating_point() else data


def image_to_replace(batch: SubjectsBatch, name: str, shape: Sequence[int]) -> ImagesBatch:
    """The image whose voxels will be replaced, see `replace_image`.

    Args:
        batch: The batch.
        name: Of the image; a bare image is replaced whatever its name.
        shape: `(C, X, Y, Z)` of what replaces it.

    Raises:
        ValueError: If there is no such image, or it has another shape or number of channels.
    """
    check_destination(batch, name)
    image = batch.images[BARE_IMAGE if BARE_IMAGE in batch.images else name]
    if tuple(image.data.shape[1:]) != tuple(shape):
        raise ValueError(
            f"destination {name!r} must have the channels and shape {tuple(shape)} of what"
            f" replaces it, got {tuple(image.data.shape[1:])}. Leave out replace to make a new"
            " image."
        )
    return image


def set_affines(image: ImagesBatch, matrices: Sequence[Tensor]) -> None:
    """Replace the affines of an image by `(4, 4)` float64 tensors."""
    image._affines = [AffineMatrix(matrix) for matrix in matrices]


def shallow_copy(batch: SubjectsBatch, index: Sequence[int] | None = None) -> SubjectsBatch:
    """A batch with containers and history of its own.

    Args:
        batch: The batch; tensors are shared with it if all elements are taken.
        index: The only elements to take, without their history.
    """
    for image in batch.images.values():
        _bring_affines_home(image)
    elements = range(batch.batch_size) if index is None else index
    images = {
        name: ImagesBatch(
            image.data if index is None else image.data[_on_device(index, image.data)],
            [AffineMatrix(image.affines[i].data) for i in elements],
            image_class=image._image_class,
        )
        for name, image in batch.images.items()
    }
    metadata = {key: [values[i] for i in elements] for key, values in batch.metadata.items()}
    copied = SubjectsBatch(images, metadata=metadata)
    if index is None:
        if batch._per_element_history is not None:
            copied.set_per_element_history(batch._per_element_history)
        copied.applied_transforms = list(batch.applied_transforms)
    return copied


def take_elements(batch: SubjectsBatch, index: Sequence[int]) -> SubjectsBatch:
    """Some elements of a batch, with their history; an element may be taken several times."""
    taken = shallow_copy(batch, index)
    histories = [subject.applied_transforms for subject in batch.unbatch()]
    taken.set_per_element_history([histories[i] for i in index])
    return taken


def _put_elements(
    batch: SubjectsBatch,
    part: SubjectsBatch,
    taken: Mapping[str, Tensor],
    index: Sequence[int],
) -> None:
    """Put back the images that were changed, and the notes."""
    for name, image in batch.images.items():
        changed = part.images[name].data
        if changed is not taken[name]:
            whole = image.data.to(changed.dtype)
            image.data = whole.index_copy(0, _on_device(index, whole), changed)
    put_notes(batch, part.metadata, index)


def put_notes(
    batch: SubjectsBatch, metadata: Mapping[str, Sequence[Any]], index: Sequence[int]
) -> None:
    """Put back the metadata of some elements of a batch."""
    for key, values in metadata.items():
        whole_list = batch.metadata.setdefault(key, [None] * batch.batch_size)
        for i, value in zip(index, values, strict=True):
            whole_list[i] = value


def _on_device(index: Sequence[int], like: Tensor) -> Tensor:
    return torch.tensor(list(index)).to(like.device, non_blocking=True)
