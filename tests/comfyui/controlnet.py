"""A ControlNet of Stable Diffusion 2.1's layout with weights at random, for tests."""

from __future__ import annotations

from typing import Any

import pytest
import torch


def random_controlnet(unet: Any, blocks: list[int], depth: list[int], *, dynamic_vram: bool) -> Any:
    """One that fits a UNet's first levels. blocks: of each level. depth: of their transformers, block by block."""
    import comfy.cldm.cldm
    import comfy.controlnet
    import comfy.ops

    with pytest.MonkeyPatch.context() as patched:  # with dynamic VRAM, layers have no weights until they are loaded
        if dynamic_vram:
            patched.setattr("comfy.memory_management.aimdo_enabled", False)
        control = comfy.cldm.cldm.ControlNet(
            image_size=32, in_channels=4, hint_channels=3, model_channels=unet.model_channels, num_res_blocks=blocks,
            channel_mult=unet.channel_mult, num_head_channels=unet.head_channels, use_spatial_transformer=True,
            transformer_depth=depth, transformer_depth_middle=1, context_dim=unet.context_dim, legacy=False,
            use_linear_in_transformer=True, dtype=torch.float32, operations=comfy.ops.manual_cast,
        )  # fmt: skip
    generator = torch.Generator().manual_seed(4)
    for parameter in control.parameters():
        spread = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.1
        parameter.data = torch.randn(parameter.shape, generator=generator) * spread
    return comfy.controlnet.ControlNet(control, load_device=torch.device("cpu"))
