"""Memory of a device: how much is free, and what to do when it runs out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

from ..errors import UserError, reason

T = TypeVar("T")

NO_MEMORY = ("out of memory", "allocate memory", "not enough memory")
"""What torch says of a GPU, of the CPU on Linux and macOS, and of the CPU on Windows."""


def free_bytes(device: torch.device) -> int | None:
    """Bytes that are free on a CUDA device, those included that torch's allocator holds unused, and no more than the
    process may take; None for any other device, where nothing depends on it."""
    if device.type != "cuda" or not torch.cuda.is_available():
        return None
    free, total = torch.cuda.mem_get_info(device)
    reserved = torch.cuda.memory_reserved(device)
    share = getattr(torch.cuda, "get_per_process_memory_fraction", None)  # older versions cannot tell
    index = torch.cuda.current_device() if device.index is None else device.index
    allowed = total if share is None else int(total * share(index))
    return min(free, allowed - reserved) + reserved - torch.cuda.memory_allocated(device)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch, on any device, or Python ran out of memory."""
    return isinstance(error, MemoryError) or any(words in str(error) for words in NO_MEMORY)


def until_it_fits(work: Callable[[], T], less: Callable[[], bool], cure: str | None) -> T:
    """work(), once more whenever memory runs out and `less` could make it need less. Where it could not, raises
    UserError with the cure, or without one the error itself."""
    while True:
        try:
            return work()
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            if less():
                continue
            if cure is None:
                raise
            raise UserError(cure) from error


@contextmanager
def enough_memory() -> Iterator[None]:
    """Raises UserError, which says what to lower, where memory runs out within the block."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        said = reason(error, "out of memory")
        raise UserError(
            f"There is not enough memory ({said}). Make fewer frames or a smaller video, load the model in fp16 or "
            "bf16, or close other programs that use the device."
        ) from error
