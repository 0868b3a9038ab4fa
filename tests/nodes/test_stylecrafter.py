"""StyleCrafter as a node: a run gives what vc_core gives, with every sampler, and messages say what to do."""

from __future__ import annotations

from dataclasses import replace

import pytest
import small_models as small
import torch

from vc_core.checkpoint import load
from vc_core.control import StyleCrafter
from vc_core.denoising import Sampling
from vc_core.network.layers import to_frames
from vc_core.pipeline import Request, VideoCrafter

EXACT = 1e-4
CLOSE = 1e-3
SPEC = small.STYLE_MODEL
IMAGES = torch.rand(2, 20, 30, 3, generator=torch.Generator().manual_seed(3))
FILE = "style_adapter.pth"


def relative(a, b):
    return float((a - b).norm() / b.norm())


@pytest.fixture(scope="module")
def style_model(comfy, base, text_model):
    """A small model in the layout of VideoCrafter1 T2V-512, with StyleCrafter's files and an image encoder beside."""
    small.save(SPEC, base.model("checkpoints", "small_v1.safetensors"))
    torch.save(small.style_adapter(), base.model("checkpoints", FILE))
    torch.save(small.style_temporal(), base.model("checkpoints", "style_temporal.pth"))
    small.save(small.IMAGE_MODEL, base.model("clip_vision", "vision.safetensors"), prefixes=("embedder.",))
    loaded = type(text_model)(comfy, "small_v1.safetensors", weight_dtype="fp32")
    loaded.clip_vision = comfy.call("VideoCrafterCLIPVisionLoader", clip_name="vision.safetensors").values[0]
    return loaded


def styled(loaded, model=None, **given):
    values = {"file": FILE, "clip_vision": loaded.clip_vision, "images": IMAGES, **given}
    return loaded.comfy.call("VideoCrafterStyleCrafterControl", model=model or loaded.model, **values).values[0]


@pytest.fixture(scope="module")
def core(base, style_model):
    parts = load(base.model("checkpoints", "small_v1.safetensors"))
    vision = load(base.model("clip_vision", "vision.safetensors"))
    return VideoCrafter(replace(parts, image_encoder=vision.image_encoder))


def by_vc_core(base, core, *, cfg=3.0, frames=3, **given):
    if "temporal" in given:
        given["temporal"] = base.model("checkpoints", given["temporal"])
    control = StyleCrafter(file=base.model("checkpoints", FILE), images=tuple(IMAGES), **given)
    request = Request(
        width=16, height=24, frames=frames, seed=7, cfg=cfg, sampling=Sampling(steps=4), controls=(control,)
    )
    return to_frames(list(core.steps("a red square", request=request))[-1].x) / SPEC.autoencoder.scale_factor


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"style_cfg": 0.0, "strength": 0.7, "image_weights": "2, 0.5"},
        {"dual_guidance": False},
        {"temporal": "style_temporal.pth"},
    ],
    ids=["dual guidance", "weights", "one guidance", "temporal file"],
)
def test_the_node_gives_what_vc_core_gives(base, style_model, core, given):
    plain = style_model.sample()
    out = style_model.sample(styled(style_model, **given))
    assert relative(out, by_vc_core(base, core, **given)) < EXACT
    assert relative(out, plain) > CLOSE
    assert torch.equal(style_model.sample(), plain), "the base model does not change"


def test_image_mode_and_no_guidance(base, style_model, core):
    latent = style_model.latent(frames=1)
    out = style_model.sample(styled(style_model, mode="image"), latent_image=latent)
    assert relative(out, by_vc_core(base, core, mode="image", frames=1)) < EXACT
    assert relative(out, style_model.sample(styled(style_model), latent_image=latent)) > CLOSE
    out = style_model.sample(styled(style_model), cfg=1.0)
    assert relative(out, by_vc_core(base, core, cfg=1.0)) < EXACT
    off = style_model.sample(styled(style_model, strength=0.0))
    assert torch.equal(off, style_model.sample())


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m_sde"])
def test_core_ksampler_has_three_branches(comfy, style_model, sampler):
    calls: list[int] = []

    def counted(apply, arguments):
        calls.extend(arguments["cond_or_uncond"])
        return apply(arguments["input"], arguments["timestep"], **arguments["c"])

    def sampled(model):
        settings = {"seed": 3, "steps": 3, "cfg": 3.0, "sampler_name": sampler, "scheduler": "normal", "denoise": 1.0}
        texts = {"positive": style_model.text("a red square"), "negative": style_model.text("")}
        return comfy.call("KSampler", model=model, latent_image=style_model.latent(), **settings, **texts).values[0]

    plain = sampled(style_model.model)["samples"]
    dual, single = styled(style_model).clone(), styled(style_model, dual_guidance=False).clone()
    found = {}
    for name, model in (("dual", dual), ("single", single)):
        calls.clear()
        model.set_model_unet_function_wrapper(counted)
        found[name] = sampled(model)["samples"]
        assert len(calls) == (9 if name == "dual" else 6)
    assert relative(found["dual"], plain) > CLOSE
    assert relative(found["dual"], found["single"]) > CLOSE
    assert torch.equal(sampled(dual)["samples"], found["dual"])


def test_it_works_with_caches_windows_and_patches(comfy, style_model):
    model = styled(style_model)
    for node, given in (
        ("VideoCrafterStepCache", {"quality": "high"}),
        ("VideoCrafterGuidanceCache", {"quality": "high"}),
        ("VideoCrafterFreeNoise", {"window": 2, "stride": 1}),
        ("VideoCrafterContextWindows", {"context_length": 2, "context_overlap": 1}),
        ("FreeU", {"b1": 1.2, "b2": 1.3, "s1": 0.9, "s2": 0.5}),
    ):
        both = comfy.call(node, model=model, **given).values[0]
        alone = comfy.call(node, model=style_model.model, **given).values[0]
        out = style_model.sample(both, steps=6)
        assert bool(torch.isfinite(out).all()), node
        assert relative(out, style_model.sample(alone, steps=6)) > CLOSE, node
    longer = style_model.latent(frames=9)
    out = style_model.sample(model, latent_image=longer, long_video="windows")
    assert relative(out, style_model.sample(latent_image=longer, long_video="windows")) > CLOSE


def test_errors_name_the_cure(comfy, style_model, text_model):
    with pytest.raises(Exception, match="trained on VideoCrafter1 T2V-512, and small_t2v is built in another way"):
        text_model.sample(styled(style_model, text_model.model))
    with pytest.raises(Exception, match=r"3 frames are asked for\. Set frames to 1, or mode to video"):
        style_model.sample(styled(style_model, mode="image"))
    with pytest.raises(Exception, match="one StyleCrafter takes several images"):
        styled(style_model, styled(style_model))
    with pytest.raises(Exception, match="not StyleCrafter's temporal layers"):
        styled(style_model, temporal=FILE)
    with pytest.raises(Exception, match="There are 3 weights for 2 style images"):
        styled(style_model, image_weights="1 2 3")
    with pytest.raises(Exception, match="There is no style adapter"):
        styled(style_model, file="small_v1.safetensors")
