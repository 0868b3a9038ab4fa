"""Layers of an adapter's own by the published names that they have inside of a UNet."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn


class NamedLayers(nn.Module):
    """Layers whose names in the state dict may have dots. `layers` has them by name."""

    def __init__(self, layers: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.names = tuple(layers)
        for name, layer in layers.items():
            *folders, last = name.split(".")
            place: nn.Module = self
            for folder in folders:
                if folder not in place._modules:
                    place.add_module(folder, nn.Module())
                place = place.get_submodule(folder)
            place.add_module(last, layer)

    @property
    def layers(self) -> dict[str, nn.Module]:
        """The layers by their names."""
        return {name: self.get_submodule(name) for name in self.names}
