"""What core nodes do inside the network: patches, ControlNet residuals, other attention, and Cancel.

Nodes such as FreeU, HyperTile, ToMe or Perturbed-Attention Guidance put functions into `transformer_options`. ComfyUI's
own UNet calls them at certain places; here the same functions are called at the same places of ours. Tensors are
`(b f) c h w` and `(b f) n d`: to a patch, frames are pictures of a batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.model_management
import torch
from comfy.ldm.modules.attention import optimized_attention
from torch import Tensor

from ...vc_core.network.attentions import CrossAttention, Projections, SelfAttention
from ...vc_core.network.hooks import Hooks, Stage

ATTENTION_PRECISION = torch.float32
"""For backends that hold the logits: in half precision those of this family overflow."""

TICK = "videocrafter_tick"
"""Where our sampler node puts a function that is called between blocks, for its animated previews."""


def host_attention(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    """The attention that the user has chosen for ComfyUI. b n (heads d) -> b n (heads d)"""
    out: Tensor = optimized_attention(q, k, v, heads, mask=mask, attn_precision=ATTENTION_PRECISION)
    return out


class PatchHooks(Hooks):
    """One pass of the network: calls the patches in `options`, adds `control`, and lets the user interrupt.

    `call` holds what patches behind the middle block are shown (x, timesteps, context). `width` is the network's
    `model_channels`.
    """

    def __init__(self, options: dict[str, Any], control: Any, *, width: int, call: dict[str, Any]) -> None:
        self.options, self.control, self.width, self.call = options, control, width, call
        self.patches: dict[str, list[Any]] = options.get("patches", {})
        self.replacements: dict[str, dict[Any, Any]] = options.get("patches_replace", {})
        self.tick: Callable[[], None] | None = options.get(TICK)
        self.fetch: Callable[[], None] = lambda: None
        """Called before each block: fetches its weights."""
        options["transformer_index"] = -1
        overridden = "optimized_attention_override" in options
        self.attention = self.host_attention if overridden else None
        self.whole = bool(self.patches or self.replacements or overridden)

    def enter(self, stage: Stage, index: int) -> None:
        if not torch.compiler.is_compiling():  # a compiled network stays one graph, and is interrupted between steps
            comfy.model_management.throw_exception_if_processing_interrupted()
            if self.tick is not None:
                self.tick()
        self.fetch()
        self.options["block"] = (stage, index)
        self.options["block_index"] = -1

    def embedding(self, emb: Tensor) -> Tensor:
        for patch in self.patches.get("emb_patch", ()):
            emb = patch(emb, self.width, self.options)
        self.call["emb"] = emb
        return emb

    def after_input(self, h: Tensor) -> tuple[Tensor, Tensor]:
        h = self._with_control(h, "input")
        for patch in self.patches.get("input_block_patch", ()):
            h = patch(h, self.options)
        skip = h
        for patch in self.patches.get("input_block_patch_after_skip", ()):
            h = patch(h, self.options)
        return h, skip

    def after_middle(self, h: Tensor) -> Tensor:
        h = self._with_control(h, "middle")
        for patch in self.patches.get("middle_block_after_patch", ()):
            h = patch({**self.call, "h": h, "y": None, "transformer_options": self.options})["h"]
        return h

    def before_output(self, h: Tensor, skip: Tensor) -> tuple[Tensor, Tensor]:
        skip = self._with_control(skip, "output")
        for patch in self.patches.get("output_block_patch", ()):
            h, skip = patch(h, skip, self.options)
        return h, skip

    def self_attention(self, attention: SelfAttention, x: Tensor) -> Tensor:
        self.options["block_index"] += 1
        self.options["transformer_index"] += 1
        extra = self._extra(attention)
        context = value = x
        for patch in self.patches.get("attn1_patch", ()):
            x, context, value = patch(x, context, value, extra)
        q, k, v = attention.to_q(x), attention.to_k(context), attention.to_v(value)
        out = attention.to_out(self._attend("attn1", q, k, v, extra))
        for patch in self.patches.get("attn1_output_patch", ()):
            out = patch(out, extra)
        return out

    def between_attentions(self, x: Tensor) -> Tensor:
        for patch in self.patches.get("middle_patch", ()):
            x = patch(x, self.options)
        return x

    def cross_attention(self, attention: CrossAttention, x: Tensor, text: Tensor, image: Tensor | None) -> Tensor:
        if not self._patches_cross_attention():
            q = attention.to_q(x)
            out = self._rows(attention, q, attention.to_k(text), attention.to_v(text))
            return attention.to_out(attention.add_image(out, q, image, attention=self.attention))
        extra = self._extra(attention)
        context = value = text.repeat_interleave(x.shape[0] // text.shape[0], dim=0)  # (b f) n d, as patches know it
        for patch in self.patches.get("attn2_patch", ()):
            x, context, value = patch(x, context, value, extra)
        q = attention.to_q(x)
        out = self._attend("attn2", q, attention.to_k(context), attention.to_v(value), extra)
        out = attention.to_out(attention.add_image(out, q, image, attention=self.attention))
        for patch in self.patches.get("attn2_output_patch", ()):
            out = patch(out, extra)
        return out

    def _patches_cross_attention(self) -> bool:
        return any(name in self.patches for name in ("attn2_patch", "attn2_output_patch")) or bool(
            self.replacements.get("attn2")
        )

    def _attend(self, name: str, q: Tensor, k: Tensor, v: Tensor, extra: dict[str, Any]) -> Tensor:
        """Attention by what replaces it in this block, or by ComfyUI's own."""
        replacements = self.replacements.get(name, {})
        block = (*self.options["block"], self.options["block_index"])
        replacement = replacements.get(block, replacements.get(self.options["block"]))
        if replacement is not None:
            return replacement(q, k, v, extra)
        return self.host_attention(q, k, v, extra["n_heads"])

    def host_attention(self, q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
        """ComfyUI's attention, which asks `options` for one of the model's own."""
        out: Tensor = optimized_attention(
            q, k, v, heads, mask=mask, attn_precision=ATTENTION_PRECISION, transformer_options=self.options
        )
        return out

    def _rows(self, attention: CrossAttention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q (b f) n d over k, v of whole clips: all frames of a clip stand in one row."""
        rows = q.reshape(k.shape[0], -1, q.shape[-1])
        return self.host_attention(rows, k, v, attention.heads).reshape(q.shape)

    def _extra(self, attention: Projections) -> dict[str, Any]:
        """What attention patches are told."""
        told = {key: item for key, item in self.options.items() if key not in ("patches", "patches_replace")}
        weight: Tensor = attention.to_q.get_parameter("weight")
        return {
            **told,
            "n_heads": attention.heads,
            "dim_head": weight.shape[0] // attention.heads,
            "attn_precision": ATTENTION_PRECISION,
        }

    def _with_control(self, h: Tensor, place: str) -> Tensor:
        residuals = (self.control or {}).get(place)
        residual = residuals.pop() if residuals else None
        return h if residual is None else h + residual.to(h)
