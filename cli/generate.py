"""`synthsr generate`: training pairs from label maps."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from synthsr_cli.common.describing import counted
from synthsr_cli.common.messages import log, say
from synthsr_cli.common.options import (
    Shard,
    complete_presets,
    dask_option,
    device_option,
    dry_run_option,
    format_option,
    import_option,
    message_options,
    out_option,
    overwrite_option,
    seed_option,
    set_option,
    subject_options,
    threads_option,
    warn_of_unread_subjects,
)
from synthsr_cli.common.progress import lasted, progress
from synthsr_cli.common.tables import print_table
from synthsr_transforms.support.stopping import on_stop

if TYPE_CHECKING:
    from synthsr_transforms.job.job import StartedJob


def _list_presets(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if not value or ctx.resilient_parsing:
        return
    from synthsr_transforms.generator.config import load_config, preset_names

    for name in preset_names():
        config = load_config(name)
        target = "real target, needs --images" if config.real_target else "synthetic target"
        click.echo(f"{name}  ({target}; label table: {config.label_table})")
        click.echo(f"    {config.description}")
    ctx.exit()


list_presets_option = click.option(
    "--list-presets",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_list_presets,
    help="List the presets and what they are for.",
)


@click.command()
@click.argument("source", metavar="PRESET|CONFIG.yaml", shell_complete=complete_presets)
@list_presets_option
@subject_options
@click.option("-n", "num_samples", type=int, metavar="N", help="Number of samples.  [default: 1]")
@out_option(
    "Output folder. Complete samples in it are kept, so a stopped job goes on.", default="synthetic"
)
@seed_option
@set_option
@import_option
@format_option
@click.option("--preview", is_flag=True, help="Draw a picture of each sample, and an overview.")
@click.option(
    "--shard",
    type=Shard(),
    default="1/1",
    metavar="I/N",
    help="Make only the I-th of N parts of the job, for several processes or machines.",
)
@dask_option
@overwrite_option
@dry_run_option
@device_option
@threads_option
@message_options
def generate(
    source: str, assignments: tuple[str, ...], dry_run: bool, dask: str | None, **options: Any
) -> None:
    """Make training pairs from label maps: image, target and labels of each sample.

    PRESET is a published setting (see --list-presets); CONFIG.yaml is one of your own, or the
    config.yaml of an earlier job, which brings its label maps, seed and number of samples along.

    \b
    Examples:
      Two samples of the built-in phantom, with pictures:
        synthsr generate all_purpose -n 2 --preview
      A thousand samples from your label maps:
        synthsr generate all_purpose --labels label_maps/ -n 1000 --out synthetic/
      Other settings:
        synthsr generate all_purpose --labels label_maps/ --set crop.shape=96 --set flip.p=0
      Real scans as targets:
        synthsr generate tutorial_1_sr_real --labels label_maps/ --images scans/
      The same samples as in an earlier job:
        synthsr generate synthetic/config.yaml --out again/
    """  # noqa: D301 - click reads the character itself
    from synthsr_transforms.job.job import GenerationJob

    warn_of_unread_subjects(options)
    job = GenerationJob.from_source(source, assignments, **options)
    with progress("label maps checked", len(job.subjects)) as advance:
        started = job.start(
            on_subject=lambda subject: advance(),
            on_phantom=lambda: log.info("making the built-in head phantom"),
            dry_run=dry_run,
        )
    if dry_run:
        return _show_samples(started)
    number, made, begin = len(started.samples), 0, time.perf_counter()
    how = "The same command goes on where it stopped."
    with (
        on_stop(lambda: f"Stopped after {made} of {number} samples. {how}"),
        progress("samples", number) as advance,
    ):
        for _ in started.run() if dask is None else _run_on_workers(started, dask):
            made += 1
            advance()
    _summarise(started, time.perf_counter() - begin)


def _run_on_workers(started: StartedJob, address: str) -> Iterator[Any]:
    from synthsr_transforms.job.on_dask import run_on_workers

    return run_on_workers(started, address)


def _show_samples(started: StartedJob) -> None:
    """Print which samples would be made of which label maps."""
    names = ("sample", "label_map")
    rows = [(sample.stem, str(sample.subject.labels)) for sample in started.samples]
    print_table(names, rows, left=names)
    kept = f" {counted(started.num_complete, 'sample')} would be kept."
    log.info(
        f"Nothing was written: {counted(len(rows), 'sample')} to make in {started.folder.path}."
        f"{kept if started.num_complete else ''}"
    )


def _summarise(started: StartedJob, seconds: float) -> None:
    number, folder = len(started.samples), started.folder.path
    kept = f" ({started.num_complete} were complete before)" if started.num_complete else ""
    if number:
        say(f"Made {counted(number, 'sample')} in {lasted(number, seconds)}, in {folder}{kept}.")
    elif not started.num_complete:
        part, parts = started.job.shard
        say(f"Nothing to make: shard {part}/{parts} of {started.job.num_samples} samples is empty.")
    else:
        say(f"Nothing to make: all {started.num_complete} samples in {folder} are complete.")
