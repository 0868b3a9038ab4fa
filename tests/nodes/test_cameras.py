"""The cameras of DynamiCrafter as nodes: a run gives what vc_core gives."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from small_models import CONTINUING_MODEL, camera_weights, motionctrl_weights

from vc_core.checkpoint import PARTS
from vc_core.control import CamI2V, MotionCtrlI2V
from vc_core.denoising import Sampling
from vc_core.network.layers import to_frames
from vc_core.pipeline import Request, VideoCrafter

PICTURE = torch.linspace(0, 1, 64 * 64 * 3).reshape(64, 64, 3)
EXACT, CLOSE, SCALE = 1e-4, 1e-4, 0.18215


def relative(a, b):
    return float((a - b).norm() / b.norm())


@pytest.fixture(scope="module")
def layers(base) -> dict[str, Path]:
    made = {"cami2v": camera_weights(CONTINUING_MODEL), "motionctrl": motionctrl_weights(CONTINUING_MODEL)}
    paths = {part: base.model("checkpoints", f"{part}_of_images.safetensors") for part in made}
    for part, tensors in made.items():
        save_file({PARTS[part].in_file(name): tensor for name, tensor in tensors.items()}, paths[part])
    return paths


@pytest.fixture(scope="module")
def conditioning(continuing_model):
    size = {"width": 64, "height": 64, "frames": 3}
    positive, negative, _, latent = continuing_model.continued(PICTURE[None], **size)
    return {"positive": positive, "negative": negative, "latent_image": latent}


COSINE = {"guidance": 1.8, "guidance_course": "cosine"}


@pytest.mark.parametrize(
    ("part", "node", "kind", "given"),
    [
        ("cami2v", "VideoCrafterCamI2VControl", CamI2V, {"camera": "pan left, zoom in"}),
        (
            "cami2v",
            "VideoCrafterCamI2VControl",
            CamI2V,
            {"camera": "zoom in", "guidance": 1.8, "guidance_course": "cosine"},
        ),
        ("motionctrl", "VideoCrafterMotionCtrlI2VControl", MotionCtrlI2V, {"camera": "pan left", "scale": 0.5}),
    ],
)
def test_the_nodes_give_what_vc_core_gives(
    comfy, base, continuing_model, conditioning, layers, part, node, kind, given
):
    core = VideoCrafter.load(base.model("checkpoints", continuing_model.name))
    wanted = Request(
        seed=7, cfg=3.0, sharp=True, guidance_rescale=0.0, width=64, height=64, frames=3,
        sampling=Sampling(steps=3, spacing="trailing", eta=0.0), controls=(kind(file=layers[part], **given),),
    )  # fmt: skip
    *_, last = core.steps("a red square", PICTURE, request=wanted)
    settings = {"steps": 3, "eta": 0.0, "scheduler": "trailing", "sampler_name": "ddim_exact", **conditioning}
    model = comfy.call(node, model=continuing_model.model, file=layers[part].name, **given).values[0]
    out = continuing_model.sample(model=model, **settings)
    plain = continuing_model.sample(**settings)
    assert relative(out, to_frames(last.x) / SCALE) < EXACT
    assert relative(plain, out) > CLOSE
    still = comfy.call(node, model=continuing_model.model, file=layers[part].name).values[0]
    assert torch.equal(continuing_model.sample(model=still, **settings), plain)


def test_windows_let_a_longer_clip_follow_the_path(comfy, continuing_model, layers):
    size = {"width": 64, "height": 64, "frames": 20}
    positive, negative, _, latent = continuing_model.continued(PICTURE[None], **size)
    settings = {"positive": positive, "negative": negative, "latent_image": latent, "steps": 1}
    given = {"file": layers["cami2v"].name, "camera": "pan left"}
    model = comfy.call("VideoCrafterCamI2VControl", model=continuing_model.model, **given).values[0]
    with pytest.raises(Exception, match="at most 16 frames at once, but the network would see 20"):
        continuing_model.sample(model=model, **settings)
    windows = {"context_length": 8, "context_overlap": 2}
    made = [
        continuing_model.sample(
            model=comfy.call("VideoCrafterContextWindows", model=one, **windows).values[0], **settings
        )
        for one in (model, continuing_model.model)
    ]
    assert relative(*made) > CLOSE
