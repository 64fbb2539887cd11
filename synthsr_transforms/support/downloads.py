"""Downloads with known checksums: a file appears on disk whole, or not at all."""

from __future__ import annotations

import io
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pooch

from synthsr_transforms.support.messages import WorkFailedError

log = logging.getLogger("synthsr_transforms")
ROOT_VARIABLE = "SYNTHSR_DATA"
"""Environment variable that names the folder in which data sets and models are kept."""
RETRIES = 1
"""Further attempts after a download that failed or has another checksum."""
TIMEOUT_SECONDS = 30
MAX_BYTES = 100 * 10**6
"""Most bytes of a file of unknown size."""


class DownloadError(WorkFailedError):
    """A file could not be downloaded, or is not the file that was expected."""


@dataclass(frozen=True, kw_only=True)
class WebFile:
    """A file on the web and its place on disk."""

    url: str
    path: Path
    sha256: str
    """In hexadecimal digits."""
    size_bytes: int | None = None
    """Size, after which a download ends; None if unknown: `MAX_BYTES` then."""

    @property
    def is_whole(self) -> bool:
        """Whether the file is on disk, with the right checksum."""
        return self.path.is_file() and pooch.file_hash(str(self.path)) == self.sha256


def data_root(root: str | os.PathLike[str] | None = None) -> Path:
    """Folder in which data sets and models are kept.

    Examples:
        >>> data_root("downloads").as_posix()
        'downloads'
    """
    chosen = root or os.environ.get(ROOT_VARIABLE) or pooch.os_cache("synthsr")
    return Path(chosen).expanduser()


def fetch(file: WebFile, *, progressbar: bool = False) -> Path:
    """Download a file, unless it is on disk already.

    Args:
        file: The file.
        progressbar: Show the progress on standard error.

    Returns:
        Path of the file, whole and checked.

    Raises:
        DownloadError: If the file cannot be reached or written, or its checksum is wrong. A file
            that was there before stays.
    """
    if file.is_whole:
        return file.path
    pooch.get_logger().setLevel("INFO" if progressbar else "WARNING")
    name, folder = file.path.name, file.path.parent
    source = pooch.create(
        path=folder,
        base_url="",
        registry={name: f"sha256:{file.sha256}"},
        urls={name: file.url},
        retry_if_failed=RETRIES,
    )
    log.info("downloading %s to %s", file.url, folder)
    download = pooch.HTTPDownloader(progressbar=progressbar, timeout=TIMEOUT_SECONDS)

    def download_bounded(url: str, output: str, pup: pooch.Pooch) -> None:
        with _Bounded(output, "wb") as stream:
            stream.left = file.size_bytes or MAX_BYTES
            download(url, stream, pup)

    try:
        source.fetch(name, downloader=download_bounded)
    except (OSError, ValueError) as error:
        raise DownloadError(
            f"{name} could not be downloaded from {file.url} to {folder}: {_reason(error)}."
            f" Check the connection, name a mirror or another folder ({ROOT_VARIABLE}), or put the"
            " file there yourself."
        ) from error
    return file.path


class _Bounded(io.FileIO):
    """File that takes no more bytes than it is told."""

    left = 0

    def write(self, block: Any) -> int:
        """Write; more than is left is an error."""
        self.left -= len(block)
        if self.left < 0:
            raise ValueError("the server sends more bytes than the file has")
        return super().write(block)


def _reason(error: OSError | ValueError) -> str:
    """Why a download failed, in few words."""
    response = getattr(error, "response", None)  # of requests, whose messages are long
    if response is not None:
        return f"{response.status_code} {response.reason}"
    if isinstance(error, ValueError):
        return " ".join(str(error).split()).rstrip(".")
    return error.strerror or type(error).__name__
