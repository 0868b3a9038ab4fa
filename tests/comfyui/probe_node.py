"""A custom node for ComfyUI; see `probe.py`. It is copied into a server's folder, and imports nothing of this pack."""

from __future__ import annotations

import ctypes
import gc
import sys
from contextlib import suppress
from typing import Any

import psutil
import torch


class TestsHeld:
    """Collects garbage, returns free memory to the system, and says what is left."""

    RETURN_TYPES = ()
    FUNCTION = "held"
    OUTPUT_NODE = True
    CATEGORY = "tests"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"count": ("INT", {"default": 0, "max": 2**31})}}

    def held(self, count: int) -> dict[str, Any]:
        """What this process holds; count: another one each time, so that it is not cached."""
        for _ in range(2):
            gc.collect()
        if sys.platform == "linux":
            with suppress(OSError, AttributeError):  # musl has no malloc_trim
                ctypes.CDLL(None).malloc_trim(0)
        process = psutil.Process()
        objects = gc.get_objects()
        kinds = [type(each) for each in objects]
        tensors = [each for each, kind in zip(objects, kinds, strict=True) if issubclass(kind, torch.Tensor)]
        handles = process.num_fds() if hasattr(process, "num_fds") else process.num_handles()
        found = {
            "resident": process.memory_info().rss,
            "tensors": len(tensors),
            "tensor_bytes": sum(each.nbytes for each in tensors if each.device.type == "cpu"),
            "objects": len(objects),
            "modules": sum(issubclass(kind, torch.nn.Module) for kind in kinds),
            "handles": handles,
            "threads": process.num_threads(),
        }
        return {"ui": {"held": [found]}, "result": ()}


NODE_CLASS_MAPPINGS = {"TestsHeld": TestsHeld}
