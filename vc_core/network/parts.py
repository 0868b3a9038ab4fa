"""Large feature maps are worked on in parts, so that a long clip needs little memory beside the maps themselves.

What sees one frame alone runs over some frames at a time, what sees one pixel alone over some rows of pixels. Both are
exact: no part needs to know of another. Norms over a whole clip stay whole. Training keeps every map whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

LARGE = 2**25
"""Values from which on a map is worked on in parts: 16 frames at 320 x 512 stay below in all layers but one."""

PART = 2**24
"""Values of a part: 64 MiB in fp32."""

SMALLER_ON_CPU = 4
"""By how much both are smaller on a CPU. Linux gives memory of more than 32 MiB to a process anew each time, page by
page, which takes as long as much of the work on it; smaller parts use what the process has, and stay in the cache."""


def smaller(x: Tensor) -> int:
    """By how much LARGE and PART are smaller where x is. A compiler finds its own parts."""
    return SMALLER_ON_CPU if x.device.type == "cpu" and not torch.compiler.is_compiling() else 1


def is_large(x: Tensor) -> bool:
    """Whether to work on x in parts."""
    return x.numel() > LARGE // smaller(x) and not torch.is_grad_enabled()


def frame_spans(x: Tensor, clips: int = 1) -> Iterator[tuple[int, slice]]:
    """(clip, its rows) of each part of x, (b f) c h w of `clips` clips; no part holds frames of two clips."""
    frames = len(x) // clips
    at_once = max(1, PART // smaller(x) * len(x) // x.numel())
    for clip in range(clips):
        for first in range(0, frames, at_once):
            yield clip, slice(clip * frames + first, clip * frames + min(first + at_once, frames))


def pixel_spans(clip: Tensor) -> Iterator[Tensor]:
    """Views of b c f h w, some rows of pixels each."""
    height = clip.shape[3]
    yield from clip.split(max(1, PART // smaller(clip) * height // clip.numel()), dim=3)


def over_frames(work: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """work(x) for what sees every frame by itself, (b f) c h w -> (b f) c h w"""
    return work(x) if not is_large(x) else gathered((work(x[rows]) for _, rows in frame_spans(x)), len(x))


def gathered(results: Iterator[Tensor], rows: int) -> Tensor:
    """The results joined along their first axis, each let go as soon as it has its place."""
    out: Tensor | None = None
    done = 0
    for result in results:
        if out is None:
            last = result.is_contiguous(memory_format=torch.channels_last) and not result.is_contiguous()
            kind = torch.channels_last if last else torch.contiguous_format
            out = torch.empty((rows, *result.shape[1:]), dtype=result.dtype, device=result.device, memory_format=kind)
        out[done : done + len(result)] = result
        done += len(result)
    assert out is not None
    return out
