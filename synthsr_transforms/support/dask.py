"""Work on the workers of a Dask cluster, which sees to retries and to workers that die.

Needs the package `distributed`. Nothing of it is imported before it is used.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from synthsr_transforms.support.messages import SynthSRError, WorkFailedError

Item = TypeVar("Item")
Made = TypeVar("Made")
log = logging.getLogger("synthsr_transforms")
RETRIES = 2
"""Times that a task which ends with an error is tried again."""
SECONDS_TO_CONNECT = 30


@contextmanager
def connected(address: str) -> Iterator[Any]:
    """A client of a Dask cluster.

    Args:
        address: Of the scheduler, such as `tcp://node1:8786`, or the path of its file.

    Raises:
        SynthSRError: If Dask is not installed, or no scheduler answers there.
        WorkFailedError: If the scheduler is lost later.
    """
    try:
        from distributed import Client, TimeoutError
        from distributed.comm import CommClosedError
    except ImportError:
        raise SynthSRError(
            "--dask needs the package distributed, which is not installed. Install it with pip"
            " install 'synthsr[dask]'."
        ) from None
    is_file = Path(address).is_file()
    place = {"scheduler_file": address} if is_file else {"address": address}
    try:
        client = Client(**place, timeout=SECONDS_TO_CONNECT, name="synthsr", set_as_default=False)
    except (OSError, ValueError, TypeError) as error:
        raise SynthSRError(
            f"--dask must be the address of a scheduler, such as tcp://node1:8786, or its file, got"
            f" {address}, where none answers ({type(error).__name__}). Start one with dask"
            " scheduler."
        ) from error
    try:
        log.info("dashboard of Dask: %s", client.dashboard_link)
        if not client.scheduler_info()["workers"]:
            log.warning("%s has no workers yet: the work begins when there are some.", address)
        yield client
    except CommClosedError as error:
        raise WorkFailedError(_lost(address)) from error
    finally:
        with suppress(TimeoutError):  # the work is done, or its error is on the way
            client.close(timeout=5)


def each_done(
    client: Any, function: Callable[[Item], Made], items: Mapping[str, Item], address: str
) -> Iterator[tuple[str, Made | Exception]]:
    """Let workers apply a function to items, and yield what became of each as it is known.

    A worker that dies gives its items back. An item during which several workers died fails.

    Args:
        client: See `connected`.
        function: A function that may be called twice for an item, of which one call was lost.
        items: By unique names.
        address: That of the cluster, for messages.

    Raises:
        WorkFailedError: If the cluster gives the work up.
    """
    from distributed import CancelledError, KilledWorker, as_completed

    run = os.urandom(4).hex()
    names: list[str] = list(items)
    futures: list[Any] = []
    for name in names:
        key = f"synthsr-{run}-{len(futures)}"
        futures.append(client.submit(function, items[name], key=key, pure=False, retries=RETRIES))
    by_key = {future.key: name for future, name in zip(futures, names, strict=True)}
    waiting = as_completed(futures, loop=client.loop, with_results=True, raise_errors=False)
    del futures  # results are fetched and forgotten, so that no worker that dies takes them along
    for future, result in waiting:
        name = by_key.pop(future.key)
        if isinstance(result, CancelledError):
            raise WorkFailedError(_lost(address))
        if future.status != "error":
            yield name, result
            continue
        error: Exception = result[1]
        if isinstance(error, KilledWorker):
            error = WorkFailedError("several workers died of it, perhaps for want of memory.")
        yield name, error


def _lost(address: str) -> str:
    return (
        f"the scheduler at {address} was lost. What was complete is kept: run the same command"
        " again, predict and segment with --resume."
    )
