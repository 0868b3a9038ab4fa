"""How much temporal attention adds: by level, stage, frame and mask, and Enhance-A-Video's factor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from fused_passes import Defined
from torch import Tensor, nn

from golden_cases import relative_error
from vc_core.conditions import Conditioning, Evaluation
from vc_core.network.adapter import Adapter, Attend, Place, Recording, Site
from vc_core.network.adapters import motion
from vc_core.network.adapters.motion import CrossFrameEnhancement, Strengths, TemporalStrength, cross_frame_intensity
from vc_core.network.attentions import TemporalAttention
from vc_core.network.call import Pass
from vc_core.network.parts import WHOLE
from vc_core.network.replay import Replay
from vc_core.network.unet import VideoUNet
from vc_core.specs import Windows

from .test_replay import StandIn
from .tiny import TINY

FRAMES, HEIGHT, WIDTH = 5, 6, 7
EXACT = 1e-5
RELATIVE = {"relative_position": True, "temporal_length": 3}


def network(**changes: Any) -> VideoUNet:
    torch.manual_seed(0)
    made = VideoUNet(replace(TINY, **changes)).eval().requires_grad_(False)
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.1)
    return made


def inputs(clips: int = 1, conditionings: int = 1, frames: int = FRAMES) -> tuple[Tensor, Tensor, Conditioning]:
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(clips, 4, frames, HEIGHT, WIDTH, generator=draw)
    text = torch.randn(clips * conditionings, 3, 11, generator=draw)
    return x, torch.full((clips,), 300.0), Conditioning(text)


def strength(**given: Any) -> Pass:
    return Pass(adapters=(TemporalStrength(Strengths(**given), TINY),))


def scaled_by_hand(model: VideoUNet, factor: float, names: Callable[[str], bool] = lambda _: True) -> VideoUNet:
    """The network with the last layers of temporal attention multiplied."""
    for name, module in model.named_modules():
        if isinstance(module, TemporalAttention) and names(name):
            for parameter in module.to_out.parameters():
                parameter.mul_(factor)
    return model


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"levels": (1.0, 1.0, 1.0)},
        {"stages": {"input": 1.0}},
        {"frames": torch.ones(FRAMES)},
        {"mask": torch.rand(1, 12, 14)},
        {"everywhere": 2.0, "mask": torch.zeros(1, 6, 7)},
    ],
    ids=["nothing", "levels", "stages", "frames", "mask", "empty mask"],
)
@torch.no_grad()
def test_a_strength_of_one_changes_no_bit(given: dict[str, Any]) -> None:
    model, given_inputs = network(), inputs()
    assert Strengths(**given).plain == ("everywhere" not in given)
    assert torch.equal(model(*given_inputs, strength(**given)), model(*given_inputs))


@torch.no_grad()
def test_without_temporal_attention_frames_are_in_no_order() -> None:
    """What is left over time is the same for frames in any order: the statistics of norms."""
    model, (x, when, given) = network(temporal_conv=False, **RELATIVE), inputs()
    order = [3, 0, 4, 1, 2]

    def moved(run: Pass) -> float:
        return relative_error(model(x[:, :, order], when, given, run), model(x, when, given, run)[:, :, order])

    assert moved(strength(everywhere=0.0)) < EXACT
    assert moved(Pass()) > 1e-3


CHOICES: list[tuple[dict[str, Any], Callable[[str], bool]]] = [
    ({"everywhere": 0.5}, lambda _: True),
    ({"stages": {"input": 0.5}}, lambda name: name.startswith(("init_attn", "input_blocks"))),
    ({"stages": {"middle": 0.5}}, lambda name: name.startswith("middle_block")),
    ({"stages": {"output": 0.5}}, lambda name: name.startswith("output_blocks")),
    (
        {"levels": (0.5,)},
        lambda name: name.startswith(("init_attn", "input_blocks.1.", "output_blocks.2.", "output_blocks.3.")),
    ),
    (
        {"levels": (1.0, 0.5)},
        lambda name: name.startswith(("input_blocks.3.", "middle_block", "output_blocks.0.", "output_blocks.1.")),
    ),
]


@pytest.mark.parametrize("choice", CHOICES, ids=lambda choice: str(choice[0]))
@torch.no_grad()
def test_layers_are_those_whose_weights_would_be_scaled(choice: tuple[dict[str, Any], Callable[[str], bool]]) -> None:
    given = inputs(2, conditionings=2)
    ours = network()(*given, strength(**choice[0]))
    assert relative_error(ours, scaled_by_hand(network(), 0.5, choice[1])(*given)) < EXACT
    assert relative_error(ours, network()(*given)) > 1e-4


class OfTokens(Adapter):
    """Multiplies what temporal attention adds by hand, from factors f h w of the largest map."""

    def __init__(self, factors: Tensor) -> None:
        self.factors = factors

    def uses(self, site: Site, at: Place) -> bool:
        return at.stage == "init"

    def around_attention(self, at: Place, layer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        factors = self.factors.flatten(1).T[..., None]  # p f 1
        return layer(x) * factors.repeat(len(x) // len(factors), 1, 1)


class OnlyFirst(TemporalStrength):
    """Acts in the transformer behind the first convolution, whose tokens are the pixels of the latents."""

    def uses(self, site: Site, at: Place) -> bool:
        return at.stage == "init" and at.attention is not None


@torch.no_grad()
def test_frames_and_mask_reach_their_tokens() -> None:
    draw = torch.Generator().manual_seed(3)
    over_time, mask = torch.rand(FRAMES, generator=draw), torch.rand(FRAMES, HEIGHT, WIDTH, generator=draw)
    model, given = network(), inputs(2, conditionings=2)
    for strengths, factors in (
        (Strengths(frames=over_time), over_time[:, None, None].expand(-1, HEIGHT, WIDTH)),
        (Strengths(everywhere=0.3, mask=mask), 1 - 0.7 * mask),
        (Strengths(everywhere=0.3, mask=mask[:1]), (1 - 0.7 * mask[:1]).expand(FRAMES, -1, -1)),
        (Strengths(everywhere=0.5, frames=over_time, mask=mask), 1 + (0.5 * over_time[:, None, None] - 1) * mask),
    ):
        found = model(*given, Pass(adapters=(OnlyFirst(strengths, TINY),)))
        assert relative_error(found, model(*given, Pass(adapters=(OfTokens(factors),)))) < EXACT
        assert relative_error(found, model(*given)) > 1e-4


@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
@torch.no_grad()
def test_parts_of_maps_and_fused_tokens_give_the_same(fused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    mask = torch.rand(FRAMES, 12, 14, generator=torch.Generator().manual_seed(4))
    run = strength(everywhere=0.2, frames=torch.linspace(0, 2, FRAMES), mask=mask)
    model, given = network(), inputs(2, conditionings=2)
    expected = model(*given, run)
    if fused:
        Defined().install(monkeypatch)
    else:
        model.budget.values = 1000
    assert relative_error(model(*given, run), expected) < EXACT


@torch.no_grad()
def test_frames_of_a_window_are_those_of_the_clip() -> None:
    over_time, mask = torch.linspace(0, 2, 8), torch.rand(8, HEIGHT, WIDTH)
    window = (2, 3, 4, 6, 7)
    adapter = TemporalStrength(Strengths(frames=over_time, mask=mask), TINY)
    cut = Strengths(frames=over_time[list(window)], mask=mask[list(window)])
    model, given = network(), inputs()
    found = model(*given, Pass(Evaluation(window=window), adapters=(adapter,)))
    assert torch.equal(found, model(*given, Pass(adapters=(TemporalStrength(cut, TINY),))))


class Maps(Adapter):
    """Lists each temporal attention's intensity, by whole maps and by our function; passes on what it is given."""

    def __init__(self, positions: dict[str, nn.Module], temperature: float | None = None) -> None:
        self.positions, self.temperature = positions, temperature
        self.pairs: list[tuple[Tensor, Tensor]] = []

    def uses(self, site: Site, at: Place) -> bool:
        return at.attention in ("temporal_1", "temporal_2")

    def attention(
        self, at: Place, attend: Attend, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        frames, heads = q.shape[1], at.heads
        queries, keys = (y.unflatten(2, (heads, -1)).double() for y in (q, k))
        logits = torch.einsum("nqhd,nkhd->nhqk", queries, keys)
        name = f"{at.transformer}.attn{at.attention[-1] if at.attention else ''}.relative_position_k"
        if name in self.positions:
            logits += torch.einsum("nqhd,qkd->nhqk", queries, self.positions[name](frames, q).double())
        logits = logits * queries.shape[-1] ** -0.5 + (0 if mask is None else mask)
        off = logits.softmax(-1) * (1 - torch.eye(frames))
        intensity = off.sum((-1, -2)) / (frames * frames - frames)
        self.pairs.append((cross_frame_intensity(at, q, k, mask), intensity.float()))
        if self.temperature is None:
            return attend(q, k, v, mask)
        clips = len(q) // (at.grid[0] * at.grid[1])
        factors = [max(1.0, float(part.mean()) * (frames + self.temperature)) for part in intensity.chunk(clips)]
        return torch.cat(
            [part * factor for part, factor in zip(attend(q, k, v, mask).chunk(clips), factors, strict=True)]
        )


KINDS: Sequence[dict[str, Any]] = ({}, RELATIVE, {"causal": True})


@pytest.mark.parametrize("changes", KINDS, ids=["plain", "relative", "causal"])
@torch.no_grad()
def test_the_intensity_is_that_of_whole_maps(changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model, given = network(**changes), inputs(2, conditionings=2)
    positions = {name: module for name, module in model.named_modules() if name.endswith("relative_position_k")}
    for at_once in (motion.MAP_VALUES, 500):
        monkeypatch.setattr(motion, "MAP_VALUES", at_once)
        maps = Maps(positions)
        model(*given, Pass(adapters=(maps,)))
        assert len(maps.pairs) == 2 * (1 + 2 + 1 + 4)
        for ours, defined in maps.pairs:
            torch.testing.assert_close(ours, defined, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("changes", KINDS, ids=["plain", "relative", "causal"])
@torch.no_grad()
def test_the_result_of_attention_is_multiplied(changes: dict[str, Any]) -> None:
    model, given = network(**changes), inputs(2, conditionings=2)
    positions = {name: module for name, module in model.named_modules() if name.endswith("relative_position_k")}
    ours = model(*given, Pass(adapters=(CrossFrameEnhancement(4.0),)))
    assert relative_error(ours, model(*given, Pass(adapters=(Maps(positions, 4.0),)))) < EXACT
    assert relative_error(ours, model(*given)) > 1e-3
    low = model(*given, Pass(adapters=(CrossFrameEnhancement(-4.9),)))
    assert relative_error(low, model(*given)) < EXACT, "a factor below 1 is 1"


@torch.no_grad()
def test_clips_and_conditionings_are_enhanced_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    model, (x, when, both) = network(**RELATIVE), inputs(2, conditionings=2)
    run = Pass(adapters=(CrossFrameEnhancement(3.0),))
    expected = model(x, when, both, run)
    rows = [model(x[i % 2][None], when[:1], Conditioning(both.text[i : i + 1]), run) for i in range(4)]
    assert relative_error(torch.cat(rows), expected) < EXACT
    model.budget.values = 1000
    assert relative_error(model(x, when, both, run), expected) < EXACT, "maps stay whole"
    Defined().install(monkeypatch)
    model.budget.values = 2**30
    assert relative_error(model(x, when, both, run), expected) < EXACT


@torch.no_grad()
def test_windows_are_enhanced_one_by_one() -> None:
    model, given = network(), inputs(frames=9)
    maps = Maps({}, 4.0)
    windows = Windows(size=4, stride=2)
    ours = model(*given, Pass(windows=windows, adapters=(CrossFrameEnhancement(4.0),)))
    assert relative_error(ours, model(*given, Pass(windows=windows, adapters=(maps,)))) < EXACT
    single = inputs(frames=1)
    assert torch.equal(network()(*single, Pass(adapters=(CrossFrameEnhancement(4.0),))), network()(*single))


@torch.inference_mode()
def test_passes_are_replayed_where_the_strength_is_the_same_for_all_frames() -> None:
    model, given = network(), inputs()
    model.budget.values = WHOLE
    model.budget.fit = lambda *_: None  # type: ignore[method-assign]
    tape = StandIn()
    replay = Replay(model, tape)
    run = Pass(adapters=(TemporalStrength(Strengths(everywhere=0.5), TINY), CrossFrameEnhancement(3.0)))
    expected = model(*given, run)
    for _ in range(3):
        assert torch.equal(replay(*given, run), expected)
    assert (tape.recorded, tape.replayed) == (1, 2)
    uneven = TemporalStrength(Strengths(frames=torch.ones(FRAMES)), TINY)
    assert uneven.recording is Recording.REFUSED
