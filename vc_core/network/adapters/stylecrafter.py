"""StyleCrafter (arXiv:2312.00330) inside the network: a second cross-attention, over style tokens, beside the text's.

`StyleProjections` holds the keys and values of style under their published names; `StyleAttention` adds the attention.
`WithoutTime` makes the video network one of still images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...conditions import POSITIVE
from ...errors import UserError
from ...specs import UNetSpec
from ..adapter import Adapter, Attend, Place, Site
from ..attention import sdpa_attention

NAME = "stylecrafter"
"""The name of the control that the adapters belong to."""

ENDING = "_attn2_processor"
"""Behind the name of a transformer block, with underscores for dots, in the published names of its style layers."""

KEPT_TEXTS = 64
"""Texts whose scales an adapter remembers, so that a pass predicts them once and not in every layer."""


class StyleLayers(nn.Module):
    """Keys and values of style in one text attention of width c, and the norm behind it."""

    def __init__(self, width: int, text_width: int, *, operations: Any = nn, device: Any = None) -> None:
        super().__init__()
        self.to_k_style = operations.Linear(text_width, width, bias=False, device=device)
        self.to_v_style = operations.Linear(text_width, width, bias=False, device=device)
        self.norm_style = operations.LayerNorm(width, device=device)


class StyleProjections(nn.ModuleDict):
    """The style layers of the text attentions, by their published names, in the order of their scales."""

    def __init__(
        self, attentions: Sequence[tuple[str, int]], text_width: int, *, operations: Any = nn, device: Any = None
    ) -> None:
        super().__init__(
            {name: StyleLayers(width, text_width, operations=operations, device=device) for name, width in attentions}
        )
        self.order = {name: index for index, (name, _) in enumerate(attentions)}


class StyleAttention(Adapter):
    """Adds weight * (1 + scale) * LayerNorm(softmax(q k_style^T / sqrt(d)) v_style) to each text attention before its
    last linear layer, with the queries of the text attention.

    tokens: style tokens, 1 n d for all clips, or b n d. scales: a text b m d -> its scales b L, one for each layer;
    None is 0 for all. weight: 0 is without style. Branches of the positive conditioning have the style; all others are
    computed as without this adapter.
    """

    owner = NAME

    def __init__(
        self,
        projections: StyleProjections,
        tokens: Tensor,
        scales: Callable[[Tensor], Tensor] | None = None,
        weight: float = 1.0,
    ) -> None:
        self.projections, self.tokens, self.scales, self.weight = projections, tokens, scales, weight
        self.kept: dict[tuple[Any, ...], tuple[Tensor, Tensor]] = {}
        self.text: Tensor | None = None  # of the attention that runs

    def uses(self, site: Site, at: Place) -> bool:
        wanted = at.attention == "text" and self.weight != 0 and self.tokens.shape[1] > 0
        return wanted and _name(at) in self.projections.order and any(self._styled(at))

    def attention_inputs(self, at: Place, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        self.text = k
        return q, k, v

    def attention(
        self, at: Place, attend: Attend, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        h, styled = attend(q, k, v, mask), self._styled(at)
        rows = self._rows_of_branch(at)
        if at.part is not None:  # frames of one clip
            index, inside = divmod(at.part.start, rows)
            tokens = self.tokens if len(self.tokens) == 1 else self.tokens[inside // at.frames][None]
            return h + self._style(at, q, tokens, self._scale(at, len(q))) if styled[index] else h
        assert self.text is not None
        texts = self.text.chunk(len(styled))
        parts = list(h.split(rows))
        for index, (acts, queries, text) in enumerate(zip(styled, q.split(rows), texts, strict=True)):
            if acts:
                self.text = text
                parts[index] = parts[index] + self._style(at, queries, self.tokens, self._scale(at, rows))
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def _styled(self, at: Place) -> list[bool]:
        """Whether each branch of the pass has the style."""
        return [branch.conditioning == POSITIVE.conditioning for branch in at.evaluation.branches]

    def _rows_of_branch(self, at: Place) -> int:
        return at.clips * at.frames // len(at.evaluation.branches)

    def _scale(self, at: Place, rows: int) -> Tensor | float:
        """weight * (1 + scale) of the current text in this layer: rows 1 1."""
        if self.scales is None:
            return self.weight
        text = self.text
        assert text is not None
        key = (text.data_ptr(), text.shape, text.stride(), text.dtype)
        if key not in self.kept:
            if len(self.kept) >= KEPT_TEXTS:
                self.kept.clear()
            self.kept[key] = (text, self.scales(text))  # with the text, so that no other can have its address
        scale = self.kept[key][1][:, self.projections.order[_name(at)]]
        return self.weight * (1 + scale).repeat_interleave(rows // len(scale)).view(-1, 1, 1)

    def _style(self, at: Place, q: Tensor, tokens: Tensor, factor: Tensor | float) -> Tensor:
        """Queries (b f) n c, style tokens b m d -> (b f) n c"""
        layers: Any = self.projections[_name(at)]
        tokens = tokens.to(q)
        per_clip = q.reshape(len(tokens), -1, q.shape[-1])
        found = sdpa_attention(per_clip, layers.to_k_style(tokens), layers.to_v_style(tokens), at.heads)
        normed: Tensor = layers.norm_style(found.reshape(q.shape))
        return normed * (factor.to(normed) if isinstance(factor, Tensor) else factor)


class WithoutTime(Adapter):
    """Leaves out all transformers over frames, the one behind the first convolution included: the network of still
    images that StyleCrafter samples images with. Raises UserError for a clip of more than one frame."""

    owner = NAME

    def temporal_transformer(self, at: Place, transformer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        if at.frames != 1:
            raise UserError(
                f"The clip has {at.frames} frames, but StyleCrafter's image mode makes one image. Set frames to 1, or "
                "mode to video."
            )
        return x


def text_attentions(spec: UNetSpec) -> list[tuple[str, int]]:
    """The text attentions of a network: the names of their style layers, and their widths, in the order of the
    encoder, the middle and the decoder."""
    last, found, index = len(spec.channel_mult) - 1, [], 0
    for level, mult in enumerate(spec.channel_mult):
        for _ in range(spec.num_res_blocks):
            index += 1
            if level in spec.attention_levels:
                found.append((f"input_blocks.{index}.1", mult))
        index += level != last
    found.append(("middle_block.1", spec.channel_mult[-1]))
    each = spec.num_res_blocks + 1
    for place, level in enumerate(reversed(range(last + 1))):
        if level in spec.attention_levels:
            found += [(f"output_blocks.{place * each + i}.1", spec.channel_mult[level]) for i in range(each)]
    return [
        (_layer_name(f"{block}.transformer_blocks.{depth}"), mult * spec.model_channels)
        for block, mult in found
        for depth in range(spec.transformer_depth)
    ]


def _layer_name(block: str) -> str:
    """The published name of the style layers of a transformer block."""
    return block.replace(".", "_") + ENDING


def _name(at: Place) -> str:
    return _layer_name(at.transformer)
