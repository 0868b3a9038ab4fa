"""Lays out workflows: columns of notes and groups, in each group the nodes below each other, as high as the page draws
them, with room for previews and for the video.

    PYTHONPATH=.:tests .venv/bin/python tests/workflows/arrange.py [NAME ...]

Without names all of them, and then the blueprints of `subgraphs/` with the heights found.

Which node is in which group, and which group in which column, stays as it is. Heights are those of the classic nodes
or of Nodes 2.0, whichever is larger. The page fits a template to its window, and draws no text when that makes it
small: `test_files.py` holds the graphs to a size. Needs a browser, as tests/browser does. Run it after a node has got
a widget, and look at it.
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

TITLE, BADGE, AIR = 30, 14, 10
"""Pixels of the canvas: a node's title, the name of its pack above that, and what is left free above both."""
HEADING, EDGE, BETWEEN = 28, 14, 20
"""The heading of a group, its other edges, and from group to group below each other."""
FEW_COLUMNS, WIDE, NARROW, ALLEY = 4, 326, 300, 28
"""Up to so many columns the nodes are wide, otherwise narrow; between two columns there is an alley for the links."""
ROOM = {
    "VideoCrafterKSampler": 220,
    "KSampler": 220,
    "VideoCrafterVideoCombine": 72,
    "SaveVideo": 20,
    "LoadVideo": 60,
}
"""What a node shows below its widgets: the clip while it is made, a line about the file."""
RESULTS = ("VideoCrafterVideoCombine", "SaveVideo")
SQUARE_RESULT, WIDE_RESULT = 236, 300
"""How wide a node is that plays a video: it fills the node's width, and should end above the page's minimap."""
PROMPT, NEGATIVE = 150, 90
"""Heights of a field for text; the page gives it what is left in its node."""
NOTE_LINE, NOTE_WIDTH_OF_CHARACTER, NOTE_EDGE = 19, 5.7, 50
LINE = 120
SMALLEST = "() => Object.fromEntries(app.graph._nodes.map(n => [n.id, n.computeSize()[1]]))"
DRAWN = "() => Object.fromEntries(app.graph._nodes.map(n => [n.id, n.size[1]]))"


def main(names: list[str]) -> int:
    with tempfile.TemporaryDirectory() as folder:
        base = make_base(Path(folder))
        stand_ins.put(base)
        with Server(base) as server:
            workflows = {name: stand_ins.load(name) for name in names or [file.stem for file in stand_ins.FILES]}
            with opened(server.url) as canvas:
                for modern in (False, True):
                    canvas.modern(modern)
                    for workflow in workflows.values():
                        grow(workflow, heights(canvas, workflow, Path(folder) / "workflow.json", modern))
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
                node["size"][1] = known.get(node["type"], node["size"][1])
            arrange(graph)
            graph["outputNode"]["bounding"][0] = right_edge(graph) + 80
        save(file, blueprint)


def heights(canvas: Canvas, workflow: dict[str, Any], file: Path, modern: bool) -> Mapping[str, float]:
    """Node id -> how high the page draws it at least; Nodes 2.0 makes what is too low for it higher by itself."""
    if not modern:
        for node in workflow["nodes"]:
            node["size"][1] = TITLE
    save(file, workflow)
    canvas.drop(file)
    found: dict[str, float] = canvas.page.evaluate(DRAWN if modern else SMALLEST)
    return found


def grow(workflow: dict[str, Any], wanted: Mapping[str, float]) -> None:
    """Makes each node as high as it is drawn, with room for what it will show."""
    for node in workflow["nodes"]:
        if node["size"][1] == TITLE:
            text = {"Prompt": PROMPT, "Second prompt": PROMPT}.get(node.get("title", ""), NEGATIVE)
            least = text if node["type"] == "CLIPTextEncode" else wanted[str(node["id"])] + ROOM.get(node["type"], 0)
            if node["type"] in RESULTS:
                least += result_size(workflow)[1]
        else:
            least = wanted[str(node["id"])]
        node["size"][1] = max(node["size"][1], round(least))


def result_size(workflow: Mapping[str, Any]) -> tuple[int, int]:
    """Width and height at which the video is played."""
    for kind in ("VideoCrafterEmptyLatent", "VideoCrafterPictureToVideo", "ImageScale"):
        for node in stand_ins.nodes_of(workflow, kind):
            width, height = [value for value in node["widgets_values"] if isinstance(value, int)][:2]
            shown = SQUARE_RESULT if width == height else WIDE_RESULT
            return shown, round(shown * height / width)
    return WIDE_RESULT, WIDE_RESULT


def arrange(workflow: dict[str, Any]) -> None:
    """Puts the columns beside each other; in each, notes and groups below each other in the order that they have."""
    columns: dict[float, list[dict[str, Any]]] = {}
    members = {group["id"]: inside(workflow, group) for group in workflow["groups"]}
    for item in [*workflow["groups"], *stand_ins.nodes_of(workflow, "MarkdownNote")]:
        columns.setdefault(corner(item)[0], []).append(item)
    width = WIDE if len(columns) <= FEW_COLUMNS else NARROW
    left = 0
    for _, items in sorted(columns.items()):
        top = 0
        if any(node["type"] in RESULTS for item in items for node in members.get(item["id"], ())):
            width = result_size(workflow)[0]
        for item in sorted(items, key=lambda item: corner(item)[1]):
            top = BETWEEN + (
                place_group(item, members[item["id"]], left, top, width)
                if "bounding" in item
                else place_note(item, left, top, width)
            )
        left += width + 2 * EDGE + ALLEY


def corner(item: Mapping[str, Any]) -> tuple[float, float]:
    """Left and top of a group, or of a note with its title."""
    if "bounding" in item:
        return item["bounding"][0], item["bounding"][1]
    return item["pos"][0], item["pos"][1] - TITLE


def place_group(group: dict[str, Any], nodes: list[dict[str, Any]], left: int, top: int, width: int) -> int:
    """Puts a group and its nodes there; returns its lower edge."""
    y = top + HEADING
    for node in nodes:
        y += TITLE + AIR + (BADGE if node["type"].startswith("VideoCrafter") else 0)
        node["pos"] = [left + EDGE, y]
        node["size"][0] = width
        y += node["size"][1]
    group["bounding"] = [left, top, width + 2 * EDGE, y + EDGE - top]
    return int(y + EDGE)


def place_note(note: dict[str, Any], left: int, top: int, width: int) -> int:
    """Puts a note there, as wide as a group; returns its lower edge."""
    note["pos"] = [left, top + TITLE]
    note["size"] = [width + 2 * EDGE, note_height(note["widgets_values"][0], width)]
    return int(top + TITLE + note["size"][1])


def right_edge(workflow: Mapping[str, Any]) -> float:
    return max(group["bounding"][0] + group["bounding"][2] for group in workflow["groups"])


def inside(workflow: dict[str, Any], group: dict[str, Any]) -> list[dict[str, Any]]:
    """The nodes whose upper left corner lies in the group, from the top down."""
    left, top, width, height = group["bounding"]
    found = [
        node
        for node in workflow["nodes"]
        if left <= node["pos"][0] < left + width and top <= node["pos"][1] < top + height
        if node["type"] != "MarkdownNote"
    ]
    return sorted(found, key=lambda node: node["pos"][1])


def note_height(text: str, width: int) -> int:
    """Room for a note's lines, which the page draws in a font of its own."""
    seen = re.sub(r"\]\([^)]*\)", "", text)  # a link shows its name, not its address
    characters = int(width / NOTE_WIDTH_OF_CHARACTER)
    lines = sum(1 + len(line) // characters for line in seen.splitlines() if line)
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
