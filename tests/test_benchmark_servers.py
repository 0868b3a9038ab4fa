"""Models at full size, in a ComfyUI server and on a small card: the commands, tried with a small model on the CPU."""

from __future__ import annotations

import argparse
import gzip
import json
import time
from pathlib import Path

import pytest
import torch

from benchmarks import full_size, servers, small_card
from benchmarks.nvidia_smi import Card, Watch
from comfyui.server import Event, Run

CARD = Card("a card", "580.1", 100 * 2**30)
SMALL = ["--device", "cpu", "--settings", "default", "--models", "small", "--steps", "2"]


@pytest.mark.server
def test_models_run_twice_in_a_server_and_every_run_is_recorded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, logs = tmp_path / "result.json", tmp_path / "logs.txt"
    words = [*SMALL, "--models", "small", "small", "--first-steps", "1", "--output", str(file), "--logs", str(logs)]
    assert servers.main(words) == 0
    found = json.loads(file.read_text(encoding="utf-8"))
    assert len(found["rows"]) == 2
    for row in found["rows"]:
        assert (row["setting"], row["model"], row["options"], row["dynamic_vram"]) == ("default", "small", [], False)
        assert row["before"]["host_peak_bytes"] > 0
        for run, steps in ((row["first"], 1), (row["second"], 2)):
            assert (run["status"], run["steps"]) == ("success", steps), run.get("error")
            assert run["video"]["shape"] == [16, 64, 64, 3]
            assert run["video"]["spread"] > 1
            assert run["host_peak_bytes"] > 2**28
            assert sum(run["nodes"].values()) <= run["seconds"]
            assert any("Prompt executed" in line and "\x1b" not in line for line in run["log"])
        assert "VideoCrafterCheckpointLoader" in row["first"]["nodes"], "the model before it is still held"
        assert "VideoCrafterCheckpointLoader" not in row["second"]["nodes"], "loaded again"
    assert found["torch"].startswith(torch.__version__.partition("+")[0])
    assert logs.read_text(encoding="utf-8").count("===== default") == 1
    assert "| default | small | no | " in capsys.readouterr().out


def test_a_server_that_does_not_start_leaves_a_row_with_its_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(servers.OPTIONS, "default", ("--no-such-option",))
    file = tmp_path / "result.json"
    assert servers.main([*SMALL, "--output", str(file)]) == 0
    (row,) = json.loads(file.read_text(encoding="utf-8"))["rows"]
    assert "unrecognized arguments: --no-such-option" in row["error"]
    assert "unrecognized arguments: --no-such-option |" in capsys.readouterr().out


def test_no_run_begins_after_the_limit(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    assert servers.main([*SMALL, "--limit", "0", "--output", str(file)]) == 0
    (row,) = json.loads(file.read_text(encoding="utf-8"))["rows"]
    assert row["error"] == "not run: the time limit was reached"


def test_a_smaller_card_reserves_the_rest_of_this_one() -> None:
    assert servers.options_of("6GiB", CARD) == ("--reserve-vram", "94.00")
    assert servers.options_of("default", CARD) == ()
    assert servers.options_of("no_dynamic_vram", CARD) == ("--disable-dynamic-vram",)
    with pytest.raises(ValueError, match=r"120GiB: the card has only 100\.0 GiB"):
        servers.options_of("120GiB", CARD)


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program in the place of nvidia-smi that says what is in the file returned."""
    program, answer = tmp_path / "nvidia-smi", tmp_path / "answer.txt"
    program.write_text(f"#!/bin/sh\ncat '{answer}'\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return answer


def test_a_card_is_described_by_nvidia_smi(smi: Path) -> None:
    smi.write_text("NVIDIA H200, 580.159.04, 143771, 600\n", encoding="utf-8")
    assert Card.here() == Card("NVIDIA H200", "580.159.04", 143171 * 2**20)
    smi.write_text("NVIDIA H200, 580.159.04, 143771, [N/A]\n", encoding="utf-8")
    assert Card.here().total_bytes == 143771 * 2**20


def test_the_most_memory_of_a_run_is_kept_until_the_next(smi: Path) -> None:
    smi.write_text("5000\n", encoding="utf-8")
    held = [300]
    with Watch(lambda: held[0], card=True) as watch:
        while not (watch.card_bytes and watch.host_bytes):
            time.sleep(0.01)
        held[0] = 50
        smi.write_text("7\n", encoding="utf-8")
        assert watch.peaks() == {"card_peak_bytes": 5000 * 2**20, "host_peak_bytes": 300}
        for _ in range(20):  # a slow machine may still be busy with the last look
            watch.reset()
            if (found := watch.peaks()) == {"card_peak_bytes": 7 * 2**20, "host_peak_bytes": 50}:
                return
        pytest.fail(f"still {found}")


def test_settings_are_checked(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="'small' is not a setting; use default, 12GiB"):
        servers.setting("small")
    with pytest.raises(SystemExit):
        servers.main(["--device", "cpu", "--settings", "6GiB"])
    assert "on a CPU use default" in capsys.readouterr().err


def test_a_run_is_stopped_when_time_is_up() -> None:
    stopped: list[bool] = []
    times = servers.Times({"1": {"class_type": "A"}}, 0.0, lambda: stopped.append(True))
    for node in ("1", None):
        times(Event("executing", {"node": node}))
    assert stopped == [True], "asked once"
    assert list(times.nodes) == ["A"]


def test_the_error_of_a_run_names_node_and_exception() -> None:
    error = {"node_type": "A", "exception_type": "torch.OutOfMemoryError", "exception_message": "too much"}
    assert servers.message(Run("error", error=error)).startswith("A: torch.OutOfMemoryError: too much")
    assert "refused for this" in servers.message(Run("refused", error={"error": "refused for this"}))


@pytest.mark.parametrize("name", full_size.MODELS)
def test_every_model_has_a_template_and_its_published_layout(name: str) -> None:
    model = full_size.MODELS[name]
    kinds = {node["type"] for node in model.template["nodes"]}
    assert {"VideoCrafterCheckpointLoader", "VideoCrafterKSampler", "VideoCrafterDecode"} <= kinds
    assert not model.manifest or (full_size.MANIFESTS / f"{model.manifest}.json.gz").is_file()


def test_a_file_is_made_in_the_type_asked_for_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = {"alphas_cumprod": [[1000], "float32"], "model.weight": [[8, 4], "float32"]}
    monkeypatch.setattr(full_size, "MANIFESTS", tmp_path)
    (tmp_path / "tiny.json.gz").write_bytes(gzip.compress(json.dumps(shapes).encode()))
    model = full_size.Model("tiny.ckpt", "tiny")
    path = model.path(tmp_path / "models", "fp16")
    tensors = torch.load(path, weights_only=True)["state_dict"]
    assert tensors["model.weight"].dtype == torch.float16
    assert tensors["model.weight"].std() > 0
    assert tensors["alphas_cumprod"].dtype == torch.float32, "half precision would change the noise schedule"
    made = path.stat().st_mtime_ns
    assert model.path(tmp_path / "models", "fp16").stat().st_mtime_ns == made
    assert list((tmp_path / "models").iterdir()) == [path]


def test_a_small_card_run_is_recorded(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    words = ["--device", "cpu", "--dtype", "fp32", "--model", "small", "--steps", "2", "--output", str(file)]
    assert small_card.main(words) == 0
    found = json.loads(file.read_text(encoding="utf-8"))
    assert found["capped_at_gib"] is None
    assert found["load"]["seconds"] > 0
    assert found["run"]["shape"] == [16, 64, 64, 3]
    assert 0 < found["run"]["mean"] < 1
    assert found["run"]["spread"] > 0.01


def test_running_out_of_memory_is_recorded() -> None:
    def work() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    found, result = small_card.attempt(small_card.Clock(torch.device("cpu")), work)
    assert (found, result) == ({"error": "OutOfMemoryError: CUDA out of memory"}, None)
