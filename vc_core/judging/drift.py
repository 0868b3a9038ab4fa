"""Drift: how far the mean color and brightness are from those of the first frame."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .metric import Clip, Metric
from .moment import Moment


class ColorDrift(Metric):
    """The distance of the mean colors of the last and the first frame."""

    name = "color_drift"
    help = "the distance between the mean colors of the first and the last frame, in RGB with 0..1 each"
    high = round(math.sqrt(3), 4)
    better = "lower"

    def at(self, moment: Moment) -> float:
        return float((moment.frame.color - moment.first.color).norm())

    def total(self, values: Sequence[float], clip: Clip) -> float:
        return values[-1]


class BrightnessDrift(Metric):
    """The difference of the mean brightness of the last and the first frame."""

    name = "brightness_drift"
    help = "the difference between the mean brightness of the first and the last frame"
    better = "lower"

    def at(self, moment: Moment) -> float:
        return abs(float(moment.frame.color.mean() - moment.first.color.mean()))

    def total(self, values: Sequence[float], clip: Clip) -> float:
        return values[-1]
