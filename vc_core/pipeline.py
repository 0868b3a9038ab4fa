"""The whole pipeline on one page: a prompt, and for image-to-video an image, become the frames of a video.

FILE            -> the parts of a model          checkpoint
PROMPT, IMAGE   -> conditioning                  conditioning
NOISE           -> latents, step by step         denoising, which calls network
LATENTS         -> frames -> a video file        autoencoder, frames, video

crafter = VideoCrafter.load("model.ckpt", device="cuda", dtype=torch.float16)
frames = crafter.generate("a boat on the sea", request=Request(seed=7))   # f h w 3, 0..1
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import replace
from functools import partial
from os import PathLike
from typing import TypeVar

import torch
from torch import Tensor

from .checkpoint import Parts, load
from .checkpoint.lora import with_loras
from .checks import check_compiler, check_ends, check_picture, check_views, checked_pixels
from .conditioning import text_over_time, tokens_for_clip, tokens_of_images
from .conditions import SINGLE, Conditioning, Evaluation
from .control.attachment import NOTHING, Attachment
from .control.control import Control
from .control.networks import Networks
from .control.running import attach, check_controls, network_of, scene_of
from .denoising import AnalyticInit, Level, Model, Noise, NoiseSchedule, NoiseSource, Source, Step, sample
from .denoising.caching import SHALLOW, Cache, step_cache
from .denoising.freenoise import with_motion_injection
from .denoising.windows import windowed
from .features import uses_of_start
from .frames.fitting import Fit, fit_ends
from .frames.pixels import to_network, to_unit
from .image_latents import continued, latent_of_ends
from .network.adapter import Adapter, Recording
from .network.adapters.contexts import KeptContexts
from .network.adapters.deep import KeepDeep
from .network.call import Deep, Pass
from .network.memory import enough_memory, free_bytes
from .network.replay import Replay, recorder_for
from .network.unet import VideoUNet
from .request import PLAIN, Request, Settings
from .specs import Windows


class VideoCrafter:
    """A loaded model, ready to make videos. Networks run in the type they were loaded in, latents stay float32."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.adapters: tuple[Adapter, ...] = ()  # of every pass, in this order
        self.networks = Networks(parts.added, parts.device, parts.dtype)  # of controls
        self.compiled = False
        self.graphs = True  # whether passes are replayed where that is possible, see `replay`

    @classmethod
    @enough_memory()
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
        self.unet.compile()
        self.compiled = True

    @property
    def unet(self) -> VideoUNet:
        """The network, which every loaded model has."""
        assert self.parts.unet is not None
        return self.parts.unet

    def schedule(self, request: Request) -> NoiseSchedule:
        """The schedule that a request samples under: the model's, without the timesteps before the request's start."""
        keep = self.parts.spec.keeps_last_rescale(request.image_cfg)
        schedule = self.parts.schedule.until(request.start)
        return schedule if keep == schedule.keep_last_scale else replace(schedule, keep_last_scale=keep)

    @enough_memory()
    def generate(
        self,
        prompt: str,
        image: Tensor | None = None,
        *,
        request: Request = PLAIN,
        source: Source | AnalyticInit | None = None,
        on_step: Callable[[Step], None] | None = None,
        end_image: Tensor | None = None,
        views: Tensor | None = None,
        controls: Sequence[Control] = (),
    ) -> Tensor:
        """The frames of one video, f h w 3 in 0..1.

        image: h w 3 in 0..1, any size; needed by image-to-video models, refused by the others.
        source: a video's latents to start from (see `encode`), with a strength and perhaps a mask; or statistics of
            videos, for a start with their mean and variance.
        on_step: called after each step, for progress and previews; what it raises stops the run.
        end_image: as `image`, what the last frame shows; for models that continue an image.
        views: f h w 3 in 0..1, any size; a rendered view for each frame, for models that follow views. `image` takes
            the place of the first, and `end_image` that of the last; with a loop `image` does.
        controls: of camera, tracks, style and others, see `control`; they follow those of the request.
        """
        if controls:
            request = replace(request, controls=(*request.controls, *controls))
        latents = torch.empty(0)
        for step in self.steps(prompt, image, request=request, source=source, end_image=end_image, views=views):
            latents = step.x
            if on_step is not None:
                on_step(step)
        ends = [shown for shown in (image, end_image) if shown is not None]
        return self.decode(latents, ends, request.fit)[: -1 if request.loop else None]

    @enough_memory()
    def steps(
        self,
        prompt: str,
        image: Tensor | None = None,
        *,
        request: Request = PLAIN,
        source: Source | AnalyticInit | None = None,
        end_image: Tensor | None = None,
        noise: NoiseSource | None = None,
        views: Tensor | None = None,
    ) -> Iterator[Step]:
        """The denoising steps of `generate`. Everything given is checked before this returns. `noise` replaces the
        noise of the request's seed in the latents, and is used as it is: windows do not reorder it. The latent of an
        image is still drawn from the seed, before anything else."""
        prompts, seeded, concat = (prompt, *request.then), Noise(request.seed), None
        settings = self._checked(prompts, image, request, source, end_image, views)
        levels = settings.sampling.levels(self.schedule(request))
        self.unet.budget.restart()
        sampling = settings.sampling if noise is None else replace(settings.sampling, windows=None)
        if image is not None and self.parts.spec.continues_images:
            drawn = None if request.sharp else seeded
            image, concat = continued(self.parts, image, end_image, views, request, settings, drawn)
        conditionings = self.conditionings(prompts, image, request, settings, concat)
        crafter, attachment = self.controlled(prompts, request, settings, conditionings)
        guidance = attachment.guidance(sampling.guidance)
        if not set(guidance.conditionings) <= set(conditionings):
            settings = replace(settings, sampling=replace(sampling, guidance=guidance))
            conditionings = self.conditionings(prompts, image, request, settings, concat)
        replay = crafter.replay() if len(levels) > WORTH_RECORDING else None
        steps = sample(
            crafter._model(request, settings, levels, replay),
            self.schedule(request),
            conditionings,
            noise=seeded if noise is None else noise,
            shape=None if source else settings.shape(self.parts.spec),
            source=source,
            settings=replace(sampling, guidance=guidance, together=self._together(request, settings, conditionings)),
            begin=attachment.begin(request.seed) if noise is None else None,
        )
        return released(steps, replay)

    def _checked(
        self,
        prompts: Sequence[str],
        image: Tensor | None,
        request: Request,
        source: Source | AnalyticInit | None,
        end_image: Tensor | None,
        views: Tensor | None,
    ) -> Settings:
        """The settings of a request. Raises UserError for what cannot be made, before work starts."""
        spec = self.parts.spec
        settings = request.settle(spec).beginning_with(image)
        encoder = self.parts.image_encoder is not None and self.parts.image_tokens is not None
        check_picture(spec, given=image is not None, encoder=encoder)
        check_ends(spec, wanted=end_image is not None, loop=request.loop)
        check_views(spec, None if views is None else len(views), settings.frames)
        count = len(settings.sampling.levels(self.schedule(request)))  # one that cannot be spaced is refused here
        scene = scene_of(spec, request, settings, prompts, count - 1)
        check_controls(request, scene, uses_of_start(source, end_image), self.parts.names)
        return settings

    def controlled(
        self, prompts: Sequence[str], request: Request, settings: Settings, conditionings: Mapping[str, Conditioning]
    ) -> tuple[VideoCrafter, Attachment]:
        """This model with the adapters of the controls of a request, and all that they add to a run. conditionings: of
        the run."""
        if not request.controls:
            return self, NOTHING
        steps = len(settings.sampling.levels(self.schedule(request))) - 1
        scene = scene_of(self.parts.spec, request, settings, prompts, steps)
        attachment = attach(request.controls, self.networks, self.parts, scene, conditionings)
        out = copy(self)
        out.adapters = (*self.adapters, *attachment.adapters)
        unet = network_of(self.unet, request.controls, self.networks)
        if unet is not self.unet:
            out.parts = replace(self.parts, unet=unet)
            out.compiled = False  # the changed network runs as it is
        return out, attachment

    def _together(self, request: Request, settings: Settings, conditionings: Mapping[str, Conditioning]) -> bool:
        """Whether the branches of a step share a pass: as requested, or where they fit together."""
        if request.together is not None:
            return request.together
        shape = settings.shape(self.parts.spec)
        return self.fits_together(request.frames_at_once(settings.frames) * math.prod(shape[3:]), len(conditionings))

    def _model(self, request: Request, settings: Settings, levels: Sequence[Level], replay: Replay | None) -> Model:
        """The model of a run, with its caches and windows."""
        cache = None if request.step_cache is None else step_cache(len(levels) - 1, request.step_cache)
        adapters = self.adapters if self.compiled else (*self.adapters, KeptContexts())
        predict = partial(self.predict, windows=request.windows, cache=cache, adapters=adapters, network=replay)
        model = with_motion_injection(predict)
        if request.context is None or settings.frames <= request.context.size:
            return model
        return windowed(model, request.context)

    def fits_together(self, positions: int, count: int) -> bool:
        """Whether the passes of a guided step, `count` of so many latent positions each, should be one: where they are
        small, and on a GPU where the memory for all of them is free."""
        unet = self.unet
        free = free_bytes(self.parts.device)
        if free is None:
            return positions <= TOGETHER
        return positions <= TOGETHER_ON_GPU and unet.whole_bytes(count * positions, self.parts.dtype.itemsize) <= free

    def replay(self) -> Replay | None:
        """What replays the passes of a run as CUDA graphs, for `predict`; None where they should run one launch at a
        time: on other devices, with adapters that cannot be recorded, compiled, and where `graphs` is switched off."""
        refused = any(each.recording is Recording.REFUSED and each.steps is None for each in self.adapters)
        if not self.graphs or self.compiled or refused:
            return None
        recorder = recorder_for(self.parts.device)
        return None if recorder is None else Replay(self.unet, recorder)

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
        """The latent that is concatenated to the noised one, 1 c f h w, of images h w 3 in 0..1 at the clip's size;
        with `loop` the first is at both ends, exactly the same. `noise` samples the autoencoder's posterior."""
        return latent_of_ends(self.parts, first, frames, last, loop=loop, noise=noise)

    def conditionings(
        self,
        prompts: Sequence[str],
        image: Tensor | None,
        request: Request,
        settings: Settings,
        concat: Tensor | None = None,
    ) -> dict[str, Conditioning]:
        """The conditionings that the guidance of a request needs, by name; see `conditioning_for`."""
        positive = self.conditioning_for(prompts, image, settings, concat)
        made, needed = {"positive": positive}, settings.sampling.guidance.conditionings
        if "negative" in needed:
            grey = None if image is None else GREY
            made["negative"] = self.conditioning_for((request.negative,), grey, settings, concat)
        if "image_only" in needed:
            made["image_only"] = replace(positive, text=self.condition("", None, settings.fps).text, early_text=None)
        return made

    def conditioning_for(
        self, prompts: Sequence[str], image: Tensor | None, settings: Settings, concat: Tensor | None = None
    ) -> Conditioning:
        """The conditioning of a clip: prompts one after the other, an image, and what else the network reads."""
        made = self.condition(prompts[0], image, settings.fps)
        if made.image is not None:
            made = replace(made, image=tokens_for_clip(self.parts.spec, made.image, settings.frames))
        if len(prompts) > 1:
            texts = torch.cat([self.condition(prompt, None, settings.fps).text for prompt in prompts])
            made = replace(made, text=text_over_time(texts, settings.frames), early_text=texts[-1:])

        def row(value: float | None) -> Tensor | None:
            return None if value is None else made.text.new_tensor([value], dtype=torch.float32)

        return replace(made, concat=concat, guidance=row(settings.guidance), motion=row(settings.motion))

    @torch.inference_mode()
    def condition(self, prompt: str, image: Tensor | None, fps: float) -> Conditioning:
        """A conditioning for any number of frames. The encoder sees `image`, h w 3 in 0..1, whole, squeezed to a
        square."""
        parts = self.parts
        assert parts.text_encoder is not None
        text = parts.text_encoder([prompt])
        tokens = None
        if image is not None and parts.image_encoder is not None and parts.image_tokens is not None:
            pixels = to_network(image[None]).to(parts.device)
            tokens = tokens_of_images(parts.image_encoder, parts.image_tokens, pixels)
        return Conditioning(text=text, image=tokens, fps=torch.tensor([fps], device=text.device))

    @enough_memory()
    @torch.inference_mode()
    def encode(self, frames: Tensor) -> Tensor:
        """The latents, 1 c f h/8 w/8, of a video f h w 3 in 0..1, to start from."""
        assert self.parts.autoencoder is not None
        return self.parts.autoencoder.encode(self._pixels(frames)).float().transpose(0, 1)[None]

    @enough_memory()
    @torch.inference_mode()
    def decode(self, latents: Tensor, ends: Sequence[Tensor] = (), how: Fit = "crop") -> Tensor:
        """The frames, f h w 3 in 0..1, of latents 1 c f h w. `ends` are the images, h w 3 in 0..1, that the clip
        begins and ends with, for a decoder that uses them (ToonCrafter); `how` they are brought to its size."""
        autoencoder = self.parts.autoencoder
        assert autoencoder is not None
        frames, seen = latents[0].transpose(0, 1).to(self.parts.dtype), None
        if ends and autoencoder.spec.sees_ends:
            height, width = (side * autoencoder.spec.downscale for side in frames.shape[2:])
            seen = self._pixels(fit_ends(ends, height, width, how))
        return to_unit(checked_pixels(autoencoder.decode(frames, ends=seen)).float())

    def _pixels(self, frames: Tensor) -> Tensor:
        return to_network(frames).to(self.parts.device, self.parts.dtype)

    def predict(
        self,
        x: Tensor,
        timestep: Tensor,
        conditioning: Conditioning,
        evaluation: Evaluation = SINGLE,
        /,
        *,
        windows: Windows | None = None,
        cache: Cache | None = None,
        adapters: tuple[Adapter, ...] = (),
        network: Replay | None = None,
    ) -> Tensor:
        """What the network predicts, b c f h w: a `denoising.Model`. `timestep` is b, or b f. `network` is what calls
        the network in this run, see `replay`."""
        unet, dtype = self.unet, self.parts.dtype
        given = self._moving(conditioning.to(dtype=dtype), timestep)
        key, step = (evaluation.key, conditioning.early_text is None), evaluation.step
        known = None if cache is None or step is None else cache.get(key, step)
        deep = None if known is None else Deep(SHALLOW, known)
        keep = KeepDeep(SHALLOW)
        if cache is not None and known is None:
            adapters = (keep, *adapters)
        call = unet.in_memory if network is None else network
        out = call(x.to(dtype), timestep, given, Pass(evaluation, windows, adapters, deep))
        if cache is not None and step is not None and keep.result is not None:
            cache.add(key, step, keep.result)
        return out

    def _moving(self, conditioning: Conditioning, timestep: Tensor) -> Conditioning:
        """The conditioning with motion guidance in its share of the timesteps alone."""
        motion = conditioning.motion
        if motion is None:
            return conditioning
        moving = timestep >= len(self.parts.schedule) * (1 - self.parts.spec.defaults.motion_share)
        return replace(conditioning, motion=torch.where(moving.to(motion.device), motion, torch.zeros_like(motion)))


T = TypeVar("T")


def released(steps: Iterator[T], replay: Replay | None) -> Iterator[T]:
    """The steps of a run. Its recordings are released when it ends, or when no more steps are asked for. Raises
    UserError where memory runs out."""
    try:
        with enough_memory():
            yield from steps
    finally:
        if replay is not None:
            replay.release()


WORTH_RECORDING = 8
"""Steps of a run from which on recording a pass takes less time than it saves."""

TOGETHER = 2**14
"""Latent positions of a pass, frames times height times width, up to which positive and negative share it: what they
have in common is then worth more than the memory of two."""

TOGETHER_ON_GPU = 2**16
"""The same on a GPU, which a pass of 16 frames at 320 x 512 does not fill; one at 576 x 1024 does."""

GREY = torch.full((1, 1, 3), 0.5)
"""The image of the negative branch: mid grey, which is zero to the network."""
