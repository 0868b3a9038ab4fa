"""Any text is a prompt: through the tokenizers and text encoders of vc_core and of the nodes, and over time."""

from __future__ import annotations

from typing import Any

import pytest
import small_models
import torch
from fuzz.fuzzing import fuzzed
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from safetensors.torch import save_file

from comfyui.base import Base
from comfyui.inprocess import Comfy
from vc_core.conditioning.prompts import text_over_time
from vc_core.conditioning.text_encoder import TextEncoder
from vc_core.conditioning.tokenizer import END, START, tokenize, whole_characters

SYNTAX = (
    *("(", ")", "((", "))", ":", ":1.3)", ":-2)", ":nan)", ":1e400)", ":-inf)", ":1e30)", ":,)", "\\(", "\\)", "()"),
    *("[", "]", "[a:b:0.5]", "{a|b}", "<lora:x:1>", "BREAK", " AND ", "--neg", "<start_of_text>", "<|endoftext|>"),
    *(" embedding:", "embedding:", " embedding:some", " embedding:wide", " embedding:one,", " embedding:../some"),
    *(" embedding:none", "embedding:some<x>", " embedding:C:\\x", "&amp;", "&#0;", "&#x110000;", "%s", "{0}", "\\"),
)
"""Pieces of the syntax for weights and embeddings, and of that of other programs."""
LETTERS = (
    *("\ud83d\ude00", "\ud83d", "\ude00", "\0", "\x1b[0m", "\x85", "\u2028", "\ufeff", "\ufffe", "\u200b", "\u200d"),
    *("\u202e", "\u0645\u0631", "a\u0301\u0323", "\u0301", "\U0001f469\u200d\U0001f680", "\U0001f1e9\U0001f1ea"),
    *("\u0130", "\u00df", "\ufb01", "\u8239", "\U0010ffff", "\xc3\xa9", "\xe2\x80\x99", "\r\n", "\t", " " * 200),
    *("a" * 400, "boat " * 100, "\u8239" * 300, "(" * 150 + ")" * 150, "(" * 1200 + ")" * 1200, "a" * 6000),
)
"""Letters that encodings, cleaning or regular expressions may get wrong; and much of something."""


def prompts() -> SearchStrategy[str]:
    """Texts of any code points, single surrogates and NUL among them, with pieces of syntax."""
    letters = st.characters()
    piece = st.one_of(
        st.sampled_from(SYNTAX),
        st.sampled_from(LETTERS),
        st.sampled_from(("a boat", " ")),
        st.text(letters, max_size=8),
    )
    return st.lists(piece, max_size=8).map("".join)


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    torch.manual_seed(0)
    return TextEncoder(small_models.TEXT_MODEL.text_encoder)


@fuzzed(st.tuples(st.lists(prompts(), min_size=1, max_size=5), st.integers(1, 40)), examples=60, seconds=10)
def test_prompts_become_tokens_and_conditionings(case: tuple[list[str], int], encoder: TextEncoder) -> None:
    texts, frames = case
    for text in texts:
        whole = whole_characters(text)
        assert whole_characters(whole) == whole
        whole.encode()
    tokens = tokenize(texts)
    assert tokens.shape == (len(texts), 77)
    assert bool((tokens[:, 0] == START).all())
    assert bool((tokens == END).any(1).all())
    with torch.inference_mode():
        encoded = encoder.encode(tokens)
        over_time = text_over_time(encoded, frames)
    assert over_time.shape == (1, frames, *encoded.shape[1:])
    assert bool(over_time.isfinite().all())
    if len(texts) == 1:
        assert torch.equal(over_time[0], encoded.expand(frames, -1, -1))


@pytest.fixture(scope="module")
def clip(comfy: Comfy, base: Base) -> Any:
    """The text encoder of a small model, with embeddings of its width and of another."""
    file = small_models.save(small_models.TEXT_MODEL, base.model("checkpoints", "prompts.safetensors"))
    for name, shape in {"some": (2, 48), "one": (48,), "wide": (2, 768)}.items():
        save_file({"emb_params": torch.full(shape, 0.1)}, base.model("embeddings", f"{name}.safetensors"))
    loaded = comfy.call("VideoCrafterCheckpointLoader", ckpt_name=file.name, weight_dtype="fp32").values[1]
    comfy.call("CLIPTextEncode", clip=loaded, text="(a boat:1.2) embedding:some")
    return loaded


@fuzzed(prompts(), examples=25, seconds=10)
def test_prompts_are_encoded_by_the_node(case: str, comfy: Comfy, clip: Any) -> None:
    ((text, _),) = comfy.call("CLIPTextEncode", clip=clip, text=case).values[0]
    assert text.shape == (1, 77, 48)
    assert bool(text.isfinite().all())
