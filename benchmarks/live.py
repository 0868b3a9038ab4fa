"""The largest set of tensors that lives at one time, counted without values: what a size needs, without running it.

Every tensor that an operation makes is counted until nothing refers to its storage. Attention counts what torch's
kernels on a CUDA device hold (`CudaAttention`), or its result alone (`fused`); what kernels take for themselves beside
(a convolution's workspace) is not counted.
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
"""The widest head that every fused kernel of attention takes."""


class LiveBytes(TorchDispatchMode):
    """While entered, counts the bytes of the storages that operations make, now and at the most; of one kind of device,
    or of all."""

    def __init__(self, device: str | None = None) -> None:
        super().__init__()
        self.device = device
        self.now = self.most = 0
        self.known: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = {item.untyped_storage()._cdata for item in tree_leaves((args, kwargs)) if isinstance(item, Tensor)}
        out = func(*args, **(kwargs or {}))
        for item in tree_leaves(out):
            if isinstance(item, Tensor) and self.device in (None, item.device.type):
                self._count(item.untyped_storage(), given)
        return out

    def _count(self, storage: torch.UntypedStorage, given: set[int]) -> None:
        key = storage._cdata
        if key in self.known or key in given:
            return
        size = storage.nbytes()
        self.known.add(key)
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size


class CudaAttention(TorchFunctionMode):
    """While entered, `scaled_dot_product_attention` allocates what it does on a CUDA device. Fused kernels allocate the
    result. For heads wider than theirs, and for tokens whose channels are not side by side, torch computes the
    definition in single precision: two maps of all queries and keys lie in memory."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            return attended(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def attended(q: Tensor, k: Tensor, v: Tensor, *_: Any, **__: Any) -> Tensor:
    """A tensor like the result of attention, and on the way to it those that torch makes."""
    if q.shape[-1] <= FUSED_WIDTH and all(x.stride(-1) == 1 for x in (q, k, v)):
        return torch.empty_like(q)
    single = [x.float() for x in (q, k, v)]
    weights = torch.matmul(single[0], single[1].transpose(-2, -1))
    weights = weights.softmax(dim=-1)
    return torch.matmul(weights, single[2]).to(q.dtype)


def live_bytes(work: Callable[[], Any]) -> int:
    """Bytes that tensors made during the call, its result included, take at the most."""
    with CudaAttention(), LiveBytes() as live, torch.inference_mode(False), torch.no_grad():
        work()
    return live.most


def fused(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    """Attention by what a fused kernel allocates: its result."""
    return torch.empty_like(q)
