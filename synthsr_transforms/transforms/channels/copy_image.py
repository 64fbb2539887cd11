"""Copies of an image, such as the target of a regression."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torchio.data.batch import SubjectsBatch

from synthsr_transforms.functional.layout import take_channels
from synthsr_transforms.transforms.base import (
    Params,
    SynthTransform,
    add_image,
    check_destination,
    is_label_map,
    replace_image,
)
from synthsr_transforms.transforms.images import channel_indices, check_channels, named_image


class CopyImage(SynthTransform):
    """Copy an image, or some of its channels, under another name.

    What happens to the one later does not touch the other, so a target keeps the quality that
    the image has at this step.

    Args:
        source: Name of the image to copy.
        destination: Name of the copy.
        channels: Indices of the channels to copy; None copies all.
        replace: The destination exists already, with the same channels and shape, and is replaced,
            in the elements of a batch that `p` chooses, decided for each. A bare tensor, array or
            image is its own destination.
        **kwargs: See `SynthTransform`.

    Examples:
        >>> import torch
        >>> sorted(CopyImage()({"image": torch.rand(1, 4, 4, 4)}))
        ['image', 'target']
    """

    preserves_layout = False

    def __init__(
        self,
        *,
        source: str = "image",
        destination: str = "target",
        channels: Sequence[int] | None = None,
        replace: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.source, self.destination = source, destination
        self.channels = None if channels is None else channel_indices(channels)
        self.replace = self.preserves_layout = bool(replace)

    def check(self, batch: SubjectsBatch) -> None:
        """Refuse a batch without the image to replace."""
        super().check(batch)
        if self.replace:
            check_destination(batch, self.destination)

    def apply_params(self, batch: SubjectsBatch, params: Params) -> None:
        """Add the copy, or put it in the place of another image."""
        image = named_image(batch, self.source)
        data = image.data
        if self.channels is not None:
            check_channels(self.channels, data, self.source)
            data = take_channels(data, self.channels)
        if self.replace:
            replace_image(batch, self.destination, data)
        else:
            add_image(batch, self.destination, data, image, labels=is_label_map(image))
