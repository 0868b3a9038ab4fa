"""Tokens as text conditioning."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from golden_cases import cases, load, relative_error
from vc_core.conditioning import TextEncoder, tokenize
from vc_core.errors import UserError
from vc_core.specs import TextEncoderSpec

TOLERANCE = 1e-5  # float32 against float64 is 4e-7
SMALL = TextEncoderSpec(width=10, heads=5, layers=3, embed_dim=7)


@pytest.mark.golden
@pytest.mark.parametrize("grad", [False, True])  # torch takes another path through attention without gradients
@pytest.mark.parametrize("path", cases("text_encoder"), ids=lambda path: path.stem)
def test_golden_text(path: Path, grad: bool) -> None:
    info, weights, t = load(path)
    model = TextEncoder(TextEncoderSpec(**info["config"], embed_dim=info["embed_dim"]), device="meta").eval()
    model.load_state_dict(weights, assign=True)
    assert info["calls"]
    for call in info["calls"]:
        name = call["name"]
        tokens = t[f"{name}/in/tokens"]
        with torch.set_grad_enabled(grad):
            penultimate, last = model.encode(tokens).detach(), model.encode(tokens, skip=0).detach()
        assert relative_error(penultimate, t[f"{name}/out/penultimate"]) < TOLERANCE, name
        assert relative_error(last, t[f"{name}/out/last_layer"]) < TOLERANCE, name
        assert torch.equal(model(info["prompts"]).detach(), model.encode(tokens).detach()), name


@pytest.fixture(scope="module")
def model() -> TextEncoder:
    torch.manual_seed(5)
    return TextEncoder(SMALL).eval()


@torch.no_grad()
def test_is_initialised_to_finite_numbers(model: TextEncoder) -> None:
    out = model(["a boat", ""])
    assert out.shape == (2, 77, 10)
    assert out.isfinite().all()


@torch.no_grad()
def test_places_look_back_only(model: TextEncoder) -> None:
    tokens = tokenize(["a boat moving on the sea"])
    other = tokens.clone()
    other[0, 5:] = 11
    ours, theirs = model.encode(tokens), model.encode(other)
    torch.testing.assert_close(ours[:, :5], theirs[:, :5])
    assert not torch.allclose(ours[:, 5], theirs[:, 5])


@torch.no_grad()
def test_prompts_do_not_see_each_other(model: TextEncoder) -> None:
    """A batch read as a sequence, the fault of packs that ignored open_clip's change of layout, fails here."""
    prompts = ["a boat", "", "fireworks over a city"]
    alone = torch.cat([model([prompt]) for prompt in prompts])
    torch.testing.assert_close(model(prompts), alone)


@torch.no_grad()
def test_last_block_is_loaded_but_not_used(model: TextEncoder) -> None:
    before = model(["a boat"])
    last: Tensor = model.model.transformer.resblocks[-1].mlp.c_fc.weight
    last.mul_(3)
    assert torch.equal(model(["a boat"]), before)
    assert "model.transformer.resblocks.2.mlp.c_fc.weight" in model.state_dict()


@torch.no_grad()
def test_half_precision_is_close(model: TextEncoder) -> None:
    low = TextEncoder(SMALL, device="meta", dtype=torch.bfloat16).eval()
    low.load_state_dict({name: tensor.bfloat16() for name, tensor in model.state_dict().items()}, assign=True)
    out = low(["a boat"])
    assert out.dtype == torch.bfloat16
    assert relative_error(out.float(), model(["a boat"])) < 0.03  # bfloat16 keeps 8 bits


def test_nothing_is_drawn_for_meta() -> None:
    state = torch.get_rng_state()
    model = TextEncoder(SMALL, device="meta")
    assert torch.equal(torch.get_rng_state(), state)
    assert all(tensor.is_meta for tensor in model.state_dict().values())
    assert list(model.buffers()) == []


def test_bad_tokens_are_refused(model: TextEncoder) -> None:
    with pytest.raises(UserError, match=r"78 tokens.*up to 77"):
        model.encode(torch.zeros(1, 78, dtype=torch.int64))
    with pytest.raises(UserError, match=r"49408.*has 0 to 49407"):
        model.encode(torch.tensor([[49408]]))
    with pytest.raises(UserError, match="should be text"):
        model([None])
