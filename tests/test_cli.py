"""The command line, on small models: what it makes, what it says, and how it ends."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from checkpoint.synthetic import IMAGE_MODEL, TEXT_MODEL, published
from PIL import Image
from safetensors.torch import load_file, save_file

from vc_core import cli
from vc_core.checkpoint import METADATA_KEY, open_checkpoint
from vc_core.denoising import Step
from vc_core.frames.video import write_video
from vc_core.specs import AutoencoderSpec, ModelSpec, SamplingDefaults, to_json

ROOT = Path(__file__).parent.parent
SMALL = SamplingDefaults(width=16, height=24, frames=3, steps=2, fps=8, cfg=3.0, save_fps=5.0)


def runnable(spec: ModelSpec) -> ModelSpec:
    """With the real vocabulary and a real downscale, so that it can make videos."""
    changes: dict[str, Any] = {
        "text_encoder": replace(spec.text_encoder, vocab_size=49408),
        "autoencoder": AutoencoderSpec(channels=32, channel_mult=(1, 1, 1, 1), num_res_blocks=1),
        "defaults": SMALL,
    }
    return replace(spec, **changes)


@pytest.fixture(scope="module")
def text_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    spec = runnable(TEXT_MODEL)
    path = tmp_path_factory.mktemp("models") / "text.safetensors"
    save_file(published(spec), str(path), {METADATA_KEY: to_json(spec)})
    return path


@pytest.fixture(scope="module")
def image_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    spec = runnable(IMAGE_MODEL)
    path = tmp_path_factory.mktemp("models") / "image.safetensors"
    save_file(published(spec), str(path), {METADATA_KEY: to_json(spec)})
    return path


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    Image.fromarray(np.arange(7 * 11 * 3, dtype=np.uint8).reshape(7, 11, 3)).save(path)
    return path


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """The command line sets the root logger up; each test gets it back."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


def run(*arguments: str | Path) -> int:
    return cli.main([*map(str, arguments), "--quiet"])


def frames_of(path: Path) -> np.ndarray:
    with av.open(str(path)) as file:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)])


def one_line(text: str) -> str:
    """The only line that was written; a traceback or a usage text would be more."""
    assert text.count("\n") == 1, text
    assert text.startswith("error: ")
    return text


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


BAD: dict[str, tuple[Sequence[str], str]] = {
    "no such model": (("-m", "nothing.ckpt"), "There is no file nothing.ckpt"),
    "width": (("--width", "36"), "Width is 36 pixels; it should be a multiple of 8. The nearest are 32 and 40"),
    "height": (("--height", "-8"), "Height is -8"),
    "frames": (("--frames", "0"), "0 frames were asked for"),
    "fps": (("--fps", "0"), "fps condition is 0"),
    "steps past the table": (("--steps", "27"), "27 steps cannot be spaced uniformly"),
    "steps": (("--steps", "0"), "0 steps"),
    "eta": (("--eta", "2"), "eta is 2"),
    "device": (("--device", "tpu"), "There is no device 'tpu'"),
    "absent device": (("--device", "xpu"), "cannot be used on this machine"),
    "ending": (("-o", "video.exe"), ".exe"),
    "save fps": (("--save-fps", "-3"), "-3"),
    "preset": (("--preset", "videocrafter1_t2v_1024"), "does not fit this file"),
}


class TestBadInput:
    @pytest.mark.parametrize("case", BAD)
    def test_one_line_says_what_is_wrong_and_nothing_is_written(
        self,
        case: str,
        text_model: Path,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        arguments, message = BAD[case]
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(cli.VideoCrafter, "load", None)  # all of this is told before weights are read
        model = () if "-m" in arguments else ("-m", text_model)
        device = () if "--device" in arguments else ("--device", "cpu")
        assert run("text-to-video", "a", *model, *device, *arguments) == 2
        output = capsys.readouterr()
        assert message in one_line(output.err)
        assert output.out == ""
        assert list(tmp_path.iterdir()) == []

    def test_a_file_without_all_parts_is_refused(
        self, text_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run("convert", text_model, "--split", "-o", tmp_path / "parts") == 0
        unet = tmp_path / "parts" / "text_unet.safetensors"
        assert run("text-to-video", "a", "-m", unet, "-o", tmp_path / "a.mp4", "--device", "cpu") == 2
        assert "There is no autoencoder (VAE)" in one_line(capsys.readouterr().err)

    def test_an_existing_output_is_kept(self, text_model: Path, tmp_path: Path) -> None:
        out = tmp_path / "a.mp4"
        out.write_bytes(b"precious")
        assert run("text-to-video", "a", "-m", text_model, "-o", out) == 2
        assert out.read_bytes() == b"precious"
        assert run("text-to-video", "a", "-m", text_model, "-o", out, "--overwrite", "--device", "cpu") == 0
        assert len(frames_of(out)) == 3

    def test_a_text_model_refuses_a_picture_and_an_image_model_wants_one(
        self,
        text_model: Path,
        image_model: Path,
        picture: Path,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(cli.VideoCrafter, "load", None)
        out = tmp_path / "a.mp4"
        assert run("image-to-video", "a", "-i", picture, "-m", text_model, "-o", out, "--device", "cpu") == 2
        assert "text-to-video model" in one_line(capsys.readouterr().err)
        assert run("text-to-video", "a", "-m", image_model, "-o", out, "--device", "cpu") == 2
        assert "give it a picture" in one_line(capsys.readouterr().err)
        assert not out.exists()

    @pytest.mark.parametrize("seed", ["-1", str(2**64), "1.5", "x"])
    def test_seeds_outside_64_bits_are_refused(self, seed: str, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as ended:
            run("text-to-video", "a", "-m", "m.ckpt", f"--seed={seed}")
        assert ended.value.code == 2
        assert f"{seed} is not a whole number from 0 to {2**64 - 1}" in capsys.readouterr().err

    def test_a_full_disk_leaves_no_file(
        self, text_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def full(*_: Any, **__: Any) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(cli, "write", full)
        assert run("text-to-video", "a", "-m", text_model, "-o", tmp_path / "a.mp4", "--device", "cpu") == 2
        assert "No space left on device" in one_line(capsys.readouterr().err)
        assert list(tmp_path.iterdir()) == []


class TestInterruption:
    def test_while_sampling_leaves_nothing(
        self, text_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        generate = cli.VideoCrafter.generate

        def interrupted(self: Any, *arguments: Any, **settings: Any) -> Any:
            def stop(_: Step) -> None:
                raise KeyboardInterrupt

            return generate(self, *arguments, **{**settings, "on_step": stop})

        monkeypatch.setattr(cli.VideoCrafter, "generate", interrupted)
        assert run("text-to-video", "a", "-m", text_model, "-o", tmp_path / "a.mp4", "--device", "cpu") == 130
        assert "Interrupted" in one_line(capsys.readouterr().err)
        assert list(tmp_path.iterdir()) == []

    def test_while_writing_leaves_nothing(
        self, text_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def frames(*_: Any) -> Iterator[torch.Tensor]:
            yield torch.zeros(8, 8, 3)
            raise KeyboardInterrupt

        monkeypatch.setattr(cli, "_sampled", frames)
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

        monkeypatch.setattr(cli.VideoCrafter, "generate", generate)
        words = ("text-to-video", "a", "-m", text_model, "-o", tmp_path / "a.mp4", "--device", "cpu", "-q")
        assert run(*words) == cli.UNUSABLE
        said = capsys.readouterr().err.splitlines()
        assert len(said) == 1
        assert "The memory is not enough" in said[0]
        assert "--dtype fp16" in said[0]

    def test_other_errors_of_torch_are_not_hidden(
        self, text_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def generate(*_: Any, **__: Any) -> None:
            raise RuntimeError("shapes do not fit")

        monkeypatch.setattr(cli.VideoCrafter, "generate", generate)
        with pytest.raises(RuntimeError, match="shapes"):
            run("text-to-video", "a", "-m", text_model, "-o", tmp_path / "a.mp4", "--device", "cpu", "-q")


class TestInspect:
    def test_the_table_says_what_the_file_is(self, image_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert run("inspect", image_model) == 0
        said = capsys.readouterr().out
        for words in ("image-to-video model", "video UNet", "image encoder", "float32", "complete", "rescale 0.7"):
            assert words in said

    def test_json_tells_everything(self, text_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert run("inspect", "--json", text_model) == 0
        report = json.loads(capsys.readouterr().out)
        assert list(report["parts"]) == ["unet", "autoencoder", "text_encoder"]
        assert report["missing_parts"] == []
        assert report["parts"]["unet"]["missing"] == []
        assert report["files"][0]["bytes"] == text_model.stat().st_size
        assert report["spec"]["unet"]["context_dim"] == 24

    def test_what_is_missing_unknown_and_ignored_is_named(
        self, text_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        tensors = {name: tensor for name, tensor in load_file(str(text_model)).items() if "cond_stage" not in name}
        del tensors["model.diffusion_model.out.0.bias"]
        tensors |= {"model_ema.decay": torch.ones(1), "mystery": torch.ones(1)}
        torch.save({"state_dict": tensors, "epoch": 3}, tmp_path / "m.ckpt")
        assert run("inspect", tmp_path / "m.ckpt") == 0
        said = capsys.readouterr().out
        assert "not in this file" in said
        assert "missing: out.0.bias" in said
        assert "model_ema.decay" in said
        assert "epoch" in said
        assert "Unknown, so that loading would be refused: mystery" in said

    def test_a_foreign_file_is_named(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        save_file({"lora_unet_x.lora_up.weight": torch.ones(1)}, str(tmp_path / "l.safetensors"))
        assert run("inspect", tmp_path / "l.safetensors") == 2
        assert "it seems to be a LoRA" in one_line(capsys.readouterr().err)


class TestConvert:
    def test_a_whole_model(self, text_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        out = tmp_path / "half.safetensors"
        assert run("convert", text_model, "-o", out, "--dtype", "fp16") == 0
        assert str(out) in capsys.readouterr().out
        assert open_checkpoint(out).spec == runnable(TEXT_MODEL)
        assert load_file(str(out))["model.diffusion_model.out.2.bias"].dtype == torch.float16
        assert run("convert", text_model, "-o", out) == 2


def test_help_explains_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (("--help",), ("text-to-video", "--help"), ("convert", "--help")):
        with pytest.raises(SystemExit) as ended:
            cli.main(arguments)
        assert ended.value.code == 0
    said = capsys.readouterr().out
    for words in ("examples:", "--seed", "--save-fps", "--split", "image-to-video"):
        assert words in said
