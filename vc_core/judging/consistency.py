"""Subject and background consistency: how like all frames are to the first one and to the one before."""

from __future__ import annotations

from .metric import Metric
from .moment import Moment

OTHER_FEATURES = "same formula; histograms instead of {}: not comparable"


class SubjectConsistency(Metric):
    """The mean similarity of the subject's features with those in the first frame and in the one before."""

    name = "subject_consistency"
    help = (
        "the similarity of the subject with that of the first frame and of the one before, by the colors and edges of "
        "what differs from the borders of the image"
    )
    better = "higher"
    vbench = OTHER_FEATURES.format("DINO's features")

    def at(self, moment: Moment) -> float:
        now = moment.frame.subject
        return (now.similarity(moment.before.subject) + now.similarity(moment.first.subject)) / 2


class BackgroundConsistency(Metric):
    """The mean similarity of the background's features with those in the first frame and in the one before."""

    name = "background_consistency"
    help = (
        "the similarity of the background with that of the first frame and of the one before, by the colors and edges "
        "of what is like the borders of the image"
    )
    better = "higher"
    vbench = OTHER_FEATURES.format("CLIP's features")

    def at(self, moment: Moment) -> float:
        now = moment.frame.background
        return (now.similarity(moment.before.background) + now.similarity(moment.first.background)) / 2
