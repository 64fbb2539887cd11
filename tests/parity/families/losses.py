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
    label_one_hot,
    soft_dice,
)
from synthsr_net.losses.segmentation import merged_dice, merges_of
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
        pair = vector.volume("gt_onehot"), vector.volume("pred_prob")
        yield same_loss(case, soft_dice(*pair, checks=case.endswith("checks")), vector[case])
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
    if header == "plain" and clip == "noclip":
        yield from _one_hot_dice(vector, loss.segment(prediction), size, case)


def _one_hot_dice(
    vector: Vector, probabilities: Tensor, size: list[int] | None, case: str
) -> Iterator[Agreement]:
    """The same from whole tensors of one channel per label."""
    merges = merges_of(*_equivalency(vector))
    merged = [probabilities[:, list(m)].sum(1, keepdim=True) for m in merges.values()]
    truth = label_one_hot(vector.volume("segmentation_target"), list(merges))
    pair = [central_crop(x, size) for x in (truth, torch.cat(merged, 1))]
    yield same_loss("dice of channels", soft_dice(pair[0], pair[1]), vector[f"dice_{case}"])


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
