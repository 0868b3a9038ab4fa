"""StyleCrafter's style images, style tokens and scales, against the reference's numbers."""

from __future__ import annotations

import copy
import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from golden_cases import cases, load, relative_error
from vc_core.conditioning import ImageEncoder
from vc_core.conditioning.style import ScalePredictor, StyleAdapter, StyleEncoder, features_of_images, image_bias
from vc_core.control.stylecrafter import STYLE_SIZE
from vc_core.errors import UserError
from vc_core.frames.fitting import fit
from vc_core.frames.pixels import to_network
from vc_core.specs import ImageEncoderSpec, StyleAdapterSpec

TOLERANCE_FEATURES = 1e-4  # float32 against float64 is 1.8e-6 before rounding; without rounding it is 2e-4
TOLERANCE = 1e-5  # float32 against float64 is 6e-7
VISION = "style_stage_model."


def vision_tower(arch: dict[str, Any], weights: dict[str, Tensor]) -> ImageEncoder:
    """The image encoder of a case, from the weights of its style_stage_model."""
    vision = arch["vision_cfg"]
    spec = ImageEncoderSpec(
        image_size=vision["image_size"],
        patch_size=vision["patch_size"],
        width=vision["width"],
        head_width=vision["head_width"],
        layers=vision["layers"],
        embed_dim=arch["embed_dim"],
        text_width=arch["text_cfg"]["width"],
    )
    model = ImageEncoder(spec, device="meta").eval()
    own = {name.removeprefix(VISION): value for name, value in weights.items() if name.startswith(VISION)}
    model.load_state_dict(own, assign=True)
    return model


@pytest.mark.golden
@pytest.mark.parametrize("path", cases("stylecrafter_image"), ids=lambda path: path.stem)
@torch.no_grad()
def test_golden_features(path: Path) -> None:
    info, weights, t = load(path)
    encoder = vision_tower(info["clip_arch"], weights)
    assert info["calls"]
    for call in info["calls"]:
        name, times = call["name"], call["repeat_each_pixel"]
        image = t[f"{name}/in/image_u8"].repeat_interleave(times, 0).repeat_interleave(times, 1)
        pixels = to_network(fit(image.float() / 255, STYLE_SIZE, STYLE_SIZE, "published")[None])
        cut = ((pixels[0].permute(1, 2, 0) + 1) * 127.5).round().to(torch.uint8)
        if hashlib.sha256(cut.numpy().tobytes()).hexdigest() != call["crop_sha256"]:  # by another Pillow
            golden = t[f"{name}/out/crop_u8_every8"].int()
            assert int((cut[::8, ::8].int() - golden).abs().max()) <= 1, name
        assert relative_error(features_of_images(encoder, pixels), t[f"{name}/out/features"]) < TOLERANCE_FEATURES, name


def adapter_spec(style: dict[str, Any], scale: dict[str, Any], hidden: int) -> StyleAdapterSpec:
    """The adapter's spec, from the reference's settings of its two networks and the width of the last layers."""
    return StyleAdapterSpec(
        image_width=style["in_dim"],
        text_width=style["out_dim"],
        tokens=style["num_tokens"],
        layers=style["n_layers"],
        heads=style["num_heads"],
        scale_layers=scale["n_layers"],
        scale_heads=scale["num_heads"],
        scale_hidden=hidden,
        scales=scale["num_tokens"],
    )


def networks(path: Path) -> tuple[StyleEncoder, ScalePredictor, dict[str, Any], dict[str, Tensor]]:
    info, weights, t = load(path)
    settings = (info["config"][name] for name in ("style_transformer", "scale_encoder"))
    spec = adapter_spec(*settings, hidden=len(weights["scale_predictor.out.0.weight"]))
    made = StyleAdapter(spec, device="meta").eval().requires_grad_(False)
    for prefix in ("image_context_model", "scale_predictor"):
        own = {name.removeprefix(f"{prefix}."): v for name, v in weights.items() if name.startswith(f"{prefix}.")}
        made.get_submodule(prefix).load_state_dict(own, assign=True)
    return made.image_context_model, made.scale_predictor, info, t


@pytest.mark.golden
@pytest.mark.parametrize("path", cases("stylecrafter_adapter"), ids=lambda path: path.stem)
@torch.no_grad()
def test_golden_tokens_and_scales(path: Path) -> None:
    encoder, predictor, info, t = networks(path)
    assert info["calls"]
    for call in info["calls"]:
        name = call["name"]
        tokens = encoder(t[f"{name}/in/features"].float())
        assert relative_error(tokens, t[f"{name}/out/style_tokens"]) < TOLERANCE, name
        scales = predictor(tokens, t[f"{name}/in/text"].float())
        assert relative_error(scales, t[f"{name}/out/scale_scalar"][..., 0]) < TOLERANCE, name


SMALL = StyleAdapterSpec(image_width=16, text_width=8, tokens=3, layers=2, heads=4, scale_heads=2, scales=2)


@pytest.fixture(scope="module")
def adapter() -> StyleAdapter:
    torch.manual_seed(0)
    made = StyleAdapter(SMALL).eval().requires_grad_(False)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return made


def features(seed: int) -> Tensor:
    return torch.randn(1, 5, 16, generator=torch.Generator().manual_seed(seed))


def test_weights_count_images(adapter: StyleAdapter) -> None:
    """2 is as the image twice, 0 as without it, and 1 exactly the published concatenation."""
    a, b = features(1), features(2)
    plain = adapter.tokens([a, b])
    assert torch.equal(adapter.tokens([a, b], [1, 1]), plain)
    assert relative_error(adapter.tokens([a, b], [2, 1]), adapter.tokens([a, a, b])) < 1e-6
    assert relative_error(adapter.tokens([a, b], [0, 1]), adapter.tokens([b])) < 1e-6
    assert relative_error(adapter.tokens([b, a]), plain) < 1e-6, "their order does not matter"
    assert relative_error(adapter.tokens([a, b], [0.5, 1]), plain) > 1e-3


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0], "There are 1 weights for 2 style images. Give one weight for each image, or none"),
        ([0, 0], "The weights of the style images are 0, 0; each should be 0 or more, and one of them above 0"),
        ([-1, 1], "are -1, 1; each should be 0 or more"),
        ([float("nan"), 1], "are nan, 1; each should be 0 or more"),
    ],
)
def test_wrong_weights_are_refused(weights: list[float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        image_bias([5, 5], weights)


def test_another_image_encoder_is_refused(adapter: StyleAdapter) -> None:
    with pytest.raises(UserError, match=r"tokens are 12 wide, but StyleCrafter's style encoder reads 16. Use OpenCLIP"):
        adapter.tokens([torch.zeros(1, 5, 12)])


def test_scales_are_float32_in_half_precision(adapter: StyleAdapter) -> None:
    half = copy.deepcopy(adapter).half()
    scales = half.scales_of(torch.ones(1, 3, 8, dtype=torch.float16))(torch.ones(2, 7, 8, dtype=torch.float16))
    assert scales.shape == (2, 2)
    assert scales.dtype == half.tokens([features(1).half()]).dtype == torch.float32
