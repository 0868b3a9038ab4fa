"""Layer Guidance: perturbed-attention and skip-layer guidance in one further branch."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch
from small_models import RELATIVE_MODEL, TEXT_MODEL, save
from torch import Tensor

from golden_cases import relative_error
from vc_core.conditions import POSITIVE, Conditioning, Evaluation
from vc_core.control import LayerGuidance, Scene
from vc_core.control.layer_guidance import blocks_with_attention
from vc_core.control.table import check
from vc_core.denoising import Sampling
from vc_core.errors import UserError
from vc_core.network.adapters.weakened import WeakenedLayers, Weakening
from vc_core.network.call import Pass
from vc_core.network.transformers import TemporalTransformer
from vc_core.pipeline import VideoCrafter
from vc_core.request import Request
from vc_core.specs import FAMILY

REQUEST = Request(width=64, height=64, frames=4, seed=3, sampling=Sampling(steps=1, eta=0.0), cfg=5.0)
SCENE = Scene(spec=TEXT_MODEL, frames=4, width=32, height=24, steps=4, cfg=5.0)
EVERYWHERE = ("middle_block", *(f"{kind}_blocks.{number}" for kind in ("input", "output") for number in range(9)))
WEAKENED = Evaluation(branches=(replace(POSITIVE, without=frozenset({"layer_guidance"})),))
EXACT = 1e-5


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, VideoCrafter]:
    folder = tmp_path_factory.mktemp("models")
    specs = {"text": TEXT_MODEL, "relative": RELATIVE_MODEL}
    return {name: VideoCrafter.load(save(spec, folder / f"{name}.safetensors")) for name, spec in specs.items()}


def made(model: VideoCrafter, control: LayerGuidance | None = None, **changes: Any) -> Tensor:
    request = replace(REQUEST, controls=() if control is None else (control,), **changes)
    return list(model.steps("a boat", request=request))[-1].x


@pytest.mark.parametrize("given", [{}, {"spatial": "off", "temporal": "skipped"}, {"temporal": "perturbed"}])
def test_guidance_is_off_at_a_scale_of_0_and_grows_with_it(models: dict[str, VideoCrafter], given: Any) -> None:
    """One step, so what it adds is in proportion."""
    model = models["text"]
    plain, half, whole = (made(model, LayerGuidance(scale=scale, **given)) for scale in (0.0, 0.5, 1.0))
    assert torch.equal(plain, made(model))
    assert relative_error(whole, plain) > 1e-4
    assert relative_error(whole - plain, 2 * (half - plain)) < 1e-3


def test_it_guides_without_a_negative_prompt(models: dict[str, VideoCrafter]) -> None:
    plain = made(models["text"], cfg=1.0)
    assert relative_error(made(models["text"], LayerGuidance(), cfg=1.0), plain) > 1e-4


@pytest.mark.parametrize("kind", ["text", "relative"])
@torch.no_grad()
def test_weakened_layers(models: dict[str, VideoCrafter], kind: str) -> None:
    """Frames that attend to themselves alone are what temporal guidance compares with; skipped layers add nothing."""
    unet = deepcopy(models[kind].unet)
    generator = torch.Generator().manual_seed(1)
    given = (
        torch.randn(1, 4, 4, 6, 8, generator=generator),
        torch.tensor([500.0]),
        Conditioning(torch.randn(1, 5, 48, generator=generator)),
    )

    def weakened(evaluation: Evaluation = WEAKENED, **how: Any) -> Tensor:
        adapter = WeakenedLayers("layer_guidance", Weakening(**{"spatial": "off", "temporal": "off", **how}))
        out: Tensor = unet(*given, Pass(evaluation, adapters=(adapter,)))
        return out

    plain = unet(*given)
    assert torch.equal(weakened(Evaluation(), spatial="skipped", blocks=EVERYWHERE), plain), "only in its branch"
    alone = unet(*given, Pass(Evaluation(branches=(replace(POSITIVE, temporal=False),))))
    assert relative_error(weakened(temporal="perturbed", blocks=(*EVERYWHERE, "init_attn")), alone) < EXACT
    middle = next(layer for layer in unet.middle_block if isinstance(layer, TemporalTransformer))
    for block in middle.transformer_blocks:
        for layer in (block.attn1, block.attn2):
            layer.to_out[0].weight.zero_()
            layer.to_out[0].bias.zero_()
    assert relative_error(unet(*given), plain) > EXACT
    assert relative_error(weakened(temporal="skipped", blocks=("middle_block",)), unet(*given)) < EXACT


def test_the_blocks_of_published_models() -> None:
    names = [["input_blocks", 1, 2, 4, 5, 7, 8], ["output_blocks", *range(3, 12)]]
    inputs, outputs = ([f"{kind}.{number}" for number in numbers] for kind, *numbers in names)
    for member in FAMILY:
        assert list(blocks_with_attention(member.spec.unet)) == [*inputs, "middle_block", *outputs]


@pytest.mark.parametrize("blocks", ["", "output_blocks.0", "middle"])
def test_other_blocks_are_refused(blocks: str) -> None:
    with pytest.raises(UserError, match="give names of blocks with attention"):
        check([LayerGuidance(blocks=blocks)], SCENE, {})
