"""`synthsr export`: a model as an ONNX file."""

from __future__ import annotations

from pathlib import Path

import click

from synthsr_cli.common.messages import say
from synthsr_cli.common.options import (
    check_output_file,
    complete_models,
    message_options,
    overwrite_option,
    threads_option,
)
from synthsr_transforms.support.messages import bytes_in_words


@click.command()
@click.argument("models", metavar="[MODEL]", nargs=-1, shell_complete=complete_models)
@click.argument("target", metavar="OUT", type=click.Path(path_type=Path))
@overwrite_option
@threads_option
@message_options
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
    check_output_file(target, ".onnx", overwrite=overwrite)
    from synthsr_net.models.loading import load_model
    from synthsr_net.models.onnx.export import export_onnx
    from synthsr_net.models.zoo.files import default_model

    difference = export_onnx(load_model(models[0] if models else default_model()), target)
    say(
        f"Wrote {target} ({bytes_in_words(target.stat().st_size)}): onnxruntime differs from"
        f" PyTorch by at most {difference:.1e} of the range."
    )
