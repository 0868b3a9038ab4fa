"""ByTheWay, FreqPrior, Noise Calibration and FreeU: their records, and whole runs in the pipeline."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from small_models import CONTINUING_MODEL, RELATIVE_MODEL, TEXT_MODEL, save
from torch import Tensor

from golden_cases import relative_error
from vc_core.conditions import NEGATIVE, POSITIVE, Conditioning, Evaluation
from vc_core.control import ByTheWay, Control, FreeTraj, FreeU, FreqPrior, NoiseCalibration, Scene
from vc_core.control.table import check
from vc_core.denoising import Level, Noise, NoiseSchedule, Sampling, Source
from vc_core.denoising.denoiser import Estimate
from vc_core.denoising.draft import Opening
from vc_core.denoising.freqprior import Prior, stages
from vc_core.denoising.noise_calibration import high_pass
from vc_core.denoising.windows import ContextWindows
from vc_core.errors import UserError
from vc_core.long import method_named
from vc_core.long.video import check_method
from vc_core.network.adapter import Adapter, Place
from vc_core.network.adapters.bytheway import Enhancement, StrongerMotion
from vc_core.network.adapters.bytheway import high_pass as high_pass_over_time
from vc_core.network.adapters.freeu import decoder_widths
from vc_core.network.call import Pass
from vc_core.pipeline import VideoCrafter
from vc_core.request import Request
from vc_core.specs import FAMILY, Member, Windows

REQUEST = Request(width=32, height=24, frames=4, seed=3, sampling=Sampling(steps=2, eta=0.0), cfg=5.0)
SCENE = Scene(spec=TEXT_MODEL, frames=4, width=32, height=24, steps=4, cfg=5.0)
CLOSE = 1e-5
CHANGED = 1e-4
MODELS = {"text": TEXT_MODEL, "relative": RELATIVE_MODEL}
ACTIVE: dict[str, Control] = {
    "bytheway": ByTheWay(beta=4.0, share=1.0),
    "freqprior": FreqPrior(rounds=2),
    "noise_calibration": NoiseCalibration(scale=1.0),
    "freeu": FreeU(),
}
NEUTRAL: tuple[Control, ...] = (
    ByTheWay(share=0.0),
    ByTheWay(alpha=0.0, beta=1.0),
    FreqPrior(rounds=1),
    NoiseCalibration(rounds=0),
    FreeU(b1=1.0, b2=1.0, s1=1.0, s2=1.0),
)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, VideoCrafter]:
    folder = tmp_path_factory.mktemp("models")
    return {name: VideoCrafter.load(save(spec, folder / f"{name}.safetensors")) for name, spec in MODELS.items()}


def video() -> Source:
    return Source(torch.randn(1, 4, 4, 3, 4, generator=torch.Generator().manual_seed(2)), strength=0.5)


def made(model: VideoCrafter, *controls: Control, **changes: Any) -> Tensor:
    """The latents of a run, from a video where Noise Calibration is in it or `video` says so."""
    given = changes.pop("video", any(control.name == "noise_calibration" for control in controls))
    request = replace(REQUEST, controls=controls, **changes)
    return list(model.steps("a boat", request=request, source=video() if given else None))[-1].x


@pytest.mark.parametrize("kind", ["text", "relative"])
def test_neutral_settings_are_bit_equal_and_others_change_the_video(models: dict[str, VideoCrafter], kind: str) -> None:
    model = models[kind]
    plain = {given: made(model, video=given) for given in (False, True)}
    for control in NEUTRAL:
        given = control.name == "noise_calibration"
        assert torch.equal(made(model, control), plain[given]), control
    for name, control in ACTIVE.items():
        given = name == "noise_calibration"
        found = made(model, control)
        assert relative_error(found, plain[given]) > CHANGED, name
        assert torch.equal(made(model, control), found), "a seed is a video"
    assert torch.equal(made(model), plain[False]), "nothing is left behind"


@pytest.mark.parametrize("name", ["bytheway", "freeu"])
def test_passes_together_are_those_one_after_the_other(models: dict[str, VideoCrafter], name: str) -> None:
    both = [made(models["text"], ACTIVE[name], together=together) for together in (False, True)]
    assert relative_error(both[0], both[1]) < CLOSE


@pytest.mark.parametrize(
    "long", [{"windows": Windows(size=4, stride=2)}, {"context": ContextWindows(size=4, stride=2)}]
)
def test_in_windows(models: dict[str, VideoCrafter], long: dict[str, Any]) -> None:
    for name in ("bytheway", "freeu"):
        plain = made(models["text"], frames=8, **long)
        assert relative_error(made(models["text"], ACTIVE[name], frames=8, **long), plain) > CHANGED
    if "windows" in long:
        with pytest.raises(UserError, match=r"reused over time .* is not supported with FreqPrior"):
            made(models["text"], ACTIVE["freqprior"], frames=8, **long)


def test_a_step_cache_keeps_bytheway(models: dict[str, VideoCrafter]) -> None:
    """Passes that leave the coarse levels out go on with the maps of the step whose result they have."""
    settings = {"sampling": Sampling(steps=12, eta=0.0), "step_cache": "fast"}
    cached = made(models["text"], ACTIVE["bytheway"], **settings)
    assert cached.isfinite().all()
    assert relative_error(cached, made(models["text"], **settings)) > CHANGED


class Maps(Adapter):
    """Collects the maps that ByTheWay returns, by place."""

    def __init__(self) -> None:
        self.found: dict[tuple[int, str | None], Tensor] = {}

    def attention_weights(self, at: Place, weights: Tensor) -> Tensor:
        if at.stage == "output":
            self.found[at.index, at.attention] = weights
        return weights


@torch.no_grad()
def test_bytheway_changes_all_maps_of_the_decoder_and_mixes_them_with_the_coarsest(
    models: dict[str, VideoCrafter],
) -> None:
    unet = models["text"].unet
    generator = torch.Generator().manual_seed(1)
    x, text = torch.randn(1, 4, 4, 6, 8, generator=generator), torch.randn(2, 5, 48, generator=generator)
    run = Evaluation(branches=(POSITIVE, NEGATIVE), step=0, steps=2)

    def maps(*adapters: Adapter) -> dict[tuple[int, str | None], Tensor]:
        watch = Maps()
        unet(x, torch.tensor([500.0]), Conditioning(text), Pass(run, adapters=(*adapters, watch)))
        return watch.found

    plain = maps()
    mixed = maps(StrongerMotion(unet.spec, Enhancement(alpha=1.0, beta=0.0, tau=0), 1))
    strong = maps(StrongerMotion(unet.spec, Enhancement(alpha=0.0, beta=3.0, tau=7), 1))
    assert {index for index, _ in strong} == {2, 3, 4, 5}, "the coarsest level of this network has no attention"
    for place, found in strong.items():
        assert torch.allclose(found.sum(-1), torch.ones(()), atol=1e-5), place
    first = plain[2, "temporal_1"]
    assert relative_error(strong[2, "temporal_1"], 0.25 + 3 * (first - 0.25)) < CLOSE
    upper = mixed[2, "temporal_1"].unflatten(0, (2, 3, 4, -1)).mean(3)  # of the level with 3 x 4 pixels
    fine = mixed[4, "temporal_1"].unflatten(0, (2, 6, 8, -1))
    kept = torch.eye(4) - high_pass_over_time(4, 0)  # the rest is stronger by the energy that the mix took
    assert relative_error(fine[:, :, :, 0].mean((1, 2)) @ kept, upper.mean((1, 2)) @ kept) < CLOSE
    assert torch.allclose(fine[:, :, :, 0], fine[:, :, :, 1], atol=1e-5), "all heads have the mean of the coarse ones"
    late = StrongerMotion(unet.spec, Enhancement(), 1)
    assert not late.acts(Evaluation(step=1, steps=2))


def test_frequencies_over_time() -> None:
    whole = torch.eye(16) - 1 / 16
    assert torch.allclose(high_pass_over_time(16, 7), whole, atol=1e-6), "with 16 frames all but the mean"
    assert torch.allclose(high_pass_over_time(5, 99).sum(0), torch.zeros(5), atol=1e-6), "never the mean"
    fastest = torch.tensor([1.0, -1.0] * 4)
    assert torch.allclose(fastest @ high_pass_over_time(8, 0), fastest, atol=1e-6)


def test_the_next_noise_of_freqprior_is_standard_normal() -> None:
    """Where FreeInit's filters lose variance, these keep it."""
    source = Noise(5)
    shape, where = (1, 4, 16, 32, 32), ("cpu", torch.float32)
    found = Prior().next_noise(source.draw(shape, *where), source)
    assert abs(float(found.std()) - 1) < 0.01


def test_the_rounds_of_freqprior_pass_the_timesteps_of_the_run() -> None:
    assert stages(981, 321, 20) == list(range(981, 320, -20))
    assert stages(999, 0, 1000) == [999, 0]


def test_each_round_of_freqprior_keeps_the_low_frequencies() -> None:
    """Of a run whose network always sees the same clip, the noise of the next round holds its trace."""
    clip = 5 * torch.ones(1, 4, 4, 8, 8)
    schedule = NoiseSchedule.from_spec(TEXT_MODEL.diffusion)

    def denoise(shown: Tensor, x: Tensor, level: Level) -> Estimate:
        return Estimate(shown, (x - level.signal * shown) / level.noise)

    change = FreqPrior(rounds=2, stop=1).attach(SCENE, None).noise
    assert change is not None
    drawn = torch.zeros_like(clip)
    run = Opening(denoise=partial(denoise, clip), schedule=schedule, first=schedule.level(981))
    empty = replace(run, denoise=partial(denoise, torch.zeros_like(clip)))
    trace = float((change(drawn, Noise(3), lambda: run) - change(drawn, Noise(3), lambda: empty)).mean())
    wanted = 2 * 0.8 / (2 * 1.64) ** 0.5 * schedule.level(999).signal * 5
    assert abs(trace - wanted) < 0.1 * wanted
    late = replace(run, first=schedule.level(1))
    with pytest.raises(UserError, match="rounds of FreqPrior stop at timestep 1, but the run begins at 1"):
        change(drawn, Noise(3), lambda: late)


def test_noise_calibration_gives_the_estimate_the_content_of_the_video(models: dict[str, VideoCrafter]) -> None:
    """The whole spectrum of the video: the first estimate, and a run of one step, is the video."""
    one = {"sampling": Sampling(steps=2, eta=0.0, end="clean")}
    source = video()
    kept, plain = (
        relative_error(made(models["text"], control, video=True, **one), source.latents)
        for control in (NoiseCalibration(rounds=5, scale=1.0), NoiseCalibration(rounds=0))
    )
    assert kept < 0.5 * plain
    x = torch.randn(1, 2, 3, 9, 7, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(high_pass(x, 0.0), x, atol=1e-6)
    assert torch.allclose(high_pass(torch.ones_like(x), 0.5), torch.zeros_like(x), atol=1e-6)


@pytest.mark.parametrize("member", FAMILY, ids=lambda member: str(member.spec.name))
def test_freeu_acts_at_the_same_blocks_of_every_published_model(member: Member) -> None:
    """At 1280 and 640 channels, as ComfyUI's node does, which finds them by these numbers."""
    spec = member.spec.unet
    widths = decoder_widths(spec)
    assert [index for index, width in enumerate(widths) if width == 4 * spec.model_channels] == list(range(7))
    assert [index for index, width in enumerate(widths) if width == 2 * spec.model_channels] == [7, 8, 9]


class Widths(Adapter):
    def __init__(self) -> None:
        self.found: list[int] = []

    def before_decoder_block(self, at: Place, h: Tensor, skip: Tensor) -> tuple[Tensor, Tensor]:
        self.found.append(h.shape[1])
        return h, skip


@torch.no_grad()
def test_the_widths_of_the_decoder_are_those_that_its_blocks_receive(models: dict[str, VideoCrafter]) -> None:
    unet, watch = models["text"].unet, Widths()
    unet(torch.zeros(1, 4, 2, 4, 4), torch.tensor([1.0]), Conditioning(torch.zeros(1, 3, 48)), Pass(adapters=(watch,)))
    assert watch.found == decoder_widths(unet.spec)


@pytest.mark.parametrize(
    ("controls", "scene", "message"),
    [
        ((ByTheWay(), ByTheWay()), {}, "ByTheWay is not supported with ByTheWay"),
        ((ByTheWay(), FreeTraj()), {}, "FreeTraj is not supported with ByTheWay: both change the maps"),
        ((FreeTraj(), FreqPrior()), {}, "FreqPrior is not supported with FreeTraj"),
        ((FreqPrior(),), {"spec": CONTINUING_MODEL}, r"begins from noise alone \(zero terminal SNR\)"),
        ((NoiseCalibration(),), {}, "Noise Calibration needs a video to start from. Give one"),
        ((FreeU(), FreeU()), {}, "FreeU is not supported with FreeU"),
    ],
)
def test_what_does_not_fit_is_refused(controls: tuple[Control, ...], scene: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check(controls, replace(SCENE, **scene), {})


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        (ByTheWay, {"beta": -1.0}, "beta of ByTheWay is -1; it should be 0 to 50"),
        (FreqPrior, {"rounds": 0}, "rounds of FreqPrior is 0; it should be 1 to 10"),
        (FreqPrior, {"filter": "box"}, "should be one of butterworth, gaussian"),
        (NoiseCalibration, {"scale": 2.0}, "scale of Noise Calibration is 2"),
        (FreeU, {"version": "3"}, "should be one of 1, 2"),
    ],
)
def test_values_out_of_range_are_refused(kind: type[Control], given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        kind(**given)


def test_runs_that_do_not_fit_are_refused_before_work_starts(models: dict[str, VideoCrafter]) -> None:
    model = models["text"]
    with pytest.raises(UserError, match="A video to start from is not supported with FreqPrior"):
        made(model, FreqPrior(), video=True)
    with pytest.raises(UserError, match="FreeLong is not supported with ByTheWay"):
        made(model, ByTheWay(), windows=Windows(size=4, stride=2, spectral=True), frames=8)
    request = replace(REQUEST, controls=(NoiseCalibration(),))
    steps = model.steps("a boat", request=request, source=replace(video(), strength=1.0))
    with pytest.raises(UserError, match="this one starts from pure noise"):
        list(steps)
    many = replace(REQUEST, frames=40, controls=(FreqPrior(),))
    for method in (method_named("off")(free_init=1), method_named("continue")(), method_named("fifo")()):
        with pytest.raises(UserError, match="FreqPrior is not supported with"):
            check_method(method, many, model.parts.spec, {})
