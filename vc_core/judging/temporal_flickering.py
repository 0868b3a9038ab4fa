"""Temporal flickering: how equal neighboring frames are."""

from __future__ import annotations

from .metric import Metric
from .moment import Moment


class TemporalFlickering(Metric):
    """(255 - MAE) / 255 of neighboring frames in 8 bits, which is 1 - MAE of values in 0..1."""

    name = "temporal_flickering"
    help = "1 minus the mean absolute difference of neighboring frames; motion lowers it as flicker does"
    better = "higher"
    vbench = "same formula; VBench applies it to videos of still scenes alone"

    def at(self, moment: Moment) -> float:
        return 1 - moment.step
