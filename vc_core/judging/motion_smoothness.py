"""Motion smoothness: how well every second frame is interpolated from those around it."""

from __future__ import annotations

from .flow import Flow
from .metric import Metric
from .moment import Frame, Moment, difference


class MotionSmoothness(Metric):
    """1 - MAE of each frame of odd index against the image halfway between its neighbors."""

    name = "motion_smoothness"
    help = "1 minus the mean absolute difference of every second frame from the one interpolated between its neighbors"
    better = "higher"
    reads = 3
    vbench = "same formula; interpolation by classical optical flow instead of AMT-S: not comparable"

    def at(self, moment: Moment) -> float | None:
        if moment.index % 2:
            return None
        middle = Flow.between(moment.earlier.image, moment.frame.image).middle()
        return 1 - difference(Frame(middle), moment.before)
