"""Selection of channels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torchio.data.batch import SubjectsBatch

from synthsr_transforms.functional.layout import take_channels
from synthsr_transforms.transforms.base import Params, SynthTransform
from synthsr_transforms.transforms.images import channel_indices, check_channels


class SelectChannels(SynthTransform):
    """Keep some channels of an image, in a given order.

    Args:
        channels: Indices of the channels to keep.
        **kwargs: See `SynthTransform`; `include` names the images.

    Examples:
        >>> import torch
        >>> SelectChannels(channels=[2, 0])(torch.rand(3, 4, 4, 4)).shape
        torch.Size([2, 4, 4, 4])
    """

    preserves_layout = False

    def __init__(self, *, channels: Sequence[int] = (0,), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.channels = channel_indices(channels)

    def apply_params(self, batch: SubjectsBatch, params: Params) -> None:
        """Keep the channels."""
        for name, image in self.chosen_images(batch).items():
            check_channels(self.channels, image.data, name)
            image.data = take_channels(image.data, self.channels)
