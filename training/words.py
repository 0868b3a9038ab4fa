"""A reduced vocabulary: the few tokens of the world's captions among the tokenizer's 49408.

Only embeddings of tokens that occur can be trained. So training uses a table with these, and one row for all unknown
words, which occasionally replaces a random word of a caption. `spread` expands the table to the full vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from vc_core.conditioning.tokenizer import tokenize
from worlds.shapes.captions import caption
from worlds.shapes.world import random_scene

CAPTIONS_READ = 4000
UNKNOWN_SHARE = 0.01


class Words:
    """Maps token ids to rows of the reduced table; the last row is for unknown words."""

    def __init__(self, vocab_size: int, context_length: int) -> None:
        rng = np.random.default_rng(0)
        texts = [caption(random_scene(rng, unseen=i % 2 == 1), rng) for i in range(CAPTIONS_READ)]
        self.known = tokenize(["", *sorted(set(texts))], context_length).unique()
        self.context_length = context_length
        self.rows = torch.full((vocab_size,), len(self.known), dtype=torch.int64)
        self.rows[self.known] = torch.arange(len(self.known))

    @property
    def size(self) -> int:
        return len(self.known) + 1

    def read(self, texts: Sequence[str], rng: np.random.Generator | None = None) -> Tensor:
        """Rows b n of texts; with `rng`, a few words are replaced by the unknown word."""
        rows = self.rows[tokenize(list(texts), self.context_length)]
        if rng is not None:
            hidden = torch.from_numpy(rng.random(rows.shape) < UNKNOWN_SHARE)
            words = torch.arange(self.context_length) < (rows != self.rows[0]).sum(1, keepdim=True) - 1
            words[:, 0] = False
            rows = rows.masked_fill(hidden & words, len(self.known))
        return rows

    def spread(self, table: Tensor) -> Tensor:
        """Expands the reduced table to the full vocabulary."""
        return table[self.rows]

    def reduced(self, table: Tensor) -> Tensor:
        """The reduced table of a full vocabulary that `spread` has made."""
        unknown = int((self.rows == len(self.known)).nonzero()[0])
        return torch.cat([table[self.known], table[unknown : unknown + 1]])
