"""MotionCtrl's camera layers (arXiv:2312.03641) while they are trained: one in every temporal transformer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from vc_core.checkpoint.saving import save_tensors
from vc_core.network.adapters.motionctrl import POSE, PROJECTION
from vc_core.network.transformers import TemporalTransformer
from vc_core.network.unet import VideoUNet

BLOCK = ".transformer_blocks.0"
"""The published name of the block inside of a temporal transformer."""
POSE_GAIN, TOKEN_GAIN = 4.0, 0.25
"""Of `Steered` layers."""


class CameraLayers(nn.ModuleDict):
    """The layers for a network, by the names of its temporal transformers with - in place of the dots. They pass tokens
    on and do not look at poses yet. first: whether the attention behind the first convolution has one too. steered:
    whether they are `Steered`."""

    def __init__(self, unet: VideoUNet, *, first: bool, steered: bool = False) -> None:
        super().__init__()
        for name, module in unet.named_modules():
            if isinstance(module, TemporalTransformer) and (first or not name.startswith("init_attn")):
                weight = module.proj_in.weight
                assert isinstance(weight, Tensor)
                self[name.replace(".", "-")] = Steered(len(weight)) if steered else _projection(len(weight))

    def tensors(self) -> dict[str, Tensor]:
        """The weights and biases, as layers without steering have them."""
        found: dict[str, Tensor] = {}
        for name, layer in self.items():
            assert isinstance(layer, nn.Linear)
            weight = layer.effective() if isinstance(layer, Steered) else layer.weight
            found |= {f"{name}.weight": weight, f"{name}.bias": layer.bias}
        return found

    @property
    def by_transformer(self) -> dict[str, nn.Module]:
        """The layers by the names of the temporal transformers."""
        return {name.replace("-", "."): layer for name, layer in self.items()}

    @property
    def by_block(self) -> dict[str, nn.Module]:
        """The layers by the published names of the blocks that they are in."""
        return {name + BLOCK: layer for name, layer in self.by_transformer.items()}


def _projection(width: int) -> nn.Linear:
    layer = nn.Linear(width + POSE, width)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(*layer.weight.shape))
        layer.bias.zero_()
    return layer


class Steered(nn.Linear):
    """A layer whose parameters are its difference from the start, in units of which one is large for the columns of
    the poses and small for those of the tokens: an optimizer whose steps are equally long for all of them (Adam) learns
    first what the camera does, and changes tokens little."""

    gain: Tensor
    start: Tensor

    def __init__(self, width: int) -> None:
        super().__init__(width + POSE, width)
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)
        gain = torch.full((width + POSE,), TOKEN_GAIN)
        gain[width:] = POSE_GAIN
        self.register_buffer("gain", gain, persistent=False)
        self.register_buffer("start", torch.eye(*self.weight.shape), persistent=False)

    def effective(self) -> Tensor:
        """The weight."""
        return self.start + self.gain * self.weight

    def forward(self, input: Tensor) -> Tensor:
        return nn.functional.linear(input, self.effective(), self.bias)


def save_layers(path: Path, weights: Mapping[str, Tensor]) -> Path:
    """Writes the weights and biases of `CameraLayers`, by their names in it, to a file, under their published names and
    in half precision, replacing an older one."""
    named = {}
    for key, value in weights.items():
        transformer, _, kind = key.replace("-", ".").rpartition(".")
        named[f"{transformer}{BLOCK}{PROJECTION}.{kind}"] = value.detach().to("cpu", torch.float16).contiguous()
    path.parent.mkdir(parents=True, exist_ok=True)
    return save_tensors(path, named, {}, overwrite=True)
