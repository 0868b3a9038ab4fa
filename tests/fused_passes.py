"""Fused kernels where there is no GPU: their definitions in plain torch, and what a pass on a GPU would launch."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.live import CudaAttention
from vc_core.network import kernels
from vc_core.network.fused import channels_last

PROCESSORS = 132
"""Multiprocessors of the GPU that is pretended."""

FREE = ("empty", "empty_like", "empty_strided", "new_empty", "detach", "_unsafe_view", "_reshape_alias", "lift_fresh")
MAPS = ("group_norm", "convolution", "add")


class Defined:
    """The kernels by their definition, on any device; they insist on the memory layout that makes them fast."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()

    def install(self, monkeypatch: Any) -> None:
        for name in ("usable", "group_norm", "layer_norm", "add_layer_norm", "geglu", "add", "attend_over_frames"):
            monkeypatch.setattr(kernels, name, getattr(self, name))

    def usable(self, x: Tensor) -> bool:
        return x.is_floating_point() and not torch.is_grad_enabled()

    def group_norm(
        self,
        x: Tensor,
        groups: int,
        weight: Tensor,
        bias: Tensor,
        eps: float,
        *,
        silu: bool = False,
        add: Tensor | None = None,
    ) -> Tensor:
        self.calls["group_norm"] += 1
        assert weight.dtype == bias.dtype == x.dtype
        out = torch.empty_like(channels_last(x))
        if add is not None:
            x = x + add.repeat_interleave(len(x) // len(add), 0).view(*x.shape[:2], *[1] * (x.ndim - 2))
        y = F.group_norm(x.contiguous(), groups, weight, bias, eps)
        return out.copy_(F.silu(y) if silu else y)

    def layer_norm(self, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        self.calls["layer_norm"] += 1
        return F.layer_norm(x, x.shape[-1:], weight, bias, eps)

    def add_layer_norm(
        self, x: Tensor, h: Tensor, weight: Tensor, bias: Tensor, eps: float, later: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        self.calls["add_layer_norm"] += 1
        total = x + h
        return total if later is None else total + later, F.layer_norm(total, x.shape[-1:], weight, bias, eps)

    def geglu(self, x: Tensor) -> Tensor:
        self.calls["geglu"] += 1
        value, gate = x.chunk(2, dim=-1)
        return value * F.gelu(gate)

    def add(self, x: Tensor, h: Tensor, bias: Tensor | None = None) -> Tensor:
        self.calls["add"] += 1
        return x + h if bias is None else x + h + bias.view(-1, *[1] * (x.ndim - 2))

    def attend_over_frames(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        heads: int,
        *,
        mask: Tensor | None = None,
        k_positions: Tensor | None = None,
        v_positions: Tensor | None = None,
    ) -> Tensor:
        self.calls["attend_over_frames"] += 1
        q, k, v = (x.unflatten(3, (heads, -1)).permute(0, 2, 3, 1, 4) for x in (q, k, v))  # b p heads f d
        scale = q.shape[-1] ** -0.5
        logits = q @ k.transpose(-1, -2)
        if k_positions is not None:
            logits = logits + torch.einsum("...qd,qkd->...qk", q, pairs(k_positions))
        logits = logits * scale if mask is None else logits * scale + mask
        weights = logits.softmax(-1)
        out = weights @ v
        if v_positions is not None:
            out = out + torch.einsum("...qk,qkd->...qd", weights, pairs(v_positions))
        return out.permute(0, 3, 1, 2, 4).flatten(3).contiguous()


def pairs(table: Tensor) -> Tensor:
    """2f-1 d -> f f d: the row for the distance of (query frame, key frame)"""
    frame = torch.arange(len(table) // 2 + 1, device=table.device)
    return table[frame[None] - frame[:, None] + len(frame) - 1]


def order(x: Tensor) -> list[int]:
    """Its axes as they lie in memory, without those of size 1."""
    return sorted((axis for axis, size in enumerate(x.shape) if size > 1), key=x.stride)


class Trace(TorchDispatchMode):
    """Counts what operations on a CUDA device launch, and those that change the memory layout of a tensor and nothing
    else; convolutions are to be in channels-last memory throughout."""

    def __init__(self) -> None:
        super().__init__()
        self.launches: Counter[str] = Counter()
        self.layouts: Counter[str] = Counter()

    def clear(self) -> None:
        self.launches.clear()
        self.layouts.clear()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = [item for item in tree_leaves((args, kwargs)) if isinstance(item, Tensor) and item.is_cuda]
        made = [item for item in tree_leaves(out) if isinstance(item, Tensor) and item.is_cuda]
        name = func.overloadpacket.__name__
        if not made or name in FREE or (func.is_view and not func._schema.is_mutable):
            return out
        self.launches[name] += 1
        if name == "convolution":
            self.launches["bias"] += args[2] is not None
            for part in (args[0], args[1], out):
                self.reads("convolution", part)
        elif name in ("clone", "_to_copy", "copy_"):
            source = given[-1] if given else out  # else it comes from the CPU
            if source.dtype == out.dtype and order(source) != order(out):
                self.layouts[f"{name} {tuple(source.shape)}"] += 1
        return out

    def reads(self, name: str, x: Tensor) -> None:
        """A kernel that would copy x first, unless its channels are side by side."""
        last = x.movedim(1, -1) if name in MAPS and x.ndim > 3 else x
        if not last.is_contiguous():
            self.layouts[f"{name} {tuple(x.shape)}"] += 1


class Attention(CudaAttention):
    """Fused attention as it allocates on a CUDA device, counted."""

    def __init__(self, trace: Trace) -> None:
        super().__init__()
        self.trace = trace

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            self.trace.launches["attention"] += 1
            for part in args[:3]:  # parts of a joint product: the tokens may lie apart
                self.trace.reads("attention", part.transpose(1, 2)[:1, :1])
        return super().__torch_function__(func, types, args, kwargs)


class Allocating(Defined):
    """The kernels as tensors without values see them: each gives an empty result, and counts its launches."""

    def __init__(self, trace: Trace) -> None:
        super().__init__()
        self.trace = trace

    def usable(self, x: Tensor) -> bool:
        return x.is_cuda and not torch.is_grad_enabled()

    def group_norm(self, x: Tensor, groups: int, *_: Any, **__: Any) -> Tensor:
        from vc_core.network.kernels import group_norms  # only where Triton is installed

        self.trace.reads("group_norm", x)
        n, c, pixels = len(x), x.shape[1], x[0, 0].numel()
        cut = group_norms.plan(n, pixels, c, groups, PROCESSORS)
        self.trace.launches["group_norm"] += 2 if cut.splits else 1
        return torch.empty_like(x)

    def layer_norm(self, x: Tensor, *_: Any) -> Tensor:
        return self._like("layer_norm", x)

    def add_layer_norm(self, x: Tensor, h: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
        self.trace.reads("add_layer_norm", h)
        return self._like("add_layer_norm", x), torch.empty_like(x)

    def geglu(self, x: Tensor) -> Tensor:
        self.trace.reads("geglu", x)
        self.trace.launches["geglu"] += 1
        return x.new_empty((*x.shape[:-1], x.shape[-1] // 2))

    def add(self, x: Tensor, h: Tensor, bias: Tensor | None = None) -> Tensor:
        self.trace.reads("add", h)
        return self._like("add", x)

    def attend_over_frames(self, q: Tensor, k: Tensor, v: Tensor, heads: int, **_: Any) -> Tensor:
        self.trace.launches["attend_over_frames"] += 1
        return torch.empty(q.shape, dtype=q.dtype, device=q.device)

    def _like(self, name: str, x: Tensor) -> Tensor:
        self.trace.reads(name, x)
        self.trace.launches[name] += 1
        return torch.empty_like(x)
