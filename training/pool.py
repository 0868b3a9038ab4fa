"""Scenes and their latents, encoded once and kept in memory, since rendering and encoding cost more than a training
step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vc_core.autoencoder.autoencoder import Autoencoder
from worlds.shapes.camera import camera_poses, random_shot, view
from worlds.shapes.world import FRAMES, Scene, random_scene, render


class Pool:
    """n scenes and their latents n f c h w in half precision; `frames` are the indices of the encoded frames, n f, and
    `moves` those of the camera, n, or none where it stands still in all of them."""

    def __init__(self, scenes: Sequence[Scene], latents: Tensor, frames: Tensor, moves: Sequence[str] = ()) -> None:
        self.scenes, self.latents, self.frames, self.moves = list(scenes), latents, frames, list(moves)

    def __len__(self) -> int:
        return len(self.scenes)

    def save(self, path: Path) -> None:
        """Saves the pool atomically."""
        part = path.with_suffix(".part")
        scenes = [asdict(scene) for scene in self.scenes]
        torch.save({"scenes": scenes, "latents": self.latents, "frames": self.frames, "moves": self.moves}, part)
        part.replace(path)

    @classmethod
    def load(cls, path: Path) -> Pool:
        data = torch.load(path, weights_only=True)
        return cls(
            [Scene(**fields) for fields in data["scenes"]], data["latents"], data["frames"], data.get("moves", ())
        )

    @classmethod
    def join(cls, pools: Sequence[Pool]) -> Pool:
        return cls(
            [scene for pool in pools for scene in pool.scenes],
            torch.cat([pool.latents for pool in pools]),
            torch.cat([pool.frames for pool in pools]),
            [moves for pool in pools for moves in pool.moves],
        )


def make_pool(model: Autoencoder, count: int, seed: int, *, single: bool = False, chunk: int = 8) -> Pool:
    """`count` random scenes of the training combinations: whole clips, or one frame of each with `single`."""
    rng = np.random.default_rng([seed, 1 if single else FRAMES])
    scenes = [random_scene(rng) for _ in range(count)]
    everything = list(range(FRAMES))
    numbers = [[int(rng.integers(FRAMES))] if single else everything for _ in scenes]
    groups = range(0, count, chunk)
    latents = []
    for start in groups:
        part = range(start, min(start + chunk, count))
        if single:
            pixels = torch.cat([render([scenes[i]], frames=numbers[i]) for i in part])
        else:
            pixels = render([scenes[i] for i in part])
        latents.append(encoded(model, pixels))
    return Pool(scenes, torch.cat(latents), torch.tensor(numbers))


def make_camera_pool(model: Autoencoder, count: int, seed: int, *, chunk: int = 8) -> Pool:
    """`count` random clips of the training combinations in which the camera moves."""
    rng = np.random.default_rng([seed, FRAMES, FRAMES])
    shots = [random_shot(rng) for _ in range(count)]
    latents = []
    for start in range(0, count, chunk):
        part = shots[start : start + chunk]
        latents.append(encoded(model, torch.stack([view(scene, camera_poses(moves)) for scene, moves in part])))
    scenes, moves = zip(*shots, strict=True)
    return Pool(scenes, torch.cat(latents), torch.arange(FRAMES).expand(count, -1).clone(), moves)


@torch.no_grad()
def encoded(model: Autoencoder, pixels: Tensor) -> Tensor:
    """Clips n f h w 3 in 0..1 -> their latents n f c h w in half precision, on the CPU."""
    device = next(model.parameters()).device
    flat = pixels.flatten(0, 1).permute(0, 3, 1, 2).to(device) * 2 - 1
    with torch.autocast(device.type, torch.bfloat16):
        latents = model.encode(flat, chunk=128)
    return latents.unflatten(0, (len(pixels), -1)).to("cpu", torch.float16)
