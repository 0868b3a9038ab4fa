"""Motion speed: how fast the fastest parts move."""

from __future__ import annotations

from .metric import Metric
from .moment import Moment


class MotionSpeed(Metric):
    """The mean speed of the fastest 5 % of the pixels."""

    name = "motion_speed"
    help = "the mean speed of the fastest 5 % of the pixels, which dynamic_degree compares with a limit"
    high = None
    unit = "pixels per frame"
    better = "neither"

    def at(self, moment: Moment) -> float:
        return moment.flow.speed
