"""MotionCtrl's camera layers for the finished text-to-video network, which is frozen."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from vc_core.autoencoder.autoencoder import Autoencoder
from vc_core.network.adapters.motionctrl import CameraPoses
from vc_core.network.call import Pass
from vc_core.pipeline import VideoCrafter

from .camera_layers import CameraLayers
from .network import TEXT_TO_VIDEO, Network

FILE = "videocrafter_small_camera.safetensors"


class CameraNetwork(nn.Module):
    """A frozen text-to-video network with camera layers, which are the only trained parameters."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = [network.requires_grad_(False)]
        """In a list, so that its weights are not among those of this module."""
        self.spec, self.words = network.spec, network.words
        self.layers = CameraLayers(network.unet, first=True, steered=True)

    def forward(self, x: Tensor, timesteps: Tensor, rows: Tensor, fps: Tensor, poses: Tensor) -> Tensor:
        """The prediction b c f h w for a camera with poses b f 12."""
        camera = CameraPoses(self.layers.by_block, poses)
        out: Tensor = self.network[0](x, timesteps, rows, fps, run=Pass(adapters=(camera,)))
        return out


def finished(path: Path, device: str = "cpu") -> tuple[Network, Autoencoder]:
    """The text-to-video network of a model file, with the reduced vocabulary, and the autoencoder."""
    parts = VideoCrafter.load(path, device=device, dtype=torch.float32).parts
    assert parts.unet is not None
    assert parts.text_encoder is not None
    assert parts.autoencoder is not None
    network = Network(TEXT_TO_VIDEO)
    network.unet.load_state_dict(parts.unet.state_dict())
    text = dict(parts.text_encoder.state_dict())
    table = "model.token_embedding.weight"
    text[table] = network.words.reduced(text[table])
    network.text.load_state_dict(text)
    return network.to(device), parts.autoencoder
