"""Clips of any length at constant memory: FIFO-Diffusion (arXiv:2405.11473).

A queue holds frames of rising noise. In each turn every frame is denoised by one level, the first leaves it clean, and
noise is added at the end. The model is called for windows of the queue, whose frames have different levels, with
lookahead: windows overlap by half, and only their noisier half is kept, which has cleaner frames before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import UserError
from .denoiser import Estimate, estimated, per_frame
from .guidance import Conditionings, Guidance, Model, guide
from .noise import NoiseSource
from .samplers import posterior_noise
from .schedule import Level, NoiseSchedule


@dataclass(frozen=True, kw_only=True)
class Queue:
    """The published settings. size: frames of one model call, an even number. partitions: the length of the queue in
    multiples of size, which is also the number of noise levels. eta: 0..1, the fresh noise of each step."""

    size: int = 16
    partitions: int = 4
    eta: float = 1.0

    def __post_init__(self) -> None:
        if self.size < 2 or self.size % 2 or self.partitions < 1 or not 0 <= self.eta <= 1:
            raise UserError(
                f"A queue of {self.partitions} parts of {self.size} frames with eta {self.eta} was asked for; the "
                "parts should have an even number of frames, 2 or more, there should be 1 or more, and eta from 0 to 1."
            )

    @property
    def length(self) -> int:
        """Frames in the queue, which is also the number of noise levels."""
        return self.size * self.partitions

    @property
    def early(self) -> int:
        """Frames that leave the queue before the first frame of the video: they only fill it."""
        return self.length - self.size

    def levels(self, schedule: NoiseSchedule) -> list[Level]:
        """The levels that a frame passes, rising: where it ends, then that of each place in the queue."""
        return schedule.levels(schedule.trailing_timesteps(self.length), "reference")[::-1]


Estimator = Callable[[Tensor, Sequence[Level], Sequence[int]], Estimate]
"""(x: b c f h w, the level of each frame, the number of each in the video) -> the clean latents and the noise in x."""


def estimator(
    model: Model,
    schedule: NoiseSchedule,
    conditionings: Conditionings,
    *,
    frames: int,
    guidance: Guidance,
    together: bool = False,
) -> Estimator:
    """A guided model, for a video of `frames` frames.

    The conditionings may hold a text for each frame; places before the first and after the last take the nearest.
    together: see `guidance.guide`. Raises UserError for conditions that a queue cannot give to single frames.
    """
    given = {name: one for name, one in conditionings.items() if one is not None}
    if any(one.concat is not None or one.motion is not None for one in given.values()):
        raise UserError(
            "FIFO does not support models that continue an image or have motion guidance: use another long-video "
            "method (freenoise, windows, continue)."
        )

    def estimate(x: Tensor, levels: Sequence[Level], shown: Sequence[int]) -> Estimate:
        of_these = {name: one.of_frames(shown, frames) for name, one in given.items()}
        guided = guide(model, of_these, guidance, together=together)
        timestep = x.new_tensor([[level.timestep for level in levels]]).expand(len(x), -1).float()
        return estimated(x, guided(x, timestep), levels, schedule.prediction)

    return estimate


def run(
    estimate: Estimator, levels: Sequence[Level], base: Tensor, frames: int, noise: NoiseSource, queue: Queue
) -> Iterator[Tensor]:
    """The latents b c h w of `frames` frames, one after the other, each as soon as it is clean.

    levels: those of `Queue.levels`. base: the clean latents of a clip of `queue.size` frames, b c f h w, with which the
    video begins. Raises UserError for a base of another length.
    """
    if base.shape[2] != queue.size:
        raise UserError(f"FIFO begins with a clip of {queue.size} frames; it was given one of {base.shape[2]}.")
    return _turns(_Line(estimate, levels, queue, frames), base, frames, noise)


@torch.no_grad()
def _turns(line: _Line, base: Tensor, frames: int, noise: NoiseSource) -> Iterator[Tensor]:
    queue, levels = line.queue, line.levels
    source = [max(0, place - queue.early) for place in range(-queue.size // 2, queue.length)]
    drawn = noise.draw((*base.shape[:2], len(source), *base.shape[3:]), base.device, base.dtype)
    signal = per_frame(base, [levels[i].signal for i in line.depth])
    x = signal * base[:, :, source] + per_frame(base, [levels[i].noise for i in line.depth]) * drawn
    for turn in range(queue.early + frames):
        x = line.step(x, turn - queue.early, noise)
        if turn >= queue.early:
            yield x[:, :, queue.size // 2].clone()
        fresh = noise.draw((*x.shape[:2], 1, *x.shape[3:]), x.device, x.dtype)
        x = torch.cat([x[:, :, 1:], fresh], dim=2)


class _Line:
    """The places of the queue: half a window of frames that have left it, then `length` places of rising noise."""

    def __init__(self, estimate: Estimator, levels: Sequence[Level], queue: Queue, frames: int) -> None:
        self.estimate, self.levels, self.queue, self.frames = estimate, levels, queue, frames
        self.depth = [max(0, place + 1) for place in range(-queue.size // 2, queue.length)]

    def step(self, x: Tensor, first: int, noise: NoiseSource) -> Tensor:
        """Denoises every place of the queue by one level; `first` is the frame in the first place."""
        half = self.queue.size // 2
        out = x.clone()
        for start in range(0, self.queue.length, half):
            places = range(start, start + self.queue.size)
            shown = [min(max(first + place - half, 0), self.frames - 1) for place in places]
            depth = [self.depth[place] for place in places]
            x0, eps = self.estimate(x[:, :, list(places)], [self.levels[i] for i in depth], shown)
            out[:, :, start + half : start + self.queue.size] = down(
                Estimate(x0[:, :, half:], eps[:, :, half:]),
                [self.levels[i] for i in depth[half:]],
                [self.levels[i - 1] for i in depth[half:]],
                noise,
                self.queue.eta,
            )
        return out


def down(estimate: Estimate, here: Sequence[Level], there: Sequence[Level], noise: NoiseSource, eta: float) -> Tensor:
    """A DDIM step (arXiv:2010.02502, equation 12) of b c f h w, whose frames have different levels; the rescale is in
    the signal of each, so frames keep their contrast on their way through the queue."""
    x0, eps = estimate
    sigma = per_frame(x0, [eta * posterior_noise(a, b) for a, b in zip(here, there, strict=True)])
    alpha = per_frame(x0, [level.alpha for level in there])
    direction = (1 - alpha - sigma**2).clamp_min(0).sqrt() * eps
    signal, drawn = per_frame(x0, [level.signal for level in there]), noise.draw(x0.shape, x0.device, x0.dtype)
    return signal * x0 + direction + sigma * drawn
