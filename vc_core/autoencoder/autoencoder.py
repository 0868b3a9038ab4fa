"""The KL autoencoder of Latent Diffusion (arXiv:2112.10752): pixels <-> latents, one frame at a time.

Frames are independent images: `n` counts frames of one or more clips. Only ToonCrafter's decoder processes a whole
clip at once, see `autoencoder.reference_decoder`. The scale factor is applied inside, so that latents outside this
file have a standard deviation of about one. Attribute names are the published ones.
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
"""Default maximum number of frames in a chunk; larger chunks are not faster."""

DECODED, ENCODED = 9, 8
"""Memory that a frame takes, as a multiple of its feature map at the finest level. By accounting (`benchmarks.live`)
the peaks are 6 and 5 maps; the rest is for the kernels' workspaces."""

MOST_BYTES = 2**31
"""Maximum memory of a chunk, however much is free: larger chunks are not faster, since this many fill any GPU."""


def frames_at_once(frame_bytes: float, free: int | None) -> int:
    """Number of frames in a chunk for a device with `free` bytes of free memory, or None if memory is not limited."""
    if free is None:
        return FRAMES_AT_ONCE
    return max(1, min(FRAMES_AT_ONCE, int(min(free, MOST_BYTES) / frame_bytes)))


class Autoencoder(nn.Module):
    """The whole autoencoder. `operations` provides the layer classes (Conv2d, GroupNorm), by default `torch.nn`; for
    `weights` see `network.fused`."""

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
        """Mean and log-variance of the posterior, both n c h/f w/f and unscaled; the log-variance clamped to [-30,
        20]."""
        mean, logvar = self.quant_conv(self.encoder(self.fused.suited(pixels))).chunk(2, dim=1)
        return mean, logvar.clamp(-30.0, 20.0)

    def encode(self, pixels: Tensor, generator: Generator | None = None, *, chunk: int | None = None) -> Tensor:
        """Encodes images n 3 h w in -1..1 to latents n c h/f w/f: the mean of the posterior, or a sample if a CPU
        `generator` is given.

        `chunk` frames are encoded at once, or as many as the free memory allows; the result does not depend on it.
        Raises UserError if height or width is not a multiple of the downscale factor f, or if there is not enough
        memory for one frame.
        """
        mean, logvar = self._moments_in_chunks(pixels, chunk)
        if generator is None:
            return mean * self.spec.scale_factor
        noise = torch.randn(mean.shape, generator=generator, dtype=torch.float32)
        return self._sampled(mean, logvar, noise)

    def encode_with(self, pixels: Tensor, noise: Tensor) -> Tensor:
        """Like `encode`, but a sample of the posterior with the given standard normal noise n c h/f w/f."""
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
        """Decodes latents n c h w to images n 3 (f h) (f w), about -1..1 but not clamped.

        `chunk` frames are decoded at once, or as many as the free memory allows; the result does not depend on it.
        Raises UserError if there is not enough memory for one frame.

        A decoder with references (`spec.reference_levels`) decodes all n frames at once, as one clip. Its references
        are `ends`, the first and the last image of the clip, 2 3 (f h) (f w) in -1..1; with None it decodes without
        references. Other decoders ignore `ends`.
        """
        if latents.ndim != 4 or latents.shape[1] != self.spec.latent_channels:
            raise UserError(
                f"The autoencoder decodes latents of shape (frames, {self.spec.latent_channels}, height, width), not "
                f"{tuple(latents.shape)}. Put the frames on the first axis."
            )
        if self.spec.reference_levels is not None:
            return self._clip(latents, ends)
        if chunk is None:
            frame = self._bytes(DECODED, latents[:1, 0]) * self.spec.downscale**2
            chunk = frames_at_once(frame, free_bytes(latents.device))
        cure = _cure("decode", self._size(latents))
        return _in_chunks(lambda part: self.pictures(part / self.spec.scale_factor), latents, chunk, cure)

    def _size(self, latents: Tensor) -> list[int]:
        """Height and width of the decoded images."""
        return [side * self.spec.downscale for side in latents.shape[2:]]

    def _clip(self, latents: Tensor, ends: Tensor | None) -> Tensor:
        """`decode` with references."""
        height, width = self._size(latents)
        cure = (
            f"There is not enough memory to decode {len(latents)} frames of {width}x{height} at once, as this decoder "
            "does. Make fewer frames or a smaller video, or load the model in fp16 or bf16."
        )
        return until_it_fits(lambda: self.pictures(latents / self.spec.scale_factor, ends), lambda: False, cure)

    def _bytes(self, each: int, plane: Tensor) -> int:
        """Size of `each` feature maps of the finest level for a plane h w, in bytes of its dtype."""
        return each * self.spec.channels * plane.nbytes

    def pictures(self, latents: Tensor, ends: Tensor | None = None) -> Tensor:
        """Like `decode`, for all frames at once and for unscaled latents. Raises UserError if `ends` has the wrong
        shape.

        The published decoder with references was trained, and is used, without the convolution `post_quant_conv`.
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
                f"The reference images have the shape {tuple(ends.shape)}; they must be two of the clip's size, "
                f"{wanted}. "
                "Resize them."
            )
        return self.decoder.clip(z, self.encoder.levels(self.fused.suited(ends)))


def _check_pixels(pixels: Tensor, multiple: int) -> None:
    if pixels.ndim != 4 or pixels.shape[1] != 3:
        raise UserError(
            f"The autoencoder encodes images of shape (frames, 3, height, width), not {tuple(pixels.shape)}."
        )
    height, width = pixels.shape[2:]
    if height % multiple or width % multiple:
        raise UserError(f"Height and width must be multiples of {multiple}; the image is {width}x{height}. Resize it.")


def _cure(verb: str, size: Sequence[int]) -> str:
    return (
        f"There is not enough memory to {verb} a single frame of {size[1]}x{size[0]}. Lower width and height, load the "
        "model in fp16 or bf16, or close other programs that use the device."
    )


def _in_chunks(work: Callable[[Tensor], Tensor], x: Tensor, chunk: int, cure: str) -> Tensor:
    """work(x), computed in chunks of `chunk` items of the first axis, or fewer if memory runs out. Raises UserError
    with the cure if there is not enough memory for one item."""
    if chunk < 1:
        raise UserError(f"chunk is {chunk}; it must be at least 1.")
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
