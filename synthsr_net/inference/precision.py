"""Precision of products: one setting for prediction and training."""

from __future__ import annotations

import torch

from synthsr_transforms.support.messages import check_choice

DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16}
"""Types of numbers by the name of the precision. `tf32` rounds factors to 10 bits on NVIDIA GPUs
and is `fp32` elsewhere; `bf16` keeps 7 bits. Sums, inputs and outputs are float32 in all."""
PRECISIONS = (*DTYPES, "auto")
"""Names of precisions. `auto` is `bf16` on devices that multiply such numbers natively, else
`fp32`; training on a CPU is `fp32`."""


def resolve_precision(
    name: str, device: torch.device | str = "cpu", *, training: bool = False
) -> str:
    """One of `DTYPES`, from one of `PRECISIONS`.

    Args:
        name: Name of the precision.
        device: Where to compute.
        training: Whether to train, for which PyTorch's automatic precision pays on GPUs only.

    Raises:
        SynthSRError: If the name is unknown.
    """
    check_choice("precision", name, PRECISIONS)
    if name != "auto":
        return name
    kind = torch.device(device).type
    if kind == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = kind == "cpu" and not training and _cpu_multiplies_bf16()
    return "bf16" if native else "fp32"


def _cpu_multiplies_bf16() -> bool:
    tests = [getattr(torch.cpu, name, None) for name in _CPU_TESTS]
    return any(test is not None and test() for test in tests)


_CPU_TESTS = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
