"""Cancel and too little memory anywhere in a run in ComfyUI: a sample of what `python -m benchmarks.faults` tries."""

from __future__ import annotations

import random

import pytest
import small_models as small
import torch
from faults.host_runs import HostRuns
from faults.injecting import Allocations, StopAt, gpu_is_full
from faults.trying import Trial, is_close
from loaded_models import Loaded

from vc_core.network import parts
from vc_core.network.feed_forward import FeedForward

CANCELLED = ("method continue", "key frames", "node caches")
FULL_IN = ("sampler of this pack", "control freetraj")


@pytest.fixture(scope="module")
def runs(comfy, base):
    return HostRuns(comfy, base)


@pytest.fixture(scope="module")
def trial(runs):
    """A run, with what it gives on models that were loaded for it."""

    def made(name):
        runs.fresh()
        expected = runs.made[name](None)
        runs.fresh()
        runs.made[name](None)
        return Trial(name=name, made=runs.made[name], expected=expected, networks=runs.networks, host=True)

    return made


@pytest.mark.parametrize("name", CANCELLED)
def test_after_cancel_the_next_run_is_that_of_a_fresh_model(runs, trial, name):
    from comfy.model_management import InterruptProcessingException

    tried, steps = trial(name), StopAt()
    runs.made[name](steps)
    at = random.Random(name).randrange(steps.seen - 1)
    assert not tried.cancelled(at, InterruptProcessingException).wrong


@pytest.mark.parametrize("name", FULL_IN)
def test_a_run_without_memory_falls_back_or_leaves_it_to_comfyui(runs, trial, name):
    tried, count, draw = trial(name), Allocations(), random.Random(name)
    with count:
        runs.made[name](None)
    for _ in range(2):
        assert not tried.without_memory(Allocations(at=draw.randrange(len(count.sizes)))).wrong


@pytest.fixture(scope="module")
def text_model(comfy, base):
    small.save(small.TEXT_MODEL, base.model("checkpoints", "faults_text.safetensors"))
    return Loaded(comfy, "faults_text.safetensors", weight_dtype="fp32")


@pytest.fixture
def full(text_model):
    """A device that has no room for more than 100 tokens at once, as a hook before a layer."""
    unet = text_model.model.model.diffusion_model
    layer = next(module for module in unet.modules() if isinstance(module, FeedForward)).net
    met = []

    def refuse(module, given):
        if given[0].flatten(0, -2).shape[0] > met_at_most[0]:
            met.append(unet.budget.values)
            raise gpu_is_full()

    met_at_most = [100]
    handle = layer.register_forward_pre_hook(refuse)
    yield met, met_at_most, unet
    handle.remove()


def test_a_pass_works_in_smaller_parts_and_the_next_run_in_large_ones(text_model, full, monkeypatch):
    monkeypatch.setattr(parts, "LEAST", 64)
    met, most, unet = full
    latent = text_model.latent(64, 64)
    out = text_model.sample(steps=2, latent_image=latent)
    assert met
    assert unet.budget.values < parts.AT_ONCE
    assert len(met) == (parts.AT_ONCE // unet.budget.values).bit_length() - 1, "what was found holds for the whole run"
    most[0] = 2**40
    whole = text_model.sample(steps=2, latent_image=latent)
    assert unet.budget.values == parts.AT_ONCE
    assert is_close(out, whole)


def test_what_never_fits_is_left_to_comfyui(text_model, full):
    full[1][0] = 0
    with pytest.raises(torch.OutOfMemoryError, match="Tried to allocate"):
        text_model.sample(steps=1)
