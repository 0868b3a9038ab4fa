"""Recorded passes in ComfyUI: the same frames, and no recording where weights move or other nodes act inside a pass."""

from __future__ import annotations

import pytest
import torch
from network.recording import StandIn

from vc_core.network.replay import Replay

STEPS = 10


@pytest.fixture
def recorders(comfy, monkeypatch):
    """Those of the runs that follow."""
    made = []

    def recorder(device):
        made.append(StandIn())
        return made[-1]

    monkeypatch.setattr(comfy.module("nodes.host.graphs"), "recorder_for", recorder)
    monkeypatch.setattr(Replay, "_has_room", lambda *_: True)
    return made


def without(comfy, loaded):
    """The model without recorded passes."""
    return comfy.call("VideoCrafterCUDAGraphs", model=loaded.model, enabled=False).values[0]


def test_every_sampler_gives_the_same_frames(comfy, text_model, recorders):
    for options in ({}, {"sampler_name": "euler", "scheduler": "normal"}):
        replayed = text_model.sample(steps=STEPS, **options)
        assert recorders[-1].replayed == STEPS - 1
        assert recorders[-1].released == 1
        assert torch.equal(text_model.sample(without(comfy, text_model), steps=STEPS, **options), replayed)
    assert len(recorders) == 2
    text_model.sample(steps=4)
    assert len(recorders) == 2, "a short run is not worth a recording"


@pytest.mark.parametrize("node", ["VideoCrafterStepCache", "VideoCrafterGuidanceCache"])
def test_caches_are_the_same(comfy, text_model, recorders, node):
    cached = [
        comfy.call(node, model=model, quality="fast").values[0]
        for model in (text_model.model, without(comfy, text_model))
    ]
    replayed, plain = (text_model.sample(model, steps=20) for model in cached)
    assert recorders[0].replayed > 8
    assert torch.equal(replayed, plain)


def test_windows_are_the_same(comfy, text_model, recorders):
    options = {"steps": STEPS, "latent_image": text_model.latent(frames=6)}
    model = comfy.call("VideoCrafterFreeNoise", model=text_model.model, window=4, stride=2).values[0]
    replayed = text_model.sample(model, **options)
    assert recorders[0].replayed == STEPS - 1
    plain = comfy.call("VideoCrafterCUDAGraphs", model=model, enabled=False).values[0]
    assert torch.equal(text_model.sample(plain, **options), replayed)


def test_other_prompts_and_patched_weights_are_read(comfy, text_model, recorders):
    names = [name for name in text_model.model.model.state_dict() if name.endswith("weight")][:40]
    weights = text_model.model.model.state_dict()
    generator = torch.Generator().manual_seed(3)
    model = text_model.model.clone()
    model.add_patches(
        {name: ("diff", (torch.randn(weights[name].shape, generator=generator) * 0.02,)) for name in names}
    )
    seen = []
    for positive in ("a red square", "a blue circle"):
        options = {"steps": STEPS, "positive": text_model.text(positive)}
        seen.append(text_model.sample(model, **options))
        assert recorders[-1].replayed == STEPS - 1
        plain = comfy.call("VideoCrafterCUDAGraphs", model=model, enabled=False).values[0]
        assert torch.equal(text_model.sample(plain, **options), seen[-1])
    assert not torch.equal(*seen)
    assert not torch.equal(text_model.sample(steps=STEPS), seen[0])


def at_step(model, number, act):
    """The MODEL, with `act` called before the pass of a step."""
    seen = []

    def wrapper(apply, call):
        seen.append(call)
        if len(seen) == number:
            act()
        return apply(call["input"], call["timestep"], **call["c"])

    model = model.clone()
    model.set_model_unet_function_wrapper(wrapper)
    return model


def test_weights_that_move_end_the_recording(comfy, text_model, recorders, dynamic_vram):
    unet = text_model.model.model.diffusion_model

    def move():
        if dynamic_vram:
            (slots,) = text_model.model.model.dynamic_vbars.values()
            slots.free_memory(1)
        else:
            layer = unet.middle_block[0].in_layers[-1]
            layer.weight = torch.nn.Parameter(layer.weight.clone(), requires_grad=False)

    moved = text_model.sample(at_step(text_model.model, 6, move), steps=STEPS)
    assert recorders[0].replayed == 4
    assert torch.equal(text_model.sample(without(comfy, text_model), steps=STEPS), moved)


def test_weights_that_are_not_on_the_device_are_not_recorded(comfy, text_model, recorders, dynamic_vram):
    if not dynamic_vram:
        pytest.skip("runs with --dynamic-vram")
    (slots,) = text_model.model.model.dynamic_vbars.values()
    expected = text_model.sample(without(comfy, text_model), steps=STEPS)
    slots.full = True
    try:
        assert torch.equal(text_model.sample(steps=STEPS), expected)
    finally:
        slots.full = False
    assert not recorders[0].recorded


def test_what_other_nodes_do_inside_of_a_pass_is_not_recorded(comfy, text_model, recorders):
    seen = []

    def patch(h, options):
        seen.append(h)
        return h

    model = text_model.model.clone()
    model.set_model_patch(patch, "input_block_patch")
    text_model.sample(model, steps=STEPS)
    assert not recorders[0].recorded
    assert len(seen) >= STEPS


def test_a_replayed_run_is_interrupted_before_its_next_pass(text_model, recorders):
    import comfy.model_management as management

    model = at_step(text_model.model, 6, management.interrupt_current_processing)
    with pytest.raises(management.InterruptProcessingException):
        text_model.sample(model, steps=STEPS)
    assert recorders[0].replayed == 4
    assert recorders[0].released == 1
    assert text_model.model.model.diffusion_model.budget.held == 0


def test_on_other_devices_nothing_records(comfy):
    assert comfy.module("nodes.host.graphs").recorder_for(torch.device("cpu")) is None
