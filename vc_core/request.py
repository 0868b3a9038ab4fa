"""What is asked of a model, and its settings: the request with the model's defaults in place of each None."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from torch import Tensor

from .checks import check_ends, check_settings, check_side
from .denoising import Guidance, Sampling
from .denoising.caching import Quality, check_quality
from .denoising.windows import ContextWindows
from .errors import UserError
from .frames.fitting import Fit
from .specs import ModelSpec, Windows

if TYPE_CHECKING:
    from .control import Control


MOST_FRAMES = 1_000_000
"""Of a video: eleven hours at 24 per second."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is asked of a model. None takes the model's own default.

    width, height: pixels, multiples of 8. frames: 1 or more; the models were trained on 16.
    fps: that of the *motion*, a condition of the network, about 1 to 30; not the rate at which a file is saved.
    cfg, guidance_rescale, temporal_guidance, image_cfg: see `denoising.Guidance`. Networks with a guidance embedding
        (T2V-Turbo) read cfg themselves: they need no negative prompt, and it has no effect.
    motion: the motion guidance of networks that have it, about 0 to 0.5.
    sampling: steps, sampler, spacing and eta, see `denoising.Sampling`. seed: 0 to 2^64 - 1.
    step_cache, guidance_cache: quality of `denoising.caching`, "high", "balanced" or "fast"; None computes everything.
    together: positive and negative in one pass, faster and with the memory of two; None where a pass is small and, on a
        GPU, the memory of two is free.
    start: the start time M of DynamiCrafter-CIL (arXiv:2406.15735), 1 to 1000: sampling begins at timestep M - 1, as
        if the model had been trained with no more noise, for more motion. None begins where the spacing does.

    For models that continue an image (DynamiCrafter, ToonCrafter):
    fit: how the images are fitted to the clip's size, see `frames.fitting`.
    loop: the clip ends where it begins. Its last frame, which equals the first, is left out of the video.
    sharp: encode an image to the mean of the autoencoder's posterior, instead of a sample of it as the authors do.

    For clips longer than the model was trained on:
    windows: temporal attention in windows and rescheduled noise (FreeNoise, with eta 0 as published; or FreeLong).
    context: windows of whole model calls instead, see `denoising.windows`. `long` has all methods.
    then: prompts that follow the first one over time, each blending into the next.

    controls: of camera, tracks, style and others, see `control`; they act in this order.
    """

    negative: str = ""
    seed: int = 0
    width: int | None = None
    height: int | None = None
    frames: int | None = None
    fps: float | None = None
    cfg: float | None = None
    guidance_rescale: float | None = None
    temporal_guidance: float = 0.0
    image_cfg: float | None = None
    motion: float | None = None
    sampling: Sampling | None = None
    step_cache: Quality | None = None
    guidance_cache: Quality | None = None
    together: bool | None = None
    start: int | None = None
    fit: Fit = "crop"
    loop: bool = False
    sharp: bool = False
    windows: Windows | None = None
    context: ContextWindows | None = None
    then: tuple[str, ...] = ()
    controls: tuple[Control, ...] = ()

    @property
    def reordered(self) -> Windows | None:
        """The windows that reorder the first noise."""
        return self.context.noise if self.windows is None and self.context is not None else self.windows

    def frames_at_once(self, frames: int) -> int:
        """How many frames of a clip a call of the network sees."""
        return frames if self.context is None else min(frames, self.context.size)

    def controlled(self, spec: ModelSpec) -> ModelSpec:
        """The model with the defaults that the controls change."""
        for control in self.controls:
            spec = replace(spec, defaults=replace(spec.defaults, **control.defaults()))
        return spec

    def settle(self, spec: ModelSpec) -> Settings:
        """With the model's defaults in place of each None. Raises UserError for what cannot be made."""
        spec = self.controlled(spec)
        defaults = spec.defaults
        cfg, motion = _given(self.cfg, defaults.cfg), _given(self.motion, defaults.motion)
        check_settings(spec, image_cfg=self.image_cfg, motion=self.motion)
        settings = Settings(
            width=_given(self.width, defaults.width),
            height=_given(self.height, defaults.height),
            frames=_given(self.frames, defaults.frames),
            fps=float(_given(self.fps, defaults.fps)),
            sampling=self._sampling(spec, 1.0 if spec.embeds_guidance else cfg),
            guidance=cfg if spec.embeds_guidance else None,
            motion=motion if spec.embeds_motion else None,
        )
        self._check(spec, settings)
        return settings

    def _sampling(self, spec: ModelSpec, scale: float) -> Sampling:
        """The sampling with a guidance scale."""
        defaults = spec.defaults
        guidance = Guidance(
            scale=scale,
            rescale=_given(self.guidance_rescale, defaults.guidance_rescale),
            temporal=self.temporal_guidance,
            image_scale=self.image_cfg,
        )
        sampling = self.sampling or Sampling(
            steps=defaults.steps,
            sampler=defaults.sampler,
            spacing=defaults.spacing,
            eta=defaults.eta if self.windows is None or self.windows.spectral else 0.0,
        )
        return replace(sampling, guidance=guidance, windows=self.reordered, guidance_cache=self.guidance_cache)

    def _check(self, spec: ModelSpec, settings: Settings) -> None:
        if self.windows is not None and self.context is not None:
            raise UserError(
                "Windows inside the network and windows of whole model calls were both asked for; choose one."
            )
        for quality in filter(None, (self.step_cache, self.guidance_cache)):
            check_quality(quality)
        check_ends(spec, wanted=self.loop)
        check_side("Width", settings.width, spec.size_multiple)
        check_side("Height", settings.height, spec.size_multiple)
        if settings.frames < 1:
            raise UserError(f"{settings.frames} frames were asked for; give 1 or more. The models were trained on 16.")
        if settings.frames > MOST_FRAMES:
            raise UserError(f"{settings.frames} frames were asked for; at most {MOST_FRAMES} are allowed.")
        if not (math.isfinite(settings.fps) and settings.fps > 0):
            raise UserError(f"The fps condition is {settings.fps:g}; it should be above 0, usually 4 to 30.")


T = TypeVar("T")


def _given(value: T | None, default: T) -> T:
    return default if value is None else value


PLAIN = Request()
"""Everything by the model's own defaults."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """A request for one model, complete. image: height and width of the image that the clip begins with, before it is
    fitted to the clip."""

    width: int
    height: int
    frames: int
    fps: float
    sampling: Sampling
    guidance: float | None = None
    motion: float | None = None
    image: tuple[int, int] | None = None

    def beginning_with(self, image: Tensor | None) -> Settings:
        """The same for a clip that begins with an image h w 3."""
        return self if image is None else replace(self, image=(image.shape[0], image.shape[1]))

    def shape(self, spec: ModelSpec) -> tuple[int, ...]:
        """The shape of the latents, b c f h w."""
        factor = spec.size_multiple
        return (1, spec.autoencoder.latent_channels, self.frames, self.height // factor, self.width // factor)
