"""The KL autoencoder of Latent Diffusion (arXiv:2112.10752): pixels <-> latents, one frame at a time.

Frames are pictures to it: `n` counts frames of one clip or of many. Only ToonCrafter's decoder sees a clip at once, see
`autoencoder.reference_decoder`. The latent's scale factor is applied inside, so a latent outside this file always has a
standard deviation of about one. Attribute names are the published ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Generator, Tensor, nn

from ..errors import UserError
from ..network.fused import Weights
from ..network.layers import Layers
from ..network.memory import free_bytes, until_it_fits
from ..specs import AutoencoderSpec
from .blocks import Decoder, Encoder
from .reference_decoder import ReferenceDecoder

FRAMES_AT_ONCE = 4
"""Frames of a chunk, at the most, unless another number is asked for: more are not faster."""

DECODED, ENCODED = 9, 8
"""Bytes that a frame takes for each pixel, channel of the finest level and byte of the type. By accounting
(`benchmarks.live`) 6 and 5 live at the most; the rest is for what kernels take beside."""

MOST_BYTES = 2**31
"""What a chunk may take, however much memory is free: a larger one is not faster, as its maps fill any GPU."""


def frames_at_once(frame_bytes: float, free: int | None) -> int:
    """Frames of a chunk for a device with so many bytes free, None where that does not matter."""
    if free is None:
        return FRAMES_AT_ONCE
    return max(1, min(FRAMES_AT_ONCE, int(min(free, MOST_BYTES) / frame_bytes)))


class Autoencoder(nn.Module):
    """The whole autoencoder. `operations` names the layer classes (Conv2d, GroupNorm), default `torch.nn`; `weights`
    gives theirs, see `network.fused`."""

    def __init__(
        self,
        spec: AutoencoderSpec,
        *,
        operations: ModuleType | Any = nn,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        weights: Weights | None = None,
    ) -> None:
        super().__init__()
        self.spec = spec
        layers = Layers(operations, spec.norm_groups, device, dtype, weights)
        self.fused = layers.fused
        self.encoder = Encoder(spec, layers)
        self.decoder = Decoder(spec, layers) if spec.reference_levels is None else ReferenceDecoder(spec, layers)
        self.quant_conv = layers.conv2d(2 * spec.latent_channels, 2 * spec.latent_channels, size=1)
        self.post_quant_conv = layers.conv2d(spec.latent_channels, spec.latent_channels, size=1)

    def moments(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the posterior, both n c h/f w/f and unscaled; the latter clamped to [-30, 20]."""
        mean, logvar = self.quant_conv(self.encoder(self.fused.suited(pixels))).chunk(2, dim=1)
        return mean, logvar.clamp(-30.0, 20.0)

    def encode(self, pixels: Tensor, generator: Generator | None = None, *, chunk: int | None = None) -> Tensor:
        """Latents n c h/f w/f of pictures n 3 h w in -1..1: the posterior's mean, or a sample where a CPU `generator`
        is given. `chunk` frames are held in memory at once, None for what the free memory allows; the result does not
        depend on it. Raises UserError when height or width is not a multiple of the downscale factor f, and when the
        memory is not enough for one frame."""
        mean, logvar = self._moments_in_chunks(pixels, chunk)
        if generator is None:
            return mean * self.spec.scale_factor
        noise = torch.randn(mean.shape, generator=generator, dtype=torch.float32)
        return self._sampled(mean, logvar, noise)

    def encode_with(self, pixels: Tensor, noise: Tensor) -> Tensor:
        """As `encode`, but a sample of the posterior made with this standard normal noise, n c h/f w/f."""
        return self._sampled(*self._moments_in_chunks(pixels, None), noise)

    def _moments_in_chunks(self, pixels: Tensor, chunk: int | None) -> tuple[Tensor, Tensor]:
        _check_pixels(pixels, self.spec.downscale)
        if chunk is None:
            chunk = frames_at_once(self._bytes(ENCODED, pixels[:1, 0]), free_bytes(pixels.device))
        cure = _cure("encode", pixels.shape[2:])
        mean, logvar = _in_chunks(lambda part: torch.cat(self.moments(part), dim=1), pixels, chunk, cure).chunk(2, 1)
        return mean, logvar

    def _sampled(self, mean: Tensor, logvar: Tensor, noise: Tensor) -> Tensor:
        return (mean + (0.5 * logvar).exp() * noise.to(mean)) * self.spec.scale_factor

    def decode(self, latents: Tensor, *, chunk: int | None = None, ends: Tensor | None = None) -> Tensor:
        """Pictures n 3 (f h) (f w), about -1..1 but not clamped, of latents n c h w; `chunk` frames at once, None for
        what the free memory allows. The result does not depend on it. Raises UserError when the memory is not enough
        for one frame.

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
            return self._clip(latents, ends)
        if chunk is None:
            frame = self._bytes(DECODED, latents[:1, 0]) * self.spec.downscale**2
            chunk = frames_at_once(frame, free_bytes(latents.device))
        cure = _cure("decode", self._size(latents))
        return _in_chunks(lambda part: self.pictures(part / self.spec.scale_factor), latents, chunk, cure)

    def _size(self, latents: Tensor) -> list[int]:
        """Height and width of the pictures of latents."""
        return [side * self.spec.downscale for side in latents.shape[2:]]

    def _clip(self, latents: Tensor, ends: Tensor | None) -> Tensor:
        """As `decode`, by a decoder with references."""
        height, width = self._size(latents)
        cure = (
            f"The memory is not enough to decode {len(latents)} frames of {width}x{height} at once, as this decoder "
            "does. Make fewer frames or a smaller video, or load the model in fp16 or bf16."
        )
        return until_it_fits(lambda: self.pictures(latents / self.spec.scale_factor, ends), lambda: False, cure)

    def _bytes(self, each: int, plane: Tensor) -> int:
        """`each` for the values of h w in the width of the finest level, in bytes of the type of `plane`."""
        return each * self.spec.channels * plane.nbytes

    def pictures(self, latents: Tensor, ends: Tensor | None = None) -> Tensor:
        """As `decode`, all frames at once, of latents that are not scaled. Raises UserError for ends of another size.

        The published decoder with references was run, and so trained, without the convolution `post_quant_conv`.
        """
        z = self.fused.suited(latents)
        if not isinstance(self.decoder, ReferenceDecoder):
            out: Tensor = self.decoder(self.post_quant_conv(z))
            return out
        if ends is None:
            return self.decoder.clip(z)
        wanted = (2, 3, *self._size(z))
        if ends.shape != wanted:
            raise UserError(
                f"The decoder looks at two pictures of the clip's size, {wanted}; it was given {tuple(ends.shape)}. "
                "Bring them to that size."
            )
        return self.decoder.clip(z, self.encoder.levels(self.fused.suited(ends)))


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


def _cure(verb: str, size: Sequence[int]) -> str:
    return (
        f"The memory is not enough to {verb} a single frame of {size[1]}x{size[0]}. Lower width and height, load the "
        "model in fp16 or bf16, or close other programs that use the device."
    )


def _in_chunks(work: Callable[[Tensor], Tensor], x: Tensor, chunk: int, cure: str) -> Tensor:
    """work(x), computed `chunk` items of the first axis at a time into one result, or fewer where memory runs out.
    Raises UserError with the cure where it does so with one."""
    if chunk < 1:
        raise UserError(f"Frames per chunk must be at least 1, not {chunk}.")
    at_once = max(1, min(chunk, len(x)))

    def all_chunks() -> Tensor:
        out = first = work(x[:at_once])
        if len(x) > at_once:
            out = first.new_empty(len(x), *first.shape[1:])
            out[:at_once] = first
            del first
            for start in range(at_once, len(x), at_once):
                out[start : start + at_once] = work(x[start : start + at_once])
        return out

    def fewer() -> bool:
        nonlocal at_once
        at_once, before = (at_once + 1) // 2, at_once
        return before > 1

    return until_it_fits(all_chunks, fewer, cure)
