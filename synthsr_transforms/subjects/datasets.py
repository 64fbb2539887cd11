"""Public tutorial data, by name: downloaded once, checked, and kept.

A data set is a list of files with their SHA-256 checksums and a web folder. Files are kept in
`<root>/<name>/`; a file that is there and whole is not downloaded again, so that everything works
offline once it has been fetched. `<root>` is the argument `root`, else the environment variable
`SYNTHSR_DATA`, else the cache folder of the user.

A file is downloaded under a temporary name and gets its own name only after its checksum was
found right: nothing is left half-written.
"""

from __future__ import annotations

import os
from pathlib import Path

import torchio as tio

from synthsr_transforms.support.messages import check_choice

from .dataset_downloads import ROOT_VARIABLE, DownloadError, data_root
from .dataset_registry import DATASETS, Dataset, Kind

__all__ = [
    "DATASETS",
    "ROOT_VARIABLE",
    "Dataset",
    "DownloadError",
    "Kind",
    "data_root",
    "describe",
    "fetch_labels",
    "fetch_priors",
    "load_subjects",
]


def describe(name: str) -> str:
    """Say what a data set is, where it comes from, its licence and what to cite.

    Examples:
        >>> print(describe("synthsr_labels"))  # doctest: +ELLIPSIS
        synthsr_labels: 5 brain label maps, 1 mm, ...
        Files: 5
        Source: https://raw.githubusercontent.com/BBillot/SynthSR/...
        Licence: Apache-2.0
        Citation: Iglesias JE, ...
    """
    dataset = _find(name)
    return (
        f"{dataset.name}: {dataset.description}\n"
        f"Files: {len(dataset.registry)}\n"
        f"Source: {dataset.base_url}\n"
        f"Licence: {dataset.licence}\n"
        f"Citation: {dataset.citation}"
    )


def fetch_labels(
    name: str,
    *,
    root: str | os.PathLike[str] | None = None,
    base_url: str | None = None,
    progressbar: bool = False,
) -> list[Path]:
    """Download a data set of label maps, or find it on disk.

    Args:
        name: `synthsr_labels` or `synthseg_labels`.
        root: See `Dataset.fetch`, as for the other arguments.
        base_url: Web folder to download from instead of the original one.
        progressbar: Show the progress of every download on standard error.

    Returns:
        Paths of the label maps, sorted by name.

    Examples:
        >>> paths = fetch_labels("synthsr_labels")  # doctest: +SKIP
        >>> paths[0].name  # doctest: +SKIP
        'brain1_labels.nii.gz'
    """
    dataset = _find(name, kind="labels")
    return dataset.fetch(root=root, base_url=base_url, progressbar=progressbar)


def fetch_priors(
    name: str,
    *,
    root: str | os.PathLike[str] | None = None,
    base_url: str | None = None,
    progressbar: bool = False,
) -> dict[str, Path]:
    """Download a data set of label lists, classes and priors, or find it on disk.

    Args:
        name: `synthsr_priors`.
        root: See `Dataset.fetch`, as for the other arguments.
        base_url: Web folder to download from instead of the original one.
        progressbar: Show the progress of every download on standard error.

    Returns:
        Paths of the `.npy` files, by file name without suffix.

    Examples:
        >>> files = fetch_priors("synthsr_priors")  # doctest: +SKIP
        >>> files["prior_means_t1_hr"].name  # doctest: +SKIP
        'prior_means_t1_hr.npy'
    """
    dataset = _find(name, kind="priors")
    paths = dataset.fetch(root=root, base_url=base_url, progressbar=progressbar)
    return {path.stem: path for path in paths}


def load_subjects(
    name: str,
    *,
    root: str | os.PathLike[str] | None = None,
    base_url: str | None = None,
    progressbar: bool = False,
) -> list[tio.Subject]:
    """Subjects with one image, `labels`, for every label map of a data set.

    Voxels are read when they are first used. The arguments are those of `fetch_labels`.

    Returns:
        Subjects, each with its label map as `labels` and the name of its file as `name`.
    """
    paths = fetch_labels(name, root=root, base_url=base_url, progressbar=progressbar)
    return [tio.Subject(labels=tio.LabelMap(path), name=path.name) for path in paths]


def _find(name: str, kind: Kind | None = None) -> Dataset:
    """The data set of a name, or an error with the nearest right spelling."""
    names = [n for n, dataset in DATASETS.items() if kind in (None, dataset.kind)]
    check_choice("name", name, names)
    return DATASETS[name]
