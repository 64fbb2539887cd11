"""The folder of a run: names of files, its records, and what may change when it is resumed.

| File | Content |
| --- | --- |
| `config.yaml`, `label_table.tsv` | all settings, from which the run can be repeated |
| `environment.json` | versions, state of the source, hardware, command |
| `metrics.csv`, `curve.png` | one row per epoch, and its picture |
| `models/` | `last.safetensors`, `best.safetensors`, and one model file per epoch |
| `previews/` | pictures of the validation samples, one per epoch |
| `logs/` | events for TensorBoard |
| `state/last.ckpt` | state for `--resume` |
| `failed/` | the pair at which a run broke off |
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from synthsr_transforms.job.record import CONFIG, TABLE, difference, plain_config
from synthsr_transforms.labels.table import LabelTable
from synthsr_transforms.support.atomic import remove_leftovers, write_text
from synthsr_transforms.support.config import read_yaml, to_yaml
from synthsr_transforms.support.messages import SynthSRError

from .config import SECTION, Experiment

ENVIRONMENT, METRICS, CURVE = "environment.json", "metrics.csv", "curve.png"
MODELS, PREVIEWS, LOGS, STATE, FAILED = "models", "previews", "logs", "state", "failed"

MAY_CHANGE = {
    "optimiser": (
        "learning_rate",
        "schedule",
        "inverse_time_decay",
        "final_learning_rate_ratio",
        "warmup_steps",
        "clip_norm",
    ),
    "run": (
        "epochs",
        "precision",
        "compile",
        "label_map_memory",
        "save_every_minutes",
        "save_every_steps",
        "keep_models",
    ),
    "validation": (
        "every_epochs",
        "samples",
        "previews",
        "images",
        "labels",
        "slice_spacings_mm",
        "metric",
    ),
    "model": None,
}
"""Settings that may change when a run is resumed; None means the whole section."""

_FILES = (
    f"{MODELS}/*.safetensors",
    f"{PREVIEWS}/epoch_*.png",
    f"{LOGS}/events.out.tfevents.*",
    f"{LOGS}/hparams.yaml",
    f"{STATE}/*last.ckpt*",
    METRICS,
    CURVE,
    TABLE,
    ENVIRONMENT,
)
"""Files of a run besides `config.yaml` and `failed/`."""

_HEADER = "# `synthsr train {} --out FOLDER` repeats the run.\n"
_SAMPLES = "# `synthsr generate {} --out FOLDER` makes its samples.\n"


class RunFolder:
    """Folder of a run.

    Args:
        path: The folder; it need not exist.

    Attributes:
        config_path: All settings.
        state_path: State from which a run is resumed.
        metrics_path: One row per epoch.
        curve_path: Picture of the metrics.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.config_path = self.path / CONFIG
        self.state_path = self.path / STATE / "last.ckpt"
        self.metrics_path = self.path / METRICS
        self.curve_path = self.path / CURVE

    def model_path(self, name: str) -> Path:
        """Return the path of a model file: `last`, `best`, or that of an epoch."""
        return self.path / MODELS / f"{name}.safetensors"

    def epoch_model_path(self, epoch: int) -> Path:
        """Return the path of the model file of an epoch, counted from 1."""
        return self.model_path(f"epoch_{epoch:03d}")

    def preview_path(self, epoch: int) -> Path:
        """Return the path of the pictures of an epoch, counted from 1."""
        return self.path / PREVIEWS / f"epoch_{epoch:03d}.png"

    @cached_property
    def recorded(self) -> dict[str, Any] | None:
        """Content of `config.yaml` when it was first read; None if there is none."""
        return read_yaml(self.config_path) if self.config_path.exists() else None

    def check(self, *, resume: bool, overwrite: bool) -> None:
        """Refuse a folder that holds other work, a run that is not to be replaced, or none.

        Raises:
            SynthSRError: If so.
        """
        if self.recorded is None:
            if resume:
                raise SynthSRError(
                    f"{self.path} must hold a run to resume, but holds none. Leave out --resume to"
                    " start one."
                )
        elif SECTION not in self.recorded:
            raise SynthSRError(
                f"{self.path} must hold nothing or a run, but its {CONFIG} is of another kind."
                " Choose another folder with --out."
            )
        elif not (resume or overwrite):
            raise SynthSRError(
                f"{self.path} holds a run. Add --resume to go on with it, --overwrite to replace"
                " it, or choose another folder with --out."
            )

    def refuse_other_run(self, config: Experiment) -> None:
        """Refuse to resume a run with settings that would have made another run.

        Raises:
            SynthSRError: If so; the message names the first setting that differs.
        """
        found = _comparable(self.recorded or {})
        differs = difference(found, _comparable(config))
        if differs:
            raise SynthSRError(
                f"{self.path} holds another run: {differs}. Resume it with its own settings, or"
                " start another from its weights (--set"
                f" initial_weights={self.model_path('last')}) in a new folder."
            )

    def open(self, config: Experiment, table: LabelTable, environment: Mapping[str, Any]) -> None:
        """Make the folder and write its records.

        Args:
            config: All settings.
            table: The label table.
            environment: Versions and hardware, see `environment`.
        """
        for name in (MODELS, PREVIEWS, LOGS, STATE):
            (self.path / name).mkdir(parents=True, exist_ok=True)
            remove_leftovers(self.path / name)
        if config.label_table == TABLE:
            table.write(self.path / TABLE)
        write_text(self.path / ENVIRONMENT, json.dumps(environment, indent=1) + "\n")
        loss = config.training.loss
        padded = loss.crop is not None if loss.padding_voxels is None else bool(loss.padding_voxels)
        alone = config.training.run.batch_size == 1 and not padded
        alone = alone and not config.training.pairs.sources
        header = _HEADER + (_SAMPLES if alone else "")
        header = header.replace("{}", str(self.config_path))
        write_text(self.config_path, header + to_yaml(config))

    def clear(self) -> None:
        """Remove the files of an earlier run, and nothing else."""
        if self.recorded is None:
            return
        for pattern in _FILES:
            for path in self.path.glob(pattern):
                path.unlink()
        shutil.rmtree(self.path / FAILED, ignore_errors=True)
        for name in (MODELS, PREVIEWS, LOGS, STATE):
            with suppress(OSError):  # files of others are in it
                (self.path / name).rmdir()
        self.config_path.unlink()


def _comparable(config: Any) -> dict[str, Any]:
    """Return the settings that define a run, as plain data."""
    plain = plain_config(config)
    job = dict(plain.get("job") or {})
    plain["job"] = {
        "seed": job.get("seed"),
        "sources": [_names(source) for source in job.get("sources") or []],
    }
    training = {k: dict(v) if isinstance(v, dict) else v for k, v in plain["training"].items()}
    sources = training.get("validation_sources") or []
    training["validation_sources"] = [_names(source) for source in sources]
    pairs = training.pop("pairs", None) or {}
    if pairs.get("sources"):
        listed = {n: pairs.get(n) or [] for n in ("sources", "validation_sources")}
        named = {n: [_names(source) for source in found] for n, found in listed.items()}
        training["pairs"] = {**pairs, **named}
    for section, names in MAY_CHANGE.items():
        for name in list(training.get(section) or {}) if names is None else names:
            training[section].pop(name, None)
    plain["training"] = training
    return plain


def _names(source: Mapping[str, Any]) -> dict[str, Any]:
    """Return the names of the files of a subject, whose folders may move."""
    return {kind: path and Path(path).name for kind, path in source.items()}
