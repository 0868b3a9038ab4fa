"""Prompts as tokens."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from golden_cases import cases, load
from vc_core.conditioning import tokenize
from vc_core.errors import UserError

START, END = 49406, 49407
ROOT = Path(__file__).parents[2]


@pytest.mark.golden
@pytest.mark.parametrize("path", cases("text_encoder"), ids=lambda path: path.stem)
def test_golden_tokens(path: Path) -> None:
    info, _, t = load(path)
    assert info["calls"]
    for call in info["calls"]:
        ours = tokenize(info["prompts"], info["config"]["context_length"])
        assert torch.equal(ours, t[f"{call['name']}/in/tokens"]), call["name"]


def test_empty_prompt_is_start_end_and_zeros(caplog: pytest.LogCaptureFixture) -> None:
    tokens = tokenize(["", " \n\t "])
    assert tokens.dtype == torch.int64
    assert tokens.shape == (2, 77)
    assert tokens[:, :2].tolist() == [[START, END]] * 2
    assert not tokens[:, 2:].any()
    assert not caplog.records


def test_single_string_is_one_prompt() -> None:
    assert torch.equal(tokenize("a boat"), tokenize(["a boat"]))


def test_last_prompt_that_fits_is_not_cut(caplog: pytest.LogCaptureFixture) -> None:
    tokens = tokenize(["boat " * 75])
    assert tokens[0, -1] == END
    assert len(set(tokens[0, 1:-1].tolist())) == 1
    assert not caplog.records


def test_first_prompt_that_does_not_fit_is_cut_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        tokens = tokenize(["a cat", "boat " * 75 + "sunset"])
    assert torch.equal(tokens[1:], tokenize(["boat " * 75]))
    (record,) = caplog.records
    assert "76 tokens" in record.message
    assert "reads 75" in record.message
    assert "last 1 are cut" in record.message
    assert "sunset" in record.message


@pytest.mark.parametrize("prompt", ["x" * 10_000, "a boat, " * 1250, "船" * 10_000, "!" * 10_000])
def test_ten_thousand_characters_are_cut(prompt: str, caplog: pytest.LogCaptureFixture) -> None:
    assert len(prompt) == 10_000
    with caplog.at_level(logging.WARNING):
        tokens = tokenize([prompt])
    assert tokens.shape == (1, 77)
    assert tokens[0, 0] == START
    assert tokens[0, -1] == END
    assert "are cut" in caplog.text


def test_shorter_context() -> None:
    tokens = tokenize(["one two three four five six seven"], context_length=5)
    assert tokens.shape == (1, 5)
    assert torch.equal(tokens[0, :4], tokenize(["one two three"])[0, :4])
    assert tokens[0, -1] == END


def test_other_scripts_and_broken_text() -> None:
    assert tokenize(["東京 🎥 café"]).ne(0).sum() > 5
    assert torch.equal(tokenize(["\ud83c\udfa5"]), tokenize(["🎥"]))
    assert torch.equal(tokenize(["boat \ud800"]), tokenize(["boat \ufffd"]))


@pytest.mark.parametrize("prompts", [None, 7, [None], ["a boat", 2.5], {"a": 1}, [["nested"]], b"a boat"])
def test_what_is_not_text_is_refused(prompts: Any) -> None:
    with pytest.raises(UserError, match="should be text, not"):
        tokenize(prompts)


def test_no_prompt_is_refused() -> None:
    with pytest.raises(UserError, match="No prompt"):
        tokenize([])


def run_python(code: str) -> str:
    """Standard output of a fresh interpreter."""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_open_clip_is_imported_only_when_used_and_named_when_missing() -> None:
    code = (
        "import sys, vc_core.conditioning as c, vc_core.specs as s\n"
        "from vc_core.errors import UserError\n"
        "c.build_image_tokens(s.ResamplerSpec(), device='meta')\n"
        "found = [m for m in sys.modules if m.split('.')[0] == 'open_clip']\n"
        "sys.modules['open_clip'] = None\n"
        "for use in (lambda: c.tokenize(['a boat']), lambda: c.TextEncoder(s.TextEncoderSpec(), device='meta'),\n"
        "            lambda: c.ImageEncoder(s.ImageEncoderSpec(), device='meta')):\n"
        "    try:\n"
        "        use()\n"
        "    except UserError as error:\n"
        "        found.append('pip install' in str(error))\n"
        "sys.stdout.write(str(found))"
    )
    assert run_python(code) == "[True, True, True]"
