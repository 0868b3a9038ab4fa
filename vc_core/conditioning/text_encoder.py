"""TOKENS -> TEXT CONDITIONING: the text tower of an OpenCLIP model (arXiv:2103.00020, arXiv:2212.07143)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UserError
from ..network.attention import causal_mask
from ..specs import TextEncoderSpec
from .openclip import Device, TextTensors, on, open_clip, run_blocks
from .tokenizer import tokenize


class TextEncoder(nn.Module):
    """Names in the state dict are those under `cond_stage_model.` in published files; the last block, the projection
    and the logit scale are among them, though nothing uses them."""

    def __init__(self, spec: TextEncoderSpec, *, device: Device = None, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.spec = spec
        with on(device):
            self.model = TextTower(spec)
        self.to(dtype=dtype)

    def forward(self, prompts: Sequence[str]) -> Tensor:
        """b n d of b prompts, n being the spec's context length. Raises UserError for what is not text."""
        return self.encode(tokenize(prompts, self.spec.context_length))

    def encode(self, tokens: Tensor, *, skip: int = 1) -> Tensor:
        """Tokens b n -> b n d, after the final norm, without the last `skip` blocks (the models were trained with 1).

        Attention is causal; padding is not masked, so it has an effect. Raises UserError when there
        are more tokens than positions, or one outside the vocabulary.
        """
        spec, model = self.spec, self.model
        if tokens.shape[1] > spec.context_length:
            raise UserError(f"{tokens.shape[1]} tokens were given; this encoder takes up to {spec.context_length}.")
        if not 0 <= int(tokens.min()) <= int(tokens.max()) < spec.vocab_size:
            raise UserError(
                f"A token is {int(tokens.min())} or {int(tokens.max())}, but this text encoder has 0 to "
                f"{spec.vocab_size - 1}. Use the tokenizer that it was trained with."
            )
        positions = model.positional_embedding[: tokens.shape[1]]
        x = model.token_embedding(tokens.to(positions.device)) + positions
        blocks: Any = model.transformer.resblocks
        x = run_blocks(blocks[: len(blocks) - skip], x, causal_mask(tokens.shape[1], like=x))
        out: Tensor = model.ln_final(x)
        return out


class TextTower(TextTensors):
    """The tensors outside the transformer, and the transformer."""

    def __init__(self, spec: TextEncoderSpec) -> None:
        super().__init__(spec.vocab_size, spec.context_length, spec.width, spec.embed_dim)
        transformer: type[nn.Module] = open_clip("open_clip.transformer").Transformer
        self.transformer = transformer(width=spec.width, layers=spec.layers, heads=spec.heads)
