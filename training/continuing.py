"""A small DynamiCrafter made from the small image-to-video network (arXiv:2310.12190): the latents of one or two
images are concatenated to the noised clip, every frame has its own image tokens, and the network predicts the velocity
under a schedule with zero terminal SNR (arXiv:2305.08891)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from vc_core.denoising.schedule import NoiseSchedule
from vc_core.frames.fitting import picture_latent
from vc_core.specs import DiffusionSpec, ResamplerSpec
from worlds.shapes.captions import caption
from worlds.shapes.world import FRAMES, Scene

from .image_branch import GREY, pictures
from .network import IMAGE_TO_VIDEO, PictureNetwork
from .pool import Pool
from .trainer import rank

assert isinstance(IMAGE_TO_VIDEO.image_tokens, ResamplerSpec)
CONTINUING = replace(
    IMAGE_TO_VIDEO,
    name="videocrafter_small_dynamicrafter",
    unet=replace(IMAGE_TO_VIDEO.unet, in_channels=8, concat_channels=4),
    diffusion=DiffusionSpec(prediction="v", zero_terminal_snr=True, keep_last_rescale=True),
    image_tokens=replace(IMAGE_TO_VIDEO.image_tokens, frames=FRAMES),
    defaults=replace(IMAGE_TO_VIDEO.defaults, cfg=3.0, spacing="trailing", guidance_rescale=0.7),
)

TWO_IMAGES, BACK_AND_FORTH = 0.45, 0.2
"""Shares of clips conditioned on both ends, and of clips that are played forwards and backwards, so that they end with
the image they start with. All others are conditioned on their first frame only."""
BOTH_DROPPED, ONE_DROPPED = 0.07, 0.05
"""Shares without text and image, and without one of the two. The concatenated latents are never dropped."""
SKEW = 0.75
"""As in `diffusion`: noisy timesteps are drawn more often."""

LOOPED = [*range(0, FRAMES, 2), *range(FRAMES - 2, -1, -2)]
"""Frame indices of a clip that is played forwards at twice its speed and then backwards."""


def wider(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Converts the weights of an image-to-video network to this layout: the new inputs start at zero, and the tokens
    of each frame start from the shared ones."""
    grown = dict(weights)
    first = "network.unet.input_blocks.0.0.weight"
    grown[first] = torch.cat([weights[first], torch.zeros_like(weights[first])], dim=1)
    queries = "branch.tokens.latents"
    grown[queries] = weights[queries].repeat(1, FRAMES, 1)
    return grown


class ContinuingObjective:
    """The loss of a training step: the squared error of the velocity, for a batch determined by the step."""

    def __init__(self, network: PictureNetwork, pool: Pool, *, batch: int, seed: int) -> None:
        self.network, self.pool, self.batch, self.seed = network, pool, batch, seed
        schedule = NoiseSchedule.from_spec(network.spec.diffusion)
        self.alpha = schedule.alphas_cumprod.sqrt().float()
        self.scale = schedule.scale.float()
        self.noise = (1 - schedule.alphas_cumprod).sqrt().float()

    def __call__(self, step: int) -> Tensor:
        rng = np.random.default_rng([self.seed, step, rank()])
        clips, scenes, concat = self.draw(rng)
        even = (rng.permutation(self.batch) + rng.random(self.batch)) / self.batch
        timesteps = torch.from_numpy((len(self.alpha) * even**SKEW).astype(np.int64)).clamp(max=len(self.alpha) - 1)
        noise = torch.from_numpy(rng.standard_normal(clips.shape, dtype=np.float32))
        alpha, scale, sigma = (table[timesteps].view(-1, 1, 1, 1, 1) for table in (self.alpha, self.scale, self.noise))
        x = alpha * scale * clips + sigma * noise
        velocity = alpha * noise - sigma * scale * clips
        device = next(self.network.parameters()).device
        inputs = [value.to(device) for value in (timesteps, *self.conditions(scenes, rng), concat)]
        with torch.autocast(device.type, torch.bfloat16):
            out = self.network(x.to(device), *inputs)
        return (out.float() - velocity.to(device)).square().mean()

    def draw(self, rng: np.random.Generator) -> tuple[Tensor, list[Scene], Tensor]:
        """Latents b c f h w, their scenes, and the latents to concatenate."""
        clips, scenes, concat = [], [], []
        for index in rng.integers(len(self.pool), size=self.batch):
            clip = self.pool.latents[int(index)].float().transpose(0, 1)[None]  # 1 c f h w
            scene = self.pool.scenes[int(index)]
            chance = rng.random()
            if chance < BACK_AND_FORTH:
                clip, scene = clip[:, :, LOOPED], replace(scene, fps=max(1, scene.fps // 2))
            last = clip[:, :, -1] if chance < BACK_AND_FORTH + TWO_IMAGES else None
            clips.append(clip)
            scenes.append(scene)
            concat.append(picture_latent(clip[:, :, 0], FRAMES, last))
        return torch.cat(clips), scenes, torch.cat(concat)

    def conditions(self, scenes: list[Scene], rng: np.random.Generator) -> list[Tensor]:
        """Words b n, fps b, and the first frames b 3 h w; some texts and images are dropped."""
        images = pictures(scenes, [0] * len(scenes))
        texts = []
        for image, scene in zip(images, scenes, strict=True):
            chance = rng.random()
            if chance < BOTH_DROPPED or chance > 1 - ONE_DROPPED:
                image.fill_(GREY)
            texts.append("" if chance < BOTH_DROPPED + ONE_DROPPED else caption(scene, rng))
        return [self.network.words.read(texts, rng), torch.tensor([scene.fps for scene in scenes]), images]
