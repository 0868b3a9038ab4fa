"""Nodes for empty latents and for decoding: LATENT <-> IMAGE."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..vc_core.errors import UserError
from ..vc_core.request import MOST_FRAMES
from .host.compat import advanced, aliases
from .host.sampling import Progress
from .host.vae import check_vae, decode_frames, looks_at_ends
from .references import decode_sections, given_references, references_of

CATEGORY = "VideoCrafter/frames"

DOWNSCALE = 8
CHANNELS = 4
LARGEST = 8192


class VideoCrafterEmptyLatent(io.ComfyNode):
    """An empty latent with the size of the video."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VideoCrafterEmptyLatent",
            display_name="VideoCrafter Empty Latent",
            category=CATEGORY,
            description="Creates an empty latent with the size and length of the video, frames on the batch axis. "
            "Text-to-video and image-to-video start from it.",
            inputs=[
                io.Int.Input(
                    "width",
                    default=512,
                    min=DOWNSCALE,
                    max=LARGEST,
                    step=DOWNSCALE,
                    tooltip="Width in pixels, a multiple of 8. The models were trained on 512 x 320 (VideoCrafter2, "
                    "T2V-512, I2V-512), 1024 x 576 (T2V-1024) and 64 x 64 (the small models of this pack). The "
                    "further from the trained size, the worse the results.",
                ),
                io.Int.Input(
                    "height",
                    default=320,
                    min=DOWNSCALE,
                    max=LARGEST,
                    step=DOWNSCALE,
                    tooltip="Height in pixels, a multiple of 8; see width. Memory and time grow with width x height.",
                ),
                io.Int.Input(
                    "frames",
                    default=16,
                    min=1,
                    max=4096,
                    tooltip="Number of frames. The models were trained on 16; a few more or fewer work as well, many "
                    "more need context windows or long_video. Memory and time grow in proportion.",
                ),
            ],
            outputs=[io.Latent.Output(tooltip="One clip: (frames, 4, height / 8, width / 8).")],
            **aliases("videocrafter", "empty latent video", "resolution", "length"),
        )

    @classmethod
    def execute(cls, width: int = 512, height: int = 320, frames: int = 16) -> io.NodeOutput:
        return io.NodeOutput(empty_latent(width, height, frames))


class VideoCrafterDecode(io.ComfyNode):
    """Decodes latents to frames, a few at a time."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VideoCrafterDecode",
            display_name="VideoCrafter Decode",
            category=CATEGORY,
            description="Decodes a clip a few frames at a time and shows the progress. The result equals that of VAE "
            "Decode, but only one chunk is in memory at a time. ToonCrafter's VAE decodes the whole clip at once, with "
            "the images at its two ends as references; VAE Decode cannot pass these on.",
            inputs=[
                io.Latent.Input("samples", tooltip="The sampled clip: (frames, 4, height / 8, width / 8)."),
                io.Vae.Input("vae", tooltip="The VAE of the model."),
                io.Int.Input(
                    "frames_per_chunk",
                    default=4,
                    min=1,
                    max=256,
                    tooltip="Frames decoded at once, 1 to 256. Lower values need less memory, higher ones are slightly "
                    "faster on a large GPU; the result is the same. ToonCrafter's VAE always decodes all frames at "
                    "once.",
                    **advanced(io.Int.Input),
                ),
                io.Image.Input(
                    "references",
                    optional=True,
                    tooltip="For ToonCrafter's VAE only: the first and the last image of the clip as a batch of two "
                    "(or one image for both), cropped to the clip's size. Only needed if the latent does not come from "
                    "VideoCrafter Image to Video, which already includes them.",
                ),
                io.Boolean.Input(
                    "drop_last_frame",
                    default=False,
                    optional=True,
                    tooltip="For a loop made with VideoCrafter Image to Video: drops the last frame, which equals the "
                    "first, so that the video repeats without a pause.",
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
            raise UserError("The latent has 1 frame, and drop_last_frame would leave none. Turn drop_last_frame off.")
        check_vae(vae, latents)
        if frames_per_chunk < 1:
            raise UserError(f"frames_per_chunk is {frames_per_chunk}; it must be at least 1.")
        if looks_at_ends(vae):
            ends = references_of(samples) if references is None else given_references(references)
            frames = _gather(decode_sections(latents, vae, ends), len(latents))
        else:
            parts = (decode_frames(vae, part) for part in latents.split(min(frames_per_chunk, len(latents))))
            frames = _gather(parts, len(latents))
        return io.NodeOutput(frames[:-1] if drop_last_frame else frames)


def empty_latent(width: int, height: int, frames: int) -> dict[str, Any]:
    """A LATENT of zeros. Raises UserError for an invalid size in pixels or number of frames."""
    _check_size("width", width)
    _check_size("height", height)
    if frames < 1:
        raise UserError(f"frames is {frames}; it must be at least 1. The models were trained on 16.")
    if frames > MOST_FRAMES:
        raise UserError(f"frames is {frames}; it must be at most {MOST_FRAMES}. The models were trained on 16.")
    samples = torch.zeros(frames, CHANNELS, height // DOWNSCALE, width // DOWNSCALE)
    return {"samples": samples, "downscale_ratio_spacial": DOWNSCALE}


def check_latents(latents: Tensor) -> None:
    """Raises UserError unless these are finite latents of one clip (f 4 h w)."""
    cure = "Create it with VideoCrafter Empty Latent, or encode frames with the model's VAE."
    if getattr(latents, "is_nested", False) or latents.ndim != 4:
        axes = "several tensors" if getattr(latents, "is_nested", False) else f"{latents.ndim} axes"
        raise UserError(
            f"The latent has {axes}; VideoCrafter needs 4: (frames, {CHANNELS}, height / 8, width / 8). {cure}"
        )
    if latents.shape[1] != CHANNELS:
        raise UserError(
            f"The latent has {latents.shape[1]} channels, but VideoCrafter needs {CHANNELS}: it was made for another "
            f"kind of model. {cure}"
        )
    if 0 in latents.shape:
        raise UserError(f"The latent is empty: its shape is {tuple(latents.shape)}. {cure}")
    if not bool(torch.isfinite(latents).all()):
        raise UserError(
            "The latent contains NaN or infinite values, which would decode to black frames. Check the node that made "
            "it: load the model with weight_dtype fp32 or bf16, or lower cfg."
        )


def _gather(parts: Iterable[Tensor], count: int) -> Tensor:
    """Collects consecutive parts into frames f h w 3 in 0..1, float32 on the CPU."""
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
            "The VAE returned NaN or infinite values. Start ComfyUI with --fp32-vae, or load the model with "
            "weight_dtype fp32."
        )
    return frames


def _check_size(name: str, pixels: int) -> None:
    if pixels < DOWNSCALE or pixels > LARGEST:
        raise UserError(f"{name} is {pixels} pixels; it must be between {DOWNSCALE} and {LARGEST}.")
    if pixels % DOWNSCALE:
        below = pixels // DOWNSCALE * DOWNSCALE
        raise UserError(
            f"{name} is {pixels} pixels, which is not a multiple of {DOWNSCALE}; the nearest ones are {below} and "
            f"{below + DOWNSCALE}."
        )


NODES: list[type[io.ComfyNode]] = [VideoCrafterEmptyLatent, VideoCrafterDecode]
