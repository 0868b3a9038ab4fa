"""Every control in ComfyUI with what else a MODEL may have: caches, LoRA, windows, ControlNet, and core's samplers.

The controls and their values are those of `control/combining.py`, whose matrix is run in vc_core by
`control/test_combinations.py`; here both are compared.
"""

from __future__ import annotations

import re

import pytest
import torch
from combined_nodes import COMPANIONS, LONG, Host, started
from control.combining import BASES, EXAMPLES, FRAMES, PROMPT, bases_of, control_of, reason_against

from comfyui.controlnet import random_controlnet
from vc_core.denoising import Sampling
from vc_core.network.layers import to_frames
from vc_core.pipeline import Request, VideoCrafter
from vc_core.specs import Windows

EXACT, ROUNDING = 1e-4, 1e-6
SAMPLERS = ("euler", "dpmpp_2m", "uni_pc", "lcm")


@pytest.fixture(scope="module")
def host(comfy, base):
    return Host(comfy, base)


def relative(a, b):
    return float((a - b).norm() / b.norm())


METHODS = {"FreeNoise": "freenoise", "context windows": "windows"}
"""The long-video methods that nodes apply."""


def refused_in_windows(name, companion):
    """Why a control does not work with a long-video method that a node applies."""
    method = METHODS.get(companion)
    return None if method is None or method in EXAMPLES[name].refused else reason_against(name, method)


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("companion", COMPANIONS)
def test_nodes_before_and_after_a_control(host, name, companion):
    """Both act, whichever comes first."""
    base, settings = bases_of(name)[0], COMPANIONS[companion][2]
    settings = {**settings, **started(name)}
    refused = EXAMPLES[name].refused.get(companion, ({}, None))[1] or refused_in_windows(name, companion)
    if refused is not None:
        with pytest.raises(Exception, match=re.escape(refused)):
            host.once(base, name, companion, **settings)
        return
    both = host.once(base, name, companion, **settings)
    assert bool(both.isfinite().all())
    assert relative(both, host.once(base, "", companion, **settings)) > ROUNDING, "the control has no effect"
    assert relative(both, host.once(base, name, **settings)) > ROUNDING, "the node has no effect"
    if companion in ("LoRA", "FreeNoise"):
        before = host.with_control(base, name, host.through(base, companion, host.model(base).model))
        assert torch.equal(host.sampled(base, before, **settings), both), "the order of the nodes counts"


@pytest.mark.parametrize("name", EXAMPLES)
def test_guidance_of_the_sampler_and_a_control(host, name):
    """Temporal guidance and rescaling beside the terms of the control."""
    base, start = bases_of(name)[0], started(name)
    settings = {"temporal_guidance": 0.5, "guidance_rescale": 0.5, **start}
    both = host.once(base, name, **settings)
    assert bool(both.isfinite().all())
    assert relative(both, host.once(base, **settings)) > ROUNDING
    assert relative(both, host.once(base, name, **start)) > ROUNDING


@pytest.mark.parametrize("name", EXAMPLES)
def test_core_samplers_have_the_control(host, name):
    base = bases_of(name)[0]
    for sampler in SAMPLERS:
        settings = {"sampler": "KSampler", "sampler_name": sampler, "steps": 2, **started(name)}
        made, without = host.once(base, name, **settings), host.once(base, **settings)
        assert bool(made.isfinite().all()), sampler
        assert relative(made, without) > ROUNDING, sampler
    neutral = host.with_control(base, name, host.model(base).model, **EXAMPLES[name].neutral)
    assert torch.equal(host.sampled(base, neutral, **settings), without)


@pytest.fixture(scope="module")
def control_net(dynamic_vram):
    return random_controlnet(BASES["text"].spec.unet, [1, 1], [1, 1], dynamic_vram=dynamic_vram)


@pytest.mark.parametrize("name", EXAMPLES)
def test_controlnet_and_a_control(comfy, host, control_net, name):
    base = bases_of(name)[0]
    plain, size = host.model(base).model, BASES[base].size
    hints = torch.rand(FRAMES, size, size, 3, generator=torch.Generator().manual_seed(5))

    def guided(positive):
        return comfy.call(
            "ControlNetApplyAdvanced", positive=positive, negative=host.model(base).text(""), control_net=control_net,
            image=hints, strength=1.0, start_percent=0.0, end_percent=1.0,
        ).values[0]  # fmt: skip

    start = started(name)
    model = host.with_control(base, name, plain)
    both = host.sampled(base, model, change=guided, **start)
    assert bool(both.isfinite().all())
    alone = host.sampled(base, plain, change=guided, **start)
    assert relative(both, alone) > ROUNDING
    assert relative(both, host.once(base, name, **start)) > ROUNDING
    neutral = host.with_control(base, name, plain, **EXAMPLES[name].neutral)
    assert torch.equal(host.sampled(base, neutral, change=guided, **start), alone)
    by_core = {"sampler": "KSampler", "sampler_name": "euler", "change": guided, **start}
    assert relative(host.sampled(base, model, **by_core), host.sampled(base, plain, **by_core)) > ROUNDING


def test_lora_freetraj_and_freenoise_are_those_of_vc_core(comfy, base, host):
    loaded = host.model("text")
    lora = {"lora_name": "combined_text.safetensors", "strength_model": 1.0}
    model = comfy.call("LoraLoaderModelOnly", model=loaded.model, **lora).values[0]
    model = host.with_control("text", "freetraj", model)
    model = comfy.call("VideoCrafterFreeNoise", model=model, window=4, stride=2).values[0]
    out = host.sampled("text", model, frames=LONG, steps=4)
    core = VideoCrafter.load(
        base.model("checkpoints", loaded.name), loras=[(base.model("loras", "combined_text.safetensors"), 1.0)]
    )
    size = BASES["text"].size
    request = Request(
        seed=7, cfg=3.0, width=size, height=size, frames=LONG, sampling=Sampling(steps=4, eta=0.0),
        windows=Windows(size=4, stride=2), controls=(control_of("freetraj"),),
    )  # fmt: skip
    expected = to_frames(list(core.steps(PROMPT, request=request))[-1].x) / core.parts.spec.autoencoder.scale_factor
    assert relative(out, expected) < EXACT
