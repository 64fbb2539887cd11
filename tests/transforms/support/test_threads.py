"""Promises of threads beside the one that computes."""

from __future__ import annotations

import os
import threading
import time

import pytest

from synthsr_transforms.support.threads import num_cores, threads


def test_cores_are_those_that_the_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 2, 7}, raising=False)
    assert num_cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    assert num_cores() == 5


def test_an_error_lets_work_in_progress_end_and_drops_the_rest() -> None:
    begun, done = threading.Event(), []

    def work(number: int) -> None:
        begun.set()
        time.sleep(0.1)
        done.append(number)

    def interrupted() -> None:
        with threads(1) as pool:
            for number in range(5):
                pool.submit(work, number)
            assert begun.wait(60)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert done == [0]
