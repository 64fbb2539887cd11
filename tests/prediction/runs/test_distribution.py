"""Promises of work shared by processes: each task once, none lost, and no process cut short."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from synthsr_net.prediction.runs.distribution import (
    Share,
    find_share,
    launch,
    num_processes,
    sum_over_processes,
)
from synthsr_transforms.support.messages import SynthSRError


def torchrun(rank: int, size: int, local_rank: int | None = None) -> dict[str, str]:
    local_rank = rank if local_rank is None else local_rank
    numbers = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": local_rank}
    return {"TORCHELASTIC_RUN_ID": "x", **{name: str(n) for name, n in numbers.items()}}


def slurm(rank: int, size: int, local_rank: int = 0, **more: str) -> dict[str, str]:
    return {
        "SLURM_JOB_NAME": "predict",
        "SLURM_NTASKS": str(size),
        "SLURM_PROCID": str(rank),
        "SLURM_LOCALID": str(local_rank),
        **more,
    }


def srun(rank: int, size: int, local_rank: int = 0, **more: str) -> dict[str, str]:
    steps = {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": str(size)}
    return slurm(rank, size, local_rank, **steps, **more)


class TestShares:
    @pytest.mark.parametrize("launcher", [torchrun, srun])
    @pytest.mark.parametrize("number", [0, 1, 7, 8, 9, 100])
    @pytest.mark.parametrize("size", [1, 2, 3, 8])
    def test_together_they_are_everything_once(self, launcher, number, size):
        items = list(range(number))
        shares = [find_share(launcher(rank, size)).of(items) for rank in range(size)]
        assert sorted(item for share in shares for item in share) == items
        assert max(map(len, shares)) - min(map(len, shares)) <= 1

    def test_numbers_that_cannot_be(self):
        with pytest.raises(SynthSRError, match="must be below 2, got 2"):
            find_share(torchrun(2, 2))

    @pytest.mark.parametrize(
        ("share", "name", "num_gpus", "expected"),
        [
            (Share(), "auto", 4, "auto"),
            (Share(9, 16, 1), "auto", 8, "cuda:1"),
            (Share(1, 2, 1), "cuda", 2, "cuda:1"),
            (Share(3, 4, 3), "auto", 1, "cuda:0"),  # the scheduler shows each its own GPU
            (Share(1, 2, 1), "cuda:7", 8, "cuda:7"),
            (Share(1, 2, 1), "cpu", 8, "cpu"),
            (Share(1, 2, 1), "auto", 0, "auto"),
        ],
    )
    def test_each_process_has_a_gpu_of_its_own(self, share, name, num_gpus, expected):
        assert share.device(name, num_gpus) == expected


class TestFinding:
    def test_no_launcher(self):
        assert find_share({}) == Share()
        assert find_share({"RANK": "3", "WORLD_SIZE": "4"}) == Share()  # of another program

    def test_torchrun(self):
        assert find_share(torchrun(5, 8, 1)) == Share(5, 8, 1, "torchrun")

    def test_torchrun_within_srun(self):
        variables = {**srun(1, 2), **torchrun(5, 8, 1)}
        assert find_share(variables) == Share(5, 8, 1, "torchrun")

    def test_srun(self):
        assert find_share(srun(5, 8, 1)) == Share(5, 8, 1, "slurm")
        assert find_share(slurm(1, 2, 1)) == Share(1, 2, 1, "slurm")

    @pytest.mark.parametrize(
        "variables",
        [
            srun(0, 1),
            srun(0, 4, SLURM_PTY_PORT="40000"),  # srun --pty
            {**srun(0, 4), "SLURM_JOB_NAME": "bash"},
            {**srun(0, 4), "SLURM_JOB_NAME": "interactive"},
            slurm(0, 4, ENVIRONMENT="BATCH"),  # a batch script without srun
            {"SLURM_NTASKS": "4", "SLURM_JOB_NAME": "x"},  # the shell of salloc
        ],
    )
    def test_shells_within_a_job_do_all_the_work(self, variables):
        assert find_share(variables) == Share()

    def test_a_step_of_a_batch_script_shares(self):
        assert find_share(srun(2, 4, 2, ENVIRONMENT="BATCH")) == Share(2, 4, 2, "slurm")

    def test_a_step_may_be_smaller_than_the_job(self):
        variables = {**srun(1, 2, 1), "SLURM_NTASKS": "8"}
        assert find_share(variables) == Share(1, 2, 1, "slurm")

    def test_by_default_the_variables_of_this_process_count(self, monkeypatch):
        assert find_share() == Share()
        for name, value in srun(1, 2).items():
            monkeypatch.setenv(name, value)
        before = dict(os.environ)
        assert find_share() == Share(1, 2, 0, "slurm")
        assert dict(os.environ) == before


class TestNumber:
    @pytest.mark.parametrize(
        ("devices", "device", "num_gpus", "expected"),
        [
            ("all", "auto", 8, 8),
            ("all", "cuda", 2, 2),
            ("all", "auto", 0, 1),
            ("3", "cpu", 2, 3),
            ("2", "auto", 2, 2),
            ("1", "cuda:1", 2, 1),
        ],
    )
    def test_of_processes(self, devices, device, num_gpus, expected):
        assert num_processes(devices, device, num_gpus) == expected

    @pytest.mark.parametrize(
        ("devices", "device", "message"),
        [
            ("0", "cpu", "number above 0 or all"),
            ("many", "cpu", "number above 0 or all"),
            ("3", "auto", "at most 2, the number of GPUs"),
            ("2", "cuda:1", "need --device cuda or cpu"),
        ],
    )
    def test_that_cannot_be(self, devices, device, message):
        with pytest.raises(SynthSRError, match=message):
            num_processes(devices, device, num_gpus=2)


PROGRAM = """
import sys, time
from pathlib import Path
from synthsr_net.prediction.runs.distribution import sum_over_processes, find_share
share = find_share()
time.sleep(0.5 * share.rank)
sums = sum_over_processes(share, [1, share.rank])
Path(sys.argv[1], f"{share.rank}").write_text(f"{share.size} {sums}")
sys.exit(int(sys.argv[2]) if share.rank == 0 else 0)
"""


class TestLaunch:
    def test_processes_wait_for_each_other_and_one_may_fail(self, tmp_path):
        """The first is done early and fails, which must not stop the second."""
        before = {number: signal.getsignal(number) for number in signal.valid_signals()}
        code = launch(2, [sys.executable, "-c", PROGRAM, str(tmp_path), "3"])
        assert {number: signal.getsignal(number) for number in before} == before
        assert code == 3
        written = {path.name: path.read_text() for path in tmp_path.iterdir()}
        assert written == {"0": "2 [2, 1]", "1": "2 [2, 1]"}

    def test_a_process_that_dies_fails_the_whole(self, tmp_path: Path):
        program = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
        assert launch(1, [sys.executable, "-c", program]) == -signal.SIGKILL

    def test_processes_that_do_not_know_of_each_other_do_not_wait(self):
        assert sum_over_processes(Share(), [3, 4]) == [3, 4]
        assert sum_over_processes(Share(0, 2, 0, "slurm"), [3, 4]) == [3, 4]
