"""Auxiliary losses with which a video network learns the order of its frames and the direction of motion in a caption.

In the published layout only the padding of the temporal convolutions distinguishes the first frame from the last, and a
direction requires this and the caption at once: as long as the network has learned neither, the loss on the noise
rewards neither. So a training stage has a separate loss for each. Small linear probes, discarded afterwards, predict
the position of a frame in the clip from the outputs of the temporal convolutions, and the displacement of the shape
from its position in the middle of the clip from the outputs of the spatial transformers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from vc_core.network.layers import TemporalConv
from vc_core.network.transformers import SpatialTransformer
from worlds.shapes.world import FRAMES, Scene, growth, velocity

from .camera import CameraNetwork
from .diffusion import DiffusionObjective
from .network import Network, PictureNetwork

Layer = TypeVar("Layer", bound=nn.Module)

TRAVEL_UNIT, GROWTH_UNIT = 8.0, 2.0
"""Units of the targets in pixels."""


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Weights of the loss on the noise and of the auxiliary losses."""

    noise: float
    order: float
    motion: float


FIRST = Weights(noise=0.1, order=0.2, motion=1.0)
"""The loss on the noise has much larger gradients than the auxiliary losses, so its weight is small at first."""
LATER = Weights(noise=1.0, order=0.04, motion=0.4)


class MotionHints(nn.Module):
    """The probes on the outputs of a network's layers; `order` and `motion` are their errors in the last forward
    pass."""

    when: Tensor

    def __init__(self, network: Network) -> None:
        super().__init__()
        convolutions = _layers(network, TemporalConv)
        transformers = _layers(network, SpatialTransformer)
        self.places = nn.ModuleList(nn.Linear(_width(layer.conv4[3]), 2) for layer in convolutions)
        self.displacements = nn.ModuleList(nn.Linear(_width(layer.proj_out), 3) for layer in transformers)
        self._convolved: list[Tensor] = []
        self._transformed: list[Tensor] = []
        for convolution in convolutions:
            convolution.register_forward_hook(lambda _, __, out: self._convolved.append(out))
        for transformer in transformers:
            transformer.register_forward_hook(lambda _, __, out: self._transformed.append(out))
        when = torch.linspace(-1, 1, FRAMES)
        self.register_buffer("when", torch.stack([standard(when), standard(when.square())], dim=1), persistent=False)

    def order(self) -> Tensor:
        """The error of the predicted frame positions, summed over the convolutions."""
        errors = [
            reader(evened(out.float().mean((3, 4)).transpose(1, 2))) - self.when
            for reader, out in zip(self.places, self._convolved, strict=True)
        ]
        self._convolved.clear()
        return torch.stack([error.square().mean() for error in errors]).sum()

    def motion(self, scenes: Sequence[Scene], captioned: Sequence[bool]) -> Tensor:
        """The error of the predicted displacements, summed over the transformers; only for clips that are
        `captioned`."""
        targets = displacement(scenes).to(self.when.device)
        mask = torch.tensor(captioned, device=self.when.device)[:, None, None]
        errors = [
            (reader(evened(out.float().mean((2, 3)).unflatten(0, (len(scenes), -1)))) - targets) * mask
            for reader, out in zip(self.displacements, self._transformed, strict=True)
        ]
        self._transformed.clear()
        return torch.stack([error.square().mean() for error in errors]).sum()


class MotionLesson(nn.Module):
    """A network with its probes; called with a step, it returns the weighted sum of the losses for that step's
    batch."""

    network: Network | PictureNetwork

    def __init__(self, objective: DiffusionObjective, weights: Weights) -> None:
        super().__init__()
        assert not isinstance(objective.network, CameraNetwork)
        self.network, self.objective, self.weights = objective.network, objective, weights
        self.hints = MotionHints(self.network.network if isinstance(self.network, PictureNetwork) else self.network)

    def forward(self, step: int) -> Tensor:
        batch = self.objective.draw(step)
        error = self.objective.error(batch)
        motion = self.hints.motion(batch.scenes, [bool(text) for text in batch.texts])
        return self.weights.noise * error + self.weights.order * self.hints.order() + self.weights.motion * motion


def look_along_time(network: Network) -> None:
    """Trains only text encoder, transformers and temporal convolutions; layers for single frames stay frozen."""
    for name, parameter in network.named_parameters():
        temporal = any(part in name for part in ("text.", "temopral_conv", "transformer_blocks", "init_attn", ".proj_"))
        parameter.requires_grad_(temporal)


def _layers(network: Network, kind: type[Layer]) -> list[Layer]:
    return [layer for layer in network.unet.modules() if isinstance(layer, kind)]


def _width(layer: nn.Module) -> int:
    """The number of output channels of a layer."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight.shape[0]


def standard(values: Tensor) -> Tensor:
    """Values shifted and scaled to mean 0 and variance 1."""
    return (values - values.mean()) / values.std(unbiased=False)


def evened(features: Tensor) -> Tensor:
    """Features b f c, scaled to a mean square of 1 in each clip."""
    return features / (features.square().mean((1, 2), keepdim=True).sqrt() + 1e-6)


def displacement(scenes: Sequence[Scene]) -> Tensor:
    """Displacement of each shape from its state in the middle of the clip, b f 3: to the right, down, and in radius."""
    times = torch.arange(FRAMES) - (FRAMES - 1) / 2
    rates = [[*(step / TRAVEL_UNIT for step in velocity(scene)), growth(scene) / GROWTH_UNIT] for scene in scenes]
    return times[None, :, None] * torch.tensor(rates)[:, None]
