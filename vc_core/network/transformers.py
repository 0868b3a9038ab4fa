"""The transformers of the video UNet: over the pixels of a frame, and over the frames of a pixel.

Attribute names are the published ones. Tokens are those of `network.attentions`.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor, nn

from .adapter import Site
from .attentions import (
    ON_FRAMES,
    AttentionLayer,
    CrossAttention,
    OverTime,
    SelfAttention,
    TemporalAttention,
    apply,
)
from .call import Call, repeated
from .feed_forward import FeedForward
from .layers import Layers, to_clips

TRANSFORMER_NORM_EPS = 1e-6


class Block(nn.Module):
    """Two attentions and a feed-forward, each on normed tokens and added to the stream:
    x + attn1(norm1(x)), x + attn2(norm2(x)), x + ff(norm3(x))."""

    attn1: AttentionLayer
    attn2: AttentionLayer

    def __init__(self, dim: int, attn1: AttentionLayer, attn2: AttentionLayer, layers: Layers) -> None:
        super().__init__()
        self.fused = layers.fused
        self.attn1 = attn1
        self.ff = FeedForward(dim, layers)
        self.attn2 = attn2
        self.norm1 = layers.layer_norm(dim)
        self.norm2 = layers.layer_norm(dim)
        self.norm3 = layers.layer_norm(dim)
        self.between: tuple[tuple[Site, dict[str, Any]], ...] = (
            ("after_attention", attn1.place),
            ("before_attention", attn2.place),
        )
        self.behind: tuple[tuple[Site, dict[str, Any]], ...] = (("after_attention", attn2.place),)

    def later(self, x: Tensor, call: Call) -> Tensor | None:
        """The bias of the feed-forward's last layer where it is added to the stream beforehand, so that the last
        product can add to that; None where the feed-forward is computed as a whole."""
        adapted = any(call.at(site, **place) for site, place in self.behind)
        return None if adapted or not self.ff.accumulates(x) else self.ff.last_bias

    def added(
        self,
        x: Tensor,
        h: Tensor,
        norm: nn.Module,
        call: Call,
        sites: tuple[tuple[Site, dict[str, Any]], ...],
        later: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """x + h, as adapters at these sites return it, and its norm. Without adapters `later` is added to the sum, but
        not before the norm."""
        changes = [change for site, place in sites for change in call.at(site, **place)]
        if not changes:
            return self.fused.add_layer_norm(norm, x, h, later)
        x = x + h
        for change in changes:
            x = change(x)
        return x, self.fused.layer_norm(norm, x)


class SpatialBlock(Block):
    """Tokens of one frame attend to each other, then to text and image: (b f) n d -> rows n d, which are more where
    there are several conditionings of the same frames."""

    def forward(self, x: Tensor, call: Call) -> Tensor:
        x = call.changed("before_attention", x, **self.attn1.place)
        h = self.attn1(self.fused.layer_norm(self.norm1, x), call)
        if len(x) == call.all_rows:
            x, h = self.added(x, h, self.norm2, call, self.between)
        else:
            x = x + h
            for site, place in self.between:
                x = call.changed(site, x, **place)
            x = repeated(x, call.all_rows)
            h = self.fused.layer_norm(self.norm2, x)
        later = self.later(x, call)
        x, h = self.added(x, self.attn2(h, call), self.norm3, call, self.behind, later)
        out: Tensor = self.ff(h, x, biased=later is not None)
        return out


class TemporalBlock(Block):
    """Frames of one pixel attend to each other, twice."""

    def forward(self, x: Tensor, call: Call) -> Tensor:
        x = call.changed("before_attention", x, **self.attn1.place)
        h = self.attn1(self.fused.layer_norm(self.norm1, x), call)
        x, h = self.added(x, h, self.norm2, call, self.between)
        later = self.later(x, call)
        x, h = self.added(x, self.attn2(h, call), self.norm3, call, self.behind, later)
        out: Tensor = self.ff(h, x, biased=later is not None)
        return out


class SpatialTransformer(nn.Module):
    """(b f) c h w -> (b f) c h w; the pixels of each frame are tokens. The result has more rows where the map meets
    several conditionings here for the first time."""

    def __init__(
        self,
        channels: int,
        heads: int,
        depth: int,
        context_dim: int,
        layers: Layers,
        *,
        image: bool = False,
        gate: bool = False,
    ) -> None:
        super().__init__()
        self.plan, self.fused = layers.plan, layers.fused
        self.norm = layers.group_norm(channels, eps=TRANSFORMER_NORM_EPS)
        self.proj_in = layers.linear(channels, channels)
        self.transformer_blocks = nn.ModuleList(
            SpatialBlock(
                channels,
                SelfAttention(channels, heads, layers),
                CrossAttention(channels, context_dim, heads, layers, image=image, gate=gate),
                layers,
            )
            for _ in range(depth)
        )
        self.proj_out = layers.linear(channels, channels)

    def forward(self, x: Tensor, call: Call) -> Tensor:
        return self.plan.over_conditioned_frames(self._over_space, x, call)

    def _over_space(self, x: Tensor, call: Call) -> Tensor:
        call = call.noted(grid=tuple(x.shape[2:]))
        h = self.proj_in(self.fused.group_norm(self.norm, x).flatten(2).transpose(1, 2))  # (b f) (h w) c
        for depth, block in enumerate(self.transformer_blocks):
            h = block(h, call.noted(depth=depth))
        x = repeated(x, call.all_rows)
        return x + self.proj_out(h).transpose(1, 2).reshape(x.shape)


class TemporalTransformer(nn.Module):
    """(b f) c h w -> (b f) c h w; the frames of each pixel are tokens, and the norm sees the whole clip.

    `inner` is the width inside. `conv_projection` makes the projections 1x1 convolutions, which is the same map under
    another weight shape; the published networks have them in `init_attn` alone.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        depth: int,
        layers: Layers,
        over_time: OverTime,
        *,
        inner: int | None = None,
        conv_projection: bool = False,
    ) -> None:
        super().__init__()
        inner = inner or channels
        self.plan, self.fused = layers.plan, layers.fused
        self.over_time = over_time
        self.conv_projection = conv_projection
        project = layers.conv1d if conv_projection else layers.linear
        self.norm = layers.group_norm(channels, eps=TRANSFORMER_NORM_EPS)
        self.proj_in = project(channels, inner)
        self.transformer_blocks = nn.ModuleList(
            TemporalBlock(
                inner,
                TemporalAttention(inner, heads, layers, "temporal_1", over_time),
                TemporalAttention(inner, heads, layers, "temporal_2", over_time),
                layers,
            )
            for _ in range(depth)
        )
        self.proj_out = project(inner, channels)
        first: Any = self.transformer_blocks[0]
        self.places = [first.attn1.place, first.attn2.place]

    def forward(self, x: Tensor, call: Call) -> Tensor:
        return call.around("temporal_transformer", partial(self._over_clips, call))(x)

    def _over_clips(self, call: Call, x: Tensor) -> Tensor:
        windows, grid = call.run.windows, tuple(x.shape[2:])
        spectral = windows is not None and windows.spectral
        call = call.within(grid=grid) if spectral else call.noted(grid=grid)
        clips = self.fused.group_norm(self.norm, to_clips(x, call.frames))  # b c f h w
        mixes_pixels = spectral and not self.over_time.finest
        return self.plan.add_over_pixels(
            partial(self._over_time, call), clips, x, whole=mixes_pixels or call.adapters.whole_pixels
        )

    def _over_time(self, call: Call, clips: Tensor, rows: slice | None) -> Tensor:
        """b c f h w -> b c f h w, of some rows of pixels or of all."""
        b, c, f, height, width = clips.shape
        if self.fused(clips) and not self._adapted(call):
            h = clips.permute(0, 2, 3, 4, 1).flatten(2, 3).contiguous()  # b f (h w) c; only a part needs a copy
        else:
            h = clips.permute(0, 3, 4, 2, 1).reshape(-1, f, c)  # (b h w) f c
        h = self._project(self.proj_in, h)
        for depth, block in enumerate(self.transformer_blocks):
            h = block(h, call.noted(part=rows, depth=depth))
        h = self._project(self.proj_out, h)
        if h.ndim == 3:
            h = h.view(b, height * width, f, c).transpose(1, 2)
        return h.reshape(b, f, height, width, c).permute(0, 4, 1, 2, 3)

    def _adapted(self, call: Call) -> bool:
        """Whether adapters compute an attention, for which tokens are those of pixels."""
        return any(call.at(site, **place) for site in ON_FRAMES for place in self.places)

    def _project(self, layer: nn.Module, x: Tensor) -> Tensor:
        """layer(x), on the last axis"""
        return self.fused.pointwise(layer, x.movedim(-1, 1)).movedim(1, -1) if self.conv_projection else apply(layer, x)
