"""Cases of the controls: paths, noise, encoders, and networks with adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from golden_cases import RecordedNoise
from vc_core.conditions import Conditioning, Evaluation
from vc_core.control.freetraj_attention import BoxAttention, Subject, bump
from vc_core.control.freetraj_noise import with_paths
from vc_core.control.freetraj_path import Keyframe, path_of_keyframes, sides_of_frames
from vc_core.network.adapters.motionctrl import (
    CameraPoses,
    MotionCtrlNetwork,
    TrajectoryEncoder,
    TrajectoryFeatures,
)
from vc_core.network.adapters.pose_encoder import PoseEncoder
from vc_core.network.adapters.sketch import SketchEncoder
from vc_core.network.adapters.stylecrafter import StyleAttention, StyleProjections, WithoutTime, text_attentions
from vc_core.network.call import PLAIN as PLAIN_PASS
from vc_core.network.call import Pass
from vc_core.network.unet import VideoUNet
from vc_core.specs import UNetSpec
from vc_core.specs.sketch import SketchEncoderSpec

from .parts import CONTINUING, OURS, PLAIN, SIZES, Draws, by_recipe, filled, write

BOXES = [[1, 0.2, 0.7, 0.1, 0.5], [4, 0.5, 1.0, 0.6, 1.0]]
FOUR_LEVELS = {"channel_mult": (1, 2, 2, 2), "attention_levels": (0, 1, 2)}
PUBLISHED_LEVELS = {"channel_mult": [1, 2, 2, 2], "attention_resolutions": [4, 2, 1]}


def _keyframes(rows: list[list[float]]) -> list[Keyframe]:
    return [Keyframe(int(frame), *sides) for frame, *sides in rows]


def _projections(unet: VideoUNet, init: bool) -> MotionCtrlNetwork:
    """MotionCtrl's layers for camera poses, in every temporal transformer."""
    weights = unet.state_dict()
    found = (name.partition(".attn2.to_q.weight") for name in weights)
    blocks = {
        block: weights[f"{block}.attn2.to_q.weight"].shape[1]
        for block, end, _ in found
        if end and weights[f"{block}.attn2.to_k.weight"].shape == weights[f"{block}.attn2.to_q.weight"].shape
    }
    return MotionCtrlNetwork({block: width for block, width in blocks.items() if init or not block.startswith("init")})


def freetraj_path(folder: Path) -> Path:
    keyframes, frames = _keyframes(BOXES), 7
    moved, cells = path_of_keyframes(keyframes, frames), {}
    for height, width in ((9, 11), (4, 6)):
        found = moved.cells(height, width)
        size = [found[0].height, found[0].width]
        cells[f"{height}x{width}"] = {"size_hw": size, "starts_hw": [[one.top, one.left] for one in found]}
    tensors = {
        "c0/path": torch.tensor(sides_of_frames(keyframes, frames), dtype=torch.float64),
        "weight/5x7": bump(5, 7),
    }
    call = {"name": "c0", "trajectory": BOXES, "frames": frames, "box_cells": cells}
    return write(folder, "freetraj_path", {"calls": [call]}, tensors)


def freetraj_noise(folder: Path) -> Path:
    draw, frames, clips = Draws(), 6, 3
    moved, noise = path_of_keyframes(_keyframes(BOXES), frames), draw(1, 1, 4, frames, 8, 10)
    (first, *_) = moved.cells(8, 10)
    patch, high = draw(1, 1, 4, first.height, first.width), draw(1, 1, 4, frames, 8, 10)
    drawn = RecordedNoise(one[0].expand(clips, *one.shape[2:]).clone() for one in (noise, patch))
    made = with_paths([moved], high[0].expand(clips, -1, -1, -1, -1), drawn)
    tensors = {"c0/in/noise": noise, "c0/in/box_noise": patch, "c0/in/high_noise": high, "c0/out/x_T": made[None]}
    call = {"name": "c0", "trajectory": BOXES, "b": clips, "frames": frames}
    return write(folder, "freetraj_noise", {"calls": [call]}, tensors)


def freetraj_unet(folder: Path) -> Path:
    model, weights = filled(VideoUNet(UNetSpec(**OURS), device="meta"))
    draw, tensors, calls = Draws(), {}, []
    for number, guided in enumerate((True, False)):
        x, when, text = draw(2, 4, 5, 6, 8), torch.tensor([981, 400]), draw(2, 77, 16)
        subject = Subject(path_of_keyframes(_keyframes(BOXES), 5), (2, 5))
        adapters = (BoxAttention([subject], steps=1),) if guided else ()
        run = Pass(Evaluation(step=0, steps=50), adapters=adapters)
        tensors[f"c{number}/out/y"] = model(x, when, Conditioning(text, fps=torch.full((2,), 9)), run)
        tensors.update({f"c{number}/in/x": x, f"c{number}/in/timesteps": when, f"c{number}/in/context": text})
        call = {"name": f"c{number}", "t": 5, "fps": 9, "trajectory": BOXES, "idx_list": [2, 5]}
        calls.append({**call, "use_freetraj": guided})
    return write(folder, "freetraj_unet", {"config": {**SIZES, **PLAIN}, "calls": calls}, tensors, weights)


def motionctrl_omcm(folder: Path) -> Path:
    channels = [32, 32, 64]
    encoder, weights = filled(TrajectoryEncoder(channels, 1, device="meta"))
    flow = Draws()(2, 2, 3, 32, 64)
    tensors = {f"c0/out/features.{level}": each for level, each in enumerate(encoder(flow))}
    info = {"config": {"channels": channels, "nums_rb": 1}, "calls": [{"name": "c0"}]}
    return write(folder, "motionctrl_omcm", info, {"c0/in/flow": flow, **tensors}, weights)


def motionctrl_unet(folder: Path) -> Path:
    spec = UNetSpec(**{**OURS, **FOUR_LEVELS}, fps_condition=False)
    model, weights = filled(VideoUNet(spec, device="meta"))
    poses, own = filled(_projections(model, init=True))
    draw, tensors, calls, after = Draws(), {}, [], [1, 3, 5, 7]
    for number, (posed, moving) in enumerate(((True, True), (False, False), (True, False))):
        name, x, when, text = f"c{number}", draw(2, 4, 3, 8, 16), torch.tensor([40, 820]), draw(2, 77, 16)
        rows, adapters = draw(2, 3, 12), []
        if posed:
            adapters.append(CameraPoses(poses.projections, rows))
            tensors[f"{name}/in/pose"] = rows
        if moving:
            maps = [draw(2, 32 * mult, 3, 8 >> level, 16 >> level) for level, mult in enumerate((1, 2, 2, 2))]
            adapters.append(TrajectoryFeatures(maps, after))
            tensors.update({f"{name}/in/features.{level}": each for level, each in enumerate(maps)})
        tensors.update({f"{name}/in/x": x, f"{name}/in/timesteps": when, f"{name}/in/context": text})
        tensors[f"{name}/out/y"] = model(x, when, Conditioning(text), Pass(adapters=tuple(adapters)))
        calls.append({"name": name, "pose": posed, "features": moving})
    config = {**SIZES, **PLAIN, **PUBLISHED_LEVELS, "fps_cond": False}
    info = {"config": config, "feature_after_input_block": after, "calls": calls}
    return write(folder, "motionctrl_unet", info, tensors, {**weights, **own})


def cami2v_motionctrl_unet(folder: Path) -> Path:
    spec = UNetSpec(**OURS, in_channels=8, concat_channels=4, image_attention=True, default_fps=11)
    model, weights = filled(VideoUNet(spec, device="meta"))
    poses, own = filled(_projections(model, init=False))
    draw, tensors, calls = Draws(), {}, []
    for number, camera in enumerate((True, False)):
        name, x, text = f"c{number}", draw(2, 8, 3, 6, 4), draw(2, 77 + 3 * 5, 16)
        when, fs, rows = torch.tensor([40, 820]), torch.tensor([7, 7]), draw(2, 3, 12)
        given = Conditioning(text[:, :77], text[:, 77:].unflatten(1, (3, 5)), fs.float(), concat=x[:, 4:])
        run = Pass(adapters=(CameraPoses(poses.projections, rows),)) if camera else PLAIN_PASS
        tensors[f"{name}/out/y"] = model(x[:, :4], when, given, run)
        inputs = {"x": x, "timesteps": when, "context": text, "fs": fs, "RT": rows}
        tensors.update({f"{name}/in/{key}": value for key, value in inputs.items()})
        calls.append({"name": name, "camera": camera, "tolerance_rel_l2": 5e-5})
    info = {"config": {**SIZES, **CONTINUING}, "variant": "motionctrl", "calls": calls}
    return write(folder, "cami2v_motionctrl_unet", info, tensors, {**weights, **own})


def cami2v_pose_encoder(folder: Path) -> Path:
    channels, frames = (16, 32, 32, 32), 9
    encoder = PoseEncoder(channels, 1, frames).eval()
    weights = {name: value for name, value in by_recipe(encoder).items() if not name.endswith(".pe")}
    tables = encoder.load_state_dict(weights, strict=False).missing_keys
    rays = Draws()(2, 6, 5, 64, 128)
    tensors = {f"c0/out/features.{level}": each for level, each in enumerate(encoder(rays))}
    config = {"channels": list(channels), "nums_rb": 1, "temporal_position_encoding_max_len": frames}
    info = {"config": config, "tolerance_rel_l2": 1e-5, "calls": [{"name": "c0"}]}
    info["buffers_in_state_dict"] = {name: [] for name in tables}
    return write(folder, "cami2v_pose_encoder", info, {"c0/in/plucker": rays, **tensors}, weights)


def stylecrafter_unet(folder: Path) -> Path:
    spec = UNetSpec(**OURS, temporal_conv=False, relative_position=True, fps_condition=False)
    model, weights = filled(VideoUNet(spec, device="meta"))
    layers = text_attentions(spec)
    style = StyleProjections(layers, spec.context_dim, device="meta")
    own = by_recipe(style, "kv_attn_layers.")
    style.load_state_dict({name.removeprefix("kv_attn_layers."): each for name, each in own.items()}, assign=True)
    draw, tensors, calls = Draws(), {}, []
    for number, (weight, network) in enumerate(((0.7, "3D"), (1.3, "2D"))):
        name, x, when, text = (
            f"c{number}",
            draw(2, 4, 3 if network == "3D" else 1, 4, 6),
            torch.tensor([40, 820]),
            draw(2, 77, 16),
        )
        tokens, scales = draw(2, 3, 16), draw(2, len(layers), 1)
        adapters = [StyleAttention(style, tokens, _given(scales[..., 0]), weight)]
        run = Pass(adapters=(*adapters, WithoutTime()) if network == "2D" else tuple(adapters))
        tensors[f"{name}/out/y"] = model(x, when, Conditioning(text), run)
        inputs = {"x": x, "timesteps": when, "context": text, "style_tokens": tokens, "scale_scalar": scales}
        tensors.update({f"{name}/in/{key}": value for key, value in inputs.items()})
        calls.append({"name": name, "style_weight": weight, "network": network})
    config = {**SIZES, **PLAIN, "temporal_conv": False, "use_relative_position": True, "fps_cond": False}
    info = {"config": config, "style_layers": [layer for layer, _ in layers], "calls": calls}
    return write(folder, "stylecrafter_unet", info, tensors, {**weights, **own})


def _given(scales: Tensor) -> Any:
    return lambda text: scales


def tooncrafter_sketch_controlnet(folder: Path) -> Path:
    names = {"model_channels": 32, "num_res_blocks": 1, "context_dim": 16}
    spec = SketchEncoderSpec(**names, channel_mult=(1, 2), attention_levels=(1,), head_channels=8)
    module: nn.Module = SketchEncoder(spec, device="meta")
    encoder, weights = filled(module)
    draw, frames = Draws(), 3
    x, when, text = draw(frames, 4, 4, 6), torch.full((frames,), 300), draw(frames, 90, 16)
    hint = draw(frames, 1, 32, 48)
    found = encoder(x, when, text, encoder.hints(hint))
    config = {**names, "in_channels": 4, "hint_channels": 1, "channel_mult": [1, 2], "attention_resolutions": [2]}
    info = {"config": {**config, "num_head_channels": 8}, "outputs": [list(one.shape) for one in found]}
    info.update({"stored_outputs": [0, len(found) - 1], "stored_frames": [0, 2], "tolerance_rel_l2": 3e-5})
    tensors = {f"out/control_{index}": found[index][[0, 2]] for index in info["stored_outputs"]}
    inputs = {"in/x": x, "in/timesteps": when, "in/context": text, "in/hint": hint}
    return write(folder, "tooncrafter_sketch_controlnet", info, {**inputs, **tensors}, weights)
