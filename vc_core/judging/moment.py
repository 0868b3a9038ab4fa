"""What a metric sees of a video at one moment: the last frames, the first one, and what is known about them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from torch import Tensor

from .features import Features, background_features, subject_features
from .flow import Flow


class Frame:
    """A frame h w 3 in 0..1. What is computed of it is kept as long as it is."""

    def __init__(self, image: Tensor) -> None:
        self.image = image

    @cached_property
    def color(self) -> Tensor:
        """The mean color, 3."""
        return self.image.mean(dim=(0, 1))

    @cached_property
    def subject(self) -> Features:
        """Of what differs from the borders of the image."""
        return subject_features(self.image)

    @cached_property
    def background(self) -> Features:
        """Of the rest."""
        return background_features(self.image)


class Moment:
    """A frame of a video and at most the two before it. first: the first frame of the video. index: that of the
    frame."""

    def __init__(self, recent: Sequence[Frame], first: Frame, index: int) -> None:
        self.recent, self.first, self.index = tuple(recent), first, index

    @property
    def frame(self) -> Frame:
        return self.recent[-1]

    @property
    def before(self) -> Frame:
        """The frame before."""
        return self.recent[-2]

    @property
    def earlier(self) -> Frame:
        """The frame before that."""
        return self.recent[-3]

    @cached_property
    def step(self) -> float:
        """The mean absolute difference from the frame before, 0..1."""
        return difference(self.before, self.frame)

    @cached_property
    def flow(self) -> Flow:
        """The motion since the frame before."""
        return Flow.between(self.before.image, self.frame.image)


def difference(one: Frame, other: Frame) -> float:
    """The mean absolute difference of two frames, 0..1."""
    return float((one.image - other.image).abs().mean())
