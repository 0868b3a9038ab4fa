"""LATENT <-> IMAGE: where a video starts, and how its frames come out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..vc_core.errors import UserError
from .host.compat import advanced, aliases
from .host.sampling import Progress
from .host.vae import check_vae, decode_frames, looks_at_ends
from .references import decoded_ways, given_row, row_of

CATEGORY = "VideoCrafter/frames"

DOWNSCALE = 8
CHANNELS = 4
LARGEST = 8192


class VideoCrafterEmptyLatent(io.ComfyNode):
    """Nothing yet, in the size of the video."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VideoCrafterEmptyLatent",
            display_name="VideoCrafter Empty Latent",
            category=CATEGORY,
            description="An empty latent of the video's size, frames on the batch axis: where text-to-video and "
            "image-to-video start.",
            inputs=[
                io.Int.Input(
                    "width",
                    default=512,
                    min=DOWNSCALE,
                    max=LARGEST,
                    step=DOWNSCALE,
                    tooltip="Pixels, a multiple of 8. Trained sizes: 512 x 320 (VideoCrafter2, T2V-512, I2V-512), "
                    "1024 x 576 (T2V-1024), 64 x 64 (the small models of this pack). Others work less well the "
                    "farther they are.",
                ),
                io.Int.Input(
                    "height",
                    default=320,
                    min=DOWNSCALE,
                    max=LARGEST,
                    step=DOWNSCALE,
                    tooltip="Pixels, a multiple of 8; see width. Memory and time grow with width x height.",
                ),
                io.Int.Input(
                    "frames",
                    default=16,
                    min=1,
                    max=4096,
                    tooltip="Number of frames. The models were trained with 16; a few more or less work, many more "
                    "need context windows. Memory and time grow in proportion.",
                ),
            ],
            outputs=[io.Latent.Output(tooltip="One clip: (frames, 4, height / 8, width / 8).")],
            **aliases("videocrafter", "empty latent video", "resolution", "length"),
        )

    @classmethod
    def execute(cls, width: int = 512, height: int = 320, frames: int = 16) -> io.NodeOutput:
        return io.NodeOutput(empty_latent(width, height, frames))


class VideoCrafterDecode(io.ComfyNode):
    """Frames out of latents, a few at a time."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VideoCrafterDecode",
            display_name="VideoCrafter Decode",
            category=CATEGORY,
            description="Decodes a clip a few frames at a time, with progress; the result is that of VAE Decode, and "
            "memory stays that of the chunk. ToonCrafter's VAE decodes the clip at once and looks at the pictures at "
            "its two ends, which VAE Decode cannot show it.",
            inputs=[
                io.Latent.Input("samples", tooltip="The sampled clip: (frames, 4, height / 8, width / 8)."),
                io.Vae.Input("vae", tooltip="The VAE of the model."),
                io.Int.Input(
                    "frames_per_chunk",
                    default=4,
                    min=1,
                    max=256,
                    tooltip="Frames decoded at once, 1 to 256. The result does not depend on it: lower needs less "
                    "memory, higher is a little faster on a large card. ToonCrafter's VAE takes all frames at once.",
                    **advanced(io.Int.Input),
                ),
                io.Image.Input(
                    "references",
                    optional=True,
                    tooltip="For ToonCrafter's VAE alone: the pictures at the clip's beginning and end, a batch of two "
                    "(or one for both), cropped to the clip's size. Only needed where the latent does not come from "
                    "VideoCrafter Picture to Video, which sends them along.",
                ),
                io.Boolean.Input(
                    "drop_last_frame",
                    default=False,
                    optional=True,
                    tooltip="For a loop of VideoCrafter Picture to Video: leaves out the last frame, which equals the "
                    "first, so that the video repeats without a stop.",
                ),
            ],
            outputs=[io.Image.Output(tooltip="The frames as one batch, for video, upscaling and interpolation nodes.")],
            **aliases("videocrafter", "vae decode", "latent to image", "decode video", "tooncrafter"),
        )

    @classmethod
    def execute(
        cls,
        samples: dict[str, Any],
        vae: Any,
        frames_per_chunk: int = 4,
        references: Tensor | None = None,
        drop_last_frame: bool = False,
    ) -> io.NodeOutput:
        latents = samples["samples"]
        check_latents(latents)
        if drop_last_frame and len(latents) < 2:
            raise UserError("The latent has 1 frame, and drop_last_frame would leave none: switch it off.")
        check_vae(vae, latents)
        if frames_per_chunk < 1:
            raise UserError(f"frames_per_chunk is {frames_per_chunk}; it should be at least 1.")
        if looks_at_ends(vae):
            row = row_of(samples) if references is None else given_row(references)
            frames = _gathered(decoded_ways(latents, vae, row), len(latents))
        else:
            parts = (decode_frames(vae, part) for part in latents.split(frames_per_chunk))
            frames = _gathered(parts, len(latents))
        return io.NodeOutput(frames[:-1] if drop_last_frame else frames)


def empty_latent(width: int, height: int, frames: int) -> dict[str, Any]:
    """A LATENT of zeros. Raises UserError for sizes in pixels, or numbers of frames, that there cannot be."""
    _check_size("width", width)
    _check_size("height", height)
    if frames < 1:
        raise UserError(f"frames is {frames}; a video has at least 1 frame, and the models were trained with 16.")
    samples = torch.zeros(frames, CHANNELS, height // DOWNSCALE, width // DOWNSCALE)
    return {"samples": samples, "downscale_ratio_spacial": DOWNSCALE}


def check_latents(latents: Tensor) -> None:
    """Raise UserError unless these are the latents of one clip, f 4 h w, finite."""
    cure = "Make it with VideoCrafter Empty Latent, or encode frames with the model's VAE."
    if getattr(latents, "is_nested", False) or latents.ndim != 4:
        axes = "several tensors" if getattr(latents, "is_nested", False) else f"{latents.ndim} axes"
        raise UserError(
            f"The latent has {axes}; VideoCrafter's have 4: (frames, {CHANNELS}, height / 8, width / 8). {cure}"
        )
    if latents.shape[1] != CHANNELS:
        raise UserError(
            f"The latent has {latents.shape[1]} channels and VideoCrafter's have {CHANNELS}: it belongs to another "
            f"kind of model. {cure}"
        )
    if 0 in latents.shape:
        raise UserError(f"The latent is empty: its shape is {tuple(latents.shape)}. {cure}")
    if not bool(torch.isfinite(latents).all()):
        raise UserError(
            "The latent holds NaN or infinite values, which would decode to black frames. Look at the node that made "
            "it: load the model with weight_dtype fp32 or bf16, or lower cfg."
        )


def _gathered(parts: Iterable[Tensor], count: int) -> Tensor:
    """The frames f h w 3 in 0..1, float32 on the CPU, of parts that come one after the other."""
    progress = Progress(count)
    frames: Tensor | None = None
    done = 0
    for part in parts:
        if frames is None:
            frames = part.new_empty(count, *part.shape[1:])
        frames[done : done + len(part)] = part
        done += len(part)
        progress.report(done)
    if frames is None or not bool(torch.isfinite(frames).all()):
        raise UserError(
            "The VAE gave NaN or infinite values. Start ComfyUI with --fp32-vae, or load the model with weight_dtype "
            "fp32."
        )
    return frames


def _check_size(name: str, pixels: int) -> None:
    if pixels < DOWNSCALE or pixels > LARGEST:
        raise UserError(f"{name} is {pixels} pixels; it should be from {DOWNSCALE} to {LARGEST}.")
    if pixels % DOWNSCALE:
        below = pixels // DOWNSCALE * DOWNSCALE
        raise UserError(
            f"{name} is {pixels} pixels, which is not a multiple of {DOWNSCALE}; the nearest are {below} and "
            f"{below + DOWNSCALE}."
        )


NODES: list[type[io.ComfyNode]] = [VideoCrafterEmptyLatent, VideoCrafterDecode]
