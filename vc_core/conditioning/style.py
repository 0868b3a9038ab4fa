"""STYLE IMAGES -> STYLE TOKENS, and PROMPT -> SCALES: what StyleCrafter (arXiv:2312.00330) reads and predicts."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UserError
from ..network.adapters.stylecrafter import StyleProjections
from ..network.attention import join_heads, split_heads
from ..specs import StyleAdapterSpec
from .image_encoder import ImageEncoder
from .openclip import Device


def style_features(tokens: Tensor, class_token: Tensor) -> Tensor:
    """The image encoder's tokens before its last norm, b n d, with the class token b d after it: rounded to float16,
    as in the training, in float32."""
    return torch.cat([class_token[:, None], tokens[:, 1:]], dim=1).half().float()


def features_of_images(encoder: ImageEncoder, images: Tensor) -> Tensor:
    """Images b 3 h w in -1..1 -> b n d, their features for `StyleAdapter.tokens`."""
    visual: Any = encoder.model.visual
    tokens = encoder(images)
    return style_features(tokens, visual.ln_post(tokens[:, 0]))


class StyleBlock(nn.Module):
    """A pre-norm transformer block by OpenCLIP's names: x + attn(ln_1(x)), x + mlp(ln_2(x))."""

    def __init__(self, width: int, heads: int, operations: ModuleType | Any, where: dict[str, Any]) -> None:
        super().__init__()
        self.ln_1 = operations.LayerNorm(width, **where)
        self.attn = StyleSelfAttention(width, heads, operations, where)
        self.ln_2 = operations.LayerNorm(width, **where)
        self.mlp = nn.ModuleDict(
            {
                "c_fc": operations.Linear(width, 4 * width, **where),
                "c_proj": operations.Linear(4 * width, width, **where),
            }
        )

    def forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """b n d; `bias` n is added to the logits of each token as a key."""
        x = x + self.attn(self.ln_1(x), bias)
        out: Tensor = x + self.mlp["c_proj"](F.gelu(self.mlp["c_fc"](self.ln_2(x))))
        return out


class StyleSelfAttention(nn.Module):
    """Self-attention by the names of `torch.nn.MultiheadAttention`."""

    def __init__(self, width: int, heads: int, operations: ModuleType | Any, where: dict[str, Any]) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width, **where))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width, **where))
        self.out_proj = operations.Linear(width, width, **where)
        nn.init.xavier_uniform_(self.in_proj_weight)

    def forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        q, k, v = F.linear(x, self.in_proj_weight.to(x), self.in_proj_bias.to(x)).chunk(3, dim=-1)
        q, k, v = (split_heads(y, self.heads) for y in (q, k, v))
        mask = None if bias is None else bias.to(x).expand(x.shape[1], -1)
        out: Tensor = self.out_proj(join_heads(F.scaled_dot_product_attention(q, k, v, attn_mask=mask)))
        return out


class StyleBlocks(nn.Module):
    """Blocks under the published name `resblocks`."""

    def __init__(self, width: int, heads: int, count: int, operations: ModuleType | Any, where: dict[str, Any]) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(StyleBlock(width, heads, operations, where) for _ in range(count))

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        for block in self.resblocks:
            x = block(x, bias)
        return x


class StyleEncoder(nn.Module):
    """Features of style images, b n d -> style tokens b m e. Learned queries and features are normed and attend to each
    other in all blocks."""

    def __init__(self, spec: StyleAdapterSpec, operations: ModuleType | Any, where: dict[str, Any]) -> None:
        super().__init__()
        width = spec.image_width
        self.style_emb = nn.Parameter(torch.zeros(1, spec.tokens, width, **where))
        self.transformer_blocks = StyleBlocks(width, spec.heads, spec.layers, operations, where)
        self.ln1, self.ln2 = (operations.LayerNorm(width, **where) for _ in range(2))
        self.proj = nn.Parameter(torch.zeros(width, spec.text_width, **where))

    def forward(self, features: Tensor, bias: Tensor | None = None) -> Tensor:
        """`bias` n is added to the logits of each feature as a key, see `image_bias`."""
        queries = self.style_emb.to(features).expand(len(features), -1, -1)
        count = queries.shape[1]
        whole = None if bias is None else torch.cat([bias.new_zeros(count), bias])
        x = self.transformer_blocks(self.ln1(torch.cat([queries, features], dim=1)), whole)
        out: Tensor = self.ln2(x[:, :count]) @ self.proj.to(x)
        return out


class ScalePredictor(nn.Module):
    """Style tokens b m e and a text b n e -> the scale of each text attention, b L in -1..1. The order of the two does
    not matter."""

    def __init__(self, spec: StyleAdapterSpec, operations: ModuleType | Any, where: dict[str, Any]) -> None:
        super().__init__()
        width = spec.text_width
        self.scale_emb = nn.Parameter(torch.zeros(1, spec.scales, width, **where))
        self.transformer_blocks = StyleBlocks(width, spec.scale_heads, spec.scale_layers, operations, where)
        self.ln1, self.ln2 = (operations.LayerNorm(width, **where) for _ in range(2))
        last = (
            operations.Linear(width, spec.scale_hidden, **where),
            nn.GELU(),
            operations.Linear(spec.scale_hidden, 1, **where),
        )
        self.out = nn.Sequential(*last)

    def forward(self, style: Tensor, text: Tensor) -> Tensor:
        queries = self.scale_emb.to(text).expand(len(text), -1, -1)
        x = self.ln1(torch.cat([queries, style.to(text).expand(len(text), -1, -1), text], dim=1))
        x = self.transformer_blocks(x)
        out: Tensor = self.out(self.ln2(x[:, : queries.shape[1]]))[..., 0].tanh()
        return out


class StyleAdapter(nn.Module):
    """All of StyleCrafter's adapter file, by its names."""

    def __init__(self, spec: StyleAdapterSpec, *, operations: ModuleType | Any = nn, device: Device = None) -> None:
        super().__init__()
        self.spec, self.casts = spec, operations is not nn
        where: dict[str, Any] = {"device": device}
        self.image_context_model = StyleEncoder(spec, operations, where)
        self.scale_predictor = ScalePredictor(spec, operations, where)
        self.kv_attn_layers = StyleProjections(spec.attentions, spec.text_width, operations=operations, device=device)

    def tokens(self, features: Sequence[Tensor], weights: Sequence[float] = ()) -> Tensor:
        """Features of one or more images, each b n d -> style tokens b m e. See `image_bias` for the weights.

        Raises UserError for features of another image encoder.
        """
        width = features[0].shape[-1]
        if width != self.spec.image_width:
            raise UserError(
                f"The image encoder's tokens are {width} wide, but StyleCrafter's style encoder reads "
                f"{self.spec.image_width}. Use OpenCLIP ViT-H-14, of 1280, which the published one was trained with."
            )
        counts = [each.shape[1] for each in features]
        bias = image_bias(counts, weights)
        features = [each.float() for each in features]
        encoder = self.exact("image_context_model")
        out: Tensor = encoder(torch.cat(list(features), dim=1), None if bias is None else bias.to(features[0].device))
        return out

    def scales_of(self, style: Tensor) -> Callable[[Tensor], Tensor]:
        """The function from a text b n e, of any type, to its scales b L for these style tokens, in float32."""
        predictor, style = self.exact("scale_predictor"), style.float()

        def scales(text: Tensor) -> Tensor:
            out: Tensor = predictor(style, text.float())
            return out

        return scales

    def exact(self, name: str) -> nn.Module:
        """One of the two encoders in float32, as published: itself, where its weights are of that type or its layers
        cast them, or a copy."""
        module = self.get_submodule(name)
        single = all(parameter.dtype == torch.float32 for parameter in module.parameters())
        return module if self.casts or single else copy.deepcopy(module).float()


def image_bias(counts: Sequence[int], weights: Sequence[float] = ()) -> Tensor | None:
    """What is added to the logits of the features as keys, where images weigh differently: log(weight) for each of an
    image's `counts` features. An image of weight 2 has the effect of two equal images, and one of weight 0 none. None
    where all weights are 1, which is the published computation.

    Raises UserError for another number of weights than images, for weights below 0, and where all are 0.
    """
    if not weights:
        return None
    _check_weights(weights, len(counts))
    if all(weight == 1 for weight in weights):
        return None
    logs = [math.log(weight) if weight else -math.inf for weight in weights]
    return torch.cat([torch.full((count,), log) for count, log in zip(counts, logs, strict=True)])


def _check_weights(weights: Sequence[float], images: int) -> None:
    if len(weights) != images:
        raise UserError(
            f"There are {len(weights)} weights for {images} style images. Give one weight for each image, or none."
        )
    if any(not (math.isfinite(weight) and weight >= 0) for weight in weights) or not any(weights):
        shown = ", ".join(f"{weight:g}" for weight in weights)
        raise UserError(
            f"The weights of the style images are {shown}; each should be 0 or more, and one of them above 0."
        )
