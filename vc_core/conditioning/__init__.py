"""PROMPT, IMAGE -> CONDITIONING. open_clip is imported when a tokenizer or an encoder is used, not here."""

from __future__ import annotations

from .image_encoder import ImageEncoder, preprocess
from .image_tokens import (
    LinearTokens,
    Resampler,
    build_image_tokens,
    tokens_for_clip,
    tokens_for_frames,
    tokens_of_images,
)
from .prompts import text_over_time
from .text_encoder import TextEncoder
from .tokenizer import tokenize

__all__ = [
    "ImageEncoder",
    "LinearTokens",
    "Resampler",
    "TextEncoder",
    "build_image_tokens",
    "preprocess",
    "text_over_time",
    "tokenize",
    "tokens_for_clip",
    "tokens_for_frames",
    "tokens_of_images",
]
