"""Lays out workflows: in each group the nodes below each other, every node as high as the page draws it.

    PYTHONPATH=.:tests .venv/bin/python tests/workflows/arrange.py [NAME ...]

Without names all of them, and then the blueprints of `subgraphs/` with the heights found.

Which node is in which group, and the columns, stay as they are; heights are those of the classic nodes or of Nodes 2.0,
whichever is larger. Needs a browser, as tests/browser does. Run it after a node has got a widget, and look at it.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import stand_ins
from browser.canvas import Canvas, opened

from comfyui.base import ROOT, make_base
from comfyui.server import Server

TITLE = 30
FIRST, GAP, BOTTOM, BETWEEN = 80, TITLE + 26, 24, 30
"""Pixels of the canvas: from a group's edge to its first node, from node to node, below the last, between groups."""
NOTE_LINE, NOTE_CHARACTERS, NOTE_EDGE = 21, 72, 50
LINE = 120
HEIGHTS = "() => Object.fromEntries(app.graph._nodes.map(n => [n.id, Math.max(n.size[1], n.computeSize()[1])]))"


def main(names: list[str]) -> int:
    with tempfile.TemporaryDirectory() as folder:
        base = make_base(Path(folder))
        stand_ins.put(base)
        with Server(base) as server:
            workflows = {name: stand_ins.load(name) for name in names or [file.stem for file in stand_ins.FILES]}
            with opened(server.url) as canvas:
                for modern in (False, True):
                    canvas.modern(modern)
                    for name, workflow in workflows.items():
                        grow(workflow, heights(canvas, name))
            for name, workflow in workflows.items():
                arrange(workflow)
                save(stand_ins.FOLDER / f"{name}.json", workflow)
    if not names:
        arrange_blueprints(list(workflows.values()))
    return 0


def arrange_blueprints(workflows: list[dict[str, Any]]) -> None:
    """The graphs inside the blueprints: no page draws them before they are unfolded, so heights are those elsewhere."""
    known: dict[str, float] = {}
    for node in (node for workflow in workflows for node in workflow["nodes"]):
        known[node["type"]] = min(node["size"][1], known.get(node["type"], node["size"][1]))
    for file in sorted((ROOT / "subgraphs").glob("*.json")):
        blueprint = json.loads(file.read_text(encoding="utf-8"))
        for graph in blueprint["definitions"]["subgraphs"]:
            for node in graph["nodes"]:
                node["size"][1] = max(node["size"][1], known.get(node["type"], 0))
            arrange(graph)
        save(file, blueprint)


def heights(canvas: Canvas, name: str) -> Mapping[str, float]:
    """Node id -> how high the page draws it."""
    canvas.drop(stand_ins.FOLDER / f"{name}.json")
    found: dict[str, float] = canvas.page.evaluate(HEIGHTS)
    return found


def grow(workflow: dict[str, Any], wanted: Mapping[str, float]) -> None:
    """Makes each node at least as high as it is drawn."""
    for node in workflow["nodes"]:
        node["size"][1] = max(node["size"][1], round(wanted[str(node["id"])]))


def arrange(workflow: dict[str, Any]) -> None:
    """Stacks the nodes of each group, and the groups of each column."""
    members = {group["id"]: inside(workflow, group) for group in workflow["groups"]}
    below: dict[float, float] = {}
    for group in sorted(workflow["groups"], key=lambda group: (group["bounding"][0], group["bounding"][1])):
        left, _, width, _ = group["bounding"]
        top = below.get(left, 0)
        y = top + FIRST
        for node in members[group["id"]]:
            node["pos"][1] = y
            y += node["size"][1] + GAP
        height = y - GAP + BOTTOM - top
        group["bounding"] = [left, top, width, height]
        below[left] = top + height + BETWEEN
    for note in stand_ins.nodes_of(workflow, "MarkdownNote"):
        note["size"][1] = note_height(note["widgets_values"][0])


def inside(workflow: dict[str, Any], group: dict[str, Any]) -> list[dict[str, Any]]:
    """The nodes whose upper left corner lies in the group, from the top down."""
    left, top, width, height = group["bounding"]
    found = [
        node
        for node in workflow["nodes"]
        if left <= node["pos"][0] < left + width and top <= node["pos"][1] < top + height
    ]
    return sorted(found, key=lambda node: node["pos"][1])


def note_height(text: str) -> int:
    """Room for a note's lines, which the page draws in a font of its own."""
    seen = re.sub(r"\]\([^)]*\)", "", text)  # a link shows its name, not its address
    lines = sum(1 + len(line) // NOTE_CHARACTERS for line in seen.splitlines() if line)
    return NOTE_EDGE + NOTE_LINE * lines


def save(file: Path, workflow: dict[str, Any]) -> None:
    file.write_text(written(workflow) + "\n", encoding="utf-8")


def written(value: Any, depth: int = 0, used: int = 0) -> str:
    """JSON that is read and compared by people: what fits on a line is on one, and so are lists of plain values."""
    flat = json.dumps(value, ensure_ascii=False)
    nested = isinstance(value, dict | list) and value
    plain = isinstance(value, list) and not any(isinstance(item, dict | list) for item in value)
    if not nested or plain or (depth and 2 * depth + used + len(flat) <= LINE):
        return flat
    pad = "  " * (depth + 1)
    if isinstance(value, dict):
        names = [(f"{json.dumps(key)}: ", item) for key, item in value.items()]
        inner = [f"{pad}{name}{written(item, depth + 1, len(name) + 1)}" for name, item in names]
        return "{\n" + ",\n".join(inner) + "\n" + "  " * depth + "}"
    inner = [pad + written(item, depth + 1, 1) for item in value]
    return "[\n" + ",\n".join(inner) + "\n" + "  " * depth + "]"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
