"""The words of storybook captions among the tokenizer's 49408 tokens.

Only the embeddings of tokens that occur can learn, so training keeps a table of those alone, with one row for all
others, which now and then replaces a word of a caption. `spread` writes the table in full size.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vc_core.conditioning.tokenizer import END, PADDING, START, tokenize
from worlds.storybook.captions import words


class Vocabulary:
    """Captions <-> rows of the small table; the last row is that of unknown words."""

    def __init__(self, vocab_size: int, context_length: int) -> None:
        self.context_length = context_length
        tokens = {word: [int(t) for t in tokenize(word, context_length)[0] if t not in (PADDING, START, END)]
                  for word in words()}  # fmt: skip
        known = sorted({START, END, PADDING} | {token for several in tokens.values() for token in several})
        self.table = torch.full((vocab_size,), len(known), dtype=torch.int64)
        self.table[torch.tensor(known)] = torch.arange(len(known))
        place = {token: row for row, token in enumerate(known)}
        self.start, self.end, self.padding = place[START], place[END], place[PADDING]
        self.unknown = len(known)
        self.of_word = {word: [place[token] for token in several] for word, several in tokens.items()}

    @property
    def size(self) -> int:
        """Rows of the small table."""
        return self.unknown + 1

    def rows(self, captions: Sequence[str]) -> npt.NDArray[np.uint8]:
        """n context_length; the same as the tokenizer's numbers through `table`."""
        found = np.full((len(captions), self.context_length), self.padding, dtype=np.uint8)
        for line, text in zip(found, captions, strict=True):
            row = [self.start]
            for word in text.replace(",", " , ").split():
                row += self.of_word.get(word, [self.unknown])
            row = [*row[: self.context_length - 1], self.end]
            line[: len(row)] = row
        return found

    def spread(self, table: Tensor) -> Tensor:
        """The embedding of the whole vocabulary, from the small table."""
        return table[self.table.to(table.device)]
