"""`docs/compatibility.md` names tests and nodes that are there, and gives a verdict on each."""

from __future__ import annotations

import re

import pytest

from comfyui.base import ROOT
from comfyui.inprocess import Comfy
from comfyui.limits import LIMITS, NODES, has

DOCUMENT = (ROOT / "docs" / "compatibility.md").read_text(encoding="utf-8")
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in DOCUMENT.splitlines()
    if line.startswith("| ") and not line.startswith(("| ComfyUI node", "| missing feature"))
]
LIMITS_ROWS = [row for row in ROWS if len(row) == 2]
ROWS = [row for row in ROWS if len(row) == 4]
KINDS = {"MODEL", "LATENT", "CONDITIONING", "SIGMAS", "GUIDER", "NOISE"}


def test_every_row_has_a_verdict_a_note_and_a_test() -> None:
    assert len(ROWS) > 50
    for node, verdict, note, tests in ROWS:
        assert verdict in ("works", "not applicable", "ComfyUI's limit"), node
        assert len(note) > 5, node
        assert tests or (verdict == "not applicable" and "not run:" in note), f"{node}: no test, and no reason"


@pytest.mark.parametrize("reference", sorted(set(re.findall(r"`(tests/[^`]+)`", DOCUMENT))))
def test_what_is_named_is_there(reference: str) -> None:
    path, _, name = reference.partition("::")
    assert (ROOT / path).exists(), path
    if name:
        source = (ROOT / path).read_text(encoding="utf-8")
        assert re.search(rf"^def {name}\(", source, re.MULTILINE), reference


@pytest.fixture
def documented(comfy: Comfy) -> Comfy:
    """The release that the document is about; others have other nodes."""
    import comfyui_version

    if comfyui_version.__version__ != "0.30.0":
        pytest.skip("the document names the nodes of ComfyUI 0.30.0")
    return comfy


def test_nodes_are_named_as_comfyui_names_them(documented: Comfy) -> None:
    named = {name for row in ROWS for name in re.findall(r"`([A-Z]\w+)`", row[0])}
    assert len(named) > 60
    assert named <= set(documented.classes), named - set(documented.classes)


def test_every_core_node_of_these_types_has_a_verdict(documented: Comfy) -> None:
    named = {name for row in ROWS for name in re.findall(r"`([^`]+)`", row[0])}
    missing = []
    for name, node in documented.classes.items():
        inputs = node.INPUT_TYPES()
        kinds = [spec[0] for group in ("required", "optional") for spec in inputs.get(group, {}).values()]
        taken = {part for kind in kinds if isinstance(kind, str) for part in kind.split(",")} & KINDS
        if taken and not name.startswith("VideoCrafter") and name not in named:
            missing.append(name)
    assert not missing


def test_what_tests_skip_on_an_old_host_is_listed() -> None:
    assert sorted(name for row in LIMITS_ROWS for name in row[0].split(", ")) == sorted(LIMITS)
    tests = "".join(file.read_text(encoding="utf-8") for file in (ROOT / "tests").rglob("test_*.py"))
    asked = set(re.findall(r'skip_without\("([^"]+)"\)', tests))
    assert asked <= set(LIMITS)
    assert set(LIMITS) - set(NODES) <= asked
    assert not [node for node in NODES if f'"{node}"' not in tests]


@pytest.mark.parametrize("node", NODES)
def test_the_host_is_asked_for_a_node_as_it_has_it(comfy: Comfy, node: str) -> None:
    assert has(node) == (node in comfy.classes)
