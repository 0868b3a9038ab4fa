"""Seconds, operations and bytes of a call, on a CPU and on a CUDA device."""

from __future__ import annotations

import gc
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

LONG = 20.0
"""Calls that take longer than this many seconds are measured once, without warm-up."""

STATUS, FORGET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
CEILING = Path(__file__).with_name("ceiling.c")


@dataclass(frozen=True)
class Clock:
    """Measures time on one device: CPU time with one thread, which is hardly affected by other programs; wall-clock
    time with more threads; the time between two events on CUDA."""

    device: torch.device
    repeats: int = 3

    @property
    def kind(self) -> str:
        if self.device.type == "cuda":
            return "events"
        return "processor time" if torch.get_num_threads() == 1 else "wall clock"

    def now(self) -> float:
        """The current CPU clock in seconds."""
        return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()

    def once(self, work: Callable[[], Any]) -> float:
        """Seconds of one call."""
        if self.device.type == "cuda":
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            work()
            end.record()
            torch.cuda.synchronize(self.device)
            return float(begin.elapsed_time(end)) / 1000
        begun = self.now()
        work()
        return self.now() - begun

    def seconds(self, work: Callable[[], Any], expected: float = 0.0) -> float:
        """The median of several calls after a warm-up, or a single call if it is expected to take long."""
        if expected > LONG:
            return self.once(work)
        self.once(work)
        return statistics.median(self.once(work) for _ in range(self.repeats))

    def peak(self, work: Callable[[], Any]) -> dict[str, int]:
        """Peak bytes during the call, of the process on a CPU and of torch's allocator on CUDA, and the increase over
        the bytes before it. Empty if the system does not provide them."""
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            before = torch.cuda.memory_allocated(self.device)
            work()
            torch.cuda.synchronize(self.device)
            most = torch.cuda.max_memory_allocated(self.device)
            return {"peak_bytes": most, "above_bytes": most - before}
        if not STATUS.exists() or not FORGET.exists():
            work()
            return {}
        FORGET.write_text("5", encoding="ascii")  # resets the peak
        before = resident("VmRSS")
        work()
        most = resident("VmHWM")
        return {"peak_bytes": most, "above_bytes": most - before}


def resident(name: str) -> int:
    """A memory figure of this process on Linux, in bytes."""
    lines = STATUS.read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) * 1024


def operations(work: Callable[[], Any]) -> int:
    """Number of multiplications and additions in matrix products, convolutions and attention; call it on `meta`."""
    with FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())


def convolution_rate(clock: Clock, dtype: torch.dtype) -> float:
    """Operations per second of a 3x3 convolution of 320 channels on 8 frames of 40x64, channels last: the fastest
    kernel of this network on a CPU, and so an upper bound for any pass."""
    x = torch.randn(8, 320, 40, 64, device=clock.device).to(dtype, memory_format=torch.channels_last)
    weight = torch.randn(320, 320, 3, 3, device=clock.device).to(dtype, memory_format=torch.channels_last)
    return 2 * x.numel() * weight[0].numel() / clock.seconds(lambda: torch.conv2d(x, weight, padding=1))


def matrix_rate(clock: Clock, dtype: torch.dtype, side: int = 4096) -> float:
    """Operations per second of torch.matmul of two square matrices."""
    a, b = (torch.randn(side, side, device=clock.device).to(dtype) for _ in range(2))
    return 2 * side**3 / clock.seconds(lambda: a @ b)


def ceiling() -> dict[str, float]:
    """Peak operations per second of the CPU cores in use, by a loop of multiply-adds in registers; empty without a C
    compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        return {}
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "ceiling"
        flags = ["-O3", "-march=native", "-ffp-contract=fast", "-funroll-loops"]
        built = subprocess.run([compiler, *flags, str(CEILING), "-o", str(program)], capture_output=True, check=False)
        if built.returncode:
            return {}
        runs = [subprocess.run([program], capture_output=True, text=True, check=True).stdout.split() for _ in range(3)]
    single, half = (max(float(run[i]) for run in runs) * torch.get_num_threads() for i in range(2))
    return {"float32": single, **({"bfloat16": half} if half else {})}
