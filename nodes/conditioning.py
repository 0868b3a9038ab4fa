"""PROMPT, PICTURE -> CONDITIONING: what VideoCrafter knows beyond ComfyUI's own text nodes."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..vc_core.errors import UserError
from .host.clip_vision import encode_pictures
from .host.compat import aliases
from .host.model import FPS, IMAGE_TOKENS

CATEGORY = "VideoCrafter/conditioning"

Conditioning = list[tuple[Any, dict[str, Any]]]


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
            ],
            outputs=[
                io.Conditioning.Output("positive_out", display_name="positive", tooltip="The prompt with the picture."),
                io.Conditioning.Output(
                    "negative_out", display_name="negative", tooltip="The negative prompt with the grey picture."
                ),
            ],
            **aliases("videocrafter", "image to video", "i2v", "picture", "ip adapter"),
        )

    @classmethod
    def execute(
        cls,
        positive: Conditioning,
        negative: Conditioning,
        model: Any,
        clip_vision: Any,
        image: Tensor,
        strength: float = 1.0,
    ) -> io.NodeOutput:
        project = _projector(model)
        picture = _picture(image)
        tokens = encode_pictures(clip_vision, torch.cat([picture, torch.zeros_like(picture)]), pooled=project.pooled)
        shown, grey = project(tokens).split(1)
        return io.NodeOutput(
            _with(positive, {IMAGE_TOKENS: torch.lerp(grey, shown, strength)}), _with(negative, {IMAGE_TOKENS: grey})
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
            "It changes how much moves from frame to frame, not the frame rate of the saved file. Without this node "
            "the model's own default counts (28 for VideoCrafter2 and T2V-1024, 8 for I2V-512).",
            inputs=[
                io.Conditioning.Input("positive", tooltip="The encoded prompt."),
                io.Conditioning.Input("negative", tooltip="The encoded negative prompt."),
                io.Float.Input(
                    "fps",
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
            **aliases("videocrafter", "frame rate", "motion amount", "speed"),
        )

    @classmethod
    def execute(cls, positive: Conditioning, negative: Conditioning, fps: float = 16.0) -> io.NodeOutput:
        return io.NodeOutput(with_fps(positive, fps), with_fps(negative, fps))


def with_fps(conditioning: Conditioning, fps: float) -> Conditioning:
    """A copy of the conditioning that asks for this many frames per second."""
    if not 0 < fps <= 1000:
        raise UserError(f"The fps condition is {fps:g}; it should be above 0. The models know about 4 to 30.")
    return _with(conditioning, {FPS: float(fps)})


def _with(conditioning: Conditioning, values: dict[str, Any]) -> Conditioning:
    return [(text, {**told, **values}) for text, told in conditioning]


def _projector(model: Any) -> Any:
    spec = getattr(model.model, "spec", None)
    if spec is None:
        raise UserError(
            "The model input is not a VideoCrafter model. Connect the one from VideoCrafter's checkpoint loader."
        )
    if not spec.unet.image_attention:
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


def _picture(image: Tensor) -> Tensor:
    """IMAGE -> one picture, 1 3 h w in -1..1"""
    if image.ndim != 4 or image.shape[-1] not in (1, 3, 4) or 0 in image.shape:
        raise UserError(
            f"The picture has the shape {tuple(image.shape)}; it should be (1, height, width, channels) with 1, 3 or 4 "
            "channels."
        )
    if image.shape[0] != 1:
        raise UserError(
            f"The image input holds {image.shape[0]} pictures and the model takes one. Choose it with Image From Batch."
        )
    picture = image.float()
    if not bool(torch.isfinite(picture).all()):
        raise UserError("The picture holds NaN or infinite values. Look at the node that made it.")
    if picture.shape[-1] == 4:
        alpha = picture[..., 3:]
        picture = picture[..., :3] * alpha + (1 - alpha)
    if picture.shape[-1] == 1:
        picture = picture.expand(-1, -1, -1, 3)
    return picture.clamp(0, 1).movedim(-1, 1) * 2 - 1


NODES: list[type[io.ComfyNode]] = [VideoCrafterImageConditioning, VideoCrafterFPS]
