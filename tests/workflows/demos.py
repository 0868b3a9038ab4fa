"""What the detector of `evaluation` sees in the videos of the workflows that need no download.

`make_thumbnails.py` records it in `demos.json` with each picture; `test_demos.py` compares it with what the notes
promise, and the record with the workflow that it was made from.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.detector import observe

RECORD = Path(__file__).with_name("demos.json")
POINTS = 8


def fingerprint(workflow: Mapping[str, Any]) -> str:
    """Of all that makes the video: the nodes' types and values, and the links between them; not where they are."""
    first = min(int(node["id"]) for node in workflow["nodes"])
    nodes = [
        [int(node["id"]) - first, node["type"], node.get("widgets_values")]
        for node in workflow["nodes"]
        if node["type"] != "MarkdownNote"
    ]
    links = [[link[1] - first, link[2], link[3] - first, link[4]] for link in workflow["links"]]
    text = json.dumps([sorted(nodes, key=lambda node: node[0]), sorted(links)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def seen(frames: np.ndarray) -> dict[str, Any]:
    """Of frames f h w 3 uint8: the object's shape and motion, and its colour, centre and area at points of the clip."""
    saw = observe(frames.astype(np.float32) / 255)
    places = [round(index * (len(frames) - 1) / (POINTS - 1)) for index in range(POINTS)]
    points = [saw.sightings[place] for place in places]
    return {
        "frames": len(frames),
        "shape": saw.shape,
        "motion": saw.motion,
        "same_shape": round(saw.share(shape=saw.shape), 3),
        "colour": [point.colour if point else None for point in points],
        "x": [round(point.x, 1) if point else None for point in points],
        "y": [round(point.y, 1) if point else None for point in points],
        "area": [round(point.area) if point else None for point in points],
    }


def record(name: str, workflow: Mapping[str, Any], frames: np.ndarray) -> None:
    """Writes what is seen in a video, and of which workflow it is."""
    known = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.is_file() else {}
    known[name] = {"workflow": fingerprint(workflow), **seen(frames)}
    lines = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in sorted(known.items())]
    RECORD.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
