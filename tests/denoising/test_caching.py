"""The caches alone, and runs with them: what they skip, and that off means exact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from vc_core.conditions import SINGLE, Conditioning, Evaluation
from vc_core.denoising import SAMPLERS, Guidance, Noise, NoiseSchedule, Sampling, sample
from vc_core.denoising.caching import QUALITIES, STEP_SAVINGS, Cache, Saving, step_index
from vc_core.denoising.guidance import guide
from vc_core.denoising.windows import ContextWindows
from vc_core.errors import UserError
from vc_core.pipeline import Request, VideoCrafter
from vc_core.specs import DiffusionSpec

SMALL = Path(__file__).parents[2] / "models" / "videocrafter_small_t2v.safetensors"


def test_a_level_belongs_to_the_step_that_it_begins_or_is_inside() -> None:
    starts = [900.0, 600.0, 300.0, 0.0]
    assert [step_index(starts, level) for level in (950, 900, 899, 600, 300, 299, 0)] == [0, 0, 0, 1, 2, 2, 3]


def test_a_cache_computes_at_its_distance_and_extrapolates_straight_lines() -> None:
    cache = Cache(20, Saving(every=0.2, warmup=0.1))
    computed = []
    for step in range(20):
        true = torch.tensor([3.0 * step - 7])
        kept = cache.get("a", step)
        if kept is None:
            computed.append(step)
            cache.add("a", step, true)
        elif step > 5:
            torch.testing.assert_close(kept, true)
        else:  # extrapolated by no more than the distance of the two that it knows, which is one step here
            torch.testing.assert_close(kept, torch.tensor([3.0 * 2 - 7]))
    assert computed == [0, 1, 5, 9, 13, 17, 19]
    assert cache.get("another pass", 3) is None


def test_a_second_call_in_a_computed_step_uses_its_value_and_a_new_run_begins_anew() -> None:
    cache = Cache(4, Saving(every=0.5))
    cache.add("a", 0, torch.tensor(1.0))
    assert cache.get("a", 0) == torch.tensor(1.0)
    cache.add("a", 2, torch.tensor(5.0))
    assert cache.get("a", 0) is None
    cache.add("a", 0, torch.tensor(10.0))
    assert cache.get("a", 1) == torch.tensor(10.0), "the line of the run before must not be used"


def test_unknown_qualities_are_refused() -> None:
    with pytest.raises(UserError, match="no cache quality 'best'; choose one of high, balanced, fast"):
        Sampling(guidance_cache="best")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="choose one of high"):
        Request(step_cache="best").settle(VideoCrafter.load(SMALL).parts.spec)  # type: ignore[arg-type]


class Counted:
    """A smooth toy model, which counts its passes and takes several conditionings together."""

    def __init__(self) -> None:
        self.passes = self.conditionings = 0

    def __call__(self, x: Tensor, timestep: Tensor, given: Conditioning, evaluation: Evaluation = SINGLE, /) -> Tensor:
        self.passes += 1
        self.conditionings += len(given.text)
        x = torch.cat([x] * (len(given.text) // len(x)))
        pull = given.text.mean((1, 2)).view(-1, 1, 1, 1, 1)
        return x * 0.9 + pull * (timestep[0] / 1000) * torch.ones_like(x)


def conditioning(value: float, **more: Any) -> Conditioning:
    return Conditioning(text=torch.full((1, 2, 3), value), **more)


def run(model: Counted, **settings: Any) -> Tensor:
    steps = sample(
        model,
        NoiseSchedule.from_spec(DiffusionSpec()),
        {"positive": conditioning(0.1), "negative": conditioning(-0.1)},
        noise=Noise(1),
        shape=(1, 4, 2, 3, 3),
        settings=Sampling(steps=25, guidance=Guidance(scale=3.0), eta=0.0, **settings),
    )
    return list(steps)[-1].x


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_guidance_cache_works_with_every_sampler(sampler: str) -> None:
    spacing = {"sampler": sampler, "spacing": "uniform"}
    exact, cached = Counted(), Counted()
    was, now = run(exact, **spacing), run(cached, **spacing, guidance_cache="balanced")
    assert exact.passes == 50
    assert 25 + 8 <= cached.passes <= 36
    assert (now - was).norm() / was.norm() < 0.02


def test_joined_passes_equal_passes_in_turn() -> None:
    model = Counted()
    was = run(model)
    torch.testing.assert_close(run(model, together=True), was)
    assert model.passes == 50 + 25
    assert model.conditionings == 100


def test_conditionings_that_differ_in_more_than_text_are_not_joined() -> None:
    fps = [torch.tensor([value]) for value in (8.0, 8.0, 16.0)]
    parts = [conditioning(0.1, fps=value) for value in fps]
    joined = Conditioning.joined(parts[:2])
    assert joined is not None
    assert joined.text.shape == (2, 2, 3)
    assert Conditioning.joined(parts) is None
    assert Conditioning.joined([conditioning(0.1, image=torch.zeros(1, 2, 3)), conditioning(0.2)]) is None
    model = Counted()
    step = guide(model, {"positive": parts[0], "negative": parts[2]}, Guidance(scale=2.0), together=True)
    step(torch.zeros(1, 4, 1, 2, 2), torch.tensor([500.0]))
    assert model.passes == 2


@pytest.mark.parametrize("quality", QUALITIES)
def test_a_cached_video_runs_the_deep_blocks_as_often_as_the_quality_says(quality: Any) -> None:
    crafter = VideoCrafter.load(SMALL)
    unet = crafter.parts.unet
    assert unet is not None
    deep: list[int] = []
    unet.middle_block.register_forward_hook(lambda *_: deep.append(1))
    both = {"step_cache": quality, "guidance_cache": quality}
    request = Request(seed=3, width=32, height=32, frames=4, sampling=Sampling(steps=25, eta=0.0), **both)
    latents = [step.x for step in crafter.steps("a red square moves left", request=request)][-1]
    assert latents.isfinite().all()
    apart = max(1, round(STEP_SAVINGS[quality].every * 25))
    assert 25 / apart <= len(deep) < 2 * 25 / apart + 8
    assert len(deep) < 50


@pytest.mark.parametrize("order", ["static", "looped"])
def test_windows_of_whole_calls_keep_each_pass_to_itself(order: Any) -> None:
    """Features of one window must not stand for those of another."""
    crafter = VideoCrafter.load(SMALL)
    unet = crafter.parts.unet
    assert unet is not None
    deep: list[int] = []
    unet.middle_block.register_forward_hook(lambda *_: deep.append(1))

    def run(**caches: Any) -> Tensor:
        deep.clear()
        request = Request(
            seed=3,
            width=32,
            height=32,
            frames=6,
            sampling=Sampling(steps=20, eta=0.0),
            context=ContextWindows(size=4, stride=2, order=order),
            together=False,
            **caches,
        )
        return [step.x for step in crafter.steps("a red square moves left", request=request)][-1]

    exact, whole = run(), len(deep)
    for caches, share in (({"guidance_cache": "fast"}, 0.8), ({"step_cache": "fast"}, 0.6 if order == "static" else 1)):
        assert (run(**caches) - exact).norm() / exact.norm() < 0.1
        assert len(deep) <= share * whole


def test_what_is_too_old_to_be_used_is_let_go() -> None:
    cache = Cache(20, Saving(every=0.1))
    for step in range(20):
        cache.add(("window", step), step, torch.zeros(3))
    assert len(cache.trends) == 3
