"""Names of weights over time, which core's nodes find by a mark that the published names do not have."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ...vc_core.network.transformers import TemporalTransformer

MARK = ".time_stack."
"""Core's UNetTemporalAttentionMultiply asks `MARK in name` for layers over time; so it is in Stable Video Diffusion."""


class TemporalName(str):
    """A published name that also says yes to the question for `MARK`. Equal to the plain name in all else."""

    __slots__ = ()

    def __contains__(self, part: object) -> bool:
        return part == MARK or (isinstance(part, str) and super().__contains__(part))


def temporal_prefixes(model: nn.Module) -> tuple[str, ...]:
    """What the names of weights in layers over time begin with."""
    return tuple(f"{name}." for name, module in model.named_modules() if isinstance(module, TemporalTransformer))


def mark(weights: dict[str, Any], prefixes: tuple[str, ...]) -> dict[str, Tensor]:
    """`weights` itself, in its order, with a `TemporalName` for each name that begins with one of `prefixes`."""
    for name in list(weights):
        value = weights.pop(name)
        weights[TemporalName(name) if name.startswith(prefixes) else name] = value
    return weights
