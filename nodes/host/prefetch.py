"""Weights fetched a block at a time, where ComfyUI keeps them off the GPU until they are needed (dynamic VRAM)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

try:
    import comfy.model_prefetch as host
except ImportError:  # before dynamic VRAM
    host = None


def prefetch(blocks: Sequence[nn.Module], device: torch.device, options: dict[str, Any]) -> Callable[[], None]:
    """-> what to call before each of the blocks in turn, and once after the last one: it fetches the weights of the
    block that is about to run, and releases those of the block before. Does nothing without dynamic VRAM."""
    # The key is ComfyUI's own, set for each pass. A pass that is being compiled has its weights in place.
    if host is None or torch.compiler.is_compiling() or not options.get("prefetch_dynamic_vbars"):
        return _nothing
    queue = host.make_prefetch_queue(list(blocks), device, options)
    if queue is None:
        return _nothing
    coming = iter([*blocks, None])
    return lambda: host.prefetch_queue_pop(queue, device, next(coming))


def release() -> None:
    """Lets go of the weights that a pass which failed has fetched ahead."""
    if host is not None:
        host.cleanup_prefetch_queues()


def _nothing() -> None:
    return None
