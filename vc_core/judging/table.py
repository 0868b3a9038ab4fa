"""The metrics by name, in the order in which users see them, their parameters, and their table as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import UserError
from ..parameters import Parameter
from .consistency import BackgroundConsistency, SubjectConsistency
from .drift import BrightnessDrift, ColorDrift
from .dynamic_degree import DynamicDegree
from .first_frame import FirstFramePSNR, FirstFrameSSIM
from .metric import Metric
from .motion_smoothness import MotionSmoothness
from .motion_speed import MotionSpeed
from .repetition import Repetition
from .seams import LoopSeam, TileSeams, WindowSeams
from .temporal_flickering import TemporalFlickering
from .warping_error import WarpingError

METRICS: dict[str, type[Metric]] = {
    metric.name: metric
    for metric in (
        *(SubjectConsistency, BackgroundConsistency, TemporalFlickering, MotionSmoothness, DynamicDegree, MotionSpeed),
        *(WarpingError, FirstFramePSNR, FirstFrameSSIM, ColorDrift, BrightnessDrift, WindowSeams, TileSeams, LoopSeam),
        Repetition,
    )
}


def parameters() -> tuple[Parameter, ...]:
    """The parameters of all metrics, each once."""
    return tuple({item.name: item for metric in METRICS.values() for item in metric.parameters()}.values())


def metrics(names: Sequence[str] = (), **values: Any) -> tuple[Metric, ...]:
    """Metrics by their names, or all of them, with the parameters that are given. Raises UserError for a name or a
    parameter that does not exist, and for a value out of range."""
    known = {item.name for item in parameters()}
    for name in values.keys() - known:
        raise UserError(f"No metric has a parameter {name!r}; choose one of {', '.join(sorted(known))}.")
    return tuple(_made(metric_named(name), values) for name in names or METRICS)


def metric_named(name: str) -> type[Metric]:
    """A metric by its name. Raises UserError where there is none."""
    if name not in METRICS:
        raise UserError(f"There is no metric {name!r}; choose one of {', '.join(METRICS)}.")
    return METRICS[name]


def _made(metric: type[Metric], values: Mapping[str, Any]) -> Metric:
    return metric(**{item.name: values[item.name] for item in metric.parameters() if item.name in values})


def markdown() -> str:
    """The metrics as a Markdown table."""
    rows = [["metric", "what it measures", "range", "better", "needs", "compared with VBench"], ["---"] * 6]
    for name, metric in METRICS.items():
        unit = f", {metric.unit}" if metric.unit else ""
        needs = ", ".join([*metric.needs, *([f"{metric.reads} frames"] if metric.reads > 1 else [])]) or "-"
        rows.append([name, metric.help, f"{metric.range()}{unit}", metric.better, needs, metric.vbench or "-"])
    return "\n".join("|---" * len(row) + "|" if row[0] == "---" else f"| {' | '.join(row)} |" for row in rows)
