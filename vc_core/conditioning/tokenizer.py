"""PROMPT -> TOKENS, by CLIP's byte-pair encoding as open_clip has it."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError
from .openclip import open_clip

START, END, PADDING = 49406, 49407, 0
LONGEST = 20_000
"""Characters of a word. The time of byte-pair encoding grows with the square of its length."""

log = logging.getLogger(__name__)


def tokenize(prompts: Sequence[str], context_length: int = 77) -> Tensor:
    """Prompts as tokens, int64 b n: 49406, the words, 49407, then zeros up to `context_length`.

    A single string is one prompt; an empty one is the unconditional prompt. Prompts that are too long are truncated,
    with 49407 as the last token, and a warning is logged. Raises UserError for what is not text, and without open_clip.
    """
    rows = [_row(prompt, context_length) for prompt in _checked(prompts)]
    return torch.tensor([row + [PADDING] * (context_length - len(row)) for row in rows], dtype=torch.int64)


@functools.cache
def _byte_pairs() -> Any:
    return open_clip().SimpleTokenizer()


def _checked(prompts: Any) -> list[str]:
    if isinstance(prompts, str):
        prompts = [prompts]
    if not isinstance(prompts, Sequence):
        raise UserError(f"A prompt should be text, not {_what(prompts)}. An empty prompt is written ''.")
    if not prompts:
        raise UserError("No prompt was given. An empty prompt is written ''.")
    for prompt in prompts:
        if not isinstance(prompt, str):
            raise UserError(f"A prompt should be text, not {_what(prompt)}. An empty prompt is written ''.")
    return list(prompts)


def _what(value: Any) -> str:
    return "None" if value is None else f"{type(value).__name__} ({str(value)[:40]})"


def _row(prompt: str, context_length: int) -> list[int]:
    tokenizer = _byte_pairs()
    words: list[int] = tokenizer.encode(checked_text(prompt))
    room = context_length - 2
    if len(words) > room:
        log.warning(
            "The prompt has %d tokens and the model reads %d: the last %d are cut, from %r on. Shorten the prompt.",
            len(words),
            room,
            len(words) - room,
            tokenizer.decode(words[room : room + 8]).strip(),
        )
    return [START, *words[:room], END]


def checked_text(prompt: str) -> str:
    """A prompt of whole characters. Raises UserError for a word that would take minutes."""
    text = whole_characters(prompt)
    longest = max(map(len, text.split()), default=0)
    if longest > LONGEST:
        raise UserError(
            f"The prompt has a word of {longest} characters, and {LONGEST} are allowed. Give it as text with spaces."
        )
    return text


def whole_characters(text: str) -> str:
    """Pairs of surrogates, which JSON can carry, become their character; single ones the replacement character."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
