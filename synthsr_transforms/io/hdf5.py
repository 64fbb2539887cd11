"""HDF5 files that others wrote: nothing in them may lead out of them or grow beyond them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from synthsr_transforms.support.messages import bytes_in_words

from .files import MAX_RATIO

if TYPE_CHECKING:
    import h5py

MAX_ITEMS = 5_000
"""More groups and arrays than this are not looked through."""


def fault_in(file: h5py.File, size: int, max_bytes: int) -> str | None:
    """Why an open file cannot be trusted; None if it can.

    Links may lead to any file of this machine, and arrays may not be there.

    Args:
        file: The open file.
        size: Its size in bytes.
        max_bytes: Largest array that is read.
    """
    seen = itertools.count(1)

    def fault_of_link(name: str, link: Any) -> str | None:
        if next(seen) > MAX_ITEMS:  # of a damaged file there may be no end
            return f"it holds more than {MAX_ITEMS} groups and arrays"
        return _fault_of_link(name, link)

    def fault_of_item(name: str, item: Any) -> str | None:
        return _fault_of_array(name, item, min(MAX_RATIO * size, max_bytes))

    fault: str | None = file.visititems_links(fault_of_link) or file.visititems(fault_of_item)
    return fault


def fault_along(file: h5py.File, paths: Iterable[str], size: int, max_bytes: int) -> str | None:
    """The same of some paths alone, as visiting all of a damaged file may never end.

    Args:
        file: The open file.
        paths: Paths of groups and arrays; those that are not there have no fault.
        size: Its size in bytes.
        max_bytes: Largest array that is read.
    """
    for path in paths:
        item: Any = file
        for name in path.split("/"):
            link = item.get(name, getlink=True) if hasattr(item, "keys") else None
            if link is None:
                break
            if fault := _fault_of_link(name, link):
                return fault
            item = item[name]
            if fault := _fault_of_array(name, item, min(MAX_RATIO * size, max_bytes)):
                return fault
    return None


def _fault_of_link(name: str, link: Any) -> str | None:
    import h5py

    return None if isinstance(link, h5py.HardLink) else f"{name[:80]!r} is a link"


def _fault_of_array(name: str, item: Any, most: int) -> str | None:
    import h5py

    if not isinstance(item, h5py.Dataset):
        return None
    if item.external or item.is_virtual:
        return f"array {name[:80]!r} lies in another file"
    claimed = math.prod(item.shape or ()) * item.dtype.itemsize
    stored = item.id.get_storage_size()
    if claimed > most or (claimed and not stored):
        there = f"of which the file holds {bytes_in_words(stored)}"
        return f"array {name[:80]!r} takes {bytes_in_words(claimed)}, {there}"
    return None
