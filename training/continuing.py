"""A small DynamiCrafter out of the small image-to-video network (arXiv:2310.12190): it reads the latents of one picture
or of two beside the noised clip, gets image tokens of their own for every frame, and predicts the velocity under a
schedule whose last timestep is noise alone (arXiv:2305.08891)."""

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

TWO_PICTURES, THERE_AND_BACK = 0.45, 0.2
"""Shares of the clips of which both ends are shown, and of those that are run to the end and back again, so that they
end with the picture they begin with; the others show their first frame alone."""
BOTH_DROPPED, ONE_DROPPED = 0.07, 0.05
"""Shares without words and picture, and without one of the two; the latents beside the clip always stay."""
SKEW = 0.75
"""As in `diffusion`: noisy timesteps come up more often."""

TURN = [*range(0, FRAMES, 2), *range(FRAMES - 2, -1, -2)]
"""Frames of a clip that is run to its end at twice its speed and back."""


def wider(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An image-to-video network's weights for this layout: the new inputs count nothing yet, and the tokens of every
    frame begin as those that were for all."""
    grown = dict(weights)
    first = "network.unet.input_blocks.0.0.weight"
    grown[first] = torch.cat([weights[first], torch.zeros_like(weights[first])], dim=1)
    queries = "branch.tokens.latents"
    grown[queries] = weights[queries].repeat(1, FRAMES, 1)
    return grown


class ContinuingObjective:
    """The loss at a step: the squared error of the velocity, for a batch that is drawn from the step."""

    def __init__(self, network: PictureNetwork, pool: Pool, *, batch: int, seed: int) -> None:
        self.network, self.pool, self.batch, self.seed = network, pool, batch, seed
        schedule = NoiseSchedule.from_spec(network.spec.diffusion)
        self.alpha = schedule.alphas_cumprod.sqrt().float()
        self.scale = schedule.scale.float()
        self.noise = (1 - schedule.alphas_cumprod).sqrt().float()

    def __call__(self, step: int) -> Tensor:
        rng = np.random.default_rng([self.seed, step, rank()])
        clips, scenes, beside = self.draw(rng)
        even = (rng.permutation(self.batch) + rng.random(self.batch)) / self.batch
        timesteps = torch.from_numpy((len(self.alpha) * even**SKEW).astype(np.int64)).clamp(max=len(self.alpha) - 1)
        noise = torch.from_numpy(rng.standard_normal(clips.shape, dtype=np.float32))
        alpha, scale, sigma = (table[timesteps].view(-1, 1, 1, 1, 1) for table in (self.alpha, self.scale, self.noise))
        x = alpha * scale * clips + sigma * noise
        velocity = alpha * noise - sigma * scale * clips
        device = next(self.network.parameters()).device
        told = [value.to(device) for value in (timesteps, *self.conditions(scenes, rng), beside)]
        with torch.autocast(device.type, torch.bfloat16):
            out = self.network(x.to(device), *told)
        return (out.float() - velocity.to(device)).square().mean()

    def draw(self, rng: np.random.Generator) -> tuple[Tensor, list[Scene], Tensor]:
        """Latents b c f h w, their scenes, and the latents that stand beside them."""
        clips, scenes, beside = [], [], []
        for index in rng.integers(len(self.pool), size=self.batch):
            clip = self.pool.latents[int(index)].float().transpose(0, 1)[None]  # 1 c f h w
            scene = self.pool.scenes[int(index)]
            chance = rng.random()
            if chance < THERE_AND_BACK:
                clip, scene = clip[:, :, TURN], replace(scene, fps=max(1, scene.fps // 2))
            last = clip[:, :, -1] if chance < THERE_AND_BACK + TWO_PICTURES else None
            clips.append(clip)
            scenes.append(scene)
            beside.append(picture_latent(clip[:, :, 0], FRAMES, last))
        return torch.cat(clips), scenes, torch.cat(beside)

    def conditions(self, scenes: list[Scene], rng: np.random.Generator) -> list[Tensor]:
        """Words b n, fps b, and the first frames b 3 h w, of which some are left out."""
        seen = pictures(scenes, [0] * len(scenes))
        texts = []
        for picture, scene in zip(seen, scenes, strict=True):
            chance = rng.random()
            if chance < BOTH_DROPPED or chance > 1 - ONE_DROPPED:
                picture.fill_(GREY)
            texts.append("" if chance < BOTH_DROPPED + ONE_DROPPED else caption(scene, rng))
        return [self.network.words.read(texts, rng), torch.tensor([scene.fps for scene in scenes]), seen]
