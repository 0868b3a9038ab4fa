"""The layers of a network by fused kernels, where these can be used: on a CUDA device, in passes without gradients.

Feature maps are then in channels-last memory throughout the network, so that frames, clips and tokens are views of each
other. Every method returns what its plain layers return, and where kernels cannot be used it calls those.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import kernels


class Weights(Protocol):
    """Gives the weight and bias with which a layer computes `x`, while the context is open. A host that casts or
    patches the weights of its layers passes its own function."""

    def __call__(self, layer: Any, x: Tensor) -> AbstractContextManager[tuple[Tensor, Tensor]]: ...


def own_weights(layer: Any, x: Tensor) -> AbstractContextManager[tuple[Tensor, Tensor]]:
    """The parameters of a layer of torch's."""
    return nullcontext((layer.weight, layer.bias))


class Fused:
    """How the layers of one network are computed. With `wanted` set to False, plain layers are used throughout."""

    def __init__(self, operations: ModuleType | Any = nn, weights: Weights | None = None) -> None:
        """`weights` belong to `operations`; without them, only layers of torch's own classes are fused."""
        self.own = operations is nn
        self.wanted = self.own or weights is not None
        self.weights = own_weights if weights is None else weights
        self.groups: list[list[tuple[Any, str]]] = []

    def __call__(self, x: Tensor) -> bool:
        """Whether fused kernels compute what follows x."""
        return self.wanted and kernels.usable(x)

    def join(self, layers: Sequence[nn.Module], name: str = "weight") -> None:
        """Lets `arrange` put these parameters of layers behind one another, so that `products` needs one product."""
        self.groups.append([(layer, name) for layer in layers])

    @torch.no_grad()
    def arrange(self, network: nn.Module) -> None:
        """Brings the weights of a network's convolutions into the memory format of its maps, on its device, and those
        of joined layers behind one another."""
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d | nn.Conv3d) and self(layer.weight.data):
                layer.weight.data = channels_last(layer.weight.data)
        if self.own:
            for group in self.groups:
                self._put_together([getattr(layer, name) for layer, name in group])

    def _put_together(self, parameters: Sequence[nn.Parameter]) -> None:
        """Makes parameters views of one memory, behind one another, where kernels are used on their device."""
        parts = [parameter.data for parameter in parameters]
        if not self(parts[0]) or adjoining(parts) is not None:
            return
        views = torch.cat(parts).split([len(part) for part in parts])
        for parameter, view in zip(parameters, views, strict=True):
            parameter.data = view

    def products(self, layers: Sequence[Any], x: Tensor) -> tuple[Tensor, ...]:
        """layer(x) of each of these linear layers; views of one product where their weights are joined."""
        joint = self.joint_product(layers, x)
        return tuple(layer(x) for layer in layers) if joint is None else split_as(joint, layers)

    def joint_product(self, layers: Sequence[Any], x: Tensor) -> Tensor | None:
        """The results of linear layers behind one another on the last axis; None where their weights are not joined,
        because a LoRA has replaced some for example."""
        if not self.own or not self(x):
            return None
        weight = adjoining([layer.weight for layer in layers])
        bias = None if layers[0].bias is None else adjoining([layer.bias for layer in layers])
        if weight is None or (bias is None) != (layers[0].bias is None):
            return None
        return F.linear(x, weight, bias)

    def suited(self, x: Tensor) -> Tensor:
        """n c h w in the memory format in which its device computes convolutions and norms fastest: channels last where
        there are kernels, and on a CPU with torch's own layers."""
        return channels_last(x) if self(x) or (self.own and x.device.type == "cpu") else x

    def group_norm(self, layer: Any, x: Tensor, *, silu: bool = False, add: Tensor | None = None) -> Tensor:
        """layer(x + add), then SiLU where asked for. `add` is m c: a row for each n / m rows of x, n c ..."""
        if self(x):
            with self.weights(layer, x) as (weight, bias):
                return kernels.group_norm(x, layer.num_groups, weight, bias, layer.eps, silu=silu, add=add)
        if add is not None:
            rows = add[:, None].unflatten(2, (-1, *[1] * (x.ndim - 2)))  # m 1 c 1 1
            x = (x.unflatten(0, (len(add), -1)) + rows).flatten(0, 1)
        x = layer(x)
        return F.silu(x, inplace=True) if silu else x

    def layer_norm(self, layer: Any, x: Tensor) -> Tensor:
        """layer(x)"""
        if not self(x):
            out: Tensor = layer(x)
            return out
        with self.weights(layer, x) as (weight, bias):
            return kernels.layer_norm(x, weight, bias, layer.eps)

    def add_layer_norm(self, layer: Any, x: Tensor, h: Tensor, later: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x + h + later, and layer(x + h). `later` is d, or None for nothing."""
        if self(x) and h.dtype == x.dtype:
            with self.weights(layer, x) as (weight, bias):
                return kernels.add_layer_norm(x, h, weight, bias, layer.eps, later)
        x = x + h
        return x if later is None else x + later, self.layer_norm(layer, x)

    def convolution(self, layer: Any, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """layer(x), perhaps without its bias, 1 c, which the caller then adds together with something else."""
        if not self.own or not self(x):
            return layer(x), None
        return layer._conv_forward(x, layer.weight, None), layer.bias[None]

    def add(self, x: Tensor, h: Tensor, bias: Tensor | None = None) -> Tensor:
        """x + h + bias, feature maps n c ... and 1 c"""
        if bias is None:
            return x + h
        return kernels.add(channels_last(x), h, bias[0])

    def pointwise(self, layer: Any, x: Tensor) -> Tensor:
        """layer(x) for a convolution of width 1, or an identity. With channels last it is a linear layer."""
        if isinstance(layer, nn.Identity) or not self(x):
            out: Tensor = layer(x)
            return out
        with self.weights(layer, x) as (weight, bias):
            return F.linear(x.movedim(1, -1), weight.flatten(1), bias).movedim(-1, 1)


def split_as(joint: Tensor, layers: Sequence[Any]) -> tuple[Tensor, ...]:
    """The part of each layer of a joint result, as views."""
    return joint.split([len(layer.weight) for layer in layers], dim=-1)


def adjoining(parts: Sequence[Tensor]) -> Tensor | None:
    """The parts joined along their first axis, as a view, where they lie behind one another in memory; else None."""
    first = parts[0]
    storage, end = first.untyped_storage()._cdata, first.storage_offset()
    for part in parts:
        if part.untyped_storage()._cdata != storage or part.storage_offset() != end or not part.is_contiguous():
            return None
        end += part.numel()
    rows = sum(len(part) for part in parts)
    return first.as_strided((rows, *first.shape[1:]), first.stride(), first.storage_offset())


def channels_last(x: Tensor) -> Tensor:
    """n c h w or n c f h w in channels-last memory"""
    return x.contiguous(memory_format=torch.channels_last if x.ndim == 4 else torch.channels_last_3d)
