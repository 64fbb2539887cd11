"""`synthsr convert-weights`: Keras weights of the original into a model file, and back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .errors import InputError
from .options import overwrite_option, traceback_option

if TYPE_CHECKING:
    from synthsr_net.checkpoint import ModelConfig
    from synthsr_net.unet import UNetConfig


@click.command("convert-weights")
@click.argument("source", metavar="IN", type=click.Path(path_type=Path))
@click.argument("target", metavar="OUT", type=click.Path(path_type=Path))
@click.option("--to-keras", is_flag=True, help="IN is a model file, OUT a Keras weight file (.h5).")
@click.option("--name", metavar="TEXT", help="Name of the model.  [default: that of the file]")
@click.option("--description", metavar="TEXT", help="What the model is for.")
@click.option("--licence", metavar="TEXT", help="Terms of the weights, as SPDX identifier or text.")
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
@traceback_option
def convert_weights(
    source: Path, target: Path, to_keras: bool, overwrite: bool, **options: Any
) -> None:
    """Make a model file (OUT.safetensors) of Keras weights of the original (IN.h5).

    IN is a file of weights, such as the published ones, or a checkpoint that training with the
    original saved. Levels, features, convolutions, kernel size and channels are found in the
    weights; what scans the channels are, and how the output becomes a scan, options say.

    With --to-keras, a model file becomes a weight file for the original and FreeSurfer.

    \b
    Examples:
      A published model:
        synthsr convert-weights synthsr_v20_230130.h5 v2.safetensors --preset v2
      Your own, trained with the original on two scans with reliability maps:
        synthsr convert-weights 100.h5 own.safetensors --inputs "T1,T2" --reliability-maps \\
            --preset v1
      Back:
        synthsr convert-weights own.safetensors own.h5 --to-keras
    """  # noqa: D301 - click reads the character itself
    _check_target(target, ".h5" if to_keras else ".safetensors", overwrite)
    given = {name: value for name, value in options.items() if value}
    if to_keras:
        if given:
            flag = "--" + next(iter(given)).replace("_", "-")
            raise click.UsageError(f"{flag} has no place in a Keras file. Leave it out.")
        _to_keras(source, target)
    else:
        _from_keras(source, target, given)
    click.echo(f"Wrote {target}.")


def _check_target(target: Path, ending: str, overwrite: bool) -> None:
    if target.suffix.lower() != ending:
        other = " To make a Keras file, add --to-keras." if target.suffix == ".h5" else ""
        raise InputError(f"OUT must end in {ending}, got {target}.{other}")
    if not target.parent.is_dir():
        raise InputError(f"{target.parent} must be a folder, but is not. Make it first.")
    if target.exists() and not overwrite:
        raise InputError(f"OUT must name a new file, got {target}. Add --overwrite to replace it.")


def _from_keras(source: Path, target: Path, options: dict[str, Any]) -> None:
    from synthsr_net.checkpoint import save_model
    from synthsr_net.keras_weights import read_keras_network
    from synthsr_net.models.converted import config_of_converted

    if source.suffix.lower() == ".safetensors":
        raise InputError(
            f"IN must be a Keras file, got {source}. For the way back, add --to-keras."
        )
    network = read_keras_network(source, activation=options.pop("activation", None))
    if "inputs" in options:
        options["inputs"] = [name.strip() for name in options["inputs"].split(",")]
    config = config_of_converted(source, network.config, **options)
    save_model(target, config, network.state)
    click.echo(f"{source}: {network.layout} of Keras, {network.precision}")
    _describe_network(network.config)
    _describe_use(config)
    if network.config.out_channels > 1 and not config.spread:
        click.echo("Note: if the network was trained with the laplace loss, add --spread.")
    for note in network.notes:
        click.echo(f"Note: {note}.")


def _to_keras(source: Path, target: Path) -> None:
    from synthsr_net.checkpoint import load_model
    from synthsr_net.keras_weights import write_keras

    model = load_model(source)
    write_keras(target, model.config.network, model.network.state_dict())
    click.echo(f"{source}: model {model.config.name}")
    _describe_network(model.config.network)
    click.echo("Note: a Keras file holds the weights alone, not how scans become inputs.")


def _describe_network(config: UNetConfig) -> None:
    import torch

    from synthsr_net.unet import UNet3d

    with torch.device("meta"):
        network = UNet3d(config)
    trained = sum(p.numel() for p in network.parameters())
    numbers = trained + sum(b.numel() for b in network.buffers() if b.is_floating_point())
    size = "x".join([str(config.kernel_size)] * 3)
    click.echo(f"  levels: {config.num_levels}, of {_listed(config.features)} features")
    click.echo(
        f"  each: {_counted(config.convs_per_level, 'convolution')} of {size}, {config.activation},"
        f" normalisation {config.normalisation}"
    )
    click.echo(
        f"  channels: {config.in_channels} in, {config.out_channels} out"
        + (", softmax" if config.softmax else "")
    )
    click.echo(f"  parameters: {numbers:,}, {trained:,} of them trainable")


def _describe_use(config: ModelConfig) -> None:
    scan = config.scan
    images = [
        i.name + (" with reliability map" if i.reliability_map else "") for i in config.inputs
    ]
    click.echo(f"  images: {_listed(images)}")
    added = scan.residual_input
    what = f"added to {config.inputs[added].name}" if added is not None else f"{config.output} scan"
    click.echo(f"  output: {what}" + (", and its spread" if config.spread else ""))
    click.echo(
        f"  by default: {'' if scan.flip else 'no '}flip averaging,"
        f" {'' if scan.sharpen else 'no '}sharpening"
    )


def _listed(items: Any) -> str:
    return ", ".join(map(str, items))


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
