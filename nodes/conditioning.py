"""PROMPT, PICTURE -> CONDITIONING: what VideoCrafter knows beyond ComfyUI's own text nodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..vc_core.errors import UserError
from ..vc_core.frames.pixels import to_network
from .host.clip_vision import encode_pictures, encoded_picture
from .host.compat import aliases
from .host.model import FPS, GUIDANCE, IMAGE_TOKENS, MOTION

CATEGORY = "VideoCrafter/conditioning"

Conditioning = list[tuple[Any, dict[str, Any]]]

MOTION_FPS = "motion_fps"
"""What the page calls the fps condition, apart from the frame rate of a file; saved workflows know it as `fps`."""

GREY_SIZE = 8
"""Pixels; a plain picture is the same in any size."""


class VideoCrafterImageConditioning(io.ComfyNode):
    """A picture for an image-to-video model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VideoCrafterImageConditioning",
            display_name="VideoCrafter Image Conditioning",
            category=CATEGORY,
            description="Shows a picture to an image-to-video model: the video takes its content and style. The "
            "negative conditioning gets a plain grey picture, as in training.",
            inputs=[
                io.Conditioning.Input("positive", tooltip="The encoded prompt: what should happen in the picture."),
                io.Conditioning.Input("negative", tooltip="The encoded negative prompt (an empty one is usual)."),
                io.Model.Input(
                    "model",
                    tooltip="The image-to-video model that will sample; it holds the part that "
                    "turns the encoded picture into tokens.",
                ),
                io.ClipVision.Input(
                    "clip_vision",
                    tooltip="The image encoder from the same checkpoint, or any "
                    "OpenCLIP ViT-H-14 image encoder for the published model.",
                ),
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip="One picture of any size. The encoder squeezes it to a square as a "
                    "whole, nothing is cut off; give it the proportions of the video. Transparent parts "
                    "become white.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=2.0,
                    step=0.05,
                    tooltip="0 to 2, how much the picture counts: 1 as in training, 0 not at all (as if it were "
                    "grey), lower leaves more freedom to the prompt, above 1 exaggerates it.",
                ),
                io.ClipVisionOutput.Input(
                    "clip_vision_output",
                    optional=True,
                    tooltip="Instead of image: a picture that CLIP Vision Encode has encoded with the same image "
                    "encoder (crop none is nearest to what the model was trained with).",
                ),
            ],
            outputs=[
                io.Conditioning.Output("positive_out", display_name="positive", tooltip="The prompt with the picture."),
                io.Conditioning.Output(
                    "negative_out", display_name="negative", tooltip="The negative prompt with the grey picture."
                ),
            ],
            **aliases("videocrafter", "image to video", "i2v", "picture", "start frame", "ip adapter"),
        )

    @classmethod
    def execute(
        cls,
        positive: Conditioning,
        negative: Conditioning,
        model: Any,
        clip_vision: Any,
        image: Tensor | None = None,
        strength: float = 1.0,
        clip_vision_output: Any = None,
    ) -> io.NodeOutput:
        if (image is None) == (clip_vision_output is None):
            raise UserError(
                f"{'Neither' if image is None else 'Both'} of image and clip_vision_output is connected: connect the "
                "picture to image, or what CLIP Vision Encode made of it to clip_vision_output."
            )
        picture = None if image is None else to_network(checked_picture(image)[None])
        shown, grey = picture_tokens(model, clip_vision, picture, clip_vision_output)
        return io.NodeOutput(
            with_values(positive, {IMAGE_TOKENS: torch.lerp(grey, shown, strength)}),
            with_values(negative, {IMAGE_TOKENS: grey}),
        )


class VideoCrafterFPS(io.ComfyNode):
    """The model's fps condition."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VideoCrafterFPS",
            display_name="VideoCrafter FPS",
            category=CATEGORY,
            description="Sets the frames per second that the model is asked to imagine, for ComfyUI's own samplers. "
            "It changes how much moves from frame to frame, not the frame_rate of the saved file. Without this node "
            "the model's own default counts (28 for VideoCrafter2 and T2V-1024, 8 for I2V-512).",
            inputs=[
                io.Conditioning.Input("positive", tooltip="The encoded prompt."),
                io.Conditioning.Input("negative", tooltip="The encoded negative prompt."),
                io.Float.Input(
                    "fps",
                    display_name=MOTION_FPS,
                    default=16.0,
                    min=1.0,
                    max=60.0,
                    step=1.0,
                    tooltip="Frames per second, 1 to 60; 4 to 30 is what the models know. Higher means less motion "
                    "between two frames, lower means more. Models without the condition (VideoCrafter1 T2V-512) "
                    "ignore it.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(
                    "positive_out", display_name="positive", tooltip="The prompt with the fps condition."
                ),
                io.Conditioning.Output(
                    "negative_out", display_name="negative", tooltip="The negative prompt with the same fps condition."
                ),
            ],
            **aliases("videocrafter", "motion fps", "motion amount", "speed"),
        )

    @classmethod
    def execute(cls, positive: Conditioning, negative: Conditioning, fps: float = 16.0) -> io.NodeOutput:
        return io.NodeOutput(with_fps(positive, fps), with_fps(negative, fps))


def with_fps(conditioning: Conditioning, fps: float) -> Conditioning:
    """A copy of the conditioning that asks for this many frames per second."""
    if not 0 < fps <= 1000:
        raise UserError(f"The fps condition is {fps:g}; it should be above 0. The models know about 4 to 30.")
    return with_values(conditioning, {FPS: float(fps)})


@dataclass(frozen=True)
class Told:
    """Conditionings for a run, and the scale of the guidance between them."""

    conditionings: list[Conditioning | None]
    cfg: float


def with_settings(
    model: Any, conditionings: Sequence[Conditioning | None], *, fps: float, cfg: float, motion: float
) -> Told:
    """The conditionings with the settings of a run, for a MODEL of any kind. An fps of 0 and a negative motion leave
    what is there. A model that reads its guidance scale gets it, and is then run without guidance."""
    spec = getattr(model.model, "spec", None)
    reads_scale = spec is not None and spec.embeds_guidance
    values: dict[str, Any] = {}
    if reads_scale:
        values[GUIDANCE] = float(cfg)
    if motion >= 0:
        values[MOTION] = float(motion)
    asked = [None if each is None else with_fps(each, fps) if fps else each for each in conditionings]
    told = [None if each is None else with_values(each, values) for each in asked]
    return Told(told, 1.0 if reads_scale else cfg)


def with_values(conditioning: Conditioning, values: dict[str, Any]) -> Conditioning:
    """A copy of the conditioning that carries these values as well."""
    return [(text, {**told, **values}) for text, told in conditioning]


def picture_tokens(model: Any, clip_vision: Any, picture: Tensor | None, encoded: Any = None) -> tuple[Tensor, Tensor]:
    """Image tokens of a picture 1 3 h w in -1..1, or of one that core has encoded, and of a plain grey one: each 1 m d,
    or frames m d."""
    project = _projector(model)
    pooled = project.pooled
    plain = encode_pictures(clip_vision, torch.zeros(1, 3, GREY_SIZE, GREY_SIZE), pooled=pooled)
    seen = (
        encoded_picture(encoded, pooled=pooled)
        if picture is None
        else encode_pictures(clip_vision, picture, pooled=pooled)
    )
    shown, grey = project(seen)[0], project(plain)[0]
    return (shown, grey) if shown.ndim == 3 else (shown[None], grey[None])


def _projector(model: Any) -> Any:
    spec = getattr(model.model, "spec", None)
    if spec is None:
        raise UserError(
            "The model input is not a VideoCrafter model. Connect the one from VideoCrafter's checkpoint loader."
        )
    if not spec.reads_images:
        raise UserError(
            f"{spec.name} is a text-to-video model: it cannot see pictures. Load an image-to-video model "
            "(VideoCrafter1 I2V-512), or leave this node out."
        )
    if model.model.image_tokens is None:
        raise UserError(
            "The file of this image-to-video model lacks the part that turns pictures into tokens (image_proj_model). "
            "Load the whole checkpoint, or a UNet file converted by this project, which keeps that part."
        )
    return model.model.image_tokens


def checked_pictures(images: Tensor) -> list[Tensor]:
    """IMAGE -> its pictures, each as `checked_picture` gives it. Raises UserError for anything else."""
    row = [checked_picture(images[i : i + 1]) for i in range(len(images))] if images.ndim == 4 else []
    return row or [checked_picture(images)]  # which says what is wrong with it


def checked_picture(image: Tensor) -> Tensor:
    """IMAGE -> one picture, h w 3 in 0..1; transparent parts become white. Raises UserError for anything else."""
    if image.ndim != 4 or image.shape[-1] not in (1, 3, 4) or 0 in image.shape:
        raise UserError(
            f"The picture has the shape {tuple(image.shape)}; it should be (1, height, width, channels) with 1, 3 or 4 "
            "channels."
        )
    if image.shape[0] != 1:
        raise UserError(
            f"The image input holds {image.shape[0]} pictures and the model takes one. Choose it with Image From Batch."
        )
    picture = image[0].float()
    if not bool(torch.isfinite(picture).all()):
        raise UserError("The picture holds NaN or infinite values. Look at the node that made it.")
    if picture.shape[-1] == 4:
        alpha = picture[..., 3:]
        picture = picture[..., :3] * alpha + (1 - alpha)
    if picture.shape[-1] == 1:
        picture = picture.expand(-1, -1, 3)
    return picture.clamp(0, 1)


NODES: list[type[io.ComfyNode]] = [VideoCrafterImageConditioning, VideoCrafterFPS]
