"""What ComfyUI's core does inside the network, as adapters: patches, ControlNet residuals, attention overrides, Cancel.

Nodes such as FreeU, HyperTile, ToMe or Perturbed-Attention Guidance put functions into `transformer_options`. ComfyUI's
own UNet calls them at certain sites; here the same functions are called at the same sites of ours. Tensors are
`(b f) c h w` and `(b f) n d`: to a patch, frames are images of a batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.model_management
import torch
from comfy.ldm.modules.attention import optimized_attention
from torch import Tensor

from ...vc_core.network.adapter import Adapter, Attend, Place, Recording, Site
from ...vc_core.network.attention import Attention

ATTENTION_PRECISION = torch.float32
"""For backends that hold the logits: in half precision those of this family overflow."""

TICK = "videocrafter_tick"
"""Where our sampler node puts a function that is called between blocks, for its animated previews."""

NAMES = {"spatial_self": "attn1", "text": "attn2"}
"""ComfyUI's names of the attentions that patches know."""


def host_attention(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    """The attention that the user has chosen for ComfyUI. b n (heads d) -> b n (heads d)"""
    out: Tensor = optimized_attention(q, k, v, heads, mask=mask, attn_precision=ATTENTION_PRECISION)
    return out


class BlockEntry(Adapter):
    """Before each block: lets the user interrupt, updates previews, and fetches the block's weights by `fetch`."""

    def __init__(self, options: dict[str, Any], fetch: Callable[[], None]) -> None:
        self.tick: Callable[[], None] | None = options.get(TICK)
        self.fetch = fetch

    def on_block(self, at: Place) -> None:
        if not torch.compiler.is_compiling():  # a compiled network stays one graph, and is interrupted between steps
            self.notice()
        self.fetch()

    def notice(self) -> None:
        """Raises ComfyUI's own exception where the user has cancelled, and updates previews."""
        comfy.model_management.throw_exception_if_processing_interrupted()
        if self.tick is not None:
            self.tick()


class ControlResiduals(Adapter):
    """Adds the residuals of ControlNets, ComfyUI's `control`, which are used up."""

    def __init__(self, control: dict[str, Any]) -> None:
        self.control = control

    def after_encoder_block(self, at: Place, h: Tensor) -> Tensor:
        return self._added("input", h)

    def after_middle_block(self, at: Place, h: Tensor) -> Tensor:
        return self._added("middle", h)

    def before_decoder_block(self, at: Place, h: Tensor, skip: Tensor) -> tuple[Tensor, Tensor]:
        return h, self._added("output", skip)

    def _added(self, stage: str, h: Tensor) -> Tensor:
        residuals = self.control.get(stage)
        residual = residuals.pop() if residuals else None
        return h if residual is None else h + residual.to(h)


class CorePatches(Adapter):
    """Calls the patches in ComfyUI's `transformer_options`, for one pass.

    `call` holds what patches behind the middle block receive (x, timesteps, context). `width` is the network's
    `model_channels`.
    """

    def __init__(self, options: dict[str, Any], *, width: int, call: dict[str, Any]) -> None:
        self.options, self.width, self.call = options, width, call
        self.patches: dict[str, list[Any]] = options.get("patches", {})
        self.replacements: dict[str, dict[Any, Any]] = options.get("patches_replace", {})
        self.overridden = "optimized_attention_override" in options
        self.whole_frames = bool(self.patches or self.replacements or self.overridden)
        self.extra: dict[str, Any] = {}  # of the attention layer that runs
        options["transformer_index"] = -1
        if not self.whole_frames:
            self.sites, self.recording = frozenset({"on_block"}), Recording.OMITTED

    def uses(self, site: Site, at: Place) -> bool:
        """Patches know spatial attention over pixels and text; an override takes part in every attention."""
        if site in ("around_attention", "attention_inputs", "attention"):
            return at.attention == "spatial_self" or (at.attention == "text" and self._patches_text)
        if site == "before_attention":
            return at.attention == "text"
        return site != "attention_backend" or self.overridden

    @property
    def _patches_text(self) -> bool:
        named = any(name in self.patches for name in ("attn2_patch", "attn2_output_patch"))
        return named or bool(self.replacements.get("attn2"))

    def on_block(self, at: Place) -> None:
        self.options["block"] = (at.stage, at.index)
        self.options["block_index"] = -1

    def on_embedding(self, at: Place, embedding: Tensor) -> Tensor:
        for patch in self.patches.get("emb_patch", ()):
            embedding = patch(embedding, self.width, self.options)
        self.call["emb"] = embedding
        return embedding

    def after_encoder_block(self, at: Place, h: Tensor) -> Tensor:
        for patch in self.patches.get("input_block_patch", ()):
            h = patch(h, self.options)
        return h

    def after_skip(self, at: Place, h: Tensor) -> Tensor:
        for patch in self.patches.get("input_block_patch_after_skip", ()):
            h = patch(h, self.options)
        return h

    def after_middle_block(self, at: Place, h: Tensor) -> Tensor:
        for patch in self.patches.get("middle_block_after_patch", ()):
            h = patch({**self.call, "h": h, "y": None, "transformer_options": self.options})["h"]
        return h

    def before_decoder_block(self, at: Place, h: Tensor, skip: Tensor) -> tuple[Tensor, Tensor]:
        for patch in self.patches.get("output_block_patch", ()):
            h, skip = patch(h, skip, self.options)
        return h, skip

    def before_attention(self, at: Place, x: Tensor) -> Tensor:
        for patch in self.patches.get("middle_patch", ()):
            x = patch(x, self.options)
        return x

    def around_attention(self, at: Place, layer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        if at.attention == "spatial_self":
            self.options["block_index"] += 1
            self.options["transformer_index"] += 1
        self.extra = self._extra(at)
        extra, out = self.extra, layer(x)
        for patch in self.patches.get(f"{self._name(at)}_output_patch", ()):
            out = patch(out, extra)
        return out

    def attention_inputs(self, at: Place, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if len(k) != len(q):
            k = v = k.repeat_interleave(len(q) // len(k), dim=0)  # (b f) n d, as patches know texts
        for patch in self.patches.get(f"{self._name(at)}_patch", ()):
            q, k, v = patch(q, k, v, self.extra)
        return q, k, v

    def attention(
        self, at: Place, attend: Attend, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        replacements = self.replacements.get(self._name(at), {})
        block = (*self.options["block"], self.options["block_index"])
        replacement = replacements.get(block, replacements.get(self.options["block"]))
        if replacement is None:
            return attend(q, k, v, mask)
        out: Tensor = replacement(q, k, v, self.extra)
        return out

    def attention_backend(self, at: Place, function: Attention) -> Attention:
        return self.host_attention

    def host_attention(self, q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
        """ComfyUI's attention, which looks in `options` for one of the model's own."""
        out: Tensor = optimized_attention(
            q, k, v, heads, mask=mask, attn_precision=ATTENTION_PRECISION, transformer_options=self.options
        )
        return out

    @staticmethod
    def _name(at: Place) -> str:
        assert at.attention is not None
        return NAMES[at.attention]

    def _extra(self, at: Place) -> dict[str, Any]:
        """What attention patches receive beside tokens."""
        options = {key: item for key, item in self.options.items() if key not in ("patches", "patches_replace")}
        return {
            **options,
            "n_heads": at.heads,
            "dim_head": at.head_channels,
            "attn_precision": ATTENTION_PRECISION,
        }
