"""`synthsr export`: a model as an ONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from synthsr_cli.common.options import overwrite_option, threads_option, traceback_option
from synthsr_transforms.support.messages import SynthSRError

if TYPE_CHECKING:
    from synthsr_net.models.checkpoint import Model


@click.command()
@click.argument("models", metavar="[MODEL]", nargs=-1)
@click.argument("target", metavar="OUT", type=click.Path(path_type=Path))
@overwrite_option
@threads_option
@traceback_option
def export(models: tuple[str, ...], target: Path, overwrite: bool) -> None:
    """Write a model as an ONNX file (OUT.onnx), for programs without PyTorch.

    MODEL is a name of `synthsr models`, a model file, or a Keras file of the original; by default
    the model that `synthsr predict` takes.

    The file takes volumes of any size and any number of them. Its metadata says how scans become
    inputs. It is written only if onnxruntime computes with it what PyTorch computes.

    \b
    Examples:
      The model that ships with the package, and the fast one:
        synthsr export synthsr.onnx
        synthsr export fast synthsr_fast.onnx
      Your own:
        synthsr export my_model.safetensors my_model.onnx
    """  # noqa: D301 - click reads the character itself
    if len(models) > 1:
        raise click.UsageError(
            f"one MODEL and one OUT must be given, got {len(models) + 1} arguments."
        )
    _check_target(target, overwrite)
    from synthsr_net.models.onnx.export import export_onnx, require_packages

    require_packages()
    model = _load(models[0] if models else None)
    exported = export_onnx(model, target)
    click.echo(
        f"Wrote {exported.path} ({_size(exported.size_bytes)}): onnxruntime differs from PyTorch by"
        f" at most {exported.difference:.1e} of the range."
    )


def _check_target(target: Path, overwrite: bool) -> None:
    if target.suffix.lower() != ".onnx":
        raise SynthSRError(f"OUT must end in .onnx, got {target}. Rename it.")
    if not target.parent.is_dir():
        raise SynthSRError(f"{target.parent} must be a folder, but is not. Make it first.")
    if target.is_dir():
        raise SynthSRError(f"OUT must be a file, got the folder {target}. Name a file.")
    if target.exists() and not overwrite:
        raise SynthSRError(
            f"OUT must name a new file, got {target}. Add --overwrite to replace it."
        )


def _load(name: str | None) -> Model:
    from synthsr_net.models.loading import load_model
    from synthsr_net.models.zoo.files import default_model
    from synthsr_net.models.zoo.registry import ModelError

    if name is not None:
        return load_model(name)
    try:
        return load_model(default_model())
    except ModelError as error:
        raise SynthSRError(
            f"{str(error).rstrip('.')}. Or name another: synthsr export MODEL OUT"
        ) from error


def _size(num_bytes: int) -> str:
    """Size in MB, or kB of small files."""
    return f"{num_bytes / 1e6:.1f} MB" if num_bytes >= 1e6 else f"{num_bytes / 1e3:.1f} kB"
