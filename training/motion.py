"""Hints that teach a video network in which order its frames stand and which way its words send the shape.

With the published layout only the padding of the temporal convolutions tells the first frame from the last, and a
direction needs that and the caption at once: as long as the network has neither, the noise's error rewards neither. So
a stage of the training asks for both by themselves. Small linear maps, thrown away afterwards, must read from what the
temporal convolutions give where in the clip a frame stands, and from what the spatial transformers give how far its
shape is from where it will be in the middle of the clip.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vc_core.network.layers import TemporalConv
from vc_core.network.transformers import SpatialTransformer
from worlds.shapes.world import FRAMES, Scene, growth, velocity

from .diffusion import DiffusionObjective
from .network import Network, PictureNetwork

TRAVEL_UNIT, GROWTH_UNIT = 8.0, 2.0
"""Pixels that count as 1 in the targets."""


@dataclass(frozen=True, kw_only=True)
class Weights:
    """How much the error of the noise and those of the hints count."""

    noise: float
    order: float
    motion: float


FIRST = Weights(noise=0.1, order=0.2, motion=1.0)
"""The noise's error shakes every layer with gradients far above those of the hints, so it hardly counts at first."""
LATER = Weights(noise=1.0, order=0.04, motion=0.4)


class MotionHints(nn.Module):
    """The maps, on the outputs of a network's layers; `order` and `motion` are their errors in its last pass."""

    when: Tensor

    def __init__(self, network: Network) -> None:
        super().__init__()
        layers = list(network.unet.modules())
        convolutions = [layer for layer in layers if isinstance(layer, TemporalConv)]
        transformers = [layer for layer in layers if isinstance(layer, SpatialTransformer)]
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
        """The error of the frames' places in the clip, summed over the convolutions."""
        errors = [
            reader(evened(out.float().mean((3, 4)).transpose(1, 2))) - self.when
            for reader, out in zip(self.places, self._convolved, strict=True)
        ]
        self._convolved.clear()
        return torch.stack([error.square().mean() for error in errors]).sum()

    def motion(self, scenes: Sequence[Scene], told: Sequence[bool]) -> Tensor:
        """The error of the shapes' displacements, summed over the transformers; asked only of clips whose motion the
        network was `told`."""
        targets = displacement(scenes).to(self.when.device)
        asked = torch.tensor(told, device=self.when.device)[:, None, None]
        errors = [
            (reader(evened(out.float().mean((2, 3)).unflatten(0, (len(scenes), -1)))) - targets) * asked
            for reader, out in zip(self.displacements, self._transformed, strict=True)
        ]
        self._transformed.clear()
        return torch.stack([error.square().mean() for error in errors]).sum()


class MotionLesson(nn.Module):
    """A network with its hints; called with a step, it gives the error of that step's batch and of the hints."""

    network: Network | PictureNetwork

    def __init__(self, objective: DiffusionObjective, weights: Weights) -> None:
        super().__init__()
        self.network, self.objective, self.weights = objective.network, objective, weights
        self.hints = MotionHints(self.network.network if isinstance(self.network, PictureNetwork) else self.network)

    def forward(self, step: int) -> Tensor:
        batch = self.objective.draw(step)
        error = self.objective.error(batch)
        motion = self.hints.motion(batch.scenes, [bool(text) for text in batch.texts])
        return self.weights.noise * error + self.weights.order * self.hints.order() + self.weights.motion * motion


def look_along_time(network: Network) -> None:
    """Let only text tower, transformers and temporal convolutions learn: what a single frame needs stays."""
    for name, parameter in network.named_parameters():
        timely = any(part in name for part in ("text.", "temopral_conv", "transformer_blocks", "init_attn", ".proj_"))
        parameter.requires_grad_(timely)


def _width(layer: nn.Module) -> int:
    """The number of channels that a layer gives."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight.shape[0]


def standard(values: Tensor) -> Tensor:
    """With mean 0 and variance 1."""
    return (values - values.mean()) / values.std(unbiased=False)


def evened(features: Tensor) -> Tensor:
    """b f c, scaled to a mean square of 1 in each clip."""
    return features / (features.square().mean((1, 2), keepdim=True).sqrt() + 1e-6)


def displacement(scenes: Sequence[Scene]) -> Tensor:
    """How far each shape is from the clip's middle in every frame: to the right, down, and larger, b f 3."""
    times = torch.arange(FRAMES) - (FRAMES - 1) / 2
    rates = [[*(step / TRAVEL_UNIT for step in velocity(scene)), growth(scene) / GROWTH_UNIT] for scene in scenes]
    return times[None, :, None] * torch.tensor(rates)[:, None]
