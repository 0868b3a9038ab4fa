"""A pass of a network by the kernels themselves. `test_fused.py` runs this file in a process of its own, with Triton's
interpreter switched on."""

from __future__ import annotations

import torch

from golden_cases import relative_error
from vc_core.conditions import Conditioning
from vc_core.network.call import Pass
from vc_core.network.unet import VideoUNet
from vc_core.specs import UNetSpec, Windows

SPEC = UNetSpec(
    model_channels=16,
    channel_mult=(1,),
    num_res_blocks=1,
    attention_levels=(0,),
    head_channels=8,
    context_dim=6,
    norm_groups=4,
    relative_position=True,
    temporal_length=3,
)


@torch.no_grad()
def test_a_pass_by_the_kernels_equals_that_by_plain_layers() -> None:
    torch.manual_seed(0)
    network = VideoUNet(SPEC).eval()
    inputs = (torch.randn(1, 4, 4, 3, 2), torch.tensor([500.0]), Conditioning(torch.randn(1, 5, 6)))
    run = Pass(windows=Windows(size=3, stride=1))
    fused = network(*inputs, run)
    assert network.fused(fused)
    network.fused.wanted = False
    assert relative_error(fused, network(*inputs, run)) < 1e-5
