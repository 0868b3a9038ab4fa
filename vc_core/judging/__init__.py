"""Figures of a video that need no weights: flicker, motion, consistency, drift, seams, repetition."""

from __future__ import annotations

from .judge import judge
from .metric import Metric
from .report import Report, as_json, as_text
from .table import METRICS, metrics

__all__ = ["METRICS", "Metric", "Report", "as_json", "as_text", "judge", "metrics"]
