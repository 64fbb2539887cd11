"""Tensors, arrays and dictionaries of them, as batches and back."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import SimpleITK
import torch
from torch import Tensor
from torchio import Image, LabelMap, ScalarImage, Subject
from torchio.data.affine import AffineMatrix
from torchio.data.batch import ImagesBatch, SubjectsBatch

BARE_IMAGE = "tio_default_image"
"""Name under which TorchIO wraps a tensor, array or image that comes alone."""
LABEL_WORDS = ("label", "labels", "labelmap", "seg", "segmentation", "mask", "masks")
"""Ends of words in the key of a dictionary under which tensors of whole numbers are label maps."""

Unwrap = Callable[[SubjectsBatch], Any]

_WIDER = {np.dtype(np.uint16): np.int32, np.dtype(np.uint32): np.int64}  # few operations in torch


def wrap_bare(data: Tensor | np.ndarray) -> tuple[SubjectsBatch, Unwrap]:
    """Make a batch of a tensor or array that comes alone, and what turns it back."""
    entry = TensorForm(data)
    batch = SubjectsBatch({BARE_IMAGE: entry.images()})
    return batch, lambda result: entry.restored(result.images[BARE_IMAGE])


def wrap_dict(data: Mapping[Any, Any]) -> tuple[SubjectsBatch, Unwrap]:
    """Make a batch of a dictionary, and what turns it back.

    Args:
        data: Images, tensors and arrays by name, and other values, which become metadata. A tensor
            without an affine has that of one of its size that has one.

    Raises:
        ValueError: If some of the tensors have a batch dimension and others have none, or numbers
            of elements differ.
    """
    entries = {
        str(k): TensorForm(v, is_label_key(str(k))) for k, v in data.items() if _is_image(k, v)
    }
    sizes = {name: entry.batch_size for name, entry in entries.items()}
    if len(set(sizes.values())) > 1:
        raise ValueError(
            "tensors of a dictionary must have the same number of elements, (B, C, X, Y, Z), or no"
            f" batch dimension, got {sizes} (0: none). Make them alike."
        )
    size = next(iter(sizes.values()), 0)
    notes = {
        str(key): list(value)
        if size and isinstance(value, list) and len(value) == size
        else [value] * max(size, 1)
        for key, value in data.items()
        if str(key) not in entries
    }
    carriers = [entry for entry in entries.values() if entry.affine is not None]
    for entry in entries.values():
        same = (one.affine for one in carriers if one.tensor.shape[2:] == entry.tensor.shape[2:])
        entry.affine = next(same, None) if entry.affine is None else entry.affine
    images = {name: entry.images() for name, entry in entries.items()}
    names = {str(key): key for key in data}

    def unwrap(batch: SubjectsBatch) -> dict[Any, Any]:
        example = next(iter([*carriers, *entries.values()]), None)
        result = dict(data)
        for name, image in batch.images.items():
            entry = entries.get(name) or example
            assert entry is not None
            result[names.get(name, name)] = entry.restored(image, known=name in entries)
        for name, values in batch.metadata.items():
            before = notes.get(name)
            if before is None or any(a is not b for a, b in zip(values, before, strict=True)):
                result[names.get(name, name)] = values if size else values[0]
        return result

    return SubjectsBatch(images, metadata={k: list(v) for k, v in notes.items()}), unwrap


def is_label_key(key: str) -> bool:
    """Whether whole numbers under a key are labels.

    Examples:
        >>> [is_label_key(key) for key in ("lesion_mask", "segGT", "aseg", "image", "unmasked")]
        [True, True, True, False, False]
    """
    words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+", key)
    return any(word.lower().endswith(LABEL_WORDS) for word in words)


class TensorForm:
    """A tensor or array with the form in which it comes back.

    Args:
        value: Tensor or array `(X, Y, Z)`, `(C, X, Y, Z)` or `(B, C, X, Y, Z)`, or an image of
            TorchIO. The affine of a tensor that has one, `(4, 4)` or `(B, 4, 4)`, such as MONAI's
            `MetaTensor`, is that of the image.
        labels: Whether it is a label map if it holds whole numbers alone.

    Raises:
        ValueError: If it has another number of dimensions, or an affine of another shape.
    """

    def __init__(self, value: Any, labels: bool = False) -> None:
        self.value = value
        tensor = value.data if isinstance(value, Image) else _as_tensor(value)
        self.ndim, self.dtype = tensor.ndim, tensor.dtype
        self.affine: Any = getattr(value, "affine", None)
        if tensor.is_complex():
            raise ValueError(
                f"a tensor or array must hold real numbers, got {tensor.dtype}. Give the magnitude."
            )
        if not 3 <= tensor.ndim <= 5:
            raise ValueError(
                "a tensor or array must be (X, Y, Z), (C, X, Y, Z) or (B, C, X, Y, Z), got"
                f" {tuple(tensor.shape)}."
            )
        self.batch_size = len(tensor) if tensor.ndim == 5 else 0
        self.kind = type(value) if isinstance(value, Image) else ScalarImage
        whole = not tensor.is_floating_point() or bool((tensor == tensor.round()).all())
        if labels and not isinstance(value, Image) and whole and bool(tensor.isfinite().all()):
            self.kind = LabelMap
            tensor = tensor.int() if tensor.is_floating_point() else tensor
        self.tensor = tensor[(None,) * (5 - tensor.ndim)]

    def images(self) -> ImagesBatch:
        """The batch of one or more images."""
        return ImagesBatch(self.tensor, list(self._affines()), image_class=self.kind)

    def _affines(self) -> Iterator[AffineMatrix]:
        size, affine = len(self.tensor), self.affine
        if isinstance(affine, AffineMatrix):
            affine = affine.data
        matrices = torch.eye(4) if affine is None else torch.as_tensor(affine).detach()
        matrices = torch.Tensor.as_subclass(matrices, torch.Tensor).cpu().double()
        if matrices.shape not in ((4, 4), (size, 4, 4)):
            raise ValueError(
                f"the affine of a tensor must be (4, 4), or ({size}, 4, 4) with one matrix per"
                f" element, got {tuple(matrices.shape)}."
            )
        yield from (AffineMatrix(matrix) for matrix in matrices.expand(size, 4, 4))

    def restored(self, images: ImagesBatch, *, known: bool = True) -> Any:
        """Return images in the form of the value.

        Args:
            images: The batch after the transform.
            known: Whether they are those of the value, so that whole numbers keep its type.
        """
        data = images.data
        changed = data.is_floating_point() and (
            self.kind is ScalarImage or self.dtype is torch.bool
        )
        data = data if changed or not known else data.to(self.dtype)
        if self.batch_size == 0:
            data = data[0]
            data = data[0] if self.ndim == 3 and len(data) == 1 else data
        if isinstance(self.value, np.ndarray):
            array = data.cpu().numpy()
            return array.astype(self.value.dtype) if known and array.dtype.kind in "iu" else array
        return data if isinstance(self.value, Image) else self._of_its_class(data, images)

    def _of_its_class(self, data: Tensor, images: ImagesBatch) -> Tensor:
        """A tensor of the class of the value, with the affine of the images."""
        affine = getattr(self.value, "affine", None)
        if affine is None:
            return data
        result: Any = data.as_subclass(type(self.value))
        vars(result).update({k: copy.copy(v) for k, v in vars(self.value).items()})
        matrices = torch.stack([a.data for a in images.affines])
        matrices = matrices if len(np.shape(affine)) == 3 else matrices[0]
        if isinstance(affine, Tensor):
            result.affine = matrices.to(device=affine.device, dtype=affine.dtype)
        else:
            result.affine = matrices.numpy()
        return result


def wrap_sitk(data: SimpleITK.Image) -> tuple[SubjectsBatch, Unwrap]:
    """Make a batch of an image of SimpleITK, and what turns it back.

    Its arrays run z, y, x, and its world to the left and back.

    Raises:
        ValueError: If it does not have three dimensions.
    """
    if data.GetDimension() != 3:
        raise ValueError(
            f"an image of SimpleITK must have three dimensions, got {data.GetDimension()}."
        )
    array = np.atleast_3d(SimpleITK.GetArrayFromImage(data))
    is_vector = data.GetNumberOfComponentsPerPixel() > 1
    channels = np.moveaxis(array, -1, 0) if is_vector else array[None]
    matrix = np.eye(4)
    matrix[:3, :3] = np.reshape(data.GetDirection(), (3, 3)) * data.GetSpacing()
    matrix[:3, 3] = data.GetOrigin()
    entry = TensorForm(channels.transpose(0, 3, 2, 1))
    entry.affine = _TO_RAS @ matrix

    def unwrap(batch: SubjectsBatch) -> SimpleITK.Image:
        images = batch.images[BARE_IMAGE]
        back = np.asarray(entry.restored(images)).transpose(0, 3, 2, 1)
        vector = len(back) > 1
        result = SimpleITK.GetImageFromArray(
            np.moveaxis(back, 0, -1) if vector else back[0], vector
        )
        matrix = _TO_RAS @ images.affines[0].data.numpy()
        spacing = np.linalg.norm(matrix[:3, :3], axis=0)
        result.SetSpacing(spacing.tolist())
        result.SetDirection((matrix[:3, :3] / spacing).ravel().tolist())
        result.SetOrigin(matrix[:3, 3].tolist())
        return result

    return SubjectsBatch({BARE_IMAGE: entry.images()}), unwrap


_TO_RAS = np.diag([-1.0, -1, 1, 1])  # and back


def check_affines(data: Image | Subject | SubjectsBatch | ImagesBatch) -> None:
    """Refuse images of TorchIO that were made from a tensor with an affine, but not given it.

    Raises:
        ValueError: If there is one.
    """
    images = {"": data} if isinstance(data, Image | ImagesBatch) else data.images
    for name, image in images.items():
        tensor = image.data
        affine = None if type(tensor) is Tensor else getattr(tensor, "affine", None)
        if affine is None:
            continue
        given = image.affine if isinstance(image, Image) else image.affines[0]
        own = torch.as_tensor(affine).as_subclass(Tensor).cpu().double()
        if not torch.allclose(own, given.data.cpu(), atol=1e-4):
            raise ValueError(
                f"image {name!r} must have the affine of the tensor that it was made from. Give the"
                " tensor itself to the transform, or make ScalarImage(tensor,"
                " affine=tensor.affine)."
            )


def _as_tensor(value: Tensor | np.ndarray) -> Tensor:
    if isinstance(value, Tensor):
        return value.as_subclass(Tensor)
    array = value.astype(_WIDER.get(value.dtype.newbyteorder("="), value.dtype.newbyteorder("=")))
    return torch.from_numpy(np.ascontiguousarray(array))


def _is_image(key: Any, value: Any) -> bool:
    if isinstance(value, Image):
        return True
    numbers = isinstance(value, Tensor) or (
        isinstance(value, np.ndarray) and value.dtype.kind in "biuf"
    )
    matrices = numbers and value.ndim == 3 and tuple(value.shape[-2:]) == (4, 4)
    is_affine = matrices and "affine" in str(key).lower()
    return numbers and 3 <= value.ndim <= 5 and not is_affine
