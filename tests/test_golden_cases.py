"""The golden tests themselves: they run a further case as its file says, and fail where it says otherwise."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import test_family_pipeline
import test_pipeline
import torch
from autoencoder import test_autoencoder
from checkpoint import test_lora
from conditioning import test_image_encoder, test_image_tokens, test_text_encoder, test_tokenizer
from control import test_freetraj_golden, test_motionctrl
from denoising import test_family as family_sampling
from denoising import test_sampling
from golden_making import MAKERS
from network import test_camera_features, test_sketch, test_stylecrafter, test_unet
from network import test_family as family_network
from network import test_motionctrl as motionctrl_network
from safetensors.torch import load_file, save_file

from golden_cases import COMMITTED, allowed, cases, check_frames, fact, row, step_noise
from vc_core.errors import UserError

RUNS: dict[str, Callable[[Path, Path], Any]] = {
    "unet": lambda path, folder: test_unet.test_golden_unet(path),
    "dc_unet": lambda path, folder: family_network.test_golden_dynamicrafter(path),
    "turbo_unet": lambda path, folder: family_network.test_golden_turbo(path),
    "freenoise_unet": lambda path, folder: family_network.test_golden_windows(path),
    "freenoise_mp_unet": lambda path, folder: family_network.test_golden_prompts_over_time(path),
    "turbo_lora": test_lora.test_golden_list,
    "image_encoder": lambda path, folder: test_image_encoder.test_golden_image(path, False),
    "text_encoder": lambda path, folder: (
        test_text_encoder.test_golden_text(path, False),
        test_tokenizer.test_golden_tokens(path),
    ),
    "dc_resampler": lambda path, folder: test_image_tokens.test_golden_resampler(path, "sdpa"),
    "vae": lambda path, folder: test_autoencoder.test_golden_autoencoder(path),
    "ddim_analytic": lambda path, folder: test_sampling.test_golden_trajectories(path),
    "dc_ddim_analytic": lambda path, folder: family_sampling.test_golden_trajectories(path),
    "turbo_lcm_analytic": lambda path, folder: family_sampling.test_golden_consistency_trajectories(path),
    "e2e": test_pipeline.test_golden_from_prompt_to_frames,
    "dc_e2e": test_family_pipeline.test_golden_dynamicrafter_and_viewcrafter,
    "turbo_e2e": test_family_pipeline.test_golden_turbo,
    "freenoise_e2e": test_family_pipeline.test_golden_freenoise,
    "freetraj_path": lambda path, folder: test_freetraj_golden.test_golden_paths(path),
    "freetraj_noise": lambda path, folder: test_freetraj_golden.test_golden_noise(path),
    "freetraj_unet": lambda path, folder: test_freetraj_golden.test_golden_unet(path),
    "motionctrl_omcm": lambda path, folder: test_motionctrl.test_golden_trajectory_encoder(path),
    "motionctrl_unet": lambda path, folder: motionctrl_network.test_golden_motionctrl(path),
    "cami2v_motionctrl_unet": lambda path, folder: test_camera_features.test_golden_cameras_of_dynamicrafter(path),
    "cami2v_pose_encoder": lambda path, folder: test_camera_features.test_golden_pose_encoder(path),
    "stylecrafter_unet": lambda path, folder: test_stylecrafter.test_golden_stylecrafter(path),
    "tooncrafter_sketch_controlnet": lambda path, folder: test_sketch.test_golden_encoder(path),
    "viewcrafter_unet": lambda path, folder: family_network.test_golden_dynamicrafter(path),
}
OTHERWISE: list[tuple[str, str, Any]] = [
    ("unet", "calls/1/fps", 14),
    ("unet", "config/use_causal_attention", False),
    ("unet", "config/transformer_depth", 1),
    ("dc_unet", "calls/0/fs", 10),
    ("turbo_unet", "calls/0/guidance", [3.5, 9.5]),
    ("turbo_unet", "calls/0/motion", [0.2, 0.05]),
    ("turbo_unet", "calls/0/fps", 11),
    ("freenoise_unet", "calls/0/window", [6, 3]),
    ("freenoise_unet", "calls/0/fps", 6),
    ("freenoise_mp_unet", "calls/0/use_injection", False),
    ("freenoise_mp_unet", "calls/0/fps", 6),
    ("turbo_lora", "calls/0/fps", 24),
    ("image_encoder", "config/patch_size", 16),
    ("text_encoder", "prompts/0", "a cat"),
    ("dc_resampler", "config/video_length", 5),
    ("vae", "scale_factor", 0.31),
    ("ddim_analytic", "calls/0/eta", 0.79),
    ("ddim_analytic", "calls/0/cfg", 15.1),
    ("ddim_analytic", "per_config/ours/scale_b", 0.46),
    ("dc_ddim_analytic", "calls/0/guidance_rescale", 0.31),
    ("dc_ddim_analytic", "calls/0/cfg_img", 2.01),
    ("dc_ddim_analytic", "per_config/ours/base_scale", 0.46),
    ("turbo_lcm_analytic", "calls/0/lcm_origin_steps", 200),
    ("e2e", "calls/0/eta", 0.69),
    ("e2e", "calls/0/cfg", 5.01),
    ("e2e", "fps", [7, 13]),
    ("e2e", "prompts/1", "a cat"),
    ("e2e", "shrunk/clip_arch/vision_cfg/patch_size", 28),
    ("dc_e2e", "config/params/scale_factor", 0.31),
    ("dc_e2e", "calls/0/eta", 0.49),
    ("dc_e2e", "calls/0/cfg", 3.01),
    ("dc_e2e", "calls/0/cfg_img", 2.01),
    ("dc_e2e", "calls/0/guidance_rescale", 0.41),
    ("dc_e2e", "calls/0/mode", "loop"),
    ("dc_e2e", "calls/0/text_input", False),
    ("dc_e2e", "calls/0/timestep_spacing", "uniform"),
    ("dc_e2e", "fs", 8),
    ("turbo_e2e", "calls/0/w", 4.1),
    ("turbo_e2e", "calls/0/fps", 10),
    ("turbo_e2e", "calls/0/motion_gs", 0.21),
    ("turbo_e2e", "calls/0/percentage", 0.3),
    ("turbo_e2e", "calls/0/origin", 200),
    ("freenoise_e2e", "calls/0/eta", 0.5),
    ("freenoise_e2e", "calls/0/cfg", 2.1),
    ("freenoise_e2e", "calls/0/fps", 6),
    ("freenoise_e2e", "calls/0/mp", False),
    ("freenoise_e2e", "window", [6, 3]),
    ("freetraj_path", "calls/0/frames", 8),
    ("freetraj_noise", "calls/0/trajectory/0/1", 0.4),
    ("freetraj_unet", "calls/0/idx_list", [2, 6]),
    ("freetraj_unet", "calls/0/use_freetraj", False),
    ("motionctrl_unet", "feature_after_input_block", [0, 3, 5, 7]),
    ("motionctrl_unet", "calls/2/pose", False),
    ("cami2v_motionctrl_unet", "calls/0/camera", False),
    ("stylecrafter_unet", "calls/0/style_weight", 0.8),
    ("stylecrafter_unet", "calls/1/network", "3D"),
    ("tooncrafter_sketch_controlnet", "stored_frames", [0, 1]),
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The further case of a kind, made once."""
    found: dict[str, Path] = {}

    def make(kind: str) -> Path:
        if kind not in found:
            with torch.no_grad():
                found[kind] = MAKERS[kind](tmp_path_factory.mktemp(kind))
        return found[kind]

    return make


@pytest.mark.parametrize("kind", sorted(MAKERS))
def test_a_further_case_is_run_as_its_file_says(kind: str, made: Callable[[str], Path], tmp_path: Path) -> None:
    RUNS[kind](made(kind), tmp_path)


@pytest.mark.parametrize("kind", sorted(MAKERS))
def test_another_number_is_found(kind: str, made: Callable[[str], Path], tmp_path: Path) -> None:
    path = copied(made(kind), tmp_path)
    file = path.with_suffix(".safetensors")
    tensors = load_file(file)
    outputs = [key for key in tensors if key.endswith(("/y", "/x", "/tokens", "/penultimate", "/decoded", "/merged"))]
    outputs += [key for key in tensors if key == "x" or key.endswith("/denoised")]
    outputs = outputs or [key for key in tensors if "out/" in key or key.endswith("/path")]
    for key in outputs[-1:]:
        tensors[key] = tensors[key] * 1.01
    assert outputs
    save_file(tensors, file)
    with pytest.raises(AssertionError):
        RUNS[kind](path, tmp_path)


@pytest.mark.parametrize(("kind", "place", "value"), OTHERWISE, ids=lambda given: str(given).replace("/", "."))
def test_a_case_that_says_otherwise_fails(
    kind: str, place: str, value: Any, made: Callable[[str], Path], tmp_path: Path
) -> None:
    path = copied(made(kind), tmp_path)
    info = json.loads(path.read_text(encoding="utf-8"))
    *above, last = [int(part) if part.isdigit() else part for part in place.split("/")]
    there: Any = info
    for part in above:
        there = there[part]
    assert there[last] != value
    there[last] = value
    path.write_text(json.dumps(info), encoding="utf-8")
    with pytest.raises((AssertionError, RuntimeError, UserError)):
        RUNS[kind](path, tmp_path)


def copied(path: Path, folder: Path) -> Path:
    for file in path.parent.iterdir():
        if file.suffix != ".ckpt":
            shutil.copy(file, folder)
    return folder / path.name


def test_a_folder_without_a_kind_is_skipped_but_the_kept_one_must_have_it(tmp_path: Path) -> None:
    (skipped,) = cases("unet", folder=tmp_path)
    assert [mark.name for mark in skipped.marks] == ["skip"]
    assert cases("unet", folder=COMMITTED)
    with pytest.raises(FileNotFoundError, match="no golden case of kind"):
        cases("no such kind", folder=COMMITTED)


def test_what_a_call_says_goes_first_and_one_number_counts_for_all_clips() -> None:
    assert fact("w", {"w": 3}, {"w": 4}) == 3
    assert fact("w", {}, {"w": 4}) == 4
    assert fact("w", {}, {}, default=5) == 5
    assert row("default", 2) is None
    assert torch.equal(row(3, 2), torch.tensor([3.0, 3.0]))  # type: ignore[arg-type]
    with pytest.raises(RuntimeError):
        row([1, 2], 3)


def test_fresh_noise_must_be_recorded() -> None:
    x = torch.zeros(2)
    assert len(step_noise(None, x, 3, 0.0)) == 3
    with pytest.raises(AssertionError, match="no noise of the steps"):
        step_noise(None, x, 3, 0.1)
    with pytest.raises(AssertionError, match="noise of 2 steps of 3"):
        step_noise(torch.zeros(2, 2), x, 3, 1.0)


def test_frames_must_be_those_of_the_clip_in_their_order() -> None:
    video = torch.linspace(0, 1, 5)[:, None, None, None].expand(5, 2, 2, 3)
    golden = (video * 255).to(torch.uint8).permute(3, 0, 1, 2)
    for places in ([0, 1, 2, 3, 4], [0, 4], [1, 2]):
        check_frames(video, golden[:, places])
        check_frames(video, golden[:, places], places)
    with pytest.raises(AssertionError):
        check_frames(video, golden.flip(1))
    with pytest.raises(AssertionError, match="is frame 1"):
        check_frames(video, golden[:, [3, 1]])


def test_the_allowed_error_grows_with_that_of_the_reference() -> None:
    assert [allowed(1e-4, 3e-3, [1e-6, 5e-5, 1e-2], index) for index in range(3)] == pytest.approx([1e-4, 5e-4, 3e-3])
    assert allowed(1e-4, 3e-3, None, 7) == 1e-4
