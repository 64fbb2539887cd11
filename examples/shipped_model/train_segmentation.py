"""Train the network that ships as `synthsr-seg-v1`: brain structures in scans of any contrast.

Usage: python examples/shipped_model/train_segmentation.py LABEL_MAPS OUTPUT [--portion 1|2|3]
           [--seconds N] [--weights MODEL [--evaluate]] [--real FOLDER]

The network was trained in three portions, each from the weights of the one before (`--weights`).
LABEL_MAPS is a folder with the 20 heads of SynthSeg (training_seg_01.nii.gz, ...) and the head of
lab2im (brain_label_map.nii.gz) for the first, and with what `segmentation_maps.py` makes for the
others. The first two heads of SynthSeg are held out. OUTPUT gets model files, a log, the Dice
coefficients of the held-out heads, and pictures. Needs a CUDA GPU, but for `--evaluate`. FOLDER
holds real scans NAME_T1.mgz with NAME_aparc+aseg.mgz, to measure on as well.

Scans are made on the fly by the preset `all_purpose`, as for the other networks that ship. The
target is the label map that the same spatial steps gave, grouped to `STRUCTURES`; what the scan
does not show, because it lies outside the field of view or was stripped, is background.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the customary name
from evaluation.contrasts import CONTRASTS
from evaluation.heads import Head, field_of_view, read_head
from evaluation.slices import acquire, linear
from evaluation.truth import Setting, scan_of_head, seed_of
from matplotlib import pyplot as plt
from scipy.optimize import minimize
from torch import Tensor

from synthsr_net.models.checkpoint import (
    SEGMENTATION,
    ModelConfig,
    ScanConfig,
    StructureConfig,
    read_model,
    save_model,
)
from synthsr_net.models.packing import in_precision
from synthsr_net.models.transfer import start_from
from synthsr_net.networks.unet import UNet3d, UNetConfig
from synthsr_net.training.data.bank import Bank, Entry, read_bank, with_brain_boxes
from synthsr_net.training.data.stream import PairStream
from synthsr_net.training.task.optimisation import MovingAverage
from synthsr_transforms.generator.config import GeneratorConfig, StepConfig, load_config
from synthsr_transforms.generator.generator import Generator, TrainingPair
from synthsr_transforms.io.files import stem
from synthsr_transforms.io.grids import reorient
from synthsr_transforms.io.volumes import read_image, read_labels
from synthsr_transforms.subjects.files import SubjectFiles, find_subjects

# Settings ----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A part of the training with patches of one size."""

    patch: int | tuple[int, int, int]
    """Size of the patches in voxels, one number or three."""
    batch: int
    """Number of patches in a batch."""
    steps: int
    """Number of batches."""
    padding: int = 0
    """Zeros added to each side of the label maps, so that large patches can lie anywhere."""
    seconds: float = 0.0
    """Share of the time, if the training is given a time instead of a number of steps."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that the training depends on, but for data and first weights."""

    stages: tuple[Stage, ...] = (
        Stage(patch=128, batch=8, steps=5360, seconds=0.5),
        Stage(patch=192, batch=2, steps=6603, padding=24, seconds=0.5),
    )
    seed: int = 0
    """Of pairs and of the output layer; each stage adds its number."""
    first_weights: str = "fast"
    """Model whose weights all layers but the last start from."""
    learning_rate: float = 3e-4
    """Peak; it falls to 0 along half a cosine over all stages. At 1e-3 the training diverged."""
    warm_up_steps: int = 300
    """Steps until the peak is reached, at the beginning."""
    weight_decay: float = 1e-4
    clip_norm: float = 1.0
    """Largest norm of the gradient."""
    ema_decay: float = 0.999
    """Of the moving average of weights that is saved."""
    cross_entropy: float = 1.0
    """Weight of the cross-entropy beside the Dice loss."""
    dice_weights: Mapping[str, float] = field(default_factory=dict)
    """Weight in the Dice loss of structures by name, 1 for those not named."""
    brain_copies: int = 1
    """How often the maps of brains in other heads are listed."""
    generator: Mapping[str, Any] = field(
        default_factory=lambda: {
            "deformation.velocity_std_mm": [0, 4],
            "deformation.scaling": [0.82, 1.18],
            "t1_contrast.p": 0.25,
            "same_contrast.p": 0.15,
            "resolution.probability_minimum": 0.2,
        }
    )
    """Changes of the preset: more varied shapes, more T1 and more scans of 1 mm."""


def _sided(ranges: Mapping[int, tuple[float, float]]) -> dict[int, list[float]]:
    """Ranges for the values on both sides."""
    right = dict(SIDED.values())
    return {v: list(r) for left, r in ranges.items() for v in (left, right.get(left, left))}


def portions() -> tuple[Settings, Settings, Settings]:
    """Settings of the three portions that the shipped network was trained in.

    Between the first two lie 4000 steps at the rate of the second one that cannot be repeated to
    the digit: that run was broken off. It differed in its maps (those of the first portion, and the
    same with ventricles eroded by 1 and 1.8 mm) and had no `dice_weights`.
    """
    first = Settings()
    standard = load_config(PRESET).steps
    t1 = {13: (145, 192), 10: (135, 182), 12: (122, 172), 28: (140, 184), 7: (142, 187)}
    t1 |= {11: (108, 152), 26: (105, 150), 16: (130, 172)}
    same = {13: (96, 116), 10: (90, 110), 12: (82, 104), 28: (90, 111), 7: (97, 112)}
    same |= {8: (70, 88), 17: (72, 88), 18: (72, 88), 26: (76, 90), 11: (78, 92), 16: (86, 106)}
    same |= {4: (24, 52), 14: (24, 56)}
    second = replace(
        first,
        stages=(Stage(patch=160, batch=4, steps=9451, seconds=1.0),),
        seed=11,
        dice_weights={
            f"{side} {name}": 2.0
            for name in ("inferior lateral ventricle", "pallidum", "amygdala", "accumbens area")
            for side in ("left", "right")
        },
        generator={
            **first.generator,
            "t1_contrast.p": 0.3,
            "same_contrast.p": 0.25,
            "resolution.probability_minimum": 0.3,
            "t1_contrast.by_value": {
                **standard["t1_contrast"].params["by_value"],
                **_sided(t1),
            },
            "target.by_value": {**standard["target"].params["by_value"], **_sided(same)},
        },
    )
    inferior = {f"{side} inferior lateral ventricle": 3.0 for side in ("left", "right")}
    third = replace(
        second,
        stages=(replace(second.stages[0], steps=2925),),
        seed=12,
        brain_copies=2,
        dice_weights={**second.dice_weights, **inferior},
        generator={
            **second.generator,
            "t1_contrast.p": 0.4,
            **{f"{name}_contrast.same_sides": True for name in ("t1", "t2", "flair", "ct")},
        },
    )
    return first, second, third


NETWORK = UNetConfig(num_features=16, normalisation="instance", normalise_last=False, softmax=True)
"""Architecture but for the number of channels; that of `synthsr-t1-fast-v1`."""
PRESET = "all_purpose"
TABLE = Path(__file__).with_name("segmentation_labels.tsv")
HELD_OUT = ("training_seg_01", "training_seg_02")
IN_HEAD = "_in_"
"""Part of the name of the map of a brain in another head."""

# Labels ------------------------------------------------------------------------------------------

HEAD = 258
"""Value of all of the head that is no structure, as in FreeSurfer's colour table."""
SIDED = {
    "cerebral white matter": (2, 41),
    "cerebral cortex": (3, 42),
    "lateral ventricle": (4, 43),
    "inferior lateral ventricle": (5, 44),
    "cerebellar white matter": (7, 46),
    "cerebellar cortex": (8, 47),
    "thalamus": (10, 49),
    "caudate": (11, 50),
    "putamen": (12, 51),
    "pallidum": (13, 52),
    "hippocampus": (17, 53),
    "amygdala": (18, 54),
    "accumbens area": (26, 58),
    "ventral diencephalon": (28, 60),
}
"""Structures with two sides: values of the left and of the right one."""
CENTRAL = {"third ventricle": 14, "fourth ventricle": 15, "brain stem": 16, "fluid": 24}
"""Structures in the middle; fluid is what surrounds the brain."""
STRUCTURES: dict[int, str] = {
    0: "background",
    HEAD: "rest of the head",
    **{pair[0]: f"left {name}" for name, pair in SIDED.items()},
    **{pair[1]: f"right {name}" for name, pair in SIDED.items()},
    **{value: name for name, value in CENTRAL.items()},
}
"""FreeSurfer value and name of each output channel, in order."""
VALUES = tuple(STRUCTURES)
MERGED = {
    25: 2,  # lesions of white matter
    57: 41,
    77: 2,  # hypointensities, without a side
    78: 2,
    79: 41,
    30: 12,  # vessels, most of them in the putamen
    62: 51,
    31: 4,  # choroid plexus
    63: 43,
    136: 4,
    163: 43,
    137: 5,
    164: 44,
    72: 24,  # fifth ventricle, which has no side
    85: HEAD,  # optic chiasm
}
"""Labels of label maps that become part of a structure."""
OPPOSITE = {pair[0]: pair[1] for pair in SIDED.values()} | {25: 57, 30: 62, 31: 63}
"""Right value of each left one."""
CALLOSUM = range(251, 256)
SIDELESS = dict.fromkeys((77, *CALLOSUM), 41)
"""White matter that aparc+aseg gives no side: what it is on the right."""
FOREIGN = {165: 515, 258: 507, 259: 506}
"""Values outside the brain in the label map of lab2im, and what SynthSeg has for them."""


def structure_of(value: int) -> int:
    """The structure that a label of a label map belongs to, by its FreeSurfer value."""
    if value in STRUCTURES:
        return value
    if 1000 <= value < 3000:  # cortex by areas, in aparc+aseg
        return 3 if value < 2000 else 42
    if value in CALLOSUM:
        return 2
    return MERGED.get(value, HEAD)


def channel_lookup(largest: int) -> Tensor:
    """Output channel of each label value from 0 to the largest, uint8."""
    channels = [VALUES.index(structure_of(value)) for value in range(largest + 1)]
    return torch.tensor(channels, dtype=torch.uint8)


def with_sides(volume: np.ndarray, opposite: Mapping[int, int]) -> np.ndarray:
    """A label map whose labels on the right of the plane of symmetry have other values.

    Args:
        volume: `(X, Y, Z)`, axes to the right, front and top.
        opposite: Value on the right of each label that changes.
    """
    a, b, c = symmetry_plane(volume)
    x, y, z = np.ogrid[tuple(slice(n) for n in volume.shape)]
    right = x > a + b * y + c * z
    divided = volume.copy()
    for left, other in opposite.items():
        divided[(volume == left) & right] = other
    return divided


def symmetry_plane(volume: np.ndarray) -> tuple[float, float, float]:
    """Numbers a, b and c of the plane `x = a + b y + c z` that mirrors white matter onto itself."""
    white = np.isin(volume, (2, 41))
    middle = np.argwhere(np.isin(volume, (14, 16))).astype(float)
    columns = np.stack([np.ones(len(middle)), middle[:, 1], middle[:, 2]], 1)
    first = np.linalg.lstsq(columns, middle[:, 0], rcond=None)[0]
    points = np.argwhere(white)[::7].astype(float)
    centre = points.mean(0)

    def mismatch(plane: np.ndarray) -> float:
        normal = np.array([1.0, -plane[1], -plane[2]])
        height = plane[0] + plane[1] * centre[1] + plane[2] * centre[2]
        inside = (points - [height, centre[1], centre[2]]) @ normal / (normal @ normal)
        mirrored = np.rint(points - 2 * inside[:, None] * normal).astype(int)
        mirrored = np.clip(mirrored, 0, np.array(white.shape) - 1)
        return -float(white[tuple(mirrored.T)].mean())

    steps = np.array([[0, 0, 0], [2, 0, 0], [0, 0.03, 0], [0, 0, 0.03]])
    options = {"initial_simplex": first + steps, "xatol": 1e-3, "fatol": 1e-5}
    found = minimize(mismatch, first, method="Nelder-Mead", options=options).x
    return float(found[0]), float(found[1]), float(found[2])


# Data --------------------------------------------------------------------------------------------


def read_entries(folder: Path, brain_copies: int) -> list[Entry]:
    """Label maps to train on, in memory; those of brains in other heads several times."""
    cases = [
        case
        for case in find_subjects(folder)
        if (name := stem(case.labels)) not in HELD_OUT
        for _ in range(brain_copies if IN_HEAD in name else 1)
    ]
    entries = read_bank(cases, target="none")
    return [entry if _has_sides(entry) else _divided(entry) for entry in entries]


def _has_sides(entry: Entry) -> bool:
    return 41 in entry.present()


def _divided(entry: Entry) -> Entry:
    """The label map of lab2im with sides, and with values that the table knows."""
    divided = with_sides(entry.labels()[0].numpy(), OPPOSITE)
    for value, other in FOREIGN.items():
        divided[divided == value] = other
    values, indices = torch.from_numpy(divided)[None].unique(return_inverse=True)
    return replace(entry, indices=indices.to(torch.uint8), values=values.int())


def segmentation_generator(settings: Settings, stage: Stage) -> Generator:
    """The preset with a mask of what the scan shows in the place of the target."""
    changes = {**settings.generator, "crop.shape": stage.patch, "crop.multiple_of": 16}
    config = load_config(PRESET, changes)
    return Generator(replace(with_mask(config), label_table=str(TABLE)))


def with_mask(config: GeneratorConfig) -> GeneratorConfig:
    """A configuration whose target is 1 where the scan shows something, else 0.

    The standard T1 stays until it has served as contrast and for texture.
    """
    everything = ("background", *(t for t in _tissues(config) if t != "background"))
    mask = StepConfig(
        name="TissueContrast",
        params={"by_tissue": dict.fromkeys(everything, 1.0), "destination": "shown"},
    )
    steps: dict[str, StepConfig] = {}
    for name, step in config.steps.items():
        if name == "target_scale":
            continue
        include = step.params.get("include")
        if include == ["image", "target"]:
            kept = ["image"] if name == "soft_borders" else ["image", "shown"]
            step = replace(step, params={**step.params, "include": kept})
        steps[name] = step
        if name == "same_contrast":
            steps["shown"] = mask
    return replace(config, steps=steps, target="shown")


def _tissues(config: GeneratorConfig) -> list[str]:
    return list(config.steps["target"].params["by_tissue"])


def padded_alike(entries: Sequence[Entry], padding: int) -> list[Entry]:
    """Label maps with at least so many zeros on each side, all of one shape."""
    shapes = np.array([entry.indices.shape[-3:] for entry in entries])
    padded = []
    for entry, shape in zip(entries, shapes, strict=True):
        gaps = shapes.max(0) - shape
        before = (padding + gaps // 2).tolist()
        padded.append(entry.padded(before, (padding + gaps - gaps // 2).tolist()))
    return padded


class SegmentationStream:
    """Batches of scans and of the channels that their voxels belong to.

    Args:
        settings: Of the training.
        stage: Which part of it.
        number: Number of the stage.
        entries: Label maps.
        device: Where everything is computed.
    """

    def __init__(
        self,
        settings: Settings,
        stage: Stage,
        number: int,
        entries: Sequence[Entry],
        device: torch.device,
    ) -> None:
        generator = segmentation_generator(settings, stage)
        padded = padded_alike(entries, stage.padding)
        self.stream = PairStream(
            generator,
            Bank(with_brain_boxes(padded, generator), target="none", device=device),
            seed=settings.seed + number,
            batch_size=stage.batch,
        )
        self.lookup = channel_lookup(max(generator.label_table.values)).to(device)

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Scan `(B, 1, X, Y, Z)` and channels `(B, 1, X, Y, Z)`, uint8, of a step.

        On a GPU, the next one is begun on a stream of its own.
        """
        pair = self.stream.take(step)
        self.stream.prefetch(step + 1)
        return pair.image, target_of(pair, self.lookup)


def target_of(pair: TrainingPair, lookup: Tensor) -> Tensor:
    """Channel of each voxel `(B, 1, X, Y, Z)`, uint8; background where the scan shows nothing."""
    channels = lookup[pair.labels.int()]
    return torch.where(pair.target > 0.5, channels, torch.zeros_like(channels))


# Training ----------------------------------------------------------------------------------------


def segmentation_loss(
    logits: Tensor, channels: Tensor, weight: float, dice_weights: Tensor
) -> Tensor:
    """Soft Dice over all elements of a batch, averaged over channels, and cross-entropy.

    Args:
        logits: `(B, K, X, Y, Z)`.
        channels: `(B, 1, X, Y, Z)` uint8, the right channel of each voxel.
        weight: Of the cross-entropy.
        dice_weights: `(K,)` weights of the channels in the mean of the Dice.
    """
    numbers = torch.arange(logits.shape[1], device=logits.device, dtype=torch.uint8)
    truth = channels == numbers[None, :, None, None, None]
    log_shares = logits.float().log_softmax(1)
    shares = log_shares.exp()
    everywhere = (0, 2, 3, 4)
    entropy = -torch.where(truth, log_shares, 0.0).sum(everywhere).sum() / channels.numel()
    overlap = torch.where(truth, shares, 0.0).sum(everywhere)
    size = truth.float().sum(everywhere) + shares.square().sum(everywhere)
    dice = (2 * overlap + 1e-5) / (size + 1e-5)
    return 1 - (dice_weights * dice).sum() / dice_weights.sum() + weight * entropy


def new_network(settings: Settings, weights: Path | None) -> UNet3d:
    """The network in training, which gives logits."""
    torch.manual_seed(settings.seed)
    config = replace(NETWORK, out_channels=len(VALUES))
    network = UNet3d(config)
    if weights is not None:
        network.load_state_dict(read_model(weights).network.state_dict())
    elif settings.first_weights:
        start_from(network, settings.first_weights)
    network.config = replace(config, softmax=False)
    network.phased = True  # the same result, sooner
    return network


class Clock:
    """Share of the training that is done, by steps or by time.

    Args:
        stages: All stages.
        seconds: Time for all, from `begin` on; None counts steps.
        begin: From `time.monotonic`.
    """

    def __init__(self, stages: Sequence[Stage], seconds: float | None, begin: float) -> None:
        self.seconds, self.begin = seconds, begin
        shares = [stage.steps if seconds is None else stage.seconds for stage in stages]
        self.ends = [sum(shares[: i + 1]) / sum(shares) for i in range(len(shares))]
        self.total_steps = sum(stage.steps for stage in stages)

    def progress(self, step: int) -> float:
        """Share that is done, from 0 to 1, after a number of steps of all stages."""
        if self.seconds is None:
            return min(1.0, step / self.total_steps)
        return min(1.0, (time.monotonic() - self.begin) / self.seconds)


def rate_factor(settings: Settings, step: int, progress: float) -> float:
    """Factor of the learning rate."""
    rising = min(1.0, (step + 1) / settings.warm_up_steps) if settings.warm_up_steps else 1.0
    return rising * 0.5 * (1 + math.cos(math.pi * progress))


class Trainer:
    """Trains a network, and keeps an average of its weights.

    Args:
        settings: Of the training.
        device: Where to compute.
        out: Folder for model files and log.
        weights: Model file to go on from.
        compiled: Whether network and loss are compiled.
    """

    def __init__(
        self,
        settings: Settings,
        device: torch.device,
        out: Path,
        *,
        weights: Path | None = None,
        compiled: bool = True,
    ) -> None:
        self.settings, self.device, self.out = settings, device, out
        self.network = new_network(settings, weights).to(device)
        module: Any = self.network
        module.to(memory_format=torch.channels_last_3d)
        self.average = MovingAverage(self.network, settings.ema_decay)
        self.optimiser = torch.optim.AdamW(
            self.network.parameters(),
            lr=settings.learning_rate,
            eps=1e-7,
            weight_decay=settings.weight_decay,
            fused=device.type == "cuda",
        )
        weights_of = [settings.dice_weights.get(name, 1.0) for name in STRUCTURES.values()]
        self.dice_weights = torch.tensor(weights_of, device=device)
        self.forward, self.loss = self.network.forward, segmentation_loss
        if compiled:
            self.forward = torch.compile(self.network.forward, dynamic=False)
            self.loss = torch.compile(segmentation_loss, dynamic=False)
        self.step = 0
        self.stage_steps: list[int] = []

    def loss_of(self, image: Tensor, channels: Tensor) -> Tensor:
        """Loss of a batch, to be differentiated."""
        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            logits = self.forward(image.contiguous(memory_format=torch.channels_last_3d))
        return self.loss(logits, channels, self.settings.cross_entropy, self.dice_weights)

    def run(self, entries: Sequence[Entry], seconds: float | None, begin: float) -> None:
        """Train through all stages.

        Args:
            entries: Label maps.
            seconds: Time for all; None counts steps.
            begin: When the time began, from `time.monotonic`.
        """
        clock = Clock(self.settings.stages, seconds, begin)
        for number, stage in enumerate(self.settings.stages):
            stream = SegmentationStream(self.settings, stage, number, entries, self.device)
            first, end = self.step, clock.ends[number] - 1e-9
            seen: list[Tensor] = []
            while (progress := clock.progress(self.step)) < end:
                seen.append(self.update(*stream.batch(self.step - first), progress))
                if self.step % 100 == 0 or self.step - first == 3:
                    self.note(number, progress, seen, begin)
                if self.step % 1000 == 0:
                    self.save(f"{self.out}/last.safetensors", "fp32")
            self.stage_steps.append(self.step - first)

    def update(self, image: Tensor, channels: Tensor, progress: float) -> Tensor:
        """Train on one batch; returns the loss."""
        settings = self.settings
        rate = settings.learning_rate * rate_factor(settings, self.step, progress)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        loss = self.loss_of(image, channels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), settings.clip_norm)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.average.update(self.network, self.step)
        self.step += 1
        return loss.detach()

    def note(self, stage: int, progress: float, seen: list[Tensor], begin: float) -> None:
        """Write a line of the log."""
        loss = float(torch.stack(seen).mean())
        seen.clear()
        row = {
            "seconds": round(time.monotonic() - begin, 1),
            "stage": stage,
            "step": self.step,
            "loss": round(loss, 4),
            "rate": self.optimiser.param_groups[0]["lr"],
            "progress": round(progress, 4),
        }
        with (self.out / "log.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(row, flush=True)

    def save(self, path: str | Path, precision: str) -> None:
        """Write the averaged weights as a model file."""
        config = model_config(self.settings, self.stage_steps or [self.step])
        save_model(path, config, in_precision(self.average.network.state_dict(), precision))


def model_config(settings: Settings, steps: Sequence[int]) -> ModelConfig:
    """Settings in the header of the model file."""
    return ModelConfig(
        name="synthsr-seg-v1",
        description="Brain structures in a scan of any contrast, resolution and orientation.",
        licence="Apache-2.0",
        citation="SynthSR for PyTorch; trained on label maps of Billot et al., Medical Image"
        " Analysis 86:102789 (2023), doi:10.1016/j.media.2023.102789",
        network=replace(NETWORK, out_channels=len(VALUES)),
        output=SEGMENTATION,
        structures=[StructureConfig(value=v, name=name) for v, name in STRUCTURES.items()],
        scan=ScanConfig(divisor=16, output_scale=1.0, output_range=None, flip=False),
        training={
            "settings": json.loads(json.dumps(asdict(settings))),
            "steps": list(steps),
        },
    )


# Evaluation --------------------------------------------------------------------------------------


def segment(network: UNet3d, volume: Tensor) -> Tensor:
    """Channel of each voxel.

    Args:
        network: Gives logits or probabilities.
        volume: `(X, Y, Z)` in any unit, 1 mm, axes to the right, front and top.

    Returns:
        `(X, Y, Z)` uint8 on the device of the volume.
    """
    low, high = volume.min(), volume.max()
    image = ((volume - low) / (high - low).clamp(min=1e-6))[None, None].float()
    margins = [-size % network.config.divisor for size in volume.shape]
    image = F.pad(image, [n for size in reversed(margins) for n in (size // 2, size - size // 2)])
    with torch.no_grad():
        output = network(image.contiguous(memory_format=torch.channels_last_3d))[0]
    x, y, z = (slice(m // 2, m // 2 + n) for m, n in zip(margins, volume.shape, strict=True))
    return output.argmax(0)[x, y, z].to(torch.uint8)


def dice_by_structure(found: Tensor, truth: Tensor) -> dict[str, float]:
    """Dice coefficient of each structure that one of both shows, by name; two sides as their mean.

    Args:
        found: Channels `(X, Y, Z)`.
        truth: Likewise.
    """
    size = len(VALUES)
    pairs = found.long().flatten() * size + truth.long().flatten()
    table = torch.bincount(pairs, minlength=size * size).reshape(size, size).double().cpu()
    dice = (2 * table.diagonal() / (table.sum(0) + table.sum(1))).tolist()

    def of(value: int) -> float:
        return dice[VALUES.index(value)]

    rows = {name: (of(left) + of(right)) / 2 for name, (left, right) in SIDED.items()}
    return rows | {name: of(value) for name, value in CENTRAL.items()}


def two_sided_mean(rows: Mapping[str, float]) -> float:
    """Mean over the structures with two sides."""
    return float(np.nanmean([rows[name] for name in SIDED]))


SCANS = (
    *((name, 1.0, 0) for name in ("T1", "T2", "FLAIR", "CT")),
    *(("random", 1.0, seed) for seed in range(4)),
    *(("T1", 5.0, seed) for seed in range(3)),
    *(("T2", 5.0, seed) for seed in range(3)),
    *(("FLAIR", 5.0, seed) for seed in range(3)),
    *(("CT", 5.0, seed) for seed in range(3)),
    *(("random", 5.0, seed) for seed in range(12)),
)
"""Contrast, slice spacing and seed of the scans of held-out heads; orientations take turns."""


def evaluate_held_out(
    network: UNet3d, cases: Sequence[SubjectFiles], device: torch.device, out: Path
) -> list[dict[str, Any]]:
    """Dice coefficients of simulated scans of held-out heads, one row per scan, and pictures."""
    rows = []
    for case in cases:
        head = read_head(case, 1.0, 16, device)
        truth = channel_lookup(int(head.labels.max())).to(device)[head.labels]
        for contrast, slice_mm, seed in SCANS:
            volume = simulated(head, contrast, slice_mm, seed)
            about = {"head": head.name, "contrast": contrast, "slice_mm": slice_mm, "seed": seed}
            found = segment(network, volume)
            rows.append({**about, "dice": dice_by_structure(found, truth)})
            if seed == 0:
                path = out / f"{head.name}_{contrast}_{slice_mm:g}mm.png"
                draw(path, *(tensor.cpu() for tensor in (volume, found, truth)))
    return rows


def simulated(head: Head, contrast: str, slice_mm: float, seed: int) -> Tensor:
    """A scan of a head, interpolated to its grid; slices lie across axis `seed % 3`."""
    random = CONTRASTS[contrast].by_tissue is None
    own = str(seed) if random else ""
    image = head.image(contrast, seed_of(0, head.name, contrast, own))
    return linear(scan_of_head(head, Setting(contrast, False, slice_mm, seed % 3), image, seed))


def evaluate_real(
    network: UNet3d, folder: Path, device: torch.device, out: Path
) -> list[dict[str, Any]]:
    """Dice coefficients of real scans at 1 mm and in slices of 5 mm in three orientations."""
    rows = []
    for path in sorted(folder.glob("*_T1.mgz")):
        volume, truth = read_real(path)
        for number, (slice_mm, axis) in enumerate(((1.0, 0), (5.0, 0), (5.0, 1), (5.0, 2))):
            scan = linear(acquire(volume, np.eye(4), slice_mm, axis)) if number else volume
            found = segment(network, scan.to(device)).cpu()
            dice = dice_by_structure(found, truth)
            dice.pop("fluid")  # of which aparc+aseg has a part alone
            about = {"head": path.name, "contrast": "real", "slice_mm": slice_mm, "seed": axis}
            rows.append({**about, "dice": dice})
            if number in (0, 3):
                draw(out / f"{path.stem}_{slice_mm:g}mm.png", scan, found, truth)
    return rows


def read_real(path: Path) -> tuple[Tensor, Tensor]:
    """A real scan `(X, Y, Z)` in a box around the head, and the channels of its label map.

    The label map lies beside it: NAME_aparc+aseg.mgz for NAME_T1.mgz or another last word.
    """
    scan = reorient(read_image(path))
    label_map = f"{path.name.rpartition('_')[0]}_aparc+aseg{path.suffix}"
    labels = reorient(read_labels(path.with_name(label_map)))
    volume = torch.from_numpy(np.ascontiguousarray(scan.data, dtype=np.float32))
    box = field_of_view(volume > 0.1 * np.percentile(scan.data, 99), 2, 16)
    divided = with_sides(labels.data.astype(np.int64), SIDELESS)
    truth = channel_lookup(int(divided.max()))[torch.from_numpy(divided)]
    return volume[box].contiguous(), truth[box].contiguous()


def draw(path: Path, scan: Tensor, found: Tensor, truth: Tensor) -> None:
    """Draw a scan in three planes through the thalami, with contours found and true.

    Left and right have one colour; what is found lies in the upper row.
    """
    figure, axes = plt.subplots(2, 3, figsize=(18, 12), facecolor="black")
    place = [int(n) for n in torch.isin(truth, _channels_of("thalamus")).nonzero().float().mean(0)]
    colours = plt.get_cmap("gist_rainbow")(np.linspace(0, 1, len(SIDED) + len(CENTRAL)))
    order = np.random.default_rng(4).permutation(len(colours))
    for row, channels in zip(axes, (found, truth), strict=True):
        for axis, (panel, index) in enumerate(zip(row, place, strict=True)):
            panel.imshow(scan.select(axis, index).T, cmap="gray", origin="lower")
            plane = channels.select(axis, index)
            for name, number in zip((*SIDED, *CENTRAL), order, strict=True):
                inside = torch.isin(plane, _channels_of(name))
                if bool(inside.any()) and name != "fluid":
                    panel.contour(inside.T, [0.5], colors=[colours[number]], linewidths=1)
            panel.axis("off")
    figure.tight_layout()
    figure.savefig(path, dpi=70)
    plt.close(figure)


def _channels_of(name: str) -> Tensor:
    values = SIDED.get(name) or (CENTRAL[name],)
    return torch.tensor([VALUES.index(value) for value in values], dtype=torch.uint8)


def summary(rows: Iterable[Mapping[str, Any]]) -> str:
    """A table of means over scans of one kind."""
    kinds: dict[tuple[str, float], list[Mapping[str, float]]] = {}
    for row in rows:
        kinds.setdefault((row["contrast"], row["slice_mm"]), []).append(row["dice"])
    lines = []
    for (contrast, slice_mm), found in kinds.items():
        mean = np.mean([two_sided_mean(dice) for dice in found])
        worst = min(two_sided_mean(dice) for dice in found)
        lines.append(f"{contrast} {slice_mm:g} mm: mean {mean:.3f}, worst {worst:.3f}")
        for name in found[0]:
            lines.append(f"    {name}: {np.nanmean([dice[name] for dice in found]):.3f}")
    return "\n".join(lines)


# Command line ------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the arguments, train and evaluate."""
    begin = time.monotonic()
    matplotlib.use("Agg")
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("labels", type=Path, metavar="LABEL_MAPS", help="folder of label maps")
    parser.add_argument("out", type=Path, metavar="OUTPUT", help="folder to write to")
    parser.add_argument("--portion", type=int, choices=(1, 2, 3), default=1, help="settings to use")
    parser.add_argument("--seconds", type=float, help="train for so long, whatever the steps")
    parser.add_argument("--weights", type=Path, help="model file to go on from")
    parser.add_argument("--evaluate", action="store_true", help="do not train")
    parser.add_argument("--real", type=Path, help="folder of real scans to measure on")
    parser.add_argument("--set", help="other settings, as JSON")
    parser.add_argument("--eager", action="store_true", help="compile nothing")
    given = parser.parse_args(arguments)
    settings = changed(portions()[given.portion - 1], json.loads(given.set or "{}"))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    given.out.mkdir(parents=True, exist_ok=True)
    compiled = not (given.eager or given.evaluate)
    trainer = Trainer(settings, device, given.out, weights=given.weights, compiled=compiled)
    if not given.evaluate:
        entries = read_entries(given.labels, settings.brain_copies)
        trainer.run(entries, given.seconds, begin)
        for precision in ("fp32", "fp16"):
            trainer.save(given.out / f"synthsr-seg-v1-{precision}.safetensors", precision)
    evaluate(trainer.average.network.eval(), given.labels, given.real, device, given.out)
    return 0


def evaluate(
    network: UNet3d, labels: Path, real: Path | None, device: torch.device, out: Path
) -> None:
    """Measure on held-out label maps and real scans; write and print the Dice coefficients."""
    held_out = [case for case in find_subjects(labels) if stem(case.labels) in HELD_OUT]
    rows = evaluate_held_out(network, held_out, device, out)
    if real is not None:
        rows += evaluate_real(network, real, device, out)
    (out / "dice.json").write_text(json.dumps(rows))
    print(summary(rows))


def changed(settings: Settings, values: Mapping[str, Any]) -> Settings:
    """Settings with some changed."""
    values = dict(values)
    if "stages" in values:
        values["stages"] = tuple(Stage(**stage) for stage in values["stages"])
    if "generator" in values:
        values["generator"] = {**settings.generator, **values["generator"]}
    return replace(settings, **values)


if __name__ == "__main__":
    sys.exit(main())
