"""ScaleCrafter: its tables, its record, and whole runs in the pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from small_models import CONTINUING_MODEL, RELATIVE_MODEL, TEXT_MODEL, TURBO_MODEL, save
from torch import Tensor

from vc_core.conditions import NEGATIVE, POSITIVE, Branch, Evaluation
from vc_core.control import ScaleCrafter, Scene
from vc_core.control.dilation_table import Plan, factors_of, plan_for, table_of, weaker
from vc_core.control.table import check
from vc_core.denoising import Sampling
from vc_core.denoising.windows import ContextWindows
from vc_core.errors import UserError
from vc_core.features import Feature, uses_of_controls
from vc_core.long.fifo import Fifo
from vc_core.long.video import check_method
from vc_core.network.adapters.dilation import Dilation
from vc_core.network.call import Pass
from vc_core.network.replay import kind_of
from vc_core.pipeline import VideoCrafter
from vc_core.request import Request
from vc_core.specs import PRESETS, ModelSpec, SamplingDefaults, UNetSpec

PUBLISHED = UNetSpec()
TRAINED = SamplingDefaults(width=32, height=24, steps=4, cfg=5.0)
REQUEST = Request(
    width=64, height=48, frames=2, seed=3, sampling=Sampling(steps=3, eta=0.0, spacing="trailing"), cfg=5.0
)
SCENE = Scene(spec=replace(TEXT_MODEL, defaults=TRAINED), frames=2, width=64, height=48, steps=50, cfg=5.0)
WEAKER = Branch("negative", without=frozenset({"scalecrafter"}))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, VideoCrafter]:
    folder = tmp_path_factory.mktemp("models")
    specs: Mapping[str, ModelSpec] = {"text": TEXT_MODEL, "relative": RELATIVE_MODEL, "continuing": CONTINUING_MODEL}
    specs = {**specs, "turbo": TURBO_MODEL}
    return {
        name: VideoCrafter.load(
            save(
                replace(spec, defaults=replace(TRAINED, sampler=spec.defaults.sampler, spacing=spec.defaults.spacing)),
                folder / f"{name}.safetensors",
            )
        )
        for name, spec in specs.items()
    }


def made(model: VideoCrafter, *controls: ScaleCrafter, **changes: Any) -> Tensor:
    """The latents of a run."""
    image = torch.rand(24, 32, 3, generator=torch.Generator().manual_seed(1))
    given = image if model.parts.spec.needs_image else None
    *_, last = model.steps("a boat", given, request=replace(REQUEST, controls=controls, **changes))
    return last.x


def factors(height: float, width: float) -> dict[str, float]:
    return factors_of(plan_for((height, width)).table, PUBLISHED)


def test_the_published_tables() -> None:
    """At twice the trained size, 2.5 times, 2 x 4 times and 4 times."""
    double = factors(2, 2)
    assert set(double.values()) == {2}
    assert "input_blocks.3.0.op" not in double
    assert {"input_blocks.6.0.op", "output_blocks.8.3.conv", "output_blocks.2.1.conv"} < set(double)
    assert "output_blocks.9.0.in_layers.2" not in double
    assert set(factors(2.5, 2.5).values()) == {2.5}
    assert set(factors(2.5, 2.5)) == set(double)
    wide = factors(2, 4)
    assert [wide[f"input_blocks.{index}.0.in_layers.2"] for index in (4, 7, 10)] == [2, 3, 4]
    large = factors(4, 4)
    assert "input_blocks.4.0.in_layers.2" not in large
    names = ("input_blocks.7.0.in_layers.2", "input_blocks.9.0.op", "input_blocks.10.0.out_layers.3")
    assert [large[name] for name in names] == [3, 4, 4]
    up = [large[f"output_blocks.{index}.0.in_layers.2"] for index in (0, 3, 6, 9)]
    assert up == [4, 4, 3, 2]
    assert large["middle_block.3.out_layers.3"] == 4
    shares = [plan_for((ratio, ratio)).share for ratio in (2, 2.5, 4)]
    assert [round(50 * share) for share in shares] == [20, 30, 37]
    plans = [plan_for(ratios) for ratios in ((2, 2), (2, 4), (4, 4))]
    assert [(plan.course, plan.damped) for plan in plans] == [
        ("constant", False),
        ("progressive", False),
        ("progressive", True),
    ]
    without = factors_of(weaker(plan_for((4, 4)).table), PUBLISHED)
    assert set(large) - set(without) == {name for name, factor in large.items() if factor == 2}


def test_the_trained_size_needs_nothing() -> None:
    assert plan_for((1, 1)) == Plan()
    for ratios in ((1.2, 1.2), (1, 1.5), (3, 3), (6, 6)):
        assert min(factors(*ratios).values()) >= 1


@pytest.mark.parametrize("name", list(PRESETS))
def test_every_model_of_the_family_has_a_table(name: str) -> None:
    spec = PRESETS[name]
    scene = replace(SCENE, spec=spec, width=2 * spec.defaults.width, height=2 * spec.defaults.height)
    control = ScaleCrafter()
    check([control], scene, {})
    (adapter,) = control.attach(scene, None).adapters
    assert isinstance(adapter, Dilation)
    assert adapter.steps == 20
    assert len(adapter.factors) == 39


@pytest.mark.parametrize("kind", ["text", "relative", "continuing", "turbo"])
def test_neutral_settings_are_bit_equal_and_others_change_the_video(models: dict[str, VideoCrafter], kind: str) -> None:
    model = models[kind]
    plain, small = made(model), {"width": 32, "height": 24}
    for nothing in (ScaleCrafter(dilated_steps=0), ScaleCrafter(factors="level 0: 1, middle: 1")):
        assert torch.equal(made(model, nothing), plain)
    assert torch.equal(made(model, ScaleCrafter(), **small), made(model, **small))
    assert not torch.equal(made(model, ScaleCrafter()), plain)
    assert torch.equal(made(model), plain)


def test_each_setting_has_an_effect(models: dict[str, VideoCrafter]) -> None:
    settings: list[dict[str, Any]] = [
        {},
        {"dilated_steps": 2},
        {"factors": "level 1: 3, middle: 1.5"},
        {"factors": "skip 1: 4", "dilated_steps": 3, "course": "progressive"},
        {"factors": "skip 1: 4", "dilated_steps": 3, "course": "stages"},
        {"factors": "level 1: 3, up 0: 2", "dilated_steps": 3, "damped_steps": 2},
        {"factors": "level 1: 3, up 0: 2", "dilated_steps": 3, "damped_steps": 2, "weaker_factors": "middle: 2"},
        {"factors": "level 1: 3, up 0: 2", "dilated_steps": 3},
        {"dispersed_steps": 1},
    ]
    found = [made(models["text"], ScaleCrafter(**given)) for given in settings]
    assert all(bool(one.isfinite().all()) for one in found)
    assert all(not torch.equal(one, other) for i, one in enumerate(found) for other in found[:i])


def test_windows_of_whole_passes(models: dict[str, VideoCrafter]) -> None:
    long = {"frames": 6, "context": ContextWindows(size=4, stride=2)}
    assert not torch.equal(made(models["text"], ScaleCrafter(), **long), made(models["text"], **long))


def test_damped_guidance_takes_one_more_pass_in_its_steps(models: dict[str, VideoCrafter]) -> None:
    control = ScaleCrafter(factors="level 1: 2, up 0: 2", dilated_steps=2, damped_steps=1)
    attachment = control.attach(SCENE, None)
    (term,) = attachment.terms
    assert (term.toward, term.away, term.steps) == (WEAKER, NEGATIVE, 1)
    assert control.attach(replace(SCENE, cfg=1.0), None).terms == ()
    model, seen = models["text"], []
    forward = model.unet.forward

    def counted(*given: Any) -> Tensor:
        seen.append(given[-1].evaluation)
        return forward(*given)

    model.unet.forward = counted  # type: ignore[method-assign]
    try:
        made(model, control, together=False)
    finally:
        del model.unet.forward
    passes = [(one.step, one.branches) for one in seen]
    first = [(0, (branch,)) for branch in (POSITIVE, NEGATIVE, WEAKER)]
    assert passes == [*first, *((step, (branch,)) for step in (1, 2) for branch in (POSITIVE, NEGATIVE))]


def test_each_table_is_recorded_as_a_graph_of_its_own() -> None:
    control = ScaleCrafter(factors="level 1: 4, up 0: 2", dilated_steps=8, course="progressive", damped_steps=8)
    adapters = control.attach(SCENE, None).adapters
    tensors = {"x": torch.zeros(1)}

    def kind(step: int, branch: Branch) -> Any:
        return kind_of(tensors, Pass(Evaluation(branches=(branch,), step=step, steps=50), adapters=adapters))

    assert kind(0, POSITIVE) == kind(1, POSITIVE) == kind(0, NEGATIVE)
    assert len({kind(step, branch) for step in (0, 3, 7, 8) for branch in (POSITIVE, WEAKER)}) == 7
    assert kind(8, POSITIVE) == kind_of(tensors, Pass())


@pytest.mark.parametrize(
    ("given", "scene", "message"),
    [
        ({}, {"width": 24, "height": 16}, "above the trained size, 32x24, but this one has 24x16. Choose a larger"),
        ({"factors": "level one: 2"}, {}, "factors of ScaleCrafter have 'level one: 2'; write rows such as"),
        ({"factors": "level 3: 2"}, {}, "level can have the levels 0 to 2"),
        ({"factors": "downsample 2: 2"}, {}, "downsample can have the levels 0 to 1"),
        ({"factors": "middle: 9"}, {}, "have 9; each should be 1 to 8"),
        ({"weaker_factors": "middle 2"}, {}, "have 'middle 2'"),
        ({"course": "falling"}, {}, "course of ScaleCrafter is 'falling'"),
        ({"dilated_steps": -2}, {}, "dilated_steps of ScaleCrafter is -2"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused(given: dict[str, Any], scene: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check([ScaleCrafter(**given)], replace(SCENE, **scene), {})


def test_later_rows_go_before_earlier_ones() -> None:
    table = table_of("level 1: 2; up 1: 3\nDownsample 1: 2.5, skip 99: 8", "ScaleCrafter", 4)
    found = factors_of(table[:3], PUBLISHED)
    names = ("input_blocks.4.0.in_layers.2", "input_blocks.6.0.op", "output_blocks.6.0.in_layers.2")
    assert [found[name] for name in names] == [2, 2.5, 3]


def test_factors_can_be_given_for_any_size() -> None:
    check([ScaleCrafter(factors="middle: 2")], replace(SCENE, width=24, height=16), {})


def test_a_queue_has_no_first_steps() -> None:
    assert Feature.FIRST_STEPS in uses_of_controls([ScaleCrafter()])
    with pytest.raises(UserError, match="ScaleCrafter is not supported with the method fifo: the frames of its queue"):
        check_method(Fifo(), replace(REQUEST, frames=32, controls=(ScaleCrafter(),)), SCENE.spec, {})


def test_one_at_a_time() -> None:
    with pytest.raises(UserError, match="one ScaleCrafter sets all factors"):
        check([ScaleCrafter(), ScaleCrafter()], SCENE, {})
