"""A whole evaluation: data, settings, parts one after the other, and the files of results."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from synthsr_net.prediction.predictor import Predictor
from synthsr_net.training.environment import environment
from synthsr_net.training.validation import read_real_pairs
from synthsr_transforms.io.files import list_volumes
from synthsr_transforms.io.grids import Volume
from synthsr_transforms.io.scans import read_scan
from synthsr_transforms.io.volumes import read_volume
from synthsr_transforms.subjects.files import SubjectFiles
from synthsr_transforms.support.atomic import replacing
from synthsr_transforms.support.messages import SynthSRError

from .exams import evaluate_exams, evaluate_moved_exams, evaluate_real_exams
from .heads import find_label_maps
from .lesions import (
    NoLesionsError,
    evaluate_head_lesions,
    evaluate_own,
    evaluate_synthetic,
    find_bright_lesions,
)
from .moves import read_registrations
from .network import HeadNetwork
from .pictures import Pictures, drawing_in
from .scans import DEGRADED_MM, Seen, evaluate_patient, evaluate_scan, read_registration, see
from .slices import Affine
from .tables import report_text
from .truth import SimulationPlan, evaluate_label_maps, evaluate_real_pairs

PathLike = str | os.PathLike[str]
Say = Callable[[str], object]
Row = dict[str, Any]

_SILENCE = 5.0  # seconds between lines about progress
NO_REGISTRATION = "-"
"""Stands for a scan that lies in the common world already."""
PROTOCOL = (
    "L1, PSNR and SSIM are means over the brain; the range of the truth from percentile 1 to 99 of"
    " the brain counts as 1. SSIM: Gaussian window of 11 voxels, standard deviation 1.5, in three"
    " dimensions; what lies outside the brain is 0 in both volumes. Before they are compared,"
    " intensities are mapped by the cubic polynomial that fits best in the brain, for prediction"
    " and interpolation alike; raw: without. Interpolation is by cubic splines. Dice: voxels of"
    " white matter, grey matter and fluid, divided by which mean of the volume they are nearest"
    " to. Contrast of lesions: mean in the lesions minus that of the white matter around them, in"
    " units of the difference between white and grey matter."
)


@dataclass(frozen=True, kw_only=True)
class EvaluationData:
    """Data that a model is evaluated on; each part runs if its data are given.

    Raises:
        SynthSRError: If data do not go together, or there are none.
    """

    labels: Sequence[PathLike] = ()
    """Held-out label maps, or folders of them."""
    images: PathLike | None = None
    """Real T1-weighted scans, or one."""
    image_labels: PathLike | None = None
    """Their label maps, see `synthsr_transforms.subjects.files.find_subjects` for names."""
    scans: Sequence[PathLike] = ()
    """Real scans, or folders of them."""
    patient: Sequence[PathLike] = ()
    """Co-registered scans of one person."""
    registrations: Sequence[PathLike] = ()
    """For each of these an affine transform of ITK, or `NO_REGISTRATION`; none: all agree."""
    lesions: PathLike | None = None
    """Mask of the person's lesions, in the common world."""
    bright_lesions: PathLike | None = None
    """The one of these scans that shows them bright, such as a FLAIR: they are found in it."""
    ct: PathLike | None = None
    """Head CT in Hounsfield units."""
    registered: PathLike | None = None
    """Registrations of exams of the label maps, from `measure_registration.py`."""

    def __post_init__(self) -> None:
        if (self.images is None) != (self.image_labels is None):
            raise SynthSRError("images and image labels go together, got one of them. Give both.")
        if self.registrations and len(self.registrations) != len(self.patient):
            raise SynthSRError(
                f"registrations must be as many as the patient's scans, {len(self.patient)}, got"
                f" {len(self.registrations)}. Give - for a scan that needs none."
            )
        sought = self.lesions is not None or self.bright_lesions is not None
        if len(self.patient) == 1 or (sought and not self.patient):
            raise SynthSRError(
                "the patient must have at least two scans, also to look for lesions, got"
                f" {len(self.patient)}."
            )
        if self.lesions is not None and self.bright_lesions is not None:
            raise SynthSRError(
                "lesions must come from a mask or from a scan that shows them bright, got both."
                " Give one of them."
            )
        if self.bright_lesions is not None and Path(self.bright_lesions).resolve() not in {
            Path(scan).resolve() for scan in self.patient
        }:
            raise SynthSRError(
                "the scan with bright lesions must be one of the patient's, got"
                f" {self.bright_lesions}. Name it among them as well."
            )
        if not any((self.labels, self.images, self.scans, self.patient, self.ct)):
            raise SynthSRError("there must be data to evaluate on, got none. Give some.")

    def check_files(self) -> None:
        """Refuse a path that does not exist, before hours of work on the others.

        Raises:
            SynthSRError: If there is one.
        """
        alone = (self.images, self.image_labels, self.lesions, self.ct, self.registered)
        named = (path for path in self.registrations if str(path) != NO_REGISTRATION)
        for path in (*self.labels, *self.scans, *self.patient, *named, *alone):
            if path is not None and not Path(path).exists():
                raise SynthSRError(
                    f"{path} must be a file or folder, but does not exist. Check the path."
                )


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """Amounts of simulation."""

    held_out: SimulationPlan = field(default_factory=SimulationPlan)
    """Simulations of held-out label maps; their spacings and axes hold for real pairs too."""
    degraded_mm: Sequence[float] = DEGRADED_MM
    """Slice spacings that real scans are degraded to."""
    lesion_scans: int | None = None
    """Number of real scans with synthetic lesions; None: all."""
    exams: bool = False
    """Whether to predict from several scans of heads together."""


class Evaluation:
    """Evaluates a model and keeps the results.

    Args:
        predictor: Model and how it is used.
        data: Label maps and scans.
        settings: How much is simulated.
        say: Called with lines about progress.
    """

    def __init__(
        self,
        predictor: Predictor,
        data: EvaluationData,
        settings: EvaluationSettings | None = None,
        say: Say = print,
    ) -> None:
        self.data, self.settings = data, settings or EvaluationSettings()
        self.network = HeadNetwork(predictor)
        self._say = say
        self._seconds: dict[str, float] = {}
        self._kept: dict[Path, Seen] = {}

    def run(self, folder: PathLike) -> dict[str, Any]:
        """Evaluate all parts whose data are given, and write the results.

        Args:
            folder: Gets `results.json`, `report.md` and `pictures`; it is made if needed.

        Returns:
            Content of `results.json`.

        Raises:
            ValueError: If data cannot be used.
        """
        folder = Path(folder)
        begin = time.perf_counter()
        self.data.check_files()
        self._registrations()  # a mistake in them is found before hours of work as well
        with drawing_in(folder / "pictures") as pictures:
            parts = self._parts(pictures)
        results = {
            "model": self._model(),
            "seed": self.settings.held_out.seed,
            "protocol": PROTOCOL,
            "settings": asdict(self.settings),
            "environment": environment(self.network.device, 1, 1),
            "seconds": {**self._seconds, "all": time.perf_counter() - begin},
            "pictures": sorted(pictures.names),
            **parts,
        }
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(without_nan(results), indent=1, default=str)
        for name, content in (("results.json", text), ("report.md", report_text(results))):
            with replacing(folder / name) as temporary:
                temporary.write_text(content, encoding="utf-8")
        return results

    def _parts(self, pictures: Pictures) -> dict[str, Any]:
        data, plan, network = self.data, self.settings.held_out, self.network
        parts: dict[str, Any] = {}
        subjects = find_label_maps(data.labels)
        if subjects:
            rows = evaluate_label_maps(subjects, network, plan, pictures)
            parts["held_out"] = self._part("held-out label maps", rows)
        if self.settings.exams:
            parts |= self._exams(subjects)
        if subjects and plan.with_lesions:
            rows = evaluate_head_lesions(subjects, network, plan, pictures)
            parts["held_out_lesions"] = self._part("lesions in held-out label maps", rows)
        if data.images is not None and data.image_labels is not None:
            pairs = read_real_pairs(data.images, data.image_labels)
            rows = evaluate_real_pairs(pairs, network, plan, pictures)
            parts["real_pairs"] = self._part("real scans with label maps", rows)
        lesions: list[Row] = []
        if data.scans:
            parts["scans"] = self._part("real scans", self._scans(pictures, lesions))
        if data.patient:
            rows = self._patient(pictures, lesions)
            parts["patient"] = self._part("scans of one person", rows)
        parts["lesions"] = lesions
        if data.ct is not None:
            parts["ct"] = self._part("computed tomography", self._ct(data.ct, pictures))
        return parts

    def _exams(self, subjects: Sequence[SubjectFiles]) -> dict[str, Any]:
        data, plan, network = self.data, self.settings.held_out, self.network
        parts: dict[str, Any] = {}
        if subjects or data.images is None:
            rows = evaluate_exams(subjects, network, plan)
            parts["exams"] = self._part("exams of held-out label maps", rows)
        if data.registered is not None:
            found = read_registrations(Path(data.registered))
            rows = evaluate_moved_exams(subjects, network, plan, found)
            parts["moved_exams"] = self._part("exams after moves", rows)
        if data.images is not None and data.image_labels is not None:
            pairs = read_real_pairs(data.images, data.image_labels)
            rows = evaluate_real_exams(pairs, network, plan)
            parts["real_exams"] = self._part("exams of real scans, remapped", rows)
        return parts

    def _part(self, name: str, rows: Iterable[Row]) -> list[Row]:
        """All rows of a part, with lines about progress."""
        begin = said = time.perf_counter()
        self._say(f"{name} ...")
        made: list[Row] = []
        for row in rows:
            made.append(row)
            if time.perf_counter() - said >= _SILENCE:
                said = time.perf_counter()
                self._say(f"  {len(made)} results")
        self._seconds[name] = time.perf_counter() - begin
        self._say(f"{name}: {len(made)} results, {self._seconds[name]:.1f} s")
        return made

    def _scans(self, pictures: Pictures, lesions: list[Row]) -> Iterator[Row]:
        """Rows of scans; those of synthetic lesions in them are added to a list."""
        plan, settings = self.settings.held_out, self.settings
        names: set[str] = set()
        for number, file in enumerate(f for path in self.data.scans for f in list_volumes(path)):
            seen = self._see(file)
            if seen.name in names:
                seen = seen._replace(name=f"{seen.name}_{number}")
            names.add(seen.name)
            seen.draw(pictures, "scan")
            spacings_mm, axes = settings.degraded_mm, plan.axes
            yield from evaluate_scan(seen, self.network, spacings_mm=spacings_mm, axes=axes)
            if settings.lesion_scans is None or number < settings.lesion_scans:
                drawn = None if number else pictures
                lesions += evaluate_synthetic(seen, self.network, plan.seed, drawn)

    def _see(self, file: PathLike) -> Seen:
        """A scan with its prediction; the patient's are kept, since they may be needed twice."""
        path = Path(file).resolve()
        if path in self._kept:
            return self._kept[path]
        seen = see(read_scan(file), self.network)
        if path in {Path(own).resolve() for own in self.data.patient}:
            self._kept[path] = seen
        return seen

    def _patient(self, pictures: Pictures, lesions: list[Row]) -> Iterator[Row]:
        """Rows of pairs of scans; those of the patient's lesions are added to a list."""
        matrices = self._registrations()
        scans = [self._see(file) for file in self.data.patient]
        for scan in scans:
            scan.draw(pictures, "patient")
        try:
            mask = self._lesions(scans, matrices)
            if mask is not None:
                lesions += [
                    evaluate_own(scan, mask, matrix, self.network, pictures)
                    for scan, matrix in zip(scans, matrices, strict=True)
                ]
        except NoLesionsError as error:  # the rest of the evaluation is worth keeping
            self._say(f"Note: the patient's lesions are left out: {error}")
        yield from evaluate_patient(scans, matrices)

    def _registrations(self) -> list[Affine | None]:
        """For each scan of the patient, its matrix; None where the common world is its own."""
        named = self.data.registrations or [NO_REGISTRATION] * len(self.data.patient)
        return [None if str(file) == NO_REGISTRATION else read_registration(file) for file in named]

    def _lesions(self, scans: Sequence[Seen], matrices: Sequence[Affine | None]) -> Volume | None:
        """Mask of the patient's lesions in the common world."""
        if self.data.lesions is not None:
            return read_volume(self.data.lesions)
        if self.data.bright_lesions is None:
            return None
        files = [Path(file).resolve() for file in self.data.patient]
        place = files.index(Path(self.data.bright_lesions).resolve())
        mask, matrix = find_bright_lesions(scans[place]), matrices[place]
        return mask if matrix is None else Volume(mask.data, np.linalg.inv(matrix) @ mask.affine)

    def _ct(self, file: PathLike, pictures: Pictures) -> Iterator[Row]:
        seen = see(read_scan(file), self.network, ct=True)
        seen.draw(pictures, "ct")
        millilitres = self.network.spacing_mm**3 / 1000
        white, grey = (
            float(seen.t1[mask].median()) if bool(mask.any()) else float("nan")
            for mask in (seen.regions.white, seen.regions.grey)
        )
        volume = float(seen.regions.brain.sum()) * millilitres
        yield {"scan": seen.name, "brain_ml": volume, "white": white, "grey": grey}

    def _model(self) -> dict[str, Any]:
        predictor = self.network.predictor
        names = ("precision", "flip", "inverse_contrast", "sharpen", "data_consistency")
        return {
            "name": predictor.config.name,
            "file": None if predictor.record.path is None else predictor.record.path.name,
            "sha256": predictor.record.sha256,
            "device": str(predictor.device),
            **{name: getattr(predictor, name) for name in names},
        }


def without_nan(results: Any) -> Any:
    """Results with None for numbers that are not finite, which JSON cannot hold.

    Examples:
        >>> without_nan({"psnr": [1.0, math.nan]})
        {'psnr': [1.0, None]}
    """
    if isinstance(results, Mapping):
        return {key: without_nan(value) for key, value in results.items()}
    if isinstance(results, (list, tuple)):
        return [without_nan(value) for value in results]
    return None if isinstance(results, float) and not math.isfinite(results) else results
