"""StyleCrafter's second cross-attention and its image mode as adapters, against the reference's numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from golden_models import unet_spec
from torch import Tensor

from golden_cases import COMMITTED, cases, fact, load, relative_error, stored
from vc_core.conditions import NEGATIVE, POSITIVE, Branch, Conditioning, Evaluation
from vc_core.errors import UserError
from vc_core.network.adapter import Adapter
from vc_core.network.adapters.stylecrafter import StyleAttention, StyleProjections, WithoutTime
from vc_core.network.call import Pass
from vc_core.network.unet import VideoUNet

TOLERANCE = 3e-5  # float32 against float64 is up to 4.6e-6; the smallest mistake tried is 5e-5
EXACT = 1e-5
LAYERS = "kv_attn_layers."


def network(path: Path) -> tuple[VideoUNet, StyleProjections, dict[str, Any], dict[str, Tensor]]:
    """The base network and the style layers; the rest of the case."""
    info, weights, t = load(path)
    spec = unet_spec(info["config"])
    own = {name.removeprefix(LAYERS): value for name, value in weights.items() if name.startswith(LAYERS)}
    model = VideoUNet(spec, device="meta").eval()
    model.load_state_dict({k: v for k, v in weights.items() if not k.startswith(LAYERS)}, assign=True)
    widths = [(name, len(own[f"{name}.to_k_style.weight"])) for name in info["style_layers"]]
    projections = StyleProjections(widths, spec.context_dim, device="meta").eval().requires_grad_(False)
    projections.load_state_dict(own, assign=True)
    return model, projections, info, t


@pytest.mark.golden
@pytest.mark.parametrize("path", cases("stylecrafter_unet"), ids=lambda path: path.stem)
@torch.no_grad()
def test_golden_stylecrafter(path: Path) -> None:
    model, projections, info, t = network(path)
    assert info["calls"]
    for call in info["calls"]:
        x, text = stored(t, call, "in/x"), stored(t, call, "in/context")
        tokens, scales = stored(t, call, "in/style_tokens"), stored(t, call, "in/scale_scalar")
        assert x is not None
        assert text is not None
        adapters: list[Adapter] = []
        if tokens is not None:
            given = None if scales is None else scales.float()[..., 0]
            weight = fact("style_weight", call, default=1.0)
            predicted = None if given is None else lambda _, given=given: given
            adapters.append(StyleAttention(projections, tokens.float(), predicted, weight))
        if "2D" in call["network"]:
            adapters.append(WithoutTime())
        when = stored(t, call, "in/timesteps")
        y = model(x.float(), when, Conditioning(text.float()), Pass(adapters=tuple(adapters)))
        golden = stored(t, call, "out/y")
        assert golden is not None
        assert relative_error(y, golden) < TOLERANCE, call["name"]


@pytest.fixture(scope="module")
def case() -> tuple[VideoUNet, StyleProjections, Tensor, Tensor, Tensor]:
    """A network, its style layers, latents of 1 clip, and two texts and style tokens for it."""
    (path,) = cases("stylecrafter_unet", folder=COMMITTED)
    model, projections, _, t = network(path)
    text, tokens = (t[f"b2_f8/in/{name}"].float() for name in ("context", "style_tokens"))
    return model, projections, t["b2_f8/in/x"].float()[:1, :, :3], text, tokens[:1]


def predicted(text: Tensor) -> Tensor:
    """Scales b 7 that differ from text to text."""
    return text.mean(dim=(1, 2))[:, None] * torch.arange(1, 8) * 20


def styled(case: tuple[Any, ...], *, weight: float = 1.0) -> StyleAttention:
    return StyleAttention(case[1], case[4], predicted, weight)


@torch.no_grad()
def test_without_effect_the_network_is_bit_equal(case: tuple[Any, ...]) -> None:
    model, projections, x, text, tokens = case
    when, conditioning = torch.tensor([500.0]), Conditioning(text[:1])
    plain = model(x, when, conditioning)
    for adapter in (styled(case, weight=0), StyleAttention(projections, tokens[:, :0])):
        assert torch.equal(model(x, when, conditioning, Pass(adapters=(adapter,))), plain)
    negative = Pass(Evaluation(branches=(NEGATIVE,)), adapters=(styled(case),))
    assert torch.equal(model(x, when, conditioning, negative), plain)
    assert not torch.equal(model(x, when, conditioning, Pass(adapters=(styled(case),))), plain)
    assert torch.equal(model(x, when, conditioning), plain), "nothing is left behind"


@torch.no_grad()
def test_branches_that_share_a_pass_have_their_own_style(case: tuple[Any, ...]) -> None:
    """Each equals the pass of its own, whole and in parts, with joined conditionings and with one clip for each."""
    model, _, x, text, _ = case
    when = torch.tensor([500.0])
    branches = (NEGATIVE, POSITIVE, Branch("unstyled"))
    texts = [Conditioning(text[:1]), Conditioning(text[1:]), Conditioning(text[1:].flip(1))]
    adapter = styled(case)

    def alone(branch: Branch, one: Conditioning) -> Tensor:
        out: Tensor = model(x, when, one, Pass(Evaluation(branches=(branch,)), adapters=(adapter,)))
        return out

    apart = torch.cat([alone(branch, one) for branch, one in zip(branches, texts, strict=True)])
    joined, run = Conditioning.joined(texts), Pass(Evaluation(branches=branches), adapters=(adapter,))
    assert joined is not None
    assert relative_error(model(x, when, joined, run), apart) < EXACT
    clips = model(x.expand(3, -1, -1, -1, -1), when.expand(3), joined, run)
    assert relative_error(clips, apart) < EXACT
    model.budget.values = 2000
    assert relative_error(model(x, when, joined, run), apart) < EXACT
    model.budget.values = 2**24


@torch.no_grad()
def test_a_text_of_each_frame_has_its_own_scales(case: tuple[Any, ...]) -> None:
    model, _, x, text, _ = case
    when, run = torch.tensor([500.0]), Pass(adapters=(styled(case),))
    every = text[:1, None].expand(-1, 3, -1, -1)
    same = model(x, when, Conditioning(every), run)
    assert relative_error(same, model(x, when, Conditioning(text[:1]), run)) < EXACT
    mixed = torch.stack([text[0], text[1], text[0]])[None]
    whole = model(x, when, Conditioning(mixed), run)
    model.budget.values = 2000
    assert relative_error(model(x, when, Conditioning(mixed), run), whole) < EXACT
    model.budget.values = 2**24
    assert relative_error(whole, same) > 1e-3


@torch.no_grad()
def test_scales_are_predicted_once_for_a_pass(case: tuple[Any, ...]) -> None:
    model, projections, x, text, tokens = case
    seen: list[Tensor] = []

    def counted(text: Tensor) -> Tensor:
        seen.append(text)
        return predicted(text)

    adapter = StyleAttention(projections, tokens, counted)
    for _ in range(2):
        model(x, torch.tensor([500.0]), Conditioning(text[:1]), Pass(adapters=(adapter,)))
    assert len(seen) == 1


@torch.no_grad()
def test_image_mode_is_for_one_frame(case: tuple[Any, ...]) -> None:
    model, _, x, text, _ = case
    with pytest.raises(UserError, match=r"The clip has 3 frames.*image mode makes one image. Set frames to 1, or mode"):
        model(x, torch.tensor([500.0]), Conditioning(text[:1]), Pass(adapters=(WithoutTime(),)))
