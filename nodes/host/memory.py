"""The memory of the device, as ComfyUI counts it."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import torch


def free_bytes(device: torch.device, patcher: Any = None) -> int | None:
    """Bytes that a pass may take on a GPU, without those that the user reserved for other programs; None on a CPU,
    where nothing depends on it. Dynamic VRAM counts weights that make room for a pass as free: `patcher` knows."""
    management = comfy.model_management
    if management.is_device_cpu(device):
        return None
    free = getattr(patcher, "get_free_memory", management.get_free_memory)(device)
    return max(0, int(free) - int(management.extra_reserved_memory()))
