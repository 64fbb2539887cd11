"""Starting a run: everything is checked, then its records are written."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import torch

from synthsr_net.training.config import TrainingConfig
from synthsr_net.training.environment import environment
from synthsr_net.training.folder import RunFile, RunFolder
from synthsr_net.training.processes import is_first_process, is_launched
from synthsr_net.training.run import Hardware, TrainingRun
from synthsr_transforms.job.record import JobSettings, job_config
from synthsr_transforms.labels.files import read_integers
from synthsr_transforms.subjects.files import SubjectFiles, refuse_input_folder
from synthsr_transforms.support.atomic import check_space, check_writable
from synthsr_transforms.support.devices import available_device
from synthsr_transforms.support.messages import SynthSRError

from .plan import RunPlan
from .prepare import Prepared, prepare


def start(  # noqa: PLR0913 - the one way in, with the options of the command
    source: str | os.PathLike[str] | None,
    assignments: Sequence[str] = (),
    *,
    folder: str | os.PathLike[str],
    labels: str | os.PathLike[str] | None = None,
    images: str | os.PathLike[str] | None = None,
    hardware: Hardware | None = None,
    resume: bool = False,
    overwrite: bool = False,
    on_subject: Callable[[SubjectFiles], object] | None = None,
    on_plan: Callable[[RunPlan], object] | None = None,
) -> TrainingRun:
    """Check everything, then write the records of a run.

    Args:
        source: Preset or YAML file, see `load_recipe`; None to resume with the recorded settings.
        assignments: Changes of settings.
        folder: Folder of the run.
        labels: Label maps, see `RunPlan.from_source`.
        images: Real targets.
        hardware: What to compute on; the CPU by default.
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
    first = is_first_process()  # others come when the records are written
    check_writable(place.path)
    if first:
        _check_wish(place, source, resume, overwrite)
    plan = RunPlan.from_source(
        place.config_path if source is None else source, assignments, labels=labels, images=images
    )
    refuse_input_folder(place.path, [*plan.subjects, *plan.held_out])
    if on_plan is not None:
        on_plan(plan)
    device = torch.device(available_device(hardware.device))
    _check_count(device, hardware.devices)
    _check_nodes(hardware.num_nodes)
    name = place.path.resolve().name
    resumed = resume and place.state_path.exists()
    prepared = prepare(
        plan, device=device, folder_name=name, on_subject=on_subject, resumed=resumed
    )
    if resume and not resumed:
        prepared.notes.append(f"nothing is saved in {place.path} yet: the run starts anew")
    record = _record(plan, prepared, device)
    if first:
        if resume:
            place.refuse_other_run(record)
        if resumed:
            check_state(place.state_path, prepared)
        if overwrite and not resume:
            place.clear()
        check_space(place.path, _expected_bytes(prepared))
        about = environment(device, hardware.devices, hardware.num_nodes)
        place.open(record, prepared.fitted.generator.label_table, about)
    return TrainingRun(prepared, place, hardware, resume=resumed)


def _check_wish(
    place: RunFolder, source: str | os.PathLike[str] | None, resume: bool, overwrite: bool
) -> None:
    """Refuse what does not go with what the folder holds.

    Raises:
        SynthSRError: If so.
    """
    if resume and overwrite:
        raise SynthSRError("resume and overwrite exclude each other. Choose one of them.")
    if source is None and not resume:
        raise SynthSRError("a preset or a YAML file must be given, got none. See --list-presets.")
    place.refuse_other_work()
    if resume and not place.holds_run:
        raise SynthSRError(
            f"{place.path} must hold a run to resume, but holds none. Leave out --resume to start"
            " one."
        )
    if not resume and not overwrite:
        place.refuse_run()


def _record(plan: RunPlan, prepared: Prepared, device: torch.device) -> RunFile:
    """What `config.yaml` holds."""
    training = dataclasses.replace(
        with_absolute_paths(prepared.training),
        validation_sources=[subject.record() for subject in plan.held_out],
    )
    settings = JobSettings(
        synthsr_version=version("synthsr"),
        seed=training.run.seed,
        num_samples=prepared.num_batches,
        device=device.type,
        sources=[subject.record() for subject in plan.subjects],
    )
    job = job_config(prepared.fitted.generator, settings)
    fields = {f.name: getattr(job, f.name) for f in dataclasses.fields(job)}
    return RunFile(**fields, training=training)


def with_absolute_paths(training: TrainingConfig) -> TrainingConfig:
    """Settings whose files are found from any working folder; short lists take their place."""
    segmentation, validation = training.loss.segmentation, training.validation
    labels = segmentation.output_labels
    segmentation = dataclasses.replace(
        segmentation,
        model=_absolute(segmentation.model),
        output_labels=read_integers(Path(labels)) if isinstance(labels, str) else labels,
    )
    return dataclasses.replace(
        training,
        initial_weights=_absolute(training.initial_weights),
        loss=dataclasses.replace(training.loss, segmentation=segmentation),
        validation=dataclasses.replace(
            validation, images=_absolute(validation.images), labels=_absolute(validation.labels)
        ),
    )


def _absolute(name: str | None) -> str | None:
    """Absolute path of a file or folder; names of models stay."""
    is_path = name is not None and (Path(name).is_dir() or Path(name).suffix)
    return os.path.abspath(os.path.expanduser(str(name))) if is_path else name


def _check_count(device: torch.device, wanted: int) -> None:
    """Refuse more GPUs than there are.

    Raises:
        SynthSRError: If so.
    """
    count = torch.cuda.device_count() if device.type == "cuda" else 1
    if (device.type == "cuda" and wanted > count) or (device.type == "mps" and wanted > 1):
        raise SynthSRError(
            f"devices must be at most the {count} of this machine, got {wanted}. Lower --devices."
        )


def _check_nodes(num_nodes: int) -> None:
    """Refuse several machines where nothing starts processes on the others: it would wait forever.

    Raises:
        SynthSRError: If so.
    """
    if num_nodes > 1 and not is_launched():
        raise SynthSRError(
            f"num-nodes must be 1 outside a cluster, got {num_nodes}. Start the command on every"
            " machine by a scheduler, such as srun, or a launcher, such as torchrun."
        )


def _expected_bytes(prepared: Prepared) -> float:
    """Rough size of what a run writes."""
    weights = 4.0 * sum(p.numel() for p in prepared.network.parameters())
    keep = prepared.training.run.keep_models
    models = 2 + (prepared.training.run.epochs if keep < 0 else keep)
    return weights * (models + 8)


def check_state(path: Path, prepared: Prepared) -> None:
    """Refuse a state that is damaged or of another architecture.

    Raises:
        SynthSRError: If so.
    """
    advice = "Start anew with --overwrite, or from the weights of a model file in a new folder."
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        saved, position = state["state_dict"], int(state["position"])
    except Exception as error:
        raise SynthSRError(
            f"{path} must be the state of a run, but cannot be read. {advice}"
        ) from error
    if position > prepared.num_batches:
        raise SynthSRError(
            f"run.epochs must be at least {-(-position // prepared.batches_per_epoch)}, of which"
            f" {path} is the state, got {prepared.training.run.epochs}. Raise it."
        )
    own = prepared.network.state_dict()
    for name, tensor in own.items():
        there = saved.get(f"network.{name}")
        if there is None or there.shape != tensor.shape:
            got = "nothing" if there is None else f"shape {tuple(there.shape)}"
            raise SynthSRError(
                f"{path} must be the state of this network, but has {got} for {name} of shape"
                f" {tuple(tensor.shape)}. {advice}"
            )
