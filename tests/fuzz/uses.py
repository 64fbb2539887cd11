"""Readers and commands that read a damaged file, and what they must do with it."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import struct
import time
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from click.testing import CliRunner

from synthsr_cli.group import synthsr
from synthsr_net.models.checkpoint import read_config, read_model
from synthsr_net.models.keras.weights import read_keras
from synthsr_net.prediction.report import write_report
from synthsr_net.prediction.report.entries import read_entries
from synthsr_net.training.run import start
from synthsr_net.training.setup.experiment import load_experiment
from synthsr_transforms.generator.config import load_config
from synthsr_transforms.io.scans import read_scan
from synthsr_transforms.io.volumes import read_image, read_labels, read_volume
from synthsr_transforms.job.job import remake_sample
from synthsr_transforms.labels.table import LabelTable
from synthsr_transforms.priors.tissue_priors import TissuePriors, read_prior_file
from synthsr_transforms.support.messages import SynthSRError, WorkFailedError, describe

SECONDS, LONGEST = 10.0, 500
"""Most seconds of computing, and letters of a message, that a file may cost."""


@dataclass
class Case:
    """A damaged file, and a folder with the originals to use it with.

    Attributes:
        path: The damaged file.
        originals: Folder of whole files, which nobody changes.
        folder: Where output goes.
    """

    path: Path
    originals: Path
    folder: Path

    def __getattr__(self, name: str) -> Path:
        """An original, such as `scan` for `scan.nii.gz`."""
        return next(self.originals.glob(f"{name}.*"))


@dataclass
class Outcome:
    """What became of one use: `read`, `refused`, or a fault."""

    use: str
    result: str
    detail: str = ""
    seconds: float = 0.0
    noise: list[str] = field(default_factory=list)


Use = Callable[[Case], Any]


# Readers -----------------------------------------------------------------------------------------


def _entries(case: Case) -> None:
    (case.folder / "entries").mkdir(parents=True)
    shutil.copy(case.path, case.folder / "entries")
    read_entries(case.folder)
    write_report(case.folder, title="t", details={})


def _remake(case: Case) -> None:
    shutil.copytree(case.originals / "job", case.folder / "job")
    shutil.copy(case.path, case.folder / "job" / "sample_000000.json")
    remake_sample(case.folder / "job" / "sample_000000.json")


def _start(case: Case) -> None:
    start(case.path, labels=case.originals / "labels.nii.gz", folder=case.folder / "run")


def _start_from(case: Case) -> None:
    settings = [f"initial_weights={case.path}"]
    labels = case.originals / "labels.nii.gz"
    start(case.originals / "training.yaml", settings, labels=labels, folder=case.folder / "run")


def _start_with_labels(case: Case) -> None:
    start(case.originals / "training.yaml", labels=case.path, folder=case.folder / "run")


READERS: dict[str, dict[str, Use]] = {
    "scan": {
        "read_scan": lambda case: read_scan(case.path).volume.data,
        "read_image": lambda case: read_image(case.path).data,
        "read_volume": lambda case: read_volume(case.path).data,
    },
    "labels": {
        "read_labels": lambda case: read_labels(case.path).data,
        "read_volume": lambda case: read_volume(case.path).data,
        "training": _start_with_labels,
    },
    "model": {
        "read_model": lambda case: read_model(case.path) and None,
        "read_config": lambda case: read_config(case.path) and None,
        "training": _start_from,
    },
    "keras": {"read_keras": lambda case: read_keras(case.path) and None, "training": _start_from},
    "generator": {"load_config": lambda case: load_config(case.path) and None},
    "training": {
        "load_experiment": lambda case: load_experiment(case.path) and None,
        "training": _start,
    },
    "priors": {"read_prior_file": lambda case: read_prior_file(case.path) and None},
    "table": {"LabelTable.read": lambda case: LabelTable.read(case.path) and None},
    "values": {"LabelTable.read": lambda case: LabelTable.read(case.path) and None},
    "means": {
        "TissuePriors.read": lambda case: (
            TissuePriors.read(case.path, case.originals / "stds.npy") and None
        )
    },
    "sample": {"remake_sample": _remake},
    "entry": {"read_entries": _entries},
}
"""Functions that read a file, by the name of the original."""

# Commands ----------------------------------------------------------------------------------------

_GENERATE = "generate {generator.yaml} --labels {labels.nii.gz} --out OUT/job"
_PREDICT = "predict {scan.nii.gz} OUT/t1.nii.gz --device cpu"
COMMANDS: dict[str, tuple[str, ...]] = {
    "scan": (
        "predict FILE OUT/t1.nii.gz --device cpu --model {model.safetensors} --report OUT/report",
        "evaluate FILE {scan.nii.gz} --out OUT/evaluation",
        "evaluate {scan.nii.gz} FILE",
        "estimate-priors --images FILE --labels {labels.nii.gz} --out OUT/priors",
    ),
    "labels": (
        "labels FILE --write-table OUT/table.tsv",
        "generate {generator.yaml} --labels FILE --out OUT/job",
        "evaluate {scan.nii.gz} {scan.nii.gz} --labels FILE",
        "estimate-priors --images {scan.nii.gz} --labels FILE --out OUT/priors",
        _PREDICT + " --model {model.safetensors} --lesion-mask FILE",
    ),
    "model": (
        _PREDICT + " --model FILE",
        "convert-weights FILE OUT/keras.h5 --to-keras",
        "convert-weights FILE OUT/half.safetensors --half",
        "models FILE",
    ),
    "keras": (
        "convert-weights FILE OUT/model.safetensors",
        "convert-weights FILE OUT/model.safetensors --spacing 8",
        _PREDICT + " --model FILE --max-memory 300MB",
    ),
    "generator": ("generate FILE --labels {labels.nii.gz} --out OUT/job -n 1",),
    "training": ("generate FILE --labels {labels.nii.gz} --out OUT/job -n 1",),
    "priors": (_GENERATE + " --set mixture.priors=FILE --set mixture.distribution=normal",),
    "table": ("labels {labels.nii.gz} --table FILE", _GENERATE + " --set label_table=FILE"),
    "values": (
        "labels {labels.nii.gz} --table FILE",
        "estimate-priors --images {scan.nii.gz} --labels {labels.nii.gz} --label-table FILE"
        " --classes FILE --out OUT/priors",
    ),
    "means": (
        _GENERATE + " --set mixture.prior_means=FILE --set mixture.prior_stds={stds.npy}"
        " --set mixture.distribution=normal",
    ),
    "list": ("predict FILE OUT/t1 --device cpu --model {model.safetensors}",),
}
"""Commands that read a file, by the name of the original; each in words."""


def uses_of(name: str) -> dict[str, Use]:
    """Everything that reads an original of this name."""
    commands = {words: _command(words) for words in COMMANDS.get(name, ())}
    return {**READERS.get(name, {}), **commands}


def _command(words: str) -> Use:
    def run(case: Case) -> None:
        changes = {"FILE": str(case.path), "OUT": str(case.folder)}
        line = re.sub(r"\{(.+?)\}", lambda m: str(case.originals / m[1]), words)
        arguments = [_replaced(word, changes) for word in line.split()]
        result = CliRunner().invoke(synthsr, arguments)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        lines = result.stderr.splitlines()
        for text in lines:
            if re.search(r"\w+Warning: |Traceback|^  File ", text):
                warnings.warn(text, RuntimeWarning, stacklevel=1)
        if result.exit_code not in (0, 1, 2):
            raise AssertionError(f"exit code {result.exit_code}")
        if result.exit_code:
            raise SynthSRError(lines[-1] if lines else "")

    return run


def _replaced(word: str, changes: dict[str, str]) -> str:
    for name, text in changes.items():
        word = re.sub(rf"\b{name}\b", text, word) if name in word else word
    return word


# Judgement ---------------------------------------------------------------------------------------


def outcomes(case: Case, name: str, original: Any) -> Iterator[Outcome]:
    """Use a damaged file in every way, and judge each.

    Args:
        case: The file.
        name: Name of its original, without the ending.
        original: Voxels of the original, which may be read from a damaged file; or None.
    """
    wrong = what_checksums_say(case.path)
    for use, function in uses_of(name).items():
        case.folder.mkdir()
        yield _judged(use, function, case, wrong, original)
        shutil.rmtree(case.folder)


def _judged(use: str, function: Use, case: Case, wrong: str, original: Any) -> Outcome:
    begin = time.process_time()
    outcome = Outcome(use, "read")
    with warnings.catch_warnings(record=True) as noise:
        warnings.simplefilter("always")
        try:
            result = function(case)
            if wrong and not (isinstance(result, np.ndarray) and np.array_equal(result, original)):
                outcome = Outcome(use, "silent", f"read although {wrong}")
        except (SynthSRError, WorkFailedError) as error:
            outcome = Outcome(use, *_judged_message(describe(error)))
        except ValueError as error:  # commands report those of this project like the others
            ours = "synthsr_" in innermost(error).tb_frame.f_code.co_filename
            text = describe(error)
            outcome = Outcome(use, *(_judged_message(text) if ours else ("uncaught", text)))
        except MemoryError:
            outcome = Outcome(use, "memory", "MemoryError")
        except Exception as error:
            place = innermost(error)
            where = f"{place.tb_frame.f_code.co_name}:{place.tb_lineno}"
            text = " ".join(str(error).split())[:200]
            outcome = Outcome(use, "uncaught", f"{type(error).__name__} in {where}: {text}")
    outcome.seconds = time.process_time() - begin
    if outcome.seconds > SECONDS and outcome.result in ("read", "refused"):
        outcome.result, outcome.detail = "slow", f"{outcome.seconds:.1f} s: {outcome.detail}"
    left = [path.name for path in case.folder.rglob(".*")]
    if left:
        outcome.result, outcome.detail = "left", f"hidden files {left}"
    outcome.noise = sorted({f"{w.category.__name__}: {w.message}"[:200] for w in noise})
    return outcome


def innermost(error: Exception) -> TracebackType:
    """Where an error was raised."""
    place = error.__traceback__
    assert place is not None
    while place.tb_next is not None:
        place = place.tb_next
    return place


def _judged_message(text: str) -> tuple[str, str]:
    if "unexpected " in text and "Please report" in text:
        return "uncaught", text[:300]
    if len(text) > LONGEST or "\n" in text:
        return "long", f"{len(text)} letters: {text[:200]}"
    if re.search(r"\.[0-9a-f]{32}-", text):
        return "temporary name", text
    return "refused", text


def what_checksums_say(path: Path) -> str:
    """What is wrong with a file by its own checksums or sizes; empty if nothing, or it has none."""
    name, content = path.name, path.read_bytes()
    try:
        if name.endswith((".gz", ".mgz")):
            if content[:2] != b"\x1f\x8b":
                return ""  # another file, to which no checksum belongs
            gzip.decompress(content)
        elif name.endswith(".npz"):
            with zipfile.ZipFile(BytesIO(content)) as archive:
                names = archive.namelist()
                bad = archive.testzip() if len(set(names)) == len(names) else None
            return f"the checksum of {bad} is wrong" if bad else ""
        elif name.endswith(".safetensors"):
            return _wrong_sizes(content)
    except (
        OSError,
        EOFError,
        zlib.error,
        zipfile.BadZipFile,
        ValueError,
        NotImplementedError,
    ) as e:
        return f"{type(e).__name__}: {e}"
    except (KeyError, RuntimeError, TypeError, AttributeError, struct.error, IndexError) as e:
        return f"{type(e).__name__}: {e}"
    return ""


def _wrong_sizes(content: bytes) -> str:
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    ends = [t["data_offsets"][1] for name, t in header.items() if name != "__metadata__"]
    total = 8 + length + max(ends, default=0)
    return "" if total == len(content) else f"it has {len(content)} bytes, not {total}"
