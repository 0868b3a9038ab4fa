"""Memory of a device: how much is free, and what to do when it runs out."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from ..errors import UserError

T = TypeVar("T")


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


def until_it_fits(work: Callable[[], T], less: Callable[[], bool], cure: str) -> T:
    """work(), once more whenever memory runs out and `less` could make it need less. Raises UserError with the cure
    where it could not."""
    while True:
        try:
            return work()
        except torch.OutOfMemoryError as error:
            if not less():
                raise UserError(cure) from error
