"""ToonCrafter's sketch encoder is recognised, measured, reported, converted and built."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from checkpoint.test_manifests import manifest
from safetensors.torch import load_file
from torch import Tensor

from vc_core.checkpoint import convert, detect, inspect_checkpoint, open_checkpoint
from vc_core.checkpoint.report import describe, table
from vc_core.errors import UserError
from vc_core.network.adapters.sketch import SketchEncoder
from vc_core.specs.sketch import SketchEncoderSpec

SMALL = SketchEncoderSpec(
    hint_widths=(4, 6), model_channels=8, channel_mult=(1, 2), num_res_blocks=1, attention_levels=(1,), context_dim=12
)


def shapes(spec: SketchEncoderSpec) -> dict[str, tuple[int, ...]]:
    network = SketchEncoder(spec, device="meta")
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def tensors(spec: SketchEncoderSpec = SMALL) -> dict[str, Tensor]:
    return {name: torch.zeros(shape) for name, shape in shapes(spec).items()}


def saved(folder: Path, weights: dict[str, Tensor]) -> Path:
    path = folder / "sketch_encoder.ckpt"
    torch.save({"state_dict": weights}, path)
    return path


def test_the_published_file_is_recognised_with_every_name_and_shape() -> None:
    published = manifest("tooncrafter_sketch_encoder")
    found = detect(published)
    assert found.parts == ("sketch_encoder",)
    assert found.contents.unknown == found.contents.ignored == ()
    assert found.part_spec("sketch_encoder") == SketchEncoderSpec()
    assert shapes(SketchEncoderSpec()) == {name: tuple(tensor.shape) for name, tensor in published.items()}


@pytest.mark.parametrize(
    "spec",
    [SMALL, replace(SMALL, attention_levels=(), num_res_blocks=2), replace(SMALL, in_channels=8, hint_widths=(4,))],
)
def test_its_numbers_are_measured(spec: SketchEncoderSpec) -> None:
    assert detect(tensors(spec)).part_spec("sketch_encoder") == spec


def test_it_is_reported(tmp_path: Path) -> None:
    report = describe(inspect_checkpoint(saved(tmp_path, tensors())))
    part = report["parts"]["sketch_encoder"]
    assert part["missing"] == part["unexpected"] == part["misshapen"] == []
    assert "It is the sketch encoder (ToonCrafter's ControlNet) without a UNet." in table(report)
    weights = tensors()
    del weights["zero_convs.1.0.bias"]
    weights["middle_block_out.0.weight"] = torch.zeros(3, 3, 1, 1)
    wrong = describe(inspect_checkpoint(saved(tmp_path, weights)))["parts"]["sketch_encoder"]
    assert wrong["missing"] == ["zero_convs.1.0.bias"]
    assert wrong["misshapen"] == ["middle_block_out.0.weight is [3, 3, 1, 1], should be [16, 16, 1, 1]"]


@pytest.mark.parametrize("split", [False, True])
def test_it_is_converted_and_recognised_again(split: bool, tmp_path: Path) -> None:
    (made,) = convert(saved(tmp_path, tensors()), tmp_path / "made", split=split, dtype="fp16")
    assert made.name == ("sketch_encoder_sketch.safetensors" if split else "sketch_encoder.safetensors")
    kept = load_file(str(made))
    assert kept.keys() == shapes(SMALL).keys()
    assert {tensor.dtype for tensor in kept.values()} == {torch.float16}
    assert inspect_checkpoint(made).detection.part_spec("sketch_encoder") == SMALL


def test_it_is_built_with_the_weights_of_its_file(tmp_path: Path) -> None:
    weights = {name: torch.randn(shape) for name, shape in shapes(SMALL).items()}
    network = open_checkpoint(saved(tmp_path, weights)).build("sketch_encoder")
    assert isinstance(network, SketchEncoder)
    assert all(torch.equal(value, weights[name]) for name, value in network.state_dict().items())
    del weights["zero_convs.1.0.bias"]
    with pytest.raises(UserError, match=r"sketch encoder .* do not fit its network \(1 missing: zero_convs.1.0.bias"):
        open_checkpoint(saved(tmp_path, weights)).build("sketch_encoder")


def test_a_controlnet_of_another_kind_is_still_one() -> None:
    other = tensors() | {"input_hint_block.0.weight": torch.zeros(16, 3, 3, 3)}
    with pytest.raises(UserError, match="it seems to be a ControlNet"):
        detect(other)
