"""NOISE -> LATENT: the KSampler that knows about time."""

from __future__ import annotations

from functools import partial
from typing import Any

from comfy_api.latest import io

from ..vc_core.denoising.guidance import Guidance
from ..vc_core.long import METHODS, Method
from ..vc_core.long.off import Off
from .clips import ModelEngine, joined
from .conditioning import MOTION_FPS, with_settings
from .frames import check_latents
from .host import sampling
from .host.compat import advanced, aliases
from .host.long import with_windows
from .host.start import check_start
from .keyframes import row_of
from .long import LONG_VIDEO, MOST_ROUNDS, LongVideoSettings, check_texts, check_used, chosen
from .spacing import (
    CATEGORY,
    DENOISE,
    ETA,
    EXACT,
    EXACT_LCM,
    SPACING,
    SPACINGS,
    STEPS,
    check_denoise,
    check_eta,
    sampler_named,
    sigmas_of,
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
                    tooltip="From VideoCrafter Picture to Video, for DynamiCrafter: the image without the prompt. With "
                    "it, cfg counts for the prompt and image_cfg for the image, for one more pass in each step.",
                ),
                io.Float.Input(
                    "image_cfg",
                    default=1.5,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    round=0.01,
                    optional=True,
                    tooltip="How strongly the image is followed, 0 to 100, where picture_only is connected; without "
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
                    options=list(METHODS),
                    default=Off.name,
                    optional=True,
                    tooltip=LONG_VIDEO,
                ),
                io.Int.Input(
                    "free_init",
                    default=0,
                    min=0,
                    max=MOST_ROUNDS,
                    optional=True,
                    tooltip="0 to 10 further rounds, each from the low frequencies of the last result (FreeInit): "
                    "steadier frames, and as many times longer. The authors use 2 to 4; 0 is off. Not supported with "
                    "continue and fifo.",
                    **advanced(io.Int.Input),
                ),
                LongVideoSettings.Input(
                    "long_video_settings",
                    optional=True,
                    tooltip="From VideoCrafter Long Video: a method with settings of its own, in place of long_video.",
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
        long_video: str = Off.name,
        free_init: int = 0,
        long_video_settings: Method | None = None,
    ) -> io.NodeOutput:
        latents, mask = latent_image["samples"], latent_image.get("noise_mask")
        check_latents(latents)
        check_denoise(denoise)
        check_eta(eta)
        given = {"positive": positive, "negative": negative, "image_only": picture_only}
        method = chosen(long_video, long_video_settings, free_init, model, len(latents))
        sigmas = partial(sigmas_of, model, sampler_name, scheduler, steps)
        check_used(method, model, given, latent_image, denoise, sigmas)
        alone = long_video_settings is None and long_video == Off.name and not free_init
        check_start(model, alone=alone)
        check_texts(given, len(latents))
        model = with_windows(model, method.windows())
        settled = with_settings(model, tuple(given.values()), fps=fps, cfg=cfg, motion=motion)
        engine = ModelEngine(
            model=model,
            sampler=partial(sampler_named, sampler_name, eta),
            sigmas=sigmas,
            exact=sampler_name in (EXACT, EXACT_LCM),
            guidance=Guidance(
                scale=settled.cfg,
                rescale=guidance_rescale,
                temporal=temporal_guidance,
                image_scale=None if picture_only is None else image_cfg,
            ),
            conditionings=dict(zip(("positive", "negative", "image_only"), settled.conditionings, strict=True)),
            latents=latents,
            mask=mask,
            seed=seed,
            share=denoise,
        )
        made = row_of(given.values(), latents, mask) or method
        return io.NodeOutput({**latent_image, "samples": joined(made.run(engine))})


NODES: list[type[io.ComfyNode]] = [VideoCrafterKSampler]
