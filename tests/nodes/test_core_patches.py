"""ComfyUI's model patches on our MODEL: each does what its equation says, and nothing where its settings say nothing.

One step of Euler's method from the last noise level to none gives the guided prediction of the clip itself, so what a
patch adds to that prediction can be read off the clip.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import small_models as small
import torch
import torch._dynamo

from comfyui.limits import skip_without

CFG = 3.0
NOTHING = 1e-5
"""Relative: the order of operations."""


def relative(a, b):
    return float((a - b).norm() / b.norm())


def made(loaded, model=None, size=(16, 24), frames=3, **given):
    """KSampler's clip; `size` in pixels."""
    settings = {"seed": 3, "steps": 1, "cfg": CFG, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    settings |= {"positive": loaded.text("a red square"), "negative": loaded.text("")}
    settings |= {"latent_image": loaded.latent(*size, frames), **given}
    return loaded.comfy.call("KSampler", model=model or loaded.model, **settings).values[0]["samples"]


def patched(loaded, node, model=None, **settings):
    return loaded.comfy.call(node, model=model or loaded.model, **settings).values[0]


PATCHES = [
    ("FreeU", (16, 24), {"b1": 1, "b2": 1, "s1": 1, "s2": 1}, {}),
    ("FreeU_V2", (64, 48), {"b1": 1, "b2": 1, "s1": 1, "s2": 1}, {}),
    ("HyperTile", (64, 96), {"tile_size": 2048}, {"tile_size": 32}),
    ("TomePatchModel", (16, 24), {"ratio": 0}, {"ratio": 0.5}),
    (
        "PatchModelAddDownscale",
        (64, 64),
        {"end_percent": 1, "downscale_factor": 1},
        {"block_number": 1, "end_percent": 1},
    ),
    ("PerturbedAttentionGuidance", (64, 48), {"scale": 0}, {}),
    ("SelfAttentionGuidance", (64, 64), {"scale": 0}, {}),
    ("RescaleCFG", (16, 24), {"multiplier": 0}, {}),
    ("VideoLinearCFGGuidance", (16, 24), {"min_cfg": CFG}, {}),
    ("VideoTriangleCFGGuidance", (16, 24), {"min_cfg": CFG}, {}),
    ("APG", (16, 24), {"norm_threshold": 0, "eta": 1}, {"eta": 0.5}),
    ("EasyCache", (16, 24), {"reuse_threshold": 0}, {"reuse_threshold": 3, "start_percent": 0, "end_percent": 1}),
    ("LazyCache", (16, 24), {"reuse_threshold": 0}, {"reuse_threshold": 3, "start_percent": 0, "end_percent": 1}),
]
"""(node, size in pixels, settings with which it changes nothing, settings with which it does)"""


@pytest.mark.parametrize(("node", "size", "neutral", "active"), PATCHES, ids=[case[0] for case in PATCHES])
def test_patches_change_the_clip_unless_they_are_set_to_nothing(text_model, node, size, neutral, active):
    if node == "EasyCache":
        skip_without("EasyCache on a batch")
    settings = {"size": size, "steps": 5}
    plain = made(text_model, **settings)
    unchanged = made(text_model, **settings, cfg=CFG + 1) if node == "APG" else plain  # core adds one more guidance
    assert relative(made(text_model, patched(text_model, node, **neutral), **settings), unchanged) < NOTHING
    out = made(text_model, patched(text_model, node, **active), **settings)
    assert torch.isfinite(out).all()
    assert relative(out, plain) > 1e-4
    assert torch.equal(made(text_model, **settings), plain), "the patch stayed in the loaded model"


@pytest.mark.parametrize(
    ("node", "setting"),
    [("PerturbedAttentionGuidance", "scale"), ("SelfAttentionGuidance", "scale"), ("RescaleCFG", "multiplier")],
)
def test_guidance_of_patches_grows_with_its_scale(text_model, node, setting):
    """One step, so what they add is in proportion."""
    plain, half, whole = (
        made(text_model, patched(text_model, node, **{setting: value}), (64, 64)) for value in (0.0, 0.5, 1.0)
    )
    assert relative(whole - plain, 2 * (half - plain)) < 1e-3


@pytest.mark.parametrize(
    ("node", "scales"), [("VideoLinearCFGGuidance", (1, 2, 3)), ("VideoTriangleCFGGuidance", (1, 3, 1))]
)
def test_guidance_rises_over_the_frames(text_model, node, scales):
    model = patched(text_model, node, min_cfg=1.0)
    out = made(text_model, model)
    for frame, scale in enumerate(scales):
        assert relative(out[frame], made(text_model, cfg=float(scale))[frame]) < NOTHING, frame


@pytest.mark.parametrize("node", ["EasyCache", "LazyCache"])
def test_caches_leave_steps_out(text_model, node):
    """What that does to a picture: `tests/server/test_matrix.py`."""
    calls = []
    for model in (text_model.model, patched(text_model, node, reuse_threshold=0.5, start_percent=0, end_percent=1)):
        model, seen = watched(model)
        assert torch.isfinite(made(text_model, model, steps=12, cfg=1.0)).all()
        calls.append(sum(len(one) > 2 for one in seen))
    assert calls[0] == 12
    assert calls[1] <= 10


# --- what replaces the schedule of noise ------------------------------------------------------------------------------


def watched(model):
    """A copy of the MODEL, and a list of (latents, sigma, timestep, the network's own answer) of each pass."""
    import comfy.patcher_extension as extension

    model, seen = model.clone(), []

    def outer(apply, call):
        seen.append([call["input"], call["timestep"]])
        return apply(call["input"], call["timestep"], **call["c"])

    def inner(executor, x, timesteps, *arguments, **keywords):
        out = executor(x, timesteps, *arguments, **keywords)
        seen[-1] += [x, timesteps, out]
        return out

    model.set_model_unet_function_wrapper(outer)
    model.add_wrapper_with_key(extension.WrappersMP.DIFFUSION_MODEL, "watch", inner)
    return model, seen


def eps(x, sigma, out, _):
    return x - sigma * out


def velocity(x, sigma, out, _):
    return x / (sigma**2 + 1) - sigma / (sigma**2 + 1).sqrt() * out


def consistency(x, sigma, out, timestep):
    """arXiv:2310.04378, its boundary conditions at ten times the timestep and a sigma of the data of 0.5."""
    scaled, data = 10 * timestep, 0.5
    skip, take = data**2 / (scaled**2 + data**2), scaled / (scaled**2 + data**2).sqrt()
    return skip * x + take * (x - sigma * out)


@pytest.mark.parametrize(
    ("sampling", "zsnr", "prediction"),
    [("eps", False, eps), ("eps", True, eps), ("v_prediction", False, velocity), ("v_prediction", True, velocity),
     ("lcm", False, consistency)],
)  # fmt: skip
def test_models_are_read_as_modelsamplingdiscrete_says(text_model, sampling, zsnr, prediction):
    model, seen = watched(patched(text_model, "ModelSamplingDiscrete", sampling=sampling, zsnr=zsnr))
    out = made(text_model, model, steps=2, cfg=1.0)
    for x, sigma, given, timestep, answer in seen:
        sigma, timestep = sigma.view(-1, 1, 1, 1), timestep.view(-1, 1, 1, 1)
        assert relative(given, x / (sigma**2 + 1).sqrt()) < NOTHING
        predicted = prediction(x, sigma, answer, timestep)
    assert float(seen[0][3][0]) == 999
    assert relative(out, predicted / text_model.model.model.latent_format.scale_factor) < NOTHING


def test_modelsamplingdiscrete_takes_the_rescale_out(text_model, turbo_model):
    """VideoCrafter2 and its like are trained with signal rescaled; T2V-Turbo without, and there the node is neutral."""
    assert (
        relative(made(turbo_model, patched(turbo_model, "ModelSamplingDiscrete", sampling="eps")), made(turbo_model))
        < 1e-4
    )
    assert (
        relative(made(text_model, patched(text_model, "ModelSamplingDiscrete", sampling="eps")), made(text_model))
        > 1e-3
    )


# --- masks, compilers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", ["euler", "ddim_exact"])
def test_differential_diffusion_frees_parts_step_by_step(text_model, sampler):
    """Rows of mask 0, 1/2 and 1: kept, freed half way, made anew from the beginning."""
    model = patched(text_model, "DifferentialDiffusion")
    start = torch.randn(3, 4, 3, 2, generator=torch.Generator().manual_seed(6))
    mask = torch.tensor([0.0, 0.5, 1.0])[None, :, None].expand(3, 3, 2)

    def run(model, mask):
        (latent,) = text_model.comfy.call("SetLatentNoiseMask", samples={"samples": start}, mask=mask).values
        settings = {"steps": 6, "latent_image": latent, "cfg": 1.0}
        if sampler == "euler":
            return made(text_model, model, **settings)
        return text_model.sample(model, sampler_name=sampler, scheduler="trailing", eta=0.0, **settings)

    out = run(model, mask)
    moved = [relative(out[:, :, row], start[:, :, row]) for row in range(3)]
    assert 10 * moved[0] < moved[1] < moved[2]  # at its very last level, with hardly any noise, core frees everything
    assert relative(out, run(text_model.model, mask)) > 1e-3, "a plain mask of 1/2 mixes instead"
    everything = torch.ones(3, 3, 2)
    assert relative(run(model, everything), run(text_model.model, everything)) < NOTHING


def test_models_compile(comfy, base, monkeypatch):
    """With a compiler that only traces, which needs no C++, and the attention of a GPU: few graphs, the same clip."""
    from comfy.ldm.modules import attention as attentions

    monkeypatch.setattr(comfy.module("nodes.host.patches"), "optimized_attention", attentions.attention_pytorch)
    spec = replace(small.TEXT_MODEL, unet=replace(small.TEXT_MODEL.unet, channel_mult=(1,), attention_levels=()))
    small.save(spec, base.model("diffusion_models", "one_level.safetensors"))
    (model,) = comfy.call("VideoCrafterUNETLoader", unet_name="one_level.safetensors", weight_dtype="fp32").values
    (compiled,) = comfy.call("TorchCompileModel", model=model, backend="eager").values
    text = [[torch.randn(1, 77, 48, generator=torch.Generator().manual_seed(1)), {}]]
    latent = {"samples": torch.zeros(2, 4, 2, 2)}
    settings = {"seed": 1, "steps": 1, "cfg": 1.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    settings |= {"positive": text, "negative": text, "latent_image": latent}
    torch._dynamo.utils.counters.clear()
    plain, traced = (comfy.call("KSampler", model=each, **settings).values[0]["samples"] for each in (model, compiled))
    assert 0 < torch._dynamo.utils.counters["stats"]["unique_graphs"] < 8
    assert relative(traced, plain) < NOTHING
    torch._dynamo.reset()
