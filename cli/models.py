"""`synthsr models`: which models there are, and getting them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from synthsr_cli.common.describing import network_in_words, outline, use_in_words
from synthsr_cli.common.messages import log
from synthsr_cli.common.options import complete_models, traceback_option
from synthsr_cli.common.tables import print_table
from synthsr_transforms.support.messages import WorkFailedError

if TYPE_CHECKING:
    from synthsr_net.models.checkpoint import ModelConfig
    from synthsr_net.models.zoo.registry import PublishedModel

COLUMNS = ("name", "alias", "input", "MB", "licence", "state")


@click.group(invoke_without_command=True)
@traceback_option
@click.pass_context
def models(ctx: click.Context) -> None:
    """List, describe and download models.

    Two models ship with the package. Downloaded ones are kept in the folder that SYNTHSR_DATA
    names, by default the user's cache; from then on they work offline. Off a terminal, the list is
    tab-separated text.

    \b
    Examples:
      Which models there are:
        synthsr models
      What a model is, and how it was trained:
        synthsr models show fast
        synthsr models show my_model.safetensors
      Get one that does not ship with the package:
        synthsr models download synthsr-v2
    """  # noqa: D301 - click reads the character itself
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_command)


@models.command("list")
def list_command() -> None:
    """List the models that have a name."""
    from synthsr_net.models.zoo.files import list_models

    rows = [
        (
            m.name,
            m.alias or "-",
            m.inputs,
            f"{m.size_bytes / 1e6:.1f}" if m.size_bytes else "-",
            m.licence,
            f"{m.state}, the default" if m.is_default else m.state,
        )
        for m in list_models()
    ]
    print_table(COLUMNS, rows, left=("name", "alias", "input", "licence", "state"))


@models.command()
@click.argument("names", metavar="NAME...", nargs=-1, required=True, shell_complete=complete_models)
@click.option(
    "--url",
    metavar="URL",
    help="Web folder that holds the file, or the file itself (a mirror).  [default: the environment"
    " variable SYNTHSR_MODELS_URL, else where the model was published]",
)
def download(names: tuple[str, ...], url: str | None) -> None:
    """Download models, checked by their SHA-256; a damaged file is replaced."""
    from synthsr_net.models.zoo.files import download_model, full_name, shipped_models, web_file
    from synthsr_net.models.zoo.registry import PUBLISHED_MODELS
    from synthsr_transforms.support.downloads import DownloadError

    for name in names:  # first, so that nothing is downloaded if one is wrong
        if full_name(name) not in shipped_models():
            web_file(name)
    failures = []
    for name in names:
        try:
            path = download_model(name, base_url=url, progressbar=True)
        except DownloadError as error:
            failures.append(str(error))
            continue
        click.echo(path)
        if name in PUBLISHED_MODELS:
            log.info(f"{name}: {PUBLISHED_MODELS[name].config.licence}")
    if failures:
        raise WorkFailedError(" ".join(failures))


@models.command("path")
@click.argument("name", shell_complete=complete_models)
def path_command(name: str) -> None:
    """Print where the file of a model is, after checking it."""
    from synthsr_net.models.zoo.files import resolve_model

    click.echo(resolve_model(name))


@models.command()
@click.argument("model", metavar="NAME|FILE", shell_complete=complete_models)
@click.option("--yaml", "as_yaml", is_flag=True, help="Print every setting, as YAML.")
def show(model: str, as_yaml: bool) -> None:
    """Print what is known of a model, such as what to cite and how it was trained."""
    config, lines = _look_up(model)
    if as_yaml:
        from dataclasses import asdict

        import yaml

        click.echo(yaml.safe_dump(asdict(config), sort_keys=False, allow_unicode=True), nl=False)
        return
    described = {k: getattr(config, k) for k in ("name", "description", "licence", "citation")}
    for label, text in (described | lines).items():
        for line in str(text).splitlines():
            click.echo(f"{label}: {line}")
    sections = {"network": network_in_words(config.network), "use": use_in_words(config)}
    if config.training:
        sections["training"] = config.training
    for line in outline(sections):
        click.echo(line)


def _look_up(model: str) -> tuple[ModelConfig, dict[str, str]]:
    """Config of a model, and what else is known of its file."""
    from synthsr_net.models.loading import load_model_config
    from synthsr_net.models.zoo.files import resolve_model
    from synthsr_net.models.zoo.registry import PUBLISHED_MODELS

    if model in PUBLISHED_MODELS:
        known = PUBLISHED_MODELS[model]
        return known.config, dict(_published(known))
    path = resolve_model(model)
    return load_model_config(path), dict(_stored(path))


def _stored(path: Path) -> Iterator[tuple[str, str]]:
    from synthsr_net.models.packing import stored_precision
    from synthsr_net.models.zoo.files import alias_of, checksums, default_model, shipped_models

    name = path.stem
    shipped = shipped_models().get(name) == path
    if shipped:
        if alias := alias_of(name):
            yield "alias", alias
        yield "state", "shipped, the default" if name == default_model() else "shipped"
    yield "file", str(path)
    yield "size", f"{path.stat().st_size:,} bytes"
    if path.suffix.lower() == ".safetensors":
        yield "weights", stored_precision(path)
    if shipped:
        yield "sha256", checksums()[path.name]


def _published(known: PublishedModel) -> Iterator[tuple[str, str]]:
    from synthsr_net.models.zoo.files import cached_path, state_of

    yield "state", state_of(known)
    yield "file", str(cached_path(known)) if known.url else known.file
    if known.url is not None:
        yield "source", known.url
        yield "size", f"{known.size_bytes:,} bytes"
        yield "sha256", str(known.sha256)
