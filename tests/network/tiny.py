"""A UNet small enough for tests of the network alone."""

from __future__ import annotations

from vc_core.specs import UNetSpec

TINY = UNetSpec(
    model_channels=32,
    channel_mult=(1, 2),
    num_res_blocks=1,
    attention_levels=(0, 1),
    head_channels=8,
    context_dim=11,
    norm_groups=8,
)
