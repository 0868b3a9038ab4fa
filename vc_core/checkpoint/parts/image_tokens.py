"""The layers that turn the image encoder's output into image tokens: a resampler, or one linear map."""

from __future__ import annotations

from dataclasses import fields, replace
from types import ModuleType
from typing import Any

from torch import nn

from ...conditioning.image_tokens import build_image_tokens
from ...errors import UserError
from ...network.attention import Attention
from ...specs import LinearTokensSpec, ModelSpec, ResamplerSpec
from .image_encoder import needed
from .measuring import Fields, Shapes, count, size
from .part import Base, Layout, Part, merged

TITLE = "image tokens"


def measure(shapes: Shapes) -> Fields:
    """The fields of `ResamplerSpec` or of `LinearTokensSpec`."""
    return measure_resampler(shapes) if "latents" in shapes else measure_linear(shapes)


def measure_resampler(shapes: Shapes) -> Fields:
    """The fields of `ResamplerSpec`; `inner` is the width of all its heads together. `queries` are those of all frames
    together: the shapes do not say how many frames there are."""
    dim = size(shapes, "latents", 2)
    return {
        "dim": dim,
        "depth": count(shapes, r"layers\.(\d+)\."),
        "inner": size(shapes, "layers.0.0.to_q.weight", 0),
        "queries": size(shapes, "latents", 1),
        "embedding_dim": size(shapes, "proj_in.weight", 1),
        "output_dim": size(shapes, "proj_out.weight", 0),
        "ff_mult": size(shapes, "layers.0.1.1.weight", 0) // dim,
    }


def measure_linear(shapes: Shapes) -> Fields:
    """The fields of `LinearTokensSpec`."""
    width = size(shapes, "norm.weight", 0)
    return {
        "tokens": size(shapes, "proj.weight", 0) // width,
        "embedding_dim": size(shapes, "proj.weight", 1),
        "output_dim": width,
    }


def complete(base: Base, measured: Fields) -> ResamplerSpec | LinearTokensSpec:
    """The base's numbers with the measured ones; those of a resampler's heads and frames are assumed where the base
    does not give them."""
    kind: type = ResamplerSpec if "inner" in measured else LinearTokensSpec
    known = isinstance(base.spec, kind)
    start = replace(base, spec=base.spec if known else kind(), exact=base.exact and known)
    if kind is LinearTokensSpec:
        linear: LinearTokensSpec = merged(TITLE, start, measured)
        return linear
    return _completed_resampler(start, measured)


def _completed_resampler(base: Base, measured: Fields) -> ResamplerSpec:
    resampler: ResamplerSpec = base.spec
    names, inner = {item.name for item in fields(ResamplerSpec)}, measured["inner"]
    sizes = {name: value for name, value in measured.items() if name in names}
    frames = _frames(resampler, measured["queries"], base.exact)
    if frames:
        sizes["queries"] //= frames
    sizes["frames"] = frames
    if not base.exact or resampler.heads * resampler.head_channels != inner:
        width = resampler.head_channels if inner % resampler.head_channels == 0 else inner
        sizes.update(heads=inner // width, head_channels=width)
    completed: ResamplerSpec = merged(TITLE, base, sizes)
    return completed


def _frames(start: ResamplerSpec, queries: int, exact: bool) -> int | None:
    """The number of frames that the queries are for. Published: 16 for all frames, or 16 for each of 16
    (DynamiCrafter); a spec that fits knows better."""
    for spec in (start, ResamplerSpec(), ResamplerSpec(frames=16)):
        if queries == spec.queries * (spec.frames or 1):
            return spec.frames
    return start.frames if exact or (start.frames and queries % start.frames == 0) else None


def build(spec: ResamplerSpec | LinearTokensSpec, operations: ModuleType | Any, attention: Attention) -> nn.Module:
    """The network on `meta`. It has an attention of its own."""
    del attention
    return build_image_tokens(spec, operations=operations, device="meta")


def fits(spec: ModelSpec) -> None:
    """Raise UserError when the image tokens are not as wide as the UNet's cross-attention expects."""
    tokens = spec.image_tokens
    if tokens is not None and tokens.output_dim != spec.unet.context_dim:
        raise UserError(
            f"The image tokens are {tokens.output_dim} wide, but this UNet reads {spec.unet.context_dim}. Give the "
            "parts of one model."
        )


IMAGE_TOKENS = Part(
    name="image_tokens",
    title=TITLE,
    prefix="image_proj_model.",
    layouts=(
        Layout("latents", ("latents", "layers.", "proj_in.", "proj_out.", "norm_out.")),
        Layout("proj.weight", ("proj.", "norm.")),
    ),
    measure=measure,
    complete=complete,
    build=build,
    file="image",
    needed=needed,
    fits=fits,
)
