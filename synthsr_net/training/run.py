"""Training runs, from settings and label maps to a trained network."""

from __future__ import annotations

import inspect
import logging
import os
import platform
import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from pytorch_lightning import Trainer
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.plugins.environments import SLURMEnvironment
from pytorch_lightning.strategies import DDPStrategy

from synthsr_net.training.callbacks.log import EpochResults, Progress, RunLog
from synthsr_net.training.callbacks.saving import SaveState, StopRequest
from synthsr_net.training.setup.experiment import RunPlan
from synthsr_net.training.setup.prepare import Prepared, prepare
from synthsr_net.training.task.watch import NonFiniteLossError, report_failure
from synthsr_transforms.subjects.files import Match, SubjectFiles, refuse_input_folder
from synthsr_transforms.subjects.pairs import ScanPair
from synthsr_transforms.support.atomic import check_space, check_writable
from synthsr_transforms.support.messages import SynthSRError
from synthsr_transforms.support.stopping import (
    handlers_kept,
    is_first_process,
    signals_held,
    undoing,
)

from .environment import Hardware, environment
from .folder import LOGS, RunFolder

_NOT_FOR_USERS = (".*LeafSpec", "Grad strides do not match", "The ``compute`` method of metric")


def start(  # noqa: PLR0913 - the one way in, with the options of the command
    source: str | os.PathLike[str] | None,
    assignments: Sequence[str] = (),
    *,
    folder: str | os.PathLike[str],
    labels: str | os.PathLike[str] | None = None,
    images: str | os.PathLike[str] | None = None,
    inputs: str | os.PathLike[str] | None = None,
    targets: str | os.PathLike[str] | None = None,
    match: Match = "names",
    recursive: bool = False,
    hardware: Hardware | None = None,
    resume: bool = False,
    overwrite: bool = False,
    on_subject: Callable[[SubjectFiles | ScanPair], object] | None = None,
    on_plan: Callable[[RunPlan], object] | None = None,
) -> TrainingRun:
    """Check everything, then write the records of a run.

    Args:
        source: Preset or YAML file, see `load_experiment`; None to resume with the recorded
            settings.
        assignments: Changes of settings.
        folder: Folder of the run.
        labels: Label maps, see `RunPlan.from_source`.
        images: Real targets.
        inputs: Real scans to predict from, see `RunPlan.from_source`.
        targets: Their targets.
        match: See `find_subjects` of `synthsr_transforms.subjects.files`.
        recursive: Likewise.
        hardware: Devices to compute on; the CPU by default.
        resume: Whether to go on with the run in the folder.
        overwrite: Whether to replace it.
        on_subject: Called with each subject after it was read.
        on_plan: Called once the settings were read, before label maps are.

    Returns:
        The run, ready to be fitted.

    Raises:
        ValueError: If anything is wrong; nothing was written then.
    """
    place, hardware = RunFolder(folder), hardware or Hardware()
    writes = is_first_process()  # others come when the records are written
    check_writable(place.path)
    if resume and overwrite:
        raise SynthSRError("resume and overwrite exclude each other. Choose one of them.")
    if source is None and not resume:
        raise SynthSRError("a preset or a YAML file must be given, got none. See --list-presets.")
    if writes:
        place.check(resume=resume, overwrite=overwrite)
    config = place.config_path if source is None else source
    plan = RunPlan.from_source(
        config,
        assignments,
        labels=labels,
        images=images,
        inputs=inputs,
        targets=targets,
        match=match,
        recursive=recursive,
    )
    refuse_input_folder(place.path, plan.sources)
    if on_plan is not None:
        on_plan(plan)
    device = hardware.available()
    resumed = resume and place.state_path.exists()
    prepared = prepare(
        plan,
        device=device,
        folder_name=place.path.resolve().name,
        on_subject=on_subject,
        resumed=resumed,
    )
    if resume and not resumed:
        prepared.notes.append(f"nothing is saved in {place.path} yet: the run starts anew")
    if writes:
        record = prepared.record(plan, device)
        if resume:
            place.refuse_other_run(record)
        if resumed:
            prepared.check_state(place.state_path)
        if overwrite:
            place.clear()
        check_space(place.path, prepared.expected_bytes)
        about = environment(device, hardware.devices, hardware.num_nodes)
        place.open(record, prepared.fitted.generator.label_table, about)
    return TrainingRun(prepared, place, hardware, resume=resumed)


class Done(NamedTuple):
    """What a process did for a run.

    Attributes:
        rank: Number of the process, from 0.
        size: Number of processes.
        device: Where it computed.
        batches: Number of batches of its own.
    """

    rank: int
    size: int
    device: str
    batches: int

    def __str__(self) -> str:
        """In words."""
        who = f"Process {self.rank + 1} of {self.size} on {platform.node()}"
        return f"{who}: trained {self.batches} batches of its own on {self.device}"


class TrainingRun:
    """A run whose input was checked and whose records are written.

    Args:
        prepared: Network and data.
        folder: Its folder.
        hardware: Devices to compute on.
        resume: Whether to go on from the saved state.
    """

    def __init__(
        self,
        prepared: Prepared,
        folder: RunFolder,
        hardware: Hardware,
        *,
        resume: bool = False,
    ) -> None:
        self.prepared, self.folder = prepared, folder
        self.hardware, self.resume = hardware, resume
        self.config = prepared.training

    def fit(
        self,
        *,
        on_step: Callable[[Progress], object] | None = None,
        on_epoch: Callable[[EpochResults], object] | None = None,
    ) -> Done:
        """Train until the last epoch is complete.

        Args:
            on_step: Called after each batch.
            on_epoch: Called after each epoch.

        Returns:
            What this process did.

        Raises:
            WorkFailedError: If the loss is not finite or the run cannot be saved; what was
                saved before stays.
            KeyboardInterrupt: If the user stopped it; its state is saved then.
        """
        task, data = self.prepared.task(), self.prepared.data()
        stop = StopRequest()
        log = RunLog(self.folder, self.prepared, on_step=on_step, on_epoch=on_epoch)
        state = self.folder.state_path if self.resume else None
        # States hold numbers alone; older versions of Lightning load nothing else by themselves.
        known = "weights_only" in inspect.signature(Trainer.fit).parameters
        safe: Any = {"weights_only": True} if known and state is not None else {}
        try:
            with handlers_kept(), products(self.prepared.precision), _quiet():
                stop.listen()
                trainer = self.trainer([log, SaveState(self.folder, self.config, stop)])
                kill = getattr(trainer.strategy.launcher, "kill", lambda _: None)
                _start_while_held(trainer.strategy.launcher)
                with undoing(lambda: kill(signal.SIGKILL)):  # others would wait for this process
                    trainer.fit(task, datamodule=data, ckpt_path=state, **safe)
                done = Done(trainer.global_rank, trainer.world_size, str(task.device), log.batches)
                if stop.made:
                    raise KeyboardInterrupt
                return done
        except NonFiniteLossError as error:
            spacing = self.prepared.model.scan.spacing_mm
            raise report_failure(error, data.stream, self.folder, spacing) from error
        except SystemExit as error:  # Lightning turns interrupts into it
            raise KeyboardInterrupt from error

    def trainer(self, callbacks: Sequence[Any]) -> Trainer:
        """Lightning's trainer for the run."""
        config, hardware = self.config, self.hardware
        kind, _, index = hardware.device.partition(":")
        several = hardware.devices * hardware.num_nodes > 1
        settings, manual = config.optimiser, self.prepared.is_adversarial
        strict: Any = (
            "warn" if kind == "cuda" else True
        )  # GPUs lack deterministic forms of some layers
        # With a critic, each batch trains one of two networks.
        spread = DDPStrategy(find_unused_parameters=manual, gradient_as_bucket_view=True)
        return Trainer(
            accelerator={"cuda": "gpu"}.get(kind, kind),
            devices=[int(index)] if index else hardware.devices,
            num_nodes=hardware.num_nodes,
            strategy=spread if several else "auto",
            precision="bf16-mixed" if self.prepared.precision == "bf16" else "32-true",
            max_epochs=config.run.epochs,
            accumulate_grad_batches=1 if manual else settings.accumulate_batches,
            gradient_clip_val=None if manual else settings.clip_norm,
            check_val_every_n_epoch=max(config.validation.every_epochs, 1),
            limit_val_batches=None if config.validation.every_epochs else 0,
            num_sanity_val_steps=0,
            deterministic=strict if config.run.deterministic else None,
            benchmark=not config.run.deterministic,
            logger=TensorBoardLogger(str(self.folder.path), name=LOGS, version=""),
            callbacks=list(callbacks),
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            plugins=[SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else None,
            default_root_dir=str(self.folder.path),
        )


@contextmanager
def products(precision: str) -> Iterator[None]:
    """Let GPUs round the factors of float32 products unless the precision is `fp32`.

    At the end, this and what Lightning sets for the whole process, deterministic algorithms and the
    search for the fastest ones, are restored.
    """
    before = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    benchmark, strict = torch.backends.cudnn.benchmark, torch.are_deterministic_algorithms_enabled()
    warning = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.backends.cudnn.allow_tf32 = precision != "fp32"
    torch.set_float32_matmul_precision("highest" if precision == "fp32" else "high")
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before[0]
        torch.set_float32_matmul_precision(before[1])
        torch.backends.cudnn.benchmark = benchmark
        torch.use_deterministic_algorithms(strict, warn_only=warning)


def _start_while_held(launcher: Any) -> None:
    """Let processes that Lightning starts have Ctrl-C once they have taken signals, not before."""
    start = getattr(launcher, "_call_children_scripts", None)
    if start is not None:
        launcher._call_children_scripts = signals_held()(start)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence messages of Lightning about itself."""
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning_fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            for text in _NOT_FOR_USERS:
                warnings.filterwarnings("ignore", message=text)
            warnings.filterwarnings("ignore", module="pytorch_lightning")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
