"""Layers of an adapter's own, and tensors of a UNet that a file brings with them, by their published names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn


class NamedLayers(nn.Module):
    """Layers whose names in the state dict may have dots. `layers` has them by name."""

    def __init__(self, layers: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.names = tuple(layers)
        for name, layer in layers.items():
            *folders, last = name.split(".")
            within(self, folders).add_module(last, layer)

    @property
    def layers(self) -> dict[str, nn.Module]:
        """The layers by their names."""
        return {name: self.get_submodule(name) for name in self.names}


class NamedTensors(nn.Module):
    """Tensors that take the place of a network's, by their names in its state dict. `tensors` has them by name."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], **where: Any) -> None:
        """where: their device and dtype."""
        super().__init__()
        self.names = tuple(shapes)
        for name, shape in shapes.items():
            *folders, last = name.split(".")
            within(self, folders).register_parameter(last, nn.Parameter(torch.zeros(shape, **where)))

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The tensors by their names."""
        return {name: self.get_parameter(name) for name in self.names}


def within(module: nn.Module, folders: Sequence[str]) -> nn.Module:
    """The module inside of another that a path leads to, made where it is missing."""
    for folder in folders:
        if folder not in module._modules:
            module.add_module(folder, nn.Module())
        module = module.get_submodule(folder)
    return module
