"""`synthsr convert-weights`: Keras weights into model files and back, and model files again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from synthsr_cli.common.describing import network_in_words, use_in_words
from synthsr_cli.common.messages import say
from synthsr_cli.common.options import check_output_file, message_options, overwrite_option
from synthsr_transforms.support.messages import SynthSRError

ABOUT = ("name", "description", "licence", "citation")
"""Options that describe a model, and fields of its config."""


@click.command("convert-weights")
@click.argument("source", metavar="IN", type=click.Path(path_type=Path))
@click.argument("target", metavar="OUT", type=click.Path(path_type=Path))
@click.option("--to-keras", is_flag=True, help="IN is a model file, OUT a Keras weight file (.h5).")
@click.option("--name", metavar="TEXT", help="Name of the model.  [default: that of the file]")
@click.option("--description", metavar="TEXT", help="What the model is for.")
@click.option("--licence", metavar="TEXT", help="Terms of the weights, as SPDX identifier or text.")
@click.option("--citation", metavar="TEXT", help="What to cite when predictions are published.")
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16"]),
    help="Precision to store the weights in; fp16 halves the file.  [default: that of IN]",
)
@click.option(
    "--preset",
    type=click.Choice(["v1", "v2", "hyperfine"]),
    help="Published models whose way with scans this model has: of the original script, of"
    " FreeSurfer, or for pairs of low-field scans.  [default: hyperfine for T1 and T2 without maps,"
    " else v1]",
)
@click.option(
    "--inputs",
    metavar="NAME,...",
    help='Images that the network takes, in the order of its channels, such as "T1,T2".',
)
@click.option(
    "--reliability-maps", is_flag=True, help="Each image is followed by its reliability map."
)
@click.option(
    "--residual-input",
    metavar="NAME|none",
    help="Image that the output is added to.  [default: as in the preset]",
)
@click.option(
    "--spread", is_flag=True, help="The network was trained with the laplace loss (2 outputs)."
)
@click.option(
    "--activation",
    metavar="NAME",
    help="Activation, such as relu.  [default: what the file says, else elu]",
)
@overwrite_option
@message_options
def convert_weights(
    source: Path, target: Path, to_keras: bool, overwrite: bool, **options: Any
) -> None:
    """Make a model file (OUT.safetensors) of Keras weights of the original (IN.h5).

    IN.h5 is a file of weights, such as the published ones, or a checkpoint that training with the
    original saved. Levels, features, convolutions, kernel size and channels are found in the
    weights; what scans the channels are, and how the output becomes a scan, options say.

    With --to-keras, a model file becomes a weight file for the original and FreeSurfer. A model
    file becomes another one with --precision, --name, --description, --licence or --citation.

    \b
    Examples:
      A published model:
        synthsr convert-weights synthsr_v20_230130.h5 v2.safetensors --preset v2
      Your own, trained with the original on two scans with reliability maps:
        synthsr convert-weights 100.h5 own.safetensors --inputs "T1,T2" --reliability-maps \\
            --preset v1
      Back:
        synthsr convert-weights own.safetensors own.h5 --to-keras
      A model to pass on, half as large:
        synthsr convert-weights run/models/best.safetensors own.safetensors --precision fp16
    """  # noqa: D301 - click reads the character itself
    keras_by_name = target.suffix.lower() == ".h5"
    check_output_file(
        target,
        ".h5" if to_keras else ".safetensors",
        overwrite=overwrite,
        advice="To make a Keras file, add --to-keras." if keras_by_name else "",
    )
    given = {name: value for name, value in options.items() if value}
    if to_keras:
        if given:
            flag = "--" + next(iter(given)).replace("_", "-")
            raise click.UsageError(f"{flag} has no place in a Keras file. Leave it out.")
        _to_keras(source, target)
    elif source.suffix.lower() == ".safetensors":
        _again(source, target, given)
    else:
        _from_keras(source, target, given)
    say(f"Wrote {target}.")


def _from_keras(source: Path, target: Path, options: dict[str, Any]) -> None:
    from synthsr_net.models.checkpoint import save_model
    from synthsr_net.models.keras.converted import config_of_converted
    from synthsr_net.models.keras.weights import read_keras
    from synthsr_net.models.packing import in_precision

    precision = options.pop("precision", None)
    network = read_keras(source, activation=options.pop("activation", None))
    if "inputs" in options:
        options["inputs"] = [name.strip() for name in options["inputs"].split(",")]
    config = config_of_converted(source, network.config, **options)
    state = in_precision(network.state, precision) if precision else network.state
    save_model(target, config, state)
    words = network_in_words(network.config) | use_in_words(config)
    _describe(f"{source}: {network.layout} of Keras, {network.precision}", words)
    if network.config.out_channels > 1 and not config.spread:
        say("Note: if the network was trained with the laplace loss, add --spread.")
    for note in network.notes:
        say(f"Note: {note}.")


def _again(source: Path, target: Path, options: dict[str, Any]) -> None:
    from synthsr_net.models.packing import pack_model, stored_precision

    if other := set(options) - {*ABOUT, "precision"}:
        flag = "--" + min(other).replace("_", "-")
        raise click.UsageError(
            f"{flag} is for Keras files; a model file says so itself. Leave it out."
        )
    if not options:
        raise SynthSRError(
            f"a change must be asked for where IN is a model file, got {source} alone. Say"
            " --precision fp16 or a new --name, or add --to-keras for the way back."
        )
    model = pack_model(source, target, **options)
    weights = f"{stored_precision(target)}, {target.stat().st_size / 1e6:.1f} MB"
    words = network_in_words(model.config.network) | {"weights": weights}
    _describe(f"{source}: model {model.config.name}", words)


def _to_keras(source: Path, target: Path) -> None:
    from synthsr_net.models.checkpoint import read_model
    from synthsr_net.models.keras.weights import write_keras

    model = read_model(source)
    write_keras(target, model.config.network, model.network.state_dict())
    _describe(f"{source}: model {model.config.name}", network_in_words(model.config.network))
    say("Note: a Keras file holds the weights alone, not how scans become inputs.")


def _describe(title: str, words: dict[str, str]) -> None:
    say(title)
    for label, text in words.items():
        say(f"  {label}: {text}")
