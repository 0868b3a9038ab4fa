"""The machine of a result."""

from __future__ import annotations

import platform
from pathlib import Path


def processor() -> str:
    """The name of the processor, if the system provides it."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    found = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return found or platform.processor()
