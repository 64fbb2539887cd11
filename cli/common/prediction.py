"""What the commands that predict have in common: plan, share among processes, load the model."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from synthsr_transforms.support.messages import SynthSRError, WorkFailedError

from .prediction_run import run_tasks

if TYPE_CHECKING:
    from synthsr_net.prediction.predictor import Predictor
    from synthsr_net.prediction.runs.tasks import Task

ARGUMENTS = "synthsr.arguments"
"""Key of `Context.meta` under which a command keeps its arguments, to start itself again."""
PREDICTOR_OPTIONS = (
    *("device", "precision", "flip", "inverse_contrast", "sharpen", "data_consistency"),
    *("ct", "legacy", "grid", "max_memory", "tile"),
)
"""Options that are fields of `PredictorSettings` and have their names."""


class PredictionCommand(click.Command):
    """Command that can be started again in several processes."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse, keeping the arguments."""
        ctx.meta[ARGUMENTS] = [ctx.info_name, *args]
        return super().parse_args(ctx, args)


def predict_all(
    plan: Callable[[], list[Task]],
    options: dict[str, Any],
    *,
    inputs: Sequence[Path] = (),
    names: Sequence[str | None] = (None,),
    output: Path,
    start: Callable[[], object] | None = None,
) -> None:
    """Plan, load the model, predict, report and sum up.

    Args:
        plan: Makes the tasks.
        options: Options of the command.
        inputs: What the user named as input, to tell what is left out of it.
        names: Names of the inputs of the tasks, see `order_inputs`.
        output: Where predictions go, for the summary.
        start: Called before the first prediction.

    Raises:
        ValueError: If input or settings cannot be worked with; nothing was written then.
        WorkFailedError: If there is no prediction of some scans.
        SystemExit: If the user stopped it, or other processes did the work.
    """
    import torch

    from synthsr_net.prediction.runs.distribution import find_share
    from synthsr_net.prediction.runs.inputs import check_writable
    from synthsr_net.prediction.runs.tasks import missing_tasks

    share, num_gpus = find_share(), torch.cuda.device_count()
    mine = share.of(_part(plan(), options["shard"]))
    if options["report"] is not None:
        check_writable([options["report"]])
    missing = missing_tasks(mine, resume=options["resume"], overwrite=options["overwrite"])
    outputs = {task.output for task in missing}
    kept = [task for task in mine if task.output not in outputs]
    number = _num_processes(options, num_gpus, len(missing)) if share.launcher is None else 1
    device = share.device(options["device"] or "auto", num_gpus)
    predictor = _load({**options, "device": "cpu" if number > 1 else device})
    missing, kept = _checked(missing, kept, predictor, names)
    if start is not None and missing and share.rank == 0:
        start()
    if number > 1:
        _start_again(number)
    if share.rank == 0 and missing:
        _tell_doubts(inputs, names, predictor)
    overwrite = options["overwrite"]
    run_tasks(missing, kept, predictor, options["report"], share, output, overwrite=overwrite)


def _tell_doubts(inputs: Sequence[Path], names: Sequence[str | None], predictor: Predictor) -> None:
    """Warn of scans that are left out, and of inputs that the model calls otherwise."""
    from synthsr_net.prediction.runs.inputs import unread_scans
    from synthsr_net.prediction.runs.pairing import some

    for path in inputs:
        if left_out := unread_scans(path):
            click.echo(
                f"Warning: {path} also holds scans of kinds that are not read: {some(left_out)}."
                " Convert them to have them predicted.",
                err=True,
            )
    known = [image.name for image in predictor.config.inputs]
    given = [name for name in names if name is not None]
    if len(given) == len(names) and not set(given) <= set(known):
        click.echo(
            f"Warning: model {predictor.config.name} takes {', '.join(known)}, which are taken"
            f" from {', '.join(given)} in this order.",
            err=True,
        )


def _part(tasks: list[Task], shard: tuple[int, int] | None) -> list[Task]:
    number, total = shard or (1, 1)
    if not 1 <= number <= total:
        raise SynthSRError(f"shard must be I/N with I from 1 to N, got {number}/{total}.")
    return tasks[number - 1 :: total]


def _num_processes(options: dict[str, Any], num_gpus: int, num_tasks: int) -> int:
    if options["devices"] is None:
        return 1
    from synthsr_net.prediction.runs.distribution import num_processes

    device = options["device"] or "auto"
    return min(num_processes(options["devices"], device, num_gpus), max(num_tasks, 1))


def _start_again(number: int) -> NoReturn:
    """Let several processes run this very command, and end as they end."""
    from synthsr_net.prediction.runs.distribution import launch

    program = "from synthsr_cli.main import main; main()"
    arguments = click.get_current_context().meta[ARGUMENTS]
    code = launch(number, [sys.executable, "-c", program, *arguments])
    if code < 0:
        raise WorkFailedError(
            f"a process was killed ({signal.Signals(-code).name}), perhaps for want of memory, and"
            " the others were stopped. Run the same command with --resume, and with fewer"
            " --devices or less --max-memory if it happens again."
        )
    sys.exit(code)


def _load(options: dict[str, Any]) -> Predictor:
    from synthsr_net.models import ModelError, default_model
    from synthsr_net.prediction.predictor import Predictor

    settings = {name: options[name] for name in PREDICTOR_OPTIONS if name in options}
    if options["model"] is not None:
        return Predictor.from_file(options["model"], **settings)
    name = options.get("default_model") or default_model()
    try:
        return Predictor.from_file(name, **settings)
    except ModelError as error:
        raise SynthSRError(f"{str(error).rstrip('.')}. Or name another with --model.") from error


def _checked(
    missing: list[Task], kept: list[Task], predictor: Predictor, names: Sequence[str | None]
) -> tuple[list[Task], list[Task]]:
    """Both with inputs in the order of the model; what is complete must be its work as well."""
    from synthsr_net.prediction.runs.runner import check_tasks, refuse_others
    from synthsr_net.prediction.runs.tasks import order_inputs

    check_tasks([*missing, *kept], predictor)
    refuse_others(kept, predictor)
    known = [image.name for image in predictor.config.inputs]
    if None not in names and not set(names) <= set(known):
        return missing, kept  # a model that calls its inputs otherwise takes them in order
    return order_inputs(missing, names, known), order_inputs(kept, names, known)
