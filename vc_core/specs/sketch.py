"""The numbers of ToonCrafter's sketch encoder."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class SketchEncoderSpec:
    """The encoder half of a UNet of images, with one transformer block in each attention, and a stack of convolutions
    that reads the sketch.

    hint_channels: channels of a sketch; the published encoder reads one, where other ControlNets read three.
    hint_widths: channels after each convolution over the sketch but the last, which has those of the model.
    """

    in_channels: int = 4
    hint_channels: int = 1
    hint_widths: tuple[int, ...] = (16, 16, 32, 32, 96, 96, 256)
    model_channels: int = 320
    channel_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    attention_levels: tuple[int, ...] = (0, 1, 2)
    head_channels: int = 64
    context_dim: int = 1024
    norm_groups: int = 32
