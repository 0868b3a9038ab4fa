"""`tests/defects.md` names every defect that was found, and tests that are there."""

from __future__ import annotations

import re

import pytest

from comfyui.base import ROOT

DOCUMENT = (ROOT / "tests" / "defects.md").read_text(encoding="utf-8")
COUNTS = {"A": 25, "B": 12}


@pytest.mark.parametrize("section", COUNTS)
def test_every_defect_has_its_row(section: str) -> None:
    text = DOCUMENT.split(f"## {section}. ")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (\d+) \| .+ \| `tests/.+` \|$", text, re.MULTILINE)
    assert [int(number) for number in rows] == list(range(1, COUNTS[section] + 1))


@pytest.mark.parametrize("reference", sorted(set(re.findall(r"`(tests/[^`]+::[^`]+)`", DOCUMENT))))
def test_what_is_named_is_there(reference: str) -> None:
    path, _, name = reference.partition("::")
    source = (ROOT / path).read_text(encoding="utf-8")
    assert re.search(rf"^ *def {name}\(", source, re.MULTILINE), reference
