"""FreeU (arXiv:2309.11497): stronger features in the decoder, skip connections with weaker low frequencies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ...specs import UNetSpec
from ..adapter import Adapter, Place, Site

AXES = (-2, -1)
REACH = 1
"""How many frequencies before and from the mean on, along each axis, count as low."""


@dataclass(frozen=True, kw_only=True)
class Factors:
    """backbone: of the first half of the decoder's channels. skip: of the low frequencies of the skip connection."""

    backbone: float = 1.0
    skip: float = 1.0


def decoder_widths(spec: UNetSpec) -> list[int]:
    """The channels that each decoder block receives, before the skip connection is joined."""
    each = [mult * spec.model_channels for mult in reversed(spec.channel_mult) for _ in range(spec.num_res_blocks + 1)]
    return [each[0], *each[:-1]]


class StrongerDecoder(Adapter):
    """Changes decoder blocks by the channels that they receive.

    structured: as in the published second version, the factor of the backbone follows the mean over the channels: 1
    where it is least in a frame, the full factor where it is most.
    """

    def __init__(self, spec: UNetSpec, factors: Mapping[int, Factors], *, structured: bool) -> None:
        """factors: by the number of channels."""
        self.structured = structured
        self.blocks = [factors.get(width, Factors()) for width in decoder_widths(spec)]

    def uses(self, site: Site, at: Place) -> bool:
        return self.blocks[at.index] != Factors()

    def before_decoder_block(self, at: Place, h: Tensor, skip: Tensor) -> tuple[Tensor, Tensor]:
        factors = self.blocks[at.index]
        if factors.backbone != 1:
            h = torch.cat([self._stronger(h, factors.backbone), h[:, h.shape[1] // 2 :]], dim=1)
        return h, skip if factors.skip == 1 else damped(skip, factors.skip)

    def _stronger(self, h: Tensor, factor: float) -> Tensor:
        """The first half of the channels of n c h w, times the factor."""
        half = h[:, : h.shape[1] // 2]
        if not self.structured:
            return half * factor
        mean = h.mean(1, keepdim=True)
        low, high = mean.amin((2, 3), keepdim=True), mean.amax((2, 3), keepdim=True)
        spread = (high - low).clamp_min(torch.finfo(h.dtype).tiny)
        return half * ((factor - 1) * (mean - low) / spread + 1)


def damped(x: Tensor, factor: float) -> Tensor:
    """n c h w with its low frequencies over height and width times the factor; computed in float32."""
    spectrum = torch.fft.fftshift(torch.fft.fft2(x.float()), dim=AXES)
    rows, columns = (slice(max(0, size // 2 - REACH), size // 2 + REACH) for size in x.shape[2:])
    spectrum[..., rows, columns] *= factor
    return torch.fft.ifft2(torch.fft.ifftshift(spectrum, dim=AXES)).real.to(x.dtype)
