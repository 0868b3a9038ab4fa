"""Where a run starts: from noise, from a given video with a strength, or with a part of it held still by a mask; or
from noise that has the mean and the spread of noised videos."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ..errors import UserError
from .denoiser import Denoiser, Estimate
from .schedule import Level


@dataclass(frozen=True, eq=False)
class Source:
    """A given video to start from.

    latents: b c f h w, as the autoencoder encodes them (scaled).
    strength: above 0 to 1, the share of the steps that is run. 1 starts from pure noise; the latents then count only
        where the mask keeps them.
    mask: broadcastable to b c f h w, 0..1: 1 is made anew, 0 keeps the latents. None makes all anew.

    Raises UserError for values out of range and shapes that do not fit.
    """

    latents: Tensor
    strength: float = 1.0
    mask: Tensor | None = None

    def __post_init__(self) -> None:
        if not self.latents.is_floating_point() or not bool(self.latents.isfinite().all()):
            raise UserError(
                "The given latents should be finite floating point numbers. Where a video was encoded, check it for "
                "damaged frames and run the autoencoder in fp32."
            )
        if not 0 < self.strength <= 1:
            raise UserError(f"The strength is {self.strength}; it should be above 0 (changes little) and at most 1.")
        if self.mask is None:
            return
        sizes = zip(reversed(self.mask.shape), reversed(self.latents.shape), strict=False)
        if self.mask.ndim > self.latents.ndim or any(size not in (1, wanted) for size, wanted in sizes):
            raise UserError(
                f"The mask has the shape {tuple(self.mask.shape)}, which does not fit latents of "
                f"{tuple(self.latents.shape)} (batch, channels, frames, height, width); each side should be equal or 1."
            )
        if not bool(((self.mask >= 0) & (self.mask <= 1)).all()):
            raise UserError("The mask has values outside 0 (keep) to 1 (make anew).")


@dataclass(frozen=True, eq=False)
class AnalyticInit:
    """Analytic-Init (arXiv:2406.15735): of all normal distributions with one variance, the nearest to noised videos.

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
            f"{frames} frames, or take the file for this size."
        )

    def noised(self, drawn: Tensor, level: Level) -> Tensor:
        """Where sampling starts: mean sqrt(abar) E[x0], variance 1 - abar + abar tr Cov[x0] / d. As published it leaves
        VideoCrafter's rescale out. `drawn` is standard normal noise. Raises UserError where it has another shape."""
        self.check(drawn.shape)
        spread = math.sqrt(1 - level.alpha + level.alpha * self.variance)
        return math.sqrt(level.alpha) * self.latents.to(drawn) + spread * drawn


def start(levels: Sequence[Level], drawn: Tensor, source: Source | AnalyticInit | None) -> tuple[Tensor, list[Level]]:
    """-> (x at the first level of the run, the levels that are left to run); `drawn` is standard normal noise."""
    if isinstance(source, AnalyticInit):
        return source.noised(drawn, levels[0]), list(levels)
    if source is None or source.strength == 1:
        return drawn, list(levels)
    run = max(1, round((len(levels) - 1) * source.strength))
    left = list(levels[-(run + 1) :])
    return noised(source.latents.to(drawn), drawn, left[0]), left


def keep(denoise: Denoiser, known: Tensor, mask: Tensor, drawn: Tensor) -> Denoiser:
    """A denoiser that knows the answer where the mask is 0.

    Before every call the known part is put back at the call's noise level, always with the same noise `drawn`, so that
    the network sees one consistent video; afterwards the known part replaces the network's estimate.
    """

    def denoise_unknown(x: Tensor, level: Level) -> Estimate:
        x0, eps = denoise(blend(x, noised(known, drawn, level), mask), level)
        return Estimate(blend(x0, known, mask), blend(eps, drawn, mask))

    return denoise_unknown


def noised(latents: Tensor, drawn: Tensor, level: Level) -> Tensor:
    """The latents at a noise level, with this noise."""
    return level.signal * latents + level.noise * drawn


def blend(new: Tensor, known: Tensor, mask: Tensor) -> Tensor:
    """`new` where the mask is 1, `known` where it is 0, exactly."""
    return mask * new + (1 - mask) * known
