"""The page of a report."""

from __future__ import annotations

import base64
import hashlib
import math
import os
import statistics
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import jinja2
from PIL import Image, UnidentifiedImageError

from .entries import LAYERS, ReportEntry


class Picture(NamedTuple):
    """A picture of the page.

    Attributes:
        source: Its address: data, or a file beside the page.
        width: In pixels.
        height: In pixels.
    """

    source: str
    width: int
    height: int


class Row(NamedTuple):
    """A scan of the page.

    Attributes:
        key: Unique.
        entry: What is known of it.
        picture: None if there is none.
        layers: Many slices, by names of `entries.LAYERS`.
    """

    key: str
    entry: ReportEntry
    picture: Picture | None
    layers: Mapping[str, Picture]


def page(
    folder: Path,
    entries: Sequence[tuple[str, ReportEntry]],
    title: str,
    details: Mapping[str, str],
    embedded_bytes: int,
) -> Iterator[str]:
    """HTML of a report, in pieces.

    Args:
        folder: Folder of the report.
        entries: Entries, each with a unique key.
        title: Heading.
        details: What there is to know of the run.
        embedded_bytes: Pictures that are larger together stay in their files.
    """
    paths = [_files(folder, entry) for _, entry in entries]
    sizes = [path.stat().st_size for files in paths for path in files.values()]
    embed = sum(sizes) <= embedded_bytes
    rows = (
        _row(folder, key, entry, files, embed)
        for (key, entry), files in zip(entries, paths, strict=True)
    )
    return page_template("report.html.jinja").generate(
        title=title,
        details=details,
        summary=_summary([entry for _, entry in entries]),
        entries=entries,
        scored=any(entry.score is not None for _, entry in entries),
        rows=rows,
        conventions=sorted({entry.convention for _, entry in entries if entry.picture}),
        linked=bool(sizes) and not embed,
    )


@cache
def page_template(name: str) -> jinja2.Template:
    """A template of this folder that extends `base.html.jinja`, with its style and its script."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("synthsr_net.prediction.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["by"] = lambda numbers: " \N{MULTIPLICATION SIGN} ".join(
        f"{n:.4g}" for n in numbers
    )
    environment.filters["product"] = math.prod
    assert environment.loader is not None
    style, script = (
        environment.loader.get_source(environment, file)[0] for file in ("report.css", "report.js")
    )
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template(
        name, globals={"style": style, "script": script, "script_hash": digest}
    )


def _summary(entries: Sequence[ReportEntry]) -> dict[str, str]:
    """Figures at the top of the page."""
    seconds = [entry.seconds for entry in entries if entry.seconds is not None]
    done = [e.seconds for e in entries if e.seconds is not None and e.error is None]
    return {
        "scans": str(len(entries)),
        "failed": str(sum(entry.state == "failed" for entry in entries)),
        "with warnings": str(sum(entry.state == "warnings" for entry in entries)),
        "time of all scans": clock(sum(seconds)),
        "median per scan": clock(statistics.median(done)) if done else "-",
    }


def clock(seconds: float) -> str:
    """A time in words.

    Examples:
        >>> clock(7.64), clock(75), clock(7322)
        ('7.6 s', '1 min 15 s', '2 h 2 min')
    """
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


_PICTURE = "picture"


def _files(folder: Path, entry: ReportEntry) -> dict[str, Path]:
    """Files of a scan that are there: its picture, and layers by their names."""
    given = {_PICTURE: entry.picture, **entry.layers}
    paths = {name: folder / path for name, path in given.items() if path}
    return {name: path for name, path in paths.items() if path.is_file()}


def _row(folder: Path, key: str, entry: ReportEntry, files: Mapping[str, Path], embed: bool) -> Row:
    read = {name: _picture(folder, path, embed) for name, path in files.items()}
    found = {name: picture for name, picture in read.items() if picture is not None}
    layers = {name: found[name] for name in LAYERS if name in found and "scan" in found}
    return Row(key, entry, found.get(_PICTURE), layers)


def _picture(folder: Path, path: Path, embed: bool) -> Picture | None:
    picture = embedded(path)
    if picture is None or embed:
        return picture
    relative = Path(os.path.relpath(path, folder)).as_posix()
    return picture._replace(source=quote(relative, errors="surrogateescape"))


def embedded(path: Path) -> Picture | None:
    """A picture as data within the page; None if it cannot be read."""
    try:
        with Image.open(path) as picture:
            width, height, kind = *picture.size, picture.get_format_mimetype()
    except (OSError, UnidentifiedImageError):
        return None
    data = base64.b64encode(path.read_bytes()).decode()
    return Picture(f"data:{kind};base64,{data}", width, height)
