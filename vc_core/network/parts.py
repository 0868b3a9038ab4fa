"""How much of a feature map is worked on at once, by device and free memory.

Parts are exact: an operation on single frames runs over some frames at a time, one on single pixels over some rows of
pixels. Norms over a whole clip stay whole, and training keeps every map whole. `network.plan` applies layers in parts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

AT_ONCE = 2**24
"""Values of a part where the free memory is unknown: 64 MiB in fp32. 16 frames at 320 x 512 stay below twice that in
all layers but one."""

LEAST = 2**22
"""Values of the smallest parts that a budget goes down to; smaller ones would hardly need less memory."""

WHOLE = 2**40
"""Values of a part where no map is worked on in parts."""

MOST_WIDE = 2**26
"""Values that a feed-forward holds in its widest layer at once, however much memory is free. It is eight times as wide
as its input there, which would otherwise be the peak of a whole pass, and larger parts are not faster. Fused kernels
hold less beside it, and take twice as many."""

SMALLER_ON_CPU = 4
"""By how much parts are smaller on a CPU. Linux allocates memory of more than 32 MiB to a process page by page each
time, which takes as long as much of the work on it; smaller parts reuse the memory of the process and fit the cache."""

ROWS_ON_CPU = 1600
"""The most tokens that a feed-forward takes at once on a CPU; smaller parts are faster for the same reason."""

HELD = 8.1
HELD_FOR_PARTS = 17
HELD_AT_MOST = 19
"""What a pass holds, by accounting (`benchmarks.memory`): `HELD` feature maps of the full size and width plus
`HELD_FOR_PARTS` times the values of a part, and never more than `HELD_AT_MOST` maps plus a feed-forward of twice
`MOST_WIDE`."""

KERNELS = 1.5
"""What a pass allocates in all, over what it holds by accounting, at the most that was measured: kernels need memory
of their own."""


def whole_bytes(full: int, itemsize: int) -> int:
    """The most bytes that a pass needs where no map is worked on in parts; `full` and `itemsize` as in `fit`."""
    return math.ceil(KERNELS * itemsize * (HELD_AT_MOST * full + MOST_WIDE))


class Budget:
    """How many values of a map the layers of one network work on at once.

    All layers of a network share one budget. Whoever runs the network may set it before a pass: `fit` chooses by the
    memory that is free. On a CPU, where small parts are the fastest, free memory is not asked and nothing changes.
    """

    def __init__(self) -> None:
        self.values = AT_ONCE
        self.most = WHOLE
        self.held = 0  # bytes that count as free, but belong to recorded passes of this network

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
        """Makes parts half as large, and keeps `fit` from larger ones until `restart`. False where they already have
        the smallest size."""
        if self.values <= LEAST:
            return False
        self.values = self.most = min(self.values, 2 * MOST_WIDE) // 2
        return True

    def restart(self) -> None:
        """Forgets what `halve` has found, for another run."""
        self.most = WHOLE

    def part(self, x: Tensor) -> int:
        """Values of a part of x. On a CPU, a compiler finds its own parts."""
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

    def pixel_spans(self, clip: Tensor) -> Iterator[slice]:
        """The rows of pixels of each part of b c f h w."""
        height = clip.shape[3]
        at_once = max(1, self.part(clip) * height // clip.numel())
        for first in range(0, height, at_once):
            yield slice(first, min(first + at_once, height))

    def tokens(self, x: Tensor, fused: bool = False) -> int:
        """How many tokens n d a feed-forward takes at once, a number that `operations.Linear` can split."""
        rows = min(self.values, (2 if fused else 1) * MOST_WIDE) // (8 * x.shape[-1])
        rows = min(rows, ROWS_ON_CPU) if x.device.type == "cpu" else rows
        return max(1, rows // 16) * 16
