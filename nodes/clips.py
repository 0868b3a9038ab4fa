"""The engine that samples the clips of a long video by a MODEL of ComfyUI (`vc_core.long.engine`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..vc_core.denoising import Level, Noise
from ..vc_core.denoising.guidance import Guidance
from ..vc_core.long.engine import Clip, Part, Program
from ..vc_core.network.layers import to_clips, to_frames
from ..vc_core.specs import Windows
from .host import sampling
from .host.controls import with_given_noise
from .host.long import reused, with_reordered_noise
from .host.model import PICTURES, VIEWS
from .host.program import ProgramSampler
from .keyframes import of_section

Conditionings = Mapping[str, Any]
"""`positive`, `negative`, and `image_only`, the conditioning of the image without the prompt."""

MOST_SEED = 2**64 - 1
"""ComfyUI's samplers add 1 to their seed, and torch takes no more than this."""


@dataclass(frozen=True, eq=False, kw_only=True)
class ModelEngine:
    """Clips of one video by a MODEL (see `vc_core.long.engine.Engine`); latents are at ComfyUI's scale.

    sampler: gives a SAMPLER, given whether it starts from noise alone. sigmas: those of a share of the steps, of which
    the run makes `share`. exact: the sampler takes noise as it is. latents: f c h w, what the video starts from, as far
    as `share` and `mask` keep it.
    """

    model: Any
    sampler: Callable[[bool], Any]
    sigmas: Callable[[float], Tensor]
    exact: bool
    guidance: Guidance
    conditionings: Conditionings
    latents: Tensor
    mask: Tensor | None
    seed: int
    share: float = 1.0

    @property
    def frames(self) -> int:
        return len(self.latents)

    @property
    def shape(self) -> Sequence[int]:
        return (1, *self.latents.transpose(0, 1).shape)

    @property
    def prompts(self) -> int:
        return 1

    @property
    def blends_prompts(self) -> bool:
        return any(text.shape[0] > 1 for each in self.conditionings.values() if each is not None for text, _ in each)

    @property
    def continues_images(self) -> bool:
        spec = getattr(self.model.model, "spec", None)
        return spec is not None and spec.continues_images

    @property
    def steps(self) -> int:
        return len(self.sigmas(1.0)) - 1

    @property
    def rescheduling(self) -> Windows | None:
        return reused(self.model.model_options)

    def first_level(self) -> Level:
        return sampling.first_level(self.model, self.sigmas(1.0))

    def noise(self, seed: int) -> Noise:
        return Noise(seed)

    def make(self, clip: Clip) -> Tensor:
        start, mask, source = self.latents[clip.first : clip.first + clip.frames], self.mask, clip.source
        if source is not None and source.mask is not None:
            start = to_frames(source.latents)
            mask = source.mask[:, None].expand(-1, 1, *start.shape[2:])
        model, noise = self.model, clip.noise
        if noise is None:
            drawn = to_frames(Noise(clip.seed).draw((1, *start.transpose(0, 1).shape)))
        else:
            model, drawn = with_given_noise(with_reordered_noise(model, None)), to_frames(noise)
        given = {name: self._of_clip(each, clip) for name, each in self.conditionings.items()}
        made = self._sample(model, self.sampler(self.share >= 1), given, drawn, start, mask, clip.seed)
        return to_clips(made, clip.frames)

    def scaled(self, latents: Tensor) -> Tensor:
        own = to_frames(latents).float().cpu()
        return to_clips(self.model.model.latent_format.process_in(own), latents.shape[2])

    def within(self, program: Program, *, opening: int, turns: int) -> Iterator[Tensor]:
        noise = torch.zeros_like(self.latents, dtype=torch.float32)
        batch, channels, _, height, width = self.shape
        noise[:opening] = to_frames(Noise(self.seed).draw((batch, channels, opening, height, width)))
        sampler = ProgramSampler(self.sampler(self.share >= 1), program, opening=opening, turns=turns)
        made = self._sample(self.model, sampler, self.conditionings, noise, self.latents, None, self.seed)
        yield from made[:, None]

    def _sample(
        self,
        model: Any,
        sampler: Any,
        conditionings: Conditionings,
        noise: Tensor,
        start: Tensor,
        mask: Tensor | None,
        seed: int,
    ) -> Tensor:
        """Frames f c h w of one run of the host."""
        pure, sigmas = self.share >= 1, self.sigmas(self.share)
        amount = 1.0 if self.exact or not pure else sampling.full_noise(model, sigmas)
        return sampling.run(
            model,
            sampler,
            sigmas,
            {name: one for name, one in conditionings.items() if one is not None},
            self.guidance,
            sampling.Start(
                noise=amount * noise,
                latent=torch.zeros_like(start) if pure and mask is None else start,
                mask=mask,
                seed=seed if self.exact else seed % MOST_SEED,
            ),
        )

    def _of_clip(self, conditioning: Any, clip: Clip) -> Any:
        """What a conditioning says of one clip: the texts of its frames, where each has one, the last of which also
        counts for frames behind the video; and its images."""
        if conditioning is None:
            return None
        index = [min(clip.first + place, self.frames - 1) for place in range(clip.frames)]
        found = []
        for text, values in conditioning:
            cut = text if text.shape[0] == 1 or clip.frames == self.frames else text[index]
            values = of_section(values, clip.number)
            if clip.image is not None and PICTURES in values:
                values = {**values, PICTURES: [to_frames(clip.image)]}
            if VIEWS in values:
                values = {**values, VIEWS: self._views(values[VIEWS], clip, index)}
            found.append((cut, values))
        return found

    def _views(self, views: Tensor, clip: Clip, index: Sequence[int]) -> Tensor:
        """The latents f c h w of a clip's rendered views, the first of which is the image that it continues. Views of
        another number of frames than the video are left to the model to refuse."""
        if len(views) != self.frames or (clip.frames == self.frames and clip.image is None):
            return views
        cut = views[list(index)]
        return cut if clip.image is None else torch.cat([to_frames(clip.image).to(cut), cut[1:]])


def joined(parts: Iterator[Part]) -> Tensor:
    """The frames f c h w of a video's parts."""
    frames = [to_frames(part.latents)[: part.keep] for part in parts]
    return frames[0] if len(frames) == 1 else torch.cat(frames)
