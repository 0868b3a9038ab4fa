"""ScaleCrafter's dilated convolutions, schedules and runs, against the reference's numbers."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_models import diffusion_spec, unet_spec
from torch import Tensor, nn

from golden_cases import RecordedNoise, cases, load, relative_error, row, step_noise
from vc_core.conditions import NEGATIVE, SINGLE, Branch, Conditioning, Evaluation
from vc_core.control.dilation_table import COURSES, Entry, dilations, factors_of
from vc_core.denoising import Guidance, NoiseSchedule, Sampling, sample
from vc_core.denoising.guidance import Term
from vc_core.network.adapters.dilation import Dilation, convolutions, dispersion, redilated
from vc_core.network.call import Pass
from vc_core.network.layers import dilated
from vc_core.network.unet import VideoUNet

CONVOLUTION = 1e-5
MATRIX = 1e-9
UNET = 3e-5
ONE_STEP, RUN = 1e-4, 1e-3

WEAKER = Branch("negative", without=frozenset({"scalecrafter"}))


@pytest.mark.golden
@pytest.mark.parametrize("path", cases("scalecrafter_conv"), ids=lambda path: path.stem)
@torch.no_grad()
def test_golden_convolutions(path: Path) -> None:
    info, weights, t = load(path)
    if "R" in t:
        assert float((dispersion() - t["R"]).abs().max()) < MATRIX
    for call in info["calls"]:
        name, stride, x = call["name"], call["stride"], t[f"{call['name']}/in/x"]
        layer = nn.Conv2d(info["in_channels"], info["out_channels"], 3, stride=stride, padding=1)
        layer.load_state_dict({one: weights[f"{name}.{one}"] for one in ("weight", "bias")})
        spread = dispersion() if call["inflated"] else None
        convolve = partial(dilated, layer)
        y = redilated(convolve, x, call["dilate"], stride=stride, spread=spread) if call["active"] else layer(x)
        assert relative_error(y, t[f"{name}/out/y"]) < CONVOLUTION, name


@pytest.mark.golden
@pytest.mark.parametrize("path", cases("scalecrafter_schedule"), ids=lambda path: path.stem)
def test_golden_schedules(path: Path) -> None:
    info, _, _ = load(path)
    for call in info["calls"]:
        falling = {"layers": "progressive", "blocks": "stages"}[call["variant"]]
        course = COURSES[falling if call["progressive"] else "constant"]
        tau, factor = call["tau"], call["dilate"]
        found = [course(factor, step, tau) if step < tau else 1.0 for step in range(call["steps"])]
        assert found == call["factor_per_step"], call


def network(weights: dict[str, Tensor], config: dict[str, Any]) -> VideoUNet:
    model = VideoUNet(unet_spec(config), device="meta").eval()
    model.load_state_dict(weights, assign=True)
    return model


@pytest.mark.golden
@pytest.mark.parametrize("path", cases("scalecrafter_unet"), ids=lambda path: path.stem)
@torch.no_grad()
def test_golden_unet(path: Path) -> None:
    info, weights, t = load(path)
    model = network(weights, info["config"])
    found = {name: convolution.level for name, convolution in convolutions(model.spec).items()}
    assert found == info["all_3x3_conv2d"]
    x = t["in/x"]
    for call in info["calls"]:
        name, factors = call["name"], call["factor_of_layer"] or {}
        if call["variant"] == "blocks":
            table = (Entry("skip", call["nskip"], call["dilate"]),)
            assert factors_of(table, model.spec) == factors, name
        conditioning = Conditioning(t["in/context"], fps=row(call["fps"], len(x)))
        y = model(x, t["in/timesteps"], conditioning, Pass(adapters=(Dilation(factors),)))
        assert relative_error(y, t[f"{name}/out/y"]) < UNET, name


@pytest.mark.golden
@pytest.mark.parametrize("path", cases("scalecrafter_e2e"), ids=lambda path: path.stem)
@torch.no_grad()
def test_golden_runs(path: Path) -> None:
    """Whole runs, of which a file may hold the first steps alone."""
    info, weights, t = load(path)
    model = network(weights, info["config"]["unet"])
    schedule = NoiseSchedule.from_spec(diffusion_spec(info["config"]))
    for call in info["calls"]:
        name, start, golden = call["name"], t[f"{call['name']}/x_T"], t[f"{call['name']}/x"]
        course = "progressive" if call["progressive"] else "constant"
        make = partial(dilations, steps=call["dilate_tau"], course=course, owner="scalecrafter")
        adapters = (*make(call["dilate_settings"]), *make(call["ndcfg_dilate_settings"], instead=True))
        terms = (Term(1.0, WEAKER, NEGATIVE, steps=call["ndcfg_tau"]),) if call["ndcfg_tau"] else ()
        predict = partial(predicted, model, adapters)
        texts = {"positive": t["text/emb"], "negative": t["text/uncond"]}
        both = {key: Conditioning(text, fps=row(call["fps"], 1)) for key, text in texts.items()}
        settings = Sampling(
            steps=call["steps"], eta=call["eta"], guidance=Guidance(scale=call["cfg"], terms=terms), together=True
        )
        fresh = step_noise(t.get(f"{name}/step_noise"), golden[0], call["steps"], call["eta"])
        noise = RecordedNoise([start, *(one[None] for one in fresh)])
        steps = sample(predict, schedule, both, noise=noise, shape=start.shape, settings=settings)
        for index, (step, one) in enumerate(zip(steps, golden, strict=False)):
            assert relative_error(step.x[0], one) < (RUN if index else ONE_STEP), (name, index)


def predicted(
    model: VideoUNet,
    adapters: tuple[Dilation, ...],
    x: Tensor,
    timestep: Tensor,
    given: Conditioning,
    evaluation: Evaluation = SINGLE,
    /,
) -> Tensor:
    out: Tensor = model(x, timestep, given, Pass(evaluation, adapters=adapters))
    return out
