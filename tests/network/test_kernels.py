"""The fused kernels, on a CPU: in Triton's interpreter, in a process of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from run import ROOT
from vc_core.network import kernels
from vc_core.network.kernels import launching

HERE = Path(__file__).parent
needs_triton = pytest.mark.skipif(sys.platform != "linux", reason="Triton has builds for Linux only")


def interpreted(*command: str) -> subprocess.CompletedProcess[str]:
    """A command of this Python with Triton's interpreter on, which has to be set before kernels are defined."""
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    return subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


@needs_triton
def test_the_kernels_equal_plain_pytorch() -> None:
    done = interpreted("-m", "pytest", "-q", "-p", "no:cacheprovider", str(HERE / "interpreted_kernels.py"))
    assert done.returncode == 0, done.stdout + done.stderr


@needs_triton
def test_their_benchmark_runs_at_tiny_sizes(tmp_path: Path) -> None:
    file = tmp_path / "kernels.json"
    done = interpreted("-m", "benchmarks.kernels", "--device", "cpu", "--out", str(file))
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads(file.read_text(encoding="utf-8"))["kernels"]
    assert {row["kernel"] for row in rows} >= {"group_norm", "layer_norm", "geglu", "add", "attend_over_frames"}
    assert all(row["error"] <= row["allowed"] for row in rows)


class Kernel:
    """Stands for a kernel of Triton's: `kernel[grid](...)` compiles and starts, and returns the compiled code, which
    `code[grid](...)` starts."""

    def __init__(self) -> None:
        self.compiled: list[Kernel] = []
        self.started: list[tuple[Any, ...]] = []

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., Kernel]:
        def start(*arguments: Any, **options: Any) -> Kernel:
            self.started.append((grid, arguments))
            if options:
                self.compiled.append(Kernel())
            return self.compiled[-1] if options else self

        return start


def test_a_known_launch_goes_straight_to_its_compiled_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launching, "_compiled", {})
    monkeypatch.setattr(launching, "_takes_all_arguments", lambda: True)
    kernel, x = Kernel(), torch.zeros(32)
    launching.launch(kernel, 5, 4, (x,), (1, True))
    assert kernel.started == [((5,), (x, 1, True))]
    launching.launch(kernel, 7, 4, (x[16:],), (1, True))
    assert len(kernel.started) == 1
    assert [grid for grid, _ in kernel.compiled[0].started] == [(7, 1, 1)]
    for tensors, numbers, warps in (
        ((x[1:],), (1, True), 4),  # not aligned
        ((x.half(),), (1, True), 4),
        ((x,), (2, True), 4),
        ((x,), (1, True), 8),
    ):
        compiled = len(kernel.compiled)
        launching.launch(kernel, 5, warps, tensors, numbers)
        assert len(kernel.compiled) == compiled + 1


def test_without_triton_they_are_not_used_and_nothing_imports_it() -> None:
    program = """
import sys
sys.modules["triton"] = None
import torch
from vc_core.network import kernels
from vc_core.network.kernels import launching
with torch.no_grad():
    assert not kernels.usable(torch.zeros(1))
"""
    done = interpreted("-c", program)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("result", "usable"),
    [(2.0, True), (3.0, False), (OSError("no C compiler"), False)],
    ids=["works", "wrong", "fails"],
)
def test_they_are_used_where_a_first_kernel_can_be_built(
    result: float | OSError, usable: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A GPU that is pretended: its tensors are on the CPU."""

    def add(x: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        if isinstance(result, OSError):
            raise result
        return torch.full_like(x, result)

    monkeypatch.setattr(kernels, "add", add)
    monkeypatch.setattr(torch, "device", lambda *_: "cpu")
    assert kernels._runs(0) == usable
    assert ("no C compiler" in caplog.text) == isinstance(result, OSError)
    assert ("wrong result" in caplog.text) == (result == 3.0)


def test_they_take_no_cpu_tensors_gradients_or_compilers(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.zeros(2)
    with torch.no_grad():
        assert not kernels.usable(x), "on a CPU"
        monkeypatch.setattr(kernels, "INTERPRETED", True)
        monkeypatch.setattr(kernels, "_installed", lambda: True)
        assert kernels.usable(x)
        assert not kernels.usable(x.double())
        assert not kernels.usable(torch.nn.Parameter(x))
        compiled = torch.compile(lambda y: y + 1 if kernels.usable(y) else y + 2, backend="eager", fullgraph=True)
        assert compiled(x)[0] == 2
    assert not kernels.usable(x), "gradients are kept"
