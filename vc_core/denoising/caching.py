"""Fewer operations for nearly the same video: what changes smoothly from step to step is extrapolated instead of
computed.

A step cache (arXiv:2312.00858) runs the whole network in some steps only; in the others its outermost blocks run, on
deep features extrapolated from the last two whole passes. A guidance cache (arXiv:2410.19355) skips the pass of the
negative prompt in most of the later steps and extrapolates its difference to the positive one. Both extrapolate along a
straight line over the steps: on a small trained model that halves the error of reusing the last value, which the papers
do, or better.

Between neighbouring steps of a run the deep features change by about the same amount from its beginning to its end, so
the whole passes are spread evenly, at a share of the run: twice the steps skip twice as many.

Both know a step by its index, so they work with every sampler; passes are distinguished by a key.
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
    warmup: the part at the beginning in which everything is computed.
    """

    every: float
    warmup: float = 0.0


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


def step_index(starts: Sequence[float], level: float) -> int:
    """The index, from 0, of the step that an evaluation at `level` belongs to; the run's steps begin at the falling
    levels `starts` (timesteps or sigmas)."""
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
        """Adds the value computed in a step; it replaces an earlier one of the same step."""
        if step == self.last:
            self.values.pop()
        self.values.append((step, value))

    def at(self, step: int) -> Tensor:
        """The value extrapolated to a step, along the straight line through the last two and at most as far as they are
        apart; it needs one at least."""
        now, value = self.values[-1]
        if len(self.values) == 1 or step == now:
            return value
        before, older = self.values[0]
        return value + (value - older) * min(1.0, (step - now) / (now - before))


class Cache:
    """What was computed in a run of `steps` steps, by a key for each pass: everything at its beginning and in its last
    step, and between them as often as `saving` says. An earlier step than the last one begins a new run."""

    def __init__(self, steps: int, saving: Saving) -> None:
        self.steps, self.saving = steps, saving
        self.apart = max(1, round(saving.every * steps))
        self.trends: dict[Hashable, Trend] = {}

    def get(self, key: Hashable, step: int) -> Tensor | None:
        """What is used in this step instead of a computation; None asks for the computation, and for `add`."""
        trend = self.trends.get(key)
        if trend is None or step < trend.last or step - trend.last >= self.apart:
            return None
        always = step < self.saving.warmup * self.steps or step >= self.steps - 1
        return None if always else trend.at(step)

    def add(self, key: Hashable, step: int, value: Tensor) -> None:
        """Adds what was computed in this step. Values that are too old to be used are dropped, so that windows which
        begin elsewhere in each step do not fill the memory."""
        trend = self.trends.get(key)
        if trend is None or step < trend.last:
            trend = self.trends[key] = Trend()
        trend.add(step, value)
        self.trends = {name: one for name, one in self.trends.items() if step - one.last <= self.apart}


def step_cache(steps: int, quality: str) -> Cache:
    """For the deep features of a run's passes. Raises UserError for unknown qualities."""
    return Cache(steps, STEP_SAVINGS[check_quality(quality)])


def guidance_cache(steps: int, quality: str) -> Cache:
    """For the differences of a run's other predictions to the positive one. Raises UserError for unknown qualities."""
    return Cache(steps, GUIDANCE_SAVINGS[check_quality(quality)])
