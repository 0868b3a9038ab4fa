"""The training objective: predict the noise in a noised clip (arXiv:2006.11239), under the rescaled process."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vc_core.denoising.schedule import NoiseSchedule
from worlds.shapes.captions import caption
from worlds.shapes.world import DIRECTIONS, Scene, backwards, held_out

from .image_branch import GREY, pictures
from .network import Network, PictureNetwork
from .pool import Pool
from .trainer import rank

DROPPED = 0.12
"""Share of captions that become the empty prompt, so that guidance has an unconditional prediction to use."""
BOTH_DROPPED, ONE_DROPPED = 0.07, 0.05
"""Image-to-video: shares without caption and picture, and without one of the two."""
SKEW = 0.65
"""Timesteps are 1000 * u ** SKEW for even u: the noisy half of the process, where content is decided, comes up more
often than the other. 1 would be the even choice of the published training."""
MOST_WEIGHT = 150.0
"""Errors of the noise count 1 + 1 / SNR, at most this much: as errors of the content do where noise hides it, since an
error of the noise that is small against it can be a wholly wrong clip. In the manner of arXiv:2303.09556."""

SLOW_FPS = 12
FAST_SHARE = 0.6
"""How often a clip of more than `SLOW_FPS` comes up, against the others: little moves in it from first to last."""
BACKWARDS_SHARE = 0.5
"""How often a clip is shown from its last frame to its first, which is another clip of the world."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What one step sees. latents and noise: b c f h w; timesteps: b; rows: words, b n; pictures: b 3 h w in -1..1, or
    None for text-to-video."""

    scenes: list[Scene]
    texts: list[str]
    latents: Tensor
    noise: Tensor
    timesteps: Tensor
    rows: Tensor
    pictures: Tensor | None


class DiffusionObjective:
    """The loss at a step: a batch of the pool with fresh captions, timesteps and noise, all drawn from the step.

    A `PictureNetwork` sees the first frames as pictures in every other step; in between it is a text-to-video network
    without image tokens, so that one training makes both.

    lowest: the least timestep that is drawn, 0 .. 999.
    most_weight: see `MOST_WEIGHT`.
    moving: only clips whose shape goes somewhere, at `SLOW_FPS` or less.
    """

    def __init__(
        self,
        network: Network | PictureNetwork,
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
        schedule = NoiseSchedule.from_spec(network.spec.diffusion)
        self.signal = (schedule.alphas_cumprod.sqrt() * schedule.scale).float()
        self.noise = (1 - schedule.alphas_cumprod).sqrt().float()
        self.weight = (1 + (self.noise / self.signal).square()).clamp(max=most_weight)

    def __call__(self, step: int) -> Tensor:
        return self.error(self.draw(step))

    def draw(self, step: int) -> Batch:
        """The step's batch; two processes that train together draw different ones."""
        rng = np.random.default_rng([self.seed, step, rank()])
        chosen = rng.choice(len(self.pool), self.batch, p=self.chances)
        clips = [self._clip(int(number), rng) for number in chosen]
        scenes = [scene for scene, _ in clips]
        latents = torch.stack([latent for _, latent in clips]).float().transpose(1, 2)  # b c f h w
        timesteps = self._timesteps(rng)
        noise = torch.from_numpy(rng.standard_normal(latents.shape, dtype=np.float32))
        pictured = isinstance(self.network, PictureNetwork) and step % 2 == 1
        texts, seen = _with_pictures(scenes, rng) if pictured else (_texts(scenes, rng), None)
        return Batch(
            scenes=scenes,
            texts=texts,
            latents=latents,
            noise=noise,
            timesteps=timesteps,
            rows=self.network.words.read(texts, rng),
            pictures=seen,
        )

    def error(self, batch: Batch) -> Tensor:
        """The weighted error of the predicted noise."""
        device = next(self.network.parameters()).device
        where = (-1, 1, 1, 1, 1)
        signal, noise = self.signal[batch.timesteps].view(where), self.noise[batch.timesteps].view(where)
        x = (batch.latents * signal + batch.noise * noise).to(device)
        fps = torch.tensor([scene.fps for scene in batch.scenes], device=device)
        seen = [] if batch.pictures is None else [batch.pictures.to(device)]
        with torch.autocast(device.type, torch.bfloat16):
            out = self.network(x, batch.timesteps.to(device), batch.rows.to(device), fps, *seen)
        errors = (out.float() - batch.noise.to(device)).square().mean((1, 2, 3, 4))
        return (errors * self.weight[batch.timesteps].to(device)).mean()

    def _clip(self, number: int, rng: np.random.Generator) -> tuple[Scene, Tensor]:
        """A scene of the pool and its latents f c h w, as they are or backwards."""
        scene, latents = self.pool.scenes[number], self.pool.latents[number]
        turned = backwards(scene)
        wished = rng.random() < BACKWARDS_SHARE and not held_out(turned.shape, turned.colour, turned.motion)
        return (turned, latents.flip(0)) if wished and len(latents) > 1 else (scene, latents)

    def _timesteps(self, rng: np.random.Generator) -> Tensor:
        """One timestep from each of `batch` equal shares of the range, in random order."""
        return self._spread(torch.from_numpy((rng.permutation(self.batch) + rng.random(self.batch)) / self.batch))

    def _spread(self, even: Tensor) -> Tensor:
        """The timesteps of numbers in 0..1."""
        last = len(self.signal) - 1
        return (self.lowest + (len(self.signal) - self.lowest) * even**SKEW).long().clamp(max=last)


def _texts(scenes: list[Scene], rng: np.random.Generator) -> list[str]:
    """A caption for each, a few of them dropped."""
    return ["" if rng.random() < DROPPED else caption(scene, rng) for scene in scenes]


def _with_pictures(scenes: list[Scene], rng: np.random.Generator) -> tuple[list[str], Tensor]:
    """Captions, and pictures b 3 h w: the scenes' first frames, or grey ones where they are dropped."""
    seen = pictures(scenes, [0] * len(scenes))
    texts = []
    for picture, scene in zip(seen, scenes, strict=True):
        chance = rng.random()
        if chance < BOTH_DROPPED or chance > 1 - ONE_DROPPED:
            picture.fill_(GREY)
        texts.append("" if chance < BOTH_DROPPED + ONE_DROPPED else caption(scene, rng))
    return texts, seen
