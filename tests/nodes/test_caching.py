"""The caches as patches: the numbers of vc_core, nothing when unused, and what else a MODEL goes through."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

from comfyui.limits import skip_without
from vc_core.denoising import Sampling
from vc_core.denoising.windows import ContextWindows
from vc_core.errors import UserError
from vc_core.long.fifo import Fifo
from vc_core.network.layers import to_frames
from vc_core.pipeline import Request, VideoCrafter

STEPS = 20
REQUEST = Request(seed=7, width=16, height=24, frames=3, cfg=3.0, sampling=Sampling(steps=STEPS, eta=0.0))
SCALE = 0.18215
EXACT = 1e-4
"""Single precision in another order of operations, carried through the steps."""

NODES = {"step_cache": "VideoCrafterStepCache", "guidance_cache": "VideoCrafterGuidanceCache"}


def relative(a, b):
    return float((a - b).norm() / b.norm())


def patched(comfy, model, **caches):
    for name, quality in caches.items():
        model = comfy.call(NODES[name], model=model, quality=quality).values[0]
    return model


@contextmanager
def deep_passes(model):
    """The sizes of the batches, in clips of three frames, that reach the middle of the network."""
    seen = []
    block = model.model.diffusion_model.middle_block
    handle = block.register_forward_hook(lambda module, given, out: seen.append(out.shape[0] // 3))
    try:
        yield seen
    finally:
        handle.remove()


CACHES = [{"step_cache": "fast"}, {"guidance_cache": "fast"}, {"step_cache": "fast", "guidance_cache": "balanced"}]


@pytest.mark.parametrize("caches", CACHES, ids=["step", "guidance", "both"])
@pytest.mark.parametrize("kind", ["text", "relative"])
def test_the_caches_are_those_of_vc_core(request, base, comfy, checkpoints, kind, caches):
    loaded = request.getfixturevalue(f"{kind}_model")
    core = VideoCrafter.load(base.model("checkpoints", checkpoints[kind]))
    exact, cached = (
        to_frames(list(core.steps("a red square", request=asked))[-1].x) / SCALE
        for asked in (REQUEST, replace(REQUEST, **caches))
    )
    out = loaded.sample(patched(comfy, loaded.model, **caches), steps=STEPS, eta=0.0)
    assert relative(out, cached) < EXACT
    assert relative(cached, exact) > 10 * EXACT, "the cache has left nothing out"


def test_the_model_itself_stays_exact_and_a_patched_one_begins_every_run_anew(comfy, text_model):
    settings = {"steps": STEPS, "eta": 0.0}
    before = text_model.sample(**settings)
    model = patched(comfy, text_model.model, step_cache="fast", guidance_cache="fast")
    first, second = (text_model.sample(model, **settings) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(text_model.sample(**settings), before)
    assert not torch.equal(first, before)


def test_a_second_patch_of_a_kind_takes_the_place_of_the_first(comfy, text_model):
    once = patched(comfy, text_model.model, step_cache="high")
    twice = patched(comfy, patched(comfy, text_model.model, step_cache="fast"), step_cache="high")
    settings = {"steps": STEPS, "eta": 0.0}
    assert torch.equal(text_model.sample(once, **settings), text_model.sample(twice, **settings))


@pytest.mark.weightless
@pytest.mark.parametrize(
    "sampler", ["euler", "heun", "dpmpp_2m", "euler_cfg_pp", "uni_pc", "dpmpp_sde", "res_multistep"]
)
def test_samplers_of_comfyui_run_fewer_deep_passes(comfy, text_model, sampler):
    settings = {"steps": STEPS, "eta": 0.0, "sampler_name": sampler, "scheduler": "normal"}
    with deep_passes(text_model.model) as whole:
        exact = text_model.sample(**settings)
    model = patched(comfy, text_model.model, step_cache="fast", guidance_cache="fast")
    with deep_passes(text_model.model) as run:
        cached = text_model.sample(model, **settings)
    assert sum(run) < 0.6 * sum(whole)
    assert torch.isfinite(cached).all()
    assert relative(cached, exact) < 0.5


@pytest.mark.weightless
@pytest.mark.parametrize("schedule", ["standard_static", "standard_uniform"])
def test_context_windows_keep_their_passes_apart(comfy, text_model, schedule):
    """Static windows continue each their own features; windows that move run whole, and are exact."""
    skip_without("core's context windows over our frames")
    (windows,) = comfy.call(
        "ContextWindowsManual",
        model=text_model.model,
        context_length=4,
        context_overlap=2,
        context_schedule=schedule,
        context_stride=1,
        closed_loop=False,
        fuse_method="pyramid",
        dim=0,
    ).values
    settings = {"steps": STEPS, "eta": 0.0, "latent_image": text_model.latent(frames=8)}
    with deep_passes(text_model.model) as whole:
        exact = text_model.sample(windows, **settings)
    with deep_passes(text_model.model) as run:
        cached = text_model.sample(patched(comfy, windows, step_cache="fast"), **settings)
    assert relative(cached, exact) < 0.5
    if schedule == "standard_static":
        assert sum(run) < 0.7 * sum(whole)
    with deep_passes(text_model.model) as run:
        text_model.sample(patched(comfy, windows, guidance_cache="fast"), **settings)
    assert sum(run) < 0.8 * sum(whole)


def test_a_guided_pass_of_a_changed_model_does_not_take_the_features_of_the_plain_one(comfy, text_model):
    """Perturbed-Attention Guidance runs the positive prompt twice at one level: each pass continues itself."""
    (guided,) = comfy.call("PerturbedAttentionGuidance", model=text_model.model, scale=3.0).values
    settings = {"steps": STEPS, "eta": 0.0, "cfg": 1.0, "latent_image": text_model.latent(width=64, height=48)}
    with deep_passes(text_model.model) as whole:
        exact = text_model.sample(guided, **settings)
    with deep_passes(text_model.model) as run:
        cached = text_model.sample(patched(comfy, guided, step_cache="fast"), **settings)
    assert sum(run) < 0.6 * sum(whole)
    assert relative(cached, exact) < 0.5 * relative(text_model.sample(**settings), exact)


def test_no_guidance_leaves_nothing_to_continue(comfy, text_model):
    settings = {"steps": 4, "eta": 0.0, "cfg": 1.0}
    model = patched(comfy, text_model.model, guidance_cache="fast")
    assert torch.equal(text_model.sample(model, **settings), text_model.sample(**settings))


@pytest.mark.weightless
def test_a_queue_runs_whole_under_the_guidance_cache(comfy, text_model):
    """In runs too short for the cache to leave anything out of the first clip, the video is the exact one."""
    given = {"steps": 4, "long_video_settings": Fifo(partitions=1), "latent_image": text_model.latent(16, 16, 17)}
    model = patched(comfy, text_model.model, guidance_cache="fast")
    with deep_passes(text_model.model) as whole:
        exact = text_model.sample(**given)
    with deep_passes(text_model.model) as run:
        cached = text_model.sample(model, **given)
    assert relative(cached, exact) < EXACT
    assert sum(run) == sum(whole)


def test_windows_of_vc_core_continue_their_own_features(base, checkpoints):
    """The windows of vc_core, which the nodes' own patch is measured by."""
    core = VideoCrafter.load(base.model("checkpoints", checkpoints["text"]))
    asked = replace(REQUEST, frames=8, context=ContextWindows(size=4, stride=2))
    exact = list(core.steps("a red square", request=asked))[-1].x
    cached = list(core.steps("a red square", request=replace(asked, step_cache="fast")))[-1].x
    assert 10 * EXACT < relative(cached, exact) < 0.5


@pytest.mark.parametrize("node", NODES.values())
def test_what_cannot_be_patched_is_refused(comfy, text_model, node):
    class Other:
        model = None

    with pytest.raises(UserError, match="not a VideoCrafter model"):
        comfy.call(node, model=Other(), quality="high")
    with pytest.raises(UserError, match="no cache quality 'best'; choose one of high, balanced, fast"):
        comfy.call(node, model=text_model.model, quality="best")
