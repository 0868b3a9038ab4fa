"""Where a run starts: from noise, from a given video with a strength, with a part of it kept by a mask, or from noise
that has the mean and the variance of noised videos."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..errors import UserError
from .denoiser import Denoiser, Estimate
from .samplers import Step
from .schedule import Level


@dataclass(frozen=True, eq=False)
class Source:
    """A given video to start from.

    latents: b c f h w, as the autoencoder encodes them (scaled).
    strength: above 0 to 1, the share of the steps that is run. 1 starts from pure noise; the latents then count only
        where the mask keeps them.
    mask: broadcastable to b c f h w, 0..1: 1 is generated, 0 keeps the latents. None generates everything.
    kept_until: the share of the noise schedule, 0..1, down to which the mask keeps the latents: below the timestep
        `kept_until` times the number of timesteps everything is generated (the second clock of Time-to-Move,
        arXiv:2511.08633). 0 keeps them to the end.

    Raises UserError for values out of range and shapes that do not fit.
    """

    latents: Tensor
    strength: float = 1.0
    mask: Tensor | None = None
    kept_until: float = 0.0

    def __post_init__(self) -> None:
        if not self.latents.is_floating_point() or not bool(self.latents.isfinite().all()):
            raise UserError(
                "The given latents should be finite floating point numbers. Where a video was encoded, check it for "
                "damaged frames and run the autoencoder in fp32."
            )
        if not 0 < self.strength <= 1:
            raise UserError(f"The strength is {self.strength}; it should be above 0 (changes little) and at most 1.")
        check_kept_until(self.kept_until, self.strength)
        if self.mask is None:
            return
        sizes = zip(reversed(self.mask.shape), reversed(self.latents.shape), strict=False)
        if self.mask.ndim > self.latents.ndim or any(size not in (1, wanted) for size, wanted in sizes):
            raise UserError(
                f"The mask has the shape {tuple(self.mask.shape)}, which does not fit latents of "
                f"{tuple(self.latents.shape)} (batch, channels, frames, height, width); each side should be equal or 1."
            )
        if not bool(((self.mask >= 0) & (self.mask <= 1)).all()):
            raise UserError("The mask has values outside 0 (keep) to 1 (generate).")


def check_kept_until(share: float, strength: float) -> None:
    """Raises UserError for a share of the noise schedule that is none, or above that at which a run begins."""
    if not 0 <= share <= strength:
        raise UserError(
            f"The object is kept down to {share:g} of the noise schedule; it should be from 0 (to the end) to the "
            f"strength of the run, {strength:g}."
        )


def released(mask: Tensor, level: Level, kept_until: float, timesteps: int) -> Tensor:
    """The mask at a noise level: itself, and 1 everywhere below the timestep `kept_until` * `timesteps`."""
    return mask if level.timestep >= kept_until * timesteps else torch.ones_like(mask)


@dataclass(frozen=True, eq=False)
class AnalyticInit:
    """Analytic-Init (arXiv:2406.15735): of all normal distributions with a single variance, the one closest to that of
    noised videos.

    latents: the mean of the videos' latents (scaled), b c f h w.
    variance: the trace of their covariance over its size, 0 or more.

    Raises UserError for values out of range.
    """

    latents: Tensor
    variance: float

    def __post_init__(self) -> None:
        if self.latents.ndim != 5 or not self.latents.is_floating_point() or not bool(self.latents.isfinite().all()):
            raise UserError(
                f"The mean of the latents has the shape {tuple(self.latents.shape)} and the type {self.latents.dtype}; "
                "it should be finite floating point numbers with 5 axes: batch, channels, frames, height, width."
            )
        if not (math.isfinite(self.variance) and self.variance >= 0):
            raise UserError(f"The variance of the latents is {self.variance}; it should be a finite number, 0 or more.")

    def check(self, shape: Sequence[int]) -> None:
        """Raises UserError for clips of another shape, b c f h w."""
        if tuple(shape) == tuple(self.latents.shape):
            return
        (_, _, frames, height, width), (_, _, *other) = self.latents.shape, shape
        raise UserError(
            f"The statistics are those of {frames} frames with latents of {width}x{height}, but the clip has "
            f"{other[0]} frames of {other[2]}x{other[1]}. Make a clip of {8 * width}x{8 * height} pixels and "
            f"{frames} frames, or use the file for this size."
        )

    def noised(self, drawn: Tensor, level: Level) -> Tensor:
        """Where sampling starts: mean sqrt(abar) E[x0], variance 1 - abar + abar tr Cov[x0] / d. As published,
        VideoCrafter's rescale is not in it. `drawn` is standard normal noise, b c f h w. Raises UserError where it has
        another shape."""
        self.check(drawn.shape)
        spread = math.sqrt(1 - level.alpha + level.alpha * self.variance)
        return math.sqrt(level.alpha) * self.latents.to(drawn) + spread * drawn


def start(levels: Sequence[Level], drawn: Tensor, source: Source | AnalyticInit | None) -> tuple[Tensor, list[Level]]:
    """-> (x at the first level of the run, the levels that are left to run); `drawn` is standard normal noise."""
    left = remaining(levels, source)
    if isinstance(source, AnalyticInit):
        return source.noised(drawn, left[0]), left
    if source is None or source.strength == 1:
        return drawn, left
    return noised(source.latents.to(drawn), drawn, left[0]), left


def remaining(levels: Sequence[Level], source: Source | AnalyticInit | None) -> list[Level]:
    """The levels that are left to run."""
    if not isinstance(source, Source) or source.strength == 1:
        return list(levels)
    return list(levels[-(max(1, round((len(levels) - 1) * source.strength)) + 1) :])


@dataclass(frozen=True, eq=False)
class Masked:
    """The part of a video that a mask keeps while the rest is generated.

    latents: the video, b c f h w. drawn: the noise of the run, of the same shape; it is always the same noise that
    brings the kept part to a level, so that the network sees one consistent video.
    mask: gives the mask at a noise level, broadcastable to b c f h w: 1 is generated, 0 is kept.
    """

    latents: Tensor
    drawn: Tensor
    mask: Callable[[Level], Tensor]

    def begin(self, x: Tensor, level: Level) -> Tensor:
        """x with the kept part at this noise level."""
        return blend(x, noised(self.latents, self.drawn, level), self.mask(level))

    def denoiser(self, denoise: Denoiser) -> Denoiser:
        """A denoiser whose estimate of the kept part is exact, and whose network sees that part at each level."""

        def denoise_unknown(x: Tensor, level: Level) -> Estimate:
            mask = self.mask(level)
            x0, eps = denoise(blend(x, noised(self.latents, self.drawn, level), mask), level)
            return Estimate(blend(x0, self.latents, mask), blend(eps, self.drawn, mask))

        return denoise_unknown

    def end(self, x: Tensor, level: Level) -> Tensor:
        """The finished x with the kept part exact; `level` is that of the last step's start."""
        return blend(x, self.latents, self.mask(level))


def steps_of(
    sampler: Callable[[Denoiser, Tensor], Iterator[Step]],
    denoise: Denoiser,
    x: Tensor,
    levels: Sequence[Level],
    masked: Masked | None,
    *,
    finished: bool = True,
) -> Iterator[Step]:
    """The steps of a sampler from x, b c f h w at levels[0]; `masked` keeps a part of a video meanwhile. A run that is
    not `finished` ends at a level that has noise left, and is continued by another."""
    if masked is None:
        yield from sampler(denoise, x)
        return
    for step in sampler(masked.denoiser(denoise), masked.begin(x, levels[0])):
        if finished and step.index == step.total - 1:
            step = replace(step, x=masked.end(step.x, levels[step.index]))
        yield step


def noised(latents: Tensor, drawn: Tensor, level: Level) -> Tensor:
    """The latents at a noise level, with this noise."""
    return level.signal * latents + level.noise * drawn


def blend(new: Tensor, known: Tensor, mask: Tensor) -> Tensor:
    """`new` where the mask is 1, `known` where it is 0, exactly."""
    return mask * new + (1 - mask) * known
