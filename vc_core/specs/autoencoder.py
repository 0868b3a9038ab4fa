"""The numbers of the autoencoder."""

from __future__ import annotations

from dataclasses import dataclass

from .bounds import bounded


@dataclass(frozen=True, kw_only=True)
class AutoencoderSpec:
    """The KL autoencoder; each step in `channel_mult` after the first halves height and width."""

    channels: int = 128
    channel_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = bounded(2, most=16)
    latent_channels: int = 4
    norm_groups: int = 32
    scale_factor: float = 0.18215
    reference_levels: tuple[int, ...] | None = None
    """Not None for a decoder over time that sees the images at the clip's ends (ToonCrafter, arXiv:2405.17933).
    It attends to them at these levels, numbered from 0 (the finest), and at all others adds them to the first and the
    last frame."""

    @property
    def downscale(self) -> int:
        """Pixels along one side of a latent pixel."""
        return int(2 ** (len(self.channel_mult) - 1))

    @property
    def sees_ends(self) -> bool:
        """The decoder reads the images at the clip's ends, and so decodes a clip as a whole (ToonCrafter)."""
        return self.reference_levels is not None
