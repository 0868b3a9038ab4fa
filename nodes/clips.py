"""Clips as the sampler node makes them: one, several rounds of one, one after the other, or frame after frame."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..vc_core.denoising import Noise
from ..vc_core.denoising.continuing import Continuation, Segment, continued
from ..vc_core.denoising.fifo import Queue
from ..vc_core.denoising.freeinit import check_first, next_start
from ..vc_core.denoising.freenoise import rescheduled
from ..vc_core.denoising.guidance import Guidance
from ..vc_core.network.layers import to_clips, to_frames
from .host import sampling
from .host.fifo import FifoSampler
from .host.long import reused, with_reordered_noise
from .host.model import PICTURES

Conditionings = Mapping[str, Any]
"""`positive`, `negative`, and `image_only`, what the picture alone asks for."""

PARTITIONS = 4
"""Of a queue, as published."""
MOST_SEED = 2**64 - 1
"""ComfyUI's samplers add 1 to their seed, and torch takes no more than this."""
SEGMENT, OVERLAP = 16, 8
"""Frames of a clip that is continued, and those that the next one begins with."""


@dataclass(frozen=True, kw_only=True)
class Clips:
    """The settings of a run. `sampler` gives a SAMPLER, told whether it starts from noise alone; `sigmas` those of a
    share of the steps, of which the run makes `share`. `exact` says that the sampler takes noise as it is."""

    model: Any
    sampler: Callable[[bool], Any]
    sigmas: Callable[[float], Tensor]
    exact: bool
    guidance: Guidance
    told: Conditionings
    share: float = 1.0

    def make(
        self,
        start: Tensor,
        mask: Tensor | None,
        seed: int,
        told: Conditionings | None = None,
        *,
        share: float | None = None,
        noise: Tensor | None = None,
    ) -> Tensor:
        """A clip of the start's size, f c h w. `noise` stands for that of the seed."""
        share = self.share if share is None else share
        pure = share >= 1
        sigmas = self.sigmas(share)
        drawn = to_frames(Noise(seed).draw((1, *start.transpose(0, 1).shape))) if noise is None else noise
        amount = 1.0 if self.exact or not pure else sampling.full_noise(self.model, sigmas)
        return sampling.run(
            self.model,
            self.sampler(pure),
            sigmas,
            {name: one for name, one in (self.told if told is None else told).items() if one is not None},
            self.guidance,
            sampling.Start(
                noise=amount * drawn,
                latent=torch.zeros_like(start) if pure and mask is None else start,
                mask=mask,
                seed=seed if self.exact else seed % MOST_SEED,
            ),
        )


def in_rounds(clips: Clips, start: Tensor, seed: int, rounds: int) -> Tensor:
    """A clip, sampled again in each round from the low frequencies of the last result (`denoising.freeinit`)."""
    model = with_reordered_noise(clips.model, None)
    first = sampling.rescaled(model.get_model_object("model_sampling")).level(float(clips.sigmas(1.0)[0]))
    check_first(first)
    result = clips.make(start, None, seed)
    source, frames = Noise(seed), len(start)
    drawn = source.draw((1, *start.transpose(0, 1).shape))
    windows = reused(clips.model.model_options)
    if windows is not None:
        drawn = rescheduled(drawn, windows, source)
    scale = model.model.latent_format
    again = replace(clips, model=model)
    for _ in range(rounds):
        clean = to_clips(scale.process_in(result.float().cpu()), frames)
        begun = next_start(clean, drawn, source.draw(drawn.shape), first)
        result = again.make(start, None, seed, noise=to_frames(begun))
    return result


def one_after_the_other(clips: Clips, latents: Tensor, seed: int) -> Tensor:
    """Clip after clip until there are as many frames, f c h w, as in `latents`: the way of `vc_core.longer`."""
    spec = getattr(clips.model.model, "spec", None)
    concat = spec is not None and spec.unet.concat_channels > 0
    over_time = any(text.shape[0] > 1 for each in clips.told.values() if each is not None for text, _ in each)
    plan = Continuation(
        frames=len(latents),
        overlap=1 if concat else OVERLAP,
        correct=0.0 if over_time else 1.0,
        steps=len(clips.sigmas(1.0)) - 1,
    )

    def make(segment: Segment) -> Tensor:
        told = {name: _of_frames(each, segment.first, len(latents)) for name, each in clips.told.items()}
        source = segment.source
        if source is None or source.mask is None:
            return to_clips(clips.make(latents[:SEGMENT], None, seed, told), SEGMENT)
        start = to_frames(source.latents)
        if concat:
            told = {name: _showing(each, start[:1]) for name, each in told.items()}
        made = clips.make(
            start,
            source.mask[:, None].expand(-1, 1, *start.shape[2:]),
            (seed + segment.number) % 2**64,
            told,
            noise=to_frames(segment.noise),
        )
        return to_clips(made, SEGMENT)

    source = Noise(seed)
    noise = source.draw((1, latents.shape[1], SEGMENT, *latents.shape[2:]))
    return torch.cat([to_frames(part) for part in continued(make, noise, source, plan)])


def _of_frames(conditioning: Any, first: int, frames: int) -> Any:
    """The texts of the frames of a clip that begins at `first`, where every frame has one; the last goes on."""
    if conditioning is None:
        return None
    index = [min(first + place, frames - 1) for place in range(SEGMENT)]
    return [(text[index] if text.shape[0] > 1 else text, told) for text, told in conditioning]


def _showing(conditioning: Any, picture: Tensor) -> Any:
    """The conditioning with a frame, 1 c h w, as the picture that the clip continues."""
    if conditioning is None:
        return None
    return [(text, {**told, PICTURES: [picture]} if PICTURES in told else told) for text, told in conditioning]


def through_a_queue(clips: Clips, latents: Tensor, seed: int) -> Tensor:
    """A first clip, and from it one frame after the other as many as in `latents`: the way of `vc_core.longer`."""
    queue = Queue(size=SEGMENT, partitions=PARTITIONS)
    queued = replace(clips, sampler=lambda pure: FifoSampler(clips.sampler(pure), queue))
    noise = torch.zeros_like(latents, dtype=torch.float32)
    noise[:SEGMENT] = to_frames(Noise(seed).draw((1, latents.shape[1], SEGMENT, *latents.shape[2:])))
    return queued.make(latents, None, seed, noise=noise)
