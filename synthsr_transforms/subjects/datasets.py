"""Public tutorial data by name: downloaded once, checked by SHA-256, and kept.

Files are kept in `<root>/<name>/`. A file that is there and whole is not downloaded again, so that
everything works offline from then on. `<root>` is the argument `root`, else the environment
variable `SYNTHSR_DATA`, else the user's cache folder.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from synthsr_transforms.support.config import read_yaml
from synthsr_transforms.support.downloads import WebFile, data_root, fetch
from synthsr_transforms.support.messages import check_choice


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A named list of files on the web.

    Examples:
        >>> DATASETS["synthsr_labels"].licence
        'Apache-2.0'
    """

    name: str
    description: str
    licence: str
    """SPDX identifier."""
    citation: str
    """The publication to cite when the data are used."""
    base_url: str
    """Web folder of the files."""
    registry: Mapping[str, str]
    """File name -> SHA-256, in hexadecimal digits."""

    def fetch(
        self,
        *,
        root: str | os.PathLike[str] | None = None,
        base_url: str | None = None,
        progressbar: bool = False,
    ) -> list[Path]:
        """Download the files that are not there yet.

        Args:
            root: Folder in which data sets are kept; the files go to `<root>/<name>/`. By
                default the environment variable `SYNTHSR_DATA`, else the user's cache folder.
            base_url: Web folder to download from instead of the original one (a mirror).
            progressbar: Show the progress of every download on standard error.

        Returns:
            Paths of all files, in the order of `registry`.

        Raises:
            DownloadError: A file cannot be reached, or its checksum is wrong.
        """
        folder, base = data_root(root) / self.name, (base_url or self.base_url).rstrip("/")
        return [
            fetch(
                WebFile(url=f"{base}/{name}", path=folder / name, sha256=checksum),
                progressbar=progressbar,
            )
            for name, checksum in self.registry.items()
        ]


DATASETS: Mapping[str, Dataset] = {
    name: Dataset(name=name, **facts)
    for name, facts in read_yaml(Path(__file__).with_name("datasets.yaml")).items()
}
"""All data sets, by name; `datasets.yaml` lists them."""


def fetch_dataset(name: str, root: str | os.PathLike[str] | None = None) -> list[Path]:
    """Download a data set, or find it on disk.

    Args:
        name: One of `DATASETS`.
        root: See `Dataset.fetch`, which can download from a mirror as well.

    Returns:
        Paths of its files, sorted by name.

    Examples:
        >>> paths = fetch_dataset("synthsr_labels")  # doctest: +SKIP
        >>> paths[0].name  # doctest: +SKIP
        'brain1_labels.nii.gz'
    """
    return DATASETS[check_choice("name", name, DATASETS)].fetch(root=root)
