"""Guidance: what it computes, and how many passes it takes."""

from __future__ import annotations

import math

import pytest
import torch
from denoising.toys import WaveModel, prompt
from torch import Tensor

from vc_core.conditions import NEGATIVE as NEGATIVE_BRANCH
from vc_core.conditions import POSITIVE as POSITIVE_BRANCH
from vc_core.conditions import SINGLE, Branch, Conditioning, Evaluation
from vc_core.denoising import Guidance, Noise, NoiseSchedule, Sampling, Source, sample
from vc_core.denoising.caching import Cache, Saving
from vc_core.denoising.denoiser import denoiser
from vc_core.denoising.guidance import Combination, Rule, Term, guide
from vc_core.denoising.schedule import Level
from vc_core.errors import UserError
from vc_core.specs import DiffusionSpec

X = Noise(1).draw((2, 3, 5, 7, 11))
TIMESTEP = torch.tensor([501.0, 501.0])
POSITIVE, NEGATIVE = prompt(2, 0.3), prompt(2, -0.8)
BOTH = {"positive": POSITIVE, "negative": NEGATIVE}
FROZEN = Evaluation(branches=(Branch("positive", temporal=False),))


def predict(model: WaveModel, **settings: float) -> Tensor:
    return guide(model, BOTH, Guidance(**settings))(X, TIMESTEP)


def test_scale_1_is_the_model_alone_in_one_pass() -> None:
    model = WaveModel()
    assert torch.equal(predict(model, scale=1.0, rescale=0.7), WaveModel()(X, TIMESTEP, POSITIVE))
    assert [text.mean().item() for _, _, text, _ in model.calls] == [pytest.approx(0.3)]
    without = guide(model, {"positive": POSITIVE}, Guidance(scale=1.0))
    assert torch.equal(without(X, TIMESTEP), WaveModel()(X, TIMESTEP, POSITIVE))


def test_positive_first_then_negative() -> None:
    model = WaveModel()
    out = predict(model, scale=7.5)
    assert [text.mean().item() for _, _, text, _ in model.calls] == [pytest.approx(0.3), pytest.approx(-0.8)]
    positive, negative = (WaveModel()(X, TIMESTEP, conditioning) for conditioning in (POSITIVE, NEGATIVE))
    assert torch.equal(out, negative + 7.5 * (positive - negative))


def test_scale_0_is_the_negative_alone() -> None:
    torch.testing.assert_close(predict(WaveModel(), scale=0.0), WaveModel()(X, TIMESTEP, NEGATIVE))


def test_rescaled_guidance_has_the_spread_of_the_positive() -> None:
    plain, positive = predict(WaveModel(), scale=9.0), WaveModel()(X, TIMESTEP, POSITIVE)
    full = predict(WaveModel(), scale=9.0, rescale=1.0)
    axes = (1, 2, 3, 4)
    torch.testing.assert_close(full.std(axes), positive.std(axes))
    torch.testing.assert_close(full, plain * (positive.std(axes) / plain.std(axes)).view(2, 1, 1, 1, 1))
    torch.testing.assert_close(predict(WaveModel(), scale=9.0, rescale=0.7), 0.7 * full + 0.3 * plain)
    assert not torch.allclose(full.std(axes)[0], plain.std(axes)[0], rtol=1e-2)


def test_rescaling_nothing_at_all_is_finite() -> None:
    def silent(x: Tensor, timestep: Tensor, conditioning: Conditioning, evaluation: Evaluation = SINGLE) -> Tensor:
        return torch.zeros_like(x)

    out = guide(silent, BOTH, Guidance(scale=9.0, rescale=1.0))(X, TIMESTEP)
    assert torch.equal(out, torch.zeros_like(X))


def test_temporal_guidance_adds_what_attention_between_frames_changes() -> None:
    model = WaveModel()
    out = predict(model, scale=7.5, temporal=2.0)
    assert [evaluation.temporal for *_, evaluation in model.calls] == [True, True, False]
    plain, seeing = predict(WaveModel(), scale=7.5), WaveModel()(X, TIMESTEP, POSITIVE)
    alone = WaveModel()(X, TIMESTEP, POSITIVE, FROZEN)
    torch.testing.assert_close(out, plain + 2.0 * (seeing - alone))


def test_temporal_guidance_without_classifier_free_guidance_takes_two_passes() -> None:
    model = WaveModel()
    out = predict(model, scale=1.0, temporal=2.0)
    assert [evaluation.temporal for *_, evaluation in model.calls] == [True, False]
    seeing, alone = (WaveModel()(X, TIMESTEP, POSITIVE, evaluation) for evaluation in (SINGLE, FROZEN))
    torch.testing.assert_close(out, 3 * seeing - 2 * alone)
    rescaled = predict(WaveModel(), scale=1.0, temporal=2.0, rescale=1.0)
    torch.testing.assert_close(rescaled.std((1, 2, 3, 4)), seeing.std((1, 2, 3, 4)))


def test_half_precision_predictions_are_combined_in_full_precision() -> None:
    def half(x: Tensor, timestep: Tensor, conditioning: Conditioning, evaluation: Evaluation = SINGLE) -> Tensor:
        return WaveModel()(x, timestep, conditioning).half()

    out = guide(half, BOTH, Guidance(scale=12.0))(X, TIMESTEP)
    positive, negative = (half(X, TIMESTEP, conditioning).float() for conditioning in (POSITIVE, NEGATIVE))
    assert out.dtype == torch.float32
    assert torch.equal(out, negative + 12.0 * (positive - negative))


def test_a_scale_needs_a_negative() -> None:
    with pytest.raises(UserError, match=r"7\.5 but there is no negative.*set the scale to 1"):
        guide(WaveModel(), {"positive": POSITIVE}, Guidance(scale=7.5))


@pytest.mark.parametrize(
    "settings",
    [{"scale": -1.0}, {"scale": math.nan}, {"rescale": 1.5}, {"rescale": -0.1}, {"temporal": math.inf}],
)
def test_impossible_settings(settings: dict[str, float]) -> None:
    with pytest.raises(UserError, match="should be"):
        Guidance(**settings)


@pytest.mark.parametrize("scale", [1.0, 0.7])
@pytest.mark.parametrize("alpha", [0.9, 0.2])
def test_eps_and_v_find_the_parts_of_x(alpha: float, scale: float) -> None:
    level = Level(timestep=300, alpha=alpha, scale=scale)
    x0, eps = Noise(2).draw(X.shape), Noise(3).draw(X.shape)
    x = level.signal * x0 + level.noise * eps
    answers = {"eps": eps, "v": alpha**0.5 * eps - level.noise * scale * x0}
    for prediction, answer in answers.items():
        seen: list[Tensor] = []

        def perfect(
            x: Tensor, timestep: Tensor, evaluation: Evaluation, answer: Tensor = answer, seen: list[Tensor] = seen
        ) -> Tensor:
            seen.append(timestep)
            return answer

        estimate = denoiser(perfect, prediction)(x, level)  # type: ignore[arg-type]
        torch.testing.assert_close(estimate.x0, x0, rtol=1e-4, atol=1e-5)  # float32, divided by the signal
        torch.testing.assert_close(estimate.eps, eps, rtol=1e-4, atol=1e-5)
        assert seen[0].tolist() == [300.0, 300.0]


def predictions(*branches: Branch) -> dict[Branch, Tensor]:
    """Some predictions whose values are their own."""
    return {branch: Noise(10 + number).draw((2, 3, 5, 7, 11)) for number, branch in enumerate(branches)}


def test_guidance_with_other_conditionings_is_a_list_of_terms() -> None:
    """Style: e + s_style (e - n) + s (n - u), n being the prompt without the style. Camera: c + s (c - u) and then a
    weight on what the camera changes. Neither is known to vc_core."""
    text_only, no_camera = Branch("text_only"), Branch("no_camera")
    style = Combination(terms=(Term(7.5, POSITIVE_BRANCH, text_only), Term(15.0, text_only, NEGATIVE_BRANCH)))
    assert style.branches == (POSITIVE_BRANCH, text_only, NEGATIVE_BRANCH)
    found = predictions(*style.branches)
    e, n, u = found.values()
    assert torch.equal(style(found), e + 7.5 * (e - n) + 15.0 * (n - u))

    camera = Combination(
        NEGATIVE_BRANCH, (Term(4.0, POSITIVE_BRANCH, NEGATIVE_BRANCH), Term(0.5, POSITIVE_BRANCH, no_camera))
    )
    found = predictions(*camera.branches)
    c, u, without = found.values()
    assert torch.equal(camera(found), u + 4.0 * (c - u) + 0.5 * (c - without))


def test_rules_follow_the_terms_in_turn() -> None:
    """A rule is given the sum and the positive prediction; without terms there is nothing to change."""
    rules: tuple[Rule, ...] = (lambda guided, positive: guided + positive, lambda guided, positive: 2 * guided)
    both = Combination(NEGATIVE_BRANCH, (Term(3.0, POSITIVE_BRANCH, NEGATIVE_BRANCH),), rules)
    found = predictions(POSITIVE_BRANCH, NEGATIVE_BRANCH)
    c, u = found.values()
    assert torch.equal(both(found), 2 * (u + 3.0 * (c - u) + c))
    assert torch.equal(Combination(rules=rules)(found), c)


@pytest.mark.parametrize(
    ("settings", "names", "count"),
    [
        ({"scale": 7.5}, ("positive", "negative"), 2),
        ({"scale": 1.0}, ("positive",), 1),
        ({"scale": 1.0, "temporal": 0.5}, ("positive",), 2),
        ({"scale": 7.5, "image_scale": 2.0}, ("positive", "negative", "image_only"), 3),
        ({"scale": 7.5, "image_scale": 1.0}, ("positive", "negative", "image_only"), 3),
        ({"scale": 1.0, "image_scale": 1.0}, ("positive",), 1),
        ({"scale": 1.0, "image_scale": 2.0}, ("positive", "negative", "image_only"), 3),
    ],
)
def test_settings_say_which_conditionings_they_need(
    settings: dict[str, float], names: tuple[str, ...], count: int
) -> None:
    guidance = Guidance(**settings)
    assert guidance.conditionings == names
    assert len(guidance.combination.simplified.branches) == count
    found = predictions(*guidance.combination.branches)
    torch.testing.assert_close(guidance.combination.simplified(found), guidance.combination(found))


def test_passes_that_can_be_joined_are_one_and_name_their_branches() -> None:
    model = Joinable()
    given = {**BOTH, "image_only": prompt(2, 0.1)}
    guidance = Guidance(scale=7.5, image_scale=2.0, temporal=0.5)
    at = Evaluation(step=4, steps=9)
    joined = guide(model, given, guidance, together=True)(X, TIMESTEP, at)
    names = [[branch.conditioning for branch in evaluation.branches] for evaluation in model.evaluations]
    assert names == [["positive", "negative", "image_only"], ["positive"]]
    assert [evaluation.temporal for evaluation in model.evaluations] == [True, False]
    assert {(evaluation.step, evaluation.steps) for evaluation in model.evaluations} == {(4, 9)}
    torch.testing.assert_close(joined, guide(Joinable(), given, guidance)(X, TIMESTEP, at))


def test_a_run_counts_its_steps_for_the_model() -> None:
    model, schedule = Joinable(), NoiseSchedule.from_spec(DiffusionSpec())
    settings = Sampling(steps=4, guidance=Guidance(scale=2.0))
    list(sample(model, schedule, BOTH, noise=Noise(1), shape=X.shape, settings=settings))
    assert [(one.step, one.left) for one in model.evaluations[::2]] == [(0, 3), (1, 2), (2, 1), (3, 0)]
    half = Joinable()
    source = Source(Noise(2).draw(X.shape), strength=0.5)
    list(sample(half, schedule, BOTH, noise=Noise(1), source=source, settings=settings))
    assert [one.step for one in half.evaluations[::2]] == [2, 3], "those of the whole schedule"


def test_a_cache_continues_branches_of_other_conditionings_alone() -> None:
    """The pass without attention between frames, whose difference is the temporal guidance, is always computed."""
    model, cache = Joinable(), Cache(10, Saving(every=0.5))
    step = guide(model, BOTH, Guidance(scale=7.5, temporal=0.5), cache=cache)
    for index in range(3):
        step(X, TIMESTEP, Evaluation(step=index, steps=10))
    asked = [evaluation.branches[0] for evaluation in model.evaluations]
    frozen = Branch("positive", temporal=False)
    assert asked == [POSITIVE_BRANCH, NEGATIVE_BRANCH, frozen, POSITIVE_BRANCH, frozen, POSITIVE_BRANCH, frozen]
    assert set(cache.trends) == {NEGATIVE_BRANCH}


class Joinable:
    """The wave, for several conditionings of the same clips; keeps what it was asked for."""

    def __init__(self) -> None:
        self.evaluations: list[Evaluation] = []

    def __call__(
        self, x: Tensor, timestep: Tensor, conditioning: Conditioning, evaluation: Evaluation = SINGLE, /
    ) -> Tensor:
        self.evaluations.append(evaluation)
        parts = conditioning.text.split(len(x))
        return torch.cat([WaveModel()(x, timestep, Conditioning(text=text), evaluation) for text in parts])


def test_a_term_of_the_first_steps_takes_no_pass_in_later_ones() -> None:
    other = Branch("negative", without=frozenset({"something"}))
    guidance = Guidance(scale=3.0, terms=(Term(1.0, other, NEGATIVE_BRANCH, steps=1),))
    seen: list[tuple[Branch, ...]] = []

    def model(x: Tensor, timestep: Tensor, conditioning: Conditioning, evaluation: Evaluation = SINGLE, /) -> Tensor:
        seen.append(evaluation.branches)
        value = {POSITIVE_BRANCH: 3.0, NEGATIVE_BRANCH: 1.0, other: 10.0}[evaluation.branches[0]]
        return torch.full_like(x, value)

    predict = guide(model, BOTH, guidance)
    plain = [(POSITIVE_BRANCH,), (NEGATIVE_BRANCH,)]
    for step, value, passes in ((0, 16.0, [*plain, (other,)]), (1, 7.0, plain), (None, 7.0, plain)):
        seen.clear()
        out = predict(X, TIMESTEP, Evaluation(step=step))
        assert float(out.flatten()[0]) == value
        assert sorted(seen, key=str) == sorted(passes, key=str)
