"""MotionCtrl's inputs, its networks and whole runs, against the reference's numbers and in the pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_models import unet_spec
from torch import Tensor, nn

from golden_cases import RecordedNoise, cases, load, relative_error, step_noise
from vc_core.checkpoint import detect
from vc_core.checkpoint.parts.motionctrl import MOTIONCTRL
from vc_core.conditions import SINGLE, Conditioning, Evaluation
from vc_core.control import MotionCtrl, Scene
from vc_core.control.camera import moved, moves_of, scaled
from vc_core.control.flow import flow_map
from vc_core.control.tracks import every, for_frames, on_canvas
from vc_core.denoising import Guidance, NoiseSchedule, Sampling, sample
from vc_core.denoising.guidance import guide
from vc_core.network.adapters.motionctrl import CameraPoses, MotionCtrlNetwork, TrajectoryEncoder
from vc_core.network.attention import sdpa_attention
from vc_core.network.call import Pass
from vc_core.network.unet import VideoUNet
from vc_core.specs import PRESETS, DiffusionSpec

PASS = 1e-4  # of the reference in float32; the smallest mistake tried is 5e-2
FIRST = 1e-4  # guidance multiplies what rounding does to the reference by 7.5
NAMES = {
    "Pan Up": "pan up",
    "Pan Down": "pan down",
    "Pan Left": "pan left",
    "Pan Right": "pan right",
    "Zoom In": "zoom in",
    "Zoom Out": "zoom out",
    "ACW": "roll counterclockwise",
    "CW": "roll clockwise",
    "none": "still",
}
"""The reference's names of camera moves, and ours."""


def points(t: Mapping[str, Tensor], name: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in t[name].tolist()]


@pytest.mark.golden
@pytest.mark.parametrize("path", cases("motionctrl_inputs"), ids=lambda path: path.stem)
def test_golden_camera_moves(path: Path) -> None:
    _, _, t = load(path)
    found = 0
    for key, golden in t.items():
        kind, _, rest = key.partition("camera/")[2].rpartition("@")[0].partition(":")
        if not key.startswith("camera/"):
            continue
        speed = float(key.rpartition("@")[2])
        if kind == "raw":
            ours = scaled(t["raw/in/pose"], speed)
        else:
            parts = [NAMES[name] for name in (rest or kind).split("+")]
            ours = moved(moves_of({"both": " + ", "first_then": ", "}.get(kind, "").join(parts)), len(golden), speed)
        assert float((ours - golden).abs().max()) < 1e-6, key
        found += 1
    assert found > 20


@pytest.mark.golden
@pytest.mark.parametrize("path", cases("motionctrl_inputs"), ids=lambda path: path.stem)
def test_golden_tracks_and_flow(path: Path) -> None:
    info, _, t = load(path)
    names = [call["name"] for call in info["calls"] if f"{call['name']}/in/points" in t]
    assert names
    for name in names:
        given = points(t, f"{name}/in/points")
        if name == "file":
            track = every(given, 16)
            assert track == points(t, "file/out/points")
        else:
            track = for_frames(given, 16) if len(given) > 1 else [(512.0, 512.0)] * 16
            assert track == points(t, f"{name}/out/points16"), name
            (track,) = on_canvas([track], canvas=1024, width=256)
        flow = flow_map([track], 16, 256, 256).permute(1, 2, 3, 0)
        for key, cut in (("flow_every_16th", flow[:, ::16, ::16]), ("flow_frame_4_every_4th", flow[4, ::4, ::4])):
            golden = t.get(f"{name}/out/{key}")
            if golden is not None:
                most = float(flow.abs().max())
                assert float((cut - golden).abs().max()) <= 1e-5 * most, (name, key)


def built(weights: Mapping[str, Tensor]) -> MotionCtrlNetwork:
    """The network of the added layers among the weights of a file."""
    found = detect(weights)
    network = MOTIONCTRL.build(found.part_spec("motionctrl"), nn, sdpa_attention)
    assert isinstance(network, MotionCtrlNetwork)
    network.load_state_dict(found.contents.parts["motionctrl"], assign=True)
    return network.eval()


@pytest.mark.golden
@pytest.mark.parametrize("path", cases("motionctrl_omcm"), ids=lambda path: path.stem)
@torch.no_grad()
def test_golden_trajectory_encoder(path: Path) -> None:
    info, weights, t = load(path)
    config = info["config"]
    encoder = TrajectoryEncoder(config["channels"], config["nums_rb"])
    encoder.load_state_dict(weights)
    for call in info["calls"]:
        maps = encoder(t[f"{call['name']}/in/flow"].float())
        for level, ours in enumerate(maps):
            assert relative_error(ours, t[f"{call['name']}/out/features.{level}"]) < 1e-5, call["name"]


class Run:
    """A whole run of a golden case: the network, its adapters, and the passes that were made.

    In float64: with random weights some attentions are so sharp that float32 may be off by 1e-2, where a change of the
    input by 1e-7 makes that 2e-5.
    """

    def __init__(self, info: dict[str, Any], weights: dict[str, Tensor], t: dict[str, Tensor], call: dict[str, Any]):
        unet = unet_spec(info["config"]["unet"])
        self.network = VideoUNet(unet, device="meta").eval()
        found = detect(weights)
        self.network.load_state_dict(found.contents.parts["unet"], assign=True)
        self.network.double()
        self.layers = built(weights).double()
        base = PRESETS["motionctrl_256"]
        config = info["config"]
        diffusion = DiffusionSpec(
            beta_start=config["linear_start"],
            beta_end=config["linear_end"],
            timesteps=config["timesteps"],
            rescale=None,
        )
        self.schedule = NoiseSchedule.from_spec(diffusion)
        _, _, frames, height, width = t[f"{call['name']}/x_T"].shape
        scene = Scene(
            spec=replace(base, unet=unet),
            frames=frames,
            width=8 * width,
            height=8 * height,
            steps=call["S"],
            cfg=call["cfg"],
            dtype=torch.float64,
        )
        control = MotionCtrl(tracks_until=call["cond_T"])
        self.adapters: list[Any] = []
        if call["pose"]:
            self.adapters.append(CameraPoses(self.layers.projections, t["pose"].float()))
        if call["trajectory"]:
            self.adapters.append(control.trajectories(scene, self.layers, t["flow"].float()))
        self.conditionings = {
            "positive": Conditioning(t["context/cond"].float()),
            "negative": Conditioning(t["context/uncond"].float()),
        }
        self.outputs: dict[str, list[Tensor]] = {"positive": [], "negative": []}

    def model(self, x: Tensor, when: Tensor, given: Conditioning, at: Evaluation = SINGLE, /) -> Tensor:
        exact = given.to(dtype=torch.float64)
        out = self.network(x.double(), when, exact, Pass(at, adapters=tuple(self.adapters))).float()
        for branch, part in zip(at.branches, out.chunk(len(at.branches)), strict=True):
            self.outputs[branch.conditioning].append(part)
        return out


@pytest.mark.golden
@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("path", cases("motionctrl_e2e"), ids=lambda path: path.stem)
@torch.no_grad()
def test_golden_runs(path: Path, together: bool) -> None:
    info, weights, t = load(path)
    for call in info["calls"]:
        name = call["name"]
        run = Run(info, weights, t, call)
        x = t[f"{name}/x_T"]
        draws = [x, *step_noise(t.get(f"{name}/noise"), x, call["S"], call["eta"])]
        settings = Sampling(steps=call["S"], eta=call["eta"], guidance=Guidance(scale=call["cfg"]), together=together)
        noise = RecordedNoise(draws)
        shape = tuple(x.shape)
        steps = sample(run.model, run.schedule, run.conditionings, noise=noise, shape=shape, settings=settings)
        for step in steps:
            assert relative_error(step.x, t[f"{name}/x"][step.index]) < (FIRST if step.index == 0 else 5e-3), name
        check_passes(run, t, call, together=together)


def check_passes(run: Run, t: Mapping[str, Tensor], call: dict[str, Any], *, together: bool) -> None:
    """Every pass of every step, from the reference's own latents."""
    name = call["name"]
    predict = guide(run.model, run.conditionings, Guidance(scale=call["cfg"]), together=together)
    for step, timestep in enumerate(call["t"]):
        before = t[f"{name}/x_T"] if step == 0 else t[f"{name}/x"][step - 1]
        run.outputs = {"positive": [], "negative": []}
        predict(before, torch.tensor([float(timestep)]), Evaluation(step=step, steps=call["S"]))
        for branch, key in (("positive", "eps_cond"), ("negative", "eps_uncond")):
            assert len(run.outputs[branch]) == (f"{name}/{key}" in t)
            for out in run.outputs[branch]:
                assert relative_error(out, t[f"{name}/{key}"][step]) < PASS, (name, key, step)
