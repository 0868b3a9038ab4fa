"""Test cases of the fused kernels at the network's sizes, with PyTorch's own operations for comparison."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vc_core.network import kernels
from vc_core.network.attention import causal_mask

Inputs = tuple[Tensor, ...]
EPS = 1e-5


@dataclass
class Case:
    """A kernel at one size."""

    kernel: str
    size: str
    inputs: Callable[[], Inputs]
    ours: Callable[..., Any]
    theirs: Callable[..., Any]
    """The same with PyTorch's operations, in their preferred layout; in float64 it is the reference result."""
    moved: int
    """Minimum number of values read and written."""
    dtype: torch.dtype = torch.float16
    cuts: dict[str, Callable[..., Any]] = field(default_factory=dict)
    """The kernel with other partitions into programs."""


def all_cases(device: torch.device) -> Iterator[Case]:
    """All kernels at the network's sizes, or at tiny sizes on a CPU."""
    large = device.type == "cuda"
    yield from group_norms(device, large)
    yield from token_cases(device, large)
    yield from attention_cases(device, large)


def filled(shape: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    """Random values around one."""
    return torch.randn(shape, device=device, dtype=dtype) + 1


FRAME_NORMS = [(16, 320, 40, 64), (16, 640, 20, 32), (16, 1280, 10, 16), (16, 2560, 5, 8), (16, 960, 40, 64)]
FRAME_NORMS += [(16, 1920, 20, 32), (32, 320, 40, 64), (16, 320, 72, 128), (16, 1280, 18, 32)]
CLIP_NORMS = [(1, 320, 16, 40, 64), (1, 640, 16, 20, 32), (1, 1280, 16, 10, 16), (1, 1280, 16, 5, 8)]
CLIP_NORMS += [(2, 320, 16, 40, 64), (1, 320, 16, 72, 128)]
COMPARED = [*FRAME_NORMS[:3], FRAME_NORMS[7], *CLIP_NORMS[:3], CLIP_NORMS[5]]
"""Sizes for which partitions into programs are compared."""


def group_norms(device: torch.device, large: bool) -> Iterator[Case]:
    """Group norm with SiLU, of frames and of clips."""
    for shape in [*FRAME_NORMS, *CLIP_NORMS] if large else [(2, 64, 3, 5), (1, 32, 2, 3, 5)]:
        yield group_norm(shape, device, add=shape[0] in (2, 32))


def group_norm(shape: tuple[int, ...], device: torch.device, add: bool) -> Case:
    """Group norm with SiLU at one size; with `add`, the embedding of a clip is added first."""
    n, c = shape[:2]
    groups, spatial = 32, shape[2:]

    def inputs() -> Inputs:
        x = filled((n, *spatial, c), device, torch.float16).movedim(-1, 1)
        w, b = (filled((c,), device, torch.float16) for _ in range(2))
        return x, x.contiguous(), w, b, filled((1, c), device, torch.float16)

    def ours(x: Tensor, plain: Tensor, w: Tensor, b: Tensor, e: Tensor) -> Tensor:
        return kernels.group_norm(x, groups, w, b, EPS, silu=True, add=e if add else None)

    def theirs(x: Tensor, plain: Tensor, w: Tensor, b: Tensor, e: Tensor) -> Tensor:
        return F.silu(F.group_norm(plain + e.view(1, c, *[1] * len(spatial)) if add else plain, groups, w, b, EPS))

    size = ("frames " if len(shape) == 4 else "clips ") + "x".join(map(str, shape)) + (" + e" if add else "")
    cuts = group_cuts(shape, groups, add) if shape in COMPARED else {}
    return Case("group_norm", size, inputs, ours, theirs, 2 * n * c * int(torch.Size(spatial).numel()), cuts=cuts)


def group_cuts(shape: tuple[int, ...], groups: int, add: bool) -> dict[str, Callable[..., Any]]:
    """The norm in one launch and in two, with more and fewer warps, parts and tiles."""
    from vc_core.network.kernels import group_norms as norms
    from vc_core.network.kernels.launching import power_of_two

    c, p = shape[1], torch.Size(shape[2:]).numel()
    one = norms.plan(1, 1, c, groups, 1)  # small enough for one launch
    plans = []
    for warps in (4, 8, 16):
        lanes = max(64 * warps, power_of_two(one.units))
        plans.append(one._replace(warps=warps, lanes=lanes))
        plans.append(one._replace(warps=warps, lanes=max(lanes // 2, power_of_two(one.units))))
    for splits in (4, 8, 16, 32):
        rows = -(-p // splits)
        for steps in (1, 2, 4):
            plans.append(one._replace(warps=8, lanes=512, splits=-(-p // rows), rows=rows, steps=steps))

    def with_cut(cut: norms.Plan) -> Callable[..., Any]:
        return lambda x, _, w, b, e: norms.group_norm(x, groups, w, b, EPS, True, e if add else None, cut)

    names = {(f"{x.warps} warps, {x.lanes} lanes, {x.splits} parts, {x.steps} tiles"): x for x in plans}
    return {name: with_cut(cut) for name, cut in names.items()}


def token_cases(device: torch.device, large: bool) -> Iterator[Case]:
    """Layer norms, gates and sums."""
    for rows, d in [(40960, 320), (10240, 640), (2560, 1280), (147456, 320)] if large else [(5, 40)]:
        yield layer_norm(rows, d, device)
        yield add_layer_norm(rows, d, device)
    for rows, d in [(40960, 1280), (10240, 2560), (2560, 5120)] if large else [(5, 40)]:
        yield geglu(rows, d, device)
    for rows, c in [(40960, 320), (10240, 640), (147456, 320)] if large else [(5, 40)]:
        yield added(rows, c, device, with_bias=False)
        yield added(rows, c, device, with_bias=True)


def layer_norm(rows: int, d: int, device: torch.device) -> Case:
    """Layer norm of tokens."""
    from vc_core.network.kernels import layer_norms as norms
    from vc_core.network.kernels.launching import power_of_two

    def inputs() -> Inputs:
        return tuple(filled(shape, device, torch.float16) for shape in ((rows, d), (d,), (d,)))

    def with_cut(tile: int, warps: int) -> Callable[..., Any]:
        cut = norms.Rows(tile, power_of_two(d), warps)
        return lambda x, w, b: norms.layer_norm(x, w, b, EPS, cut)

    tried = itertools.product((1, 2, 4, 8), (1, 2, 4)) if d != 640 else ()
    cuts = {f"{tile} rows, {warps} warps": with_cut(tile, warps) for tile, warps in tried if warps <= tile * d // 256}
    return Case(
        "layer_norm",
        f"{rows}x{d}",
        inputs,
        lambda x, w, b: kernels.layer_norm(x, w, b, EPS),
        lambda x, w, b: F.layer_norm(x, (d,), w, b, EPS),
        2 * rows * d,
        cuts=cuts,
    )


def add_layer_norm(rows: int, d: int, device: torch.device) -> Case:
    """Sum and layer norm of tokens."""

    def inputs() -> Inputs:
        return tuple(filled(shape, device, torch.float16) for shape in ((rows, d), (rows, d), (d,), (d,)))

    def theirs(x: Tensor, h: Tensor, w: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        total = (x + h).half().to(x.dtype)
        return total, F.layer_norm(total, (d,), w, b, EPS)

    return Case(
        "add_layer_norm",
        f"{rows}x{d}",
        inputs,
        lambda x, h, w, b: kernels.add_layer_norm(x, h, w, b, EPS),
        theirs,
        4 * rows * d,
    )


def geglu(rows: int, d: int, device: torch.device) -> Case:
    """The gate of a feed-forward layer."""
    from vc_core.network.kernels import pointwise

    def theirs(x: Tensor) -> Tensor:
        value, gate = x.chunk(2, dim=-1)
        return value * F.gelu(gate)

    def with_tile(tile: tuple[int, int]) -> Callable[..., Any]:
        return lambda x: pointwise.geglu(x, tile)

    tiles = [(4, 256), (16, 256), (2, 512), (4, 512), (1, 1024)]
    return Case(
        "geglu",
        f"{rows}x{d}",
        lambda: (filled((rows, 2 * d), device, torch.float16),),
        kernels.geglu,
        theirs,
        3 * rows * d,
        cuts={str(tile): with_tile(tile) for tile in tiles},
    )


def added(rows: int, c: int, device: torch.device, with_bias: bool) -> Case:
    """A residual sum, with or without a bias."""

    def inputs() -> Inputs:
        return tuple(filled(shape, device, torch.float16) for shape in ((rows, c), (rows, c), (c,)))

    return Case(
        "add",
        f"{rows}x{c}" + (" + bias" if with_bias else ""),
        inputs,
        lambda x, h, b: kernels.add(x, h, b if with_bias else None),
        lambda x, h, b: x + h + b if with_bias else x + h,
        3 * rows * c,
    )


@dataclass(frozen=True)
class Attended:
    """The size of a temporal attention."""

    frames: int
    pixels: int
    heads: int
    width: int = 64
    relative: bool = False
    causal: bool = False
    window: bool = False
    """Whether the frames are the middle of a clip twice as long, read in place."""
    dtype: torch.dtype = torch.float16

    def __str__(self) -> str:
        kinds = [name for name in ("relative", "causal", "window") if getattr(self, name)]
        return " ".join([f"{self.frames}x{self.pixels}x{self.heads}x{self.width}", *kinds])


ATTENDED = [
    Attended(16, 2560, 5),
    Attended(16, 2560, 5, relative=True),
    Attended(16, 640, 10, relative=True),
    Attended(16, 160, 20, relative=True, dtype=torch.bfloat16),
    Attended(16, 9216, 5),
    Attended(16, 9216, 5, relative=True),
    Attended(16, 2560, 5, window=True),
    Attended(24, 2560, 5, causal=True),
    Attended(32, 640, 10, relative=True),
    Attended(64, 2560, 5),
    Attended(128, 640, 10, causal=True),
    Attended(16, 160, 20, relative=True, dtype=torch.float32),
]
TINY = [Attended(3, 5, 2, 16, causal=True), Attended(16, 2, 1, 16, relative=True, window=True)]


def attention_cases(device: torch.device, large: bool) -> Iterator[Case]:
    """Temporal attention."""
    for size in ATTENDED if large else TINY:
        yield attention(size, device)


def attention(size: Attended, device: torch.device) -> Case:
    """Temporal attention at one size."""
    mask = causal_mask(size.frames, torch.zeros((), device=device, dtype=size.dtype)) if size.causal else None

    def ours(q: Tensor, k: Tensor, v: Tensor, r: Tensor, s: Tensor) -> Tensor:
        vectors = {"k_positions": r, "v_positions": s} if size.relative else {}
        return kernels.attend_over_frames(q, k, v, size.heads, mask=mask, **vectors)

    def theirs(q: Tensor, k: Tensor, v: Tensor, r: Tensor, s: Tensor) -> Tensor:
        return plain_attention(size, mask, q, k, v, r, s)

    cuts = {f"{cut}": with_cut(size, mask, cut) for cut in attention_cuts(size)} if size in ATTENDED[:2] else {}
    moved = 4 * size.frames * size.pixels * size.heads * size.width
    inputs = partial(attention_inputs, size, device)
    return Case("attend_over_frames", str(size), inputs, ours, theirs, moved, size.dtype, cuts)


def attention_inputs(size: Attended, device: torch.device) -> Inputs:
    """Random queries, keys, values, and relative positions of keys and values."""
    f, width = size.frames, size.heads * size.width
    first, length = (f // 2, 2 * f) if size.window else (0, f)
    maps = (torch.randn(1, length, size.pixels, width, device=device, dtype=size.dtype) for _ in range(3))
    vectors = (torch.randn(2 * f - 1, size.width, device=device, dtype=size.dtype) for _ in range(2))
    return (*(x[:, first : first + f] for x in maps), *vectors)


def plain_attention(
    size: Attended, mask: Tensor | None, q: Tensor, k: Tensor, v: Tensor, r: Tensor, s: Tensor
) -> Tensor:
    """Temporal attention with PyTorch's operations; `r` and `s` are the relative positions of keys and values."""
    f, heads, d = size.frames, size.heads, size.width
    q, k, v = (x.unflatten(3, (heads, d)).permute(0, 2, 3, 1, 4).reshape(-1, f, d) for x in (q, k, v))
    added_mask = None if mask is None else mask.to(q)
    if size.relative:
        distance = torch.arange(f, device=q.device)[None] - torch.arange(f, device=q.device)[:, None] + f - 1
        q = q * d**-0.5
        r, s = (table[distance] for table in (r, s))
        logits = torch.baddbmm(torch.einsum("nid,ijd->nij", q, r), q, k.transpose(1, 2))
        weights = (logits if added_mask is None else logits + added_mask).softmax(dim=-1)
        out = torch.baddbmm(torch.einsum("nij,ijd->nid", weights, s), weights, v)
    else:
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=added_mask)
    return out.view(1, size.pixels, heads, f, d).permute(0, 3, 1, 2, 4).reshape(1, f, size.pixels, heads * d)


def with_cut(size: Attended, mask: Tensor | None, cut: Any) -> Callable[..., Any]:
    """The kernel with a given partition into programs."""
    from vc_core.network.kernels import frames as over_frames

    def call(q: Tensor, k: Tensor, v: Tensor, r: Tensor, s: Tensor) -> Tensor:
        k_positions, v_positions = (r, s) if size.relative else (None, None)
        return over_frames.attend_over_frames(q, k, v, size.heads, mask, k_positions, v_positions, cut)

    return call


def attention_cuts(size: Attended) -> list[Any]:
    """Partitions of both kernels, with fewer and more pixels and warps."""
    from vc_core.network.kernels import frames as over_frames

    found = []
    for by_matrices in (True, False):
        cut = over_frames.plan(size.frames, size.width, by_matrices)
        for more, warps in ((1, 1), (2, 1), (1, 2), (2, 2), (4, 2), (0.5, 1)):
            found.append(cut._replace(pixels=max(1, int(cut.pixels * more)), warps=cut.warps * warps))
    return found
