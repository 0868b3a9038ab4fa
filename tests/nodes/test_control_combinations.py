"""Every control in ComfyUI with what else a MODEL may have: caches, LoRA, windows, ControlNet, and core's samplers.

The controls and their values are those of `control/combining.py`, whose matrix is run in vc_core by
`control/test_combinations.py`; here both are compared.
"""

from __future__ import annotations

import re

import pytest
import small_models as small
import torch
from control.combining import BASES, EXAMPLES, FRAMES, IMAGE, PROMPT, bases_of, control_of, lora_of, reason_against
from safetensors.torch import save_file

from comfyui.controlnet import random_controlnet
from vc_core.control.control import WeightedControl
from vc_core.denoising import Sampling
from vc_core.network.layers import to_frames
from vc_core.parameters import Kind
from vc_core.pipeline import Request, VideoCrafter
from vc_core.specs import Windows

EXACT, ROUNDING = 1e-4, 1e-6
LONG = 6
CACHED = {"steps": 13, "scheduler": "trailing"}
"""As many steps as the caches need to save something."""
SAMPLERS = ("euler", "dpmpp_2m", "uni_pc", "lcm")


class Host:
    """The small models of the matrix in ComfyUI, their controls as nodes, and runs, each made once."""

    def __init__(self, comfy, base, loaded):
        self.comfy, self.base, self.kind = comfy, base, loaded
        self.models, self.results = {}, {}

    def model(self, name):
        if name not in self.models:
            spec, file = BASES[name].spec, f"combined_{name}.safetensors"
            small.save(spec, self.base.model("checkpoints", file))
            save_file(lora_of(spec), self.base.model("loras", file))
            self.models[name] = self.kind(self.comfy, file, weight_dtype="fp32")
        return self.models[name]

    def file(self, base, name):
        example = EXAMPLES[name]
        if example.weights is None:
            return None
        folder = control_of(name).folder
        path = self.base.model(folder, f"combined_{name}_{base}.pt")
        if not path.exists():
            torch.save(example.weights(BASES[base].spec), path)
        return path

    def clip_vision(self):
        if "vision" not in self.models:
            small.save(
                small.IMAGE_MODEL, self.base.model("clip_vision", "combined.safetensors"), prefixes=("embedder.",)
            )
            (found,) = self.comfy.call("VideoCrafterCLIPVisionLoader", clip_name="combined.safetensors").values
            self.models["vision"] = found
        return self.models["vision"]

    def with_control(self, base, name, model, **changes):
        """The control's node behind a MODEL, with the values of its example."""
        control, file = control_of(name, **changes), self.file(base, name)
        given = {item.name: _input(item, getattr(control, item.name)) for item in control.parameters()}
        given = {item: value for item, value in given.items() if value is not None}
        if isinstance(control, WeightedControl):
            given["file"] = file.name
        if "image" in control.encoders:
            given["clip_vision"] = self.clip_vision()
        node = f"VideoCrafter{control.title.replace(' ', '').replace('-', '')}Control"
        return self.comfy.call(node, model=model, **given).values[0]

    def conditionings(self, base, frames, side):
        """positive, negative and the latent of a clip."""
        loaded, size = self.model(base), side or BASES[base].size
        if base == "continuing":
            size = {"width": size, "height": size, "frames": frames}
            positive, negative, _, latent = loaded.continued(IMAGE[None], **size)
            return positive, negative, latent
        return loaded.text(PROMPT), loaded.text(""), loaded.latent(size, size, frames)

    def sampled(self, base, model, *, sampler="VideoCrafterKSampler", frames=FRAMES, side=0, change=None, **settings):
        """The latents of a run. change: of the positive conditioning."""
        positive, negative, latent = self.conditionings(base, frames, side)
        if change is not None:
            positive = change(positive)
        if settings.get("denoise", 1.0) < 1.0:
            latent = {**latent, "samples": torch.randn(latent["samples"].shape, generator=torch.manual_seed(6))}
        given = {"positive": positive, "negative": negative, "latent_image": latent, "seed": 7, "cfg": 3.0}
        own = {"eta": 0.0} if sampler == "VideoCrafterKSampler" else {"scheduler": "normal", "denoise": 1.0}
        return self.comfy.call(sampler, model=model, **{**given, **own, "steps": 1, **settings}).values[0]["samples"]

    def once(self, base, name="", node="", **settings):
        """The latents of a run with a control, a node of `COMPANIONS`, both or neither, made once."""
        key = (base, name, node, str(sorted(settings.items())))
        if key not in self.results:
            model = self.model(base).model
            model = self.with_control(base, name, model) if name else model
            self.results[key] = self.sampled(base, self.through(base, node, model) if node else model, **settings)
        return self.results[key]

    def through(self, base, node, model):
        """A MODEL behind a node of `COMPANIONS`."""
        kind, inputs, _ = COMPANIONS[node]
        if node == "caches":
            model = self.comfy.call("VideoCrafterGuidanceCache", model=model, **inputs).values[0]
        if node == "LoRA":
            inputs = {**inputs, "lora_name": f"combined_{base}.safetensors"}
        return self.comfy.call(kind, model=model, **inputs).values[0]


def _input(item, value):
    """A value as the node takes it; None for what is not connected."""
    if item.kind is Kind.IMAGES:
        return torch.stack(value) if value else None
    return "none" if item.kind is Kind.FILE and not value else value


@pytest.fixture(scope="module")
def host(comfy, base, text_model):
    return Host(comfy, base, type(text_model))


def relative(a, b):
    return float((a - b).norm() / b.norm())


def through(comfy, node, **given):
    """A node between the MODEL and the sampler."""
    return lambda model: comfy.call(node, model=model, **given).values[0]


COMPANIONS = {
    "LoRA": ("LoraLoaderModelOnly", {"strength_model": 1.0}, {}),
    "caches": ("VideoCrafterStepCache", {"quality": "fast"}, CACHED),
    "FreeNoise": ("VideoCrafterFreeNoise", {"window": 4, "stride": 2}, {"frames": LONG}),
    "context windows": ("VideoCrafterContextWindows", {"context_length": 4, "context_overlap": 2}, {"frames": LONG}),
    "RescaleCFG": ("RescaleCFG", {"multiplier": 0.7}, {}),
    "FreeU": ("FreeU", {"b1": 1.5, "b2": 1.5, "s1": 0.5, "s2": 0.5}, {}),
    "HyperTile": ("HyperTile", {"tile_size": 1, "swap_size": 1, "max_depth": 0, "scale_depth": False}, {"side": 64}),
}
"""By name: the node, its inputs, and the settings of a run in which it acts."""


METHODS = {"FreeNoise": "freenoise", "context windows": "windows"}
"""The long-video methods that nodes apply."""


def refused_in_windows(name, companion):
    """Why a control does not work with a long-video method that a node applies."""
    method = METHODS.get(companion)
    return None if method is None or method in EXAMPLES[name].refused else reason_against(name, method)


def started(name):
    """The settings of runs with a control that needs a video to start from."""
    strength = EXAMPLES[name].given.get("strength")
    return {} if strength is None else {"denoise": strength}


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
