"""StyleCrafter's two files: recognised, measured, reported, converted and loaded."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint.test_manifests import FOLDER, manifest
from golden_models import unet_spec
from torch import Tensor

from golden_cases import cases, load, relative_error
from vc_core.checkpoint import convert, detect, inspect_checkpoint
from vc_core.checkpoint.building import compare
from vc_core.checkpoint.reading import read
from vc_core.checkpoint.report import describe, table
from vc_core.conditioning.style import StyleAdapter
from vc_core.conditions import Conditioning
from vc_core.errors import UserError
from vc_core.network.adapters.stylecrafter import StyleAttention, text_attentions
from vc_core.network.call import Pass
from vc_core.network.unet import VideoUNet
from vc_core.specs import PRESETS, StyleAdapterSpec

TOLERANCE = 3e-5  # float32 against float64 is up to 4.6e-6
WIDTHS = (320, 320, 640, 640, 1280, 1280, 1280, 1280, 1280, 1280, 640, 640, 640, 320, 320, 320)
BLOCKS = [f"input_blocks.{i}.1" for i in (1, 2, 4, 5, 7, 8)]
BLOCKS += ["middle_block.1", *(f"output_blocks.{i}.1" for i in range(3, 12))]
NAMES = [f"{block.replace('.', '_')}_transformer_blocks_0_attn2_processor" for block in BLOCKS]


def temporal_manifest() -> dict[str, dict[str, Tensor]]:
    """The tensors of the published temporal file on `meta`, in its nesting."""
    content = json.loads(gzip.decompress((FOLDER / "stylecrafter_temporal_v1.json.gz").read_bytes()))
    return {
        name: {key: torch.empty(shape, device="meta") for key, (shape, _) in state.items()}
        for name, state in content.items()
    }


def flat(states: dict[str, dict[str, Tensor]]) -> dict[str, Tensor]:
    return {f"{name}.{key}": tensor for name, state in states.items() for key, tensor in state.items()}


def test_the_published_adapter_is_recognised_with_every_name_and_shape() -> None:
    published = manifest("stylecrafter_adapter_v1")
    for tensors in (published, dict(sorted(published.items()))):  # safetensors sort by name
        found = detect(tensors)
        assert found.parts == ("style_adapter",)
        assert found.contents.unknown == found.contents.ignored == ()
        spec = found.part_spec("style_adapter")
        assert spec == StyleAdapterSpec(attentions=tuple(zip(NAMES, WIDTHS, strict=True)))
        assert list(spec.attentions) == text_attentions(PRESETS["videocrafter1_t2v_512"].unet)
        assert not compare(StyleAdapter(spec, device="meta"), tensors)
    assert sum(tensor.numel() for tensor in published.values()) == 111_188_161


def test_the_published_temporal_layers_are_recognised_and_fit_the_base() -> None:
    published = flat(temporal_manifest())
    found = detect(published)
    assert found.parts == ("style_temporal",)
    assert found.contents.unknown == found.contents.ignored == ()
    names = found.part_spec("style_temporal").transformers
    assert len(names) == 17
    base = detect(manifest("t2v_512_v1.0"))
    unet = base.contents.parts["unet"]
    assert all(unet[name].shape == tensor.shape for name, tensor in published.items())
    replaced = {name.rpartition(".transformer_blocks.")[0] for name in unet if "relative_position" in name}
    assert set(names) == replaced
    assert detect(manifest("t2v_512_v1.0")).parts == base.parts, "a UNet still is one"
    bare = {**unet, "sketch": torch.zeros(1)}
    assert detect(bare).parts == ("unet",)


SMALL = StyleAdapterSpec(
    image_width=16,
    text_width=8,
    tokens=3,
    layers=2,
    scale_hidden=5,
    scales=4,
    attentions=(("input_blocks_2_1_x_processor", 4), ("input_blocks_10_1_x_processor", 8), ("middle_block_1_x", 8)),
)


def small_adapter(spec: StyleAdapterSpec = SMALL) -> dict[str, Tensor]:
    return {name: torch.zeros_like(tensor) for name, tensor in StyleAdapter(spec).state_dict().items()}


def small_temporal() -> dict[str, dict[str, Tensor]]:
    first = {"norm.weight": torch.ones(4), "proj_in.weight": torch.zeros(4, 4, 1)}
    return {"init_attn.0": first, "input_blocks.1.2": {**first, "proj_in.weight": torch.zeros(4, 4)}}


def saved(folder: Path, weights: Any, *, name: str = "adapter_v1.pth", nested: bool = False) -> Path:
    torch.save({"state_dict": weights} if nested else weights, folder / name)
    return folder / name


@pytest.mark.parametrize("nested", [False, True])
def test_both_are_read_bare_and_nested(nested: bool, tmp_path: Path) -> None:
    adapter = inspect_checkpoint(saved(tmp_path, small_adapter(), nested=nested))
    assert adapter.detection.part_spec("style_adapter") == SMALL
    temporal = inspect_checkpoint(saved(tmp_path, small_temporal(), name="temporal.pth", nested=nested))
    assert temporal.weights("style_temporal").keys() == flat(small_temporal()).keys()
    assert temporal.detection.part_spec("style_temporal").transformers == ("init_attn.0", "input_blocks.1.2")


def test_heads_are_assumed() -> None:
    odd = replace(SMALL, image_width=6, text_width=9, heads=1, scale_heads=1)
    assert detect(small_adapter(odd)).part_spec("style_adapter") == odd


def test_they_are_reported(tmp_path: Path) -> None:
    report = describe(inspect_checkpoint(saved(tmp_path, small_adapter())))
    part = report["parts"]["style_adapter"]
    assert part["missing"] == part["unexpected"] == part["misshapen"] == []
    assert "It is the style adapter (StyleCrafter) without a UNet." in table(report)
    weights = small_adapter()
    del weights["scale_predictor.ln1.bias"]
    wrong = describe(inspect_checkpoint(saved(tmp_path, weights)))["parts"]["style_adapter"]
    assert wrong["missing"] == ["scale_predictor.ln1.bias"]
    del weights["image_context_model.style_emb"]
    with pytest.raises(UserError, match="nothing in it is recognised"):
        inspect_checkpoint(saved(tmp_path, weights))
    states = small_temporal()
    report = describe(inspect_checkpoint(saved(tmp_path, states, name="temporal.pth")))
    assert "It is the temporal layers (StyleCrafter) without a UNet." in table(report)
    del states["input_blocks.1.2"]["proj_in.weight"]
    with pytest.raises(UserError, match=r"temporal layers .* not complete: the tensor input_blocks.1.2.proj_in.weight"):
        inspect_checkpoint(saved(tmp_path, states, name="temporal.pth"))


@pytest.mark.parametrize("split", [False, True])
def test_they_are_converted_and_recognised_again(split: bool, tmp_path: Path) -> None:
    source = saved(tmp_path, small_adapter())
    (made,) = convert(source, tmp_path / "made", split=split, dtype="fp16")
    assert made.name == ("adapter_v1_style.safetensors" if split else "adapter_v1.safetensors")
    assert inspect_checkpoint(made).detection.part_spec("style_adapter") == SMALL
    source = saved(tmp_path, small_temporal(), name="temporal.pth")
    (made,) = convert(source, tmp_path / "made", split=split, dtype="fp16")
    assert made.name == ("temporal_temporal.safetensors" if split else "temporal.safetensors")
    assert inspect_checkpoint(made).weights("style_temporal").keys() == flat(small_temporal()).keys()


@pytest.mark.golden
@pytest.mark.parametrize("path", cases("stylecrafter_files"), ids=lambda path: path.stem)
@torch.no_grad()
def test_golden_files(path: Path) -> None:
    """What the reference computes before and after it reads each file."""
    info, weights, t = load(path)
    config = info["adapter_config"]["params"]
    opened = inspect_checkpoint(path.parent / info["adapter_file"])
    assert {name: list(tensor.shape) for name, tensor in opened.weights("style_adapter").items()} == info[
        "adapter_keys"
    ]
    heads = {
        "heads": config["image_context_config"]["params"]["num_heads"],
        "scale_heads": config["scale_predictor_config"]["params"]["num_heads"],
    }
    adapter = StyleAdapter(replace(opened.detection.part_spec("style_adapter"), **heads), device="meta").eval()
    adapter.load_state_dict(opened.weights("style_adapter", dtype=torch.float32), assign=True)
    temporal = inspect_checkpoint(path.parent / info["temporal_file"])
    assert set(temporal.detection.part_spec("style_temporal").transformers) == set(info["temporal_names"])

    x, when, text = (t[f"in/{name}"].float() for name in ("x", "timesteps", "context"))
    tokens = adapter.tokens([t["in/features"].float()])
    scales = adapter.scales_of(tokens)(text)
    assert relative_error(tokens, t["out/style_tokens"]) < 1e-5
    assert relative_error(scales, t["out/scale_scalar"][..., 0]) < 1e-5
    styled = StyleAttention(adapter.kv_attn_layers, tokens, adapter.scales_of(tokens), config["scale"])

    def output(state: dict[str, Tensor], *adapters: StyleAttention) -> Tensor:
        model = VideoUNet(unet_spec(info["config"]), device="meta").eval()
        model.load_state_dict(state, assign=True)
        out: Tensor = model(x, when, Conditioning(text), Pass(adapters=adapters))
        return out

    after = {**weights, **temporal.weights("style_temporal", dtype=torch.float32)}
    assert after.keys() == weights.keys()
    for name, ours in {
        "y_base_no_style": output(weights),
        "y_adapter": output(weights, styled),
        "y_temporal_no_style": output(after),
        "y_adapter_temporal": output(after, styled),
    }.items():
        assert relative_error(ours, t[f"out/{name}"]) < TOLERANCE, name


def test_a_dict_of_other_dicts_is_left_alone(tmp_path: Path) -> None:
    mixed = {"epoch": 3, "input_blocks.1.2": {"norm.weight": torch.ones(4)}}
    with pytest.raises(UserError, match="holds no tensors"):
        read(saved(tmp_path, mixed))
