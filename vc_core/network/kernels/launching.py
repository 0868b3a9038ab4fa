"""How kernels are started."""

from __future__ import annotations

import os
from functools import cache
from typing import Any

import torch
from torch import Tensor

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""Whether kernels run in Triton's interpreter, on CPU tensors."""


def launch(kernel: Any, programs: int, x: Tensor, *arguments: Any, **constants: Any) -> None:
    """Start `programs` programs of a kernel whose first argument is `x`, on the device of x."""
    index = x.device.index
    if index is None or index == torch.cuda.current_device():
        kernel[(programs,)](x, *arguments, **constants)
        return
    with torch.cuda.device(index):
        kernel[(programs,)](x, *arguments, **constants)


@cache
def multiprocessors(index: int | None) -> int:
    """How many multiprocessors a device has; few under the interpreter, so that loops in kernels run there too."""
    return 2 if index is None else int(torch.cuda.get_device_properties(index).multi_processor_count)


def power_of_two(n: int) -> int:
    """The smallest power of two that is at least n."""
    return 1 << (n - 1).bit_length() if n > 1 else 1
