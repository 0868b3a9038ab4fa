"""CHECKPOINT -> WORDS: what a file holds, as data for programs and as a table for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from torch import Tensor

from ..errors import UserError
from ..specs import PRESETS
from .building import Checkpoint
from .foreign import some
from .parts import PARTS


def describe(checkpoint: Checkpoint) -> dict[str, Any]:
    """Everything that is known without reading the weights, ready for JSON. Sizes in bytes."""
    detection = checkpoint.detection
    contents = detection.contents
    needed = [name for name, part in PARTS.items() if part.needed(checkpoint.spec)]
    published = PRESETS.get(checkpoint.spec.name)
    return {
        "files": [{"path": str(file.path), "bytes": file.size} for file in checkpoint.files],
        "model": detection.title,
        "name": checkpoint.spec.name,
        "published": published is not None and published.unet == checkpoint.spec.unet,
        "parts": {part: _describe_part(checkpoint, part) for part in detection.parts},
        "missing_parts": [part for part in needed if part not in detection.parts],
        "schedule": sorted(contents.schedule),
        "rescale": checkpoint.spec.diffusion.rescale,
        "prediction": checkpoint.spec.diffusion.prediction,
        "ignored": list(contents.ignored),
        "unknown": list(contents.unknown),
        "notes": list(detection.notes),
        "spec": asdict(checkpoint.spec),
    }


def _describe_part(checkpoint: Checkpoint, part: str) -> dict[str, Any]:
    tensors = checkpoint.detection.contents.parts[part]
    result: dict[str, Any] = {
        "title": PARTS[part].title,
        "tensors": len(tensors),
        "parameters": sum(tensor.numel() for tensor in tensors.values()),
        "bytes": sum(tensor.nbytes for tensor in tensors.values()),
        "dtypes": _dtypes(tensors),
    }
    try:
        difference = checkpoint.difference(part)
    except UserError as error:
        return {**result, "problem": str(error)}
    return {**result, **{name: list(values) for name, values in asdict(difference).items()}}


def _dtypes(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    return dict(Counter(str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values()).most_common())


def table(report: Mapping[str, Any]) -> str:
    """The description as lines of text."""
    lines = [f"{file['path']} ({size_of(file['bytes'])})" for file in report["files"]]
    lines += [f"It is {report['model']}." if report["parts"] else "It holds no part of a model.", ""]
    rows = [("part", "tensors", "parameters", "size", "type", "state")]
    for part in report["parts"].values():
        rows.append(
            (
                part["title"],
                str(part["tensors"]),
                f"{part['parameters']:,}",
                size_of(part["bytes"]),
                ", ".join(part["dtypes"]),
                _state(part),
            )
        )
    rows += [(PARTS[part].title, "-", "-", "-", "-", "not in this file") for part in report["missing_parts"]]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        lines.append("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return "\n".join([*lines, "", *_remarks(report)])


def _remarks(report: Mapping[str, Any]) -> list[str]:
    remarks = []
    if "unet" in report["parts"]:
        rescale = "none" if report["rescale"] is None else f"{report['rescale']:g}"
        stored = f"{len(report['schedule'])} buffers in the file" if report["schedule"] else "computed, not stored"
        remarks.append(f"Noise schedule: {stored}; prediction {report['prediction']}; rescale {rescale}.")
    for part in report["parts"].values():
        for kind in ("missing", "unexpected", "misshapen"):
            if part.get(kind):
                remarks.append(f"{part['title']}, {kind}: {some(part[kind])}")
        if part.get("problem"):
            remarks.append(f"{part['title']}: {part['problem']}")
    if report["ignored"]:
        remarks.append(f"Ignored, not needed for making videos: {some(report['ignored'])}")
    if report["unknown"]:
        remarks.append(f"Unknown, so that loading would be refused: {some(report['unknown'])}")
    return remarks + list(report["notes"])


def _state(part: Mapping[str, Any]) -> str:
    if part.get("problem"):
        return "not checked"
    wrong = [f"{len(part[kind])} {kind}" for kind in ("missing", "unexpected", "misshapen") if part[kind]]
    return ", ".join(wrong) or "complete"


def size_of(count: int) -> str:
    """Bytes for people, in powers of ten as download pages give them."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.2f} {unit}"
    return f"{count} B"
