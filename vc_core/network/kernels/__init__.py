"""Fused kernels for the parts of the network that move memory rather than multiply: norms, the gate of the
feed-forward layers, sums, and attention over the frames of a pixel. They are written in Triton, which is imported when
the first kernel runs; ask `usable` before calling one. All compute in float32 and round once, to the type of `x`.

Maps are `n c *spatial` with the channels last in memory, so that frames, clips and tokens are views of one another.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
from functools import cache
from types import ModuleType

import torch
from torch import Tensor

from .launching import INTERPRETED

log = logging.getLogger(__name__)

TYPES = (torch.float16, torch.bfloat16)
"""On a GPU. In float32, where exactness counts more than speed, PyTorch's own layers run."""
INTERPRETED_TYPES = (*TYPES, torch.float32)
MOST_FRAMES, HEAD_WIDTHS = 128, range(8, 129)
"""Of attention over frames."""
OLDEST = (8, 0)
"""The lowest compute capability with bfloat16 and asynchronous copies."""


def usable(x: Tensor) -> bool:
    """Whether the kernels take `x`: a plain tensor in fp16 or bf16 on an NVIDIA device where Triton works (or, in fp32
    too, on the CPU under Triton's interpreter), outside of autograd and of compilers."""
    return (x.is_cuda or INTERPRETED) and _takes(x)


def _takes(x: Tensor) -> bool:
    if torch.compiler.is_compiling() or torch.is_grad_enabled() or type(x) is not Tensor:
        return False
    if x.is_cuda:
        return x.dtype in TYPES and _on_device(x.device.index)
    return INTERPRETED and x.device.type == "cpu" and x.dtype in INTERPRETED_TYPES and _installed()


def attends(frames: int, d: int) -> bool:
    """Whether `attend_over_frames` supports clips of this many frames and heads of width d."""
    return frames <= MOST_FRAMES and d in HEAD_WIDTHS


@cache
def _installed() -> bool:
    return importlib.util.find_spec("triton") is not None


@cache
def _on_device(index: int) -> bool:
    nvidia = torch.version.cuda is not None and torch.cuda.is_available()
    return nvidia and torch.cuda.get_device_capability(index) >= OLDEST and _installed() and _runs(index)


def _runs(index: int) -> bool:
    """Whether a kernel can be built and gives what it should: Triton also needs a C compiler and Python's headers."""
    try:
        x = torch.ones(16, dtype=torch.float16, device=torch.device("cuda", index))
        works = bool((add(x, x) == 2).all())
    except Exception:  # whatever Triton stumbles over, the plain layers do the same work
        log.warning("Triton is installed, but cannot build a kernel. The network runs without, slower.", exc_info=True)
        return False
    if not works:
        log.warning("A first kernel gave a wrong result on this GPU. The network runs without kernels, slower.")
    return works


@cache
def _in(name: str) -> ModuleType:
    """A module of kernels; it imports Triton."""
    return importlib.import_module(f".{name}", __name__)


def group_norm(
    x: Tensor,
    groups: int,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    *,
    silu: bool = False,
    add: Tensor | None = None,
) -> Tensor:
    """n c *spatial -> n c *spatial, channels last in memory: (x - mean) / sqrt(variance + eps) * weight + bias with the
    statistics of each group of c / groups channels over all of *spatial; then y * sigmoid(y) where `silu` is set.

    `add` is m c with n a multiple of m: each of its rows is added to n / m consecutive rows of x before the norm. The
    sum is not returned.
    """
    return _in("group_norms").group_norm(x, groups, weight, bias, eps, silu, add)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """... d -> ... d: (x - mean) / sqrt(variance + eps) * weight + bias over the last axis."""
    return _in("layer_norms").layer_norm(x, weight, bias, eps)


def add_layer_norm(
    x: Tensor, h: Tensor, weight: Tensor, bias: Tensor, eps: float, later: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """x and h, ... d -> (x + h + later, layer_norm(x + h)), in one pass; `later` is d. Both are contiguous."""
    return _in("layer_norms").add_layer_norm(x, h, weight, bias, eps, later)


def geglu(x: Tensor) -> Tensor:
    """... 2d -> ... d: the first half times gelu(the second half), gelu(z) = z / 2 * (1 + erf(z / sqrt(2)))."""
    return _in("pointwise").geglu(x)


def add(x: Tensor, h: Tensor, bias: Tensor | None = None) -> Tensor:
    """x + h + bias. x and h have the same shape and the same layout in memory, in which the last axis is as long as
    `bias`: the channels of maps with channels last, or the width of tokens."""
    return _in("pointwise").add(x, h, bias)


def attend_over_frames(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    heads: int,
    *,
    mask: Tensor | None = None,
    k_positions: Tensor | None = None,
    v_positions: Tensor | None = None,
) -> Tensor:
    """Attention among the frames of each pixel: q, k, v are b f p (heads d) -> b f p (heads d), contiguous.

        w[i, j] = softmax over j of q[i] . (k[j] + k_positions[j - i]) / sqrt(d) + mask[i, j]
        out[i] = sum over j of w[i, j] * (v[j] + v_positions[j - i])

    for query frame i and key frame j. Up to 128 frames; d is from 8 to 128. The strides of the first three axes are
    free; channels are next to each other. `mask` is f f and may hold -inf. The positions (arXiv:1803.02155)
    are both given or none, 2f-1 d each with the rows for j - i = -(f - 1) to f - 1.
    """
    return _in("frames").attend_over_frames(q, k, v, heads, mask, k_positions, v_positions)
