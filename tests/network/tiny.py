"""A UNet small enough for tests of the network alone."""

from __future__ import annotations

from vc_core.conditions import Evaluation
from vc_core.denoising.guidance import FROZEN
from vc_core.network.call import Pass
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

ALONE = Pass(Evaluation(branches=(FROZEN,)))
"""A pass in which every frame attends to itself alone."""
