"""Clips longer than the models were trained on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..vc_core.conditioning import text_over_time
from ..vc_core.denoising.windows import ContextWindows
from ..vc_core.errors import UserError
from ..vc_core.specs import Windows
from .frames import check_latents
from .host.compat import advanced, aliases
from .host.long import check_not_nested, with_freenoise, with_passes_in_windows
from .host.model import EARLY_TEXT, PICTURES, check_text_frames
from .keyframes import ways_of

CATEGORY = "VideoCrafter/long"

OFF, FREENOISE, CONTINUE, FREELONG = "off", "freenoise", "continue", "freelong"
WINDOWS, LOOP, FIFO = "windows", "loop", "fifo"
WINDOWS_FAST = "windows_fast"
LONG_VIDEO = (OFF, FREENOISE, CONTINUE, FREELONG, WINDOWS, LOOP, FIFO, WINDOWS_FAST)
"""The sampler node's ways to long clips."""
PATCHES: dict[str, Callable[[Any], Any]] = {
    FREENOISE: lambda model: with_freenoise(model, Windows(), reuse=True),
    FREELONG: lambda model: with_freenoise(model, Windows(spectral=True), reuse=True),
    WINDOWS: lambda model: with_passes_in_windows(model, ContextWindows(order="uniform")),
    LOOP: lambda model: with_passes_in_windows(model, ContextWindows(order="looped")),
    WINDOWS_FAST: lambda model: with_passes_in_windows(model, ContextWindows(stride=16, order="shifted")),
}
"""Those that are something done to the model."""
SEGMENT = 16
"""Frames that the models were trained on; up to so many, all methods are plain sampling."""
MOST_ROUNDS = 10
"""Of FreeInit."""
NOISE_MODES = ("shuffled", "fresh")


class VideoCrafterFreeNoise(io.ComfyNode):
    """A patch that lets a model of 16 frames make many more."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VideoCrafterFreeNoise",
            display_name="VideoCrafter FreeNoise",
            category=CATEGORY,
            description="Lets the model make clips of 32, 64, 128 or more frames that stay one scene: frames see each "
            "other in overlapping windows, and the noise of the first frames is used again for the later ones "
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
                    tooltip="A text for each frame, with everything else (picture, fps) that the first prompt carries."
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


def check_long(
    name: str, model: Any, latents: Tensor, told: tuple[Any, ...], *, from_noise: bool, rounds: int = 0
) -> None:
    """Raises UserError for a way to long videos that does not exist or does not go with the sampler's other inputs."""
    if name not in LONG_VIDEO:
        raise UserError(f"There is no way {name!r} to long videos; choose one of {', '.join(LONG_VIDEO)}.")
    if not 0 <= rounds <= MOST_ROUNDS:
        raise UserError(f"free_init is {rounds}; it should be from 0 (off) to {MOST_ROUNDS} further rounds.")
    long = latents.shape[0] > SEGMENT
    if long and name != OFF:
        check_not_nested(model, f"long_video {name}")
    for what, asked in ((f"long_video {name}", long and name in (CONTINUE, FIFO)), ("free_init", rounds > 0)):
        if asked and not from_noise:
            raise UserError(
                f"{what} makes clips from noise alone: set denoise to 1 and leave the noise mask out, or choose "
                "long_video freenoise without free_init."
            )
    if rounds and long and name in (CONTINUE, FIFO):
        raise UserError(f"free_init does not go together with long_video {name}: set it to 0, or choose freenoise.")
    if rounds or (long and name in (CONTINUE, FIFO)):
        _check_row(told)
    if name == CONTINUE and long:
        _check_end(told)
    if name == FIFO and long:
        _check_queue(model, told)


def check_texts(told: Mapping[str, Any], frames: int) -> None:
    """Raises UserError for prompts over time of another length than the clip. Ways to long videos cut them later."""
    for name, conditioning in told.items():
        for text, _ in conditioning or ():
            check_text_frames(text, frames, name)


def _check_row(told: tuple[Any, ...]) -> None:
    if ways_of(told):
        raise UserError(
            "A row of key frames is made way by way, each a clip of its own: set long_video to off and free_init to 0."
        )


def _check_end(told: tuple[Any, ...]) -> None:
    if any(len(each.get(PICTURES, ())) > 1 for conditioning in told for _, each in conditioning):
        raise UserError(
            "long_video continue goes on from the last frame of each clip, so it comes to no end picture and to no "
            "loop: choose windows or freenoise, or leave end_image and loop of VideoCrafter Picture to Video out."
        )


def _check_queue(model: Any, told: tuple[Any, ...]) -> None:
    spec = getattr(model.model, "spec", None)
    cure = "choose freenoise, windows or continue"
    if any(text.shape[0] > 1 for conditioning in told for text, _ in conditioning):
        raise UserError(f"long_video fifo does not know prompts over time: {cure}.")
    if any(each.get("control") is not None for conditioning in told for _, each in conditioning):
        raise UserError(
            "long_video fifo does not know ControlNet, whose hints each belong to a frame: choose freenoise."
        )
    if spec is not None and (spec.unet.concat_channels or spec.unet.motion_width):
        raise UserError(f"long_video fifo cannot drive models that continue a picture or have motion guidance: {cure}.")


NODES: list[type[io.ComfyNode]] = [VideoCrafterFreeNoise, VideoCrafterPromptsOverTime]
