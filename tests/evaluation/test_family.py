"""The figures of the family: a whole run of the command on models of random weights."""

from __future__ import annotations

import json
from pathlib import Path

import small_models
import torch

from evaluation.family import main


def test_the_command_measures_everything(tmp_path: Path) -> None:
    pictured = small_models.save(small_models.CONTINUING_MODEL, tmp_path / "pictured.safetensors")
    text = small_models.save(small_models.TEXT_MODEL, tmp_path / "text.safetensors")
    torch.save(small_models.turbo_list(small_models.TEXT_MODEL.unet), tmp_path / "lora.pt")
    result, sheet = tmp_path / "family.json", tmp_path / "family.png"
    words = ["--model", str(pictured), "--text-model", str(text), "--lora", str(tmp_path / "lora.pt")]
    words += ["--count", "1", "--lengths", "4", "--steps", "1", "--many", "1"]
    assert main([*words, "--result", str(result), "--sheet", str(sheet)]) == 0
    found = json.loads(result.read_text(encoding="utf-8"))
    pictures = found["pictures"]
    assert pictures["files"].keys() == {"pictured.safetensors"}
    assert pictures["first frame, dB"] < pictures["the autoencoder alone, dB"] + 20  # both are noise, no more is known
    assert pictures["loop: seam error"] > 0
    resampled, to_all = (pictures["4 frames"][name] for name in ("tokens resampled", "all tokens to each frame"))
    assert resampled["ends, dB"] != to_all["ends, dB"]
    few = found["few steps"]
    assert few["files"].keys() == {"text.safetensors", "lora.pt"}
    ways = ("1 steps", "4 steps without the LoRA", "4 steps", "8 steps")
    assert all(few[way]["clips"] == 1 and 0 <= few[way]["colour"] <= 100 for way in ways)
    assert sheet.is_file()
    assert main([*words, "--result", str(result), "--questions", "few steps"]) == 0
    again = json.loads(result.read_text(encoding="utf-8"))
    assert json.dumps(again) == json.dumps(found)
