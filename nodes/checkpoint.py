"""FILE -> MODEL, CLIP, VAE, CLIP_VISION."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from comfy_api.latest import io

from ..vc_core.checkpoint.building import Checkpoint
from ..vc_core.checkpoint.detection import AUTO
from ..vc_core.errors import UserError
from ..vc_core.specs import PRESETS
from .host import clip, clip_vision, files, lora, model, vae
from .host.compat import advanced, aliases
from .host.missing import MissingClip, MissingClipVision, MissingVae
from .host.reading import open_file

CATEGORY = "VideoCrafter/loaders"


def _weight_dtype() -> io.Combo.Input:
    return io.Combo.Input(
        "weight_dtype",
        options=list(model.WEIGHT_DTYPES),
        default="default",
        tooltip="Number format the weights are kept in. default: what ComfyUI finds best for this machine. fp32 is "
        "exact and takes most memory (it also holds CLIP and VAE in fp32); fp16 and bf16 take half; fp8 a quarter of "
        "fp32, with a visible loss. e4m3fn_fast also computes in fp8 on cards that can.",
        **advanced(io.Combo.Input),
    )


def _preset() -> io.Combo.Input:
    return io.Combo.Input(
        "preset",
        options=[AUTO, *PRESETS],
        default=AUTO,
        tooltip="Which published model the file is. auto reads it from the file's tensors; choose one only for a file "
        "whose noise schedule and defaults are not in it, or whose tensors could also be those of another published "
        "model (see docs/presets.md).",
        **advanced(io.Combo.Input),
    )


class VideoCrafterCheckpointLoader(io.ComfyNode):
    """A whole model from one file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VideoCrafterCheckpointLoader",
            display_name="VideoCrafter Loader",
            category=CATEGORY,
            description="Loads a VideoCrafter1 or VideoCrafter2 checkpoint (.ckpt or .safetensors): the video model, "
            "its text encoder, its VAE and, for image-to-video, its image encoder. The small models that come with "
            "this pack are in the list, too.",
            inputs=[
                io.Combo.Input(
                    "ckpt_name",
                    options=files.choices("checkpoints"),
                    tooltip="A file from ComfyUI's models/checkpoints folder, or one of the small models of this pack "
                    "(videocrafter_small_..., made to try things out without a download).",
                ),
                _weight_dtype(),
                _preset(),
            ],
            outputs=[
                io.Model.Output(tooltip="The video model, for any KSampler."),
                io.Clip.Output(tooltip="The text encoder, for CLIP Text Encode."),
                io.Vae.Output(tooltip="Encodes and decodes frames."),
                io.ClipVision.Output(
                    tooltip="The image encoder of an image-to-video model, for VideoCrafter Image Conditioning. A "
                    "text-to-video file has none; using this output then ends with a message."
                ),
            ],
            **aliases(
                "videocrafter",
                "load checkpoint",
                "dynamicrafter",
                "tooncrafter",
                "cartoon",
                "video model",
                "text to video",
                "image to video",
                "t2v",
                "i2v",
            ),
        )

    @classmethod
    def validate_inputs(cls, ckpt_name: str | None = None) -> bool | str:
        return files.check("checkpoints", ckpt_name)

    @classmethod
    def fingerprint_inputs(cls, ckpt_name: str, **_: Any) -> str:
        return files.fingerprint("checkpoints", ckpt_name)

    @classmethod
    def execute(cls, ckpt_name: str, weight_dtype: str = "default", preset: str = AUTO) -> io.NodeOutput:
        path = files.resolve("checkpoints", ckpt_name)
        opened = open_file(path, preset)
        return io.NodeOutput(
            _model(opened, path, preset, weight_dtype),
            _clip(opened, path, weight_dtype),
            _vae(opened, path, weight_dtype),
            _clip_vision(opened, path),
        )


class VideoCrafterUNETLoader(io.ComfyNode):
    """The video model alone."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VideoCrafterUNETLoader",
            display_name="VideoCrafter UNET Loader",
            category=CATEGORY,
            description="Loads the video model alone: a file written by ModelSave or by this project's converter, or "
            "the video model inside a whole checkpoint.",
            inputs=[
                io.Combo.Input(
                    "unet_name",
                    options=files.choices("diffusion_models"),
                    tooltip="A file from ComfyUI's models/diffusion_models folder.",
                ),
                _weight_dtype(),
                _preset(),
            ],
            outputs=[io.Model.Output(tooltip="The video model, for any KSampler.")],
            **aliases("videocrafter", "load diffusion model", "dynamicrafter", "video model"),
        )

    @classmethod
    def validate_inputs(cls, unet_name: str | None = None) -> bool | str:
        return files.check("diffusion_models", unet_name)

    @classmethod
    def fingerprint_inputs(cls, unet_name: str, **_: Any) -> str:
        return files.fingerprint("diffusion_models", unet_name)

    @classmethod
    def execute(cls, unet_name: str, weight_dtype: str = "default", preset: str = AUTO) -> io.NodeOutput:
        path = files.resolve("diffusion_models", unet_name)
        return io.NodeOutput(model.load_model_file(path, preset, weight_dtype))


class VideoCrafterVAELoader(io.ComfyNode):
    """The autoencoder alone."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VideoCrafterVAELoader",
            display_name="VideoCrafter VAE Loader",
            category=CATEGORY,
            description="Loads the VAE alone. VideoCrafter's is that of Stable Diffusion 1 and 2 (8 times smaller "
            "latents), so VAE files made for those work as well.",
            inputs=[
                io.Combo.Input(
                    "vae_name",
                    options=files.choices("vae"),
                    tooltip="A file from ComfyUI's models/vae folder: VideoCrafter's, or one for Stable Diffusion 1 "
                    "or 2.",
                )
            ],
            outputs=[io.Vae.Output(tooltip="Encodes and decodes frames.")],
            **aliases("videocrafter", "load vae"),
        )

    @classmethod
    def validate_inputs(cls, vae_name: str | None = None) -> bool | str:
        return files.check("vae", vae_name)

    @classmethod
    def fingerprint_inputs(cls, vae_name: str, **_: Any) -> str:
        return files.fingerprint("vae", vae_name)

    @classmethod
    def execute(cls, vae_name: str) -> io.NodeOutput:
        return io.NodeOutput(vae.load_vae_file(files.resolve("vae", vae_name)))


class VideoCrafterCLIPLoader(io.ComfyNode):
    """The text encoder alone."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VideoCrafterCLIPLoader",
            display_name="VideoCrafter CLIP Loader",
            category=CATEGORY,
            description="Loads the text encoder alone: VideoCrafter's own, or any OpenCLIP ViT-H-14 file, as OpenCLIP "
            "publishes it or in the layout usual in ComfyUI (that of Stable Diffusion 2).",
            inputs=[
                io.Combo.Input(
                    "clip_name",
                    options=files.choices("text_encoders"),
                    tooltip="A file from ComfyUI's models/text_encoders folder. It must be the text encoder that the "
                    "model was trained with: OpenCLIP ViT-H-14, 1024 wide, for all published models.",
                )
            ],
            outputs=[io.Clip.Output(tooltip="The text encoder, for CLIP Text Encode.")],
            **aliases("videocrafter", "load clip", "text encoder", "openclip"),
        )

    @classmethod
    def validate_inputs(cls, clip_name: str | None = None) -> bool | str:
        return files.check("text_encoders", clip_name)

    @classmethod
    def fingerprint_inputs(cls, clip_name: str, **_: Any) -> str:
        return files.fingerprint("text_encoders", clip_name)

    @classmethod
    def execute(cls, clip_name: str) -> io.NodeOutput:
        return io.NodeOutput(clip.load_clip_file(files.resolve("text_encoders", clip_name)))


class VideoCrafterCLIPVisionLoader(io.ComfyNode):
    """The image encoder alone."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VideoCrafterCLIPVisionLoader",
            display_name="VideoCrafter CLIP Vision Loader",
            category=CATEGORY,
            description="Loads the image encoder alone: VideoCrafter's own, or any OpenCLIP ViT-H-14 image encoder, "
            "as OpenCLIP publishes it or in the layout usual in ComfyUI.",
            inputs=[
                io.Combo.Input(
                    "clip_name",
                    options=files.choices("clip_vision"),
                    tooltip="A file from ComfyUI's models/clip_vision folder: OpenCLIP ViT-H-14 for the published "
                    "image-to-video model.",
                )
            ],
            outputs=[io.ClipVision.Output(tooltip="The image encoder, for VideoCrafter Image Conditioning.")],
            **aliases("videocrafter", "load clip vision", "image encoder", "openclip"),
        )

    @classmethod
    def validate_inputs(cls, clip_name: str | None = None) -> bool | str:
        return files.check("clip_vision", clip_name)

    @classmethod
    def fingerprint_inputs(cls, clip_name: str, **_: Any) -> str:
        return files.fingerprint("clip_vision", clip_name)

    @classmethod
    def execute(cls, clip_name: str) -> io.NodeOutput:
        return io.NodeOutput(clip_vision.load_clip_vision_file(files.resolve("clip_vision", clip_name)))


class VideoCrafterLoraLoader(io.ComfyNode):
    """A LoRA for the video model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VideoCrafterLoraLoader",
            display_name="VideoCrafter LoRA Loader",
            category=CATEGORY,
            description="Applies a LoRA file to the video model: T2V-Turbo's (which core's loader cannot read), and "
            "those with published, PEFT or kohya names. Several stack; a strength of 0 or bypassing takes one back.",
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="The VideoCrafter model that the file was made for. T2V-Turbo's belongs to VideoCrafter2.",
                ),
                io.Combo.Input(
                    "lora_name",
                    options=files.choices("loras"),
                    tooltip="A file from ComfyUI's models/loras folder, .safetensors or .pt.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-10.0,
                    max=10.0,
                    step=0.05,
                    tooltip="-10 to 10, how much the changes count: 1 as they were trained (T2V-Turbo needs 1), 0 "
                    "nothing, negative the opposite.",
                ),
            ],
            outputs=[
                io.Model.Output(
                    tooltip="The changed model. With T2V-Turbo's file: sample it with lcm_exact, lcm, 4 steps, cfg 7.5."
                )
            ],
            **aliases("videocrafter", "lora", "t2v-turbo", "lcm turbo", "few steps", "load lora"),
        )

    @classmethod
    def validate_inputs(cls, lora_name: str | None = None) -> bool | str:
        return files.check("loras", lora_name)

    @classmethod
    def fingerprint_inputs(cls, lora_name: str, **_: Any) -> str:
        return files.fingerprint("loras", lora_name)

    @classmethod
    def execute(cls, model: Any, lora_name: str, strength: float = 1.0) -> io.NodeOutput:
        path = files.resolve("loras", lora_name)
        if not math.isfinite(strength):
            raise UserError(f"strength is {strength}; it should be a finite number, usually 0 to 1.")
        return io.NodeOutput(lora.with_lora(model, path, strength) if strength else model)


def _model(opened: Checkpoint, path: Path, preset: str, weight_dtype: str) -> Any:
    patcher = model.load_model(opened, weight_dtype)
    return model.remember(patcher, model.load_model_file, (path, preset, weight_dtype))


def _clip(opened: Checkpoint, path: Path, weight_dtype: str) -> Any:
    if "text_encoder" not in opened.parts:
        return MissingClip(path)
    loaded = clip.load_clip(opened, weight_dtype)
    model.remember(loaded.patcher, clip.load_clip_patcher, (path, weight_dtype))
    return loaded


def _vae(opened: Checkpoint, path: Path, weight_dtype: str) -> Any:
    if "autoencoder" not in opened.parts:
        return MissingVae(path)
    loaded = vae.load_vae(opened, weight_dtype)
    model.remember(loaded.patcher, vae.load_vae_patcher, (path, weight_dtype))
    return loaded


def _clip_vision(opened: Checkpoint, path: Path) -> Any:
    if "image_encoder" not in opened.parts:
        return MissingClipVision(path, opened.spec)
    loaded = clip_vision.load_clip_vision(opened)
    model.remember(loaded.patcher, clip_vision.load_clip_vision_patcher, (path,))
    return loaded


NODES: list[type[io.ComfyNode]] = [
    VideoCrafterCheckpointLoader,
    VideoCrafterUNETLoader,
    VideoCrafterVAELoader,
    VideoCrafterCLIPLoader,
    VideoCrafterCLIPVisionLoader,
    VideoCrafterLoraLoader,
]
