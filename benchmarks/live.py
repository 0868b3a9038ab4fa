"""Computes the peak memory of live tensors without running a network, on fake tensors.

Every tensor created by an operation counts until its storage is freed. Attention counts what torch's kernels allocate
on a CUDA device (`CudaAttention`), or only its result (`fused`); workspaces of kernels, such as of convolutions, do not
count.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

FUSED_WIDTH = 256
"""The widest head supported by all fused attention kernels."""


class NewTensors(TorchDispatchMode):
    """While active, calls `made` with each tensor for which an operation needs new memory."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = {item.untyped_storage()._cdata for item in tree_leaves((args, kwargs)) if isinstance(item, Tensor)}
        out = func(*args, **(kwargs or {}))
        for item in tree_leaves(out):
            if isinstance(item, Tensor) and item.untyped_storage()._cdata not in given:
                self.made(item)
        return out

    def made(self, tensor: Tensor) -> None:
        """Called after the operation; what it raises stands for its error."""


class LiveBytes(NewTensors):
    """While active, counts the bytes of storages created by operations, current and peak, on one type of device or on
    all."""

    def __init__(self, device: str | None = None) -> None:
        super().__init__()
        self.device = device
        self.now = self.most = 0
        self.known: set[int] = set()

    def made(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self.known or self.device not in (None, tensor.device.type):
            return
        self.known.add(key)
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size


class CudaAttention(TorchFunctionMode):
    """While active, `scaled_dot_product_attention` allocates the same as on a CUDA device. Fused kernels allocate only
    the result. For wider heads, and for non-contiguous channels, torch computes plain attention in single precision,
    with two full attention maps in memory."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            return attended(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def attended(q: Tensor, k: Tensor, v: Tensor, *_: Any, **__: Any) -> Tensor:
    """Allocates the result of attention, and temporarily the intermediate tensors that torch creates."""
    if q.shape[-1] <= FUSED_WIDTH and all(x.stride(-1) == 1 for x in (q, k, v)):
        return torch.empty_like(q)
    single = [x.float() for x in (q, k, v)]
    weights = torch.matmul(single[0], single[1].transpose(-2, -1))
    weights = weights.softmax(dim=-1)
    return torch.matmul(weights, single[2]).to(q.dtype)


def live_bytes(work: Callable[[], Any]) -> int:
    """Peak bytes of tensors created during the call, including its result."""
    with CudaAttention(), LiveBytes() as live, torch.inference_mode(False), torch.no_grad():
        work()
    return live.most


def fused(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    """Allocates what a fused attention kernel does: its result."""
    return torch.empty_like(q)
