"""The largest set of tensors that lives at one time, counted on `meta`: what a size needs, without running it.

Every tensor that an operation makes is counted until nothing refers to its storage. Attention counts its result alone,
as a fused kernel makes no map; what kernels take for themselves (a convolution's workspace) is not counted.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """While entered, counts the bytes of the storages that operations make, now and at the most."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self.known: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = {item.untyped_storage()._cdata for item in tree_leaves((args, kwargs)) if isinstance(item, Tensor)}
        out = func(*args, **(kwargs or {}))
        for item in tree_leaves(out):
            if isinstance(item, Tensor):
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


def live_bytes(work: Callable[[], Any]) -> int:
    """Bytes that tensors made during the call, its result included, take at the most."""
    with LiveBytes() as live, torch.inference_mode(False), torch.no_grad():
        work()
    return live.most


def fused(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    """Attention by what a fused kernel allocates: its result."""
    return torch.empty_like(q)
