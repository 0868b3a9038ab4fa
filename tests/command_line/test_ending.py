"""How the command line ends when it cannot end well: Ctrl-C, too little memory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line.running import one_line, run

from vc_core import cli, making
from vc_core.denoising import Step

ROOT = Path(__file__).parents[2]


class TestInterruption:
    def test_while_sampling_leaves_nothing(
        self, text_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        generate = making.VideoCrafter.generate

        def interrupted(self: Any, *arguments: Any, **settings: Any) -> Any:
            def stop(_: Step) -> None:
                raise KeyboardInterrupt

            return generate(self, *arguments, **{**settings, "on_step": stop})

        monkeypatch.setattr(making.VideoCrafter, "generate", interrupted)
        assert run("text-to-video", "a", "-m", text_model, "-o", tmp_path / "a.mp4", "--device", "cpu") == 130
        assert "Interrupted" in one_line(capsys.readouterr().err)
        assert list(tmp_path.iterdir()) == []

    def test_while_writing_leaves_nothing(
        self, text_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def frames(*_: Any) -> Iterator[torch.Tensor]:
            yield torch.zeros(8, 8, 3)
            raise KeyboardInterrupt

        monkeypatch.setattr(making, "sampled", frames)
        assert run("text-to-video", "a", "-m", text_model, "-o", tmp_path / "a.mp4", "--device", "cpu") == 130
        assert list(tmp_path.iterdir()) == []

    def test_while_converting_leaves_nothing(
        self, text_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupted(*_: Any) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr("vc_core.checkpoint.saving.check_finite", interrupted)
        assert run("convert", text_model, "-o", tmp_path / "a.safetensors") == 130
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for one process")
    def test_a_real_ctrl_c_ends_with_130_and_one_line(self, text_model: Path, tmp_path: Path) -> None:
        heed = (
            "import runpy, signal; signal.signal(signal.SIGINT, signal.default_int_handler)"  # background jobs do not
        )
        start = f"{heed}; runpy.run_module('vc_core', run_name='__main__', alter_sys=True)"
        command = [sys.executable, "-c", start, "text-to-video", "a", "-m", str(text_model), "-o", "a.mp4"]
        process = subprocess.Popen(
            [*command, "--steps", "1000", "--spacing", "trailing", "--device", "cpu", "--verbose"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr is not None
        for line in process.stderr:
            if "Sampling starts" in line:
                process.send_signal(signal.SIGINT)
                break
        rest = process.stderr.read()
        process.stderr.close()
        assert process.wait() == 130
        assert rest == "error: Interrupted. No partial file was left.\n"
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        "error",
        [
            RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB.\nmore"),
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
            RuntimeError("MPS backend out of memory (MPS allocated: 18.00 GB)"),
            MemoryError(),
        ],
        ids=["gpu", "cpu", "mps", "python"],
    )
    def test_too_little_memory_ends_with_what_to_try(
        self, error: Exception, text_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
    ) -> None:
        def generate(*_: Any, **__: Any) -> None:
            raise error

        monkeypatch.setattr(making.VideoCrafter, "generate", generate)
        words = ("text-to-video", "a", "-m", text_model, "-o", tmp_path / "a.mp4", "--device", "cpu", "-q")
        assert run(*words) == cli.UNUSABLE
        said = capsys.readouterr().err.splitlines()
        assert len(said) == 1
        assert "There is not enough memory" in said[0]
        assert "--dtype fp16" in said[0]

    def test_other_errors_of_torch_are_not_hidden(
        self, text_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def generate(*_: Any, **__: Any) -> None:
            raise RuntimeError("shapes do not fit")

        monkeypatch.setattr(making.VideoCrafter, "generate", generate)
        with pytest.raises(RuntimeError, match="shapes"):
            run("text-to-video", "a", "-m", text_model, "-o", tmp_path / "a.mp4", "--device", "cpu", "-q")
