"""NOISE -> LATENT: the KSampler that knows about time, and its parts for the custom-sampling nodes."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..vc_core.denoising.guidance import Guidance
from ..vc_core.denoising.schedule import NoiseSchedule
from ..vc_core.errors import UserError
from .clips import Clips, in_rounds, one_after_the_other, through_a_queue
from .conditioning import MOTION_FPS, with_settings
from .frames import check_latents
from .host import sampling
from .host.compat import advanced, aliases
from .host.start import check_start
from .keyframes import along, ways_of
from .long import CONTINUE, FIFO, LONG_VIDEO, MOST_ROUNDS, PATCHES, SEGMENT, check_long, check_texts

CATEGORY = "VideoCrafter/sampling"

EXACT, EXACT_LCM = "ddim_exact", "lcm_exact"
"""The references' samplers, told apart from ComfyUI's `ddim`, which is Euler, and `lcm`, which has no boundary
conditions."""

OWN_SAMPLERS = {
    EXACT: "ddim",
    EXACT_LCM: "lcm",
    "euler": "euler",
    "euler_ancestral": "euler_ancestral",
    "dpmpp_2m": "dpmpp_2m",
    "dpmpp_2m_sde": "dpmpp_2m_sde",
}
SPACINGS = ("uniform", "trailing", "lcm")

STEPS = (
    "Number of steps, 1 to 1000. ddim_exact needs about 50, dpmpp_2m about 20, euler about 25 to 30, T2V-Turbo with "
    "lcm_exact 4 (v1) or 8 (v2); time grows in proportion. With the scheduler uniform some counts run a few steps more "
    "(60 gives 63) and some do not exist; a message then names the nearest."
)
SPACING = (
    "uniform spaces the steps as the authors of VideoCrafter do and never visits the very last timestep; trailing "
    "begins at the very last one, which helps at few steps and which DynamiCrafter wants; lcm visits the timesteps "
    "that T2V-Turbo was distilled at"
)
DENOISE = (
    "0.01 to 1, how much of the given latent is replaced: 1 starts from noise alone, lower runs only the last part "
    "of the steps and keeps more of the given video. With uniform and trailing it is the share of the steps that "
    "runs."
)
ETA = (
    "0 to 1, fresh noise added in each step by ddim_exact and by ComfyUI's ancestral and SDE samplers: 1 as the "
    "authors of VideoCrafter, 0 makes ddim_exact deterministic. Other samplers ignore it. For long_video use 0, except "
    "1 for fifo and freelong."
)


class VideoCrafterKSampler(io.ComfyNode):
    """Samples one clip."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VideoCrafterKSampler",
            display_name="VideoCrafter KSampler",
            category=CATEGORY,
            description="Makes a clip from noise, or a new one from a given clip: ComfyUI's KSampler with what "
            "VideoCrafter has beyond it: the authors' exact sampler and step spacing, the fps condition, rescaled "
            "and temporal guidance. Noise is drawn on the CPU, so a seed gives the same clip on every machine.",
            inputs=[
                io.Model.Input("model", tooltip="The video model."),
                io.Int.Input(
                    "seed",
                    default=123,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="0 to 18446744073709551615. The same seed and settings make the same clip on every "
                    "machine.",
                ),
                io.Int.Input("steps", default=50, min=1, max=1000, tooltip=STEPS),
                io.Float.Input(
                    "cfg",
                    default=12.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    round=0.01,
                    tooltip="How strongly the prompt is followed, 0 to 100. The authors use 12; 7 to 9 is softer. 1 "
                    "switches guidance and the negative prompt off and takes half the time. High values burn "
                    "colours: see guidance_rescale. T2V-Turbo takes cfg as an input (7.5), without a second pass.",
                ),
                io.Combo.Input(
                    "sampler_name",
                    options=[EXACT, EXACT_LCM, *sampling.host_samplers()],
                    default=EXACT,
                    tooltip="ddim_exact is the authors' sampler, number for number, and lcm_exact that of T2V-Turbo "
                    "(with the scheduler lcm); all others are ComfyUI's. dpmpp_2m and euler reach the same quality in "
                    "about half the steps.",
                ),
                io.Combo.Input(
                    "scheduler",
                    options=[*SPACINGS, *sampling.host_schedulers()],
                    default="uniform",
                    tooltip=f"Which noise levels the steps visit: {SPACING}. All others are ComfyUI's.",
                ),
                io.Conditioning.Input("positive", tooltip="What the clip should show."),
                io.Conditioning.Input(
                    "negative",
                    tooltip="What it should not show; an empty prompt is usual. It has no effect on T2V-Turbo.",
                ),
                io.Latent.Input(
                    "latent_image",
                    tooltip="Size and length of the clip (VideoCrafter Empty Latent), or "
                    "a clip to start from with denoise below 1. Black parts of a noise mask are kept unchanged.",
                ),
                io.Float.Input("denoise", default=1.0, min=0.01, max=1.0, step=0.01, tooltip=DENOISE),
                io.Float.Input(
                    "eta", default=1.0, min=0.0, max=1.0, step=0.01, tooltip=ETA, **advanced(io.Float.Input)
                ),
                io.Float.Input(
                    "fps",
                    display_name=MOTION_FPS,
                    default=0.0,
                    min=0.0,
                    max=60.0,
                    step=1.0,
                    tooltip="The fps condition: how fast the motion is, 4 to 30 frames per second; higher moves less "
                    "from frame to frame. It is not the frame_rate of the file. 0 keeps what VideoCrafter FPS set, or "
                    "the model's own default.",
                ),
                io.Float.Input(
                    "guidance_rescale",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="0 to 1, brings contrast and colours back to what the prompt alone would give, against "
                    "burnt colours at high cfg. 0 is off, as the authors; 0.7 is usual.",
                    **advanced(io.Float.Input),
                ),
                io.Float.Input(
                    "temporal_guidance",
                    default=0.0,
                    min=-10.0,
                    max=10.0,
                    step=0.1,
                    tooltip="-10 to 10, pushes towards frames that belong together: 0 is off, 0.5 to 2 make motion "
                    "more coherent, too much freezes it. Takes one more pass in each step (1.5 times the time).",
                    **advanced(io.Float.Input),
                ),
                io.Conditioning.Input(
                    "picture_only",
                    optional=True,
                    tooltip="From VideoCrafter Picture to Video, for DynamiCrafter: what the picture alone asks for. "
                    "With it, cfg counts for the text and image_cfg for the picture; one more pass in each step.",
                ),
                io.Float.Input(
                    "image_cfg",
                    default=1.5,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    round=0.01,
                    optional=True,
                    tooltip="How strongly the picture is followed, 0 to 100, where picture_only is connected; without "
                    "it there is one scale for both.",
                    **advanced(io.Float.Input),
                ),
                io.Float.Input(
                    "motion",
                    default=-1.0,
                    min=-1.0,
                    max=1.0,
                    step=0.01,
                    optional=True,
                    tooltip="Motion guidance of T2V-Turbo v2, 0 to 0.5: how much should move. -1 takes the model's "
                    "own; other models ignore it.",
                    **advanced(io.Float.Input),
                ),
                io.Combo.Input(
                    "long_video",
                    options=list(LONG_VIDEO),
                    default=LONG_VIDEO[0],
                    optional=True,
                    tooltip="For clips of more than 16 frames; shorter ones do not change. Use eta 0, except 1 for "
                    "fifo and freelong. Time is per frame, compared with clips of 16 frames.\n"
                    "off: all frames as one clip.\n"
                    "freenoise: one steady scene of 32 to 128 frames; memory grows with them; time 1.\n"
                    "freelong: as freenoise, more even from frame to frame; time 1 to 1.3.\n"
                    "windows_fast: any length in the memory of 16 frames; time 1.1 to 1.5.\n"
                    "windows: the same with windows that overlap by half; time 2.\n"
                    "loop: windows on a ring, the clip ends where it begins; time 2.\n"
                    "continue: clip after clip, each from the last 8 frames of the one before; time 1.5 to 2.\n"
                    "fifo: any length through a queue of rising noise; time 3 or more.",
                ),
                io.Int.Input(
                    "free_init",
                    default=0,
                    min=0,
                    max=MOST_ROUNDS,
                    optional=True,
                    tooltip="0 to 10 further rounds, each from the slow and coarse part of the last result "
                    "(FreeInit): steadier frames, and as many times longer. The authors take 2 to 4; 0 is off. Not "
                    "with continue and fifo.",
                    **advanced(io.Int.Input),
                ),
            ],
            outputs=[io.Latent.Output(tooltip="The clip, for VideoCrafter Decode or VAE Decode.")],
            **aliases(
                "videocrafter",
                "ksampler",
                "sample video",
                "ddim",
                "generate",
                "dynamicrafter",
                "lcm turbo",
                "few steps",
                "loop",
                "infinite video",
                "long video",
            ),
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        seed: int,
        steps: int,
        cfg: float,
        sampler_name: str,
        scheduler: str,
        positive: Any,
        negative: Any,
        latent_image: dict[str, Any],
        denoise: float = 1.0,
        eta: float = 1.0,
        fps: float = 0.0,
        guidance_rescale: float = 0.0,
        temporal_guidance: float = 0.0,
        picture_only: Any = None,
        image_cfg: float = 1.5,
        motion: float = -1.0,
        long_video: str = LONG_VIDEO[0],
        free_init: int = 0,
    ) -> io.NodeOutput:
        latents, mask = latent_image["samples"], latent_image.get("noise_mask")
        _check(latents, denoise, eta)
        pure = denoise >= 1 and mask is None
        check_long(long_video, model, latents, (positive, negative), from_noise=pure, rounds=free_init)
        check_start(model, alone=long_video == LONG_VIDEO[0] and not free_init)
        check_texts({"positive": positive, "negative": negative, "picture_only": picture_only}, len(latents))
        model = PATCHES.get(long_video, lambda given: given)(model)
        told = with_settings(model, (positive, negative, picture_only), fps=fps, cfg=cfg, motion=motion)
        clips = Clips(
            model=model,
            sampler=partial(_sampler, sampler_name, eta),
            sigmas=partial(_sigmas, model, sampler_name, scheduler, steps),
            exact=sampler_name in (EXACT, EXACT_LCM),
            guidance=Guidance(
                scale=told.cfg,
                rescale=guidance_rescale,
                temporal=temporal_guidance,
                image_scale=None if picture_only is None else image_cfg,
            ),
            told=dict(zip(("positive", "negative", "image_only"), told.conditionings, strict=True)),
            share=denoise,
        )
        if ways_of(told.conditionings):
            made = along(clips.make, clips.told, latents, mask, seed)
        elif long_video == CONTINUE and len(latents) > SEGMENT:
            made = one_after_the_other(clips, latents, seed)
        elif long_video == FIFO and len(latents) > SEGMENT:
            made = through_a_queue(clips, latents, seed)
        elif free_init:
            made = in_rounds(clips, latents, seed, free_init)
        else:
            made = clips.make(latents, mask, seed)
        return io.NodeOutput({**latent_image, "samples": made})


def _sampler(name: str, eta: float, pure: bool) -> Any:
    """SAMPLER by the node's name for it."""
    if name in (EXACT, EXACT_LCM):
        return sampling.CoreSampler(OWN_SAMPLERS[name], eta, pure=pure)
    return sampling.host_sampler(name, eta)


class VideoCrafterSampler(io.ComfyNode):
    """A sampler of ours for SamplerCustom and its kind."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VideoCrafterSampler",
            display_name="VideoCrafter Sampler",
            category=CATEGORY,
            description="VideoCrafter's own samplers for ComfyUI's custom-sampling nodes. Their fresh noise comes "
            "from the seed on the CPU, so a seed gives the same clip on every machine.",
            inputs=[
                io.Combo.Input(
                    "sampler",
                    options=list(OWN_SAMPLERS),
                    default=EXACT,
                    tooltip="ddim_exact is the authors' sampler, number for number (with VideoCrafter Scheduler, "
                    "uniform), lcm_exact that of T2V-Turbo (with the spacing lcm). dpmpp_2m and euler reach the same "
                    "quality in about half the steps; euler_ancestral and dpmpp_2m_sde add fresh noise in each step.",
                ),
                io.Float.Input(
                    "eta",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="0 to 1, fresh noise added in each step: 1 as the authors, 0 none. euler and dpmpp_2m "
                    "ignore it.",
                ),
            ],
            outputs=[io.Sampler.Output(tooltip="For SamplerCustom and SamplerCustomAdvanced.")],
            **aliases("videocrafter", "custom sampler", "ddim", "lcm turbo", "few steps"),
        )

    @classmethod
    def execute(cls, sampler: str = EXACT, eta: float = 1.0) -> io.NodeOutput:
        _check_eta(eta)
        if sampler not in OWN_SAMPLERS:
            raise UserError(f"There is no sampler {sampler!r}; choose one of {', '.join(OWN_SAMPLERS)}.")
        return io.NodeOutput(sampling.CoreSampler(OWN_SAMPLERS[sampler], eta))


class VideoCrafterScheduler(io.ComfyNode):
    """The steps' noise levels for SamplerCustom and its kind."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VideoCrafterScheduler",
            display_name="VideoCrafter Scheduler",
            category=CATEGORY,
            description="The noise levels of VideoCrafter's own step spacings, for ComfyUI's custom-sampling nodes.",
            inputs=[
                io.Model.Input("model", tooltip="The video model; its noise schedule is read from it."),
                io.Combo.Input("spacing", options=list(SPACINGS), default="uniform", tooltip=f"{SPACING}."),
                io.Int.Input("steps", default=50, min=1, max=1000, tooltip=STEPS),
                io.Float.Input("denoise", default=1.0, min=0.01, max=1.0, step=0.01, tooltip=DENOISE),
            ],
            outputs=[io.Sigmas.Output(tooltip="For SamplerCustom and SamplerCustomAdvanced.")],
            **aliases("videocrafter", "sigmas", "timesteps", "spacing", "lcm turbo", "few steps"),
        )

    @classmethod
    def execute(cls, model: Any, spacing: str = "uniform", steps: int = 50, denoise: float = 1.0) -> io.NodeOutput:
        _check_denoise(denoise)
        return io.NodeOutput(_spaced(sampling.schedule_of(model), spacing, steps, denoise))


def _sigmas(model: Any, sampler: str, scheduler: str, steps: int, denoise: float) -> Tensor:
    if scheduler in SPACINGS:
        return _spaced(sampling.schedule_of(model), scheduler, steps, denoise)
    if scheduler not in sampling.host_schedulers():
        raise UserError(
            f"There is no scheduler {scheduler!r}; choose one of {', '.join((*SPACINGS, *sampling.host_schedulers()))}."
        )
    return sampling.host_sigmas(model, sampler, scheduler, steps, denoise)


def _spaced(schedule: NoiseSchedule, spacing: str, steps: int, denoise: float) -> Tensor:
    """Falling sigmas of the rescaled process, ending with 0."""
    timesteps = schedule.timesteps(steps, spacing)  # type: ignore[arg-type]
    run = max(1, round(len(timesteps) * denoise))
    return torch.cat([schedule.sigmas[timesteps[-run:]], torch.zeros(1)]).float()


def _check(latents: Tensor, denoise: float, eta: float) -> None:
    check_latents(latents)
    _check_denoise(denoise)
    _check_eta(eta)


def _check_denoise(denoise: float) -> None:
    if not 0 < denoise <= 1:
        raise UserError(f"denoise is {denoise}; it should be above 0 (changes little) and at most 1 (all new).")


def _check_eta(eta: float) -> None:
    if not 0 <= eta <= 1:
        raise UserError(f"eta is {eta}; it should be from 0 (no fresh noise) to 1 (as the authors).")


NODES: list[type[io.ComfyNode]] = [VideoCrafterKSampler, VideoCrafterSampler, VideoCrafterScheduler]
