"""The transformers of the video UNet: over the pixels of a frame, and over the frames of a pixel.

Attribute names are the published ones. Tokens are those of `network.attentions`.
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from ..specs import Windows
from .attention import Attention
from .attentions import CrossAttention, Projections, SelfAttention, TemporalAttention, apply
from .feed_forward import FeedForward
from .hooks import Hooks
from .layers import Layers, repeated, to_clips, to_frames
from .parts import gathered

TRANSFORMER_NORM_EPS = 1e-6


class Block(nn.Module):
    """Two attentions and a feed-forward, each on normed tokens and added to the stream."""

    def __init__(self, dim: int, attn1: SelfAttention, attn2: Projections, layers: Layers) -> None:
        super().__init__()
        self.fused = layers.fused
        self.attn1 = attn1
        self.ff = FeedForward(dim, layers)
        self.attn2 = attn2
        self.norm1 = layers.layer_norm(dim)
        self.norm2 = layers.layer_norm(dim)
        self.norm3 = layers.layer_norm(dim)


class SpatialBlock(Block):
    """Tokens of one frame attend to each other, then to text and image: (b f) n d -> rows n d, which are more where
    there are several conditionings of the same frames."""

    attn2: CrossAttention

    def forward(self, x: Tensor, text: Tensor, image: Tensor | None, hooks: Hooks, rows: int) -> Tensor:
        x = x + hooks.self_attention(self.attn1, self.fused.layer_norm(self.norm1, x))
        x = hooks.between_attentions(x)
        x = repeated(x, rows)
        h = self.fused.layer_norm(self.norm2, x)
        x, h = self.fused.add_layer_norm(self.norm3, x, hooks.cross_attention(self.attn2, h, text, image))
        out: Tensor = self.ff(h, x)
        return out


class TemporalBlock(Block):
    """Frames of one pixel attend to each other, twice."""

    def forward(
        self,
        x: Tensor,
        temporal: bool,
        windows: Windows | None = None,
        grid: tuple[int, int] | None = None,
        attention: Attention | None = None,
    ) -> Tensor:
        how = (temporal, windows, grid, attention)
        h = self.fused.layer_norm(self.norm1, x)
        x, h = self.fused.add_layer_norm(self.norm2, x, self.attn1(h, *how))
        x, h = self.fused.add_layer_norm(self.norm3, x, self.attn2(h, *how))
        out: Tensor = self.ff(h, x)
        return out


class SpatialTransformer(nn.Module):
    """(b f) c h w -> rows c h w; pixels are tokens. `rows` are those of all conditionings."""

    def __init__(
        self,
        channels: int,
        heads: int,
        depth: int,
        context_dim: int,
        image: bool,
        layers: Layers,
        attention: Attention,
        *,
        gate: bool = False,
    ) -> None:
        super().__init__()
        self.budget, self.fused = layers.budget, layers.fused
        self.norm = layers.group_norm(channels, eps=TRANSFORMER_NORM_EPS)
        self.proj_in = layers.linear(channels, channels)
        self.transformer_blocks = nn.ModuleList(
            SpatialBlock(
                channels,
                SelfAttention(channels, heads, layers, attention),
                CrossAttention(channels, context_dim, heads, layers, attention, image, gate=gate),
                layers,
            )
            for _ in range(depth)
        )
        self.proj_out = layers.linear(channels, channels)

    def forward(self, x: Tensor, text: Tensor, image: Tensor | None, hooks: Hooks, rows: int) -> Tensor:
        if len(x) != rows or not self.budget.is_large(x) or hooks.whole:
            return self._transformed(x, text, image, hooks, rows)
        clips = math.gcd(len(text), rows if image is None else len(image))

        def of(tokens: Tensor, clip: int, span: slice) -> Tensor:
            """What belongs to a part: its clip's, or its frames' own."""
            return tokens[span] if len(tokens) == rows else tokens[clip : clip + 1]

        parts = (
            (x[span], of(text, clip, span), None if image is None else of(image, clip, span))
            for clip, span in self.budget.frame_spans(x, clips)
        )
        return gathered((self._transformed(*part, hooks, len(part[0])) for part in parts), rows)

    def _transformed(self, x: Tensor, text: Tensor, image: Tensor | None, hooks: Hooks, rows: int) -> Tensor:
        h = self.proj_in(self.fused.group_norm(self.norm, x).flatten(2).transpose(1, 2))  # (b f) (h w) c
        for block in self.transformer_blocks:
            h = block(h, text, image, hooks, rows)
        x = repeated(x, rows)
        return x + self.proj_out(h).transpose(1, 2).reshape(x.shape)


class TemporalTransformer(nn.Module):
    """(b f) c h w -> (b f) c h w; the frames of each pixel are tokens, and the norm sees the whole clip.

    `inner` is the width inside. `finest` stands at the full size of the latents, where FreeLong does not look far, as
    published. `conv_projection` makes the projections 1x1 convolutions, which is the same map under
    another weight shape; the published networks have them in `init_attn` alone.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        depth: int,
        layers: Layers,
        attention: Attention,
        *,
        inner: int | None = None,
        conv_projection: bool = False,
        reach: int | None = None,
        causal: bool = False,
        finest: bool = False,
    ) -> None:
        super().__init__()
        inner = inner or channels
        self.budget, self.fused = layers.budget, layers.fused
        self.finest = finest
        self.conv_projection = conv_projection
        project = layers.conv1d if conv_projection else layers.linear
        self.norm = layers.group_norm(channels, eps=TRANSFORMER_NORM_EPS)
        self.proj_in = project(channels, inner)
        self.transformer_blocks = nn.ModuleList(
            TemporalBlock(
                inner,
                TemporalAttention(inner, heads, layers, attention, reach, causal),
                TemporalAttention(inner, heads, layers, attention, reach, causal),
                layers,
            )
            for _ in range(depth)
        )
        self.proj_out = project(inner, channels)

    def forward(
        self,
        x: Tensor,
        frames: int,
        temporal: bool = True,
        windows: Windows | None = None,
        attention: Attention | None = None,
    ) -> Tensor:
        clips = self.fused.group_norm(self.norm, to_clips(x, frames))  # b c f h w
        blends = windows is not None and windows.spectral and not self.finest
        if blends or not self.budget.is_large(x):
            grid = (clips.shape[3], clips.shape[4]) if blends else None
            return x + to_frames(self._over_time(clips, temporal, windows, grid, attention))
        for part in self.budget.pixel_spans(clips):
            part.copy_(self._over_time(part, temporal, windows, None, attention))
        return to_frames(clips.add_(to_clips(x, frames)))

    def _over_time(
        self,
        clips: Tensor,
        temporal: bool,
        windows: Windows | None,
        grid: tuple[int, int] | None,
        attention: Attention | None,
    ) -> Tensor:
        """b c f h w -> b c f h w, every pixel by itself but where `grid` asks for a mix over frames"""
        b, c, f, height, width = clips.shape
        if attention is None and self.fused(clips):
            h = clips.permute(0, 2, 3, 4, 1).flatten(2, 3).contiguous()  # b f (h w) c; only a part needs a copy
        else:
            h = clips.permute(0, 3, 4, 2, 1).reshape(-1, f, c)  # (b h w) f c
        h = self._project(self.proj_in, h)
        for block in self.transformer_blocks:
            h = block(h, temporal, windows, grid, attention)
        h = self._project(self.proj_out, h)
        if h.ndim == 3:
            h = h.view(b, height * width, f, c).transpose(1, 2)
        return h.reshape(b, f, height, width, c).permute(0, 4, 1, 2, 3)

    def _project(self, layer: nn.Module, x: Tensor) -> Tensor:
        """layer(x), on the last axis"""
        return self.fused.pointwise(layer, x.movedim(-1, 1)).movedim(1, -1) if self.conv_projection else apply(layer, x)
