"""What the command line makes, on small models."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from command_line.running import frames_of, one_line, run
from PIL import Image
from video.reading import _gif, _webp, page_metadata

from vc_core import bundled, making
from vc_core.demo import TEXT_PROMPT
from vc_core.pipeline import VideoCrafter
from vc_core.video import write_video


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

    @pytest.mark.parametrize("given", [(), ("--no-cuda-graphs",)])
    def test_cuda_graphs_can_be_switched_off(
        self, text_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: tuple[str, ...]
    ) -> None:
        seen: list[bool] = []

        def generate(crafter: VideoCrafter, *_: Any, **__: Any) -> torch.Tensor:
            seen.append(crafter.graphs)
            return torch.zeros(2, 16, 16, 3)

        monkeypatch.setattr(VideoCrafter, "generate", generate)
        assert run("text-to-video", "a", "-m", text_model, "-o", tmp_path / "a.mp4", "--device", "cpu", *given) == 0
        assert seen == [not given]

    def test_every_setting_reaches_the_sampler(
        self, text_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: dict[str, Any] = {}
        generate = making.VideoCrafter.generate

        def spy(self: Any, prompt: str, picture: Any = None, **settings: Any) -> Any:
            seen.update(settings, prompt=prompt)
            return generate(self, prompt, picture, **settings)

        monkeypatch.setattr(making.VideoCrafter, "generate", spy)
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
        assert "has 2 frames, but 3 are needed" in one_line(capsys.readouterr().err)

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
        assert (kept["width"], kept["height"], kept["frames"], kept["fps"], kept["cfg"]) == (16, 24, 3, 8.0, 3.0)
        assert (kept["sampling"]["steps"], kept["sampling"]["spacing"], kept["save_fps"]) == (2, "uniform", 5.0)

    @pytest.mark.parametrize("ending", ["mp4", "mov", "mkv", "webm", "gif", "webp", "png"])
    def test_prompt_and_seed_are_a_comment_and_no_workflow(self, ending: str, text_model: Path, tmp_path: Path) -> None:
        prompt = 'ein Boot, \u8239 {"workflow": 1}'
        out = tmp_path / f"a.{ending}"
        given = ("-m", text_model, "-o", out, "--seed", "12", "--negative", "fog", "--device", "cpu")
        assert run("text-to-video", prompt, *given) == 0
        assert page_metadata(out) == {}
        comment = comment_of(out)
        assert comment.splitlines()[:2] == [prompt, "Negative prompt: fog"]
        assert "Seed: 12, model: small_text, size: 16x24, frames: 3, steps: 2, sampler: ddim" in comment

    def test_a_new_folder_of_pictures_is_made_also_where_overwriting_is_allowed(
        self, text_model: Path, tmp_path: Path
    ) -> None:
        out = tmp_path / "new" / "folder"
        assert run("text-to-video", "a", "-m", text_model, "-o", out, "--overwrite", "--device", "cpu") == 0
        assert len(list(out.glob("*.png"))) == 3

    def test_what_the_output_cannot_encode_is_escaped(
        self, text_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As on Windows, where output into a file has one byte for a letter."""
        written = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="cp1252"))
        out = tmp_path / "\u6a21\u578b.mp4"
        assert run("text-to-video", "a", "-m", text_model, "-o", out, "--device", "cpu") == 0
        assert b"\\u6a21\\u578b.mp4: 3 frames" in written.getvalue()


class TestBundledModels:
    @pytest.mark.parametrize(
        ("command", "more", "file"),
        [
            ("text-to-video", (), bundled.TEXT),
            ("image-to-video", (), bundled.IMAGE),
            ("image-to-video", ("--loop",), bundled.CONTINUING),
            ("image-to-video", ("--end-picture", "PICTURE"), bundled.CONTINUING),
            ("image-to-video", ("--fit", "pad"), bundled.CONTINUING),
        ],
    )
    def test_small_is_the_one_that_the_command_needs(
        self,
        command: str,
        more: Sequence[str],
        file: Path,
        picture: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        loaded: list[Any] = []

        def load(paths: Any, **options: Any) -> None:
            loaded.append((paths, options["loras"], torch.get_num_threads()))
            raise KeyboardInterrupt

        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(making.VideoCrafter, "load", load)
        given = [str(picture) if word == "PICTURE" else word for word in more]
        start = ("-i", str(picture)) if command == "image-to-video" else ("--lora", "small:0.5")
        assert run(command, "a red square", "-m", "small", "--device", "cpu", *start, *given) == 130
        loras = [] if command == "image-to-video" else [(bundled.TURBO_LORA, 0.5)]
        assert loaded[0][:2] == ([file], loras)

    def test_a_file_of_that_name_goes_first(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        Path("small").touch()
        assert bundled.resolved(Path("small"), bundled.TEXT) == Path("small")

    @pytest.mark.parametrize(("asked", "threads"), [(None, 1), ("3", 3)])
    def test_small_networks_run_on_one_thread_by_default(
        self, asked: str | None, threads: int, text_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: list[int] = []
        generate = making.VideoCrafter.generate

        def spy(self: Any, *arguments: Any, **settings: Any) -> Any:
            seen.append(torch.get_num_threads())
            return generate(self, *arguments, **settings)

        monkeypatch.setattr(making.VideoCrafter, "generate", spy)
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        if asked is not None:
            monkeypatch.setenv("OMP_NUM_THREADS", asked)
        before = torch.get_num_threads()
        try:
            torch.set_num_threads(3)
            assert run("text-to-video", "a", "-m", text_model, "-o", tmp_path / "a.mp4", "--device", "cpu") == 0
            assert seen == [threads]
            assert torch.get_num_threads() == 3
            monkeypatch.setattr(making, "SMALL", 0)  # which no network is
            assert run("text-to-video", "a", "-m", text_model, "-o", tmp_path / "b.mp4", "--device", "cpu") == 0
            assert seen == [threads, 3]
        finally:
            torch.set_num_threads(before)

    @pytest.mark.parametrize(("prompt", "warned"), [("a dog", True), ("a dog moves", False), ("", False)])
    def test_a_prompt_without_a_known_word_is_reported(
        self,
        prompt: str,
        warned: bool,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def load(*_: Any, **__: Any) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(making.VideoCrafter, "load", load)
        assert run("text-to-video", prompt, "-m", "small", "-o", tmp_path / "a.mp4", "--device", "cpu") == 130
        assert ("was trained on none of the words in 'a dog'" in capsys.readouterr().err) == warned

    def test_the_demo_keeps_its_prompts_and_seeds_too(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def generate(*_: Any, **__: Any) -> torch.Tensor:
            return torch.zeros(2, 16, 16, 3)

        monkeypatch.setattr(making.VideoCrafter, "generate", generate)
        assert run("demo", "-o", tmp_path) == 0
        comment = comment_of(tmp_path / "text-to-video.mp4")
        assert comment.startswith(TEXT_PROMPT)
        assert "Seed: 1, model: videocrafter_small_t2v" in comment


def comment_of(path: Path) -> str:
    """The text that players show."""
    if path.suffix in (".webp", ".gif", ".png"):
        data = path.read_bytes()
        walk = {".webp": _webp, ".gif": _gif, ".png": _png_texts}[path.suffix]
        return walk(data)["comment"]
    with av.open(str(path)) as file:
        texts = {key.lower(): value for key, value in file.metadata.items()}
    return texts["comment"]


def _png_texts(data: bytes) -> dict[str, str]:
    with Image.open(io.BytesIO(data)) as picture:
        return {key: str(value) for key, value in picture.info.items()}
