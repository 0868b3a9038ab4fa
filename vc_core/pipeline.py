"""The whole way on one page: a prompt, and for image-to-video a picture, become the frames of a video.

FILE            -> the parts of a model          checkpoint
PROMPT, PICTURE -> conditioning                  conditioning
NOISE           -> latents, step by step         denoising, which calls network
LATENTS         -> frames -> a video file        frames

crafter = VideoCrafter.load("model.ckpt", device="cuda", dtype=torch.float16)
frames = crafter.generate("a boat on the sea", request=Request(seed=7))   # f h w 3, 0..1
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from os import PathLike

import torch
from torch import Tensor

from .checkpoint import Parts, load
from .checkpoint.lora import with_loras
from .checks import check_compiler, check_ends, check_picture, check_settings, check_side, checked_pixels
from .conditioning import Conditioning, picture_tokens, text_over_time, tokens_for_frames
from .denoising import AnalyticInit, Guidance, Noise, NoiseSchedule, NoiseSource, Sampling, Source, Step, sample
from .denoising.caching import SHALLOW, Cache, Quality, check_quality, step_cache
from .denoising.freenoise import injected
from .denoising.windows import ContextWindows, windowed
from .errors import UserError
from .frames.fitting import Fit, fit, fit_ends, picture_latent
from .frames.pixels import to_network, to_unit
from .network.contexts import KeptContexts
from .network.hooks import NO_HOOKS, Hooks
from .network.unet import Deep
from .specs import ModelSpec, Windows


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is wanted. A None takes the model's own default.

    width, height: pixels, multiples of 8. frames: 1 or more; the models were trained with 16.
    fps: that of the *motion*, a condition of the network, about 1 to 30; not the rate at which a file is saved.
    cfg, guidance_rescale, temporal_guidance, image_cfg: see `denoising.Guidance`. Networks with a guidance embedding
        (T2V-Turbo) read cfg themselves: they need no negative prompt, and it has no effect.
    motion: the motion guidance of networks that have it, about 0 to 0.5.
    sampling: steps, sampler, spacing and eta, see `denoising.Sampling`. seed: 0 to 2^64 - 1.
    step_cache, guidance_cache: quality of `denoising.caching`, "high", "balanced" or "fast"; None computes everything.
    together: positive and negative in one pass, faster and with the memory of two; None where a pass is small.
    start: the start time M of DynamiCrafter-CIL (arXiv:2406.15735), 1 to 1000: sampling begins at timestep M - 1, as
        if the model had been trained with no more noise, for more motion. None begins where the spacing does.

    For models that continue a picture (DynamiCrafter, ToonCrafter):
    fit: how the pictures are brought to the clip's size, see `frames.fitting`.
    loop: the clip ends where it begins. Its last frame, which equals the first, is left out of the video.
    sharp: take the likeliest latent of a picture instead of a random one, which is what the authors take.

    For clips longer than the model was trained on:
    windows: temporal attention in windows and noise used again (FreeNoise, with eta 0 as published; or FreeLong).
    context: windows of whole model calls instead, see `denoising.windows`. `longer` has further ways to long clips.
    then: prompts that follow the first one over time, each turning into the next.
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

    @property
    def reordered(self) -> Windows | None:
        """The windows that reorder the first noise."""
        return self.context.noise if self.windows is None and self.context is not None else self.windows

    def settle(self, spec: ModelSpec) -> Settings:
        """With the model's defaults in place of each None. Raises UserError for what cannot be made."""
        defaults = spec.defaults
        cfg = defaults.cfg if self.cfg is None else self.cfg
        guidance = Guidance(
            scale=cfg,
            rescale=defaults.guidance_rescale if self.guidance_rescale is None else self.guidance_rescale,
            temporal=self.temporal_guidance,
            image_scale=self.image_cfg,
        )
        if spec.unet.guidance_width:
            guidance = replace(guidance, scale=1.0)
        check_settings(spec, image_cfg=self.image_cfg, motion=self.motion)
        sampling = self.sampling or Sampling(
            steps=defaults.steps,
            sampler=defaults.sampler,
            spacing=defaults.spacing,
            eta=defaults.eta if self.windows is None or self.windows.spectral else 0.0,
        )
        settings = Settings(
            width=defaults.width if self.width is None else self.width,
            height=defaults.height if self.height is None else self.height,
            frames=defaults.frames if self.frames is None else self.frames,
            fps=float(defaults.fps if self.fps is None else self.fps),
            sampling=replace(sampling, guidance=guidance, windows=self.reordered, guidance_cache=self.guidance_cache),
            guidance=cfg if spec.unet.guidance_width else None,
            motion=(defaults.motion if self.motion is None else self.motion) if spec.unet.motion_width else None,
        )
        if self.windows is not None and self.context is not None:
            raise UserError(
                "Windows inside the network and windows of whole model calls were both asked for; take one."
            )
        for quality in filter(None, (self.step_cache, self.guidance_cache)):
            check_quality(quality)
        check_ends(spec, wanted=self.loop)
        check_side("Width", settings.width, spec.size_multiple)
        check_side("Height", settings.height, spec.size_multiple)
        if settings.frames < 1:
            raise UserError(f"{settings.frames} frames were asked for; give 1 or more. The models learnt with 16.")
        if not (math.isfinite(settings.fps) and settings.fps > 0):
            raise UserError(f"The fps condition is {settings.fps:g}; it should be above 0, usually 4 to 30.")
        return settings


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is made: a request for one model, complete."""

    width: int
    height: int
    frames: int
    fps: float
    sampling: Sampling
    guidance: float | None = None
    motion: float | None = None

    def shape(self, spec: ModelSpec) -> tuple[int, ...]:
        """The shape of the latents, b c f h w."""
        factor = spec.size_multiple
        return (1, spec.autoencoder.latent_channels, self.frames, self.height // factor, self.width // factor)


class VideoCrafter:
    """A loaded model, ready to make videos. Networks run in the type they were loaded in, latents stay float32."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.hooks: Hooks | None = None  # those of every pass; None keeps keys and values for each run

    @classmethod
    def load(
        cls,
        path: str | PathLike[str] | Sequence[str | PathLike[str]],
        *,
        preset: str = "auto",
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        loras: Sequence[tuple[str | PathLike[str], float]] = (),
    ) -> VideoCrafter:
        """A model from a checkpoint that holds all its parts, or from the files of a split one; all parts
        compute in `dtype`. See `checkpoint.load`. loras: LoRA files and their strengths, see `checkpoint.lora`."""
        parts = load(path, preset=preset, device=device, dtype=dtype)
        parts.require("unet", "autoencoder", "text_encoder")
        return cls(with_loras(parts, loras))

    def compile(self) -> None:
        """Let torch.compile make the network faster when it runs next: one graph for the first number of frames, and
        one for all others. Raises UserError where this machine lacks the compiler that it needs."""
        check_compiler(self.parts.device)
        assert self.parts.unet is not None
        self.parts.unet.compile()
        self.hooks = NO_HOOKS

    def schedule(self, request: Request) -> NoiseSchedule:
        """The schedule that a request samples under: the model's, without what lies before the request's start."""
        return self.parts.schedule.until(request.start)

    def generate(
        self,
        prompt: str,
        picture: Tensor | None = None,
        *,
        request: Request = Request(),
        source: Source | AnalyticInit | None = None,
        on_step: Callable[[Step], None] | None = None,
        end_picture: Tensor | None = None,
    ) -> Tensor:
        """The frames of one video, f h w 3 in 0..1.

        picture: h w 3 in 0..1, any size; needed by image-to-video models, refused by the others.
        source: a video's latents to start from (see `encode`), with a strength and perhaps a mask; or statistics of
            videos, for a start with their mean and spread.
        on_step: called after each step, for progress and previews; what it raises stops the run.
        end_picture: as `picture`, what the last frame shows; for models that continue a picture.
        """
        latents = torch.empty(0)
        for step in self.steps(prompt, picture, request=request, source=source, end_picture=end_picture):
            latents = step.x
            if on_step is not None:
                on_step(step)
        ends = [shown for shown in (picture, end_picture) if shown is not None]
        return self.decode(latents, ends, request.fit)[: -1 if request.loop else None]

    def steps(
        self,
        prompt: str,
        picture: Tensor | None = None,
        *,
        request: Request = Request(),
        source: Source | AnalyticInit | None = None,
        end_picture: Tensor | None = None,
        noise: NoiseSource | None = None,
    ) -> Iterator[Step]:
        """The denoising steps of `generate`. Everything given is checked before this returns. `noise` stands for the
        noise of the request's seed in the latents, and is taken as it is: windows do not reorder it. The latent of a
        picture is drawn from the seed all the same, before anything else."""
        spec, schedule = self.parts.spec, self.schedule(request)
        settings = request.settle(spec)
        encoder = self.parts.image_encoder is not None and self.parts.image_tokens is not None
        check_picture(spec, given=picture is not None, encoder=encoder)
        assert self.parts.unet is not None
        self.parts.unet.budget.restart()
        check_ends(spec, wanted=end_picture is not None, loop=request.loop)
        sampling = settings.sampling if noise is None else replace(settings.sampling, windows=None)
        seeded = Noise(request.seed)
        levels = settings.sampling.levels(schedule)  # a count of steps that cannot be spaced is refused here
        concat = None
        if picture is not None and spec.unet.concat_channels:
            size = (settings.height, settings.width)
            picture = fit(picture, *size, request.fit)
            last = None if end_picture is None else fit(end_picture, *size, request.fit)
            drawn = None if request.sharp else seeded
            concat = self.ends(picture, settings.frames, last, loop=request.loop, noise=drawn)
        positive = self.told((prompt, *request.then), picture, settings, concat)
        negative = textless = None
        if settings.sampling.guidance.passes:
            negative = self.told((request.negative,), None if picture is None else GREY, settings, concat)
        if settings.sampling.guidance.image_scale is not None:
            textless = replace(positive, text=self.condition("", None, settings.fps).text, early_text=None)
        context = request.context if request.context and settings.frames > request.context.size else None
        starts = [level.timestep for level in levels[:-1]]
        cache = None if request.step_cache is None else step_cache(starts, request.step_cache)
        at_once = (context.size if context else settings.frames) * math.prod(settings.shape(spec)[3:])
        joined = at_once <= TOGETHER if request.together is None else request.together
        model = injected(
            partial(self.predict, windows=request.windows, cache=cache, hooks=self.hooks or KeptContexts()), levels
        )
        return sample(
            model if context is None else windowed(model, context, levels),
            schedule,
            positive,
            negative,
            noise=seeded if noise is None else noise,
            shape=None if source else settings.shape(spec),
            source=source,
            settings=replace(sampling, together=joined),
            textless=textless,
        )

    @torch.inference_mode()
    def ends(
        self,
        first: Tensor,
        frames: int,
        last: Tensor | None = None,
        *,
        loop: bool = False,
        noise: NoiseSource | None = None,
    ) -> Tensor:
        """The latent beside the noised one, 1 c f h w, of pictures h w 3 in 0..1 at the clip's size; with `loop` the
        first stands at both ends, exactly the same. `noise` makes samples of the autoencoder's posterior."""
        latent = self._picture_latent(first, noise)
        end = latent if loop else None if last is None else self._picture_latent(last, noise)
        return picture_latent(latent, frames, end)

    def _picture_latent(self, picture: Tensor, noise: NoiseSource | None) -> Tensor:
        autoencoder = self.parts.autoencoder
        assert autoencoder is not None
        pixels = self._pixels(picture[None])
        if noise is None:
            return autoencoder.encode(pixels).float()
        factor = autoencoder.spec.downscale
        shape = (1, autoencoder.spec.latent_channels, pixels.shape[2] // factor, pixels.shape[3] // factor)
        return autoencoder.encode_with(pixels, noise.draw(shape, pixels.device, torch.float32)).float()

    def told(
        self, prompts: Sequence[str], picture: Tensor | None, settings: Settings, concat: Tensor | None = None
    ) -> Conditioning:
        """The conditioning of a clip: prompts one after the other, a picture, and what else the network reads."""
        told = self.condition(prompts[0], picture, settings.fps)
        if told.image is not None:
            told = replace(told, image=tokens_for_frames(told.image, settings.frames))
        if len(prompts) > 1:
            texts = torch.cat([self.condition(prompt, None, settings.fps).text for prompt in prompts])
            told = replace(told, text=text_over_time(texts, settings.frames), early_text=texts[-1:])

        def row(value: float | None) -> Tensor | None:
            return None if value is None else told.text.new_tensor([value], dtype=torch.float32)

        return replace(told, concat=concat, guidance=row(settings.guidance), motion=row(settings.motion))

    @torch.inference_mode()
    def condition(self, prompt: str, picture: Tensor | None, fps: float) -> Conditioning:
        """What the network is told. `picture`, h w 3 in 0..1, is seen whole, squeezed to a square."""
        parts = self.parts
        assert parts.text_encoder is not None
        text = parts.text_encoder([prompt])
        image = None
        if picture is not None and parts.image_encoder is not None and parts.image_tokens is not None:
            pixels = to_network(picture[None]).to(parts.device)
            image = picture_tokens(parts.image_encoder, parts.image_tokens, pixels)
        return Conditioning(text=text, image=image, fps=torch.tensor([fps], device=text.device))

    @torch.inference_mode()
    def encode(self, frames: Tensor) -> Tensor:
        """The latents, 1 c f h/8 w/8, of a video f h w 3 in 0..1, to start from."""
        assert self.parts.autoencoder is not None
        return self.parts.autoencoder.encode(self._pixels(frames)).float().transpose(0, 1)[None]

    @torch.inference_mode()
    def decode(self, latents: Tensor, ends: Sequence[Tensor] = (), how: Fit = "crop") -> Tensor:
        """The frames, f h w 3 in 0..1, of latents 1 c f h w. `ends` are the pictures, h w 3 in 0..1, that the clip
        begins and ends with, for a decoder that looks at them (ToonCrafter); `how` they are brought to its size."""
        autoencoder = self.parts.autoencoder
        assert autoencoder is not None
        frames, seen = latents[0].transpose(0, 1).to(self.parts.dtype), None
        if ends and autoencoder.spec.reference_levels is not None:
            height, width = (side * autoencoder.spec.downscale for side in frames.shape[2:])
            seen = self._pixels(fit_ends(ends, height, width, how))
        return to_unit(checked_pixels(autoencoder.decode(frames, ends=seen)).float())

    def _pixels(self, frames: Tensor) -> Tensor:
        return to_network(frames).to(self.parts.device, self.parts.dtype)

    def predict(
        self,
        x: Tensor,
        timestep: Tensor,
        told: Conditioning,
        /,
        *,
        temporal: bool = True,
        windows: Windows | None = None,
        cache: Cache | None = None,
        hooks: Hooks = NO_HOOKS,
    ) -> Tensor:
        """What the network predicts, b c f h w: a `denoising.Model`. `timestep` is b, or b f."""
        unet = self.parts.unet
        assert unet is not None
        dtype = self.parts.dtype

        def cast(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(dtype)

        motion = told.motion
        if motion is not None:
            moving = timestep >= len(self.parts.schedule) * (1 - self.parts.spec.defaults.motion_share)
            motion = torch.where(moving.to(motion.device), motion, torch.zeros_like(motion))
        key, level = (id(told.text), told.window, told.early_text is None, temporal), float(timestep.flatten()[0])
        deep = None if cache is None else Deep(SHALLOW, cache.get(key, level))
        computed = deep is not None and deep.features is None
        out = unet.in_memory(
            x.to(dtype),
            timestep,
            told.text.to(dtype),
            cast(told.image),
            told.fps,
            hooks=hooks,
            temporal=temporal,
            concat=cast(told.concat),
            guidance=told.guidance,
            motion=motion,
            windows=windows,
            early_text=cast(told.early_text),
            deep=deep,
        )
        if computed and cache is not None and deep is not None and deep.features is not None:
            cache.add(key, level, deep.features)
        return out


TOGETHER = 2**14
"""Latent positions of a pass, frames times height times width, up to which positive and negative share it: what they
have in common is then worth more than the memory of two."""

GREY = torch.full((1, 1, 3), 0.5)
"""The picture of the unconditional branch: mid grey, which is zero to the network."""
