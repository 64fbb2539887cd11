"""The end of a program that a user or a scheduler stops: at once, with nothing left half-made.

Python's own `KeyboardInterrupt` rises wherever the program happens to be. Libraries lose it in
callbacks, or turn it into other errors where it meets an import. A program that calls
`end_on_signals` ends where it stands instead: other threads get a second to finish the file that
they write, what is in the making is undone, one line says how to go on, and the exit code is 130.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

EXIT_CODE = 130
"""Exit code of a program that was stopped."""
LAUNCHED = "SYNTHSR_LAUNCHED"
"""Environment variable of processes whose parent says that they were stopped."""
SECONDS_TO_FINISH = 1.0
"""Time that other threads get for what they are in the middle of."""

_undo: dict[object, tuple[int, Callable[[], object]]] = {}
_ending = _undoing = False
_holding: list[int] = []
_came_while_held: list[int] = []
_messages: list[Callable[[], str]] = [lambda: "Stopped."]
_copied_to: list[Callable[[str], object]] = []


@contextmanager
def undoing(action: Callable[[], object]) -> Iterator[None]:
    """Run an action if the block ends by an exception, or the program within it by a signal.

    Once the program ends, other threads do not get beyond the beginning of another block.

    Args:
        action: What to do. As it may run in the middle of anything, it waits for nobody.
    """
    key, thread = object(), threading.get_ident()
    if _undoing or (_ending and thread not in _threads_at_work() | {threading.main_thread().ident}):
        threading.Event().wait()
    _undo[key] = thread, action
    try:
        yield
    except BaseException:
        action()
        raise
    finally:
        del _undo[key]


@contextmanager
def on_stop(message: Callable[[], str]) -> Iterator[None]:
    """Say something else than `Stopped.` if the program is stopped within the block.

    Args:
        message: Returns the line.
    """
    _messages.append(message)
    try:
        yield
    except KeyboardInterrupt:
        print(message(), file=sys.stderr)
        sys.exit(EXIT_CODE)
    finally:
        _messages.remove(message)


def line_copied_to(write: Callable[[str], object] | None) -> None:
    """Give the line of a program that is stopped to a function as well, such as that of a log.

    Args:
        write: The function, which takes no lock, as it may run in the middle of anything; None for
            none.
    """
    _copied_to[:] = [] if write is None else [write]


@contextmanager
def signals_held() -> Iterator[None]:
    """Let signals end this program after the block only, in which it starts other processes.

    A process that is half started when this one ends finds nobody who tells it what to do.
    Processes that are started in the block get no Ctrl-C before `take_signals`.
    """
    masks = hasattr(signal, "pthread_sigmask")  # not on Windows
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}) if masks else set()
    _holding.append(threading.get_ident())
    try:
        yield
    finally:
        _holding.pop()
        if masks:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if _came_while_held and not _holding:
            signal.raise_signal(_came_while_held.pop())


@contextmanager
def handlers_kept() -> Iterator[None]:
    """Put back, at the end of the block, the handlers of signals that a library replaces in it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in signal.valid_signals()}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None and signal.getsignal(number) != handler:
                signal.signal(number, handler)


def end_on_signals() -> None:
    """Let Ctrl-C, and SIGTERM of schedulers, end this program.

    They do so where its shell ignores them, too, or the process that started it held them back.
    Only a program may call this, never a library.
    """
    take_signals((signal.SIGINT, signal.SIGTERM), end)


def take_signals(numbers: Iterable[int], handler: Callable[[int, Any], object]) -> None:
    """Handle signals in this process from now on, also those held back when it was started."""
    for number in numbers:
        signal.signal(number, handler)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)


def end(number: int, frame: object = None) -> None:
    """End this program now, as the handler of a signal; or soon, see `signals_held`."""
    global _ending, _undoing
    if _holding:
        _came_while_held.append(number)
        return
    for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGCHLD"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    _ending, until = True, time.monotonic() + SECONDS_TO_FINISH
    while _threads_at_work() - {threading.get_ident()} and time.monotonic() < until:
        time.sleep(0.01)
    if is_first_process() and LAUNCHED not in os.environ:
        with suppress(Exception):
            sys.stdout.flush()
        line = "Stopped."
        with suppress(Exception):
            line = _messages[-1]()
        tidy = "\r\x1b[K\x1b[?25h" if sys.stderr.isatty() else ""  # of a bar, and its hidden cursor
        with suppress(OSError):
            os.write(2, f"{tidy}{line}\n".encode())
        for write in _copied_to:
            with suppress(Exception):
                write(line)
    _undoing = True
    for _, action in reversed(list(_undo.values())):
        with suppress(Exception):
            action()
    processes: Any = sys.modules.get("multiprocessing.util")
    if processes is not None:
        with suppress(Exception):
            processes._run_finalizers(0)  # semaphores, which would stay in the system
    os._exit(EXIT_CODE)


def _threads_at_work() -> set[int]:
    return {thread for thread, _ in list(_undo.values())}


def leave(code: object) -> NoReturn:
    """End this program, whose work is done, without taking its libraries apart.

    That takes PyTorch half a second, in which a signal would end it without a word.

    Args:
        code: The exit code.
    """
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            code = code or 1
        except OSError as error:
            code = code or 1
            os.write(2, f"Error: output could not be written: {error.strerror}.\n".encode())
    os._exit(code if isinstance(code, int) else bool(code))


def is_first_process() -> bool:
    """Whether this is the process of several that writes; launchers number them in variables.

    Examples:
        >>> is_first_process()
        True
    """
    ranks = (os.environ.get(name) for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))
    return next((rank for rank in ranks if rank is not None), "0") == "0"
