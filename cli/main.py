"""The command `synthsr`, which ends cleanly when it is stopped, also while it imports."""

from __future__ import annotations

import os
import signal
import sys


def mri_synthsr() -> None:
    """Run `mri-synthsr`, which is `synthsr mri-synthsr`."""
    sys.argv = ["synthsr", "mri-synthsr", *sys.argv[1:]]
    main()


def synthsr_bids() -> None:
    """Run `synthsr-bids`, which is `synthsr bids-app`."""
    sys.argv = ["synthsr", "bids-app", *sys.argv[1:]]
    main()


def main() -> None:
    """Run `synthsr`. Little is imported before signals are taken, and nothing at the top."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end)
    from synthsr_transforms.support.stopping import end_on_signals, leave

    end_on_signals()
    # Threads that wait for work by spinning take the cores from each other on busy machines.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from synthsr_cli.group import synthsr

    try:
        synthsr()
    except SystemExit as error:
        leave(error.code)


def _end(*_: object) -> None:
    """End while `end_on_signals` is imported."""
    os.write(2, b"Stopped.\n")
    os._exit(130)
