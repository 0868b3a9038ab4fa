"""The weights of ComfyUI's layers, for kernels that compute a layer in its place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import comfy.ops
from torch import Tensor

from ...vc_core.network.fused import Weights
from .compat import known

LATER = known(comfy.ops.cast_bias_weight, offloadable=True)
"""ComfyUI 0.4 and later stream weights during the computation, where the layer reports when it is done with them."""


def weights_of(operations: Any) -> Weights | None:
    """What gives the weights of layers of an operations namespace, None where other code than ComfyUI's own casts them
    (GGUF, for example)."""
    for kind in (operations.GroupNorm, operations.LayerNorm, operations.Conv1d):
        for method in (kind.forward, getattr(kind, "forward_comfy_cast_weights", None)):
            if getattr(method, "__module__", None) != comfy.ops.__name__:
                return None
    return cast_weights


@contextmanager
def cast_weights(layer: Any, x: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The weight and bias with which a layer of ComfyUI's computes x: on its device, in its type, and patched."""
    if not (layer.comfy_cast_weights or layer.weight_function or layer.bias_function):
        yield layer.weight, layer.bias
        return
    weight, bias, *stream = comfy.ops.cast_bias_weight(layer, x, **LATER)
    try:
        yield weight, bias
    finally:
        if stream:
            comfy.ops.uncast_bias_weight(layer, weight, bias, *stream)
