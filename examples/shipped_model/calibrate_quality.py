"""Calibrate the quality score of a segmentation network, and write it into its model file.

Usage: python examples/shipped_model/calibrate_quality.py MODEL OUTPUT --maps FILE ... --real FOLDER
           --population FOLDER ... [--scans 240] [--share 1/8] [--device cuda] [--write FILE]

Heads with a known label map are degraded in every way that occurs (`evaluation.degradations`),
predicted, and segmented; the score is fitted to the true Dice coefficients. Maps are label maps
that the network was not trained on, of which scans are simulated; the folder of real scans holds
NAME_T1.mgz with NAME_aparc+aseg.mgz; what structures are usually like comes from all label maps in
the folders of the population.

OUTPUT gets samples.jsonl (a run that was broken off goes on from there), quality.json, table.md and
figure.png. One scan takes 1 to 2 minutes on a core of a CPU, a few seconds with a GPU. Several
processes make samples at the same time if each is given a share: 1/8 to 8/8, say; a run without a
share then adds what is missing, and calibrates.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from evaluation.calibration import (
    NO_BRAIN,
    OVERALL,
    Sample,
    Table,
    population_of,
    read_samples,
    threshold_of,
    uncalibrated,
)
from evaluation.calibration_report import draw, table_text
from evaluation.degradations import CYCLE, Case, degrade
from evaluation.heads import find_label_maps, read_head
from evaluation.shares import Share, all_files
from evaluation.truth import Setting, scan_of_head, seed_of
from safetensors.torch import load_file
from scipy import ndimage
from torch import Tensor
from train_segmentation import (
    OPPOSITE,
    SIDED,
    SIDELESS,
    VALUES,
    channel_lookup,
    read_real,
    with_sides,
)

from synthsr_net.inference.forward import predict_volume
from synthsr_net.models.checkpoint import (
    Model,
    PopulationStructure,
    QualityConfig,
    read_config,
    read_model,
    save_model,
)
from synthsr_net.prediction.checks.limits import limited
from synthsr_net.prediction.predictor import Predictor
from synthsr_net.prediction.resampling import Grid
from synthsr_net.prediction.segmentation.posteriors import summary_of
from synthsr_net.prediction.segmentation.quality import (
    Evidence,
    evidence_in,
    evidence_of,
    support_of,
)
from synthsr_net.prediction.space.preprocess import to_network_space
from synthsr_transforms.io.files import list_volumes, stem
from synthsr_transforms.io.grids import reorient
from synthsr_transforms.io.scans import Scan
from synthsr_transforms.io.volumes import read_labels
from synthsr_transforms.subjects.files import SubjectFiles
from synthsr_transforms.support.devices import available_device
from synthsr_transforms.support.messages import SynthSRError
from synthsr_transforms.support.threads import num_cores

CONTRASTS = ("T1", "random", "T2", "random", "FLAIR", "random", "CT", "random")
"""Contrasts of the simulated scans, in turns."""
RAW = "scan"
SEGMENTED = ("fast", "default", RAW, "fast", "default")
"""What is segmented, in turns: the prediction of a model, or the scan itself. Kinds of cases have
turns of another length, so that each meets all of these."""
BRAIN = np.array([value not in NO_BRAIN for value in VALUES])

# Heads -------------------------------------------------------------------------------------------


class Heads:
    """Heads to degrade: real scans and held-out label maps in turns.

    Args:
        maps: Label maps.
        real: Folder of real scans.
    """

    def __init__(self, maps: Sequence[str], real: Path | None) -> None:
        found: list[Sequence[Path | SubjectFiles]] = [
            sorted(real.glob("*_T1.mgz")) if real else [],
            find_label_maps(maps),
        ]
        kinds = [kind for kind in found if kind]
        if not kinds:
            raise SynthSRError("there must be heads, got none. Give --maps or --real.")
        longest = max(map(len, kinds))
        self._turns = [kind[n % len(kind)] for n in range(longest) for kind in kinds]

    def __call__(self, number: int) -> Case:
        """The head for the case with this number."""
        rounds, turn = self.turn(number)
        source = self._turns[turn]
        if isinstance(source, Path):
            data, labels = read_real(source)
            return Case(stem(source), data.numpy(), labels.numpy(), BRAIN[labels.numpy()])
        return self._simulated(source, CONTRASTS[rounds % len(CONTRASTS)], rounds)

    def turn(self, number: int) -> tuple[int, int]:
        """How often all heads had their turns before a case, and whose turn it is.

        The turns move on by one after each cycle of degradations, so that no head meets the same
        ones over and over.
        """
        return divmod(number + number // len(CYCLE), len(self._turns))

    def _simulated(self, source: SubjectFiles, contrast: str, seed: int) -> Case:
        head = read_head(source, 1.0, 16, "cpu")
        image = head.image(contrast, seed_of(0, head.name, contrast, str(seed)))
        data = scan_of_head(head, Setting(contrast, False, 1.0, 0), image, seed).data.numpy()
        labels = channel_lookup(int(head.labels.max()))[head.labels.long()].numpy()
        case = Case(head.name, data, labels, BRAIN[labels])
        case.done(contrast)
        return case


# Samples -----------------------------------------------------------------------------------------


class Sampler:
    """Makes samples of degraded heads.

    Args:
        heads: Gives a head for each number.
        model: The segmentation network.
        predictor: Function of a model's name, that loads it.
        device: Where to compute.
        precision: Of the segmentation network.
    """

    def __init__(
        self,
        heads: Callable[[int], Case],
        model: Model,
        predictor: Callable[[str], Predictor],
        *,
        device: str = "cpu",
        precision: str = "fp32",
    ) -> None:
        self._heads, self._predictor = heads, predictor
        self._config, self._network = model.config, model.network.to(device)
        self._device, self._precision = device, precision

    def __call__(self, number: int) -> Sample:
        """The sample of a number, the same every time."""
        rng = np.random.default_rng([number, 20])
        case = self._heads(number)
        degrade(case, number, rng)
        scan = limited(Scan(np.ascontiguousarray(case.data), case.affine))
        model, segmented = SEGMENTED[number % len(SEGMENTED)], scan
        if model != RAW:
            image = self._predictor(model).predict([scan]).image
            segmented = Scan(image.data, image.affine)
        evidence, found = self.segment(segmented, scan)
        return Sample(
            number=number,
            head=case.head,
            what=", ".join(case.words),
            of=RAW if model == RAW else "prediction",
            model="" if model == RAW else model,
            dice=true_dice(found, case, evidence.grid),
            **in_numbers(evidence),
        )

    def segment(self, image: Scan, scan: Scan) -> tuple[Evidence, npt.NDArray[np.int64]]:
        """Evidence of the posteriors, and the most probable channels, on the aligned grid.

        Args:
            image: What is segmented.
            scan: What it was predicted from, or the same.
        """
        tensor, space = to_network_space([image], self._config)
        tensor = tensor.to(self._device)
        output = predict_volume(self._network, tensor, precision=self._precision)
        summary = summary_of(output[(slice(None), *space.inside)])
        shown, its_space = to_network_space([scan], self._config)
        shown = shown[(slice(None), *its_space.inside)].to(self._device)
        affine = space.aligned_grid[1]
        brain = BRAIN.nonzero()[0].tolist()
        evidence = evidence_in(summary, affine)._replace(
            support=support_of(summary.best, shown[0], brain, affine)
        )
        return evidence, summary.best.cpu().numpy().astype(np.int64)


def in_numbers(evidence: Evidence) -> dict[str, Any]:
    """Evidence as fields of a `Sample`, rounded."""
    shape, affine = evidence.grid
    names = ("soft_dice", "volume_ml", "centre", "border")
    rounded = {name: getattr(evidence, name).round(4).tolist() for name in names}
    place = {"shape": list(shape), "affine": affine.tolist()}
    return {**rounded, **place, "support": evidence.support}


def true_dice(found: npt.NDArray[np.int64], case: Case, grid: Grid) -> list[float | None]:
    """Dice coefficient of each channel; None where neither truth nor segmentation has it."""
    if case.empty:
        return [0.0] * len(VALUES)
    truth = labels_on(case, grid)
    both = [_dice(found, _other_sides()[truth] if m else truth) for m in case.mirrors]
    best = max(both, key=lambda dice: float(np.nansum(dice)))
    return [None if np.isnan(value) else round(float(value), 4) for value in best]


def labels_on(case: Case, grid: Grid) -> npt.NDArray[np.uint8]:
    """Channels of the truth at the nearest voxels of a grid, background outside."""
    shape, affine = grid
    matrix = np.linalg.inv(case.label_affine) @ affine
    voxels = np.indices(shape).reshape(3, -1)
    places = np.rint(matrix[:3, :3] @ voxels + matrix[:3, 3:]).astype(int)
    inside = ((places >= 0) & (places < np.array(case.labels.shape)[:, None])).all(0)
    labels = np.zeros(inside.shape, np.uint8)
    labels[inside] = case.labels[tuple(places[:, inside])]
    return labels.reshape(shape)


def _dice(found: npt.NDArray[np.int64], truth: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    size = len(VALUES)
    table = np.bincount(found.ravel() * size + truth.ravel(), minlength=size * size)
    table = table.reshape(size, size)
    with np.errstate(invalid="ignore"):
        return np.asarray(2 * table.diagonal() / (table.sum(0) + table.sum(1)))


def _other_sides() -> npt.NDArray[np.uint8]:
    swap = np.arange(len(VALUES), dtype=np.uint8)
    for pair in SIDED.values():
        left, right = map(VALUES.index, pair)
        swap[[left, right]] = right, left
    return swap


def collect(
    sampler: Callable[[int], Sample], path: Path, number: int, share: Share | None = None
) -> list[Sample]:
    """Add samples to a file of JSON lines until there are so many, or all of a share.

    Returns:
        The samples in the file and in those of shares, in order.
    """
    samples = {sample.number: sample for file in all_files(path) for sample in read_samples(file)}
    numbers = range(number)
    if share:
        path, numbers = share.file(path), share.of(numbers)
    for n in numbers:
        if n in samples:
            continue
        samples[n] = sampler(n)
        with path.open("a") as file:
            file.write(json.dumps(asdict(samples[n])) + "\n")
        print(f"{n + 1}/{number}: {samples[n].head}: {samples[n].what}", flush=True)
    return [samples[n] for n in sorted(samples)]


# Population --------------------------------------------------------------------------------------


def volumes_and_centres(folders: Sequence[Path]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Volumes in ml and centres in mm of all channels of each label map."""
    paths = [p for folder in folders for p in list_volumes(folder) if _is_label_map(p)]
    with ProcessPoolExecutor(min(8, num_cores()), get_context("spawn")) as pool:
        return list(pool.map(_volumes_and_centres_of, paths))


def _volumes_and_centres_of(path: Path) -> tuple[np.ndarray, np.ndarray]:
    volume = reorient(read_labels(path))
    labels = volume.data.astype(np.int64)
    labels = with_sides(labels, SIDELESS if 41 in labels else OPPOSITE)
    channels = channel_lookup(int(labels.max()))[torch.from_numpy(labels)]
    evidence = evidence_of(one_hot(channels), volume.affine)
    return evidence.volume_ml, evidence.centre


def one_hot(channels: Tensor) -> Tensor:
    """Posteriors `(S, X, Y, Z)` of a label map, in half precision, around what is labelled."""
    (box,) = ndimage.find_objects((channels > 0).numpy().astype(np.uint8))
    part = channels[box]
    return torch.stack([(part == number).half() for number in range(len(VALUES))])


def _is_label_map(path: Path) -> bool:
    return not path.name.endswith("_T1.mgz")


# Command line ------------------------------------------------------------------------------------


def calibrate(
    samples: Sequence[Sample], population: list[PopulationStructure], out: Path
) -> QualityConfig:
    """Fit the score, write figures, and return the calibration."""
    table = Table(samples, VALUES, uncalibrated(population))
    scores = table.cross_validated()
    threshold = threshold_of(scores[OVERALL], table.truth[OVERALL])
    quality = replace(table.fitted(), threshold=threshold)
    text = table_text(table, scores, threshold) + invented_text(samples, quality)
    (out / "quality.json").write_text(json.dumps(asdict(quality), indent=1))
    (out / "table.md").write_text(text)
    draw(table, scores, threshold, out / "figure.png")
    print(text)
    return quality


def invented_text(samples: Sequence[Sample], quality: QualityConfig) -> str:
    """How many of the brains that were invented are flagged."""
    invented = [sample for sample in samples if sample.invented]
    if not invented:
        return ""
    table = Table(invented, VALUES, quality)
    flagged = int((table.scores(quality)[OVERALL] < quality.threshold).sum())
    return f"\nBrains drawn into empty heads: {flagged} of {len(table.samples)} flagged.\n"


def write_calibrated(model: Path, quality: QualityConfig, out: Path) -> None:
    """Write a model file with a calibration; its weights stay as they are, bit for bit."""
    save_model(out, replace(read_config(model), quality=quality), load_file(model))


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the arguments, collect samples, and calibrate."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path, metavar="MODEL", help="segmentation network")
    parser.add_argument("out", type=Path, metavar="OUTPUT", help="folder to write to")
    parser.add_argument("--maps", nargs="*", default=[], help="held-out label maps")
    parser.add_argument("--real", type=Path, help="folder of real scans with label maps")
    parser.add_argument("--population", nargs="+", type=Path, required=True, help="label maps")
    parser.add_argument("--scans", type=int, default=240, help="number of degraded scans")
    parser.add_argument("--share", type=Share.parse, help="make these samples only, such as 1/8")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="fp32", help="of the networks")
    parser.add_argument("--write", type=Path, help="model file to write with the calibration")
    given = parser.parse_args(arguments)
    given.out.mkdir(parents=True, exist_ok=True)
    device = available_device(given.device)

    @cache
    def predictor(name: str) -> Predictor:
        path = None if name == "default" else name
        return Predictor.from_file(path, device=device, precision=given.precision, force=True)

    sampler = Sampler(
        Heads(given.maps, given.real),
        read_model(given.model),
        predictor,
        device=device,
        precision=given.precision,
    )
    samples = collect(sampler, given.out / "samples.jsonl", given.scans, given.share)
    if given.share:
        return 0
    population = population_of(volumes_and_centres(given.population), VALUES)
    quality = calibrate(samples, population, given.out)
    if given.write is not None:
        write_calibrated(given.model, quality, given.write)
    return 0


if __name__ == "__main__":
    sys.exit(main())
