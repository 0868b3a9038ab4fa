"""The figures of a video, as a table for people and as JSON for machines."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .metric import Metric

DIGITS = 6
"""Significant digits in JSON."""


@dataclass(frozen=True, eq=False)
class Thumbnail:
    """A small copy h w 3 of the frame with this index."""

    index: int
    image: Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Measured:
    """A figure of a video. series: the figure at each frame, None where there is none."""

    metric: Metric
    value: float
    series: tuple[float | None, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Report:
    """What was measured of a video. missing: the metrics that could not be measured, and why. shown: frames of it."""

    frames: int
    width: int
    height: int
    measured: tuple[Measured, ...]
    missing: Mapping[str, str]
    shown: tuple[Thumbnail, ...]

    @property
    def values(self) -> dict[str, float]:
        """The figures by the names of their metrics."""
        return {each.metric.name: each.value for each in self.measured}

    def described(self) -> dict[str, Any]:
        """Everything but the images, as JSON has it."""
        return {
            "frames": self.frames,
            "width": self.width,
            "height": self.height,
            "metrics": {each.metric.name: _described(each) for each in self.measured},
            "not_measured": dict(self.missing),
        }


def _described(each: Measured) -> dict[str, Any]:
    metric = each.metric
    return {
        "value": _rounded(each.value),
        "range": [metric.low, metric.high],
        "unit": metric.unit,
        "better": metric.better,
        "help": metric.help,
        "vbench": metric.vbench,
        "parameters": {item.name: getattr(metric, item.name) for item in metric.parameters() if item.default != ()},
        "per_frame": [None if value is None else _rounded(value) for value in each.series],
    }


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def counted(frames: int) -> str:
    """A number of frames in words."""
    return "1 frame" if frames == 1 else f"{frames} frames"


def written(value: float) -> str:
    """A figure for people: four decimals, or three digits of what is small."""
    return f"{value:.3g}" if 0 < abs(value) < 0.01 else f"{value:.4f}"


def means(reports: Sequence[Report]) -> dict[str, float]:
    """The means of the figures that all videos have."""
    first, *others = (report.values for report in reports)
    names = [name for name in first if all(name in other for other in others)]
    return {name: sum(report.values[name] for report in reports) / len(reports) for name in names}


def as_json(reports: Mapping[str, Report]) -> str:
    """Videos by their names, and the means over them."""
    videos = {name: report.described() for name, report in reports.items()}
    mean = {name: _rounded(value) for name, value in means(list(reports.values())).items()}
    return json.dumps({"videos": videos, "mean": mean}, indent=1)


def as_text(reports: Mapping[str, Report]) -> str:
    """The same as a table: a row for each metric, a column for each video, and below it what is missing and why."""
    columns = {name: report.values for name, report in reports.items()}
    if len(columns) > 1:
        columns["mean"] = means(list(reports.values()))
    records = {each.metric.name: each.metric for report in reports.values() for each in report.measured}
    rows = [["metric", *columns, "range", "better"]]
    for name, metric in records.items():
        figures = map(_figure, [values.get(name) for values in columns.values()])
        rows.append([name, *figures, f"{metric.range()} {metric.unit}".strip(), metric.better])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    return "\n".join([*(_size(name, report) for name, report in reports.items()), "", *lines, *_absent(reports)])


def _figure(value: float | None) -> str:
    return "-" if value is None else written(value)


def _size(name: str, report: Report) -> str:
    return f"{name}: {counted(report.frames)} of {report.width}x{report.height}"


def _absent(reports: Mapping[str, Report]) -> list[str]:
    """A line for each reason why metrics are missing."""
    found: dict[str, list[str]] = {}
    for report in reports.values():
        for name, why in report.missing.items():
            names = found.setdefault(why, [])
            if name not in names:
                names.append(name)
    return ["", *(f"Not measured: {', '.join(names)} ({why})." for why, names in found.items())] if found else []
