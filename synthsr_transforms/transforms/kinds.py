"""Kinds of transforms: those of intensities, of geometry and of labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
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
from .prepared import Prepared, prefixed, sent, under


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
        """Return the changed image, `(B, C, X, Y, Z)` float32.

        A subclass may define this, or its halves `prepare_image` and `compute_image`.
        """
        prepared = self.prepare_image(params, grid, image.device)
        return self.compute_image(image, sent(prepared, image.device))

    def prepare_image(self, params: Params, grid: Grid, device: torch.device) -> Prepared:
        """What the host has to compute of the parameters for one image, see `prepare`.

        Args:
            params: Parameters of the image.
            grid: Its grid.
            device: Where voxels will be computed.
        """
        return dict(params)

    def compute_image(self, image: Tensor, prepared: Prepared) -> Tensor:
        """Return the changed image, see `apply_to_image` and `compute`."""
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
            own, grid = under(name, params), self._grid(name, image)
            self._change(image, partial(self.apply_to_image, params=own, grid=grid))

    def prepare(self, batch: SubjectsBatch, params: Params) -> Prepared:
        """Prepare for each image in turn; names are `image.name`."""
        prepared: Prepared = {}
        for name, image in self.images(batch).items():
            own = self.prepare_image(under(name, params), self._grid(name, image), image.device)
            prepared |= prefixed(name, own)
        return prepared

    def compute(self, batch: SubjectsBatch, prepared: Prepared) -> None:
        """Change each image in turn."""
        for name, image in self.images(batch).items():
            self._change(image, partial(self.compute_image, prepared=under(name, prepared)))

    def _change(self, image: ImagesBatch, change: Callable[[Tensor], Tensor]) -> None:
        """Replace the chosen channels of an image by what a function makes of them."""
        data = image.data.to(float_dtype(image.data))
        selected = data if self.channels is None else take_channels(data, self.channels)
        result = change(selected.float()).to(data.dtype)
        if self.channels is not None:
            index = torch.tensor(self.channels).to(data.device, non_blocking=True)
            result = data.index_copy(1, index, result)
        image.data = result

    def repeats(self) -> bool:
        """Whether the halves of the subclass do all, on all channels."""
        halves = type(self).apply_to_image is SynthIntensityTransform.apply_to_image
        return halves and self.channels is None

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
