"""How layers are applied to feature maps: to whole maps or in parts, into new memory or in place.

A layer states what it computes, and hands the function over; the plan decides by `parts.Budget` how it is applied. All
choices give the same result. What sees one frame alone runs over some frames at a time, what sees one pixel alone over
some rows of pixels, so that a long clip needs little memory beside the maps themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from .call import Call
from .fused import Fused
from .parts import Budget

if TYPE_CHECKING:
    from .layers import Stage


class Plan:
    """How the layers of one network are applied."""

    def __init__(self, fused: Fused) -> None:
        self.budget, self.fused = Budget(), fused

    def over_frames(self, layer: Callable[..., Tensor], x: Tensor, *values: Tensor) -> Tensor:
        """layer(x, *values) for a layer that sees every frame alone, (b f) c h w -> (b f) c h w. `values` are m c, one
        row for each b f / m frames."""
        if not self.budget.is_large(x):
            return layer(x, *values)
        values = tuple(one.repeat_interleave(len(x) // len(one), dim=0) for one in values)
        spans = (span for _, span in self.budget.frame_spans(x))
        return gathered((layer(x[span], *(one[span] for one in values)) for span in spans), len(x))

    def over_conditioned_frames(self, layer: Callable[[Tensor, Call], Tensor], x: Tensor, call: Call) -> Tensor:
        """layer(x, call) for a layer that sees every frame with its text and its image tokens."""
        if len(x) != call.all_rows or not self.budget.is_large(x) or call.adapters.whole_frames:
            return layer(x, call)
        spans = self.budget.frame_spans(x, call.clips)
        return gathered((layer(x[span], call.of_frames(clip, span)) for clip, span in spans), len(x))

    def add_over_pixels(
        self, layer: Callable[[Tensor, slice | None], Tensor], clips: Tensor, x: Tensor, *, whole: bool
    ) -> Tensor:
        """x plus layer(clips, None) for a layer that sees every pixel alone; x is (b f) c h w, and `clips`, b c f h w,
        may be overwritten. In parts, the layer receives their rows of pixels. `whole` keeps the map whole."""
        if whole or not self.budget.is_large(x):
            return x + layer(clips, None).transpose(1, 2).flatten(0, 1)
        for rows in self.budget.pixel_spans(clips):
            part = clips[:, :, :, rows]
            part.copy_(layer(part, rows))
        clips.transpose(1, 2).add_(x.unflatten(0, (len(clips), -1)))
        return clips.transpose(1, 2).flatten(0, 1)

    def pairs_over_pixels(self, layer: Callable[[Tensor], Iterator[Tensor]], x: Tensor) -> tuple[Tensor, Tensor]:
        """Two tensors of the shape of x, which a layer yields for the tokens (b p) f d or b f p d of some pixels."""
        first, second = torch.empty_like(x), torch.empty_like(x)
        axis = 0 if x.ndim == 3 else 2
        pixels = max(1, self.budget.values * x.shape[axis] // x.numel())
        for part, *results in zip(*(y.split(pixels, axis) for y in (x, first, second)), strict=True):
            made = layer(part)
            for result in results:
                result.copy_(next(made))
        return first, second

    def over_channels(self, work: Callable[[Tensor, Tensor], None], a: Tensor, b: Tensor) -> None:
        """work(a, b), which changes `a` in place, for so many channels (the last axis) at a time as have a quarter of
        the budget."""
        at_once = max(1, self.budget.values * a.shape[-1] // a.numel() // 4)
        for one, other in zip(a.split(at_once, -1), b.split(at_once, -1), strict=True):
            work(one, other)

    def add_over_tokens(self, layer: Callable[[Tensor], Tensor], x: Tensor, stream: Tensor) -> Tensor:
        """stream + layer(x) for a layer that sees every token alone; `stream` may be overwritten. A compiler bounds
        the memory of the layer on its own."""
        rows = self.budget.tokens(x, self.fused(x))
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or x.shape[:-1].numel() <= rows:
            return stream + layer(x)
        stream = stream.contiguous()
        for part, result in zip(x.flatten(0, -2).split(rows), stream.flatten(0, -2).split(rows), strict=True):
            result.add_(layer(part))
        return stream

    def accumulate_over_tokens(self, layer: Callable[[Tensor, Tensor], Tensor], x: Tensor, stream: Tensor) -> Tensor:
        """The stream after layer(x, stream), n d each, which adds to it in place and sees every token alone."""
        rows, stream = self.budget.tokens(x, self.fused(x)), stream.contiguous()
        for part, result in zip(x.flatten(0, -2).split(rows), stream.flatten(0, -2).split(rows), strict=True):
            layer(part, result)
        return stream

    def over_time(self, stages: Sequence[Stage], x: Tensor) -> tuple[Tensor, Tensor | None]:
        """b c f h w through stages of convolutions over frames, and the bias that is left to add."""
        bias = None
        for stage in stages:
            x, bias = (self._in_place(stage, x), None) if self.budget.is_large(x) else stage.deferred(x, bias)
        return x, bias

    def add_over_time(self, stages: Sequence[Stage], x: Tensor) -> Tensor:
        """x plus what stages of convolutions over frames make of it, b c f h w."""
        h, bias = self.over_time(stages, x)
        return h.add_(x) if self.budget.is_large(x) else self.fused.add(x, h, bias)

    def _in_place(self, stage: Stage, x: Tensor) -> Tensor:
        """stage(x) for a convolution that sees every pixel alone. Behind the norm, which has the statistics of the
        whole clip, the map is changed in place."""
        norm, convolution, fused = stage.norm, stage.convolution, self.fused(x)
        x = self.fused.group_norm(norm, x, silu=fused)
        for rows in self.budget.pixel_spans(x):
            part = x[:, :, :, rows]
            part.copy_(convolution(part if fused else F.silu(part, inplace=True)))
        return x


def gathered(results: Iterator[Tensor], rows: int) -> Tensor:
    """The results joined along their first axis, each released as soon as it is copied."""
    out: Tensor | None = None
    done = 0
    for result in results:
        if out is None:
            last = result.is_contiguous(memory_format=torch.channels_last) and not result.is_contiguous()
            layout = torch.channels_last if last else torch.contiguous_format
            out = torch.empty((rows, *result.shape[1:]), dtype=result.dtype, device=result.device, memory_format=layout)
        out[done : done + len(result)] = result
        done += len(result)
    assert out is not None
    return out
