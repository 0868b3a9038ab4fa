"""`docs/compatibility.md` names tests and nodes that are there, and gives a verdict on each."""

from __future__ import annotations

import re

import pytest

from comfyui.base import ROOT
from comfyui.inprocess import Comfy

DOCUMENT = (ROOT / "docs" / "compatibility.md").read_text(encoding="utf-8")
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in DOCUMENT.splitlines()
    if line.startswith("| ") and not line.startswith("| core node")
]


def test_every_row_has_a_verdict_a_note_and_a_test() -> None:
    assert len(ROWS) > 50
    for node, verdict, note, tests in ROWS:
        assert verdict in ("works", "no sense"), node
        assert len(note) > 5, node
        assert tests or verdict == "no sense", f"{node}: no test says that it works"


@pytest.mark.parametrize("reference", sorted(set(re.findall(r"`(tests/[^`]+)`", DOCUMENT))))
def test_what_is_named_is_there(reference: str) -> None:
    path, _, name = reference.partition("::")
    assert (ROOT / path).exists(), path
    if name:
        source = (ROOT / path).read_text(encoding="utf-8")
        assert re.search(rf"^def {name}\(", source, re.MULTILINE), reference


def test_nodes_are_named_as_comfyui_names_them(comfy: Comfy) -> None:
    named = {name for row in ROWS for name in re.findall(r"`([A-Z]\w+)`", row[0])}
    assert len(named) > 60
    assert named <= set(comfy.classes), named - set(comfy.classes)
