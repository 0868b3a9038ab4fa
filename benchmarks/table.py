"""Results as text tables."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

GIB = 2**30


def table(result: dict[str, Any]) -> str:
    """A table of one result."""
    head = f"{result['device']}, {result['threads']} threads, torch {result['torch']}, {result['dtype']}"
    rows = [(f"{name}", shown(name, value)) for name, value in figures(result)]
    return "\n".join([head, *lines(rows)])


def compared(old: dict[str, Any], new: dict[str, Any]) -> str:
    """A table of two results and their ratios. Seconds are hardly comparable between machines or loads; rates relative
    to a matrix product of the same run are."""
    before, after = dict(figures(old)), dict(figures(new))
    rows = [("", str(old.get("revision", "old")), str(new.get("revision", "new")), "new / old")]
    for name in [name for name in before if name in after]:
        ratio = after[name] / before[name] if before[name] else float("nan")
        rows.append((name, shown(name, before[name]), shown(name, after[name]), f"{ratio:.3f}"))
    return "\n".join(lines(rows))


def figures(result: dict[str, Any], path: str = "") -> Iterator[tuple[str, float]]:
    """All numbers of a result, under their paths."""
    for key, value in result.items():
        name = f"{path} {key}".strip()
        if isinstance(value, dict):
            yield from figures(value, name)
        elif isinstance(value, int | float) and path:
            yield name, float(value)


def shown(name: str, value: float) -> str:
    """A number in the unit implied by its name."""
    if "bytes" in name:
        return f"{value / GIB:.2f} GiB"
    if "operations" in name:
        return f"{value / 1e12:.3f} TFLOP"
    if name.startswith(("matmul", "convolution", "ceiling float", "ceiling bfloat")):
        return f"{value / 1e9:.0f} GFLOP/s"
    return f"{value:.3f}"


def lines(rows: list[Any]) -> list[str]:
    """The rows with aligned columns."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))] if rows else []
    return [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    ]
