"""StyleCrafter's style adapter (arXiv:2312.00330), published as `adapter_v1.pth`."""

from __future__ import annotations

import re
from dataclasses import replace
from types import ModuleType
from typing import Any

from torch import nn

from ...conditioning.style import StyleAdapter
from ...network.attention import Attention
from ...specs import ModelSpec, StyleAdapterSpec
from .measuring import Fields, Shapes, count, size
from .part import Base, Layout, Part

ENCODER, PREDICTOR, LAYERS = "image_context_model.", "scale_predictor.", "kv_attn_layers."
BLOCKS = r"transformer_blocks\.resblocks\.(\d+)\."
STAGES = ("input", "middle", "output")


def measure(shapes: Shapes) -> Fields:
    """The fields of `StyleAdapterSpec` but the heads."""
    keys = [name for name in shapes if name.startswith(LAYERS) and name.endswith(".to_k_style.weight")]
    widths = {name.removeprefix(LAYERS).partition(".")[0]: size(shapes, name, 0) for name in keys}
    return {
        "image_width": size(shapes, f"{ENCODER}style_emb", 2),
        "text_width": size(shapes, f"{PREDICTOR}scale_emb", 2),
        "tokens": size(shapes, f"{ENCODER}style_emb", 1),
        "layers": count(shapes, re.escape(ENCODER) + BLOCKS),
        "scale_layers": count(shapes, re.escape(PREDICTOR) + BLOCKS),
        "scale_hidden": size(shapes, f"{PREDICTOR}out.0.weight", 0),
        "scales": size(shapes, f"{PREDICTOR}scale_emb", 1),
        "attentions": tuple(sorted(widths.items(), key=lambda pair: _place(pair[0]))),
    }


def _place(name: str) -> tuple[int, ...]:
    """Where the UNet has an attention: encoder, middle and decoder, then the numbers in its name."""
    stage = next((index for index, start in enumerate(STAGES) if name.startswith(start)), len(STAGES))
    return stage, *(int(number) for number in re.findall(r"\d+", name))


def complete(base: Base, measured: Fields) -> StyleAdapterSpec:
    """Heads are assumed: 8, as published, or 1 for a width that they do not divide."""
    del base
    spec = StyleAdapterSpec(**measured)
    heads, scale_heads = (1 if width % 8 else 8 for width in (spec.image_width, spec.text_width))
    return replace(spec, heads=heads, scale_heads=scale_heads)


def build(spec: StyleAdapterSpec, operations: ModuleType | Any, attention: Attention) -> nn.Module:
    """The networks on `meta`."""
    del attention
    return StyleAdapter(spec, operations=operations, device="meta")


def needed(spec: ModelSpec) -> bool:
    """No model needs it to make videos."""
    del spec
    return False


STYLE_ADAPTER = Part(
    name="style_adapter",
    title="style adapter (StyleCrafter)",
    prefix="",
    layouts=(Layout(f"{ENCODER}style_emb", (ENCODER, PREDICTOR, LAYERS)),),
    measure=measure,
    complete=complete,
    build=build,
    file="style",
    cut="",
    needed=needed,
)
