"""The image branch of image-to-video: image encoder and resampler, and their pretraining.

Together with a video network they train slowly, because the network must first discover that their tokens are
informative. So they are pretrained: a small reader reconstructs the image's latents from the tokens, which it reads by
attention as the network will.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vc_core.conditioning.image_encoder import ImageEncoder
from vc_core.conditioning.image_tokens import Resampler
from vc_core.network.attention import Attention
from vc_core.specs import ImageEncoderSpec, ModelSpec, ResamplerSpec
from worlds.shapes.world import Scene, render

from .layers import short_attention
from .pool import Pool
from .trainer import rank

READER_WIDTH = 64
GREY = 0.0
"""The image of the unconditional branch, in -1..1."""


class ImageBranch(nn.Module):
    """Images b 3 h w in -1..1 -> tokens b m d. The encoder's unused text tensors are made as small as possible."""

    def __init__(self, spec: ModelSpec, attention: Attention = short_attention) -> None:
        super().__init__()
        if not isinstance(spec.image_encoder, ImageEncoderSpec) or not isinstance(spec.image_tokens, ResamplerSpec):
            raise ValueError(f"{spec.name} has no image encoder with a resampler")
        self.encoder = ImageEncoder(replace(spec.image_encoder, vocab_size=1, context_length=1))
        self.tokens = Resampler(spec.image_tokens, attention=attention)

    def forward(self, pictures: Tensor) -> Tensor:
        out: Tensor = self.tokens(self.encoder(pictures))
        return out

    def published_names(self) -> dict[str, Tensor]:
        """The weights under published names, without the unused text tensors."""
        visual = {k: v for k, v in self.encoder.state_dict().items() if k not in self.encoder.optional}
        named = {f"embedder.{key}": value for key, value in visual.items()}
        return named | {f"image_proj_model.{key}": value for key, value in self.tokens.state_dict().items()}


class Reader(nn.Module):
    """Image tokens b m d -> latents b c h w: cross-attention with a learned query for every position of the latent."""

    def __init__(self, token_width: int, channels: int, side: int, attention: Attention = short_attention) -> None:
        super().__init__()
        self.side, self.attention = side, attention
        self.queries = nn.Parameter(torch.randn(1, side * side, READER_WIDTH))
        self.keys = nn.Linear(token_width, READER_WIDTH)
        self.values = nn.Linear(token_width, READER_WIDTH)
        self.out = nn.Sequential(
            nn.Linear(2 * READER_WIDTH, 4 * READER_WIDTH), nn.GELU(), nn.Linear(4 * READER_WIDTH, channels)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        queries = self.queries.expand(len(tokens), -1, -1)
        read = self.attention(queries, self.keys(tokens), self.values(tokens), heads=4)
        return self.out(torch.cat([read, queries], dim=-1)).transpose(1, 2).unflatten(2, (self.side, self.side))


def pictures(scenes: list[Scene], frames: list[int]) -> Tensor:
    """One frame of each scene: b 3 h w in -1..1."""
    drawn = torch.cat([render([scene], frames=[frame]) for scene, frame in zip(scenes, frames, strict=True)])
    return drawn[:, 0].permute(0, 3, 1, 2).contiguous() * 2 - 1


class ReadingExercise(nn.Module):
    """The branch and its reader; called with a step, it returns the squared error for that step's batch of the pool."""

    def __init__(self, spec: ModelSpec, pool: Pool, *, batch: int, seed: int) -> None:
        super().__init__()
        self.pool, self.batch, self.seed = pool, batch, seed
        self.branch = ImageBranch(spec)
        side = pool.latents.shape[-1]
        self.reader = Reader(spec.unet.context_dim, spec.autoencoder.latent_channels, side)

    def forward(self, step: int) -> Tensor:
        rng = np.random.default_rng([self.seed, step, rank()])
        chosen = [int(i) for i in rng.integers(len(self.pool), size=self.batch)]
        column = int(rng.integers(self.pool.frames.shape[1]))
        frames = [int(self.pool.frames[i, column]) for i in chosen]
        target = self.pool.latents[chosen, column].float()
        images = pictures([self.pool.scenes[i] for i in chosen], frames)
        with torch.autocast(images.device.type, torch.bfloat16):
            read = self.reader(self.branch(images))
        return F.mse_loss(read.float(), target)
