"""MotionCtrl's camera layers (arXiv:2312.03641) for the trained text-to-video network, which stays as it is.

The poses are those of `vc_core.control.camera`: a drawn camera at the normal speed and 8 frames per second makes the
move of speed 1. Captions say nothing of the camera.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from training.camera_layers import CameraLayers, save_layers
from training.network import part
from worlds.storybook.world import FRAMES, PAN_SPEED, ROLL_SPEED, ZOOM_SPEED

from .fitting import Batch
from .forward import Camera
from .gallery import Gallery
from .lessons import VideoBatches, VideoLesson
from .networks import Network

SECONDS = FRAMES / 8
"""Of a clip, in which a move of speed 1 is made."""
SHIFT = 1.5 / (PAN_SPEED * SECONDS)
DEPTH = 2 * 1.5 / (ZOOM_SPEED * SECONDS)
TURN = math.pi / 3 / (ROLL_SPEED * SECONDS)
"""Translations along x and y, along z, and angles, for one unit of what `painting.labels` says of a camera."""


def poses(camera: Tensor) -> Tensor:
    """A drawn camera b f 4 (x, y, log magnification, angle) -> the rows of [R | T] against the first frame, b f 12"""
    x, y, growth, angle = (camera - camera[:, :1]).unbind(-1)
    cos, sin, zero = (TURN * angle).cos(), (TURN * angle).sin(), torch.zeros_like(x)
    rows = (cos, -sin, zero, -SHIFT * x, sin, cos, zero, -SHIFT * y, zero, zero, zero + 1, -DEPTH * growth)
    return torch.stack(rows, dim=-1)


class CameraLesson(VideoLesson):
    """The camera layers of a network, which is frozen. Its call gives the loss of a batch of `VideoBatches` with poses
    b f 12 at its end."""

    def __init__(self, network: Network) -> None:
        super().__init__(network.requires_grad_(False))
        self.layers = CameraLayers(network.unet, first=False)

    def forward(self, x: Tensor, velocity: Tensor, weights: Tensor, timesteps: Tensor, *more: Tensor) -> Tensor:
        fps, rows, seen = more
        camera = Camera(self.layers.by_transformer, seen.to(self._dtype))
        out, _ = self.network(x, timesteps, rows, fps, camera=camera)
        return ((out.float() - velocity).square() * weights).mean()

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.layers.parameters()).dtype

    @staticmethod
    def save(folder: Path, name: str, weights: dict[str, Tensor]) -> Path:
        """Write the layers of averaged weights under their published names, in half precision."""
        return save_layers(folder / f"{name}.safetensors", part(weights, "layers."))


class CameraBatches:
    """Draws the batches of a `CameraLesson`."""

    def __init__(self, gallery: Gallery, lesson: CameraLesson, size: int) -> None:
        self.gallery = gallery
        self.clips = VideoBatches(gallery, lesson, size)
        self.camera, self.comma = (gallery.words.of_word[word][0] for word in ("camera", ","))

    def __call__(self, progress: float) -> Batch:
        *batch, rows = self.clips(progress)
        return (*batch, self.without_camera(rows), poses(self.gallery["camera"][self.clips.chosen]))

    def without_camera(self, rows: Tensor) -> Tensor:
        """Words b n without what they say of the camera, which is behind the last comma."""
        place = torch.arange(rows.shape[1], device=rows.device)
        last = (place * (rows == self.comma)).amax(1, keepdim=True)
        end = torch.where((rows == self.camera).any(1, keepdim=True), last, rows.shape[1])
        words = self.gallery.words
        cut = torch.where(place == end, words.end, words.padding)
        return torch.where(place < end, rows, cut)
