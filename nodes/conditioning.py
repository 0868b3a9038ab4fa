"""Conditioning nodes: image conditioning (VideoCrafter1 I2V) and the fps condition."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..vc_core.errors import UserError
from ..vc_core.frames.pixels import to_network
from .host.clip_vision import encode_images, encoded_image
from .host.compat import aliases
from .host.model import FPS, GUIDANCE, IMAGE_TOKENS, MOTION

CATEGORY = "VideoCrafter/conditioning"

Conditioning = list[tuple[Any, dict[str, Any]]]

MOTION_FPS = "motion_fps"
"""Display name of the fps condition, to distinguish it from the frame rate of a file. Its id in workflows is `fps`."""

GREY_SIZE = 8
"""Side of the grey image in pixels; a plain image looks the same at any size."""


class VideoCrafterImageConditioning(io.ComfyNode):
    """Conditions an image-to-video model on an image."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VideoCrafterImageConditioning",
            display_name="VideoCrafter Image Conditioning",
            category=CATEGORY,
            description="Conditions an image-to-video model (VideoCrafter1 I2V-512) on an image: the video takes over "
            "its content and style. The negative conditioning gets a plain grey image, as in training. For "
            "DynamiCrafter and ToonCrafter use VideoCrafter Image to Video.",
            inputs=[
                io.Conditioning.Input("positive", tooltip="The encoded prompt: what should happen in the video."),
                io.Conditioning.Input("negative", tooltip="The encoded negative prompt (usually empty)."),
                io.Model.Input(
                    "model",
                    tooltip="The image-to-video model used for sampling; it contains the part that turns the encoded "
                    "image into tokens.",
                ),
                io.ClipVision.Input(
                    "clip_vision",
                    tooltip="The image encoder from the same checkpoint, or, for the published model, any OpenCLIP "
                    "ViT-H-14 image encoder.",
                ),
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip="One image of any size. The encoder resizes it to a square without cropping, so give it "
                    "the aspect ratio of the video. Transparent areas become white.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=2.0,
                    step=0.05,
                    tooltip="Strength of the image, 0 to 2: 1 as in training, 0 for no effect (the same as a grey "
                    "image). Lower values give the prompt more influence, values above 1 exaggerate the image.",
                ),
                io.ClipVisionOutput.Input(
                    "clip_vision_output",
                    optional=True,
                    tooltip="Instead of image: an image encoded by CLIP Vision Encode with the same image encoder "
                    "(crop none is closest to training).",
                ),
            ],
            outputs=[
                io.Conditioning.Output("positive_out", display_name="positive", tooltip="The prompt with the image."),
                io.Conditioning.Output(
                    "negative_out", display_name="negative", tooltip="The negative prompt with the grey image."
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
            given = (
                "Neither image nor clip_vision_output is" if image is None else "Both image and clip_vision_output are"
            )
            raise UserError(
                f"{given} connected. Connect exactly one: an image to image, or the output of CLIP Vision Encode to "
                "clip_vision_output."
            )
        pixels = None if image is None else to_network(checked_image(image)[None])
        tokens, grey = encode_image_tokens(model, clip_vision, pixels, clip_vision_output)
        return io.NodeOutput(
            with_values(positive, {IMAGE_TOKENS: torch.lerp(grey, tokens, strength)}),
            with_values(negative, {IMAGE_TOKENS: grey}),
        )


class VideoCrafterFPS(io.ComfyNode):
    """Sets the model's fps condition."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VideoCrafterFPS",
            display_name="VideoCrafter FPS",
            category=CATEGORY,
            description="Sets the fps condition of the model for ComfyUI's own samplers. It changes how much moves "
            "from frame to frame, not the frame_rate of the saved file. Without this node the model's default applies "
            "(28 for VideoCrafter2 and T2V-1024, 8 for I2V-512).",
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
                    tooltip="Frames per second, 1 to 60; the models were trained on about 4 to 30. Higher values mean "
                    "less motion between two frames, lower values more. Models without this condition (VideoCrafter1 "
                    "T2V-512) ignore it.",
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
    """A copy of the conditioning with this fps condition."""
    if not 0 < fps <= 1000:
        raise UserError(f"The fps condition is {fps:g}; it must be above 0. The models were trained on about 4 to 30.")
    return with_values(conditioning, {FPS: float(fps)})


@dataclass(frozen=True)
class RunConditioning:
    """The conditionings of a run, and the scale of the guidance between them."""

    conditionings: list[Conditioning | None]
    cfg: float


def with_settings(
    model: Any, conditionings: Sequence[Conditioning | None], *, fps: float, cfg: float, motion: float
) -> RunConditioning:
    """The conditionings with the settings of a run, for any MODEL.

    An fps of 0 and a negative motion keep the present values. A model that takes the guidance scale as an input
    (T2V-Turbo) gets it there, and runs without guidance.
    """
    spec = getattr(model.model, "spec", None)
    takes_scale = spec is not None and spec.embeds_guidance
    values: dict[str, Any] = {}
    if takes_scale:
        values[GUIDANCE] = float(cfg)
    if motion >= 0:
        values[MOTION] = float(motion)
    timed = [None if each is None else with_fps(each, fps) if fps else each for each in conditionings]
    complete = [None if each is None else with_values(each, values) for each in timed]
    return RunConditioning(complete, 1.0 if takes_scale else cfg)


def with_values(conditioning: Conditioning, values: dict[str, Any]) -> Conditioning:
    """A copy of the conditioning with these values added."""
    return [(text, {**options, **values}) for text, options in conditioning]


def encode_image_tokens(
    model: Any, clip_vision: Any, pixels: Tensor | None, encoded: Any = None
) -> tuple[Tensor, Tensor]:
    """The image tokens of an image, and those of a plain grey image: each 1 m d, or frames m d.

    pixels: the image 1 3 h w in -1..1; None to use `encoded`, the CLIP_VISION_OUTPUT of core's node.
    """
    project = _projector(model)
    pooled = project.pooled
    plain = encode_images(clip_vision, torch.zeros(1, 3, GREY_SIZE, GREY_SIZE), pooled=pooled)
    features = (
        encoded_image(encoded, pooled=pooled) if pixels is None else encode_images(clip_vision, pixels, pooled=pooled)
    )
    tokens, grey = project(features)[0], project(plain)[0]
    return (tokens, grey) if tokens.ndim == 3 else (tokens[None], grey[None])


def _projector(model: Any) -> Any:
    spec = getattr(model.model, "spec", None)
    if spec is None:
        raise UserError("model is not a VideoCrafter model. Connect the MODEL of VideoCrafter Loader.")
    if not spec.reads_images:
        raise UserError(
            f"{spec.name} is a text-to-video model and does not support image conditioning. Load an image-to-video "
            "model (VideoCrafter1 I2V-512), or remove this node."
        )
    if model.model.image_tokens is None:
        raise UserError(
            "The file of this image-to-video model lacks the part that turns images into tokens (image_proj_model). "
            "Load the whole checkpoint, or a UNet file converted by this project, which keeps that part."
        )
    return model.model.image_tokens


def checked_images(images: Tensor) -> list[Tensor]:
    """The images of an IMAGE, each as `checked_image` returns it. Raises UserError for invalid input."""
    checked = [checked_image(images[i : i + 1]) for i in range(len(images))] if images.ndim == 4 else []
    return checked or [checked_image(images)]  # raises: an IMAGE has four axes and is not empty


def checked_image(image: Tensor) -> Tensor:
    """The single image of an IMAGE: h w 3 in 0..1, on white where it is transparent. Raises UserError for invalid
    input, and for a batch."""
    if image.ndim != 4 or image.shape[-1] not in (1, 3, 4) or 0 in image.shape:
        raise UserError(
            f"The image has the shape {tuple(image.shape)}; it must be (1, height, width, channels) with 1, 3 or 4 "
            "channels."
        )
    if image.shape[0] != 1:
        raise UserError(
            f"The image input contains {image.shape[0]} images, but the model takes one. Select one with Image From "
            "Batch."
        )
    pixels = image[0].float()
    if not bool(torch.isfinite(pixels).all()):
        raise UserError("The image contains NaN or infinite values. Check the node that made it.")
    if pixels.shape[-1] == 4:
        alpha = pixels[..., 3:]
        pixels = pixels[..., :3] * alpha + (1 - alpha)
    if pixels.shape[-1] == 1:
        pixels = pixels.expand(-1, -1, 3)
    return pixels.clamp(0, 1)


NODES: list[type[io.ComfyNode]] = [VideoCrafterImageConditioning, VideoCrafterFPS]
