"""The training objective: predict the noise in a noised clip (arXiv:2006.11239), under the rescaled process."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vc_core.denoising.schedule import NoiseSchedule
from worlds.shapes.camera import camera_poses
from worlds.shapes.captions import caption
from worlds.shapes.world import DIRECTIONS, Scene, backwards, held_out

from .camera import CameraNetwork
from .image_branch import GREY, pictures
from .network import Network, PictureNetwork
from .pool import Pool
from .trainer import rank

DROPPED = 0.12
"""Share of captions replaced by the empty prompt, to train the unconditional prediction for guidance."""
BOTH_DROPPED, ONE_DROPPED = 0.07, 0.05
"""Image-to-video: shares without caption and image, and without one of the two."""
SKEW = 0.65
"""Timesteps are 1000 * u ** SKEW for uniform u, so that the noisy half of the process, where the content is decided, is
drawn more often. The published training is uniform (1)."""
MOST_WEIGHT = 150.0
"""Maximum weight of the loss. The weight of the noise error is 1 + 1 / SNR, which weights errors of the content
equally: at high noise, a small error of the noise can mean an entirely wrong clip. Similar to arXiv:2303.09556."""

SLOW_FPS = 12
FAST_SHARE = 0.6
"""Relative frequency of clips with more than `SLOW_FPS`, in which little moves."""
BACKWARDS_SHARE = 0.5
"""Share of clips that are reversed, which gives another valid clip of the world."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """The batch of one step. latents and noise: b c f h w; timesteps: b; rows: words, b n; pictures: b 3 h w in -1..1,
    or None for text-to-video; poses: of a camera, b f 12, or None without one."""

    scenes: list[Scene]
    texts: list[str]
    latents: Tensor
    noise: Tensor
    timesteps: Tensor
    rows: Tensor
    pictures: Tensor | None
    poses: Tensor | None = None


class DiffusionObjective:
    """The loss of a training step, for a batch of the pool with new captions, timesteps and noise, determined by the
    step.

    A `PictureNetwork` is conditioned on the first frames in every other step; in between it is trained as a
    text-to-video network without image tokens, so that one training produces both.

    A `CameraNetwork` sees the poses of the pool's camera.

    lowest: the lowest timestep that is drawn, 0 .. 999.
    most_weight: see `MOST_WEIGHT`.
    moving: use only clips with a moving shape, at `SLOW_FPS` or less.
    """

    def __init__(
        self,
        network: Network | PictureNetwork | CameraNetwork,
        pool: Pool,
        *,
        batch: int,
        seed: int,
        lowest: int = 0,
        most_weight: float = MOST_WEIGHT,
        moving: bool = False,
    ) -> None:
        self.network, self.pool, self.batch, self.seed, self.lowest = network, pool, batch, seed, lowest
        far = [scene.fps <= SLOW_FPS and scene.motion in DIRECTIONS for scene in pool.scenes]
        fast_share = 0.0 if moving and any(far) else FAST_SHARE
        slow = far if moving else [scene.fps <= SLOW_FPS for scene in pool.scenes]
        chances = np.array([1.0 if is_slow else fast_share for is_slow in slow])
        self.chances = chances / chances.sum()
        self.poses = _poses(pool)
        schedule = NoiseSchedule.from_spec(network.spec.diffusion)
        self.signal = (schedule.alphas_cumprod.sqrt() * schedule.scale).float()
        self.noise = (1 - schedule.alphas_cumprod).sqrt().float()
        self.weight = (1 + (self.noise / self.signal).square()).clamp(max=most_weight)

    def __call__(self, step: int) -> Tensor:
        return self.error(self.draw(step))

    def draw(self, step: int) -> Batch:
        """The batch of a step; processes that train together draw different ones."""
        rng = np.random.default_rng([self.seed, step, rank()])
        chosen = rng.choice(len(self.pool), self.batch, p=self.chances)
        clips = [self._clip(int(number), rng) for number in chosen]
        scenes = [scene for scene, _ in clips]
        latents = torch.stack([latent for _, latent in clips]).float().transpose(1, 2)  # b c f h w
        timesteps = self._timesteps(rng)
        noise = torch.from_numpy(rng.standard_normal(latents.shape, dtype=np.float32))
        pictured = isinstance(self.network, PictureNetwork) and step % 2 == 1
        texts, images = _with_pictures(scenes, rng) if pictured else (_texts(scenes, rng), None)
        return Batch(
            scenes=scenes,
            texts=texts,
            latents=latents,
            noise=noise,
            timesteps=timesteps,
            rows=self.network.words.read(texts, rng),
            pictures=images,
            poses=None if self.poses is None else self.poses[torch.from_numpy(chosen)],
        )

    def error(self, batch: Batch) -> Tensor:
        """The weighted mean squared error of the predicted noise."""
        device = next(self.network.parameters()).device
        where = (-1, 1, 1, 1, 1)
        signal, noise = self.signal[batch.timesteps].view(where), self.noise[batch.timesteps].view(where)
        x = (batch.latents * signal + batch.noise * noise).to(device)
        fps = torch.tensor([scene.fps for scene in batch.scenes], device=device)
        more = [tensor.to(device) for tensor in (batch.pictures, batch.poses) if tensor is not None]
        with torch.autocast(device.type, torch.bfloat16):
            out = self.network(x, batch.timesteps.to(device), batch.rows.to(device), fps, *more)
        errors = (out.float() - batch.noise.to(device)).square().mean((1, 2, 3, 4))
        return (errors * self.weight[batch.timesteps].to(device)).mean()

    def _clip(self, number: int, rng: np.random.Generator) -> tuple[Scene, Tensor]:
        """A scene of the pool and its latents f c h w, reversed in some cases if the camera stands still."""
        scene, latents = self.pool.scenes[number], self.pool.latents[number]
        if self.poses is not None:
            return scene, latents
        reverse = backwards(scene)
        flip = rng.random() < BACKWARDS_SHARE and not held_out(reverse.shape, reverse.colour, reverse.motion)
        return (reverse, latents.flip(0)) if flip and len(latents) > 1 else (scene, latents)

    def _timesteps(self, rng: np.random.Generator) -> Tensor:
        """One timestep from each of `batch` equal parts of the range, in random order."""
        return self._spread(torch.from_numpy((rng.permutation(self.batch) + rng.random(self.batch)) / self.batch))

    def _spread(self, even: Tensor) -> Tensor:
        """Maps uniform numbers in 0..1 to timesteps."""
        last = len(self.signal) - 1
        return (self.lowest + (len(self.signal) - self.lowest) * even**SKEW).long().clamp(max=last)


def _poses(pool: Pool) -> Tensor | None:
    """Poses n f 12 of the pool's camera; None where it stands still in all clips."""
    return torch.stack([camera_poses(moves) for moves in pool.moves]) if pool.moves else None


def _texts(scenes: list[Scene], rng: np.random.Generator) -> list[str]:
    """Captions of the scenes, some of them dropped."""
    return ["" if rng.random() < DROPPED else caption(scene, rng) for scene in scenes]


def _with_pictures(scenes: list[Scene], rng: np.random.Generator) -> tuple[list[str], Tensor]:
    """Captions and images b 3 h w: the first frames of the scenes, or grey images where they are dropped."""
    images = pictures(scenes, [0] * len(scenes))
    texts = []
    for image, scene in zip(images, scenes, strict=True):
        chance = rng.random()
        if chance < BOTH_DROPPED or chance > 1 - ONE_DROPPED:
            image.fill_(GREY)
        texts.append("" if chance < BOTH_DROPPED + ONE_DROPPED else caption(scene, rng))
    return texts, images
