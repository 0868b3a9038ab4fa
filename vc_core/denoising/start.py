"""Where a run starts: from noise, from a given video with a strength, or with a part of it held still by a mask."""

from __future__ import annotations

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


def start(levels: Sequence[Level], drawn: Tensor, source: Source | None) -> tuple[Tensor, list[Level]]:
    """-> (x at the first level of the run, the levels that are left to run); `drawn` is standard normal noise."""
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
