"""How kernels are started.

Triton looks at every argument of a launch to find the code compiled for its type, its alignment and, for numbers, some
of its values; for small maps that takes longer than the kernel. Here a launch with the same numbers, types and
alignments as an earlier one goes straight to the code compiled for that.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""Whether kernels run in Triton's interpreter, on CPU tensors."""

ALIGNED = 16
"""Bytes that addresses are a multiple of where Triton loads whole vectors."""

_compiled: dict[tuple[Any, ...], Any] = {}


def launch(kernel: Any, programs: int, warps: int, tensors: tuple[Tensor, ...], numbers: tuple[Any, ...]) -> None:
    """Start `programs` programs of a kernel that takes the tensors, then the numbers, on the device of the tensors."""
    index = tensors[0].device.index
    if index is None or index == torch.cuda.current_device():
        _start(kernel, programs, warps, tensors, numbers, index)
        return
    with torch.cuda.device(index):
        _start(kernel, programs, warps, tensors, numbers, index)


def _start(
    kernel: Any, programs: int, warps: int, tensors: tuple[Tensor, ...], numbers: tuple[Any, ...], index: int | None
) -> None:
    key = (id(kernel), index, warps, numbers, *[(x.dtype, x.data_ptr() % ALIGNED) for x in tensors])
    known = _compiled.get(key)
    if known is not None:
        known[programs, 1, 1](*tensors, *numbers)
        return
    compiled = kernel[(programs,)](*tensors, *numbers, num_warps=warps)
    if not INTERPRETED and _takes_all_arguments():
        _compiled[key] = compiled


def _takes_all_arguments() -> bool:
    """Whether compiled code is started with all arguments of its kernel, as from Triton 3.3 on; before, without its
    constants."""
    import triton

    major, minor = (int(part) for part in triton.__version__.split(".")[:2])
    return (major, minor) >= (3, 3)


def power_of_two(n: int) -> int:
    """The smallest power of two that is at least n."""
    return 1 << (n - 1).bit_length() if n > 1 else 1
