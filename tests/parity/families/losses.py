"""Losses of images and of segmentations."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from synthsr_net.losses import (
    SegmentationLoss,
    add_residual,
    build_loss,
    central_crop,
)
from synthsr_net.losses.segmentation import SPACE, dice_of_sums, merged_dice, merges_of
from synthsr_net.losses.ssim import plane_similarity

from ..vectors import Agreement, ImageAgreement, Vector, family

RELATIVE = 1e-4
"""Largest difference of losses, as a share of the loss."""

IMAGE_LOSS = re.compile(r"loss_(\w+?)_(\d+ch)_(full|crop[\dx]+)(_residual)?")
PLANES = re.compile(r"ssim_planes_([xyz]{2})_of_axis\d")
REGULARISED = re.compile(r"total_((plain|fsheader)_(noclip|clip)_(full|crop[\dx]*))")
RESIDUAL = {1: [1], 2: [2, 0]}
"""Channels of the image that predictions were added to, by number of outputs."""


def same_loss(what: str, ours: Tensor, theirs: np.ndarray) -> Agreement:
    """Our number against theirs, relative to it."""
    return ImageAgreement(what, ours.detach().cpu().numpy(), theirs, RELATIVE)


def crop_of(word: str, crop: np.ndarray | None = None) -> list[int] | None:
    """Size of the loss crop that a part of a key stands for.

    Examples:
        >>> crop_of("full"), crop_of("crop12"), crop_of("crop8x10x6"), crop_of("crop", [1, 2, 3])
        (None, [12, 12, 12], [8, 10, 6], [1, 2, 3])
    """
    if word == "full":
        return None
    numbers = [int(n) for n in re.findall(r"\d+", word)]
    numbers = numbers or np.atleast_1d(np.asarray(crop)).astype(int).tolist()
    return numbers * 3 if len(numbers) == 1 else numbers


def _loss_cases(vector: Vector) -> list[str]:
    return [k for k in vector.arrays if IMAGE_LOSS.fullmatch(k) or PLANES.fullmatch(k)]


@family("losses", _loss_cases)
def losses(vector: Vector, case: str) -> Iterator[Agreement]:
    """Image losses, with residual channels and crops; SSIM with the original's choice of planes."""
    planes = PLANES.fullmatch(case)
    if planes:
        pair = vector.volume("pred_1ch"), vector.volume("target_1ch")
        name = planes.group(1)
        yield same_loss(case, plane_similarity(*pair, (name,))[name], vector[case])
        return
    match = IMAGE_LOSS.fullmatch(case)
    assert match is not None
    name, channels, crop, residual = match.groups()
    prediction, target = vector.volume(f"pred_{channels}"), vector.volume(f"target_{channels}")
    if name == "laplace":
        prediction = torch.cat([prediction, vector.volume(f"spread_{channels}")], dim=1)
    if residual:
        prediction = add_residual(prediction, vector.volume("image"), RESIDUAL[target.shape[1]])
    loss = build_loss(name, {"legacy": True} if name == "ssim" else {})
    size = crop_of(crop)
    yield same_loss(
        case, loss(central_crop(prediction, size), central_crop(target, size)), vector[case]
    )


def _segmentation_cases(vector: Vector) -> list[str]:
    named = [k for k in ("dice", "dice_with_checks") if k in vector]
    return [*named, *vector.numbered(REGULARISED.pattern)]


@family("segmentation_loss", _segmentation_cases)
def segmentation_loss(vector: Vector, case: str) -> Iterator[Agreement]:
    """The Dice loss alone, and the regulariser with a segmentation network of one layer."""
    if case.startswith("dice"):
        yield from _dice(vector, case)
        return
    header, clip, crop = case.split("_")
    size = crop_of(crop, vector.arrays.get("crop"))
    low, high = vector["clip_m_M"].tolist()
    loss = SegmentationLoss(
        _network(vector),
        *_equivalency(vector),
        fs_header=header == "fsheader",
        intensity_range=(low, high) if clip == "clip" else None,
        crop=size,
    )
    prediction, target = vector.volume("predicted_image"), vector.volume("target")
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        dice = loss(prediction, vector.volume("segmentation_target"))
    image = build_loss("l1")(central_crop(prediction, size), central_crop(target, size))
    yield same_loss("image loss", image, vector[f"image_loss_{case}"])
    yield same_loss("dice", dice, vector[f"dice_{case}"])
    total = image + float(vector["rel_weight"]) * dice
    yield same_loss("total", total, vector[f"total_{case}"])


def _dice(vector: Vector, case: str) -> Iterator[Agreement]:
    """Channels of the truth as labels; `checks` of the original divides by the sum of channels."""
    truth, probabilities = vector.volume("gt_onehot"), vector.volume("pred_prob")
    if case.endswith("checks"):
        truth, probabilities = (
            (x / (x.sum(1, keepdim=True) + 1e-7)).clamp(0, 1) for x in (truth, probabilities)
        )
    sums = (truth * probabilities, truth.square(), probabilities.square())
    total = dice_of_sums(*(x.sum(SPACE) for x in sums)).mean()
    yield same_loss(f"{case}, from sums", total, vector[case])
    inside = truth > 0.5
    if bool((inside.sum(1) <= 1).all()) and torch.allclose(inside.float(), truth, atol=1e-5):
        labels = torch.where(inside.any(1, True), inside.int().argmax(1, True), -1)
        merges = {channel: (channel,) for channel in range(truth.shape[1])}
        yield same_loss(case, merged_dice(probabilities, labels, merges), vector[case])


def _network(vector: Vector) -> nn.Module:
    kernel, bias = vector.tensor("seg_conv_kernel"), vector.tensor("seg_conv_bias")
    conv = nn.Conv3d(kernel.shape[3], kernel.shape[4], tuple(kernel.shape[:3]), padding="same")
    conv.load_state_dict({"weight": kernel.permute(4, 3, 0, 1, 2), "bias": bias})
    return nn.Sequential(conv, nn.Softmax(1)).to(vector.device)


def _equivalency(vector: Vector) -> tuple[list[int], list[int]]:
    """Equivalency and labels; the original passes over what is no label, the library refuses it."""
    labels = vector["generation_labels"].tolist()
    equivalency = vector["segmentation_label_equivalency"].tolist()
    return [value if value in labels else -1 for value in equivalency], labels


def dice_of(vector: Vector, size: list[int] | None) -> Tensor:
    """Dice loss of recorded probabilities."""
    pair = vector.volume("seg_prob"), vector.volume("segmentation_target")
    probabilities, labels = (central_crop(x, size) for x in pair)
    return merged_dice(probabilities, labels, merges_of(*_equivalency(vector)))
