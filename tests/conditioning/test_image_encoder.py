"""Pictures prepared for the image encoder, and its tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from golden_cases import cases, load, relative_error
from vc_core.conditioning import ImageEncoder, preprocess
from vc_core.conditioning.image_encoder import DEVIATION, MEAN
from vc_core.errors import UserError
from vc_core.specs import ImageEncoderSpec

TOLERANCE_PIXELS = 1e-5
TOLERANCE_TOKENS = 1e-4  # float32 against float64 is up to 1.5e-5, by the coordinates of the resampling
SMALL = ImageEncoderSpec(
    image_size=28, patch_size=7, width=10, head_width=5, layers=2, embed_dim=3, text_width=2, vocab_size=13
)
GREY = torch.zeros(1, 3, 224, 224)


def picture_of(tensors: dict[str, Tensor], name: str) -> Tensor:
    return (tensors[f"{name}/in/image_u8"].float() / 255 - 0.5) * 2


@pytest.mark.golden
@pytest.mark.parametrize("path", cases("image_preprocess"), ids=lambda path: path.stem)
def test_golden_preprocess(path: Path) -> None:
    info, _, t = load(path)
    assert info["calls"]
    for call in info["calls"]:
        name, stride = call["name"], call["stride"]
        ours = preprocess(picture_of(t, name))
        assert ours.shape == (call["b"], 3, 224, 224)
        assert relative_error(ours[..., ::stride, ::stride], t[f"{name}/out/pixels"]) < TOLERANCE_PIXELS, name
    if "uncond/out/pixels" in t:
        golden = t["uncond/out/pixels"]
        stride = 224 // golden.shape[-1]
        assert relative_error(preprocess(GREY)[..., ::stride, ::stride], golden) < TOLERANCE_PIXELS


def encoder_of(info: dict[str, Any], weights: dict[str, Tensor]) -> ImageEncoder:
    context_length, text_width = weights["model.positional_embedding"].shape
    embedding = weights.get("model.token_embedding.weight")  # which files mostly leave out
    spec = ImageEncoderSpec(
        **info["config"],
        embed_dim=info["embed_dim"],
        context_length=context_length,
        text_width=text_width,
        vocab_size=ImageEncoderSpec.vocab_size if embedding is None else len(embedding),
    )
    model = ImageEncoder(spec, device="meta").eval()
    model.load_state_dict(weights, assign=True)
    return model


@pytest.mark.golden
@pytest.mark.parametrize("grad", [False, True])  # torch takes another path through attention without gradients
@pytest.mark.parametrize("path", cases("image_encoder"), ids=lambda path: path.stem)
def test_golden_image(path: Path, grad: bool) -> None:
    info, weights, t = load(path)
    pictures = load_file(str(path.parent / info["images"].split()[0]))
    model = encoder_of(info, weights)
    assert info["calls"]
    with torch.set_grad_enabled(grad):
        for call in info["calls"]:
            name = call["name"]
            tokens = model(picture_of(pictures, name)).detach()
            assert list(tokens.shape) == call["shape"], name
            error = relative_error(tokens[:, :: call["token_stride"]], t[f"{name}/out/tokens"])
            assert error < TOLERANCE_TOKENS, name
        if "uncond/out/tokens" in t:
            assert relative_error(model(GREY).detach(), t["uncond/out/tokens"]) < TOLERANCE_TOKENS


def normalised(value: float) -> Tensor:
    """A picture of one colour, -1..1, as the encoder sees it."""
    mean, deviation = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, DEVIATION))
    return ((value + 1) / 2 - mean) / deviation


@pytest.mark.parametrize(
    ("height", "width"), [(1, 1), (1, 300), (300, 1), (1, 3000), (2, 2), (224, 1), (223, 225), (225, 2), (11, 1307)]
)
def test_one_colour_stays_one_colour(height: int, width: int) -> None:
    out = preprocess(torch.full((2, 3, height, width), 0.25))
    assert out.shape == (2, 3, 224, 224)
    torch.testing.assert_close(out, normalised(0.25).expand_as(out), atol=1e-5, rtol=0)  # rounding of the kernels


def test_pictures_of_a_batch_are_prepared_alone() -> None:
    pictures = torch.rand(3, 3, 251, 97, generator=torch.Generator().manual_seed(7)) * 2 - 1
    alone = torch.cat([preprocess(picture[None]) for picture in pictures])
    torch.testing.assert_close(preprocess(pictures), alone)


def test_grey_is_the_same_in_three_channels() -> None:
    grey = torch.rand(1, 1, 31, 41, generator=torch.Generator().manual_seed(7)) * 2 - 1
    assert torch.equal(preprocess(grey), preprocess(grey.expand(-1, 3, -1, -1)))


def test_is_float32_whatever_comes() -> None:
    assert preprocess(torch.zeros(1, 3, 5, 7, dtype=torch.float16), 28).dtype == torch.float32


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 4, 8, 8), (1, 8, 8, 3), (1, 3, 0, 8), (0, 3, 8, 8), (1, 3, 2, 8, 8)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match="should have the shape"):
        preprocess(torch.zeros(shape))


@pytest.fixture(scope="module")
def model() -> ImageEncoder:
    torch.manual_seed(5)
    return ImageEncoder(SMALL).eval()


@torch.no_grad()
def test_tokens_and_pooled(model: ImageEncoder) -> None:
    pictures = torch.rand(3, 3, 31, 41, generator=torch.Generator().manual_seed(7)) * 2 - 1
    tokens = model(pictures)
    assert tokens.shape == (3, SMALL.tokens, 10) == (3, 17, 10)
    torch.testing.assert_close(tokens, torch.cat([model(picture[None]) for picture in pictures]))
    pooled = model.model.visual(preprocess(pictures, 28))  # open_clip's own way
    torch.testing.assert_close(model.pooled(pictures), pooled)


def test_text_leftovers_may_be_absent(model: ImageEncoder) -> None:
    whole = model.state_dict()
    assert model.optional == {
        *("model.token_embedding.weight", "model.positional_embedding", "model.ln_final.weight"),
        *("model.ln_final.bias", "model.text_projection", "model.logit_scale"),
    }
    picture_only = {name: tensor for name, tensor in whole.items() if name not in model.optional}
    bare = ImageEncoder(SMALL, device="meta").eval()
    bare.load_state_dict(picture_only, assign=True)
    assert set(bare.state_dict()) == set(picture_only)
    assert not any(parameter.is_meta for parameter in bare.parameters())
    with torch.no_grad():
        assert torch.equal(bare(GREY), model(GREY))


def test_picture_tensors_may_not_be_absent(model: ImageEncoder) -> None:
    tensors = model.state_dict()
    del tensors["model.visual.ln_pre.weight"]
    with pytest.raises(RuntimeError, match=r"visual\.ln_pre\.weight"):
        ImageEncoder(SMALL, device="meta").load_state_dict(tensors, assign=True)


def test_nothing_is_drawn_for_meta() -> None:
    state = torch.get_rng_state()
    model = ImageEncoder(SMALL, device="meta")
    assert torch.equal(torch.get_rng_state(), state)
    assert list(model.buffers()) == []
