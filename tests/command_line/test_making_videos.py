"""What the command line makes, on small models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from command_line.running import frames_of, one_line, run
from PIL import Image

from vc_core import cli
from vc_core.frames.video import write_video


class TestMakingVideos:
    def test_text_to_video_makes_what_is_asked_for(
        self, text_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out = tmp_path / "new folder" / "boat.mp4"
        status = run(
            *("text-to-video", "a boat", "--model", text_model, "--output", out, "--seed", str(2**64 - 1)),
            *("--width", "32", "--height", "8", "--frames", "5", "--fps", "11", "--save-fps", "7", "--device", "cpu"),
        )
        assert status == 0
        assert frames_of(out).shape == (5, 8, 32, 3)
        with av.open(str(out)) as file:
            assert file.streams.video[0].average_rate == 7
        said = capsys.readouterr().out
        assert "5 frames of 32x8 at 7 per second" in said
        assert str(2**64 - 1) in said

    def test_image_to_video_with_the_models_defaults(self, image_model: Path, picture: Path, tmp_path: Path) -> None:
        out = tmp_path / "a.mp4"
        assert run("image-to-video", "it moves", "-i", picture, "-m", image_model, "-o", out, "--device", "cpu") == 0
        assert frames_of(out).shape == (3, 24, 16, 3)

    def test_the_same_seed_gives_the_same_video_and_another_another(self, text_model: Path, tmp_path: Path) -> None:
        def make(name: str, seed: int) -> np.ndarray:
            out = tmp_path / f"{name}.mkv"
            run("text-to-video", "a", "-m", text_model, "-o", out, "--seed", str(seed), "--device", "cpu")
            return frames_of(out)

        first = make("one", 5)
        assert np.array_equal(first, make("two", 5))
        assert not np.array_equal(first, make("three", 6))

    def test_every_setting_reaches_the_sampler(
        self, text_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: dict[str, Any] = {}
        generate = cli.VideoCrafter.generate

        def spy(self: Any, prompt: str, picture: Any = None, **settings: Any) -> Any:
            seen.update(settings, prompt=prompt)
            return generate(self, prompt, picture, **settings)

        monkeypatch.setattr(cli.VideoCrafter, "generate", spy)
        status = run(
            *("text-to-video", "p", "-m", text_model, "-o", tmp_path / "o.mp4", "--negative", "n", "--steps", "3"),
            *("--cfg", "4.5", "--sampler", "euler", "--spacing", "trailing", "--eta", "0.25", "--fps", "9.5"),
            *("--guidance-rescale", "0.5", "--temporal-guidance", "0.75", "--seed", "3", "--device", "cpu"),
        )
        assert status == 0
        request = seen["request"]
        assert (seen["prompt"], request.negative, request.seed, request.fps, request.cfg) == ("p", "n", 3, 9.5, 4.5)
        assert (request.guidance_rescale, request.temporal_guidance) == (0.5, 0.75)
        sampling = request.sampling
        assert (sampling.steps, sampling.sampler, sampling.spacing, sampling.eta) == (3, "euler", "trailing", 0.25)

    def test_a_video_to_start_from_is_kept_the_more_the_smaller_the_strength(
        self, text_model: Path, tmp_path: Path
    ) -> None:
        start = tmp_path / "start.mkv"
        write_video(start, torch.linspace(0, 1, 4 * 24 * 16 * 3).reshape(4, 24, 16, 3), fps=5)
        options = ("-m", text_model, "--steps", "10", "--seed", "1", "--device", "cpu", "--cfg", "1")

        def make(name: str, *more: str | Path) -> np.ndarray:
            assert run("text-to-video", "a", *options, "-o", tmp_path / name, *more) == 0
            return frames_of(tmp_path / name).astype(float)

        kept = make("kept.mkv", "--video", start, "--strength", "0.1")
        changed = make("changed.mkv", "--video", start, "--strength", "1")
        assert np.array_equal(changed, make("noise.mkv"))
        assert not np.array_equal(kept, changed)

    def test_a_video_that_is_too_short_is_refused(
        self, text_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        start = tmp_path / "start.mkv"
        write_video(start, torch.zeros(2, 8, 8, 3), fps=5)
        model = ("-m", text_model, "-o", tmp_path / "a.mp4", "--device", "cpu")
        assert run("text-to-video", "a", *model, "--video", start) == 2
        assert "has 2 frames, but 3 were asked for" in one_line(capsys.readouterr().err)

    def test_halves_and_split_files_and_another_format(self, text_model: Path, tmp_path: Path) -> None:
        assert run("convert", text_model, "--split", "--dtype", "bf16", "-o", tmp_path / "parts") == 0
        parts = sorted((tmp_path / "parts").iterdir())
        assert len(parts) == 3
        models = [argument for part in parts for argument in ("-m", str(part))]
        out = tmp_path / "a.gif"
        assert run("text-to-video", "a", *models, "-o", out, "--dtype", "bf16", "--device", "cpu") == 0
        with Image.open(out) as gif:
            assert getattr(gif, "n_frames", 1) == 3

    def test_the_recipe_is_kept_in_the_file(self, text_model: Path, tmp_path: Path) -> None:
        out = tmp_path / "a.mp4"
        run("text-to-video", "a boat", "-m", text_model, "-o", out, "--seed", "12", "--device", "cpu")
        with av.open(str(out)) as file:
            kept = json.loads(file.metadata["videocrafter"])
        assert (kept["prompt"], kept["seed"], kept["model"]) == ("a boat", 12, "small_text")
        assert (kept["files"], kept["loras"]) == ([text_model.name], [])
        assert "picture" not in kept
