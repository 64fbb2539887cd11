"""What the commands that predict have in common: plan, share among processes, load the model."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from .errors import InputError
from .prediction_run import run_tasks

if TYPE_CHECKING:
    from synthsr_net.batch.tasks import Task
    from synthsr_net.predict import Predictor

ARGUMENTS = "synthsr.arguments"
"""Key of `Context.meta` under which a command keeps its arguments, to start itself again."""
DEFAULT_MODEL = "synthsr-v2"
"""Model of `synthsr predict` where none ships with the package."""
PREDICTOR_OPTIONS = (
    *("device", "precision", "flip", "sharpen", "ct", "legacy", "grid", "max_memory", "tile"),
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
    names: Sequence[str | None] = (None,),
    output: Path,
    start: Callable[[], object] | None = None,
) -> None:
    """Plan, load the model, predict, report and sum up.

    Args:
        plan: Makes the tasks.
        options: Options of the command.
        names: Names of the inputs of the tasks, see `order_inputs`.
        output: Where predictions go, for the summary.
        start: Called before the first prediction.

    Raises:
        ValueError: If input or settings cannot be worked with; nothing was written then.
        WorkFailedError: If there is no prediction of some scans.
        SystemExit: If the user stopped it, or other processes did the work.
    """
    import torch

    from synthsr_net.batch.sharing import find_share
    from synthsr_net.batch.tasks import missing_tasks
    from synthsr_net.predict.files import check_writable

    share, num_gpus = find_share(), torch.cuda.device_count()
    mine = share.of(_part(plan(), options["shard"]))
    if options["report"] is not None:
        check_writable([options["report"]])
    missing = missing_tasks(mine, resume=options["resume"], overwrite=options["overwrite"])
    number = _num_processes(options, num_gpus, len(missing)) if share.launcher is None else 1
    device = share.device(options["device"] or "auto", num_gpus)
    predictor = _load({**options, "device": "cpu" if number > 1 else device})
    missing = _checked(missing, mine, predictor, names, resume=options["resume"])
    if start is not None and missing and share.rank == 0:
        start()
    if number > 1:
        _start_again(number)
    run_tasks(missing, len(mine), predictor, options["report"], share, output)


def _part(tasks: list[Task], shard: tuple[int, int] | None) -> list[Task]:
    number, total = shard or (1, 1)
    if not 1 <= number <= total:
        raise InputError(f"shard must be I/N with I from 1 to N, got {number}/{total}.")
    return tasks[number - 1 :: total]


def _num_processes(options: dict[str, Any], num_gpus: int, num_tasks: int) -> int:
    if options["devices"] is None:
        return 1
    from synthsr_net.batch.sharing import num_processes

    device = options["device"] or "auto"
    return min(num_processes(options["devices"], device, num_gpus), max(num_tasks, 1))


def _start_again(number: int) -> NoReturn:
    """Let several processes run this very command, and end as they end."""
    from synthsr_net.batch.sharing import launch

    program = "from synthsr_cli.main import main; main()"
    arguments = click.get_current_context().meta[ARGUMENTS]
    sys.exit(launch(number, [sys.executable, "-c", program, *arguments]))


def _load(options: dict[str, Any]) -> Predictor:
    from synthsr_net.models.registry import ModelError, default_model
    from synthsr_net.predict import Predictor

    settings = {name: options[name] for name in PREDICTOR_OPTIONS if name in options}
    if options["model"] is not None:
        return Predictor.from_file(options["model"], **settings)
    name = options.get("default_model") or default_model() or DEFAULT_MODEL
    try:
        return Predictor.from_file(name, **settings)
    except ModelError as error:
        raise InputError(f"{str(error).rstrip('.')}. Or name another with --model.") from error


def _checked(
    missing: list[Task],
    mine: list[Task],
    predictor: Predictor,
    names: Sequence[str | None],
    *,
    resume: bool,
) -> list[Task]:
    """Tasks with inputs in the order of the model; what is complete must be its work as well."""
    from synthsr_net.batch.run import check_tasks, refuse_others
    from synthsr_net.batch.tasks import order_inputs

    check_tasks(mine, predictor)
    if resume:
        outputs = {task.output for task in missing}
        refuse_others([task for task in mine if task.output not in outputs], predictor)
    known = [image.name for image in predictor.config.inputs]
    if None not in names and not set(names) <= set(known):
        return missing  # a model that calls its inputs otherwise takes them in order
    return order_inputs(missing, names, known)
