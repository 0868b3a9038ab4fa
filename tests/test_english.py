"""Words and phrases that make a native reader stop, in code, messages, tooltips, help pages and docs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from run import ROOT

REPLACEMENTS = {
    r"told": "given, set, called with; conditioning",
    r"tells? apart|telling apart": "distinguish",
    r"learnt": "learned",
    r"anew": "again",
    r"in the box": "bundled",
    r"(?:goes|go|going) (?:well )?(?:together|with)": "works with; is (not) supported with",
    r"(?:the|which|what) ways? (?:of|to)|ways? to (?:long|longer)": "how to; method",
    r"parted": "split, separated",
    r"by (?:itself|themselves)": "alone, on its own; automatically",
    r"lets? (?:it |them |us |you )?see": "show",
    r"for ever": "forever",
    r"so many (?:\w+ )?(?:frames|times|bytes|seconds|minutes|texts|steps)": "this many; the number of",
    r"in (?:its|their) turn": "then",
    r"stands? (?:beside|under|above|behind|there|where)": "is next to, is part of",
    r"(?:does|do|did) not go": "is not supported",
    r"of (?:its|their) own accord": "automatically",
    r"on the way": "in between; meanwhile",
}
"""Pattern -> what to write instead."""

FOR_USERS = {r"pictures?": "image"}
"""The same for texts outside of the code."""

NAMES = (
    *("picture_only", "Between two pictures", "Loop from a picture", "example_picture"),
    *("--picture", "--end-picture", r"(?<=[*`])pictures(?=[*`])"),
)
"""Ids of saved workflows, names of files, options of the command line and stages of a training, which stay."""

CODE = re.compile(r"```.*?```|`[^`]*`", re.DOTALL)
"""In Markdown: commands, options, ids and names of files."""

PLACES = (
    *("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs", "web", "locales/en", "workflows", "subgraphs"),
    *("nodes", "vc_core", "benchmarks", "evaluation", "training", "worlds", "run.py"),
)
KINDS = {".py", ".md", ".json", ".js"}

RESULTS = "benchmarks/results"
"""Stored results keep the words of the run that wrote them."""


def files() -> Iterator[Path]:
    for place in PLACES:
        found = [ROOT / place] if (ROOT / place).is_file() else sorted((ROOT / place).rglob("*"))
        for path in found:
            name = path.relative_to(ROOT).as_posix()
            if path.suffix in KINDS and not name.startswith(RESULTS):
                yield path


def odd_phrases(text: str, rules: Mapping[str, str] = REPLACEMENTS) -> Iterator[str]:
    """The odd phrases in a text, which may be names in code, each with its line and what to write instead."""
    for pattern, better in rules.items():
        for match in re.finditer(rf"(?<![A-Za-z])(?:{pattern})(?![A-Za-z])".replace(" ", r"\s+"), text, re.IGNORECASE):
            line = text.count("\n", 0, match.start()) + 1
            yield f"line {line}: {' '.join(match[0].split())!r}; better: {better}"


@pytest.mark.parametrize("path", files(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_odd_phrases(path: Path):
    text = path.read_text(encoding="utf-8")
    assert list(odd_phrases(text)) == []
    if path.suffix != ".py":
        prose = CODE.sub("", text) if path.suffix == ".md" else text
        assert list(odd_phrases(re.sub("|".join(NAMES), "", prose), FOR_USERS)) == []


@pytest.mark.parametrize(
    "text", ["def told(x):", "x_told = 1", "What goes\ntogether", "It starts ANEW.", "ways to long clips"]
)
def test_odd_phrases_are_found(text: str):
    assert len(list(odd_phrases(text))) == 1


@pytest.mark.parametrize("text", ["retold", "a newer version", "as it was given", "the way the network reads it"])
def test_other_phrases_are_allowed(text: str):
    assert list(odd_phrases(text)) == []
