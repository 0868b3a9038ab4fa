"""Measures seconds, memory and kernels of calls on a GPU, and keeps a result file up to date.

Everything also runs on a CPU, without lists of kernels and without memory figures.
"""

from __future__ import annotations

import gc
import json
import logging
import re
import shutil
import statistics
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

log = logging.getLogger(__name__)

KINDS: dict[str, str] = {
    "copies": r"memcpy|memset|copy_kernel|catarray|\bfill",
    "layout changes": r"nchwtonhwc|nhwctonchw|transpose",
    "attention": r"flash|fmha|attention|attend|sdpa|_by_matrices|_by_frames",
    "convolutions": r"conv|fprop|dgrad|implicit",
    "norms": r"norm|rowwisemoments|computefusedparams|welford|_group_|_lane",
    "matrix products": r"gemm|nvjet|cutlass|splitk|cublas|gemv|matmul|addmm|bmm|aten::mm",
    "elementwise": r"elementwise|geglu|gelu|silu|softmax|reduce|triton_|_add|add\b|mul\b|index|gather",
}
"""Kinds of kernels, and patterns of their names; the first match counts."""

LAUNCHES = re.compile(r"^cu(da)?(LaunchKernel|LaunchKernelEx|LaunchKernelExC|GraphLaunch|MemcpyAsync|MemsetAsync)\b")
LONGEST = 12
"""Number of kernels listed by name."""


def kind_of(kernel: str) -> str:
    """The kind of a kernel."""
    return next((kind for kind, names in KINDS.items() if re.search(names, kernel.lower())), "others")


@dataclass
class Card:
    """A device and the results measured on it. `limit` is the maximum total time in seconds."""

    device: torch.device
    output: Path | None = None
    limit: float = 300.0
    tiny: bool = False
    result: dict[str, Any] = field(default_factory=dict)
    begun: float = field(default_factory=time.perf_counter)

    @property
    def is_gpu(self) -> bool:
        return self.device.type == "cuda"

    @property
    def half(self) -> torch.dtype:
        """The dtype of the networks: half precision on a GPU."""
        return torch.float16 if self.is_gpu else torch.float32

    def left(self) -> float:
        """Seconds left until the limit."""
        return self.limit - (time.perf_counter() - self.begun)

    def note(self, *names: str, **found: Any) -> None:
        """Stores results under these names, and saves everything known so far."""
        place = self.result
        for name in names:
            place = place.setdefault(name, {})
        place.update(found)
        log.info("%s %s", " ".join(names), {key: value for key, value in found.items() if key != "longest"})
        self.save()

    def save(self) -> None:
        """Writes the result, complete or not at all."""
        if self.output is None:
            return
        self.output.parent.mkdir(parents=True, exist_ok=True)
        part = self.output.with_name(self.output.name + ".part")
        part.write_text(json.dumps(self.result, indent=2) + "\n", encoding="utf-8")
        part.replace(self.output)

    @contextmanager
    def section(self, name: str, needed: float) -> Iterator[bool]:
        """Yields whether there is time for a section that takes about `needed` seconds. Errors in it are recorded."""
        begun, there_is = time.perf_counter(), self.left() >= needed
        if not there_is:
            self.note(name, left_out=f"{self.left():.0f} s were left, and it takes about {needed:g}")
        try:
            with torch.inference_mode():
                yield there_is
        except Exception as error:  # the other sections should still run
            log.exception("%s", name)
            self.note(name, error=f"{type(error).__name__}: {error}"[:500])
        self.tidy()
        if there_is:
            self.note(name, section_seconds=round(time.perf_counter() - begun, 1))

    def tidy(self) -> None:
        """Frees unreferenced memory."""
        gc.collect()
        if self.is_gpu:
            torch.cuda.empty_cache()

    def wait(self) -> None:
        """Waits until the device has finished all work."""
        if self.is_gpu:
            torch.cuda.synchronize(self.device)

    def seconds(self, work: Callable[[], Any], count: int = 5, warm: int = 2) -> dict[str, float]:
        """The median seconds of a call on the device, and of enqueueing it in Python."""
        for _ in range(1 if self.tiny else warm):
            work()
        self.wait()
        taken, asked = [], []
        for _ in range(1 if self.tiny else count):
            marks = [torch.cuda.Event(enable_timing=True) for _ in range(2)] if self.is_gpu else []
            begun = time.perf_counter()
            if marks:
                marks[0].record()
            work()
            asked.append(time.perf_counter() - begun)
            if marks:
                marks[1].record()
            self.wait()
            taken.append(marks[0].elapsed_time(marks[1]) / 1000 if marks else time.perf_counter() - begun)
        return {"seconds": statistics.median(taken), "enqueue_seconds": statistics.median(asked)}

    def memory(self, work: Callable[[], Any]) -> dict[str, int]:
        """Bytes allocated by torch before the call, and the peaks of allocated and reserved bytes during it."""
        self.tidy()
        if not self.is_gpu:
            work()
            return {}
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device)
        work()
        self.wait()
        return {
            "before_bytes": before,
            "allocated_bytes": torch.cuda.max_memory_allocated(self.device),
            "reserved_bytes": torch.cuda.max_memory_reserved(self.device),
        }

    def kernels(self, work: Callable[[], Any]) -> dict[str, Any]:
        """Launches, kernels and milliseconds by kind for a call; on a CPU, operations instead of kernels."""
        kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self.is_gpu else [])]
        self.wait()
        with profile(activities=kinds) as found:
            work()
            self.wait()
        launches, rows = 0, []
        for event in found.key_averages():
            launches += event.count if LAUNCHES.match(event.key) else 0
            on_device = str(event.device_type).endswith("CUDA")
            taken = event.self_device_time_total if on_device else 0 if self.is_gpu else event.self_cpu_time_total
            if taken > 0:
                rows.append((event.key, taken / 1000, event.count))
        return {"launches": launches, **by_kind(rows)}


def by_kind(rows: list[tuple[str, float, int]]) -> dict[str, Any]:
    """Groups kernels (name, milliseconds, count) by kind, and lists the longest."""
    milliseconds: dict[str, float] = defaultdict(float)
    counts: dict[str, int] = defaultdict(int)
    for name, taken, count in rows:
        milliseconds[kind_of(name)] += taken
        counts[kind_of(name)] += count
    total = sum(milliseconds.values())
    longest = sorted(rows, key=lambda row: -row[1])[:LONGEST]
    return {
        "kernels": sum(counts.values()),
        "milliseconds": total,
        "kinds": {
            kind: {"milliseconds": taken, "share": taken / total, "kernels": counts[kind]}
            for kind, taken in sorted(milliseconds.items(), key=lambda item: -item[1])
        },
        "longest": [[name[:100], round(taken, 3), count] for name, taken, count in longest],
    }


def versions(device: torch.device) -> dict[str, Any]:
    """Versions of the software that drives the device, as far as available."""
    found: dict[str, Any] = {"cuda": torch.version.cuda}
    try:
        found["triton"] = version("triton")
    except PackageNotFoundError:
        found["triton"] = None
    if device.type == "cuda":
        found["cudnn"] = torch.backends.cudnn.version()
        found["capability"] = ".".join(map(str, torch.cuda.get_device_capability(device)))
    if shutil.which("nvidia-smi"):
        asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        said = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.split()
        found["driver"] = said[0] if said else None
    return found
