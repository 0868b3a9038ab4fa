"""FreeTraj's paths, initial noise and attention guidance, against the reference's numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from golden_models import diffusion_spec, unet_spec
from torch import Tensor

from golden_cases import RecordedNoise, cases, load, relative_error, row, step_noise
from vc_core.conditions import SINGLE, Conditioning, Evaluation
from vc_core.control.freetraj_attention import BoxAttention, Subject, bump
from vc_core.control.freetraj_noise import with_paths
from vc_core.control.freetraj_path import Keyframe, path_of_keyframes, sides_of_frames
from vc_core.denoising import Guidance, NoiseSchedule, Sampling, sample
from vc_core.network.adapter import Adapters, Place
from vc_core.network.attentions import AttentionLayer, CrossAttention, OverTime, SelfAttention, TemporalAttention
from vc_core.network.call import Call, Pass
from vc_core.network.layers import Layers
from vc_core.network.unet import VideoUNet

PATH = 1e-12
NOISE = 1e-5
ATTENTION = 1e-5
UNET = 3e-5
ONE_STEP, RUN = 1e-4, 1e-3


def keyframes(call: dict[str, Any]) -> list[Keyframe]:
    return [Keyframe(int(frame), *sides) for frame, *sides in call["trajectory"]]


def adapter(call: dict[str, Any], frames: int, steps: int = 1) -> BoxAttention:
    subject = Subject(path_of_keyframes(keyframes(call), frames), tuple(call["idx_list"]))
    return BoxAttention([subject], steps=steps)


@pytest.mark.golden
@pytest.mark.parametrize("path", cases("freetraj_path"), ids=lambda path: path.stem)
def test_golden_paths(path: Path) -> None:
    info, weights, t = load(path)
    for call in info["calls"]:
        name = call["name"]
        rows = torch.tensor(sides_of_frames(keyframes(call), call["frames"]), dtype=torch.float64)
        assert float((rows - t[f"{name}/path"]).abs().max()) <= PATH, name
        moved = path_of_keyframes(keyframes(call), call["frames"])
        for size, cells in call["box_cells"].items():
            found = moved.cells(*map(int, size.split("x")))
            assert [[one.top, one.left] for one in found] == cells["starts_hw"], (name, size)
            assert all([one.height, one.width] == cells["size_hw"] for one in found), (name, size)
    boxes = [key.removeprefix("weight/") for key in t if key.startswith("weight/")]
    boxes += [key.removeprefix("eight/") for key in weights]  # `load` takes names from w/ on for weights
    assert boxes
    for size in boxes:
        found, golden = bump(*map(int, size.split("x"))), t[f"weight/{size}"]
        steps = (found.view(torch.int16).int() - golden.view(torch.int16).int()).abs()
        assert int(steps.max()) <= 1, size


@pytest.mark.golden
@pytest.mark.parametrize("path", cases("freetraj_noise"), ids=lambda path: path.stem)
def test_golden_noise(path: Path) -> None:
    info, _, t = load(path)
    for call in info["calls"]:
        name, clips, frames = call["name"], call["b"], call["frames"]
        moving = path_of_keyframes(keyframes(call), frames)
        for noise, patch, golden in zip(
            t[f"{name}/in/noise"], t[f"{name}/in/box_noise"], t[f"{name}/out/x_T"], strict=True
        ):
            high = t[f"{name}/in/high_noise"][0].expand(clips, -1, -1, -1, -1)
            drawn = RecordedNoise(one.expand(clips, *one.shape[1:]).clone() for one in (noise, patch))
            assert relative_error(with_paths([moving], high, drawn), golden) < NOISE, name


@pytest.mark.golden
@pytest.mark.parametrize("path", cases("freetraj_attention"), ids=lambda path: path.stem)
@torch.no_grad()
def test_golden_attention(path: Path) -> None:
    info, weights, t = load(path)
    for call in info["calls"]:
        name, frames = call["name"], call["frames"]
        layer = layer_of(call)
        own = {key.removeprefix(f"{name}."): value for key, value in weights.items() if key.startswith(f"{name}.")}
        layer.load_state_dict(own)
        x, context = t[f"{name}/in/x"], t.get(f"{name}/in/context", torch.zeros(1, 77, 1))
        run = Pass(Evaluation(step=0, steps=2), adapters=(adapter(call, frames),))
        place = Place(torch.zeros(1), frames, run.evaluation, grid=(call["h"], call["w"]))
        text, image = context[:, :77], context[:, 77:]
        given = Call(x, text, image if image.shape[1] else None, frames, 1, run, Adapters(run.adapters), place)
        assert relative_error(layer(x, given), t[f"{name}/out/y"]) < ATTENTION, name


def layer_of(call: dict[str, Any]) -> AttentionLayer:
    """The attention layer of a case."""
    module = call["module"]
    width, heads = module["query_dim"], module["heads"]
    if call["temporal"]:
        reach = module["temporal_length"] if module.get("relative_position") else None
        return TemporalAttention(width, heads, Layers(), "temporal_1", OverTime(reach))
    if call["cross"]:
        image = module.get("img_cross_attention", False)
        return CrossAttention(width, module["context_dim"], heads, Layers(), image=image)
    return SelfAttention(width, heads, Layers())


def network(info: dict[str, Any], weights: dict[str, Tensor], config: dict[str, Any]) -> VideoUNet:
    model = VideoUNet(unet_spec(config), device="meta").eval()
    model.load_state_dict(weights, assign=True)
    return model


@pytest.mark.golden
@pytest.mark.parametrize("path", cases("freetraj_unet"), ids=lambda path: path.stem)
@torch.no_grad()
def test_golden_unet(path: Path) -> None:
    info, weights, t = load(path)
    model = network(info, weights, info["config"])
    for call in info["calls"]:
        name, x = call["name"], t[f"{call['name']}/in/x"]
        conditioning = Conditioning(t[f"{name}/in/context"], fps=row(call["fps"], len(x)))
        adapters = (adapter(call, call["t"]),) if call["use_freetraj"] else ()
        run = Pass(Evaluation(step=0, steps=50), adapters=adapters)
        y = model(x, t[f"{name}/in/timesteps"], conditioning, run)
        assert relative_error(y, t[f"{name}/out/y"]) < UNET, name


@pytest.mark.golden
@pytest.mark.parametrize("path", cases("freetraj_e2e"), ids=lambda path: path.stem)
@torch.no_grad()
def test_golden_runs(path: Path) -> None:
    """The initial noise; then every step from the golden latent before it, and the whole run. A file may hold the first
    steps of a run alone."""
    info, weights, t = load(path)
    model = network(info, weights, info["config"]["unet"])
    schedule = NoiseSchedule.from_spec(diffusion_spec(info["config"]))
    for call in info["calls"]:
        name, frames = call["name"], info["t"]
        moving = path_of_keyframes(keyframes(call), frames)
        drawn = RecordedNoise(t[f"{name}/in/{one}"][0] for one in ("noise", "box_noise"))
        start = with_paths([moving], t[f"{name}/in/high_noise"][0], drawn)
        assert relative_error(start, t[f"{name}/x_T"]) < NOISE, name
        golden = t[f"{name}/x"]
        settings = Sampling(steps=call["steps"], eta=call["eta"], guidance=Guidance(scale=call["cfg"]))
        fresh = step_noise(t.get(f"{name}/step_noise"), golden[0], call["steps"], call["eta"])
        guided = adapter(call, frames, steps=call["ddim_edit"])

        def predict(
            x: Tensor,
            timestep: Tensor,
            given: Conditioning,
            evaluation: Evaluation = SINGLE,
            /,
            guided: BoxAttention = guided,
        ) -> Tensor:
            out: Tensor = model(x, timestep, given, Pass(evaluation, adapters=(guided,)))
            return out

        texts = {"positive": t["text/emb"], "negative": t["text/uncond"]}
        both = {key: Conditioning(text, fps=row(call["fps"], 1)) for key, text in texts.items()}
        noise = RecordedNoise([start, *(one[None] for one in fresh)])
        steps = sample(predict, schedule, both, noise=noise, shape=start.shape, settings=settings)
        for index, (step, one) in enumerate(zip(steps, golden, strict=False)):
            assert relative_error(step.x[0], one) < (RUN if index else ONE_STEP), (name, index)
