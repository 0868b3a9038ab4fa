"""Clips longer than a model was trained on: FreeNoise (arXiv:2310.15169), noise rescheduling and motion injection.

The frames of the first window get fresh noise. Every later frame reuses that of an earlier one, a window before it, in
an order shuffled inside each group of `stride` frames: distant frames stay related, and still no two groups are alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from torch import Tensor

from ..conditions import SINGLE, Conditioning, Evaluation
from ..specs import Windows
from .guidance import Model
from .noise import NoiseSource

PLAIN_STEPS = range(5, 16)
"""The steps, counted from 0, in which the text of every frame is used in the whole network."""


def rescheduled(noise: Tensor, windows: Windows, source: NoiseSource) -> Tensor:
    """Noise b c f h w for a long clip, rescheduled from its first frames. A row of numbers is drawn for each group of
    frames and gives its order, the same for all samples. A clip of one window is returned as it is, without a draw."""
    groups = range(windows.size, noise.shape[2], windows.stride)
    orders = (source.draw((windows.stride,), "cpu", noise.dtype).argsort().tolist() for _ in groups)
    return reordered(noise, windows, orders)


def reordered(noise: Tensor, windows: Windows, orders: Iterable[Sequence[int]]) -> Tensor:
    """As `rescheduled`, with the order inside each group given: 0 .. stride - 1, shuffled."""
    noise = noise.clone()
    frames = noise.shape[2]
    for first, order in zip(range(windows.size, frames, windows.stride), orders, strict=True):
        count = min(windows.stride, frames - first)
        noise[:, :, first : first + count] = noise[:, :, [first - windows.size + i for i in order[:count]]]
    return noise


def with_motion_injection(model: Model) -> Model:
    """A model that uses a conditioning's `early_text` in the published steps of a run alone: the first ones, which
    make the layout, and the late ones; between them frames move as their own texts say."""

    def predict(x: Tensor, timestep: Tensor, conditioning: Conditioning, evaluation: Evaluation = SINGLE, /) -> Tensor:
        if conditioning.early_text is not None and evaluation.step in PLAIN_STEPS:
            conditioning = replace(conditioning, early_text=None)
        return model(x, timestep, conditioning, evaluation)

    return predict
