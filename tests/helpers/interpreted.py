"""Kernels on the CPU, by Triton's interpreter: `TRITON_INTERPRET=1` must be set before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from synthsr_transforms.functional.kernels.choice import kernels_on


@contextmanager
def interpreted_kernels() -> Iterator[None]:
    """Run kernels by the interpreter, which NumPy 2.4 needs help for: it reads bounds of loops.

    Its numbers are arrays of one element, which Python takes for whole numbers no more.
    """
    from triton.runtime import interpreter

    patch = interpreter._patch_lang_tensor

    def patch_too(tensor: Any, scope: Any) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    interpreter._patch_lang_tensor = patch_too
    try:
        with kernels_on("cpu", "cuda"), np.errstate(all="ignore"):
            yield
    finally:
        interpreter._patch_lang_tensor = patch
