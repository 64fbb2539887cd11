"""`synthsr models`: which models there are, and getting them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import click

from .errors import WorkFailedError
from .options import overwrite_option, traceback_option

if TYPE_CHECKING:
    from synthsr_net.models import KnownModel

COLUMNS = ("name", "input", "MB", "licence", "state")


@click.group(invoke_without_command=True)
@traceback_option
@click.pass_context
def models(ctx: click.Context) -> None:
    """List, download and describe models.

    Downloaded models are kept in the folder that SYNTHSR_DATA names, by default the user's cache;
    from then on they work offline. Off a terminal, the list is tab-separated text.

    \b
    Examples:
      Which models there are:
        synthsr models
      Get one:
        synthsr models download synthsr-v2
      What a model file is:
        synthsr models show my_model.safetensors
    """  # noqa: D301 - click reads the character itself
    if ctx.invoked_subcommand is None:
        _list()


@models.command("list")
def list_command() -> None:
    """List the models that have a name."""
    _list()


@models.command()
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@click.option(
    "--url",
    metavar="URL",
    help="Web folder that holds the file, or the file itself (a mirror).  [default: the environment"
    " variable SYNTHSR_MODELS_URL, else where the model was published]",
)
@overwrite_option
def download(names: tuple[str, ...], url: str | None, overwrite: bool) -> None:
    """Download models, checked by their SHA-256. A download that broke off goes on."""
    from synthsr_net.models import (
        KNOWN_MODELS,
        DownloadError,
        download_model,
        shipped_models,
        web_file,
    )

    for name in names:  # first, so that nothing is downloaded if one is wrong
        if name not in shipped_models():
            web_file(name)
    failures = []
    for name in names:
        try:
            path = download_model(name, base_url=url, overwrite=overwrite, progressbar=True)
        except DownloadError as error:
            failures.append(str(error))
            continue
        click.echo(path)
        if name in KNOWN_MODELS:
            known = KNOWN_MODELS[name]
            click.echo(f"{name}: {known.licence}. {known.licence_note}", err=True)
    if failures:
        raise WorkFailedError(" ".join(failures))


@models.command("path")
@click.argument("name")
def path_command(name: str) -> None:
    """Print where the file of a model is, after checking it."""
    from synthsr_net.models import resolve_model

    click.echo(resolve_model(name))


@models.command()
@click.argument("model", metavar="NAME|FILE")
def show(model: str) -> None:
    """Print everything that is known of a model, such as what to cite."""
    from dataclasses import asdict

    import yaml

    from synthsr_net.models import KNOWN_MODELS, read_any_config, resolve_model
    from synthsr_net.models.configs import config_of_known

    if model in KNOWN_MODELS:
        known = KNOWN_MODELS[model]
        config, lines = config_of_known(known), dict(_published(known))
    else:
        path = resolve_model(model)
        config, lines = read_any_config(path), {"file": str(path)}
    settings = asdict(config)
    described = {key: settings.pop(key) for key in ("name", "description", "licence", "citation")}
    for label, text in (described | lines).items():
        for line in str(text).splitlines():
            click.echo(f"{label}: {line}")
    text = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True, default_flow_style=None)
    click.echo(text, nl=False)


def _published(known: KnownModel) -> Iterator[tuple[str, str]]:
    from synthsr_net.models import cached_path, state_of

    yield "state", state_of(known)
    yield "file", str(cached_path(known)) if known.url else known.file
    if known.url is not None:
        yield "source", known.url
        yield "size", f"{known.size_bytes:,} bytes"
        yield "sha256", str(known.sha256)


def _list() -> None:
    from synthsr_net.models import list_models

    rows = [
        (m.name, m.inputs, f"{m.size_bytes / 1e6:.1f}" if m.size_bytes else "-", m.licence, m.state)
        for m in list_models()
    ]
    if not sys.stdout.isatty():
        for row in (COLUMNS, *rows):
            click.echo("\t".join(row))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table()
    for column in COLUMNS:
        justify: Literal["left", "right"] = "right" if column == "MB" else "left"
        table.add_column(column, justify=justify, no_wrap=column == "name")
    for row in rows:
        table.add_row(*row)
    Console().print(table)
