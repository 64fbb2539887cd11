"""Files of models by name: those that ship with the package, and those downloaded on request."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import pooch

from synthsr_net.models.checkpoint import ModelConfig, read_config
from synthsr_transforms.support.downloads import WebFile, data_root, fetch
from synthsr_transforms.support.messages import suggest
from synthsr_transforms.support.pointers import pointer_fault, refuse_pointer

from .registry import PUBLISHED_MODELS, ModelError, PublishedModel

SHIPPED_FOLDER = Path(__file__).parents[2] / "weights"
"""Folder of the models that ship with the package, `NAME.safetensors`."""
CHECKSUMS = "SHA256SUMS"
"""File in that folder with the SHA-256 of each, as `sha256sum *.safetensors` writes it there."""
DEFAULT_MODEL = "synthsr-t1-v2"
"""Model that is used where none is named."""
EARLIER_MODELS = ("synthsr-t1-v1",)
"""Models that were it before, for those who want the same results."""
SEGMENTATION_MODEL = "synthsr-seg-v1"
"""Model that tells structures apart where none is named."""
ALIASES: Mapping[str, str] = {"fast": "synthsr-t1-fast-v1"}
"""Short names, and the shipped models that they stand for. They stay when a model gets a successor,
so write the full name where results must not change."""
URL_VARIABLE = "SYNTHSR_MODELS_URL"
"""Environment variable that names a web folder to download models from (a mirror)."""

_ENDINGS = (".safetensors", ".h5", ".hdf5", ".keras")


# Names -------------------------------------------------------------------------------------------


def default_model() -> str:
    """Name of the model that is used where none is named."""
    return DEFAULT_MODEL


def full_name(name: str) -> str:
    """The name that an alias stands for; other names stay as they are.

    Examples:
        >>> full_name("fast"), full_name("synthsr-v2")
        ('synthsr-t1-fast-v1', 'synthsr-v2')
    """
    return ALIASES.get(name, name)


def alias_of(name: str) -> str | None:
    """The alias of a model, or None."""
    return next((alias for alias, full in ALIASES.items() if full == name), None)


def _unknown(name: str, expected: str) -> ModelError:
    names = [*shipped_models(), *PUBLISHED_MODELS]
    listed = ", ".join(f"{n} (or {alias})" if (alias := alias_of(n)) else n for n in names)
    return ModelError(f"{expected} {listed}, got {name!r}{suggest(name, [*names, *ALIASES])}.")


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
        return _shipped_file(name)
    if name in PUBLISHED_MODELS:
        return _cached_file(name, root)
    path = Path(name).expanduser()
    refuse_pointer(path)
    if path.is_file():
        return path
    if path.suffix.lower() in _ENDINGS or os.sep in name or path.exists():
        found = "is a folder" if path.is_dir() else "does not exist"
        raise ModelError(f"{path} must be a model file, but {found}. Check the path.")
    raise _unknown(name, "model must be a file, or one of")


# Models that ship with the package ---------------------------------------------------------------


def shipped_models() -> dict[str, Path]:
    """Files of the models that ship with the package, by name, the default first.

    Examples:
        >>> list(shipped_models())
        ['synthsr-t1-v2', 'synthsr-t1-fast-v1', 'synthsr-seg-v1', 'synthsr-t1-v1']
    """
    names = dict.fromkeys([DEFAULT_MODEL, *ALIASES.values(), SEGMENTATION_MODEL, *EARLIER_MODELS])
    return {name: SHIPPED_FOLDER / f"{name}.safetensors" for name in names}


def checksums() -> dict[str, str]:
    """SHA-256 of each shipped file, in hexadecimal digits, by file name; empty if unknown."""
    try:
        lines = (SHIPPED_FOLDER / CHECKSUMS).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return {}
    pairs = [line.split() for line in lines]
    return {pair[1].lstrip("*"): pair[0] for pair in pairs if len(pair) == 2}


def fault_of_shipped(name: str) -> str | None:
    """Fault of the file of a shipped model, and the remedy; None if it is whole."""
    path, again = shipped_models()[name], "Install the package again."
    if not path.is_file():
        return f"is missing. {again}"
    try:
        if fault := pointer_fault(path):
            return f"{fault} {again}"
        found = pooch.file_hash(str(path))
    except OSError as error:
        return f"cannot be read ({error.strerror}). {again}"
    return None if found == checksums().get(path.name) else f"has another checksum. {again}"


def _shipped_file(name: str) -> Path:
    path = shipped_models()[name]
    if fault := fault_of_shipped(name):
        raise ModelError(
            f"{path} must be the file of model {name}, which ships with the package, but {fault}"
        )
    return path


# Published models --------------------------------------------------------------------------------


def cached_path(known: PublishedModel, root: str | os.PathLike[str] | None = None) -> Path:
    """Place of the file of a published model on disk.

    Args:
        known: The model.
        root: Folder in which data sets and models are kept. By default the environment variable
            `SYNTHSR_DATA`, else the user's cache folder.

    Examples:
        >>> cached_path(PUBLISHED_MODELS["synthsr-v2"], "data").as_posix()
        'data/models/synthsr_v20_230130.h5'
    """
    return data_root(root) / "models" / known.file


def state_of(known: PublishedModel, root: str | os.PathLike[str] | None = None) -> str:
    """`cached`, `not downloaded`, `damaged` (of a wrong size), or `bring your own file`.

    Checksums take a while, and are looked at when a model is used.
    """
    if known.url is None:
        return "bring your own file"
    path = cached_path(known, root)
    if not path.is_file():
        return "not downloaded"
    return "cached" if path.stat().st_size == known.size_bytes else "damaged"


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
    if name not in PUBLISHED_MODELS:
        raise _unknown(name, "model must be one of")
    known = PUBLISHED_MODELS[name]
    if known.url is None or known.sha256 is None:
        raise ModelError(
            f"model {name} cannot be downloaded: get {known.file} from"
            " https://github.com/BBillot/SynthSR or from FreeSurfer, and say --model FILE"
        )
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
    progressbar: bool = False,
) -> Path:
    """Download a published model, or find it on disk; shipped models are there already.

    Args:
        name: Such as `synthsr-v2`.
        root: See `cached_path`.
        base_url: Web folder that holds the file, or address of the file itself. By default the
            environment variable `SYNTHSR_MODELS_URL`, else where the model was published.
        progressbar: Show the progress on standard error.

    Returns:
        Path of the file, whole and checked.

    Raises:
        ModelError: If the name is unknown, or of a model that cannot be downloaded.
        DownloadError: If the file cannot be reached or written, or its checksum is wrong.
    """
    if full_name(name) in shipped_models():
        return _shipped_file(full_name(name))
    return fetch(web_file(name, root=root, base_url=base_url), progressbar=progressbar)


def _cached_file(name: str, root: str | os.PathLike[str] | None) -> Path:
    file = web_file(name, root=root)
    if file.is_whole:
        return file.path
    command = f"synthsr models download {name}"
    if file.path.is_file():
        raise ModelError(
            f"{file.path} must be the file of {name}, but has another checksum. Get it again:"
            f" {command}"
        )
    raise ModelError(
        f"model {name} must be downloaded before it is used: {command} (or put"
        f" {file.path.name} into {file.path.parent})"
    )


# The list of models that have a name --------------------------------------------------------------


class ListedModel(NamedTuple):
    """A model that has a name.

    Attributes:
        name: What `--model` takes.
        inputs: The scans that it takes, in words.
        size_bytes: Size of its file; None if not known.
        licence: In short; `unknown` for a damaged file.
        state: `shipped`, `damaged`, or see `state_of`.
        alias: A shorter name that `--model` takes as well; None if there is none.
        is_default: Whether it is used where no model is named.
    """

    name: str
    inputs: str
    size_bytes: int | None
    licence: str
    state: str
    alias: str | None
    is_default: bool


def list_models(root: str | os.PathLike[str] | None = None) -> list[ListedModel]:
    """All models that have a name: those that ship with the package, then published ones.

    Args:
        root: See `cached_path`.

    Examples:
        >>> [model.name for model in list_models()][0]
        'synthsr-t1-v2'
    """
    models = []
    for name, path in shipped_models().items():
        if fault_of_shipped(name) is None:
            models.append(_listed(name, read_config(path), path.stat().st_size, "shipped"))
        else:
            models.append(_listed(name, ModelConfig(), None, "damaged"))
    for name, known in PUBLISHED_MODELS.items():
        models.append(_listed(name, known.config, known.size_bytes, state_of(known, root)))
    return models


def _listed(name: str, config: ModelConfig, size_bytes: int | None, state: str) -> ListedModel:
    contrasts = ["any contrast" if i.contrast == "any" else i.contrast for i in config.inputs]
    licence = config.licence.partition(". ")[0]
    default = name == default_model()
    return ListedModel(
        name, " + ".join(contrasts), size_bytes, licence, state, alias_of(name), default
    )
