"""What commands say, in one place: the loggers of the packages, on the terminal and in a file.

Results go to the standard output, progress, warnings and errors to the error stream. `--quiet`
leaves errors, `--verbose` adds what the library says of its work, and `--log FILE` keeps all of it.
"""

from __future__ import annotations

import logging
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from synthsr_transforms.support.messages import SynthSRError
from synthsr_transforms.support.stopping import line_copied_to

PACKAGES = ("synthsr_transforms", "synthsr_net", "synthsr_cli")
"""Packages, each with the logger of its name."""
log = logging.getLogger("synthsr_cli")
log.addHandler(logging.NullHandler())  # programs choose what is shown
WORDS = {logging.WARNING: "Warning: ", logging.ERROR: "Error: ", logging.CRITICAL: "Error: "}
"""What lines on the terminal begin with; others are what they are."""
RESULT, RECORD = "result", "record"
"""Kinds of messages: a result, for the standard output; a record, for the file alone."""


def say(text: str) -> None:
    """Report a result, in a line on the standard output."""
    log.info(text, extra={"kind": RESULT})


def failed(text: str) -> None:
    """Report that a part of the work failed."""
    log.error(text, extra={"word": "Failed: "})


class Terminal(logging.Handler):
    """Shows messages to the user.

    Attributes:
        amount: -1 for errors alone, 0, or 1 for all that the library says.
        bar: Bar of Rich, above which messages appear while there is one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.amount = 0
        self.bar: Any = None

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to show a message."""
        if getattr(record, "kind", "") == RECORD:
            return False
        least = logging.INFO if record.name.startswith("synthsr_cli") else logging.WARNING
        return record.levelno >= {-1: logging.ERROR, 0: least, 1: logging.DEBUG}[self.amount]

    def emit(self, record: logging.LogRecord) -> None:
        """Show a message."""
        line = getattr(record, "word", WORDS.get(record.levelno, "")) + record.getMessage()
        if getattr(record, "kind", "") == RESULT:
            click.echo(line)
        elif self.bar is not None:
            self.bar.console.print(line, highlight=False, markup=False, soft_wrap=True)
        else:
            click.echo(line, err=True)


class OneLine(logging.Formatter):
    """Time, level, logger, process and message, in one line whatever the message holds."""

    def format(self, record: logging.LogRecord) -> str:
        """A message as a line of the file."""
        when = datetime.fromtimestamp(record.created).astimezone().isoformat(timespec="seconds")
        text = record.getMessage().encode("utf-8", "backslashreplace").decode()
        text = " ".join(text.splitlines())
        return f"{when} {record.levelname:<7} {record.name} [{process_name()}] {text}"


def process_name() -> str:
    """Machine and number of this process, and which of several it is if a launcher says so.

    Examples:
        >>> process_name().split(":")[0] == platform.node()
        True
    """
    ranks = (os.environ.get(name) for name in ("RANK", "SLURM_PROCID"))
    rank = next((f" rank {rank}" for rank in ranks if rank is not None), "")
    return f"{platform.node()}:{os.getpid()}{rank}"


@contextmanager
def shown() -> Iterator[Terminal]:
    """Show messages of all packages while a command runs."""
    terminal = Terminal()
    loggers = [logging.getLogger(name) for name in PACKAGES]
    before = [(logger.level, list(logger.handlers), logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.addHandler(terminal)
        logger.setLevel(logging.INFO)
        logger.propagate = False  # to handlers that other libraries add, which would say it again
    try:
        yield terminal
    finally:
        for logger, (level, handlers, propagate) in zip(loggers, before, strict=True):
            for handler in [each for each in logger.handlers if each not in handlers]:
                logger.removeHandler(handler)
                handler.close()
            logger.setLevel(level)
            logger.propagate = propagate
        line_copied_to(None)


def terminal() -> Terminal:
    """What shows messages now; without a command, something that shows none of them."""
    found = [handler for handler in log.handlers if isinstance(handler, Terminal)]
    return found[-1] if found else Terminal()


def choose_amount(amount: int) -> None:
    """Say less (-1) or more (1) from now on.

    Raises:
        SynthSRError: If both were asked for.
    """
    shows = terminal()
    if shows.amount == -amount:
        raise SynthSRError("--quiet and --verbose exclude each other. Choose one of them.")
    shows.amount = amount
    for name in PACKAGES:
        logging.getLogger(name).setLevel(logging.DEBUG if amount > 0 else logging.INFO)


def keep(path: Path, command: str) -> None:
    """Append messages to a file from now on, a line each, as several processes may do at once.

    Args:
        path: The file.
        command: What was run, for the first line.

    Raises:
        SynthSRError: If it cannot be written.
    """
    from importlib.metadata import version

    try:
        handler = logging.FileHandler(path, mode="a", encoding="utf-8")
    except OSError as error:
        raise SynthSRError(
            f"--log must be a file that can be written, got {path} ({error.strerror}). Choose"
            " another, in a folder that exists."
        ) from None
    handler.setFormatter(OneLine())
    for name in PACKAGES:
        logging.getLogger(name).addHandler(handler)
    line_copied_to(lambda line: _append(handler, line))
    record(f"synthsr {version('synthsr')}, Python {platform.python_version()}: {command}")


def record(text: str) -> None:
    """Write to the file of `--log` alone."""
    log.info(text, extra={"kind": RECORD})


def _append(handler: logging.FileHandler, line: str) -> None:
    """Write a last line as the handler does, but without a lock, which another thread may hold."""
    made = logging.LogRecord(log.name, logging.INFO, "", 0, line, None, None)
    stream: Any = handler.stream
    with suppress(AttributeError, ValueError, OSError):
        os.write(stream.fileno(), f"{handler.format(made)}\n".encode())
