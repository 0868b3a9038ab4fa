"""The KL autoencoder of Latent Diffusion (arXiv:2112.10752): pixels <-> latents, one frame at a time.

Frames are pictures to it: `n` counts frames of one clip or of many. The latent's scale factor is applied inside, so a
latent outside this file always has a standard deviation of about one. Attribute names are the published ones.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from ..errors import UserError
from ..network.attention import sdpa_attention
from ..network.layers import Layers, suited
from ..specs import AutoencoderSpec

EPS = 1e-6


class ResnetBlock(nn.Module):
    """n c h w -> n c_out h w"""

    def __init__(self, c_in: int, c_out: int, layers: Layers) -> None:
        super().__init__()
        self.norm1 = layers.group_norm(c_in, EPS)
        self.conv1 = layers.conv2d(c_in, c_out)
        self.norm2 = layers.group_norm(c_out, EPS)
        self.conv2 = layers.conv2d(c_out, c_out)
        self.nin_shortcut = layers.conv2d(c_in, c_out, size=1) if c_in != c_out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x), inplace=True))
        h = self.conv2(F.silu(self.norm2(h), inplace=True))
        return self.nin_shortcut(x) + h


class AttentionBlock(nn.Module):
    """Self-attention over the pixels of one frame, one head. n c h w -> n c h w"""

    def __init__(self, channels: int, layers: Layers) -> None:
        super().__init__()
        self.norm = layers.group_norm(channels, EPS)
        self.q = layers.conv2d(channels, channels, size=1)
        self.k = layers.conv2d(channels, channels, size=1)
        self.v = layers.conv2d(channels, channels, size=1)
        self.proj_out = layers.conv2d(channels, channels, size=1)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        y = self.norm(x)
        q, k, v = (project(y).flatten(2).transpose(1, 2) for project in (self.q, self.k, self.v))  # n (h w) c
        out = sdpa_attention(q, k, v, heads=1)
        return x + self.proj_out(out.transpose(1, 2).reshape(n, c, h, w))


class Downsample(nn.Module):
    """Halves height and width; pads on the right and below only, as the published weights expect."""

    def __init__(self, channels: int, layers: Layers) -> None:
        super().__init__()
        self.conv = layers.conv2d(channels, channels, stride=2, padding=0)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(F.pad(x, (0, 1, 0, 1)))
        return out


class Upsample(nn.Module):
    """Doubles height and width."""

    def __init__(self, channels: int, layers: Layers) -> None:
        super().__init__()
        self.conv = layers.conv2d(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return out


class Middle(nn.Module):
    """The blocks of the coarsest resolution."""

    def __init__(self, channels: int, layers: Layers) -> None:
        super().__init__()
        self.block_1 = ResnetBlock(channels, channels, layers)
        self.attn_1 = AttentionBlock(channels, layers)
        self.block_2 = ResnetBlock(channels, channels, layers)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.block_2(self.attn_1(self.block_1(x)))
        return out


class Level(nn.Module):
    """The blocks of one resolution, then the step to the next one: `downsample`, `upsample` or none."""

    def __init__(self, c_in: int, c_out: int, blocks: int, layers: Layers) -> None:
        super().__init__()
        self.block = nn.ModuleList(ResnetBlock(c_in if i == 0 else c_out, c_out, layers) for i in range(blocks))
        self.downsample: Downsample | None = None
        self.upsample: Upsample | None = None

    def forward(self, x: Tensor) -> Tensor:
        for block in self.block:
            x = block(x)
        for resample in (self.downsample, self.upsample):
            x = x if resample is None else resample(x)
        return x


class Encoder(nn.Module):
    """n 3 h w -> n (2 latent) h/f w/f"""

    def __init__(self, spec: AutoencoderSpec, layers: Layers) -> None:
        super().__init__()
        widths = [spec.channels * mult for mult in spec.channel_mult]
        self.conv_in = layers.conv2d(3, spec.channels)
        self.down = nn.ModuleList()
        c_in = spec.channels
        for i, width in enumerate(widths):
            level = Level(c_in, width, spec.num_res_blocks, layers)
            if i < len(widths) - 1:
                level.downsample = Downsample(width, layers)
            self.down.append(level)
            c_in = width
        self.mid = Middle(c_in, layers)
        self.norm_out = layers.group_norm(c_in, EPS)
        self.conv_out = layers.conv2d(c_in, 2 * spec.latent_channels)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv_in(x)
        for level in self.down:
            h = level(h)
        out: Tensor = self.conv_out(F.silu(self.norm_out(self.mid(h)), inplace=True))
        return out


class Decoder(nn.Module):
    """n latent h w -> n 3 (f h) (f w); `up` is numbered from the finest level, and runs from the coarsest."""

    def __init__(self, spec: AutoencoderSpec, layers: Layers) -> None:
        super().__init__()
        widths = [spec.channels * mult for mult in spec.channel_mult]
        c_in = widths[-1]
        self.conv_in = layers.conv2d(spec.latent_channels, c_in)
        self.mid = Middle(c_in, layers)
        levels = []
        for i, width in reversed(list(enumerate(widths))):
            level = Level(c_in, width, spec.num_res_blocks + 1, layers)
            if i > 0:
                level.upsample = Upsample(width, layers)
            levels.append(level)
            c_in = width
        self.up = nn.ModuleList(reversed(levels))
        self.norm_out = layers.group_norm(c_in, EPS)
        self.conv_out = layers.conv2d(c_in, 3)

    def forward(self, z: Tensor) -> Tensor:
        h = self.mid(self.conv_in(z))
        for level in reversed(self.up):
            h = level(h)
        out: Tensor = self.conv_out(F.silu(self.norm_out(h), inplace=True))
        return out


class Autoencoder(nn.Module):
    """The whole autoencoder. `operations` names the layer classes (Conv2d, GroupNorm); default `torch.nn`."""

    def __init__(
        self,
        spec: AutoencoderSpec,
        *,
        operations: ModuleType | Any = nn,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.spec = spec
        self.own_layers = operations is nn
        layers = Layers(operations, spec.norm_groups, device, dtype)
        self.encoder = Encoder(spec, layers)
        self.decoder = Decoder(spec, layers)
        self.quant_conv = layers.conv2d(2 * spec.latent_channels, 2 * spec.latent_channels, size=1)
        self.post_quant_conv = layers.conv2d(spec.latent_channels, spec.latent_channels, size=1)

    def moments(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the posterior, both n c h/f w/f and unscaled; the latter clamped to [-30, 20]."""
        mean, logvar = self.quant_conv(self.encoder(self._suited(pixels))).chunk(2, dim=1)
        return mean, logvar.clamp(-30.0, 20.0)

    def encode(self, pixels: Tensor, generator: Generator | None = None, *, chunk: int = 4) -> Tensor:
        """Latents n c h/f w/f of pictures n 3 h w in -1..1: the posterior's mean, or a sample where a CPU `generator`
        is given. `chunk` frames are held in memory at once; the result does not depend on it. Raises UserError when
        height or width is not a multiple of the downscale factor f."""
        _check_pixels(pixels, self.spec.downscale)

        def one(part: Tensor) -> Tensor:
            mean, logvar = self.moments(part)
            if generator is None:
                return mean
            noise = torch.randn(mean.shape, generator=generator, dtype=torch.float32)
            return mean + (0.5 * logvar).exp() * noise.to(mean)

        return _in_chunks(one, pixels, chunk) * self.spec.scale_factor

    def encode_with(self, pixels: Tensor, noise: Tensor) -> Tensor:
        """As `encode`, but a sample of the posterior made with this standard normal noise, n c h/f w/f."""
        _check_pixels(pixels, self.spec.downscale)
        mean, logvar = self.moments(pixels)
        return (mean + (0.5 * logvar).exp() * noise.to(mean)) * self.spec.scale_factor

    def decode(self, latents: Tensor, *, chunk: int = 4) -> Tensor:
        """Pictures n 3 (f h) (f w), about -1..1 but not clamped, of latents n c h w; `chunk` frames at once."""
        if latents.ndim != 4 or latents.shape[1] != self.spec.latent_channels:
            raise UserError(
                f"The autoencoder decodes latents of shape (frames, {self.spec.latent_channels}, height, width); "
                f"it was given {tuple(latents.shape)}. Put the frames on the first axis."
            )

        def one(part: Tensor) -> Tensor:
            out: Tensor = self.decoder(self.post_quant_conv(self._suited(part / self.spec.scale_factor)))
            return out

        return _in_chunks(one, latents, chunk)

    def _suited(self, x: Tensor) -> Tensor:
        return suited(x) if self.own_layers else x


def _check_pixels(pixels: Tensor, multiple: int) -> None:
    if pixels.ndim != 4 or pixels.shape[1] != 3:
        raise UserError(
            f"The autoencoder encodes pictures of shape (frames, 3, height, width), not {tuple(pixels.shape)}."
        )
    height, width = pixels.shape[2:]
    if height % multiple or width % multiple:
        raise UserError(
            f"Height and width must be multiples of {multiple}; the picture is {width}x{height}. Resize it."
        )


def _in_chunks(function: Callable[[Tensor], Tensor], x: Tensor, chunk: int) -> Tensor:
    """function(x), computed `chunk` items of the first axis at a time into one result."""
    if chunk < 1:
        raise UserError(f"Frames per chunk must be at least 1, not {chunk}.")
    first = function(x[:chunk])
    if x.shape[0] <= chunk:
        return first
    out = first.new_empty(x.shape[0], *first.shape[1:])
    out[:chunk] = first
    for start in range(chunk, x.shape[0], chunk):
        out[start : start + chunk] = function(x[start : start + chunk])
    return out
