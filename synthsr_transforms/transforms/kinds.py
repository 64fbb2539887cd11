"""Kinds of transforms: those of intensities, of geometry and of labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Generator, Tensor
from torchio.data.batch import ImagesBatch, SubjectsBatch

from synthsr_transforms.functional.layout import take_channels

from .base import Grid, Params, SynthTransform, grid_of, is_label_map, is_scalar_image
from .common.images import (
    channel_indices,
    check_channels,
    check_one_shape,
    find_labels,
    float_dtype,
)


class SynthIntensityTransform(SynthTransform, abstract=True):
    """Changes the intensities of scalar images, each channel with parameters of its own.

    Args:
        channels: Indices of the only channels to change.
        **kwargs: See `SynthTransform`.
    """

    def __init__(self, *, channels: Sequence[int] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.channels = None if channels is None else channel_indices(channels)

    def sample_image_params(self, grid: Grid, generator: Generator | None) -> Params:
        """Make the random choices for one image."""
        return {}

    def apply_to_image(self, image: Tensor, params: Params, grid: Grid) -> Tensor:
        """Return the changed image, `(B, C, X, Y, Z)` float32."""
        raise NotImplementedError

    def sample_params(self, batch: SubjectsBatch, generator: Generator | None) -> Params:
        """Sample for each image in turn; names are `image.parameter`."""
        params = {}
        for name, image in self.images(batch).items():
            for key, value in self.sample_image_params(self._grid(name, image), generator).items():
                params[f"{name}.{key}"] = value
        return params

    def apply_params(self, batch: SubjectsBatch, params: Params) -> None:
        """Change each image in turn."""
        for name, image in self.images(batch).items():
            prefix = f"{name}."
            own = {k[len(prefix) :]: v for k, v in params.items() if k.startswith(prefix)}
            grid = self._grid(name, image)
            data = image.data.to(float_dtype(image.data))
            selected = data if self.channels is None else take_channels(data, self.channels)
            result = self.apply_to_image(selected.float(), own, grid).to(data.dtype)
            if self.channels is not None:
                index = torch.tensor(self.channels).to(data.device, non_blocking=True)
                result = data.index_copy(1, index, result)
            image.data = result

    def images(self, batch: SubjectsBatch) -> dict[str, ImagesBatch]:
        """Scalar images of the batch that `include` and `exclude` leave."""
        chosen = self.chosen_images(batch)
        return {name: image for name, image in chosen.items() if is_scalar_image(image)}

    def _grid(self, name: str, image: ImagesBatch) -> Grid:
        if self.channels is None:
            return grid_of(image)
        check_channels(self.channels, image.data, name)
        return grid_of(image, len(self.channels))


class SynthSpatialTransform(SynthTransform, abstract=True):
    """Changes the geometry of all images alike: labels by nearest neighbour, images linearly."""

    def grid(self, batch: SubjectsBatch) -> Grid:
        """The grid that all images share.

        Raises:
            ValueError: If there is no image, or their shapes differ.
        """
        images = self.chosen_images(batch)
        check_one_shape(images, type(self).__name__)
        return grid_of(next(iter(images.values())))


class SynthLabelTransform(SynthTransform, abstract=True):
    """Reads a label map.

    Args:
        labels: Name of the label map. A subject with one label map, or one image only, needs none.
        **kwargs: See `SynthTransform`.
    """

    def __init__(self, *, labels: str = "labels", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.labels = labels

    def label_image(self, batch: SubjectsBatch) -> tuple[str, ImagesBatch]:
        """Name and batch of the label map."""
        return find_labels(batch, self.labels)

    def scalar_images(self, batch: SubjectsBatch) -> dict[str, ImagesBatch]:
        """Images that `include` and `exclude` leave, other label maps if `include` names them."""
        label_name, _ = self.label_image(batch)
        named = self.include or ()
        return {
            name: image
            for name, image in self.chosen_images(batch).items()
            if name != label_name and (name in named or not is_label_map(image))
        }
