"""Large feature maps are worked on in parts, so that a long clip needs little memory beside the maps themselves.

What sees one frame alone runs over some frames at a time, what sees one pixel alone over some rows of pixels. Both are
exact: no part needs to know of another. Norms over a whole clip stay whole. Training keeps every map whole.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

AT_ONCE = 2**24
"""Values of a part where nothing is known about free memory: 64 MiB in fp32. 16 frames at 320 x 512 stay below twice
that in all layers but one."""

LEAST = 2**22
"""Values of the smallest parts that a budget goes down to; smaller ones would hardly need less memory."""

WHOLE = 2**40
"""Values of a part where no map is worked on in parts."""

MOST_WIDE = 2**26
"""Values that a feed-forward holds in its widest layer at once, however much memory is free. It is eight times as wide
as its input there, which would otherwise be the peak of a whole pass, and larger parts are not faster. Fused kernels
hold less beside it, and take twice as many."""

SMALLER_ON_CPU = 4
"""By how much parts are smaller on a CPU. Linux gives memory of more than 32 MiB to a process anew each time, page by
page, which takes as long as much of the work on it; smaller parts use what the process has, and stay in the cache."""

ROWS_ON_CPU = 1600
"""Tokens that a feed-forward takes at once on a CPU, at the most; smaller parts are faster for the same reason."""

HELD = 8.1
HELD_FOR_PARTS = 17
HELD_AT_MOST = 19
"""What a pass holds, by accounting (`benchmarks.memory`): so many feature maps of the full size and width, beside them
so many times the values of a part, and never more than so many maps and a feed-forward of twice `MOST_WIDE`."""

KERNELS = 1.5
"""What a pass takes in all, over what it holds by accounting, at the most that was measured: kernels need memory of
their own."""


def whole_bytes(full: int, itemsize: int) -> int:
    """Bytes that a pass takes at the most where no map is worked on in parts; `full` and `itemsize` as in `fit`."""
    return math.ceil(KERNELS * itemsize * (HELD_AT_MOST * full + MOST_WIDE))


class Budget:
    """How many values of a map the layers of one network work on at once.

    All layers of a network ask the same budget, and whoever runs the network may set it before a pass: `fit` by the
    memory that is free. On a CPU, where small parts are the fastest, nothing is known to be free and nothing changes.
    """

    def __init__(self) -> None:
        self.values = AT_ONCE
        self.most = WHOLE
        self.held = 0  # bytes that count as free, but belong to what was recorded of this network

    @property
    def is_whole(self) -> bool:
        """Whether no map is worked on in parts."""
        return self.values >= WHOLE

    def fit(self, free: int | None, full: int, itemsize: int) -> None:
        """Makes parts as large as `free` bytes allow, None where that is not known, for a pass whose feature maps have
        `full` values of `itemsize` bytes at the full size. They are a power of two, so that a compiled network rarely
        sees another number."""
        values = AT_ONCE
        if free is not None:
            room = int((free - self.held) / (KERNELS * itemsize))
            parts = int((room - HELD * full) / HELD_FOR_PARTS)
            values = WHOLE if room >= HELD_AT_MOST * full + MOST_WIDE else 2 ** (max(parts, LEAST).bit_length() - 1)
        self.values = min(values, self.most)

    def halve(self) -> bool:
        """Makes parts half as large, and keeps `fit` from larger ones until `restart`. False where they are as small
        as they get."""
        if self.values <= LEAST:
            return False
        self.values = self.most = min(self.values, 2 * MOST_WIDE) // 2
        return True

    def restart(self) -> None:
        """Forgets what `halve` has found, which another run need not know."""
        self.most = WHOLE

    def part(self, x: Tensor) -> int:
        """Values of a part of x. A compiler finds its own parts on a CPU."""
        on_cpu = x.device.type == "cpu" and not torch.compiler.is_compiling()
        return self.values // SMALLER_ON_CPU if on_cpu else self.values

    def is_large(self, x: Tensor) -> bool:
        """Whether to work on x in parts."""
        return x.numel() > 2 * self.part(x) and not torch.is_grad_enabled()

    def frame_spans(self, x: Tensor, clips: int = 1) -> Iterator[tuple[int, slice]]:
        """(clip, its rows) of each part of x, (b f) c h w of `clips` clips; no part holds frames of two clips."""
        frames = len(x) // clips
        at_once = max(1, self.part(x) * len(x) // x.numel())
        for clip in range(clips):
            for first in range(0, frames, at_once):
                yield clip, slice(clip * frames + first, clip * frames + min(first + at_once, frames))

    def pixel_spans(self, clip: Tensor) -> Iterator[Tensor]:
        """Views of b c f h w, some rows of pixels each."""
        height = clip.shape[3]
        yield from clip.split(max(1, self.part(clip) * height // clip.numel()), dim=3)

    def over_frames(self, work: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """work(x) for what sees every frame by itself, (b f) c h w -> (b f) c h w"""
        if not self.is_large(x):
            return work(x)
        return gathered((work(x[rows]) for _, rows in self.frame_spans(x)), len(x))

    def tokens(self, x: Tensor, fused: bool = False) -> int:
        """How many tokens n d a feed-forward takes at once, a number that `operations.Linear` can split."""
        rows = min(self.values, (2 if fused else 1) * MOST_WIDE) // (8 * x.shape[-1])
        rows = min(rows, ROWS_ON_CPU) if x.device.type == "cpu" else rows
        return max(1, rows // 16) * 16


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
