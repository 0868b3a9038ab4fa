"""CameraCtrl and CamI2V as adapters of DynamiCrafter's network, against the numbers of CamI2V's authors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden_models import unet_spec
from torch import Tensor

from golden_cases import COMMITTED, cases, load, relative_error, row
from vc_core.conditions import Conditioning, Evaluation
from vc_core.errors import UserError
from vc_core.network.adapter import Adapter
from vc_core.network.adapters.camera_features import CameraCtrl, CameraNetwork, CamI2V, RayFeatures
from vc_core.network.adapters.epipolar import EpipolarLines
from vc_core.network.adapters.motionctrl import CameraPoses, MotionCtrlNetwork
from vc_core.network.adapters.pose_encoder import PoseEncoder
from vc_core.network.call import PLAIN, Pass
from vc_core.network.unet import VideoUNet

NEW = ("cc_projection", "pluker_projection", "epipolar")
KINDS = ("cami2v_motionctrl_unet", "cami2v_cameractrl_unet", "cami2v_unet")


class GivenMasks(EpipolarLines):
    """The masks of a case in place of those of lines."""

    def __init__(self, masks: Mapping[int, Tensor]) -> None:
        super().__init__(torch.zeros(max(map(len, masks.values()), default=1), 1, 1, 3, 3), 0)
        object.__setattr__(self, "masks", masks)

    def allowed(self, clip: int, grid: tuple[int, int], queries: range) -> Tensor:
        return self.masks[grid[0]][clip % len(self.fundamental), queries.start : queries.stop]  # type: ignore[attr-defined,no-any-return]


class GivenFeatures(RayFeatures):
    """The features of a case in place of an encoder's."""

    def __init__(self, maps: list[Tensor]) -> None:
        super().__init__(lambda rays: maps, torch.zeros(len(maps[0]), 6, maps[0].shape[2], 1, 1))


def network(path: Path) -> tuple[VideoUNet, dict[str, Any], dict[str, Tensor], dict[str, Tensor]]:
    info, weights, t = load(path)
    model = VideoUNet(unet_spec(info["config"]), device="meta").eval()
    base = {key: value for key, value in weights.items() if not any(name in key for name in NEW)}
    model.load_state_dict(base, assign=True)
    return model, info, weights, t


def poses_of(weights: Mapping[str, Tensor]) -> MotionCtrlNetwork:
    """The layers for camera poses of a case."""
    layers = {key: value for key, value in weights.items() if "cc_projection" in key}
    blocks = {key.rsplit(".", 2)[0]: len(value) for key, value in layers.items() if key.endswith(".weight")}
    made = MotionCtrlNetwork(blocks)
    made.load_state_dict(layers, assign=True)
    return made


def network_of(weights: Mapping[str, Tensor]) -> CameraNetwork:
    """The camera layers of a case; their encoder is not that of the case."""
    layers = {key: value for key, value in weights.items() if any(name in key for name in NEW)}
    found = (key.removesuffix(".weight") for key in layers)
    blocks = {
        key.rpartition(".")[0]: len(layers[f"{key}.weight"])
        for key in found
        if key.endswith(("cc_projection", "pluker_projection"))
    }
    registers = 4 if any("epipolar" in key for key in layers) else None
    made = CameraNetwork(blocks, {"channels": (8, 8), "units": 1, "frames": 8}, registers)
    assert not made.load_state_dict(layers, strict=False, assign=True).unexpected_keys
    return made


def masks_of(call: Mapping[str, Any], t: Mapping[str, Tensor]) -> dict[int, Tensor]:
    """By the height of the feature map."""
    found = {}
    for level in range(4):
        height = call["h"] >> level
        bits = t.get(f"{call['name']}/in/mask.{8 << level}")
        if bits is not None:
            count = call["t"] * height * (call["w"] >> level)
            found[height] = torch.from_numpy(np.unpackbits(bits.numpy(), axis=-1)[..., :count].copy()).bool()
    return found


def adapters_of(
    info: Mapping[str, Any], call: Mapping[str, Any], weights: Mapping[str, Tensor], t: Mapping[str, Tensor]
) -> tuple[Adapter, ...]:
    name = call["name"]
    if not call["camera"]:
        return ()
    if info["variant"] == "motionctrl":
        return (CameraPoses(poses_of(weights).projections, t[f"{name}/in/RT"]),)
    features = GivenFeatures([t[f"{name}/in/features.{level}"].float() for level in range(4)])
    if info["variant"] == "cameractrl":
        return (CameraCtrl(features, network_of(weights).projections),)
    masks = masks_of(call, t)
    unmasked = {call["h"] >> level for level in range(4)} - set(masks)
    return (
        CamI2V(
            features,
            network_of(weights).projections,
            network_of(weights).attentions,
            GivenMasks(masks),
            unmasked=unmasked,
            inside=call["add_type"] == "add_into_temporal_attn",
        ),
    )


def inputs(t: Mapping[str, Tensor], name: str) -> tuple[Tensor, Tensor, Conditioning]:
    x, context = t[f"{name}/in/x"], t[f"{name}/in/context"]
    image = context[:, 77:].unflatten(1, (x.shape[2], -1))
    conditioning = Conditioning(context[:, :77], image, row(t[f"{name}/in/fs"].tolist(), len(x)), concat=x[:, 4:])
    return x[:, :4], t[f"{name}/in/timesteps"], conditioning


@pytest.mark.golden
@pytest.mark.parametrize("path", cases(*KINDS), ids=lambda path: path.stem)
@torch.no_grad()
def test_golden_cameras_of_dynamicrafter(path: Path) -> None:
    model, info, weights, t = network(path)
    for call in info["calls"]:
        run = Pass(adapters=adapters_of(info, call, weights, t))
        y = model(*inputs(t, call["name"]), run)
        assert relative_error(y, t[f"{call['name']}/out/y"]) < call["tolerance_rel_l2"], call["name"]


@pytest.mark.golden
@pytest.mark.parametrize("path", cases("cami2v_pose_encoder"), ids=lambda path: path.stem)
@torch.no_grad()
def test_golden_pose_encoder(path: Path) -> None:
    """The recipe has no tables of positions: they are those of the encoder itself."""
    info, weights, t = load(path)
    config = info["config"]
    frames = config["temporal_position_encoding_max_len"]
    encoder = PoseEncoder(tuple(config["channels"]), config["nums_rb"], frames).eval()
    missing = encoder.load_state_dict(weights, strict=False)
    assert not missing.unexpected_keys
    assert set(missing.missing_keys) == set(info["buffers_in_state_dict"])
    for call in info["calls"]:
        features = encoder(t[f"{call['name']}/in/plucker"].float())
        for level, found in enumerate(features):
            golden = t[f"{call['name']}/out/features.{level}"]
            assert relative_error(found, golden) < info["tolerance_rel_l2"], call["name"]


@pytest.fixture(scope="module")
def case() -> tuple[VideoUNet, dict[str, Any], dict[str, Tensor], dict[str, Tensor]]:
    (path,) = cases("cami2v_unet", folder=COMMITTED)
    return network(path)


def random_lines(frames: int, height: int) -> EpipolarLines:
    generator = torch.Generator().manual_seed(3)
    return EpipolarLines(torch.randn(1, frames, frames, 3, 3, generator=generator), height)


class Rays(RayFeatures):
    """Features of four levels that are averages of the rays over pixels, in as many channels as the case has."""

    def __init__(self, frames: int, size: int) -> None:
        def encoder(rays: Tensor) -> list[Tensor]:
            return [
                torch.nn.functional.avg_pool3d(rays, (1, 8 << level, 8 << level)).repeat(1, 11, 1, 1, 1)[:, :channels]
                for level, channels in enumerate((32, 64, 64, 64))
            ]

        generator = torch.Generator().manual_seed(4)
        super().__init__(encoder, torch.randn(1, 6, frames, size, size, generator=generator))


def camera_of(weights: Mapping[str, Tensor], frames: int = 8, **options: Any) -> CamI2V:
    return CamI2V(
        Rays(frames, 64),
        network_of(weights).projections,
        network_of(weights).attentions,
        random_lines(frames, 64),
        **options,
    )


@torch.no_grad()
def test_cameras_of_shared_passes_parts_blocks_and_windows(case: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each equals the passes that it stands in for. CameraCtrl works on parts of a map, CamI2V on whole maps."""
    model, info, weights, t = case
    x, when, one = inputs(t, info["calls"][0]["name"])
    other = Conditioning(one.text.flip(1), one.image, one.fps, one.concat)
    square = network_of(weights).projections
    for made in (lambda frames: camera_of(weights, frames), lambda frames: CameraCtrl(Rays(frames, 64), square)):
        run = Pass(adapters=(made(8),))
        apart = torch.cat([model(x, when, each, run) for each in (one, other)])
        joined = Conditioning.joined([one, other])
        assert joined is not None
        assert relative_error(model(x, when, joined, run), apart) < 5e-5
        model.budget.values = 2000
        assert relative_error(model(x, when, joined, run), apart) < 5e-5
        model.budget.values = 2**24
        monkeypatch.setattr("vc_core.network.adapters.epipolar.BLOCK_BYTES", 100_000)
        assert relative_error(model(x, when, one, run), apart[:1]) < 5e-5
        monkeypatch.undo()
        frames = (1, 2, 5)
        part = Conditioning(one.text, one.image[:, list(frames)], one.fps, one.concat[:, :, list(frames)])
        window = Pass(Evaluation(window=frames), adapters=(made(8),))
        cut = made(8)
        cut.features.rays = cut.features.rays[:, :, list(frames)]
        if isinstance(cut, CamI2V):
            cut.lines = cut.lines.of_frames(frames)
        whole = model(x[:, :, list(frames)], when, part, Pass(adapters=(cut,)))
        assert torch.equal(model(x[:, :, list(frames)], when, part, window), whole)


@torch.no_grad()
def test_without_its_camera_a_branch_is_the_plain_network(case: tuple) -> None:
    model, info, weights, t = case
    given = inputs(t, info["calls"][0]["name"])
    plain = model(*given)
    assert not torch.equal(model(*given, Pass(adapters=(camera_of(weights),))), plain)
    assert torch.equal(model(*given, PLAIN), plain)


@torch.no_grad()
def test_clips_that_do_not_fit_the_camera_are_refused_with_the_cure(case: tuple) -> None:
    model, info, weights, t = case
    given = inputs(t, info["calls"][0]["name"])
    with pytest.raises(UserError, match=r"poses for 5 frames, but the clip has 8. Give one pose for each frame"):
        model(*given, Pass(adapters=(camera_of(weights, 5),)))
    camera = camera_of(weights)
    camera.features.frames = 7
    with pytest.raises(UserError, match=r"takes at most 7 frames at once, but the network sees 8.*context windows"):
        model(*given, Pass(adapters=(camera,)))
    camera = camera_of(weights)
    camera.features.rays = torch.zeros(1, 6, 8, 64, 128)
    with pytest.raises(UserError, match=r"features are 8x16, .*but the network's map is 8x8.*multiples of 64"):
        model(*given, Pass(adapters=(camera,)))
