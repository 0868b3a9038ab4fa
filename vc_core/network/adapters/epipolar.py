"""Epipolar attention (CamI2V, arXiv:2410.15957): every pixel attends to the pixels of all frames that lie near its
epipolar line, and to a few tokens that are always visible.

Memory is bounded: queries are worked on in blocks, and the mask of a block is computed from the fundamental matrices
when it is needed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..attention import sdpa_attention

BLOCK_BYTES = 2**29
"""What a block of queries may need, with its mask and its attention map."""

MASK_BYTES = 16
"""Bytes for each element of a mask while it is made: the distance in float32 and its copy, two booleans, and the mask
that is added to the logits."""

LOGIT_BYTES = 8
"""Bytes for each element of an attention map that no fused kernel avoids: logits and weights in float32."""


@dataclass(frozen=True, eq=False)
class EpipolarLines:
    """Which tokens of a clip see each other.

    fundamental: b f f 3 3, float32, from a point of the first frame to its line in the second, in pixels.
    height: of the clip in pixels.
    """

    fundamental: Tensor
    height: int

    def of_frames(self, frames: Sequence[int]) -> EpipolarLines:
        """The lines between some of the frames."""
        index = list(frames)
        return EpipolarLines(self.fundamental[:, index][:, :, index], self.height)

    def to(self, device: torch.device) -> EpipolarLines:
        """The lines on a device."""
        return self if self.fundamental.device == device else EpipolarLines(self.fundamental.to(device), self.height)

    def allowed(self, clip: int, grid: tuple[int, int], queries: range) -> Tensor:
        """n (f h w) bool, for some of the tokens (f h w) of a clip on a grid h w, with the pixels that the diagonal of
        a cell reaches to both sides of the line. Clips repeat where several conditionings share a pass."""
        matrices = self.fundamental[clip % len(self.fundamental)]
        side = self.height // grid[0]
        points = cell_centers(grid, side, matrices.device)
        frame, cell = _split(torch.arange(queries.start, queries.stop, device=matrices.device), len(points))
        lines = torch.einsum("nfij,nj->nfi", matrices[frame], points[cell])
        lines = lines / lines[..., :2].norm(dim=-1, keepdim=True)
        distance = (lines.flatten(0, 1) @ points.T).abs_()  # (n f) (h w)
        return (distance < side * math.sqrt(2) / 2).view(len(queries), -1)


def cell_centers(grid: tuple[int, int], side: int, device: torch.device) -> Tensor:
    """(h w) 3, the middle of each cell of side x side pixels in homogeneous pixels; that of pixel 0 is 0."""
    y, x = (side * torch.arange(count, dtype=torch.float32, device=device) + side / 2 - 0.5 for count in grid)
    cells = torch.stack(torch.meshgrid(y, x, indexing="ij"), dim=-1).flatten(0, 1)
    return torch.cat([cells.flip(-1), torch.ones_like(cells[:, :1])], dim=-1)


def _split(tokens: Tensor, cells: int) -> tuple[Tensor, Tensor]:
    """Frame and cell of tokens (f h w)."""
    return tokens // cells, tokens % cells


def block_of_queries(heads: int, keys: int, most: int = BLOCK_BYTES) -> int:
    """How many queries are worked on at once: as many as need no more than `most` bytes, by `MASK_BYTES` and, for every
    head, `LOGIT_BYTES` for each of their keys."""
    return max(1, most // (keys * (MASK_BYTES + LOGIT_BYTES * heads)))


class EpipolarAttention(nn.Module):
    """The attention of all tokens of a clip, 1 (f h w) d -> 1 (f h w) d, over the tokens that each may see and over
    `register_tokens`. Attribute names are the published ones."""

    def __init__(self, width: int, registers: int, *, operations: Any = nn, **where: Any) -> None:
        super().__init__()
        self.to_q = operations.Linear(width, width, bias=False, **where)
        self.to_k = operations.Linear(width, width, bias=False, **where)
        self.to_v = operations.Linear(width, width, bias=False, **where)
        self.to_out = nn.Sequential(operations.Linear(width, width, **where))
        self.register_tokens = nn.Parameter(torch.zeros(1, registers, width, **where))

    def forward(
        self, x: Tensor, heads: int, lines: EpipolarLines | None, clip: int = 0, grid: tuple[int, int] = (1, 1)
    ) -> Tensor:
        """The result for the tokens x of one clip. Without lines, all tokens see each other.

        clip: whose lines they are. grid: height and width of the feature map.
        """
        context = torch.cat([self.register_tokens.to(x), x], dim=1)
        k, v = self.to_k(context), self.to_v(context)
        del context
        q: Tensor = self.to_q(x)
        count = q.shape[1] if lines is None and _is_fused(q) else block_of_queries(heads, k.shape[1])
        for start in range(0, q.shape[1], count):
            block = q[:, start : start + count]
            mask = None
            if lines is not None:
                mask = self._mask(lines.allowed(clip, grid, range(start, start + block.shape[1])), x)
            q[:, start : start + count] = sdpa_attention(block, k, v, heads, mask)
        out: Tensor = self.to_out(q)
        return out

    def _mask(self, allowed: Tensor, like: Tensor) -> Tensor:
        """1 1 n m, added to the logits, of n queries and of all keys, the register tokens first."""
        registers = self.register_tokens.shape[1]
        mask = like.new_zeros(1, 1, len(allowed), registers + allowed.shape[1])
        mask[0, 0, :, registers:].masked_fill_(~allowed, float("-inf"))
        return mask


def _is_fused(x: Tensor) -> bool:
    """Whether torch has kernels that never hold the attention map, of attentions without a mask."""
    return x.is_cuda and torch.version.hip is None
