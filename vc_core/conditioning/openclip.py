"""All access to open_clip: imported when first used, never asked to download, behaving alike in every release.

Releases differ in whether a block takes tokens as `b n d` or as `n b d`, so blocks are run here, one by one, each with
the order that its own attention states. Modules are created where their weights will be: on `meta` they cost nothing.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UserError

Device = torch.device | str | None


def open_clip(module: str = "open_clip") -> Any:
    """The package, or one of its modules. Raises UserError, with the cure, when it cannot be imported."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            f"open_clip is needed to encode prompts and images but cannot be imported ({error}). "
            "Install it with: python -m pip install 'open_clip_torch>=2.24'"
        ) from error


def on(device: Device) -> AbstractContextManager[Any]:
    """Modules made inside are on this device; None is torch's own choice."""
    return nullcontext() if device is None else torch.device(device)


def run_blocks(blocks: Iterable[nn.Module], x: Tensor, mask: Tensor | None = None) -> Tensor:
    """The transformer's blocks in turn on tokens b n d; `mask`, n n, is added to the attention's logits."""
    for block in blocks:
        attention: Any = block.attn
        if attention.batch_first:
            x = block(x, attn_mask=mask)
        else:
            x = block(x.transpose(0, 1), attn_mask=mask).transpose(0, 1)
    return x


class TextTensors(nn.Module):
    """The tensors of OpenCLIP's text tower outside the transformer, by its names, initialised as in CLIP
    (arXiv:2103.00020). The text encoder uses them; published image encoders contain them unused."""

    def __init__(self, vocab_size: int, context_length: int, width: int, embed_dim: int) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(vocab_size, width)
        self.positional_embedding = nn.Parameter(torch.empty(context_length, width))
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.empty(width, embed_dim))
        self.logit_scale = nn.Parameter(torch.tensor(100.0).log())
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.positional_embedding, std=0.01)
        nn.init.normal_(self.text_projection, std=width**-0.5)
