"""ENCODED IMAGE -> IMAGE TOKENS, which the network attends to beside the text."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from ..network.attention import Attention, sdpa_attention
from ..specs import LinearTokensSpec, ModelSpec, ResamplerSpec
from .image_encoder import ImageEncoder
from .openclip import Device


class Resampler(nn.Module):
    """Learned queries that attend to the encoder's tokens and to themselves, then a feed-forward layer, several times
    over (the Perceiver resampler, arXiv:2204.14198). Names are those under `image_proj_model.` in published files.

    With `frames` in its spec it makes separate tokens for each of that many frames (DynamiCrafter).
    """

    def __init__(
        self,
        spec: ResamplerSpec,
        *,
        operations: ModuleType | Any = nn,
        attention: Attention = sdpa_attention,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.spec = spec
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        queries = spec.queries * (spec.frames or 1)
        self.latents = nn.Parameter(torch.randn(1, queries, spec.dim, **where) * spec.dim**-0.5)
        self.proj_in = operations.Linear(spec.embedding_dim, spec.dim, **where)
        self.proj_out = operations.Linear(spec.dim, spec.output_dim, **where)
        self.norm_out = operations.LayerNorm(spec.output_dim, **where)
        self.layers = nn.ModuleList()
        for _ in range(spec.depth):
            attend = ResamplerAttention(spec, operations, attention, where)
            self.layers.append(nn.ModuleList([attend, _feed_forward(spec, operations, where)]))

    def forward(self, x: Tensor) -> Tensor:
        """All tokens of an image encoder, b n d -> b m d, m being the number of queries; or b f m d."""
        x = self.proj_in(x)
        queries = self.latents.to(x).expand(x.shape[0], -1, -1)
        layers: Any = self.layers
        for attend, feed_forward in layers:
            queries = queries + attend(x, queries)
            queries = queries + feed_forward(queries)
        out: Tensor = self.norm_out(self.proj_out(queries))
        return out if self.spec.frames is None else out.unflatten(1, (self.spec.frames, self.spec.queries))


class ResamplerAttention(nn.Module):
    """Queries attend to the image's tokens and to the queries, both normalised."""

    def __init__(
        self, spec: ResamplerSpec, operations: ModuleType | Any, attention: Attention, where: dict[str, Any]
    ) -> None:
        super().__init__()
        self.heads, self.attention = spec.heads, attention
        inner = spec.heads * spec.head_channels
        self.norm1 = operations.LayerNorm(spec.dim, **where)
        self.norm2 = operations.LayerNorm(spec.dim, **where)
        self.to_q = operations.Linear(spec.dim, inner, bias=False, **where)
        self.to_kv = operations.Linear(spec.dim, 2 * inner, bias=False, **where)
        self.to_out = operations.Linear(inner, spec.dim, bias=False, **where)

    def forward(self, x: Tensor, queries: Tensor) -> Tensor:
        """x: b n d; queries: b m d -> b m d"""
        x, queries = self.norm1(x), self.norm2(queries)
        k, v = self.to_kv(torch.cat([x, queries], dim=1)).chunk(2, dim=-1)
        out: Tensor = self.to_out(self.attention(self.to_q(queries), k, v, self.heads))
        return out


def _feed_forward(spec: ResamplerSpec, operations: ModuleType | Any, where: dict[str, Any]) -> nn.Sequential:
    inner = spec.ff_mult * spec.dim
    return nn.Sequential(
        operations.LayerNorm(spec.dim, **where),
        operations.Linear(spec.dim, inner, bias=False, **where),
        nn.GELU(),
        operations.Linear(inner, spec.dim, bias=False, **where),
    )


class LinearTokens(nn.Module):
    """One linear map from the embedding of the whole image. Names are those under `image_proj_model.`."""

    def __init__(
        self,
        spec: LinearTokensSpec,
        *,
        operations: ModuleType | Any = nn,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.spec = spec
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        self.proj = operations.Linear(spec.embedding_dim, spec.tokens * spec.output_dim, **where)
        self.norm = operations.LayerNorm(spec.output_dim, **where)

    def forward(self, x: Tensor) -> Tensor:
        """The pooled embedding of an image encoder, b d -> b m d."""
        out: Tensor = self.norm(self.proj(x).unflatten(-1, (self.spec.tokens, self.spec.output_dim)))
        return out


def build_image_tokens(
    spec: ResamplerSpec | LinearTokensSpec,
    *,
    operations: ModuleType | Any = nn,
    attention: Attention = sdpa_attention,
    device: Device = None,
    dtype: torch.dtype | None = None,
) -> Resampler | LinearTokens:
    """The module that the spec is of."""
    if isinstance(spec, ResamplerSpec):
        return Resampler(spec, operations=operations, attention=attention, device=device, dtype=dtype)
    return LinearTokens(spec, operations=operations, device=device, dtype=dtype)


def tokens_of_images(encoder: ImageEncoder, image_tokens: Resampler | LinearTokens, images: Tensor) -> Tensor:
    """Images b 3 h w in -1..1, any size -> image tokens b m d, or b f m d where they differ from frame to frame."""
    if isinstance(image_tokens, LinearTokens):
        out: Tensor = image_tokens(encoder.pooled(images))
    else:
        out = image_tokens(encoder(images))
    return out


PUBLISHED_TOKENS = 16
"""Image tokens of a frame in the published DynamiCrafter: by this number its code decides whether each frame has its
own."""


def tokens_for_frames(tokens: Tensor, frames: int, *, published: bool = False) -> Tensor:
    """Image tokens made for f frames, b f m d, for a clip of another length: b frames m d.

    The first and the last frame get the tokens of the ends, and the frames between them a linear interpolation of their
    two neighbours: a clip of any length covers the whole motion that the tokens describe. Tokens for f frames are
    returned as they are if the clip has f, and tokens for all frames, b m d, always. One frame gets those of the
    first.

    With `published` every frame gets what the authors' code gives it: its own 16 if there are 16 for each frame of the
    clip, and otherwise all tokens.
    """
    if published:
        every = tokens if tokens.ndim == 3 else tokens.flatten(1, 2)
        own = every.shape[1] == PUBLISHED_TOKENS * frames
        return every.unflatten(1, (frames, PUBLISHED_TOKENS)) if own else every
    if tokens.ndim == 3 or tokens.shape[1] == frames:
        return tokens
    made = tokens.shape[1]
    place = torch.linspace(0, made - 1, frames, device=tokens.device)  # 0 alone for one frame
    below = place.floor().long().clamp_max(max(made - 2, 0))
    above = (below + 1).clamp_max(made - 1)
    share = (place - below)[:, None, None].to(tokens)
    return tokens[:, below] * (1 - share) + tokens[:, above] * share


def tokens_for_clip(spec: ModelSpec, tokens: Tensor, frames: int) -> Tensor:
    """The image tokens of a model, b m d or b f m d, as each frame of a clip of `frames` attends to them: those of
    `tokens_for_frames`, or all of them together, b (f m) d, where the model shares them (`ModelSpec.shares_tokens`)."""
    if spec.shares_tokens:
        return tokens if tokens.ndim == 3 else tokens.flatten(1, 2)
    return tokens_for_frames(tokens, frames)
