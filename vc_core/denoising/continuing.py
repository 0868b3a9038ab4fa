"""Clip after clip: each continues the last frames of the one before, in the memory of one.

Two things join the clips. Their noise is that of FreeNoise (arXiv:2310.15169), continued: the shared frames keep the
noise that they started from, and the others reuse that of the window before in another order. And the shared frames are
held less and less, the first exactly, the last hardly, so that one clip blends into the next over all of them instead
of at an edge.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import UserError
from .noise import NoiseSource
from .start import Source

GROUP = 4
"""Frames whose noise is reused in another order, as by FreeNoise's authors."""
LEAST_GAIN, MOST_GAIN = 0.8, 1.25
"""How far the contrast of a clip is corrected: more than that is change that the prompt asks for."""


@dataclass(frozen=True, eq=False)
class Segment:
    """One clip of many. number: from 0. first: the place of its first frame in the video. noise: b c f h w. source:
    what it starts from; None is noise alone."""

    number: int
    first: int
    noise: Tensor
    source: Source | None


@dataclass(frozen=True, kw_only=True)
class Continuation:
    """frames: of the whole video. overlap: frames that two clips share, 1 to one less than a clip.
    correct: 0..1, how much drift of brightness and colour is corrected. steps: of the run for a clip."""

    frames: int
    overlap: int = 8
    correct: float = 1.0
    steps: int = 50

    def count(self, window: int) -> int:
        """The number of clips of `window` frames in the video."""
        return 1 + max(0, -(-(self.frames - window) // (window - self.overlap)))


def continued(
    make: Callable[[Segment], Tensor],
    noise: Tensor,
    source: NoiseSource,
    plan: Continuation,
    scene: Callable[[int], int] = lambda number: 0,
) -> Iterator[Tensor]:
    """Latents b c f h w, part after part, each returned when nothing changes it any more.

    make: samples a clip. noise: that of the first clip, b c f h w, whose number of frames is that of every clip.
    source: gives the orders in which noise is reused. scene: the number of the prompt of a clip; brightness and colour
    are corrected to those of the first clip with the same prompt.
    """
    window, overlap = noise.shape[2], plan.overlap
    if not 1 <= overlap < window:
        raise UserError(
            f"An overlap of {overlap} frames was asked for; it should be from 1 to {window - 1}, so that a clip of "
            f"{window} frames adds new ones."
        )
    held = like = make(Segment(0, 0, noise, None))
    added, shows = window - overlap, scene(0)
    for number in range(1, plan.count(window)):
        yield held[:, :, :added]
        noise = following(noise, added, source)
        held = make(Segment(number, number * added, noise, following_start(held, overlap, plan.steps)))
        if scene(number) == shows:
            held = undrifted(held, like, plan.correct, overlap)
        else:
            shows, like = scene(number), held
    yield held[:, :, : plan.frames - (plan.count(window) - 1) * added]


def following(noise: Tensor, added: int, source: NoiseSource) -> Tensor:
    """The noise of the clip that begins `added` frames later: the frames of noise that it leaves behind follow the
    shared ones, in another order inside each group. So all clips start from the same frames of noise, which keeps the
    scene; a frame that came twice, in place of another, would move it.
    """
    group = min(GROUP, noise.shape[2])
    order: list[int] = []
    for first in range(0, added, group):
        drawn = source.draw((group,), "cpu", noise.dtype)[: added - first]
        order += (first + drawn.argsort()).tolist()
    return torch.cat([noise[:, :, added:], noise[:, :, order]], dim=2)


def following_start(clip: Tensor, overlap: int, steps: int) -> Source:
    """A start from noise whose first frames are the last ones of `clip`, held less and less; the others are free.

    Each step pulls a frame back by its mask, so over all steps the free share is raised to the power of their number.
    The root undoes that: a frame's place in the overlap says what is free over all `steps`, however many there are.
    Without it all but the last frames would be nearly fixed, and clips would meet at an edge after all.
    """
    window = clip.shape[2]
    latents = torch.cat([clip[:, :, -overlap:], torch.zeros_like(clip[:, :, overlap:])], dim=2)
    mask = torch.ones(window, 1, 1)
    mask[:overlap] = ((torch.arange(overlap) / overlap) ** (1 / steps))[:, None, None]
    return Source(latents, mask=mask)


def undrifted(clip: Tensor, like: Tensor, amount: float, overlap: int = 0) -> Tensor:
    """Latents b c f h w corrected to the mean and the contrast of the channels of `like`.

    The share of the correction rises from 0 in the first `overlap` frames to `amount` in the last: drift grows from
    frame to frame, and the first new frame must match the last old one."""
    axes = (2, 3, 4)
    new = clip[:, :, overlap:]
    gain = like.std(axes, keepdim=True) / new.std(axes, keepdim=True).clamp_min(1e-6)
    gain = gain.clamp(LEAST_GAIN, MOST_GAIN)
    there = (clip - new.mean(axes, keepdim=True)) * gain + like.mean(axes, keepdim=True)
    place = torch.arange(1 - overlap, clip.shape[2] - overlap + 1, device=clip.device, dtype=clip.dtype)
    share = amount * place.clamp_min(0) / new.shape[2]
    return torch.lerp(clip, there, share[:, None, None])
