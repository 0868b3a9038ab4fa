"""The command that measures: its result, its table, and two results side by side."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.__main__ import main, revision

ROOT = Path(__file__).parent.parent


def test_a_result_has_figures_and_can_be_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "result.json"
    assert main(["--only", "planned", "--side", "64", "--repeats", "1", "--output", str(file)]) == 0
    shown = capsys.readouterr().out
    found = json.loads(file.read_text(encoding="utf-8"))
    assert found["matmul"]["float32"] > 0
    assert found["convolution"]["bfloat16"] > 0
    for kind, most in found["ceiling"].items():
        assert found["convolution"][kind] < 3 * most, "much faster than the processor can be"
    planned = found["planned_fp16"]["16x40x64"]
    assert f"{planned['peak_bytes'] / 2**30:.2f} GiB" in shown
    assert planned["peak_bytes_streamed"] < planned["peak_bytes"] < planned["goal_bytes"]

    assert main(["--compare", str(file), str(file)]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert any(row.startswith("planned_fp16 16x72x128 peak_bytes ") and row.endswith("1.000") for row in rows)


def test_a_machine_without_git_measures_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert revision(ROOT) == ""
