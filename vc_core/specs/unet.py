"""The numbers of the video UNet."""

from __future__ import annotations

from dataclasses import dataclass

from .bounds import bounded


@dataclass(frozen=True, kw_only=True)
class UNetSpec:
    """The video UNet. Widths count channels; `attention_levels` numbers the resolutions from 0 (the finest)."""

    in_channels: int = 4
    """All channels that the first convolution reads: the noised latent, then `concat_channels` of an image latent."""
    concat_channels: int = bounded(0, zero=True)
    """Channels of a clean latent that is concatenated to the noised one (DynamiCrafter: that of the image)."""
    out_channels: int = 4
    model_channels: int = 320
    channel_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = bounded(2, most=16)
    attention_levels: tuple[int, ...] = (0, 1, 2)
    head_channels: int = 64
    transformer_depth: int = bounded(1, most=16)
    context_dim: int = 1024
    norm_groups: int = 32
    temporal_conv: bool = True
    relative_position: bool = False
    """Learned tables of relative frame distances in every temporal attention (VideoCrafter1's text models)."""
    temporal_length: int = 16
    """Frames seen in training; also the distance at which relative positions are clamped."""
    causal: bool = False
    """Temporal attention looks back only. No published model uses it."""
    fps_condition: bool = True
    default_fps: int = 16
    """The fps condition of a call that gives none."""
    image_attention: bool = False
    """A second cross-attention, over image tokens, beside the one over text."""
    image_gate: bool = False
    """A learned factor tanh(alpha) + 1 on every image cross-attention (DynamiCrafter 256)."""
    guidance_width: int = bounded(0, zero=True)
    """Width of the embedding of the guidance scale; 0 is none. T2V-Turbo has 256 and needs no negative prompt."""
    motion_width: int = bounded(0, zero=True)
    """Width of the embedding of the motion guidance; 0 is none (T2V-Turbo v2 has 256)."""

    @property
    def latent_channels(self) -> int:
        """Channels of the noised latent."""
        return self.in_channels - self.concat_channels
