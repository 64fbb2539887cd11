"""BIDS datasets: which scans they hold, and a derivative dataset of predictions.

Names follow the BIDS specification 1.10, "Preprocessed, coregistered and/or resampled volumes"::

    <source entities>_desc-<label>_<suffix>.nii.gz

The suffix is T1w, since that is the contrast of a prediction: tools that look for T1w scans find
it. Predictions from several contrasts of one session would then share a name, so the label names
the source: `desc-synthsr` for a T1w scan, `desc-synthsrT2w`, `desc-synthsrFLAIR`, `desc-synthsrCT`
for others. The name depends on nothing but that of the source, so adding scans renames nothing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Any

from synthsr_net.models.checkpoint import StructureConfig
from synthsr_transforms.io.files import is_volume
from synthsr_transforms.support.atomic import write_json, write_text
from synthsr_transforms.support.messages import SynthSRError, listed
from synthsr_transforms.support.pointers import refuse_pointer
from synthsr_transforms.support.texts import read_json

from .selection import Selection

BIDS_VERSION = "1.10.0"
"""Version of the specification that derivative datasets follow."""
DESCRIPTION = "dataset_description.json"
MRI_SUFFIXES = ("T1w", "T2w", "PDw", "T2starw", "FLAIR", "inplaneT1", "inplaneT2", "UNIT1")
"""Suffixes of images in `anat` that show anatomy, rather than a map, a mask or a part of a set."""
CT_SUFFIX = "ct"
PREDICTION = "prediction"
KINDS = {
    PREDICTION: ("synthsr", "T1w", "T1-weighted scan predicted from a {} scan"),
    "laplace_scale": (
        "synthsrSpread",
        "T1w",
        "scale of a Laplace distribution around the T1-weighted scan predicted from a {} scan",
    ),
    "segmentation": ("synthsr", "dseg", "brain structures segmented in a {} scan"),
    "posteriors": ("synthsr", "probseg", "probabilities of brain structures in a {} scan"),
}
"""Beginning of the `desc` label, suffix and description of each kind of derived image."""
PIPELINE = "SynthSR for PyTorch"
CONTAINER = "SYNTHSR_CONTAINER"
"""Environment variable that container images set to their name and tag."""
IGNORED = ("summary.tsv", "qc.tsv", "*.lock", "report")
"""Files of a derivative dataset that the specification does not know."""
LINK = "raw"
"""Name of the source dataset in BIDS URIs."""

_NAME = re.compile(
    r"(?P<entities>(?:[a-z]+-[A-Za-z0-9+]+_)+)(?P<suffix>[A-Za-z0-9]+)\.nii(?:\.gz)?"
)
_NO_SCAN = re.compile(
    r".*(?:map|mask|seg)|T1rho|MTsat|PD|PDT2|T2star|FLASH|angio|VFA|IRT1|MP2RAGE|MESE|MEGRE|MT[RS]|MPM"
)
"""Other suffixes that the specification knows in `anat`, which are left out without a word."""


@dataclass(frozen=True)
class BidsScan:
    """A scan of a dataset.

    Attributes:
        path: The file.
        relative: Its path in the dataset.
        entities: Entities of its name in order, such as `{"sub": "01", "run": "2"}`.
        suffix: Such as T1w.
    """

    path: Path
    relative: PurePosixPath
    entities: Mapping[str, str]
    suffix: str

    @property
    def is_ct(self) -> bool:
        """Whether it is a CT scan."""
        return self.suffix == CT_SUFFIX

    def output(self, kind: str = PREDICTION) -> PurePosixPath:
        """Path of an image that is derived from it in the derivative dataset.

        Args:
            kind: A key of `KINDS`.

        Examples:
            >>> path = PurePosixPath("sub-01/anat/sub-01_run-2_FLAIR.nii.gz")
            >>> entities = {"sub": "01", "run": "2"}
            >>> str(BidsScan(Path(path), path, entities, "FLAIR").output())
            'sub-01/anat/sub-01_run-2_desc-synthsrFLAIR_T1w.nii.gz'
        """
        label, derived, _ = KINDS[kind]
        suffix = "CT" if self.is_ct else self.suffix
        before = self.entities.get("desc", "")
        tail = ("" if suffix == "T1w" else suffix) + before[:1].upper() + before[1:]
        others = [f"{key}-{value}" for key, value in self.entities.items() if key != "desc"]
        name = "_".join([*others, f"desc-{label}{tail}", derived])
        return self.relative.parent.parent / "anat" / f"{name}.nii.gz"


def find_bids_scans(
    root: str | os.PathLike[str],
    participants: Sequence[str] = (),
    selection: Selection | None = None,
) -> list[BidsScan]:
    """Scans in the `anat` and `ct` folders of a dataset, sorted by path.

    Derivatives, source data, masks, quantitative maps, and phase or complex parts are left out.

    Args:
        root: The dataset: the folder of `dataset_description.json`.
        participants: Labels of participants, with or without `sub-`. None given means all.
        selection: What is wanted of their scans; None means all.

    Raises:
        SynthSRError: If it is no dataset, a participant is not there, or there is no scan.
    """
    root = Path(root)
    read_description(root)
    files = [file for files in _files(root, participants).values() for file in files]
    scans = [scan for file in files if (scan := _scan(root, file)) is not None]
    if not scans:
        kinds = ", ".join([*MRI_SUFFIXES, CT_SUFFIX])
        odd = listed([file.name for file in files if _is_odd(file)], limit=3)
        raise SynthSRError(
            f"{root} must hold scans such as sub-01/anat/sub-01_T1w.nii.gz, but holds none of the"
            f" kinds {kinds}.{f' Names that are not of BIDS: {odd}.' if odd else ''}"
        )
    return scans if selection is None else selection.of(scans)


def left_out(root: str | os.PathLike[str], participants: Sequence[str] = ()) -> list[str]:
    """At most one warning: names that are not of BIDS, and subjects without a scan.

    Args:
        root: See `find_bids_scans`.
        participants: See `find_bids_scans`.
    """
    root, parts = Path(root), []
    files_of = _files(root, participants)
    if odd := [file.name for files in files_of.values() for file in files if _is_odd(file)]:
        parts.append(f"files whose names are not of BIDS: {listed(odd, limit=4)}")
    if bare := [s for s, files in files_of.items() if not any(_scan(root, f) for f in files)]:
        parts.append(f"subjects without a scan: {listed(bare, limit=6)}")
    return [f"not predicted in {root} are {'; '.join(parts)}."] if parts else []


def _files(root: Path, participants: Sequence[str]) -> dict[str, list[Path]]:
    """Volumes in `anat` and `ct` of participants, who are chosen among those that there are."""
    found = sorted(root.glob("sub-*"))  # also links to subjects that are not here
    known = {p.name: p for p in found if p.is_dir() or not (p.exists() or "." in p.name)}
    wanted = [f"sub-{label.removeprefix('sub-')}" for label in participants] or list(known)
    absent = [name for name in wanted if name not in known]
    if absent:
        raise SynthSRError(
            f"participants must be in {root}, got {listed(absent, limit=4)}. There are:"
            f" {listed(list(known), limit=5) or 'none'}."
        )
    patterns = ("anat/*", "ct/*", "ses-*/anat/*", "ses-*/ct/*")
    return {
        name: sorted(f for p in patterns for f in known[name].glob(p) if is_volume(f))
        for name in wanted
    }


def _is_odd(file: Path) -> bool:
    """Whether a name cannot be read, or ends in no suffix of the specification."""
    match = _NAME.fullmatch(file.name)
    known = (*MRI_SUFFIXES, CT_SUFFIX)
    return match is None or not (match["suffix"] in known or _NO_SCAN.fullmatch(match["suffix"]))


def _scan(root: Path, file: Path) -> BidsScan | None:
    match = _NAME.fullmatch(file.name)
    if match is None or match["suffix"] not in (*MRI_SUFFIXES, CT_SUFFIX):
        return None
    entities = dict(part.split("-", 1) for part in match["entities"].rstrip("_").split("_"))
    if entities.get("part", "mag") != "mag":
        return None
    relative = PurePosixPath(file.relative_to(root).as_posix())
    return BidsScan(file, relative, entities, match["suffix"])


def read_description(root: Path) -> dict[str, Any]:
    """`dataset_description.json` of a dataset.

    Raises:
        SynthSRError: If there is none, or it cannot be read.
    """
    path = root / DESCRIPTION
    refuse_pointer(path)
    try:
        return read_json(path)
    except (FileNotFoundError, NotADirectoryError):
        raise SynthSRError(
            f"{root} must be a BIDS dataset, but has no {DESCRIPTION}. Give the root of the"
            " dataset, or leave out --bids."
        ) from None
    except OSError as error:
        raise SynthSRError(f"{path} must be a JSON file, but cannot be read ({error}).") from error


def check_derivative(root: Path, output: Path) -> None:
    """Refuse an output folder that is the dataset itself, or that of another pipeline.

    Raises:
        SynthSRError: If so.
    """
    advice = f"Choose another, such as {root / 'derivatives' / 'synthsr'}."
    if os.path.realpath(root) == os.path.realpath(output):
        raise SynthSRError(
            f"output must be another folder than the dataset, got {output}. {advice}"
        )
    if output.is_file():
        raise SynthSRError(f"output must be a folder, {output} is a file. {advice}")
    if not (output / DESCRIPTION).exists():
        return
    makers = read_description(output).get("GeneratedBy")
    names = [maker.get("Name") for maker in makers or [] if isinstance(maker, dict)]
    if PIPELINE not in names:
        raise SynthSRError(
            f"{output} must be new or of {PIPELINE}, but is another dataset. {advice}"
        )


def derivative_description(root: Path, output: Path) -> dict[str, Any]:
    """`dataset_description.json` of the derivative dataset.

    Args:
        root: The source dataset.
        output: Folder of the derivative dataset.
    """
    source = read_description(root)
    dataset = {
        "URL": source.get("DatasetURL") or Path(os.path.abspath(root)).as_uri(),
        "DOI": source.get("DatasetDOI"),
        "Version": source.get("Version"),
    }
    return {
        "Name": f"{source.get('Name') or root.name}: derivatives of {PIPELINE}",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": PIPELINE, "Version": version("synthsr"), **container()}],
        "SourceDatasets": [{key: value for key, value in dataset.items() if value}],
        "DatasetLinks": {LINK: Path(os.path.relpath(root, output)).as_posix()},
    }


def container() -> dict[str, dict[str, str]]:
    """`Container` of `GeneratedBy`, if this program runs in a container image that says so."""
    tag = os.environ.get(CONTAINER)
    if not tag:
        return {}
    apptainer = any(name in os.environ for name in ("APPTAINER_CONTAINER", "SINGULARITY_CONTAINER"))
    return {"Container": {"Type": "singularity" if apptainer else "docker", "Tag": tag}}


def write_descriptions(
    root: str | os.PathLike[str], outputs: Sequence[str | os.PathLike[str] | None]
) -> None:
    """Write `dataset_description.json` into derivative datasets of a dataset, atomically.

    Args:
        root: The source dataset.
        outputs: Folders of the derivative datasets; None stands for none.
    """
    for output in map(Path, dict.fromkeys(path for path in outputs if path is not None)):
        write_json(output / DESCRIPTION, derivative_description(Path(root), output))
        if not (output / ".bidsignore").exists():
            write_text(output / ".bidsignore", "".join(f"{name}\n" for name in IGNORED))


def write_structures(folder: Path, structures: Iterable[StructureConfig]) -> None:
    """Write `dseg.tsv`, the names of the values of all segmentations of a derivative dataset."""
    rows = ["index\tname", *(f"{each.value}\t{each.name}" for each in structures)]
    write_text(folder / "dseg.tsv", "\n".join(rows) + "\n")


def sidecar(scan: BidsScan, kind: str = PREDICTION) -> dict[str, Any]:
    """Content of the JSON file beside an image of a kind of `KINDS`: its source."""
    source = f"bids:{LINK}:{scan.relative}"
    what = KINDS[kind][2].format(scan.suffix)
    of_scan = "" if "seg" in KINDS[kind][1] else "; intensities are not those of an acquired scan"
    return {
        "Description": f"{what}{of_scan}",
        "Sources": [source],
        "SpatialReference": source,
        "SkullStripped": _skull_stripped(scan),
        "GeneratedBy": {"Name": PIPELINE, "Version": version("synthsr")},
    }


def _skull_stripped(scan: BidsScan) -> bool:
    """`SkullStripped` of the source's JSON file; raw scans have their skull."""
    try:
        name = scan.path.name.split(".")[0]
        content = read_json(scan.path.with_name(f"{name}.json"))
        return bool(content.get("SkullStripped", False))
    except (OSError, SynthSRError):
        return False
