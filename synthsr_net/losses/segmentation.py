"""Losses of segmentations: of a network in training, and of a frozen one that judges images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 - the customary name
from torch import Tensor, nn

from .base import ImageLoss, at_least_float32, central_crop, crop_sizes, without_autocast

IGNORED = -1
"""Stands for "no label" where a channel of a segmentation network is to be left out."""

EPSILON = 1e-7
"""Keeps labels that are empty in both finite: their loss is 0."""
SPACE = (-3, -2, -1)

Merges = dict[int, tuple[int, ...]]
"""Channels of a segmentation network that together stand for a label, by label."""


class SegmentationLoss(nn.Module):
    """Dice loss between a segmentation of the predicted image and the label map it was made from.

    The network and its statistics are frozen and in evaluation mode, whatever `train` says;
    gradients go through it to the prediction. It runs in the precision of the autocast around it,
    the sums of the Dice loss in float32.

    Args:
        network: Turns `(B, 1, X, Y, Z)` into probabilities `(B, K, X, Y, Z)`; its parameters are
            frozen in place.
        equivalency: For each of the K channels, the label value that it stands for, or -1 for none.
            Probabilities of channels with the same value are added.
        labels: Label values of the label maps that images are generated from.
        fs_header: Whether the network expects volumes in the axes of FreeSurfer: the last two axes
            are exchanged, then the first of them is reversed.
        intensity_range: Range that predictions are clipped to and brought from to 0 and 1, such as
            percentiles 2 and 98 of the target; None leaves them alone.
        crop: Central box that is compared, in voxels, one number or three; None means all.
        groups: Value that each label of the label maps is replaced by before it is compared,
            `(largest label + 1,)`, see `StructureTable.lookup`; `labels` are such values then.

    Raises:
        ValueError: If values do not fit each other.

    References:
        Iglesias et al., Joint super-resolution and synthesis of 1 mm isotropic MP-RAGE volumes from
        clinical MRI exams, NeuroImage 237:118206 (2021).

    Examples:
        >>> network = nn.Sequential(nn.Conv3d(1, 2, 1), nn.Softmax(1))
        >>> loss = SegmentationLoss(network, equivalency=[0, 2], labels=[0, 2, 41])
        >>> loss(torch.zeros(1, 1, 4, 4, 4), torch.zeros(1, 1, 4, 4, 4, dtype=torch.int16)).ndim
        0
    """

    def __init__(
        self,
        network: nn.Module,
        equivalency: Sequence[int],
        labels: Sequence[int],
        *,
        fs_header: bool = False,
        intensity_range: tuple[float, float] | None = None,
        crop: int | Sequence[int] | None = None,
        groups: Tensor | None = None,
    ) -> None:
        super().__init__()
        if intensity_range is not None and not intensity_range[0] < intensity_range[1]:
            raise ValueError(f"intensity_range must be (low, high), got {intensity_range}.")
        self.merges = merges_of(equivalency, labels)
        self.num_channels = len(equivalency)
        config = getattr(network, "config", None)
        self._check_channels(getattr(config, "out_channels", self.num_channels))
        self.fs_header = fs_header
        self.intensity_range = intensity_range
        self.crop = crop_sizes(crop)
        self.groups: Tensor | None
        self.register_buffer("groups", groups, persistent=False)
        self.network = network.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> SegmentationLoss:
        """Does nothing to the network, which stays in evaluation mode."""
        super().train(mode)
        self.network.eval()
        return self

    def forward(self, prediction: Tensor, labels: Tensor) -> Tensor:
        """Segment a prediction and compare.

        Args:
            prediction: `(B, 1, X, Y, Z)` image, residual added.
            labels: `(B, 1, X, Y, Z)` label map on the same grid.

        Returns:
            One number within 0 and 1, float32.

        Raises:
            ValueError: If shapes do not fit each other, the network or the crop.
        """
        _check_prediction(prediction, labels)
        if self.groups is not None:
            labels = self.groups[labels.long().clamp(0, len(self.groups) - 1)]
        probabilities = self.segment(prediction)
        self._check_channels(probabilities.shape[1])
        return merged_dice(
            central_crop(probabilities, self.crop), central_crop(labels, self.crop), self.merges
        )

    def segment(self, prediction: Tensor) -> Tensor:
        """Probabilities `(B, K, X, Y, Z)` of a prediction `(B, 1, X, Y, Z)`, on its grid."""
        with without_autocast(prediction):
            image = at_least_float32(prediction)
            if self.intensity_range is not None:
                low, high = self.intensity_range
                image = (image.clamp(low, high) - low) / (high - low)
        if not self.fs_header:
            return self.network(image)
        return self.network(image.transpose(3, 4).flip(3)).flip(3).transpose(3, 4)

    def _check_channels(self, count: int) -> None:
        if count != self.num_channels:
            raise ValueError(
                "equivalency must have one label per output channel of the segmentation network,"
                f" got {self.num_channels} for {count} channels."
            )


def merges_of(equivalency: Sequence[int], labels: Sequence[int]) -> Merges:
    """Channels of a segmentation network by the label that they stand for.

    Args:
        equivalency: For each channel, a label value, or -1 for none.
        labels: Label values of the label maps.

    Returns:
        Channels by label value, for the labels that have any, in the order of `labels`.

    Raises:
        ValueError: If a value is not that of a label, or there is none.

    Examples:
        >>> merges_of([0, 2, 2, -1], [0, 2, 3])
        {0: (0,), 2: (1, 2)}
    """
    unknown = sorted(set(equivalency) - set(labels) - {IGNORED})
    if unknown:
        raise ValueError(
            f"equivalency must hold values of the label maps, or {IGNORED} for none, got"
            f" {', '.join(map(str, unknown))}. Write {IGNORED} for what the label maps lack."
        )
    found = {v: tuple(i for i, e in enumerate(equivalency) if e == v) for v in labels}
    merges = {v: channels for v, channels in found.items() if channels and v != IGNORED}
    if not merges:
        raise ValueError(f"equivalency must name at least one label, got {list(equivalency)}.")
    return merges


def merged_dice(probabilities: Tensor, labels: Tensor, merges: Merges) -> Tensor:
    """Mean Dice loss over labels and elements, one label at a time to spare memory.

    Args:
        probabilities: `(B, K, X, Y, Z)`.
        labels: `(B, 1, X, Y, Z)` label map.
        merges: Channels of `probabilities` that together stand for a label, by label value.

    Returns:
        One number within 0 and 1, float32 (float64 if the probabilities are).
    """
    with without_autocast(probabilities):
        channels, label_map = probabilities.unbind(1), labels[:, 0]
        losses = []
        for value, members in merges.items():
            probability = at_least_float32(channels[members[0]])
            for member in members[1:]:
                probability = probability + channels[member]
            inside = label_map == value
            overlap = torch.where(inside, probability, 0.0).sum(SPACE)
            size = inside.sum(SPACE, dtype=probability.dtype)
            losses.append(dice_of_sums(overlap, size, probability.square().sum(SPACE)))
        return torch.stack(losses).mean()


def dice_of_sums(overlap: Tensor, truth: Tensor, probabilities: Tensor) -> Tensor:
    r"""Dice loss \(1 - (2 \sum g p + \epsilon) / (\sum g^2 + \sum p^2 + \epsilon)\) from its sums.

    Milletari et al., "V-Net: Fully convolutional neural networks for volumetric medical image
    segmentation", 3DV 2016.

    Args:
        overlap: Sum of products of truth and probability.
        truth: Sum of squares of the truth.
        probabilities: Sum of squares of the probabilities.
    """
    return 1 - (2 * overlap + EPSILON) / (truth + probabilities + EPSILON)


def _check_prediction(prediction: Tensor, labels: Tensor) -> None:
    if prediction.ndim != 5 or prediction.shape[1] != 1:
        raise ValueError(
            "the segmentation loss needs networks with one output image, (B, 1, X, Y, Z), got"
            f" {tuple(prediction.shape)}. Leave it out for more channels."
        )
    if labels.shape != prediction.shape:
        raise ValueError(
            "the segmentation loss needs label maps of the size of the prediction,"
            f" {tuple(prediction.shape)}, got {tuple(labels.shape)}. Train with targets at the"
            " spacing of the label maps, or leave it out."
        )


class DiceCrossEntropyLoss(ImageLoss):
    r"""Soft Dice loss, mean over structures, and mean cross-entropy over voxels.

    The network has one output per structure, before the softmax. Sums of the Dice loss go over all
    elements of a batch. Where the prediction has a coarser grid than the label map, the target of
    a voxel is the share of each structure in it.

    Args:
        values: Value of each structure in label maps, in the order of the outputs. A run takes
            them from the step `GroupLabels` of its generator.
        cross_entropy_weight: Weight of the cross-entropy; that of the Dice loss is 1.

    Raises:
        ValueError: If values are fewer than two, negative or repeated.

    References:
        Milletari et al., V-Net: Fully convolutional neural networks for volumetric medical image
        segmentation, 3DV 2016; Isensee et al., nnU-Net, Nature Methods 18:203 (2021), for the sum.

    Examples:
        >>> labels = torch.tensor([0.0, 41, 41, 0]).reshape(1, 1, 4, 1, 1)
        >>> right = torch.where(labels == torch.tensor([0, 41])[:, None, None, None], 20.0, 0.0)
        >>> round(DiceCrossEntropyLoss([0, 41])(right, labels).item(), 4)
        0.0
    """

    def __init__(self, values: Sequence[int], cross_entropy_weight: float = 1.0) -> None:
        super().__init__()
        if len(values) < 2 or len(set(values)) < len(values) or min(values) < 0:
            raise ValueError(
                f"values must be at least two different labels, from 0 on, got {list(values)}."
            )
        self.outputs_per_target = len(values)  # type: ignore[misc]
        self.cross_entropy_weight = float(cross_entropy_weight)
        self.values: Tensor
        self.register_buffer("values", torch.tensor(values), persistent=False)

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Compare a batch with its label map.

        Args:
            prediction: `(B, K, X, Y, Z)` logits.
            target: `(B, 1, x, y, z)` label map; values of no structure are read as none.

        Returns:
            One number, float32 (float64 if the prediction is), in autocast too.

        Raises:
            ValueError: If shapes do not fit.
        """
        if target.shape[:2] != (len(prediction), 1) or prediction.shape[1] != len(self.values):
            raise ValueError(
                f"prediction must be (B, {len(self.values)}, X, Y, Z) and target (B, 1, X, Y, Z),"
                f" got {tuple(prediction.shape)} and {tuple(target.shape)}."
            )
        with without_autocast(prediction):
            return self.measure(at_least_float32(prediction), target)

    def compared(self, prediction: Tensor) -> Tensor:
        """All channels."""
        return prediction

    def measure(self, prediction: Tensor, target: Tensor) -> Tensor:
        """See `forward`."""
        shares = self.shares(target, prediction.shape[2:]).to(prediction.dtype)
        logarithms = prediction.log_softmax(1)
        probabilities = logarithms.exp()
        overlap = (shares * probabilities).sum((0, *SPACE))
        squares = (shares.square().sum((0, *SPACE)), probabilities.square().sum((0, *SPACE)))
        entropy = -(shares * logarithms).sum(1).mean()
        return dice_of_sums(overlap, *squares).mean() + self.cross_entropy_weight * entropy

    def shares(self, target: Tensor, shape: Sequence[int]) -> Tensor:
        """Return the share of each structure in each voxel of a grid with this field of view.

        Args:
            target: `(B, 1, x, y, z)` label map.
            shape: Sizes of the grid.

        Returns:
            `(B, K, *shape)` float32.
        """
        inside = (target == self.values.view(1, -1, 1, 1, 1)).float()
        x, y, z = shape
        return inside if inside.shape[2:] == shape else F.adaptive_avg_pool3d(inside, (x, y, z))
