"""Controls as nodes: a run gives what vc_core gives, with core's own sampler nodes as well."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from small_models import TEXT_MODEL, motionctrl_weights, state_dict

from comfyui.limits import skip_without
from vc_core.checkpoint import METADATA_KEY
from vc_core.control import CONTROLS, FreeTraj, MotionCtrl
from vc_core.denoising import Sampling
from vc_core.network.layers import to_frames
from vc_core.pipeline import Request, VideoCrafter
from vc_core.specs import to_json

EXACT = 1e-4
CLOSE = 1e-4
TRACK = '[{"x": 8, "y": 8}, {"x": 50, "y": 40}]'
CAMERA = {"camera": "pan left + zoom in", "tracks": TRACK, "tracks_until": 0.0}


def relative(a, b):
    return float((a - b).norm() / b.norm())


@pytest.fixture(scope="module")
def layers(base) -> Path:
    path = base.model("checkpoints", "motionctrl_layers.safetensors")
    save_file(motionctrl_weights(TEXT_MODEL, levels=(32, 64, 128)), path)
    return path


def steered(comfy, loaded, layers, **given):
    values = {"file": layers.name, **given}
    return comfy.call("VideoCrafterMotionCtrlControl", model=loaded.model, **values).values[0]


def by_vc_core(base, name, *controls, **request):
    core = VideoCrafter.load(base.model("checkpoints", name))
    settings = {"seed": 7, "width": 16, "height": 24, "frames": 3, "cfg": 3.0, "sampling": Sampling(steps=4), **request}
    steps = list(core.steps("a red square", request=Request(**settings, controls=controls)))
    return to_frames(steps[-1].x) / TEXT_MODEL.autoencoder.scale_factor


def test_there_is_a_node_for_each_record(comfy):
    for control in CONTROLS.values():
        node = comfy.ours[f"VideoCrafter{control.title.replace(' ', '').replace('-', '')}Control"]
        names = list(node.GET_SCHEMA().inputs)
        assert {item.name for item in control.parameters()} <= {each.id for each in names}


def test_the_node_gives_what_vc_core_gives(comfy, base, checkpoints, text_model, layers):
    plain = text_model.sample()
    model = steered(comfy, text_model, layers, **CAMERA)
    out = text_model.sample(model)
    assert relative(out, by_vc_core(base, checkpoints["text"], MotionCtrl(file=layers, **CAMERA))) < EXACT
    assert relative(out, plain) > CLOSE
    assert torch.equal(text_model.sample(), plain)
    assert torch.equal(text_model.sample(steered(comfy, text_model, layers)), plain)
    assert torch.equal(text_model.sample(steered(comfy, text_model, layers, **CAMERA, strength=0.0)), plain)


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m"])
def test_core_ksampler_has_the_control(comfy, text_model, layers, sampler):
    def sampled(model):
        settings = {"seed": 3, "steps": 3, "cfg": 3.0, "sampler_name": sampler, "scheduler": "normal", "denoise": 1.0}
        texts = {"positive": text_model.text("a red square"), "negative": text_model.text("")}
        return comfy.call("KSampler", model=model, latent_image=text_model.latent(), **settings, **texts).values[0]

    plain = sampled(text_model.model)["samples"]
    model = steered(comfy, text_model, layers, **CAMERA)
    moved = sampled(model)["samples"]
    assert relative(moved, plain) > CLOSE
    assert torch.equal(sampled(model)["samples"], moved)
    assert torch.equal(sampled(text_model.model)["samples"], plain)


def test_windows_of_both_kinds_see_their_own_frames(comfy, base, checkpoints, text_model, layers):
    latent = text_model.latent(frames=8)
    still = {"camera": "pan left, pan right"}
    model = steered(comfy, text_model, layers, **still)
    for name, windows in (
        ("VideoCrafterFreeNoise", {"window": 4, "stride": 2}),
        ("VideoCrafterContextWindows", {"context_length": 4, "context_overlap": 2}),
    ):
        wrapped = comfy.call(name, model=model, **windows).values[0]
        out = text_model.sample(wrapped, latent_image=latent, steps=2)
        alone = comfy.call(name, model=text_model.model, **windows).values[0]
        assert relative(out, text_model.sample(alone, latent_image=latent, steps=2)) > CLOSE, name


def test_caches_and_long_videos(comfy, text_model, layers):
    model = steered(comfy, text_model, layers, **CAMERA)
    for cache in ("VideoCrafterStepCache", "VideoCrafterGuidanceCache"):
        cached = comfy.call(cache, model=model, quality="high").values[0]
        assert relative(text_model.sample(cached, steps=8), text_model.sample(model, steps=8)) < 0.5
    refused = text_model.latent(frames=20)
    with pytest.raises(Exception, match="MotionCtrl is not supported with long_video continue"):
        text_model.sample(model, latent_image=refused, long_video="continue", eta=0.0)


def test_errors_name_the_cure(comfy, text_model, continuing_model, layers):
    with pytest.raises(Exception, match="MotionCtrl needs weights of its own"):
        comfy.call("VideoCrafterMotionCtrlControl", model=text_model.model, camera="still")
    model = steered(comfy, text_model, layers, poses=json.dumps([[0.0] * 12] * 2))
    with pytest.raises(Exception, match="poses for 2 frames, but the clip has 3"):
        text_model.sample(model)
    again = steered(comfy, text_model, layers, camera="still")
    with pytest.raises(Exception, match="one MotionCtrl moves both"):
        comfy.call("VideoCrafterMotionCtrlControl", model=again, file=layers.name, camera="still")


def test_weights_in_the_models_own_file(comfy, base, layers):
    """motionctrl.pth is a whole model with its added layers."""
    path = base.model("checkpoints", "whole_motionctrl.safetensors")
    added = motionctrl_weights(TEXT_MODEL, levels=(32, 64, 128))
    named = {
        name if name.startswith("omcm.") else f"model.diffusion_model.{name}": each for name, each in added.items()
    }
    save_file({**state_dict(TEXT_MODEL), **named}, path, {METADATA_KEY: to_json(TEXT_MODEL)})
    loaded = comfy.call("VideoCrafterCheckpointLoader", ckpt_name=path.name, weight_dtype="fp32").values[0]
    model = comfy.call("VideoCrafterMotionCtrlControl", model=loaded, **CAMERA).values[0]
    assert [each.model for each in model.get_additional_models()]
    control = MotionCtrl(**CAMERA)
    core = VideoCrafter.load(path)
    assert set(core.parts.added) == {"motionctrl"}
    request = Request(width=16, height=24, frames=3, seed=7, cfg=3.0, sampling=Sampling(steps=4), controls=(control,))
    expected = to_frames(list(core.steps("a red square", request=request))[-1].x) / 0.18215
    clip = comfy.call("VideoCrafterCheckpointLoader", ckpt_name=path.name, weight_dtype="fp32").values[1]
    texts = [comfy.call("CLIPTextEncode", clip=clip, text=text).values[0] for text in ("a red square", "")]
    latent = comfy.call("VideoCrafterEmptyLatent", width=16, height=24, frames=3).values[0]
    out = comfy.call(
        "VideoCrafterKSampler",
        model=model,
        positive=texts[0],
        negative=texts[1],
        latent_image=latent,
        steps=4,
        cfg=3.0,
        seed=7,
    ).values[0]["samples"]
    assert relative(out, expected) < EXACT


def test_tracks_of_comfyui_are_read(comfy):
    nodes = comfy.module("nodes.controls")
    paths = torch.tensor([[[1.0, 2.0], [5.0, 6.0]], [[3.0, 4.0], [7.0, 8.0]]])  # frames tracks 2
    text = nodes.points_of({"track_path": paths})
    tracks = comfy.module("vc_core.control.tracks").tracks_of(text)
    assert tracks == [[(1.0, 2.0), (3.0, 4.0)], [(5.0, 6.0), (7.0, 8.0)]]


@pytest.fixture(scope="module")
def testing(comfy):
    """A control of the pack's own classes that adds a term, changes the noise, and replaces a tensor."""
    control, attachment = comfy.module("vc_core.control.control"), comfy.module("vc_core.control.attachment")
    conditions, guidance = comfy.module("vc_core.conditions"), comfy.module("vc_core.denoising.guidance")
    adapters = comfy.module("vc_core.network.adapter")

    class Shift(adapters.Adapter):
        owner = "testing"

        def after_middle_block(self, at, h):
            return h + (0.7 if at.evaluation.step is not None else 100.0)

    @dataclass(frozen=True, kw_only=True)
    class Testing(control.Control):
        name, title, summary, use, models, wants_step = "testing", "Testing", "tests", "tests", "all", True

        guidance: float = field(default=0.0, metadata=control.about("weight"))
        noise: float = field(default=0.0, metadata=control.about("noise"))

        def attach(self, scene, weights):
            assert scene.conditionings["positive"].text.shape == (1, 77, TEXT_MODEL.unet.context_dim)
            assert scene.cfg == 3.0
            away = replace(conditions.POSITIVE, without=frozenset({"testing"}))
            term = guidance.Term(self.guidance, conditions.POSITIVE, away, course=lambda when: when / 1000)
            return attachment.Attachment(
                adapters=(Shift(),),
                terms=(term,) if self.guidance else (),
                noise=(lambda drawn, source, draft: drawn + self.noise) if self.noise else None,
            )

    return Testing


def test_terms_and_noise_act_in_every_sampler(comfy, text_model, testing):
    host, encoders = comfy.module("nodes.host.controls"), comfy.module("vc_core.control.attachment").Encoders()

    def shown(**given):
        return host.with_control(text_model.model, testing(**given), None, encoders)

    base = text_model.sample(shown())
    assert relative(base, text_model.sample()) > CLOSE
    for changed in (shown(guidance=2.0), shown(noise=0.5)):
        assert relative(text_model.sample(changed), base) > CLOSE
    one = {"steps": 1, "sampler_name": "euler", "scheduler": "normal"}
    plain, bare, guided = (
        text_model.sample(model, **one) for model in (shown(), text_model.model, shown(guidance=2.0))
    )
    assert relative(guided, plain) > CLOSE
    assert bool(torch.isfinite(bare).all())


BOXES = "0, 0.1, 0.6, 0.1, 0.6\n2, 0.4, 0.4"
FOLLOWED = {"words": "red square", "boxes": BOXES, "prompt": "a red square"}


def following(comfy, loaded, **given):
    return comfy.call("VideoCrafterFreeTrajControl", model=loaded.model, **{**FOLLOWED, **given}).values[0]


@pytest.mark.parametrize("trace", [0.0, 0.5])
def test_freetraj_gives_what_vc_core_gives(comfy, base, checkpoints, text_model, trace):
    plain = text_model.sample()
    out = text_model.sample(following(comfy, text_model, trace=trace))
    control = FreeTraj(words="red square", boxes=BOXES, trace=trace)
    assert relative(out, by_vc_core(base, checkpoints["text"], control)) < EXACT
    assert relative(out, plain) > CLOSE
    off = following(comfy, text_model, guided_steps=0, noise=False)
    assert torch.equal(text_model.sample(off), plain)


def test_freetraj_takes_boxes_and_tracks_of_core_nodes(comfy, text_model):
    """Bounding boxes, and tracks with the size of a box: the same as their text."""
    skip_without("bounding boxes and tracks")
    box = comfy.call("PrimitiveBoundingBox", x=2, y=2, width=8, height=12).values[0]
    given = text_model.sample(following(comfy, text_model, boxes=box))
    assert torch.equal(given, text_model.sample(following(comfy, text_model, boxes=json.dumps(box))))
    tracks = comfy.call("WanMoveTracksFromCoords", track_coords=TRACK).values[0]
    size = {"box_width": 0.5, "box_height": 0.4, "canvas": 64}
    given = text_model.sample(following(comfy, text_model, boxes=tracks, **size))
    assert torch.equal(given, text_model.sample(following(comfy, text_model, boxes=TRACK, **size)))


def test_freetraj_needs_the_prompt(comfy, text_model):
    with pytest.raises(Exception, match=r"FreeTraj looks for words in the prompt. Give it the prompt that is encoded"):
        text_model.sample(following(comfy, text_model, prompt=""))
