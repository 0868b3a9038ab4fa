"""What the command line says of bad input, and that nothing is lost by it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line.running import frames_of, one_line, run

from vc_core import making
from vc_core.autoencoder.autoencoder import Autoencoder

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
    "strength without a video": (("--strength", "0.5"), "--strength 0.5 needs a --video"),
    "order without windows": (("--order", "static"), "--order works with --long windows only"),
    "motion": (("--motion", "0.1"), "A motion guidance of 0.1 was given, but small_text has none"),
    "rounds of FreeInit": (("--free-init", "-1"), "The free_init of off is -1; it should be 0 to 10"),
    "an ending alone": (("-o", ".mp4"), "'.mp4' is a suffix without a name"),
    "a new folder": (("-o", "new/folder/a.mp4", "--preset", "dynamicrafter_512"), "does not fit this file"),
    "spacing": (("--steps", "27"), "On the command line: --spacing trailing"),
    "more prompts than segments": (
        ("--long", "continue", "--frames", "20", "--then", "b", "--then", "c"),
        "but 20 frames are made as 2 clips of 16 frames, each with one prompt. Give at most 2 prompts, ask for at",
    ),
    "home of nobody": (("-m", "~nobody.safetensors"), "There is no file ~nobody.safetensors"),
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
        monkeypatch.setattr(making.VideoCrafter, "load", None)  # all of this is reported before weights are read
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

    def test_an_existing_output_is_kept(
        self, text_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out = tmp_path / "a.mp4"
        out.write_bytes(b"precious")
        assert run("text-to-video", "a", "-m", text_model, "-o", out) == 2
        assert "overwrite it (--overwrite" in capsys.readouterr().err
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
        monkeypatch.setattr(making.VideoCrafter, "load", None)
        out = tmp_path / "a.mp4"
        assert run("image-to-video", "a", "-i", picture, "-m", text_model, "-o", out, "--device", "cpu") == 2
        assert "text-to-video model" in one_line(capsys.readouterr().err)
        assert run("text-to-video", "a", "-m", image_model, "-o", out, "--device", "cpu") == 2
        assert "give it an image" in one_line(capsys.readouterr().err)
        assert not out.exists()

    @pytest.mark.parametrize("taken", ["file", "folder", os.devnull])
    def test_a_folder_of_pictures_overwrites_nothing_and_says_so_before_the_work(
        self,
        taken: str,
        text_model: Path,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(making.VideoCrafter, "load", None)
        (tmp_path / "file").write_bytes(b"precious")
        (tmp_path / "folder").mkdir()
        assert run("text-to-video", "a", "-m", text_model, "-o", tmp_path / taken, "--overwrite") == 2
        assert "a folder of images never replaces anything" in one_line(capsys.readouterr().err)
        assert (tmp_path / "file").read_bytes() == b"precious"

    def test_an_image_model_without_its_image_file_is_known_for_what_it_is(
        self,
        image_model: Path,
        picture: Path,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        assert run("convert", image_model, "--split", "-o", tmp_path / "parts") == 0
        capsys.readouterr()
        models: list[str | Path] = []
        for part in ("unet", "vae", "clip"):
            models += ["-m", tmp_path / "parts" / f"image_{part}.safetensors"]
        monkeypatch.setattr(making.VideoCrafter, "load", None)
        out = ("-o", tmp_path / "a.mp4", "--device", "cpu")
        assert run("text-to-video", "a", *models, *out) == 2
        assert "This is an image-to-video model: give it an image" in one_line(capsys.readouterr().err)
        assert run("image-to-video", "a", "-i", picture, *models, *out) == 2
        said = one_line(capsys.readouterr().err)
        assert "image-to-video model whose image encoder is missing" in said
        assert "ends in _image" in said

    def test_too_many_steps_for_a_start_name_the_start(
        self, image_model: Path, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        start = ("--start-timestep", "1", "--steps", "3", "--spacing", "trailing", "--device", "cpu")
        assert run("image-to-video", "a", "-i", picture, "-m", image_model, "-o", tmp_path / "a.mp4", *start) == 2
        assert "from 1 to 1, as the start at timestep 1 leaves no more" in one_line(capsys.readouterr().err)

    def test_a_fit_is_refused_by_a_model_that_sees_pictures_whole(
        self, image_model: Path, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        given = ("-i", picture, "-m", image_model, "-o", tmp_path / "a.mp4", "--fit", "pad", "--device", "cpu")
        assert run("image-to-video", "a", *given) == 2
        assert "--fit pad is for models that continue an image" in one_line(capsys.readouterr().err)

    def test_an_empty_name_is_no_output(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as ended:
            run("text-to-video", "a", "-m", "m.ckpt", "-o", "")
        assert ended.value.code == 2
        assert "the name of the output is empty" in capsys.readouterr().err

    def test_nan_of_the_autoencoder_is_an_error_and_no_file(
        self, text_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        decode = Autoencoder.decode_unscaled

        def broken(self: Autoencoder, *given: Any) -> torch.Tensor:
            return decode(self, *given) * float("nan")

        monkeypatch.setattr(Autoencoder, "decode_unscaled", broken)
        assert run("text-to-video", "a", "-m", text_model, "-o", tmp_path / "new" / "a.mp4", "--device", "cpu") == 2
        assert "The autoencoder (VAE) gave NaN or infinite values" in one_line(capsys.readouterr().err)
        assert list(tmp_path.iterdir()) == []

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

        monkeypatch.setattr(making, "writing", full)
        assert run("text-to-video", "a", "-m", text_model, "-o", tmp_path / "a.mp4", "--device", "cpu") == 2
        assert "No space left on device" in one_line(capsys.readouterr().err)
        assert list(tmp_path.iterdir()) == []
