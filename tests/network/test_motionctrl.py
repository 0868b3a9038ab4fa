"""MotionCtrl's camera poses and trajectory features as adapters, against the reference's numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from golden_models import unet_spec
from torch import Tensor, nn

from golden_cases import COMMITTED, cases, load, relative_error
from vc_core.checkpoint import detect
from vc_core.checkpoint.parts.motionctrl import MOTIONCTRL
from vc_core.conditions import Conditioning, Evaluation
from vc_core.errors import UserError
from vc_core.network.adapter import Adapter
from vc_core.network.adapters.motionctrl import CameraPoses, MotionCtrlNetwork, TrajectoryFeatures
from vc_core.network.attention import sdpa_attention
from vc_core.network.call import Pass
from vc_core.network.unet import VideoUNet

TOLERANCE = 5e-5  # float32 against float64 is 5e-6 .. 1.3e-5; the smallest mistake tried is 0.08


def network(path: Path) -> tuple:
    """The base network, and the projections; the rest of the case."""
    info, weights, t = load(path)
    model = VideoUNet(unet_spec(info["config"]), device="meta").eval()
    model.load_state_dict({key: value for key, value in weights.items() if "cc_projection" not in key}, assign=True)
    return model, projections_of(weights), info, t


def projections_of(weights: dict[str, Tensor]) -> dict[str, nn.Module]:
    """The layers for camera poses of a network's weights."""
    found = detect({key: value for key, value in weights.items() if "cc_projection" in key})
    network = MOTIONCTRL.build(found.part_spec("motionctrl"), nn, sdpa_attention)
    assert isinstance(network, MotionCtrlNetwork)
    network.load_state_dict(found.contents.parts["motionctrl"], assign=True)
    return network.projections


@pytest.mark.golden
@pytest.mark.parametrize("path", cases("motionctrl_unet"), ids=lambda path: path.stem)
@torch.no_grad()
def test_golden_motionctrl(path: Path) -> None:
    model, projections, info, t = network(path)
    assert {(call["pose"], call["features"]) for call in info["calls"]} >= {(True, True), (False, False)}
    for call in info["calls"]:
        name = call["name"]
        adapters: list[Adapter] = []
        if call["pose"]:
            adapters.append(CameraPoses(projections, t[f"{name}/in/pose"].float()))
        if call["features"]:
            maps = [t[f"{name}/in/features.{level}"].float() for level in range(4)]
            adapters.append(TrajectoryFeatures(maps, info["feature_after_input_block"]))
        conditioning = Conditioning(t[f"{name}/in/context"].float())
        y = model(t[f"{name}/in/x"].float(), t[f"{name}/in/timesteps"], conditioning, Pass(adapters=tuple(adapters)))
        assert relative_error(y, t[f"{name}/out/y"]) < TOLERANCE, name


@pytest.fixture(scope="module")
def case() -> tuple:
    (path,) = cases("motionctrl_unet", folder=COMMITTED)
    return network(path)


@torch.no_grad()
def test_poses_of_shared_passes_parts_and_windows(case: tuple) -> None:
    """Each equals the passes that it stands in for."""
    model, projections, _, t = case
    x, when = t["pose_f16/in/x"].float()[:, :, :4], t["pose_f16/in/timesteps"]
    text, poses = t["pose_f16/in/context"].float(), t["pose_f16/in/pose"].float()
    texts = [Conditioning(text), Conditioning(text.flip(1))]
    run = Pass(adapters=(CameraPoses(projections, poses[:, :4]),))
    apart = torch.cat([model(x, when, one, run) for one in texts])
    joined = Conditioning.joined(texts)
    assert joined is not None
    assert relative_error(model(x, when, joined, run), apart) < TOLERANCE
    window = Pass(Evaluation(window=(0, 1, 2, 3)), adapters=(CameraPoses(projections, poses),))
    assert torch.equal(model(x, when, texts[0], window), model(x, when, texts[0], run))
    model.budget.values = 2000
    assert relative_error(model(x, when, joined, run), apart) < TOLERANCE
    model.budget.values = 2**24


@torch.no_grad()
def test_poses_that_do_not_fit_are_refused_with_the_cure(case: tuple) -> None:
    model, projections, _, t = case
    with pytest.raises(UserError, match=r"should have the shape \(clips, frames, 12\).*but the shape is \(1, 3, 4\)"):
        CameraPoses(projections, torch.zeros(1, 3, 4))
    run = Pass(adapters=(CameraPoses(projections, torch.zeros(1, 3, 12)),))
    text = Conditioning(t["pose_f16/in/context"].float())
    with pytest.raises(UserError, match=r"poses for 3 frames, but the clip has 16. Give one pose for each frame"):
        model(t["pose_f16/in/x"].float(), t["pose_f16/in/timesteps"], text, run)
    with pytest.raises(UserError, match="nothing in it is recognised"):
        projections_of(model.state_dict())
