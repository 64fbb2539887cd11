"""Downloads: a file of the web appears on disk whole and checked, or not at all.

What has arrived is kept in a hidden file beside it, `.NAME.part`, so that a download that broke
off can go on. That file is locked while it is written: of several processes that want the same
file, one downloads it and the others wait.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pooch

from synthsr_transforms.support.messages import WorkFailedError

from .download_bar import DownloadBar, download_bar

ATTEMPTS = 5
"""How often a transfer is begun again, as long as each attempt brings more of the file."""
SECONDS_BETWEEN_ATTEMPTS = 1.0
_CHUNK_BYTES = 2**16
_TIMEOUT_SECONDS = 30
_BROKEN = "a connection that broke off"
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


class DownloadError(WorkFailedError):
    """A file could not be downloaded, or is not the file that was expected."""


@dataclass(frozen=True, kw_only=True)
class WebFile:
    """A file of the web and its place on disk."""

    url: str
    path: Path
    sha256: str
    """In hexadecimal digits."""
    size_bytes: int | None = None
    """None if it is not known."""

    @property
    def is_whole(self) -> bool:
        """Whether the file is on disk, with the right checksum."""
        return self.path.is_file() and pooch.file_hash(str(self.path)) == self.sha256


def fetch(
    file: WebFile, *, resumable: bool = False, overwrite: bool = False, progressbar: bool = False
) -> Path:
    """Download a file, unless it is on disk already.

    Args:
        file: What to download, and where to.
        resumable: Keep what has arrived when the download breaks off, and go on from there.
        overwrite: Download the file even if it is on disk.
        progressbar: Show the progress on standard error.

    Returns:
        Path of the file, whole and checked.

    Raises:
        DownloadError: If the file cannot be reached or written, or its checksum is wrong. A file
            that was there before stays.
    """
    try:
        if not overwrite and file.is_whole:
            return file.path
        file.path.parent.mkdir(parents=True, exist_ok=True)
        with (
            download_bar(file.path.name) if progressbar else nullcontext() as bar,
            _part_of(file.path, resumable, bar) as part,
        ):
            if overwrite or not file.is_whole:  # another process may have been quicker
                _complete(file, part, bar)
    except DownloadError:
        raise
    except OSError as error:
        raise DownloadError(_explain(error, file, resumable)) from error
    return file.path


def _complete(file: WebFile, part: BinaryIO, bar: DownloadBar | None) -> None:
    """Bring the part of a file to its end, check it, and give it its name."""
    resumed = _size(part) > 0
    _transfer(file, part, bar)
    if resumed and pooch.file_hash(part.name) != file.sha256:
        part.truncate(0)  # it may have begun as another file
        _transfer(file, part, bar)
    got = pooch.file_hash(part.name)
    if got == file.sha256:
        os.replace(part.name, file.path)
        return
    with open(part.name, "rb") as stream:
        page = ", a web page" if stream.read(64).lstrip().startswith(b"<") else ""
    size = _size(part)
    part.truncate(0)
    raise DownloadError(
        f"SHA-256 of {file.url} must be {file.sha256}, got {got} ({size:,} bytes{page}). Nothing"
        " was kept: try again, and if it stays so, the file was changed at its source and should"
        " not be trusted."
    )


# Part of a file ----------------------------------------------------------------------------------


@contextmanager
def _part_of(path: Path, keep: bool, bar: DownloadBar | None) -> Iterator[BinaryIO]:
    """What is there of a file, for appending; no other process has it at the same time."""
    name = path.with_name(f".{path.name}.part")
    while True:
        part = name.open("ab")
        _lock(part, path.name, bar)
        if _is_at(part, name):
            break
        part.close()  # another process completed it
    try:
        yield part
        keep = False
    except OSError as error:
        keep = keep and error.errno not in _DISK_FULL
        raise
    finally:
        if _is_at(part, name) and not (keep and _size(part)):
            name.unlink()
        part.close()


def _lock(part: BinaryIO, name: str, bar: DownloadBar | None) -> None:
    with suppress(OSError):  # file systems without locks: the checksum decides
        try:
            fcntl.flock(part, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if bar is not None:
                bar.say(f"{name}: waiting for another process that downloads it")
            fcntl.flock(part, fcntl.LOCK_EX)


def _is_at(part: BinaryIO, name: Path) -> bool:
    """Whether an open file is the one of a name."""
    try:
        return os.path.samestat(os.fstat(part.fileno()), name.stat())
    except FileNotFoundError:
        return False


def _size(part: BinaryIO) -> int:
    part.flush()
    return os.fstat(part.fileno()).st_size


# Transfer ----------------------------------------------------------------------------------------


def _transfer(file: WebFile, part: BinaryIO, bar: DownloadBar | None) -> None:
    """Append the rest of a file, again and again while attempts bring more of it."""
    from requests import HTTPError, RequestException

    _check_space(file, part)
    for attempt in range(1, ATTEMPTS + 1):
        before = _size(part)
        if before == file.size_bytes:
            return
        try:
            _request(file.url, part, bar)
            return
        except HTTPError as error:
            if _status(error) != 416 or not before:  # 416: there is no such range
                raise
            part.truncate(0)
        except RequestException:
            if _size(part) <= before or attempt == ATTEMPTS:
                raise
        time.sleep(SECONDS_BETWEEN_ATTEMPTS)


def _request(url: str, part: BinaryIO, bar: DownloadBar | None) -> None:
    """Ask once for what is missing of a file."""
    from requests import ConnectionError as BrokenOffError

    have, due = _size(part), 0

    def on_response(response: Any, **_: Any) -> None:
        nonlocal due
        if not response.ok:
            response.close()
        elif response.status_code != 206 and not response.is_redirect:
            part.truncate(0)  # the whole file comes, not what is missing of it
        offset = have if response.status_code == 206 else 0
        due = offset + int(response.headers.get("content-length", 0))
        if bar is not None:
            bar.offset_bytes = offset

    headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={have}-"} if have else {})}
    get = pooch.HTTPDownloader(
        bar or False,
        _CHUNK_BYTES,
        headers=headers,
        hooks={"response": on_response},
        timeout=_TIMEOUT_SECONDS,
    )
    get(url, part, None)
    if _size(part) < due:
        raise BrokenOffError("the connection broke off")


def _check_space(file: WebFile, part: BinaryIO) -> None:
    missing = (file.size_bytes or 0) - _size(part)
    if shutil.disk_usage(file.path.parent).free < missing:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


# Errors ------------------------------------------------------------------------------------------


def _explain(error: OSError, file: WebFile, resumable: bool) -> str:
    """Say what went wrong, and what to do, in one line."""
    from requests import RequestException

    name, folder = file.path.name, file.path.parent
    if not isinstance(error, RequestException):
        need = f" {name} takes {file.size_bytes:,} bytes." if file.size_bytes else ""
        advice = "Free some space" if error.errno in _DISK_FULL else "Make it writable"
        return (
            f"{folder} must be a folder that {name} can be written to, got"
            f" {error.strerror or error}.{need} {advice}, or name another folder by SYNTHSR_DATA."
        )
    reason = _reason(error)
    again = " Try again: it goes on from there." if resumable and reason == _BROKEN else ""
    return (
        f"{name} must be reachable at {file.url}, got {reason}.{again} Check the connection, name a"
        f" mirror, or put the file into {folder} yourself."
    )


def _reason(error: Any) -> str:
    """What a failed request tells, in few words."""
    from requests import ConnectionError, HTTPError, Timeout
    from requests.exceptions import ChunkedEncodingError, ProxyError, SSLError

    if isinstance(error, HTTPError):
        return f"{_status(error)} {getattr(error.response, 'reason', '')}".strip()
    text = " ".join(str(error).split())
    if isinstance(error, Timeout) or "timed out" in text:
        return f"no answer within {_TIMEOUT_SECONDS} s"
    kinds: tuple[tuple[type[Exception], str], ...] = (
        (ProxyError, "no answer from the proxy"),
        (SSLError, "a certificate that is not trusted (REQUESTS_CA_BUNDLE names a file of others)"),
        (ChunkedEncodingError, _BROKEN),
    )
    for kind, reason in kinds:
        if isinstance(error, kind):
            return reason
    if isinstance(error, ConnectionError):
        return _BROKEN if "broke" in text or "IncompleteRead" in text else "no connection"
    return text


def _status(error: Any) -> int | None:
    """Number of the answer that a request failed with."""
    return getattr(error.response, "status_code", None)
