"""Rounds of FreeInit (arXiv:2312.07537): a clip is sampled again from the low frequencies of its last result."""

from __future__ import annotations

from torch import Tensor

from ..denoising.freeinit import check_first, next_start
from ..denoising.freenoise import rescheduled
from .engine import Clip, Engine


def in_rounds(engine: Engine, rounds: int) -> Tensor:
    """The latents b c f h w of the whole video as one clip, sampled once and then again in each of `rounds` further
    rounds. Raises UserError where the first noise level holds no signal."""
    clip = Clip(frames=engine.frames, seed=engine.seed)
    if not rounds:
        return engine.make(clip)
    first = engine.first_level()
    check_first(first)
    result = engine.make(clip)
    source, drawn = engine.noise(engine.seed), None
    for _ in range(rounds):
        clean = engine.scaled(result)
        if drawn is None:
            drawn = source.draw(clean.shape, clean.device, clean.dtype)
            if engine.rescheduling is not None:
                drawn = rescheduled(drawn, engine.rescheduling, source)
        fresh = source.draw(clean.shape, clean.device, clean.dtype)
        start = next_start(clean, drawn, fresh, first)
        result = engine.make(Clip(frames=clip.frames, seed=clip.seed, noise=start))
    return result
