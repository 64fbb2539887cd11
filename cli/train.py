"""`synthsr train`: a network trained on pairs that are generated on the fly."""

from __future__ import annotations

import math
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from synthsr_cli.common.describing import counted
from synthsr_cli.common.messages import log, say
from synthsr_cli.common.options import (
    complete_presets,
    device_option,
    import_option,
    message_options,
    out_option,
    overwrite_option,
    set_option,
    subject_options,
    threads_option,
    warn_of_unread_subjects,
)
from synthsr_cli.common.progress import Counter, clock, progress
from synthsr_transforms.support.stopping import is_first_process, on_stop

from .generate import list_presets_option

if TYPE_CHECKING:
    from synthsr_net.training.callbacks.log import EpochResults, Progress
    from synthsr_net.training.data.stream import Origin
    from synthsr_net.training.run import TrainingRun
    from synthsr_net.training.setup.experiment import RunPlan

SHOWN = ("train/loss", "validation/brain/l1", "validation/brain/psnr", "validation/brain/ssim")
"""Metrics reported after each epoch."""


@click.command()
@click.argument(
    "source", metavar="[PRESET|CONFIG.yaml]", required=False, shell_complete=complete_presets
)
@list_presets_option
@subject_options
@click.option(
    "--inputs",
    type=click.Path(path_type=Path),
    metavar="DIR|FILE",
    help="Real scans of any contrast to predict from, in register with --targets.",
)
@click.option(
    "--targets",
    type=click.Path(path_type=Path),
    metavar="DIR|FILE",
    help="Real T1-weighted scans to be predicted, one per input; --labels then are theirs.",
)
@out_option("Folder of the run: settings, metrics, pictures, model files.", required=True)
@set_option
@import_option
@click.option("--resume", is_flag=True, help="Go on with the run in the folder.")
@overwrite_option
@device_option
@click.option(
    "--devices",
    type=click.IntRange(min=1),
    metavar="N",
    default=1,
    show_default=True,
    help="GPUs of this machine to train on, each with batches of its own.",
)
@click.option(
    "--num-nodes",
    type=click.IntRange(min=1),
    metavar="N",
    default=1,
    show_default=True,
    help="Machines, each with so many GPUs; a scheduler such as SLURM starts the processes.",
)
@click.option(
    "--compile", "compiled", is_flag=True, help="Compile the network: a slow start, then fast."
)
@threads_option
@message_options
def train(source: str | None, assignments: tuple[str, ...], **options: Any) -> None:
    """Train a network on pairs generated on the fly from label maps.

    PRESET is a published setting (see --list-presets); CONFIG.yaml is one of your own, or the
    config.yaml of an earlier run. The folder of the run then holds model files for `synthsr
    predict`, metrics.csv, curve.png, pictures of validation samples, and events for TensorBoard.

    \b
    Examples:
      A general-purpose network from your label maps:
        synthsr train all_purpose --labels label_maps/ --out run --compile
      Go on after an interruption, with the same next batches:
        synthsr train --out run --resume
      Other settings:
        synthsr train all_purpose --labels label_maps/ --out run2 --set run.epochs=200
          --set optimiser.learning_rate=4e-4 --set optimiser.schedule=cosine
      From the weights of another network:
        synthsr train all_purpose --labels label_maps/ --out run3
          --set initial_weights=run/models/best.safetensors
      Real scans as targets:
        synthsr train tutorial_1_sr_real --labels label_maps/ --images scans/ --out run4
      Pairs of real scans, any contrast to T1:
        synthsr train all_purpose --inputs flair/ --targets t1/ --out run5
      Use the result:
        synthsr predict scan.nii.gz t1.nii.gz --model run/models/best.safetensors
    """  # noqa: D301 - click reads the character itself
    quiet = not is_first_process()
    if not quiet:
        warn_of_unread_subjects(options)
    run = _start(source, assignments, quiet=quiet, **options)
    if not quiet:
        _announce(run)
    how = f"Stopped. `synthsr train --out {run.folder.path} --resume` goes on."
    begin = time.perf_counter()
    with on_stop(lambda: how), progress("batches", done=None, quiet=quiet) as shown:
        done = run.fit(on_step=partial(show_step, shown), on_epoch=partial(show_epoch, shown))
    seconds = time.perf_counter() - begin
    if done.size > 1:
        log.info(f"{done}, in {clock(seconds)}.")
    if not quiet:
        epochs = counted(run.config.run.epochs, "epoch")
        best = run.folder.model_path("best")
        say(f"Trained {epochs} in {clock(seconds)}. The best model is {best}.")


def show_step(shown: Counter, now: Progress) -> None:
    """Report a batch."""
    loss = "" if math.isnan(now.loss) else f", loss {now.loss:.4f}"
    shown.reach(now.done, now.total, f"epoch {now.epoch}/{now.epochs}{loss}")


def show_epoch(shown: Counter, results: EpochResults) -> None:
    """Report an epoch."""
    values = [
        f"{name.removeprefix('validation/').replace('/', ' ')} {results.row[name]:.4g}"
        for name in SHOWN
        if name in results.row
    ]
    best = " (best)" if results.best else ""
    told = ", ".join(values) or "the critic alone has learnt"
    shown.say(f"Epoch {results.epoch}: {told}{best}")


def _start(
    source: str | None, assignments: tuple[str, ...], *, quiet: bool, **options: Any
) -> TrainingRun:
    from synthsr_net.training.environment import Hardware
    from synthsr_net.training.run import start
    from synthsr_transforms.support.devices import available_device

    device = available_device(options["device"] or "auto")
    hardware = Hardware(device=device, devices=options["devices"], num_nodes=options["num_nodes"])
    if options["compiled"]:
        assignments = (*assignments, "run.compile=true")
    with progress("label maps read", quiet=quiet) as shown:

        def on_plan(plan: RunPlan) -> None:
            shown.total = len(plan.sources)
            if plan.pairs:
                shown.rename(f"pairs{' and label maps' * bool(plan.subjects)} read")

        return start(
            source,
            assignments,
            folder=options["folder"],
            labels=options["labels"],
            images=options["images"],
            inputs=options["inputs"],
            targets=options["targets"],
            match=options["match"],
            recursive=options["recursive"],
            hardware=hardware,
            resume=options["resume"],
            overwrite=options["overwrite"],
            on_plan=on_plan,
            on_subject=lambda subject: shown(),
        )


def _announce(run: TrainingRun) -> None:
    """Report what is about to be trained, and what was corrected."""
    prepared = run.prepared
    network = prepared.network.config
    weights = sum(p.numel() for p in prepared.network.parameters())
    origin = prepared.data().origin
    real = origin.generator.config.real_target and origin.entries[0].scan is not None
    sources = _counted(origin, "pair" if real else "label map")
    if prepared.mixed is not None:
        share = prepared.training.pairs.share
        sources = f"{_counted(prepared.mixed, 'pair')} in {share:.0%} of batches, else {sources}"
    patch = " x ".join(str(n) for n in prepared.patch)
    log.info(
        f"Training a network of {_in_words(weights)} weights ({network.in_channels} in,"
        f" {network.out_channels} out, {network.normalisation} normalisation) on {sources},"
        f" patches of {patch}, in {prepared.precision}."
    )
    for note in prepared.notes:
        log.info(f"Note: {note}.")
    if run.resume:
        log.info(f"Going on from {run.folder.state_path}.")


def _counted(origin: Origin, what: str) -> str:
    """Numbers of label maps or pairs of scans of training, and of validation."""
    scans = " of real scans" if what == "pair" else ""
    text, held = counted(len(origin.entries), what) + scans, len(origin.held_out)
    return f"{text} ({held} more for validation)" if held else text


def _in_words(number: int) -> str:
    """A number of weights, in millions if there are as many."""
    return f"{number / 1e6:.1f} million" if number >= 1e6 else f"{number:,}"
