"""Options that several commands share."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from synthsr_transforms.support.messages import SynthSRError

from .errors import TRACEBACK
from .messages import choose_amount, keep, log

ARGUMENTS = "synthsr.arguments"
"""Key of `Context.meta` under which a command keeps its arguments, to start itself again."""

Command = TypeVar("Command", bound=Callable[..., Any])
Option = Callable[[Command], Command]


convention_option = click.option(
    "--convention",
    type=click.Choice(["neurological", "radiological"]),
    default="neurological",
    show_default=True,
    help="Draw the left of the head on the left, or on the right.",
)


def check_output_file(target: Path, ending: str, *, overwrite: bool, advice: str = "") -> None:
    """Refuse a file OUT that has another ending, has no folder, or exists already.

    Args:
        target: The file.
        ending: Such as `.onnx`.
        overwrite: Whether it may be replaced.
        advice: Added to the error about the ending.

    Raises:
        SynthSRError: If so.
    """
    if target.suffix.lower() != ending:
        raise SynthSRError(f"OUT must end in {ending}, got {target}. {advice or 'Rename it.'}")
    if not target.parent.is_dir():
        raise SynthSRError(f"{target.parent} must be a folder, but is not. Make it first.")
    if target.is_dir():
        raise SynthSRError(f"OUT must be a file, got the folder {target}. Name a file.")
    if target.exists() and not overwrite:
        raise SynthSRError(
            f"OUT must name a new file, got {target}. Add --overwrite to replace it."
        )


class PredictionCommand(click.Command):
    """Command that can be started again in several processes."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse, keeping the arguments."""
        ctx.meta[ARGUMENTS] = [ctx.info_name, *args]
        return super().parse_args(ctx, args)


def complete_from(names: Callable[[], Iterable[str]]) -> Callable[..., list[CompletionItem]]:
    """Completion in the shell of a value that is one of some names, or a file."""

    def complete(
        ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        items = [CompletionItem(name) for name in names() if name.startswith(incomplete)]
        return items or [CompletionItem(incomplete, type="file")]

    return complete


def _model_names() -> list[str]:
    from synthsr_net.models.zoo.files import ALIASES, PUBLISHED_MODELS, shipped_models

    return [*shipped_models(), *ALIASES, *PUBLISHED_MODELS]


def _preset_names() -> list[str]:
    from synthsr_transforms.generator.config import preset_names

    return preset_names()


complete_models = complete_from(_model_names)
complete_presets = complete_from(_preset_names)


def device_option(command: Command) -> Command:
    """Add `--device`; the library checks that the machine has it."""
    return click.option(
        "--device",
        metavar="auto|cpu|cuda|mps",
        help="Where to compute.  [default: cuda if there is one, else cpu]",
    )(command)


def set_option(command: Command) -> Command:
    """Add `--set`, as `assignments`."""
    return click.option(
        "--set",
        "assignments",
        metavar="A.B=C",
        multiple=True,
        help="Change a setting, such as crop.shape=128. May be repeated.",
    )(command)


def import_option(command: Command) -> Command:
    """Add `--import`, which needs no argument of the command."""
    return click.option(
        "--import",
        "modules",
        metavar="MODULE|FILE.py",
        multiple=True,
        is_eager=True,
        expose_value=False,
        callback=_import_modules,
        help="Import transforms and losses of your own, to be named in settings. May be repeated.",
    )(command)


def _import_modules(ctx: click.Context, param: click.Parameter, value: Sequence[str]) -> None:
    if value and not ctx.resilient_parsing:
        from synthsr_transforms.support.plugins import import_module

        for name in value:
            import_module(name, "--import")


def seed_option(command: Command) -> Command:
    """Add `--seed`."""
    return click.option(
        "--seed",
        type=int,
        help="Seed of all random choices: the same seed gives the same output.  [default: 0]",
    )(command)


def subject_options(command: Command) -> Command:
    """Add `--labels` and `--images`, what pairs are made from, and how they are found."""
    images = click.option(
        "--images",
        type=click.Path(path_type=Path),
        metavar="DIR|FILE",
        help="Images for presets with a real target, one per label map and on its grid.",
    )
    labels = click.option(
        "--labels",
        type=click.Path(path_type=Path),
        metavar="DIR|FILE",
        help="Label maps (.nii, .nii.gz, .mgz, .npz), or FreeSurfer's directory of subjects."
        "  [default: a built-in head phantom]",
    )
    return labels(images(match_option(recursive_option(command))))


def match_option(command: Command) -> Command:
    """Add `--match`."""
    return click.option(
        "--match",
        type=click.Choice(["names", "order"]),
        default="names",
        show_default=True,
        help="Pair images and label maps by their names, or in the order of their names.",
    )(command)


def warn_of_unread(labels: Sequence[Path], images: Sequence[Path] = (), *, recursive: bool) -> None:
    """Print what of the folders that a user gave is not read, see `unread_scans`."""
    from synthsr_transforms.io.files import FREESURFER_LABELS, FREESURFER_SCAN, unread_scans

    kinds = {**dict.fromkeys(images, FREESURFER_SCAN), **dict.fromkeys(labels, FREESURFER_LABELS)}
    for path, name in kinds.items():
        others = [other for other in kinds if other != path]
        for text in unread_scans(path, without=others, recursive=recursive, freesurfer=name):
            log.warning(text)


def warn_of_unread_subjects(options: Mapping[str, Any]) -> None:
    """Print what of the folders of `subject_options` is not read."""
    labels, images = ([p] if p is not None else [] for p in (options["labels"], options["images"]))
    warn_of_unread(labels, images, recursive=options["recursive"])


def format_option(command: Command) -> Command:
    """Add `--format`, as `file_format`."""
    return click.option(
        "--format",
        "file_format",
        type=click.Choice(["nii.gz", "nii", "mgz"]),
        help="Format of the volumes.  [default: nii.gz]",
    )(command)


def out_option(text: str, **settings: Any) -> Option[Any]:
    """Add `--out`, an output folder, as `folder`, with its help and further settings."""
    return click.option(
        "-o",
        "--out",
        "folder",
        type=click.Path(path_type=Path),
        metavar="DIR",
        show_default=True,
        help=text,
        **settings,
    )


def overwrite_option(command: Command) -> Command:
    """Add `--overwrite`."""
    return click.option("--overwrite", is_flag=True, help="Replace output that exists.")(command)


def dask_option(command: Command) -> Command:
    """Add `--dask`."""
    return click.option(
        "--dask",
        metavar="ADDRESS|FILE",
        help="Let the workers of a Dask cluster do it: its scheduler's address, or its file.",
    )(command)


def dry_run_option(command: Command) -> Command:
    """Add `--dry-run`."""
    return click.option(
        "--dry-run", is_flag=True, help="Check the input and say what would be made; write nothing."
    )(command)


def threads_option(command: Command) -> Command:
    """Add `--threads`, which needs no argument of the command."""
    return click.option(
        "--threads",
        type=click.IntRange(min=1, max=1024),
        metavar="N",
        expose_value=False,
        callback=_use_threads,
        help="Threads to compute with on the CPU.  [default: all cores]",
    )(command)


def model_option(default: str) -> Option[Any]:
    """Add `--model`; the default is in words."""
    return click.option(
        "--model",
        metavar="NAME|FILE",
        shell_complete=complete_models,
        help="A model of `synthsr models`, a model file, or a Keras file of the original."
        f"  [default: {default}]",
    )


def recursive_option(command: Command) -> Command:
    """Add `--recursive`."""
    return click.option(
        "--recursive", is_flag=True, help="Search the subfolders of folders as well."
    )(command)


def prediction_options(command: Command) -> Command:
    """Add the options of all commands that predict, but for `--model`."""
    options: list[Option[Any]] = [
        click.option(
            "--legacy",
            type=click.Choice(["v1", "v2"]),
            help="Do exactly what the original repository (v1) or FreeSurfer's script (v2) does.",
        ),
        click.option(
            "--uncertainty",
            type=click.Path(path_type=Path),
            metavar="OUT",
            help="Write the Laplace scale of each voxel as well, where the model predicts one.",
        ),
        click.option(
            "--segmentation",
            type=click.Path(path_type=Path),
            metavar="OUT",
            help="Segment the predictions as well: a file or folder for the segmentations.",
        ),
        structure_options,
        inference_options,
    ]
    return _with(options, command)


def structure_options(command: Command) -> Command:
    """Add `--volumes` and `--qc`."""
    volumes = click.option(
        "--volumes",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Write the volumes of brain structures in ml, a row per scan (.csv or .tsv).",
    )
    quality = click.option(
        "--qc",
        is_flag=True,
        help="Score the quality of each result, into qc.tsv in the folder of the outputs.",
    )
    return volumes(quality(command))


def scan_options(command: Command) -> Command:
    """Add the options of commands that take scans of all kinds, or a BIDS dataset."""
    options: list[Option[Any]] = [
        click.option(
            "--ct/--no-ct",
            default=None,
            help="Scans are CT (MRI): clip them (do not clip them) to [0, 80] HU."
            "  [default: as the values of each scan say]",
        ),
        click.option(
            "--flip/--no-flip",
            default=None,
            help="Average with the result of the mirrored scan.  [default: as the model says]",
        ),
        click.option("--bids", is_flag=True, help="INPUT is a BIDS dataset, OUTPUT a derivative."),
        click.option(
            "--participant-label",
            "participants",
            multiple=True,
            metavar="LABEL",
            help="Take only this participant of the BIDS dataset. May be repeated.",
        ),
        click.option(
            "--session-label",
            "sessions",
            multiple=True,
            metavar="LABEL",
            help="Take only this session of the BIDS dataset. May be repeated.",
        ),
        filter_file_option,
    ]
    return _with(options, command)


def filter_file_option(command: Command) -> Command:
    """Add `--bids-filter-file`, as `filter_file`."""
    return click.option(
        "--bids-filter-file",
        "--bids_filter_file",
        "filter_file",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help='Take only scans with these entities, such as {"t1w": {"acquisition": "mprage"}}.',
    )(command)


def output_argument(command: Command) -> Command:
    """Add OUTPUT, which is needed but with `--list-series`."""
    return click.argument(
        "output",
        metavar="OUTPUT",
        required=False,
        type=click.Path(path_type=Path),
        callback=_need_output,
    )(command)


def _need_output(ctx: click.Context, param: click.Parameter, value: Path | None) -> Path | None:
    if value is None and not ctx.resilient_parsing and not ctx.params.get("list_series"):
        raise click.MissingParameter(ctx=ctx, param=param)
    return value


def dicom_options(command: Command) -> Command:
    """Add the options of commands that take DICOM."""
    options: list[Option[Any]] = [
        click.option(
            "--series",
            multiple=True,
            metavar="N|TEXT",
            help="Of DICOM, take the series of this number, or with this text in its description."
            " May be repeated.  [default: all that can be brains]",
        ),
        click.option(
            "--list-series", is_flag=True, is_eager=True, help="List the series of DICOM, and end."
        ),
        click.option(
            "--keep-names",
            is_flag=True,
            help="Let names of patients in DICOM appear in messages, reports and file names.",
        ),
    ]
    return _with(options, command)


def inference_options(command: Command) -> Command:
    """Add the options of all commands that apply a network to scans, but for `--model`."""
    options: list[Option[Any]] = [
        click.option(
            "--grid",
            type=click.Choice(["1mm", "input"]),
            default="1mm",
            show_default=True,
            help="Write 1 mm voxels in the directions of the scan, or the scan's own voxels.",
        ),
        click.option(
            "--dtype",
            type=click.Choice(["float32", "int16", "uint8"]),
            default="float32",
            show_default=True,
            help="Type of the voxels of images; with uint8, files are about a quarter as large.",
        ),
        click.option(
            "--report",
            type=click.Path(path_type=Path),
            metavar="DIR",
            help="Write pictures, and a report.html that shows all scans of the run.",
        ),
        convention_option,
        click.option(
            "--force",
            is_flag=True,
            help="Take segmentations and small objects as well, which are refused else.",
        ),
        recursive_option,
        click.option("--resume", is_flag=True, help="Keep complete output, and make the rest."),
        overwrite_option,
        click.option(
            "--only-failed",
            type=click.Path(path_type=Path),
            metavar="SUMMARY.tsv",
            help="Take only the scans that failed, by the summary of an earlier run.",
        ),
        dry_run_option,
        device_option,
        click.option(
            "--precision",
            type=click.Choice(["fp32", "tf32", "bf16", "auto"]),
            default="fp32",
            show_default=True,
            help="tf32 (NVIDIA GPUs) and bf16 are faster and less exact; auto is bf16 where the"
            " hardware has it, else fp32.",
        ),
        threads_option,
        click.option(
            "--max-memory",
            metavar="SIZE",
            help="Stay below this, such as 4GB: larger scans are predicted with a sliding window."
            "  [default: what is free]",
        ),
        click.option(
            "--window", type=click.IntRange(min=1), metavar="N", help="Size of the sliding window."
        ),
        click.option(
            "--devices",
            metavar="N|all",
            help="Share the scans among N processes of this machine, each with a GPU of its own.",
        ),
        click.option(
            "--shard",
            type=Shard(),
            metavar="I/N",
            help="Take only the I-th of N parts of the scans.",
        ),
        dask_option,
        message_options,
    ]
    return _with(options, command)


def _with(options: Sequence[Option[Any]], command: Command) -> Command:
    """Add options, listed in their order."""
    for option in reversed(options):
        command = option(command)
    return command


def traceback_option(command: Command) -> Command:
    """Add `--traceback`, which needs no argument of the command."""
    return click.option(
        "--traceback",
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=_ask_for_traceback,
        help="Show where an error comes from.",
    )(command)


def message_options(command: Command) -> Command:
    """Add `--quiet`, `--verbose`, `--log` and `--traceback`, which need no argument."""
    common: dict[str, Any] = {"expose_value": False, "is_eager": True}
    options: list[Option[Any]] = [
        click.option(
            "--quiet",
            is_flag=True,
            callback=_say_less,
            help="Say nothing but errors: no progress, no warnings, no summary.",
            **common,
        ),
        click.option(
            "--verbose",
            is_flag=True,
            callback=_say_more,
            help="Say more of what is done, such as each file that is written.",
            **common,
        ),
        click.option(
            "--log",
            type=click.Path(path_type=Path),
            metavar="FILE",
            callback=_keep_messages,
            help="Append all messages to this file as well; several processes may share it.",
            **common,
        ),
        traceback_option,
    ]
    return _with(options, command)


class Shard(click.ParamType):
    """`I/N` as a pair of numbers."""

    name = "I/N"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        """Split at the slash."""
        if isinstance(value, tuple):
            return value
        number, slash, total = str(value).partition("/")
        if not (slash and number.isdecimal() and total.isdecimal()):
            self.fail(
                f"shard must be I/N, such as 1/8 for the first of eight, got {value!r}.", param, ctx
            )
        return int(number), int(total)


def _use_threads(ctx: click.Context, param: click.Parameter, value: int | None) -> None:
    if value is not None and not ctx.resilient_parsing:
        import torch

        torch.set_num_threads(value)


def _say_less(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        choose_amount(-1)


def _say_more(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        choose_amount(1)


def _keep_messages(ctx: click.Context, param: click.Parameter, value: Path | None) -> None:
    if value is not None and not ctx.resilient_parsing:
        keep(value, shlex.join(sys.argv))


def _ask_for_traceback(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        ctx.meta[TRACEBACK] = True
