"""Clip after clip: each goes on from the last frames of the one before, at the memory of one.

Two things make the clips join. The noise of a clip is that of FreeNoise (arXiv:2310.15169) going on: the shared frames
have the noise that they began from, the others that of a window before in another order. And the shared frames are held
less and less, the first exactly, the last hardly, so that one clip turns into the next over all of them instead of at
an edge.
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
"""Frames whose noise is used again in another order, as FreeNoise's authors take it."""
LEAST_GAIN, MOST_GAIN = 0.8, 1.25
"""How far the contrast of a clip may be corrected: what is beyond is change that the prompt wants."""


@dataclass(frozen=True, eq=False)
class Segment:
    """One clip of many: its number from 0, the place of its first frame in the video, its noise b c f h w, and where it
    starts; None is from noise alone."""

    number: int
    first: int
    noise: Tensor
    source: Source | None


@dataclass(frozen=True, kw_only=True)
class Continuation:
    """frames: of the whole video. overlap: frames that two clips share, 1 up to one less than a clip.
    correct: 0..1, how much of the drift of brightness and colour is taken back. steps: of the run for a clip."""

    frames: int
    overlap: int = 8
    correct: float = 1.0
    steps: int = 50

    def count(self, window: int) -> int:
        """How many clips of `window` frames make the video."""
        return 1 + max(0, -(-(self.frames - window) // (window - self.overlap)))


def continued(
    make: Callable[[Segment], Tensor],
    noise: Tensor,
    source: NoiseSource,
    plan: Continuation,
    scene: Callable[[int], int] = lambda number: 0,
) -> Iterator[Tensor]:
    """Latents b c f h w of some frames after the other, each handed out when nothing will change it any more.

    make: samples a clip. noise: that of the first clip, b c f h w, whose number of frames is that of every clip.
    source: gives the orders in which noise is used again. scene: the number of what a clip shows; brightness and colour
    are held to those of the first clip that shows the same.
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
    """The noise of the clip that begins `added` frames later: behind the shared frames come those that are left behind,
    in another order inside each group. So all clips begin from the same frames of noise, which is what keeps the scene:
    one that came twice, for another that was lost, would move it.
    """
    group = min(GROUP, noise.shape[2])
    order: list[int] = []
    for first in range(0, added, group):
        drawn = source.draw((group,), "cpu", noise.dtype)[: added - first]
        order += (first + drawn.argsort()).tolist()
    return torch.cat([noise[:, :, added:], noise[:, :, order]], dim=2)


def following_start(clip: Tensor, overlap: int, steps: int) -> Source:
    """A start from noise whose first frames are the last ones of `clip`, held less and less; the others are free.

    Each step draws a frame back by its mask, so what that leaves free is multiplied with itself. The root undoes it: a
    frame's place in the overlap says what is left over all `steps`, however many they are. Without it all but the last
    frames would be as good as fixed, and clips would meet at an edge after all.
    """
    window = clip.shape[2]
    latents = torch.cat([clip[:, :, -overlap:], torch.zeros_like(clip[:, :, overlap:])], dim=2)
    mask = torch.ones(window, 1, 1)
    mask[:overlap] = ((torch.arange(overlap) / overlap) ** (1 / steps))[:, None, None]
    return Source(latents, mask=mask)


def undrifted(clip: Tensor, like: Tensor, amount: float, overlap: int = 0) -> Tensor:
    """Latents b c f h w brought back to the mean and the contrast of the channels of `like`.

    The share rises from nothing in the first `overlap` frames to `amount` in the last: drift grows from frame to frame,
    and the first new frame must stay beside the last old one."""
    axes = (2, 3, 4)
    new = clip[:, :, overlap:]
    gain = like.std(axes, keepdim=True) / new.std(axes, keepdim=True).clamp_min(1e-6)
    gain = gain.clamp(LEAST_GAIN, MOST_GAIN)
    there = (clip - new.mean(axes, keepdim=True)) * gain + like.mean(axes, keepdim=True)
    place = torch.arange(1 - overlap, clip.shape[2] - overlap + 1, device=clip.device, dtype=clip.dtype)
    share = amount * place.clamp_min(0) / new.shape[2]
    return torch.lerp(clip, there, share[:, None, None])
