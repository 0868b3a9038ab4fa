"""Warping error: what motion does not explain."""

from __future__ import annotations

from .metric import Metric
from .moment import Moment


class WarpingError(Metric):
    """The mean squared difference of neighboring frames after motion compensation (Lai et al., arXiv:1808.00449)."""

    name = "warping_error"
    help = "the mean squared difference of neighboring frames after motion compensation, where both show the same"
    better = "lower"

    def at(self, moment: Moment) -> float | None:
        return moment.flow.error
