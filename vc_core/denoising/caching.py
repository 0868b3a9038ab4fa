"""Fewer operations for nearly the same video: what changes smoothly from step to step is continued instead of computed.

A step cache (arXiv:2312.00858) runs the whole network in some steps only; in the others its outermost blocks run, on
deep features continued from the last two whole passes. A guidance cache (arXiv:2410.19355) leaves the negative prompt's
pass out in most of the later steps and continues its difference to the positive one. Both continue along a straight
line over the steps: on a small trained model that halves the error of the last value, which the papers take, or better.

Between neighbouring steps of a run the deep features change by about the same amount from its beginning to its end, so
the whole passes are spread evenly, at a share of the run: twice the steps leave out twice as many.

Both know a step by its number in the run, so they go with every sampler; passes are told apart by a key.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor

from ..errors import UserError

Quality = Literal["high", "balanced", "fast"]
QUALITIES: tuple[Quality, ...] = get_args(Quality)


@dataclass(frozen=True)
class Saving:
    """What a quality means, in shares of a run.

    every: the distance from one computed pass to the next.
    alone: the part at the beginning in which everything is computed.
    """

    every: float
    alone: float = 0.0


STEP_SAVINGS: dict[Quality, Saving] = {"high": Saving(0.04), "balanced": Saving(0.08), "fast": Saving(0.12)}
GUIDANCE_SAVINGS: dict[Quality, Saving] = {
    "high": Saving(0.08, 0.2),
    "balanced": Saving(0.16, 0.2),
    "fast": Saving(0.16, 0.1),
}
SHALLOW = 1
"""Input blocks, and output blocks, that run in every step (`network.unet.Deep`): a tenth of the published networks'
operations."""


def check_quality(quality: str) -> Quality:
    """The quality of that name. Raises UserError for others."""
    if quality not in QUALITIES:
        raise UserError(f"There is no cache quality {quality!r}; choose one of {', '.join(QUALITIES)}.")
    return quality


def step_number(starts: Sequence[float], level: float) -> int:
    """The number, from 0, of the step in which a call at `level` is, in a run whose steps begin at the falling levels
    `starts` (timesteps or sigmas)."""
    return max(0, sum(1 for start in starts if start >= level * (1 - 1e-5)) - 1)


class Trend:
    """A tensor that changes smoothly over the steps of a run, by its last two computed values."""

    def __init__(self) -> None:
        self.values: deque[tuple[int, Tensor]] = deque(maxlen=2)

    @property
    def last(self) -> int:
        """The step of the newest value, -1 without any."""
        return self.values[-1][0] if self.values else -1

    def add(self, step: int, value: Tensor) -> None:
        """The value computed in a step, in place of another one of the same step."""
        if step == self.last:
            self.values.pop()
        self.values.append((step, value))

    def at(self, step: int) -> Tensor:
        """The value continued to a step, in a straight line through the last two and by their distance at the most; it
        needs one at least."""
        now, value = self.values[-1]
        if len(self.values) == 1 or step == now:
            return value
        before, older = self.values[0]
        return value + (value - older) * min(1.0, (step - now) / (now - before))


class Cache:
    """What was computed in a run, by a key for each pass: everything at its beginning and in its last step, and between
    them as often as `saving` says. A call of an earlier step than the last begins the run anew."""

    def __init__(self, starts: Sequence[float], saving: Saving) -> None:
        """`starts`: the falling levels, timesteps or sigmas, at which the steps of the run begin."""
        self.starts, self.saving = list(starts), saving
        self.apart = max(1, round(saving.every * len(self.starts)))
        self.trends: dict[Hashable, Trend] = {}

    def get(self, key: Hashable, level: float) -> Tensor | None:
        """What stands for a computation at this level; None asks for it, and for `add`."""
        step, trend = step_number(self.starts, level), self.trends.get(key)
        if trend is None or step < trend.last or step - trend.last >= self.apart:
            return None
        always = step < self.saving.alone * len(self.starts) or step >= len(self.starts) - 1
        return None if always else trend.at(step)

    def add(self, key: Hashable, level: float, value: Tensor) -> None:
        """What was computed at this level. What is too old to stand for anything is let go, so that windows which
        begin elsewhere in each step do not fill the memory."""
        step, trend = step_number(self.starts, level), self.trends.get(key)
        if trend is None or step < trend.last:
            trend = self.trends[key] = Trend()
        trend.add(step, value)
        self.trends = {name: one for name, one in self.trends.items() if step - one.last <= self.apart}


def step_cache(starts: Sequence[float], quality: str) -> Cache:
    """For the deep features of a run's passes."""
    return Cache(starts, STEP_SAVINGS[check_quality(quality)])


class GuidanceCache:
    """For the differences of a run's other predictions to the positive one."""

    def __init__(self, starts: Sequence[float], quality: str) -> None:
        self.cache = Cache(starts, GUIDANCE_SAVINGS[check_quality(quality)])

    def difference(self, key: Hashable, level: Tensor) -> Tensor | None:
        """See `guidance.Continued`; in any other place `level` is of the kind of `starts`."""
        return self.cache.get(key, float(level.flatten()[0]))

    def add(self, key: Hashable, level: Tensor, difference: Tensor) -> None:
        """See `guidance.Continued`."""
        self.cache.add(key, float(level.flatten()[0]), difference)
