"""Model files looked into and converted by the command line, and its help."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from checkpoint.synthetic import TEXT_MODEL
from command_line.running import one_line, run, runnable
from safetensors.torch import load_file, save_file

from vc_core import bundled, cli, making
from vc_core.checkpoint import METADATA_KEY, open_checkpoint
from vc_core.specs import to_json


class TestInspect:
    def test_the_table_says_what_the_file_is(self, image_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert run("inspect", image_model) == 0
        said = capsys.readouterr().out
        for words in ("image-to-video model", "video UNet", "image encoder", "float32", "complete", "rescale 0.7"):
            assert words in said

    def test_json_contains_everything(self, text_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
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

    def test_a_schedule_that_is_not_stored_does_not_read_as_a_fault(
        self, text_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        tensors = load_file(str(text_model))
        plain = {name: tensor for name, tensor in tensors.items() if "." in name}
        save_file(plain, str(tmp_path / "m.safetensors"), {METADATA_KEY: to_json(runnable(TEXT_MODEL))})
        assert run("inspect", tmp_path / "m.safetensors") == 0
        assert "Noise schedule: computed, not stored; prediction eps; rescale 0.7." in capsys.readouterr().out

    def test_control_characters_of_a_name_are_escaped(
        self, text_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        spec = replace(runnable(TEXT_MODEL), name="red \x1b[31m\u202e name")
        save_file(load_file(str(text_model)), str(tmp_path / "m.safetensors"), {METADATA_KEY: to_json(spec)})
        assert run("inspect", tmp_path / "m.safetensors", "--verbose") == 0
        said = capsys.readouterr().out
        assert "red \\x1b[31m\\u202e name" in said
        assert "\x1b" not in said

    def test_a_name_that_begins_with_a_tilde_is_a_name(
        self, text_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        Path("~x.safetensors").write_bytes(text_model.read_bytes())
        assert run("inspect", "~x.safetensors") == 0
        assert run("convert", "~x.safetensors", "-o", "~y.safetensors") == 0
        assert Path("~y.safetensors").is_file()

    def test_a_foreign_file_is_named(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        save_file({"lora_unet_x.lora_up.weight": torch.ones(1)}, str(tmp_path / "l.safetensors"))
        assert run("inspect", tmp_path / "l.safetensors") == 2
        assert "it seems to be a LoRA" in one_line(capsys.readouterr().err)


@pytest.mark.parametrize("ending", ["safetensors", "ckpt"])
def test_a_narrow_model_without_its_metadata_is_reported(
    ending: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"bare.{ending}"
    tensors = load_file(str(bundled.TEXT))
    if ending == "ckpt":
        torch.save({"state_dict": tensors}, path)
    else:
        save_file(tensors, str(path))
    assert run("inspect", path) == 0
    said = capsys.readouterr().out
    assert "The autoencoder in this file is 16 channels wide, narrower than the published ones" in said
    assert "norm groups and heads are guessed" in said
    monkeypatch.setattr(making.VideoCrafter, "load", None)
    out = tmp_path / "out"
    for words in (("convert", path, "-o", out), ("text-to-video", "a", "-m", path, "-o", f"{out}.mp4")):
        assert run(*words) == 2
        assert "in how many groups it normalises" in one_line(capsys.readouterr().err)
    assert list(tmp_path.iterdir()) == [path]


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
