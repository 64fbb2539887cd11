"""One batch, many processes: which share of the work is this one's, and on which device.

Processes are started by `torchrun`, by SLURM's `srun`, or by `launch`. Each takes every n-th task,
so that together they do each task once. They exchange nothing but, under torchrun, the numbers of
what is done at the end.
"""

from __future__ import annotations

import logging
import os
import platform
import signal
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar
from uuid import uuid4

from synthsr_transforms.support.atomic import temporary_folder
from synthsr_transforms.support.messages import SynthSRError
from synthsr_transforms.support.stopping import LAUNCHED, handlers_kept
from synthsr_transforms.support.threads import num_cores

Item = TypeVar("Item")

TORCHRUN_VARIABLES = ("TORCHELASTIC_RUN_ID", "RANK", "WORLD_SIZE", "LOCAL_RANK")
SLURM_VARIABLES = ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID")
SECONDS_BETWEEN_LOOKS = 0.1
"""Interval at which a process that is done checks whether the others are."""


@dataclass(frozen=True)
class Share:
    """Share of the work of one of several processes.

    Attributes:
        rank: Number of the process, from 0.
        size: Number of processes.
        local_rank: Number of the process on its machine, from 0.
        launcher: `torchrun`, `slurm` or None.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    launcher: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.size:
            raise SynthSRError(
                f"the number of a process must be below {self.size}, got {self.rank}. Correct"
                " the variables that the launcher sets."
            )

    @property
    def name(self) -> str:
        """The process in messages.

        Examples:
            >>> Share(1, 4).name.partition(" on ")[0]
            'Process 2 of 4'
        """
        return f"Process {self.rank + 1} of {self.size} on {platform.node()}"

    def of(self, items: Sequence[Item]) -> list[Item]:
        """Every n-th item.

        Examples:
            >>> Share(1, 3).of(range(8))
            [1, 4, 7]
        """
        return list(items[self.rank :: self.size])

    def device(self, name: str, num_gpus: int) -> str:
        """The device of this process: a GPU of its own, as far as there are some.

        Args:
            name: What was asked for. `auto` and `cuda` leave the choice of GPU open.
            num_gpus: Number of GPUs that the process sees.

        Examples:
            >>> Share(5, 8, local_rank=1).device("auto", num_gpus=4)
            'cuda:1'
        """
        if self.size == 1 or name not in ("auto", "cuda") or not num_gpus:
            return name
        return f"cuda:{self.local_rank % num_gpus}"


def find_share(environment: Mapping[str, str] | None = None) -> Share:
    """The share of this process, by the variables that `torchrun` or `srun` set.

    A shell within a SLURM job, interactive or of a batch script, is one process: only what `srun`
    starts shares work.

    Args:
        environment: The variables; those of this process by default.
    """
    variables = os.environ if environment is None else environment
    if all(name in variables for name in TORCHRUN_VARIABLES):
        rank, size, local_rank = (int(variables[name]) for name in TORCHRUN_VARIABLES[1:])
        return Share(rank, size, local_rank, launcher="torchrun")
    if all(name in variables for name in SLURM_VARIABLES) and _by_srun(variables):
        size = int(variables.get("SLURM_STEP_NUM_TASKS", variables["SLURM_NTASKS"]))
        rank, local_rank = int(variables["SLURM_PROCID"]), int(variables["SLURM_LOCALID"])
        return Share(rank, size, local_rank, launcher="slurm") if size > 1 else Share()
    return Share()


def _by_srun(variables: Mapping[str, str]) -> bool:
    """Whether `srun` started this process, rather than a shell in which SLURM's variables are.

    Lightning knows interactive jobs by their names. A batch script that runs a program without
    `srun` runs it once, though its variables name many tasks; only steps have step variables.
    """
    step = any(name in variables for name in ("SLURM_STEP_ID", "SLURM_STEP_NUM_TASKS"))
    if "SLURM_PTY_PORT" in variables or (variables.get("ENVIRONMENT") == "BATCH" and not step):
        return False
    if int(variables["SLURM_NTASKS"]) == 1 and not step:
        return False
    from lightning_fabric.plugins.environments import SLURMEnvironment

    with _variables(variables), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that srun is there and not used is for us to judge
        return bool(SLURMEnvironment.detect())


# Together at the end -----------------------------------------------------------------------------


def sum_over_processes(share: Share, numbers: Sequence[int]) -> list[int]:
    """Sums over all processes, once all are done.

    `torchrun` ends all processes when one ends with an error. So processes wait for each other
    before they end, and from then on are deaf to `torchrun`, so that none is stopped because a scan
    of another failed. If one dies, `torchrun` stops the others, and `--resume` goes on.

    Args:
        share: This process. Only under torchrun is there anything to wait for.
        numbers: Numbers of this process, of the same meaning in each.

    Returns:
        The sums, or `numbers` themselves where processes do not know of each other.
    """
    if share.launcher != "torchrun" or share.size == 1:
        return list(numbers)
    from torch.distributed import rendezvous

    store = next(iter(rendezvous("env://", timeout=timedelta(seconds=60))))[0]
    for i, number in enumerate(numbers):
        store.add(f"synthsr/{i}", number)
    _wait(store, "synthsr/done", share.size)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sums = [store.add(f"synthsr/{i}", 0) for i in range(len(numbers))]
    _wait(store, "synthsr/read", share.size)
    return sums


def _wait(store: Any, key: str, number: int) -> None:
    """Count this process in, then wait until as many are."""
    store.add(key, 1)
    while store.add(key, 0) < number:
        time.sleep(SECONDS_BETWEEN_LOOKS)


# Starting processes ------------------------------------------------------------------------------


def num_processes(devices: str, device: str, num_gpus: int) -> int:
    """Number of processes that `--devices` asks for.

    Args:
        devices: A number, or `all` for one per GPU.
        device: Where they compute, see `available_device`.
        num_gpus: Number of GPUs of this machine.

    Raises:
        SynthSRError: If it is no number above 0, or there are not as many GPUs.

    Examples:
        >>> num_processes("all", "auto", num_gpus=8), num_processes("2", "cpu", num_gpus=0)
        (8, 2)
    """
    on_gpus = device == "cuda" or (device == "auto" and num_gpus > 0)
    if devices == "all":
        return num_gpus if on_gpus else 1
    if not devices.isdecimal() or int(devices) < 1:
        raise SynthSRError(f"devices must be a number above 0 or all, got {devices!r}.")
    number = int(devices)
    if on_gpus and number > num_gpus:
        raise SynthSRError(
            f"devices must be at most {num_gpus}, the number of GPUs here, got {number}."
        )
    if ":" in device and number > 1:
        raise SynthSRError(
            f"{number} devices need --device cuda or cpu, got {device}. Leave one of them out."
        )
    return number


def launch(number: int, command: Sequence[str]) -> int:
    """Run a command in several processes of this machine with torchrun, and wait for them.

    Args:
        number: How many.
        command: Program and arguments, the same for each; `find_share` numbers the processes.

    Returns:
        0 if all ended well, else the exit code of the first that did not: minus the number of a
        signal if one killed it.

    Raises:
        KeyboardInterrupt: If a user or scheduler stops this process, which stops the others.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    for name in [name for name in logging.root.manager.loggerDict if "torch.dist" in name]:
        logging.getLogger(name).setLevel(logging.CRITICAL)  # children report errors
    more = {"OMP_NUM_THREADS": str(max(1, num_cores() // number)), LAUNCHED: "1"}
    try:
        with temporary_folder() as logs, _variables({**more, **os.environ}), handlers_kept():
            config = LaunchConfig(
                min_nodes=1,
                max_nodes=1,
                nproc_per_node=number,
                run_id=f"synthsr-{uuid4().hex}",
                rdzv_backend="c10d",
                rdzv_endpoint="localhost:0",
                max_restarts=0,
                logs_specs=DefaultLogsSpecs(log_dir=str(logs)),
            )
            elastic_launch(config, command[0])(*command[1:])
    except ChildFailedError as error:
        return error.get_first_failure()[1].exitcode
    except SignalException as error:
        raise KeyboardInterrupt from error
    return 0


@contextmanager
def _variables(variables: Mapping[str, str]) -> Iterator[None]:
    """Exactly these environment variables, for a while."""
    before, wanted = dict(os.environ), dict(variables)
    os.environ.clear()
    os.environ.update(wanted)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
