"""Small files in the place of those that the workflows name, and what a workflow is cut down to for a test.

The stand-ins of the upscaler and the interpolator compute something plain: each pixel four times as wide and high, and
the mean of two neighbouring frames. So a test can say what must come out.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import small_models as small
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from comfyui.base import ROOT, Base
from vc_core.checkpoint import PARTS
from vc_core.video import write_video

FOLDER = ROOT / "workflows"
FILES = sorted(FOLDER.glob("*.json"))

CHECKPOINTS = {
    "videocrafter1_t2v_1024.ckpt": small.RELATIVE_MODEL,
    "videocrafter1_t2v_512.ckpt": small.STYLE_MODEL,
    "videocrafter2_512.ckpt": small.TEXT_MODEL,
    "videocrafter1_i2v_512.ckpt": small.IMAGE_MODEL,
    "dynamicrafter_512.ckpt": small.CONTINUING_MODEL,
    "dynamicrafter_512_interp.ckpt": small.CONTINUING_MODEL,
    "tooncrafter_512.ckpt": small.TOON_MODEL,
    "viewcrafter_25.ckpt": small.VIEWED_MODEL,
}
"""The published files, by the names that the workflows give them."""
BOXED = {
    "videocrafter_small_t2v.safetensors": small.TEXT_MODEL,
    "videocrafter_small_i2v.safetensors": small.IMAGE_MODEL,
    "videocrafter_small_dynamicrafter.safetensors": small.CONTINUING_MODEL,
}
LORA = "t2v_turbo_unet_lora.pt"
VISION = "CLIP-ViT-H-14-laion2B-s32B-b79K.safetensors"

WIDTH, HEIGHT, FRAMES, STEPS = 40, 24, 5, 4
VIDEO_RATE = Fraction(12)
LONG_FRAMES, QUEUE_SIDE = 20, 16
"""Frames of what is a long video in a workflow; pixels of one that takes hundreds of passes."""
CAMERA, CAMERA_SIDE = "512_cami2v_100k.pt", 64
"""The file of CamI2V's layers, and the smallest size in pixels that they take."""

LARGER = {"VideoCrafterCamI2VControl": (CAMERA_SIDE, CAMERA_SIDE)}
"""The sizes of workflows with nodes that do not work with smaller ones."""

SMALL = "no download"
"""What the names of the workflows end with that need nothing but this pack."""
START = f"01 Start here - text to video, {SMALL}"
FIRST_IMAGE = f"02 Image to video, {SMALL}"
LONG = f"07 Long video, {SMALL}"

MADE = {
    START: (16, 64, 64, 8),
    FIRST_IMAGE: (16, 64, 64, 8),
    f"03 Text to video in 8 steps, {SMALL}": (16, 64, 64, 8),
    f"04 Between two pictures, {SMALL}": (16, 64, 64, 8),
    f"05 Through key frames, {SMALL}": (31, 64, 64, 8),
    f"06 Loop from a picture, {SMALL}": (16, 64, 64, 8),
    LONG: (LONG_FRAMES, 64, 64, 12),
    f"08 Loop from a prompt, {SMALL}": (LONG_FRAMES, 64, 64, 8),
    f"09 Prompt changes over time, {SMALL}": (LONG_FRAMES, 64, 64, 12),
    f"10 Camera moves, {SMALL}": (16, 64, 64, 8),
    f"10 Core KSampler, {SMALL}": (16, 64, 64, 8),
    f"10 Drag an object, {SMALL}": (16, 64, 64, 8),
    f"10 Evaluate a video, {SMALL}": (16, 64, 64, 8),
    f"10 Object follows a box, {SMALL}": (16, 64, 64, 8),
    "11 Text to video, VideoCrafter2 512x320": (FRAMES, WIDTH, HEIGHT, 10),
    "12 Text to video, VideoCrafter1 1024x576": (FRAMES, WIDTH, HEIGHT, 10),
    "13 Text to video in 4 steps, T2V-Turbo 512x320": (FRAMES, WIDTH, HEIGHT, 8),
    "14 Image to video, VideoCrafter1 512x320": (FRAMES, WIDTH, HEIGHT, 8),
    "15 Image to video, DynamiCrafter 512x320": (FRAMES, WIDTH, HEIGHT, 8),
    "16 Between two pictures, DynamiCrafter 512x320": (FRAMES, WIDTH, HEIGHT, 8),
    "17 Between two drawings, ToonCrafter 512x320": (FRAMES, WIDTH, HEIGHT, 8),
    "18 Through key frames, DynamiCrafter 512x320": (2 * FRAMES - 1, WIDTH, HEIGHT, 8),
    "19 Loop from a picture, DynamiCrafter 512x320": (FRAMES, WIDTH, HEIGHT, 8),
    "20 Video to video, VideoCrafter2 512x320": (FRAMES, WIDTH, HEIGHT, VIDEO_RATE),
    "21 Upscale and interpolate, VideoCrafter2 1024x640": (2 * FRAMES - 1, 2 * WIDTH, 2 * HEIGHT, 20),
    "22 Core KSampler, VideoCrafter2 512x320": (FRAMES, WIDTH, HEIGHT, 10),
    "28 Between two drawings with sketches, ToonCrafter 512x320": (FRAMES, WIDTH, HEIGHT, 8),
    "29 Along rendered views, ViewCrafter 1024x576": (FRAMES, WIDTH, HEIGHT, 8),
    "23 Drag an object, VideoCrafter2 512x320": (FRAMES, WIDTH, HEIGHT, 10),
    "26 Camera moves, MotionCtrl 256x256": (FRAMES, WIDTH, HEIGHT, 10),
    "30 In the style of an image, StyleCrafter 512x320": (FRAMES, WIDTH, HEIGHT, 10),
    "31 Twice the trained size, VideoCrafter2 1024x640": (FRAMES, WIDTH, HEIGHT, 10),
    "27 Camera path, CamI2V 512x320": (FRAMES, CAMERA_SIDE, CAMERA_SIDE, 8),
}
"""Frames, width, height, frames per second of the file, after `cut_down`."""


def load(name: str) -> dict[str, Any]:
    """A workflow of ours by its name."""
    workflow: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return workflow


def put(base: Base) -> None:
    """Writes every file that a workflow asks for into ComfyUI's folders."""
    for name, spec in CHECKPOINTS.items():
        torch.save({"state_dict": small.state_dict(spec)}, base.model("checkpoints", name))
    for name, spec in BOXED.items():
        if not boxed_file(name).is_file():
            small.save(spec, base.model("checkpoints", name))
    torch.save(small.sketch_encoder(), base.model("controlnet", "sketch_encoder.ckpt"))
    torch.save(small.style_adapter(), base.model("checkpoints", "adapter_v1.pth"))
    torch.save(small.style_temporal(), base.model("checkpoints", "temporal_v1_1.pth"))
    small.save(small.IMAGE_MODEL, base.model("clip_vision", VISION), prefixes=("embedder.",))
    layers = small.camera_weights(small.CONTINUING_MODEL)
    layers = {PARTS["cami2v"].in_file(name): tensor for name, tensor in layers.items()}
    torch.save(layers, base.model("checkpoints", CAMERA))
    torch.save(small.turbo_list(small.TEXT_MODEL.unet), base.model("loras", LORA))
    layers = small.motionctrl_weights(small.TEXT_MODEL, levels=(32, 64, 128))
    torch.save({**small.state_dict(small.TEXT_MODEL), **layers}, base.model("checkpoints", "motionctrl.pth"))
    save_file(nearest_upscaler(), base.model("upscale_models", "RealESRGAN_x4plus.safetensors"))
    save_file(averaging_interpolator(), base.model("frame_interpolation", "film_net_fp16.safetensors"))
    example = Image.fromarray(_pattern(3)[0]).resize((117, 83))
    alpha = Image.new("L", example.size, 255)
    alpha.paste(0, (40, 30, 77, 53))
    example.putalpha(alpha)  # transparent is what a mask editor has painted
    example.save(base.input / "example.png")
    frames = torch.from_numpy(_pattern(7)).float() / 255
    (base.input / "video.mp4").unlink(missing_ok=True)
    write_video(base.input / "video.mp4", frames, fps=float(VIDEO_RATE))


def cut_down(prompt: Mapping[str, Any]) -> dict[str, Any]:
    """The prompt with few steps, frames and pixels; the boxed models keep their size, which is small."""
    smaller: dict[str, Any] = json.loads(json.dumps(prompt))
    kinds = {node["class_type"] for node in smaller.values()}
    width, height = next((size for kind, size in LARGER.items() if kind in kinds), (WIDTH, HEIGHT))
    queue = any(node["inputs"].get("long_video") == "fifo" for node in smaller.values())
    for node in smaller.values():
        kind, inputs = node["class_type"], node["inputs"]
        if "steps" in inputs:
            inputs["steps"] = STEPS
        if kind in ("VideoCrafterEmptyLatent", "VideoCrafterPictureToVideo") and inputs["width"] > 64:
            inputs.update(width=width, height=height, frames=FRAMES)
        elif kind == "VideoCrafterEmptyLatent" and inputs["frames"] > 16:
            side = QUEUE_SIDE if queue else inputs["width"]
            inputs.update(width=side, height=side, frames=LONG_FRAMES)
        if kind == "VideoCrafterSketchControl":
            inputs["frames"] = str(FRAMES // 2)
        if kind == "VideoCrafterScaleCrafterControl":
            inputs["factors"] = "middle: 2"  # those by size are for sizes above the trained one
        if kind == "VideoCrafterViewsToVideo":
            inputs.update(width=WIDTH, height=HEIGHT)
        if kind == "ImageScale":
            times = inputs["width"] // 512
            inputs.update(width=WIDTH * times, height=HEIGHT * times)
        if kind == "ImageFromBatch":
            inputs["length"] = FRAMES
    return smaller


@dataclass(frozen=True)
class Video:
    """A decoded file: f h w 3 uint8, frames per second, and the tags of its container."""

    frames: np.ndarray
    rate: Fraction
    tags: dict[str, str]

    @property
    def size(self) -> tuple[int, int, int]:
        """Frames, width, height."""
        count, height, width, _ = self.frames.shape
        return count, width, height


def decode(data: bytes) -> Video:
    """Every frame of a video file."""
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        return Video(np.stack(frames), Fraction(stream.average_rate), dict(container.metadata))


def nodes_of(workflow: Mapping[str, Any], kind: str) -> Iterator[dict[str, Any]]:
    """The nodes of one type."""
    return (node for node in workflow["nodes"] if node["type"] == kind)


def nearest_upscaler(times: int = 4) -> dict[str, Tensor]:
    """A compact Real-ESRGAN whose convolutions are zero: what is left is its nearest-neighbour shortcut."""
    width = 8
    return {
        "body.0.weight": torch.zeros(width, 3, 3, 3),
        "body.0.bias": torch.zeros(width),
        "body.1.weight": torch.zeros(width),
        "body.2.weight": torch.zeros(width, width, 3, 3),
        "body.2.bias": torch.zeros(width),
        "body.3.weight": torch.zeros(width),
        "body.4.weight": torch.zeros(3 * times**2, width, 3, 3),
        "body.4.bias": torch.zeros(3 * times**2),
    }


def averaging_interpolator() -> dict[str, Tensor]:
    """A RIFE network of zeros: no motion, and both neighbours count the same."""
    head, width = 4, 8
    shapes: dict[str, tuple[int, ...]] = {"encode.cnn0": (16, 3, 3, 3), "encode.cnn1": (16, 16, 3, 3)}
    shapes |= {"encode.cnn2": (16, 16, 3, 3), "encode.cnn3": (16, head, 4, 4)}
    tensors: dict[str, Tensor] = {}
    for block in range(5):
        name = f"blocks.{block}"
        seen = 7 + 2 * head if block == 0 else 20 + 2 * head
        shapes |= {f"{name}.conv0.0.0": (width // 2, seen, 3, 3), f"{name}.conv0.1.0": (width, width // 2, 3, 3)}
        shapes[f"{name}.lastconv.0"] = (width, 52, 4, 4)
        for layer in range(8):
            shapes[f"{name}.convblock.{layer}.conv"] = (width, width, 3, 3)
            tensors[f"{name}.convblock.{layer}.beta"] = torch.ones(1, width, 1, 1)
    for name, shape in shapes.items():
        turned = name.endswith(("cnn3", "lastconv.0"))
        tensors[f"{name}.weight"] = torch.zeros(shape)
        tensors[f"{name}.bias"] = torch.zeros(shape[1] if turned else shape[0])
    return tensors


def _pattern(frames: int) -> np.ndarray:
    """f h w 3 uint8: a bright bar that wanders over a ramp."""
    ramp = np.linspace(20, 200, 64, dtype=np.float32)
    picture = np.broadcast_to(ramp[None, None, :, None], (frames, 48, 64, 3)).copy()
    for index in range(frames):
        picture[index, :, 5 * index : 5 * index + 9, index % 3] = 250
    return picture.astype(np.uint8)


def boxed_file(name: str) -> Path:
    """Where a model that comes with this pack lies."""
    return ROOT / "models" / name
