"""Dynamic degree: whether a video moves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..parameters import Kind, about
from .metric import Clip, Metric
from .moment import Moment

RATE = 8.0
"""Frames per second at which motion is looked at."""
LIMIT = 6.0
"""Pixels from one frame to the next that are motion, where the shorter side has 256."""
SHARE = 4 / 16
"""The share of the frames that have to move."""


@dataclass(frozen=True, kw_only=True)
class DynamicDegree(Metric):
    """1 where the fastest 5 % of the pixels exceed a limit often enough, at 8 frames per second; otherwise 0."""

    name = "dynamic_degree"
    help = (
        "1 if the fastest 5 % of the pixels move by more than 6 pixels of 256 in a quarter of the frames, at 8 frames "
        "per second, otherwise 0; the mean over several videos is the share of those that move"
    )
    better = "neither"
    vbench = "same formula; classical optical flow instead of RAFT, without pixels that leave the image"

    fps: float = field(
        default=RATE,
        metadata=about(
            "the frames per second at which the video plays, 0.01 to 1000, for dynamic_degree",
            kind=Kind.NUMBER,
            low=0.01,
            high=1000,
        ),
    )

    def at(self, moment: Moment) -> float:
        return moment.flow.speed

    def total(self, values: Sequence[float], clip: Clip) -> float:
        every = max(1, round(self.fps / RATE))
        limit = LIMIT * min(clip.first.image.shape[:2]) / 256 * max(1.0, RATE / self.fps)
        moves = [sum(values[start : start + every]) > limit for start in range(0, len(values) - every + 1, every)]
        needed = max(1, round(SHARE * math.ceil(clip.frames / every)))
        return float(sum(moves) >= needed)
