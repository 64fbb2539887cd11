"""Files of models by name: found on disk, or downloaded on request."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urlsplit

from synthsr_transforms.subjects.dataset_downloads import data_root
from synthsr_transforms.support.downloads import WebFile, fetch
from synthsr_transforms.support.messages import suggest

from .registry import KNOWN_MODELS, KnownModel, ModelError
from .shipped import alias_of, full_name, shipped_file, shipped_models

URL_VARIABLE = "SYNTHSR_MODELS_URL"
"""Environment variable that names a web folder to download models from (a mirror)."""

_ENDINGS = (".safetensors", ".h5", ".hdf5", ".keras")


def cached_path(known: KnownModel, root: str | os.PathLike[str] | None = None) -> Path:
    """Where the file of a published model is kept.

    Args:
        known: The model.
        root: Folder in which data sets and models are kept. By default the environment variable
            `SYNTHSR_DATA`, else the user's cache folder.

    Examples:
        >>> cached_path(KNOWN_MODELS["synthsr-v2"], "data").as_posix()
        'data/models/synthsr_v20_230130.h5'
    """
    return data_root(root) / "models" / known.file


def state_of(known: KnownModel, root: str | os.PathLike[str] | None = None) -> str:
    """`cached`, `not downloaded`, `damaged` (of a wrong size), or `bring your own file`.

    Checksums take a while, and are looked at when a model is used.
    """
    if known.url is None:
        return "bring your own file"
    path = cached_path(known, root)
    if not path.is_file():
        return "not downloaded"
    return "cached" if path.stat().st_size == known.size_bytes else "damaged"


def find_known(name: str) -> KnownModel:
    """The published model of a name.

    Raises:
        ModelError: If there is none; the nearest spelling is suggested.
    """
    if name in KNOWN_MODELS:
        return KNOWN_MODELS[name]
    raise _unknown(name, "model must be one of")


def _unknown(name: str, expected: str) -> ModelError:
    aliases = {full: alias for full in shipped_models() if (alias := alias_of(full))}
    names = [*shipped_models(), *KNOWN_MODELS]
    listed = ", ".join(f"{n} (or {aliases[n]})" if n in aliases else n for n in names)
    close = suggest(name, [*names, *aliases.values()])
    return ModelError(f"{expected} {listed}, got {name!r}{close}.")


def web_file(
    name: str, *, root: str | os.PathLike[str] | None = None, base_url: str | None = None
) -> WebFile:
    """File of a published model on the web, and its place on disk.

    Args:
        name: Such as `synthsr-v2`.
        root: See `cached_path`.
        base_url: See `download_model`.

    Raises:
        ModelError: If the name is unknown, or of a model that cannot be downloaded.
    """
    known = find_known(name)
    if known.url is None or known.sha256 is None:
        raise _bring_your_own(known)
    url, mirror = known.url, base_url or os.environ.get(URL_VARIABLE)
    if mirror:
        is_file = urlsplit(mirror).path.endswith(_ENDINGS)
        url = mirror if is_file else f"{mirror.rstrip('/')}/{known.file}"
    path = cached_path(known, root)
    return WebFile(url=url, path=path, sha256=known.sha256, size_bytes=known.size_bytes)


def download_model(
    name: str,
    *,
    root: str | os.PathLike[str] | None = None,
    base_url: str | None = None,
    overwrite: bool = False,
    progressbar: bool = False,
) -> Path:
    """Download a published model, or find it on disk; a download that broke off goes on.

    Models that ship with the package are there already.

    Args:
        name: Such as `synthsr-v2`.
        root: See `cached_path`.
        base_url: Web folder that holds the file, or address of the file itself. By default the
            environment variable `SYNTHSR_MODELS_URL`, else where the model was published.
        overwrite: Download it even if it is there.
        progressbar: Show the progress on standard error.

    Returns:
        Path of the file, whole and checked.

    Raises:
        ModelError: If the name is unknown, or of a model that cannot be downloaded.
        DownloadError: If the file cannot be reached or written, or its checksum is wrong.
    """
    if full_name(name) in shipped_models():
        return shipped_file(full_name(name))
    file = web_file(name, root=root, base_url=base_url)
    return fetch(file, resumable=True, overwrite=overwrite, progressbar=progressbar)


def resolve_model(
    name_or_path: str | os.PathLike[str], *, root: str | os.PathLike[str] | None = None
) -> Path:
    """File of a model, which must be on disk.

    Names and aliases come before paths, so that they mean the same in every folder: a file called
    `fast` is `./fast`.

    Args:
        name_or_path: Name or alias of a shipped model, name of a published one, or path of a model
            file.
        root: See `cached_path`.

    Raises:
        ModelError: If there is no such model or file, or a shipped or downloaded file is damaged.

    Examples:
        >>> resolve_model("fast").name
        'synthsr-t1-fast-v1.safetensors'
    """
    name = full_name(os.fspath(name_or_path))
    if name in shipped_models():
        return shipped_file(name)
    if name in KNOWN_MODELS:
        return _cached(KNOWN_MODELS[name], root)
    path = Path(name).expanduser()
    if path.is_file():
        return path
    if path.suffix.lower() in _ENDINGS or os.sep in name or path.exists():
        found = "is a folder" if path.is_dir() else "does not exist"
        raise ModelError(f"{path} must be a model file, but {found}. Check the path.")
    raise _unknown(name, "model must be a file, or one of")


def _cached(known: KnownModel, root: str | os.PathLike[str] | None) -> Path:
    file = web_file(known.name, root=root)
    if file.is_whole:
        return file.path
    command = f"synthsr models download {known.name}"
    if file.path.is_file():
        raise ModelError(
            f"{file.path} must be the file of {known.name}, but has another checksum. Get it again:"
            f" {command}"
        )
    raise ModelError(
        f"model {known.name} must be downloaded before it is used: {command} (or put"
        f" {known.file} into {file.path.parent})"
    )


def _bring_your_own(known: KnownModel) -> ModelError:
    return ModelError(
        f"model {known.name} must be brought along: get {known.file} from"
        " https://github.com/BBillot/SynthSR or from FreeSurfer, and say --model FILE"
    )
