"""Model files looked into and converted by the command line, and its help."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from checkpoint.synthetic import TEXT_MODEL
from command_line.running import one_line, run, runnable
from safetensors.torch import load_file, save_file

from vc_core import cli
from vc_core.checkpoint import open_checkpoint


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
