"""Checks the fused kernels against PyTorch in float64, and times them against PyTorch's own operations.

python -m benchmarks.kernels --out kernels.json             # on a CUDA device, at the network's sizes
python -m benchmarks.kernels --cuts --out kernels.json      # also with other partitions into programs
TRITON_INTERPRET=1 python -m benchmarks.kernels --device cpu --out kernels.json   # tiny sizes, in the interpreter
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from .kernel_cases import Case, Inputs, all_cases
from .machine import processor

ROTATED = 256 * 2**20
"""Total bytes of the inputs that calls alternate between, so that none finds its inputs in a cache."""


def main(arguments: list[str] | None = None) -> int:
    """Runs the command and returns its exit status: 1 if a result is wrong."""
    options = argparse.ArgumentParser(
        prog="python -m benchmarks.kernels", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--out", type=Path, required=True, help="the JSON file")
    options.add_argument("--device", default="cuda", help="cuda, or cpu for tiny sizes in Triton's interpreter")
    options.add_argument("--cuts", action="store_true", help="also time other partitions into programs")
    options.add_argument("--only", default="", help="only kernels with this in their names")
    chosen = options.parse_args(sys.argv[1:] if arguments is None else arguments)
    device = torch.device(chosen.device)
    with torch.inference_mode():
        bench = Bench(device, chosen.cuts)
        cases = [case for case in all_cases(device) if chosen.only in case.kernel]
        rows = []
        for case in cases:
            rows.append(bench.row(case))
            sys.stdout.write(line(rows[-1]) + "\n")
    result = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else processor(),
        "torch": torch.__version__,
        "copy_bytes_per_second": bench.copy,
        "seconds": time.perf_counter() - bench.begun,
        "kernels": rows,
    }
    chosen.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    sys.stdout.write(f"copy {bench.copy / 1e12:.2f} TB/s, {result['seconds']:.0f} s in all\n")
    return int(any(not row["error"] <= row["allowed"] for row in rows))


def line(row: dict[str, Any]) -> str:
    """A row as text."""
    text = f"{row['kernel']:<24}{row['size']:<28}{row['dtype']:<9}error {row['error']:.1e}"
    text += " WRONG" if not row["error"] <= row["allowed"] else ""
    if "seconds" in row:
        text += f"{row['seconds'] * 1e6:9.1f} us{row['share_of_copy']:6.0%} of a copy"
        text += f", torch {row['torch_seconds'] * 1e6:8.1f} us, enqueued in {row['enqueue_seconds'] * 1e6:.0f} us"
    cuts = sorted(row.get("cuts", {}).items(), key=lambda item: item[1])
    return text + "".join(f"\n    {name:<60}{seconds * 1e6:9.1f} us" for name, seconds in cuts[:6])


class Bench:
    """Checks and times kernels on one device; on a CPU it only checks."""

    def __init__(self, device: torch.device, with_cuts: bool) -> None:
        self.device, self.with_cuts = device, with_cuts
        self.begun = time.perf_counter()
        self.copy = self._copy_rate() if device.type == "cuda" else 0.0

    def row(self, case: Case) -> dict[str, Any]:
        """The figures of a case."""
        inputs = case.inputs()
        found, expected = case.ours(*inputs), case.theirs(*(x.double() for x in inputs))
        if isinstance(found, tuple):
            found, expected = torch.cat(found), torch.cat(expected)
        row: dict[str, Any] = {
            "kernel": case.kernel,
            "size": case.size,
            "dtype": str(case.dtype).removeprefix("torch."),
            "error": float((found.double() - expected).norm() / expected.norm()),
            "allowed": max(torch.finfo(case.dtype).eps, 1e-5),
        }
        del found, expected
        if self.device.type != "cuda":
            return row
        sets = [inputs]
        held = sum(x.numel() * x.element_size() for x in inputs)
        while len(sets) < 12 and len(sets) * held < ROTATED:
            sets.append(case.inputs())
        row["seconds"] = self._seconds(case.ours, sets)
        row["bytes_per_second"] = case.moved * inputs[0].element_size() / row["seconds"]
        row["share_of_copy"] = row["bytes_per_second"] / self.copy
        row["torch_seconds"] = self._seconds(case.theirs, sets)
        row["enqueue_seconds"] = self._enqueued(case.ours, inputs)
        if self.with_cuts:
            row["cuts"] = {name: self._seconds(ours, sets) for name, ours in case.cuts.items()}
        return row

    def _seconds(self, work: Callable[..., Any], sets: list[Inputs], replays: int = 7) -> float:
        """Seconds of one call without Python's overhead: the median of several replays of a graph of the calls with all
        inputs."""
        stream = torch.cuda.Stream(self.device)
        with torch.cuda.stream(stream):
            work(*sets[0])
        torch.cuda.synchronize(self.device)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for inputs in sets:
                work(*inputs)
        graph.replay()
        taken = []
        for _ in range(replays):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            graph.replay()
            end.record()
            torch.cuda.synchronize(self.device)
            taken.append(begin.elapsed_time(end) / 1000)
        return statistics.median(taken) / len(sets)

    def _enqueued(self, work: Callable[..., Any], inputs: Inputs, calls: int = 20) -> float:
        """Seconds that Python needs to enqueue a call."""
        torch.cuda.synchronize(self.device)
        begun = time.perf_counter()
        for _ in range(calls):
            work(*inputs)
        taken = time.perf_counter() - begun
        torch.cuda.synchronize(self.device)
        return taken / calls

    def _copy_rate(self) -> float:
        """Bytes read and written per second when copying half a GiB."""
        x = torch.randn(2**27, device=self.device)
        y = torch.empty_like(x)
        return 2 * x.numel() * x.element_size() / self._seconds(y.copy_, [(x,)])


if __name__ == "__main__":
    sys.exit(main())
