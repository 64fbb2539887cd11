"""A whole evaluation: parts whose data are given, one after the other, and the files of results."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
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
from synthsr_transforms.support.atomic import replacing

from .bright_lesions import find_bright_lesions
from .heads import find_label_maps
from .held_out import evaluate_label_maps, num_predictions
from .held_out_lesions import evaluate_head_lesions, num_lesion_predictions
from .lesions import evaluate_own, evaluate_synthetic
from .network import EvaluationError, HeadNetwork
from .patient import draw_patient, evaluate_patient
from .pictures import Pictures, drawing_in
from .plan import NO_REGISTRATION, EvaluationData, EvaluationSettings, PathLike
from .real import evaluate_real_pairs
from .scans import Seen, draw_scan, evaluate_scan, see
from .tables import report_text
from .world import Affine, read_registration

Say = Callable[[str], object]

_SILENCE = 5.0  # seconds between lines about progress
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


class Evaluation:
    """Evaluates a model and keeps the results.

    Args:
        predictor: Model and how it is used.
        data: What to evaluate it on.
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
        self._done, self._of, self._said = 0, 0, 0.0
        self._seconds: dict[str, float] = {}
        self._kept: dict[Path, Seen] = {}

    def run(self, folder: PathLike) -> dict[str, Any]:
        """Evaluate all parts whose data are given, and write the results.

        Args:
            folder: Gets `results.json`, `report.md` and `pictures`; it is made if needed.

        Returns:
            What is in `results.json`.

        Raises:
            ValueError: If data cannot be used.
        """
        folder = Path(folder)
        begin = time.perf_counter()
        self.data.check_files()
        self._registrations()  # a mistake in them is told before hours of work as well
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
        data = self.data
        parts: dict[str, Any] = {}
        if data.labels:
            with self._part("held-out label maps"):
                parts["held_out"] = self._held_out(pictures)
        if data.labels and self.settings.held_out.with_lesions:
            with self._part("lesions in held-out label maps"):
                parts["held_out_lesions"] = self._held_out_lesions(pictures)
        if data.images is not None and data.image_labels is not None:
            with self._part("real scans with label maps"):
                parts["real_pairs"] = self._real_pairs(pictures)
        parts["lesions"] = []
        if data.scans:
            with self._part("real scans"):
                parts["scans"], parts["lesions"] = self._scans(pictures)
        if data.patient:
            with self._part("scans of one person"):
                parts["patient"], own = self._patient(pictures)
                parts["lesions"] += own
        if data.ct is not None:
            with self._part("computed tomography"):
                parts["ct"] = [self._ct(data.ct, pictures)]
        return parts

    @contextmanager
    def _part(self, name: str) -> Iterator[None]:
        begin, self._done, self._of = time.perf_counter(), 0, 0
        self._say(f"{name} ...")
        yield
        self._seconds[name] = time.perf_counter() - begin
        self._say(f"{name}: {self._seconds[name]:.1f} s")

    def _count(self) -> None:
        self._done += 1
        if self._done == self._of or time.perf_counter() - self._said >= _SILENCE:
            self._said = time.perf_counter()
            self._say(f"  {self._done}{f'/{self._of}' if self._of else ''} predictions")

    def _held_out(self, pictures: Pictures) -> list[dict[str, Any]]:
        subjects, plan = find_label_maps(self.data.labels), self.settings.held_out
        self._of = num_predictions(plan, len(subjects), self.network.spacing_mm)
        return evaluate_label_maps(subjects, self.network, plan, pictures, on_row=self._count)

    def _held_out_lesions(self, pictures: Pictures) -> list[dict[str, Any]]:
        subjects, plan = find_label_maps(self.data.labels), self.settings.held_out
        self._of = num_lesion_predictions(plan, len(subjects))
        return evaluate_head_lesions(subjects, self.network, plan, pictures, on_row=self._count)

    def _real_pairs(self, pictures: Pictures) -> list[dict[str, Any]]:
        assert self.data.images is not None
        assert self.data.image_labels is not None
        plan = self.settings.held_out
        return evaluate_real_pairs(
            read_real_pairs(self.data.images, self.data.image_labels),
            self.network,
            pictures,
            spacings_mm=plan.spacings_mm,
            axes=plan.axes,
            on_row=self._count,
        )

    def _scans(self, pictures: Pictures) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        files = [file for path in self.data.scans for file in list_volumes(path)]
        plan = self.settings.held_out
        rows: list[dict[str, Any]] = []
        lesions: list[dict[str, Any]] = []
        for number, file in enumerate(files):
            seen = self._see(file)
            if any(row["scan"] == seen.name for row in rows):
                seen = seen._replace(name=f"{seen.name}_{number}")
            draw_scan(seen, pictures)
            rows += evaluate_scan(
                seen,
                self.network,
                spacings_mm=self.settings.degraded_mm,
                axes=plan.axes,
                on_row=self._count,
            )
            most = self.settings.lesion_scans
            if most is None or number < most:
                drawn = None if number else pictures
                lesions += evaluate_synthetic(
                    seen, self.network, plan.seed, drawn, on_row=self._count
                )
        return rows, lesions

    def _see(self, file: PathLike) -> Seen:
        """A scan with its prediction; the patient's are kept, since they may be sought twice."""
        path = Path(file).resolve()
        if path in self._kept:
            return self._kept[path]
        seen = see(read_scan(file), self.network)
        if path in {Path(own).resolve() for own in self.data.patient}:
            self._kept[path] = seen
        return seen

    def _patient(self, pictures: Pictures) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        matrices = self._registrations()
        scans = [self._see(file) for file in self.data.patient]
        draw_patient(scans, pictures)
        lesions: list[dict[str, Any]] = []
        try:
            mask = self._lesions(scans, matrices)
            if mask is not None:
                for scan, matrix in zip(scans, matrices, strict=True):
                    lesions.append(evaluate_own(scan, mask, matrix, self.network, pictures))
        except EvaluationError as error:  # the rest of the evaluation is worth keeping
            self._say(f"Note: the patient's lesions are left out: {error}")
            lesions.clear()
        return evaluate_patient(scans, matrices), lesions

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

    def _ct(self, file: PathLike, pictures: Pictures) -> dict[str, Any]:
        seen = see(read_scan(file), self.network, ct=True)
        draw_scan(seen, pictures, "ct")
        millilitres = self.network.spacing_mm**3 / 1000
        white, grey = (
            float(seen.t1[mask].median()) if bool(mask.any()) else float("nan")
            for mask in (seen.regions.white, seen.regions.grey)
        )
        volume = float(seen.regions.brain.sum()) * millilitres
        return {"scan": seen.name, "brain_ml": volume, "white": white, "grey": grey}

    def _model(self) -> dict[str, Any]:
        predictor = self.network.predictor
        return {
            "name": predictor.config.name,
            "file": None if predictor.record.path is None else predictor.record.path.name,
            "sha256": predictor.record.sha256,
            "precision": predictor.precision,
            "device": str(predictor.device),
            "flip": predictor.flip,
            "inverse_contrast": predictor.inverse_contrast,
            "sharpen": predictor.sharpen,
            "data_consistency": predictor.data_consistency,
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
