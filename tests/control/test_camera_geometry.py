"""Camera geometry and paths, against the numbers of CamI2V's authors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from golden_cases import cases, load, relative_error
from vc_core.control.camera import poses_of
from vc_core.control.camera_geometry import fundamental_matrices, intrinsics, pose_rows, ray_map, relative_poses
from vc_core.control.camera_path import Timing, along, focal_length, square
from vc_core.network.adapters.epipolar import EpipolarLines

POSES, MATRICES, MASKS = 2e-5, 1e-4, 2e-4


def unpacked(bits: Tensor, count: int) -> Tensor:
    return torch.from_numpy(np.unpackbits(bits.numpy(), axis=-1)[..., :count].copy()).bool()


@pytest.mark.golden
@pytest.mark.parametrize("path", cases("cami2v_geometry"), ids=lambda path: path.stem)
def test_golden_geometry(path: Path) -> None:
    info, _, t = load(path)
    for call in info["calls"]:
        name, frames, height, width = call["name"], call["t"], call["H"], call["W"]
        given = {key: t[f"{name}/in/{key}"] for key in ("w2c", "K", "noise", "cond_frame_index")}
        relative = relative_poses(given["w2c"], given["cond_frame_index"], call["trace_scale_factor"])
        assert (relative - t[f"{name}/out/relative_c2w"]).abs().max() < POSES
        assert (pose_rows(relative) - t[f"{name}/out/motionctrl_RT"]).abs().max() < POSES
        rays = ray_map(relative, given["K"], height, width)
        for key, ours in {"plucker_every_4th": rays[..., ::4, ::4], "plucker_last_frame": rays[:, :, -1]}.items():
            golden = t.get(f"{name}/out/{key}")
            assert golden is None or (ours - golden).abs().max() < POSES
        lines = fundamental_matrices(relative, given["K"], given["noise"])
        apart = ~torch.eye(frames, dtype=torch.bool)
        if name != "still":
            assert relative_error(lines[:, apart], t[f"{name}/out/F"][:, apart]) < MATRICES
        for side in (int(key) for key in call["masks"]):
            grid = (height // side, width // side)
            count = frames * grid[0] * grid[1]
            for clip in range(call["b"]):
                golden = unpacked(t[f"{name}/out/mask.{side}"][clip], count)
                ours = EpipolarLines(lines, height).allowed(clip, grid, range(count))
                assert float((ours != golden).double().mean()) <= MASKS, f"{name}, side {side}"


@pytest.mark.golden
@pytest.mark.parametrize("path", cases("cami2v_inputs"), ids=lambda path: path.stem)
def test_golden_inputs(path: Path) -> None:
    info, _, t = load(path)
    height, width = info["resolution_hw"]
    rows = [" ".join(f"{value:.9f}" for value in row) for row in t["pose_file_rows"].tolist()]
    poses = square(poses_of("\n".join(["https://film", *rows])).unflatten(1, (3, 4)))
    for call in info["calls"]:
        timing = Timing(
            share=call["trace_extract_ratio"],
            ease=call.get("use_bezier_curve", False),
            ease_in=call.get("bezier_coef_a", 0.5),
            ease_out=call.get("bezier_coef_b", 0.5),
            back=call.get("loop", False),
        )
        golden = t[f"{call['name']}/RT"][0]
        assert (along(poses, len(golden), timing) - golden).abs().max() < 1e-5, call["name"]
        image_height, image_width = info.get("image_hw") or t["image"].shape[:2]
        camera = intrinsics(focal_length(width, height, image_width, image_height), width, height)
        assert camera.tolist() == call["K"]
