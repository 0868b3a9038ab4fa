"""The cameras of DynamiCrafter: runs against the numbers of CamI2V's authors, and their records."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden_models import diffusion_spec, unet_spec
from torch import Tensor, nn

from golden_cases import RecordedNoise, cases, digest, load, recipe_tensor, relative_error, row, step_noise
from vc_core.conditions import NEGATIVE, POSITIVE, Branch, Conditioning, Evaluation
from vc_core.control.attachment import NOTHING, Attachment, Scene
from vc_core.control.camera_geometry import fundamental_matrices
from vc_core.control.cami2v import CamI2V, ImageCamera, MotionCtrlI2V, cosine
from vc_core.denoising import Guidance, Noise, NoiseSchedule, Sampling, sample
from vc_core.denoising.guidance import guide
from vc_core.errors import UserError
from vc_core.network.adapters.camera_features import CameraNetwork
from vc_core.network.adapters.camera_features import CamI2V as EpipolarCamera
from vc_core.network.adapters.epipolar import EpipolarLines
from vc_core.network.adapters.motionctrl import CameraPoses, MotionCtrlNetwork
from vc_core.network.call import Pass
from vc_core.network.unet import VideoUNet
from vc_core.specs import DYNAMICRAFTER, PRESETS, ModelSpec, SamplingDefaults

UNET = "model.diffusion_model."
CAMERA = (".cc_projection", ".pluker_projection", ".epipolar.")
OUTPUTS = {"cond": POSITIVE, "uncond": NEGATIVE}


def camera_network(weights: Mapping[str, Tensor], config: Mapping[str, Any]) -> nn.Module:
    """The layers of a case's variant, with its pose encoder."""
    layers = {key: value for key, value in weights.items() if any(name in key for name in CAMERA)}
    ends = (".cc_projection.weight", ".pluker_projection.weight")
    blocks = {key.rsplit(".", 2)[0]: len(value) for key, value in layers.items() if key.endswith(ends)}
    if not any(key.startswith("pose_encoder.") for key in weights):
        poses = MotionCtrlNetwork(blocks)
        poses.load_state_dict(layers, assign=True)
        return poses
    encoder = config["pose_encoder"]
    sizes = {"channels": tuple(encoder["channels"]), "units": encoder["nums_rb"], "frames": 16}
    registers = config["epipolar"]["num_register_tokens"] if any(".epipolar." in key for key in layers) else None
    network = CameraNetwork(blocks, sizes, registers)
    given = {key: value for key, value in weights.items() if key in layers or key.startswith("pose_encoder.")}
    assert not network.load_state_dict(given, strict=False, assign=True).unexpected_keys
    return network.eval()


def control_of(call: Mapping[str, Any], t: Mapping[str, Tensor]) -> ImageCamera:
    kind = MotionCtrlI2V if call["variant"] == "motionctrl" else CamI2V
    rows = t["w2c"][0, :, :3].flatten(1).tolist()
    return kind(
        poses="\n".join(" ".join(map(repr, [0.0] * 7 + row)) for row in rows),
        scale=call["trace_scale_factor"],
        frame=call["cond_frame_index"],
        focal=float(t["K"][0, 0, 0, 0]),
        guidance=call["camera_cfg"],
        guidance_course=call["camera_cfg_scheduler"],
    )


def attached(
    call: Mapping[str, Any], info: Mapping[str, Any], t: Mapping[str, Tensor], weights: Mapping[str, Tensor]
) -> Attachment:
    """What the control of a call adds, with the case's own draw for translations of zero."""
    config = info["config"]
    size = SamplingDefaults(width=config["width"], height=config["height"])
    spec = ModelSpec(name="case", unet=unet_spec(config["unet"]), diffusion=diffusion_spec(config), defaults=size)
    scene = Scene(spec=spec, frames=config["t"], width=size.width, height=size.height, steps=call["S"], cfg=call["cfg"])
    control = control_of(call, t)
    control.check(scene)
    made = control.attach(scene, camera_network(weights, config))
    (adapter,) = made.adapters
    if isinstance(adapter, EpipolarCamera):
        relative = control.path(scene.frames)
        assert relative is not None
        noise = t[f"{call['name']}/mask_noise"]
        adapter.lines = EpipolarLines(fundamental_matrices(relative, t["K"], noise), size.height)
        check_masks(adapter.lines, call["name"], t, config)
    if isinstance(adapter, CameraPoses):
        assert (adapter.poses - t[f"{call['name']}/RT"]).abs().max() < 2e-5
    return made


def check_masks(lines: EpipolarLines, name: str, t: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    for side in (8, 16, 32, 64):
        bits = t.get(f"{name}/mask.{side}")
        grid = (config["height"] // side, config["width"] // side)
        count = config["t"] * math.prod(grid)
        if bits is not None:
            golden = torch.from_numpy(np.unpackbits(bits.numpy(), axis=-1)[0, :, :count].copy()).bool()
            assert float((lines.allowed(0, grid, range(count)) != golden).double().mean()) <= 2e-4


def conditionings_of(t: Mapping[str, Tensor], call: Mapping[str, Any], frames: int) -> dict[str, Conditioning]:
    def made(text: str, image: str) -> Conditioning:
        tokens = t[f"context/{image}"].unflatten(1, (frames, -1))
        concat = t["concat"][:, :, None].expand(-1, -1, frames, -1, -1)
        return Conditioning(t[f"context/{text}"], tokens, row(call["passes"][0]["fs"], 1), concat)

    return {"positive": made("text", "image"), "negative": made("text_negative", "image_zero")}


@pytest.mark.golden
@pytest.mark.parametrize("path", cases("cami2v_e2e"), ids=lambda path: path.stem)
@torch.no_grad()
def test_golden_runs(path: Path) -> None:
    info, _, t = load(path)
    for call in info["calls"]:
        name, config, allowed = call["name"], info["config"], info["tolerance_rel_l2"]
        recipe = info["weights_by_variant"][call["variant"]]
        weights = {key: recipe_tensor(key, shape, recipe) for key, shape in recipe["keys"].items()}
        assert digest(weights) == recipe["sha256"]
        weights = {key.removeprefix(UNET): value for key, value in weights.items()}
        model = VideoUNet(unet_spec(config["unet"]), device="meta").eval()
        own = set(model.state_dict())
        model.load_state_dict({key: value for key, value in weights.items() if key in own}, assign=True)
        made = attached(call, info, t, weights)
        conditionings = conditionings_of(t, call, config["t"])
        schedule = NoiseSchedule.from_spec(diffusion_spec(config))
        guidance = made.guidance(Guidance(scale=call["cfg"], rescale=call["guidance_rescale"]))
        settings = Sampling(steps=call["S"], eta=call["eta"], spacing="trailing", guidance=guidance)
        assert [level.timestep for level in settings.levels(schedule)[:-1]] == call["t"]
        branches = guidance.combination.simplified.branches
        assert len(branches) == len(call["passes"]) // call["S"]

        def golden(branch: Branch, index: int, name: str = name) -> Tensor:
            kind = "cond_without_camera" if branch.without else "cond" if branch == POSITIVE else "uncond"
            return t[f"{name}/out_{kind}"][index]

        def predicted(
            x: Tensor,
            timestep: Tensor,
            conditioning: Conditioning,
            evaluation: Evaluation,
            /,
            adapters: Any = made.adapters,
            model: VideoUNet = model,
            allowed: Mapping[str, float] = allowed,
            when: list[float] = call["t"],
        ) -> Tensor:
            """The network's output, compared with the golden one, which is returned."""
            out = model(x, timestep, conditioning, Pass(evaluation, adapters=adapters))
            (branch,) = evaluation.branches
            right = golden(branch, when.index(int(timestep[0])))
            assert relative_error(out, right) < allowed["network outputs of one step from the golden x before it"]
            return right

        x_before = [t[f"{name}/x_T"], *t[f"{name}/x"][:-1]]
        guided = guide(predicted, conditionings, guidance)
        for x, timestep in zip(x_before, call["t"], strict=True):
            guided(x, torch.tensor([float(timestep)]))

        def given(x: Tensor, timestep: Tensor, conditioning: Conditioning, evaluation: Evaluation, /) -> Tensor:
            assert evaluation.step is not None
            return golden(evaluation.branches[0], evaluation.step)

        noise = step_noise(t.get(f"{name}/noise"), t[f"{name}/x_T"], call["S"], call["eta"])
        steps = sample(
            given,
            schedule,
            conditionings,
            noise=RecordedNoise([t[f"{name}/x_T"], *noise]),
            shape=t[f"{name}/x_T"].shape,
            settings=settings,
        )
        for step in steps:
            error = relative_error(step.x, t[f"{name}/x"][step.index])
            assert error < allowed["sampler step from the golden network outputs"], f"{name}, step {step.index}"


ENCODER = {"channels": (320, 640, 1280, 1280), "units": 0, "frames": 16}
"""An encoder without units, which is not run here."""

SCENE = Scene(spec=DYNAMICRAFTER, frames=16, width=512, height=320, steps=25, cfg=7.5)


def test_the_camera_starts_at_the_chosen_frame_and_is_scaled() -> None:
    path = CamI2V(camera="pan right, zoom in", scale=0.5, frame=3).path(16)
    full = CamI2V(camera="pan right, zoom in").path(16)
    assert path is not None
    assert full is not None
    assert torch.equal(path[0, 3], torch.eye(4).double())
    assert torch.allclose(full[0, 0], torch.eye(4).double())
    assert torch.allclose(path[0, :, :3, 3], 0.5 * (full[0, :, :3, 3] - full[0, 3, :3, 3]))
    slow = CamI2V(camera="pan right", share=0.5).path(16)
    assert slow is not None
    assert float(slow[0, -1, 0, 3]) == pytest.approx(15 / 31 * float(CamI2V(camera="pan right").path(16)[0, -1, 0, 3]))
    back = CamI2V(camera="pan right", there_and_back=True).path(16)
    assert torch.allclose(back[0, -1], back[0, 0])
    eased = CamI2V(camera="pan right", ease=True).path(16)
    assert abs(float(eased[0, 1, 0, 3])) < abs(float(full[0, 1, 0, 3]))


def test_without_a_path_nothing_is_added() -> None:
    assert CamI2V().path(16) is None
    assert CamI2V().attach(SCENE, None) is NOTHING


def test_the_finest_level_of_the_large_model_has_no_mask_and_the_seed_chooses_the_noise() -> None:
    blocks = {"middle_block.2.transformer_blocks.0": 1280}
    network = CameraNetwork(blocks, ENCODER, 4)
    small = replace(SCENE, spec=PRESETS["dynamicrafter_256"], width=256, height=256)
    (large_camera,) = CamI2V(camera="pan left").attach(SCENE, network).adapters
    (small_camera,) = CamI2V(camera="pan left").attach(small, network).adapters
    assert (large_camera.unmasked, small_camera.unmasked) == ((40,), ())
    again = CamI2V(camera="pan left").attach(SCENE, network).adapters[0]
    other = CamI2V(camera="pan left").attach(replace(SCENE, seed=1), network).adapters[0]
    assert torch.equal(large_camera.lines.fundamental, again.lines.fundamental)
    assert not torch.equal(large_camera.lines.fundamental, other.lines.fundamental)
    plain = CamI2V(camera="pan left").attach(SCENE, CameraNetwork(blocks, ENCODER))
    assert type(plain.adapters[0]).__name__ == "CameraCtrl"


def test_the_focal_length_is_that_of_the_image_before_it_is_cropped() -> None:
    rays = []
    network = CameraNetwork({"middle_block.2.transformer_blocks.0": 1280}, ENCODER)
    for focal, image in ((0.0, None), (0.0, (320, 1024)), (512.0, None)):
        scene = replace(SCENE, image=image)
        (camera,) = CamI2V(camera="still", focal=focal).attach(scene, network).adapters
        rays.append(camera.features.rays)
    assert not torch.equal(rays[0], rays[1])
    assert torch.equal(rays[1], rays[2])


def test_camera_guidance_is_a_further_term() -> None:
    assert CamI2V(camera="still").terms() == ()
    (term,) = CamI2V(camera="still", guidance=1.5, guidance_course="cosine").terms()
    assert (term.weight, term.toward, term.away.without) == (0.5, POSITIVE, frozenset({"cami2v"}))
    assert term.course is cosine
    assert cosine(torch.tensor([999.0, 0.0])).tolist() == pytest.approx([1, 0], abs=1e-6)


@pytest.mark.parametrize(
    ("control", "scene", "words"),
    [
        (
            CamI2V(),
            replace(SCENE, spec=PRESETS["videocrafter2_512"]),
            r"CamI2V is for DynamiCrafter, and video",
        ),
        (CamI2V(camera="still"), replace(SCENE, width=520), r"multiples of 64 pixels, but one is 520.*512x320"),
        (CamI2V(camera="still"), replace(SCENE, frames=32), r"at most 16 frames at once, but .* would see 32"),
        (CamI2V(frame=16), SCENE, r"The frame of CamI2V is 16, but the clip has 16.*from 0 to 15"),
        (CamI2V(camera="sideways"), SCENE, r"There is no camera move 'sideways'"),
        (CamI2V(camera="still", poses="1 2"), SCENE, r"Both camera moves and camera poses were given"),
        (CamI2V(poses="1 2 3"), SCENE, r"3 numbers were given as camera poses; give 12 for each frame"),
        (CamI2V(poses="0 " * 24), SCENE, r"pose of frame 0 has no inverse"),
    ],
)
def test_what_a_camera_cannot_do_is_refused_before_work_starts(control: ImageCamera, scene: Scene, words: str) -> None:
    with pytest.raises(UserError, match=words):
        control.check(scene)


def test_layers_of_another_model_are_refused() -> None:
    network = CameraNetwork({"middle_block.2.transformer_blocks.0": 96}, ENCODER, 4)
    with pytest.raises(UserError, match=r"CamI2V's layers are 96 wide, but those of this model 320, 512, 640, 1280"):
        CamI2V(camera="still").attach(SCENE, network)
    narrow = {"channels": (8, 16), "units": 0, "frames": 16}
    with pytest.raises(UserError, match=r"pose encoder's levels are 8, 16 wide, but those of this model 320, 640"):
        CamI2V(camera="still").attach(SCENE, CameraNetwork({"middle_block.2.transformer_blocks.0": 1280}, narrow))


def test_draws_do_not_change_the_noise_of_the_video() -> None:
    """The draw for translations of zero has a generator of its own: the first noise is that of the same seed without
    a camera."""
    assert (
        CamI2V(camera="still")
        .attach(SCENE, CameraNetwork({"middle_block.2.transformer_blocks.0": 1280}, ENCODER, 4))
        .noise
        is None
    )
    assert Noise(0).draw((2,)).tolist() == Noise(0).draw((2,)).tolist()
