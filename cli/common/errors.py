"""Errors of the command line, in one place: one line on the error stream and an exit code.

| Exit code | Meaning |
| --- | --- |
| 0 | done |
| 1 | the work failed, or an error that nobody foresaw |
| 2 | input or settings that cannot be worked with |
| 130 | stopped by the user |
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

import click

from synthsr_transforms.support.messages import describe, is_full, shortened

from .messages import log, record, shown

LONGEST_LINE = 490
"""Most letters of an error, without the word Error."""
TRACEBACK = "SYNTHSR_TRACEBACK"
"""Environment variable, and key of `Context.meta`, that asks for tracebacks."""


class ReportingGroup(click.Group):
    """Group whose commands report every error in one line."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command, turning errors of the library into those of `click`."""
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except Exception as error:
            if ctx.meta.get(TRACEBACK) or os.environ.get(TRACEBACK, "0") not in ("", "0"):
                traceback.print_exc()
            raise as_click_error(error) from error

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Parse and run, see `click.Group.main`; on errors, print one line and exit."""
        standalone = kwargs.pop("standalone_mode", True)
        run: Callable[..., Any] = super().main
        with shown():
            if not standalone:
                return run(*args, standalone_mode=False, **kwargs)
            try:
                code = run(*args, standalone_mode=False, **kwargs)
            except click.exceptions.NoArgsIsHelpError as error:
                error.show()
                code = error.exit_code
            except click.ClickException as error:
                log.error(_one_line(error))
                code = error.exit_code
            except click.Abort:
                log.error("Stopped.", extra={"word": ""})
                code = 130
            record(f"exit code {code if isinstance(code, int) else 0}")
            sys.exit(code if isinstance(code, int) else 0)


def as_click_error(error: Exception) -> click.ClickException:
    """Error of the command line, with its exit code, for an error of the library.

    Examples:
        >>> as_click_error(ValueError("size must be above 0, got 0.")).exit_code
        2
    """
    text = describe(error)
    if text.startswith(f"unexpected {type(error).__name__}: "):
        text = (
            f"{text.rstrip('.')}. Please report it, with what --traceback (or {TRACEBACK}=1)"
            " prints."
        )
    is_input = isinstance(error, (ValueError, OSError)) and not is_full(error)
    kind = click.UsageError if is_input else click.ClickException  # exit codes 2 and 1
    return kind(text)


def _one_line(error: click.ClickException) -> str:
    text = " ".join(error.format_message().split())
    if isinstance(error, click.UsageError) and error.ctx is not None:
        advice = f" Try '{error.ctx.command_path} --help'."
        return shortened(text, LONGEST_LINE - len(advice)) + advice
    return shortened(text, LONGEST_LINE)
