"""The KL autoencoder of Latent Diffusion (arXiv:2112.10752): pixels <-> latents, one frame at a time.

Frames are pictures to it: `n` counts frames of one clip or of many. Only ToonCrafter's decoder sees a clip at once, see
`frames.reference_decoder`. The latent's scale factor is applied inside, so a latent outside this file always has a
standard deviation of about one. Attribute names are the published ones.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Generator, Tensor, nn

from ..errors import UserError
from ..network.layers import Layers, suited
from ..specs import AutoencoderSpec
from .blocks import Decoder, Encoder
from .reference_decoder import ReferenceDecoder


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
        self.decoder = Decoder(spec, layers) if spec.reference_levels is None else ReferenceDecoder(spec, layers)
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

    def decode(self, latents: Tensor, *, chunk: int = 4, ends: Tensor | None = None) -> Tensor:
        """Pictures n 3 (f h) (f w), about -1..1 but not clamped, of latents n c h w; `chunk` frames at once.

        A decoder with references (`spec.reference_levels`) takes all n frames as one clip, at once. `ends`, pictures
        2 3 (f h) (f w) in -1..1, are those at the clip's beginning and end, which only such a decoder looks at; None
        lets it decode without.
        """
        if latents.ndim != 4 or latents.shape[1] != self.spec.latent_channels:
            raise UserError(
                f"The autoencoder decodes latents of shape (frames, {self.spec.latent_channels}, height, width); "
                f"it was given {tuple(latents.shape)}. Put the frames on the first axis."
            )

        if self.spec.reference_levels is not None:
            return self.pictures(latents / self.spec.scale_factor, ends)
        return _in_chunks(lambda part: self.pictures(part / self.spec.scale_factor), latents, chunk)

    def pictures(self, latents: Tensor, ends: Tensor | None = None) -> Tensor:
        """As `decode`, all frames at once, of latents that are not scaled. Raises UserError for ends of another size.

        The published decoder with references was run, and so trained, without the convolution `post_quant_conv`.
        """
        z = self._suited(latents)
        if not isinstance(self.decoder, ReferenceDecoder):
            out: Tensor = self.decoder(self.post_quant_conv(z))
            return out
        if ends is None:
            return self.decoder.clip(z)
        wanted = (2, 3, *(side * self.spec.downscale for side in z.shape[2:]))
        if ends.shape != wanted:
            raise UserError(
                f"The decoder looks at two pictures of the clip's size, {wanted}; it was given {tuple(ends.shape)}. "
                "Bring them to that size."
            )
        return self.decoder.clip(z, self.encoder.levels(self._suited(ends)))

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
