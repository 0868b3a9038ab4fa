"""Clips longer than the models were trained on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..vc_core.conditioning import text_over_time
from ..vc_core.control.table import check_each_section
from ..vc_core.errors import UserError
from ..vc_core.features import uses_of_controls, uses_of_model
from ..vc_core.long import METHODS, Method, method_named
from ..vc_core.long.method import Feature, OneClip, Parameter, Use, Video
from ..vc_core.long.off import Off
from ..vc_core.long.table import check, settled, with_eta
from ..vc_core.specs import ModelSpec, UNetSpec, Windows
from .frames import check_latents
from .host.compat import advanced, aliases, choice
from .host.controls import controls_of
from .host.long import check_not_nested, with_freenoise
from .host.model import EARLY_TEXT, PICTURES, check_text_frames
from .host.sampling import first_level
from .keyframes import has_row

CATEGORY = "VideoCrafter/long"
ROUNDS = "free_init"
"""The parameter that is a widget of the sampler node, for all methods."""

MOST_ROUNDS = max(int(item.high or 0) for item in Off.parameters() if item.name == ROUNDS)
LongVideoSettings = io.Custom("VIDEOCRAFTER_LONG_VIDEO")
"""The socket of a method with its settings."""
TRAINED = UNetSpec().temporal_length
"""Frames that models of another kind count as trained on."""
LONG_VIDEO = (
    f"For clips longer than the model was trained on, usually {TRAINED} frames; shorter ones do not change. Use eta 0, "
    f"but 1 with {' and '.join(with_eta(1))}. Time "
    f"is per frame, relative to clips of {TRAINED} frames.\n"
) + "\n".join(f"{name}: {each.summary}; time {each.time}." for name, each in METHODS.items())
NOISE_MODES = ("shuffled", "fresh")
ROW_USE = Use(given="A row of key frames", cure="Give VideoCrafter Image to Video two images at most")
ENDS_USE = Use(given="An end image or a loop", cure="Leave end_image and loop of VideoCrafter Image to Video out")


class VideoCrafterFreeNoise(io.ComfyNode):
    """A patch that lets a model that was trained on 16 frames make many more."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VideoCrafterFreeNoise",
            display_name="VideoCrafter FreeNoise",
            category=CATEGORY,
            description="Lets the model make clips of 32, 64, 128 or more frames that stay one scene: frames see each "
            "other in overlapping windows, and the later frames reuse the noise of the first ones "
            "(FreeNoise). Clips of one window or less do not change.",
            inputs=[
                io.Model.Input("model", tooltip="The video model."),
                io.Int.Input(
                    "window",
                    default=16,
                    min=2,
                    max=256,
                    tooltip="Frames that see each other, 2 to 256. The models were trained with 16; other sizes work "
                    "less well.",
                ),
                io.Int.Input(
                    "stride",
                    default=4,
                    min=1,
                    max=256,
                    tooltip="Frames from one window to the next, 1 to the window's size. The authors take 4: smaller "
                    "is smoother and slower, larger is faster and shows its borders sooner.",
                ),
                io.Combo.Input(
                    "noise",
                    options=list(NOISE_MODES),
                    default=NOISE_MODES[0],
                    tooltip="shuffled: later frames begin from the noise of earlier ones in another order, which keeps "
                    "object and scene the same, as the authors do. fresh: every frame has noise of its own, for more "
                    "change.",
                    **advanced(io.Combo.Input),
                ),
            ],
            outputs=[io.Model.Output(tooltip="The model for long clips, for any sampler; use eta 0.")],
            **aliases("videocrafter", "long video", "longer", "128 frames", "infinite video", "sliding window"),
        )

    @classmethod
    def execute(cls, model: Any, window: int = 16, stride: int = 4, noise: str = NOISE_MODES[0]) -> io.NodeOutput:
        if noise not in NOISE_MODES:
            raise UserError(f"There is no noise mode {noise!r}; choose one of {', '.join(NOISE_MODES)}.")
        windows = Windows(size=window, stride=stride)
        return io.NodeOutput(with_freenoise(model, windows, reuse=noise == NOISE_MODES[0]))


class VideoCrafterPromptsOverTime(io.ComfyNode):
    """Several prompts, one after the other."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VideoCrafterPromptsOverTime",
            display_name="VideoCrafter Prompts Over Time",
            category=CATEGORY,
            description="One conditioning out of two to four prompts that follow each other over the clip. Each turns "
            "into the next over several frames. Needs a long clip: with FreeNoise or context windows.",
            inputs=[
                io.Conditioning.Input("first", tooltip="The encoded prompt of the clip's beginning."),
                io.Conditioning.Input("second", tooltip="The encoded prompt that follows."),
                io.Latent.Input(
                    "latent_image",
                    tooltip="The latent that will be sampled: the prompts are spread over its frames.",
                ),
                io.Conditioning.Input("third", optional=True, tooltip="A third encoded prompt, if there is one."),
                io.Conditioning.Input("fourth", optional=True, tooltip="A fourth encoded prompt, if there is one."),
                io.Boolean.Input(
                    "injection",
                    default=False,
                    optional=True,
                    tooltip="In the first 5 steps and from the 17th on, the first half of the network takes the last "
                    "prompt for all frames, as FreeNoise's authors do: the scene stays more the same, and the prompts "
                    "move it. Off: every step takes each frame's own prompt everywhere.",
                    **advanced(io.Boolean.Input),
                ),
            ],
            outputs=[
                io.Conditioning.Output(
                    tooltip="A text for each frame, with everything else (image, fps) that the first prompt carries."
                )
            ],
            **aliases("videocrafter", "prompt travel", "prompt schedule", "multi prompt", "morph"),
        )

    @classmethod
    def execute(
        cls,
        first: Any,
        second: Any,
        latent_image: dict[str, Any],
        third: Any = None,
        fourth: Any = None,
        injection: bool = False,
    ) -> io.NodeOutput:
        latents = latent_image["samples"]
        check_latents(latents)
        given = [conditioning for conditioning in (first, second, third, fourth) if conditioning is not None]
        texts = [_text(conditioning) for conditioning in given]
        shapes = {tuple(text.shape) for text in texts}
        if len(shapes) > 1:
            raise UserError(
                f"The prompts were encoded to different shapes, {sorted(shapes)}. Encode all with the same CLIP "
                "and keep each within its 77 tokens."
            )
        text = text_over_time(torch.cat(texts), latents.shape[0])[0]
        early = {EARLY_TEXT: texts[-1]} if injection else {}
        return io.NodeOutput([(text, {**first[0][1], **early})])


def _text(conditioning: Any) -> Tensor:
    """1 tokens d of a CONDITIONING that holds one prompt"""
    if len(conditioning) != 1 or conditioning[0][0].shape[0] != 1:
        raise UserError(
            "Each prompt input takes one encoded prompt; this one was combined of several or has a text for each "
            "frame. Connect CLIP Text Encode directly."
        )
    text: Tensor = conditioning[0][0]
    return text


class VideoCrafterLongVideo(io.ComfyNode):
    """A long-video method with its settings."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VideoCrafterLongVideo",
            display_name="VideoCrafter Long Video",
            category=CATEGORY,
            description="A method for long clips with settings of its own, for long_video_settings of VideoCrafter "
            "KSampler. Without this node, long_video of VideoCrafter KSampler takes the settings that measured best.",
            inputs=[
                choice(
                    "method",
                    {
                        name: [_widget(item) for item in each.parameters() if item.name != ROUNDS]
                        for name, each in METHODS.items()
                        if name != Off.name
                    },
                    tooltip="The method; its settings are below. What each is for: see long_video of VideoCrafter "
                    "KSampler.",
                )
            ],
            outputs=[
                LongVideoSettings.Output(
                    display_name="long_video_settings", tooltip="For long_video_settings of VideoCrafter KSampler."
                )
            ],
            **aliases("videocrafter", "long video", "window", "overlap", "stride"),
        )

    @classmethod
    def execute(cls, method: dict[str, Any] | str) -> io.NodeOutput:
        values = {"method": method} if isinstance(method, str) else dict(method)
        return io.NodeOutput(method_named(values.pop("method"))(**values))


def _widget(item: Parameter) -> Any:
    """The widget of a method's parameter."""
    tooltip = f"{item.help[0].upper()}{item.help[1:]}."
    if item.choices:
        return io.Combo.Input(item.name, options=list(item.choices), default=item.default, tooltip=tooltip)
    kind, step = (io.Int, 1) if item.kind is int else (io.Float, 0.05)
    return kind.Input(item.name, default=item.default, min=item.low or 0, max=item.high, step=step, tooltip=tooltip)


def chosen(name: str, settings: Method | None, rounds: int, model: Any, frames: int) -> Method:
    """The method of a run by a MODEL, with `rounds` of FreeInit. settings: those of VideoCrafter Long Video, which take
    the place of the name. Raises UserError for names and rounds that do not exist, and rounds with other methods."""
    spec = getattr(model.model, "spec", None)
    method = settled(
        method_named(name)() if settings is None else settings,
        trained=TRAINED if spec is None else spec.unet.temporal_length,
        frames=frames,
    )
    if isinstance(method, OneClip):
        return replace(method, free_init=rounds)
    if rounds:
        raise UserError(
            f"free_init is not supported with long_video {method.name}, which has no rounds: set it to 0, or choose "
            "freenoise."
        )
    return method


def check_used(
    method: Method,
    model: Any,
    conditionings: Mapping[str, Any],
    latent: Mapping[str, Any],
    denoise: float,
    sigmas: Callable[[float], Tensor],
) -> None:
    """Raises UserError where a method does not support the sampler's other inputs."""
    frames = len(latent["samples"])
    if not method.is_plain(frames):
        check_not_nested(model, f"long_video {method.name}")
    uses = _uses(conditionings, getattr(model.model, "spec", None))
    controls = [given.control for given in controls_of(model.model_options)]
    if Feature.KEY_FRAMES in uses:
        check_each_section(controls)
    uses.update(uses_of_controls(controls))
    if denoise < 1:
        uses[Feature.SOURCE] = Use(given=f"A denoise of {denoise:g}", cure="Set denoise to 1")
    if latent.get("noise_mask") is not None:
        uses[Feature.MASK] = Use(given="A noise mask", cure="Leave the noise mask out")
    video = Video(frames=frames, first=lambda: first_level(model, sigmas(1.0)), option="long_video", uses=uses)
    check(method, video)


def _uses(conditionings: Mapping[str, Any], spec: ModelSpec | None) -> dict[Feature, Use]:
    """What a method may not support of the conditionings and the model."""
    entries = [entry for each in conditionings.values() for entry in each or ()]
    frame_texts = any(text.shape[0] > 1 for text, _ in entries)
    ends = any(len(values.get(PICTURES, ())) > 1 for _, values in entries)
    control = any(values.get("control") is not None for _, values in entries)
    uses = {
        Feature.KEY_FRAMES: (has_row(conditionings.values()), ROW_USE),
        Feature.END_IMAGE: (ends, ENDS_USE),
        Feature.FRAME_TEXTS: (frame_texts, Use(given="VideoCrafter Prompts Over Time", cure="Connect one prompt")),
        Feature.CONTROL: (control, Use(given="ControlNet", cure="Leave ControlNet out")),
    }
    used = {feature: use for feature, (is_used, use) in uses.items() if is_used}
    return used if spec is None else {**uses_of_model(spec), **used}


def check_texts(conditionings: Mapping[str, Any], frames: int) -> None:
    """Raises UserError for prompts over time of another length than the clip, before a method cuts them."""
    for name, conditioning in conditionings.items():
        for text, _ in conditioning or ():
            check_text_frames(text, frames, name)


NODES: list[type[io.ComfyNode]] = [VideoCrafterFreeNoise, VideoCrafterPromptsOverTime, VideoCrafterLongVideo]
