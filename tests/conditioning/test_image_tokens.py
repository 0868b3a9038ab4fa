"""Image tokens from an encoded picture."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from golden_models import resampler_spec

from golden_cases import cases, load, relative_error
from vc_core.conditioning import (
    ImageEncoder,
    LinearTokens,
    Resampler,
    build_image_tokens,
    tokens_for_frames,
    tokens_of_images,
)
from vc_core.network.attention import ATTENTION
from vc_core.specs import ImageEncoderSpec, LinearTokensSpec, ResamplerSpec

TOLERANCE = 1e-5  # float32 against float64 is 4e-7


@pytest.mark.golden
@pytest.mark.parametrize("attention", ["sdpa", "plain"])
@pytest.mark.parametrize("path", cases("resampler", "dc_resampler"), ids=lambda path: path.stem)
def test_golden_resampler(path: Path, attention: str) -> None:
    info, weights, t = load(path)
    spec = resampler_spec(info["config"])
    model = Resampler(spec, attention=ATTENTION[attention], device="meta").eval()
    model.load_state_dict(weights, assign=True)
    assert info["calls"]
    for call in info["calls"]:
        name = call["name"]
        with torch.no_grad():
            tokens = model(t[f"{name}/in/x"])
            assert tokens.ndim == (3 if spec.frames is None else 4)
            assert relative_error(tokens.flatten(1, -2), t[f"{name}/out/y"]) < TOLERANCE, name


@pytest.mark.golden
@pytest.mark.parametrize("path", cases("imageproj"), ids=lambda path: path.stem)
def test_golden_linear_tokens(path: Path) -> None:
    info, weights, t = load(path)
    config = info["config"]
    spec = LinearTokensSpec(
        tokens=config["clip_extra_context_tokens"],
        embedding_dim=config["clip_embeddings_dim"],
        output_dim=config["cross_attention_dim"],
    )
    model = LinearTokens(spec, device="meta").eval()
    model.load_state_dict(weights, assign=True)
    assert info["calls"]
    for call in info["calls"]:
        name = call["name"]
        with torch.no_grad():
            assert relative_error(model(t[f"{name}/in/x"]), t[f"{name}/out/y"]) < TOLERANCE, name


RESAMPLER = ResamplerSpec(dim=14, depth=2, head_channels=5, heads=3, queries=4, embedding_dim=10, output_dim=7)
LINEAR = LinearTokensSpec(tokens=5, embedding_dim=3, output_dim=7)


@torch.no_grad()
@pytest.mark.parametrize(("spec", "tokens"), [(RESAMPLER, 4), (LINEAR, 5)])
def test_a_picture_becomes_tokens(spec: ResamplerSpec | LinearTokensSpec, tokens: int) -> None:
    torch.manual_seed(5)
    encoder = ImageEncoder(
        ImageEncoderSpec(image_size=28, patch_size=7, width=10, head_width=5, layers=2, embed_dim=3, vocab_size=13)
    ).eval()
    module = build_image_tokens(spec).eval()
    assert module.spec == spec
    pictures = torch.rand(2, 3, 37, 29) * 2 - 1
    out = tokens_of_images(encoder, module, pictures)
    assert out.shape == (2, tokens, 7)
    torch.testing.assert_close(
        out, torch.cat([tokens_of_images(encoder, module, picture[None]) for picture in pictures])
    )


def test_layers_come_from_the_given_operations() -> None:
    made: list[str] = []

    class Operations:
        @staticmethod
        def Linear(*args, **options) -> torch.nn.Linear:
            made.append("Linear")
            return torch.nn.Linear(*args, **options)

        @staticmethod
        def LayerNorm(*args, **options) -> torch.nn.LayerNorm:
            made.append("LayerNorm")
            return torch.nn.LayerNorm(*args, **options)

    for spec in (RESAMPLER, LINEAR):
        made.clear()
        module = build_image_tokens(spec, operations=Operations, device="meta", dtype=torch.float16)
        assert len(made) == sum(isinstance(layer, torch.nn.Linear | torch.nn.LayerNorm) for layer in module.modules())
        assert {parameter.dtype for parameter in module.parameters()} == {torch.float16}


@torch.no_grad()
def test_bfloat16_is_close() -> None:
    torch.manual_seed(5)
    module = Resampler(RESAMPLER).eval()
    x = torch.randn(2, 11, 10)
    expected = module(x)
    assert relative_error(module.bfloat16()(x.bfloat16()).float(), expected) < 0.05  # bfloat16 keeps 8 bits


def test_tokens_for_a_clip_of_another_length_keep_the_course() -> None:
    tokens = torch.randn(2, 16, 3, 5, generator=torch.Generator().manual_seed(2))
    assert tokens_for_frames(tokens, 16) is tokens
    assert torch.equal(tokens_for_frames(tokens, 1)[:, 0], tokens[:, 0])
    for frames in (2, 5, 16, 31, 64):
        made = tokens_for_frames(tokens, frames)
        assert made.shape == (2, frames, 3, 5)
        torch.testing.assert_close(made[:, 0], tokens[:, 0])
        torch.testing.assert_close(made[:, -1], tokens[:, -1])
    torch.testing.assert_close(tokens_for_frames(tokens, 31)[:, ::2], tokens)
    shared = tokens[:, 0]
    assert tokens_for_frames(shared, 7) is shared
