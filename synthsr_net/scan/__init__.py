"""Scans in, predictions out: reading, conversion to the space of a network, and the way back.

`read_scan` or `scan_of` gives a checked `Scan`, `to_network_space` the input of a network and a
`ScanSpace`, with which `from_network_space` makes a `Prediction` of the network's output.
"""

from __future__ import annotations

from .extents import ScanError
from .file_checks import check_file
from .files import Scan, read_scan, scan_of
from .from_network import GRIDS, Prediction, finisher, from_network_space
from .space import LEGACY, ScanSpace, settings_of
from .to_network import to_network_space

__all__ = [
    "GRIDS",
    "LEGACY",
    "Prediction",
    "Scan",
    "ScanError",
    "ScanSpace",
    "check_file",
    "finisher",
    "from_network_space",
    "read_scan",
    "scan_of",
    "settings_of",
    "to_network_space",
]
