"""The training objective: predict the noise in a noised clip (arXiv:2006.11239), under the rescaled process."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from vc_core.denoising.schedule import NoiseSchedule

from .captions import caption
from .image_branch import GREY, pictures
from .network import Network, PictureNetwork
from .pool import Pool
from .trainer import rank
from .world import Scene

DROPPED = 0.12
"""Share of captions that become the empty prompt, so that guidance has an unconditional prediction to use."""
BOTH_DROPPED, ONE_DROPPED = 0.07, 0.05
"""Image-to-video: shares without caption and picture, and without one of the two."""
SKEW = 0.75
"""Timesteps are 1000 * u ** SKEW for even u: the noisy half of the process, where content is decided, comes up more
often than the other. 1 would be the even choice of the published training."""
MOST_WEIGHT = 50.0
"""Errors of the noise count 1 + 1 / SNR, at most this much: as errors of the content do where noise hides it, since an
error of the noise that is small against it can be a wholly wrong clip. In the manner of arXiv:2303.09556."""

SLOW_FPS = 12
FAST_SHARE = 0.3
"""How often a clip of more than `SLOW_FPS` comes up, against the others: little moves in it from first to last."""


class DiffusionObjective:
    """The loss at a step: a batch of the pool with fresh captions, timesteps and noise, all drawn from the step.

    A `PictureNetwork` sees the first frames as pictures in every other step; in between it is a text-to-video network
    without image tokens, so that one training makes both.
    """

    def __init__(
        self, network: Network | PictureNetwork, pool: Pool, *, batch: int, seed: int, skew: float = SKEW
    ) -> None:
        self.network, self.pool, self.batch, self.seed, self.skew = network, pool, batch, seed, skew
        chances = np.array([1.0 if scene.fps <= SLOW_FPS else FAST_SHARE for scene in pool.scenes])
        self.chances = chances / chances.sum()
        schedule = NoiseSchedule.from_spec(network.spec.diffusion)
        self.signal = (schedule.alphas_cumprod.sqrt() * schedule.scale).float()
        self.noise = (1 - schedule.alphas_cumprod).sqrt().float()
        weight = (1 + (self.noise / self.signal).square()).clamp(max=MOST_WEIGHT)
        self.weight = weight / weight[self._spread(torch.arange(len(weight)) / len(weight))].mean()

    def __call__(self, step: int) -> Tensor:
        rng = np.random.default_rng([self.seed, step, rank()])
        chosen = rng.choice(len(self.pool), self.batch, p=self.chances)
        latents = self.pool.latents[torch.from_numpy(chosen)].float().transpose(1, 2)  # b c f h w
        scenes = [self.pool.scenes[int(i)] for i in chosen]
        device = next(self.network.parameters()).device
        timesteps = self._timesteps(rng)
        noise = torch.from_numpy(rng.standard_normal(latents.shape, dtype=np.float32))
        where = (-1, 1, 1, 1, 1)
        x = latents * self.signal[timesteps].view(where) + noise * self.noise[timesteps].view(where)
        pictured = isinstance(self.network, PictureNetwork) and step % 2 == 1
        conditions = self._with_pictures(scenes, rng) if pictured else self._with_text(scenes, rng)
        with torch.autocast(device.type, torch.bfloat16):
            out = self.network(x.to(device), timesteps.to(device), *(value.to(device) for value in conditions))
        errors = (out.float() - noise.to(device)).square().mean((1, 2, 3, 4))
        return (errors * self.weight[timesteps].to(device)).mean()

    def _with_text(self, scenes: list[Scene], rng: np.random.Generator) -> list[Tensor]:
        """Words b n, and fps b."""
        texts = ["" if rng.random() < DROPPED else caption(scene, rng) for scene in scenes]
        return [self.network.words.read(texts, rng), torch.tensor([scene.fps for scene in scenes])]

    def _with_pictures(self, scenes: list[Scene], rng: np.random.Generator) -> list[Tensor]:
        """Words b n, fps b, and pictures b 3 h w: their first frames, or grey ones."""
        seen = pictures(scenes, [0] * len(scenes))
        texts = []
        for picture, scene in zip(seen, scenes, strict=True):
            chance = rng.random()
            if chance < BOTH_DROPPED or chance > 1 - ONE_DROPPED:
                picture.fill_(GREY)
            texts.append("" if chance < BOTH_DROPPED + ONE_DROPPED else caption(scene, rng))
        return [self.network.words.read(texts, rng), torch.tensor([scene.fps for scene in scenes]), seen]

    def _timesteps(self, rng: np.random.Generator) -> Tensor:
        """One timestep from each of `batch` equal shares of the range, in random order."""
        return self._spread(torch.from_numpy((rng.permutation(self.batch) + rng.random(self.batch)) / self.batch))

    def _spread(self, even: Tensor) -> Tensor:
        """The timesteps of numbers in 0..1."""
        return (len(self.signal) * even**self.skew).long().clamp(max=len(self.signal) - 1)
