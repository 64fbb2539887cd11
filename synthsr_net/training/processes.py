"""Processes that share a run."""

from __future__ import annotations

import os


def is_first_process() -> bool:
    """Whether this is the process of a run that writes; launchers number them in the environment.

    Examples:
        >>> is_first_process()
        True
    """
    ranks = (os.environ.get(name) for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))
    return next((rank for rank in ranks if rank is not None), "0") == "0"


def is_launched() -> bool:
    """Whether a scheduler or launcher started this process, as one of several machines needs.

    Examples:
        >>> is_launched()
        False
    """
    names = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "SLURM_NTASKS", "LSB_JOBID", "JSM_NAMESPACE_RANK")
    return any(name in os.environ for name in names)
