"""The group of all commands, each imported when it is used."""

from __future__ import annotations

from importlib import import_module

import click

from synthsr_cli.common.errors import ReportingGroup
from synthsr_transforms.support.messages import suggest

COMMANDS = {
    "predict": "Turn clinical brain scans into 1 mm T1-weighted scans.",
    "predict-hyperfine": "The same for pairs of low-field T1 and T2 scans.",
    "mri-synthsr": "FreeSurfer's mri_synthsr, with its options and models.",
    "bids-app": "Predict the scans of a BIDS dataset, as a BIDS App.",
    "segment": "Segment brain structures and measure their volumes.",
    "view": "Look at a scan and its prediction in the browser.",
    "evaluate": "Compare predictions with reference scans.",
    "example": "Write a scan to try predict on.",
    "models": "List, describe and download models.",
    "convert-weights": "Convert Keras weights of the original, and model files.",
    "train": "Train a network on pairs generated on the fly.",
    "export": "Write a model as an ONNX file.",
    "generate": "Make training pairs from label maps.",
    "estimate-priors": "Estimate tissue priors from scans and their label maps.",
    "labels": "Report the labels of label maps.",
}
"""Each command, in the module of its name (with _ for -), and its help in short."""


class LazyGroup(ReportingGroup):
    """Group that imports a command only when it is used, so that `--help` is quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of all commands."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        if cmd_name not in COMMANDS:
            return None
        name = cmd_name.replace("-", "_")
        command = getattr(import_module(f"{__package__}.{name}"), name)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find a command; if there is none of that name, suggest the nearest."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            message = f"{error.message.rstrip('.')}{suggest(args[0], COMMANDS)}."
            raise click.UsageError(message, ctx) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="synthsr", prog_name="synthsr", message="%(prog)s %(version)s")
def synthsr() -> None:
    """1 mm T1-weighted scans from any brain scan, and synthetic scans to train for it.

    Each command has its own help: synthsr generate --help.
    """
