"""Core nodes that no other file runs: neutral settings are neutral, sums are sums, what makes no sense says so."""

from __future__ import annotations

import pytest
import torch

from comfyui.limits import skip_without, skip_without_node
from vc_core.errors import UserError

from .test_core_patches import CFG, NOTHING, made, patched, relative


def latents(frames, seed=1):
    return {"samples": torch.randn(frames, 4, 3, 2, generator=torch.Generator().manual_seed(seed))}


def of(loaded, node, *given, **named):
    """The first output of a node; its first inputs, LATENT or MODEL or SIGMAS, by their place."""
    kinds = loaded.comfy.classes[node].INPUT_TYPES()
    names = [*kinds["required"], *kinds.get("optional", {})]
    return loaded.comfy.call(node, **dict(zip(names, given, strict=False)), **named).values[0]


@pytest.mark.parametrize(
    ("node", "neutral", "active"),
    [("FreSca", {"scale_low": 1, "scale_high": 1}, {"scale_high": 2, "freq_cutoff": 1}),
     ("Epsilon Scaling", {"scaling_factor": 1}, {"scaling_factor": 1.1}),
     ("NAGuidance", {"nag_alpha": 0}, {}),
     ("CFGOverride", {"cfg": CFG}, {"cfg": 5}),
     ("ModelComputeDtype", {"dtype": "fp32"}, {"dtype": "bf16"}),
     ("CFGNorm", None, {}), ("CFGZeroStar", None, {}), ("TCFG", None, {}), ("Mahiro", None, {})],
)  # fmt: skip
def test_guidance_nodes_change_the_clip_unless_they_are_set_to_nothing(text_model, node, neutral, active):
    skip_without_node(node)
    plain = made(text_model, steps=3)
    if neutral is not None:
        assert relative(made(text_model, patched(text_model, node, **neutral), steps=3), plain) < NOTHING
    out = made(text_model, patched(text_model, node, **active), steps=3)
    assert torch.isfinite(out).all()
    assert 1e-4 < relative(out, plain) < 1


def test_the_guidance_of_an_override_is_that_guidance(text_model):
    skip_without("CFGOverride")
    out = made(text_model, patched(text_model, "CFGOverride", cfg=5.0), steps=3)
    assert relative(out, made(text_model, steps=3, cfg=5.0)) < NOTHING


def test_renormcfg_reads_the_networks_channels(text_model):
    """With renorm_cfg 0. Core's default compares the norms of a batch as if it were one picture."""
    assert text_model.model.model.diffusion_model.in_channels == 4
    settings = {"cfg_trunc": 100.0, "renorm_cfg": 0.0}
    assert relative(made(text_model, patched(text_model, "RenormCFG", **settings)), made(text_model)) < NOTHING
    one = {"frames": 1, "steps": 2}
    out = made(text_model, patched(text_model, "RenormCFG", cfg_trunc=100.0, renorm_cfg=1.0), **one)
    assert torch.isfinite(out).all()
    with pytest.raises(RuntimeError, match="ambiguous"):
        made(text_model, patched(text_model, "RenormCFG", cfg_trunc=100.0, renorm_cfg=1.0))


def test_temporalscorerescaling_runs_on_one_frame_alone(text_model):
    node = "TemporalScoreRescaling"
    skip_without("TemporalScoreRescaling")
    assert relative(made(text_model, patched(text_model, node, tsr_k=1.0)), made(text_model)) < NOTHING
    assert torch.isfinite(made(text_model, patched(text_model, node, tsr_k=0.9), frames=1)).all()
    with pytest.raises(RuntimeError, match="ambiguous"):
        made(text_model, patched(text_model, node, tsr_k=0.9))


def test_model_sampling_is_built_again_from_the_models_configuration(text_model, continuing_model):
    """As ModelNoiseScale does, for flow models, and other packs for others."""
    for loaded in (text_model, continuing_model):
        model = loaded.model.clone()
        old = model.get_model_object("model_sampling")
        new = type(old)(model.model.model_config)
        assert torch.equal(new.sigmas, old.sigmas)
        assert torch.equal(new.scale, old.scale)
        assert new.schedule is old.schedule
    model = text_model.model.clone()
    sampling = model.get_model_object("model_sampling")
    model.add_object_patch("model_sampling", type(sampling)(model.model.model_config))
    assert torch.equal(made(text_model, model), made(text_model))


@pytest.mark.parametrize(
    "node",
    ["SkipLayerGuidanceSD3", "SkipLayerGuidanceDiT", "SkipLayerGuidanceDiTSimple", "ScaleROPE", "wanBlockSwap",
     "ChromaRadianceOptions", "SelectModelDevice"],
)  # fmt: skip
def test_options_of_other_networks_have_no_effect(text_model, node):
    skip_without_node(node)
    assert relative(made(text_model, patched(text_model, node)), made(text_model)) < NOTHING


@pytest.mark.parametrize("node", ["FluxKVCache", "HiDreamO1PatchSeamSmoothing", "ModelNoiseScale"])
def test_options_of_other_networks_end_in_an_error(text_model, node):
    skip_without_node(node)
    with pytest.raises((ValueError, AttributeError)):
        made(text_model, patched(text_model, node))


@pytest.mark.weightless
@pytest.mark.parametrize(
    "node",
    ["ModelSamplingAuraFlow", "ModelSamplingContinuousEDM", "ModelSamplingContinuousV", "ModelSamplingStableCascade",
     "ModelSamplingLTXV", "MiniMaxH3SigmaShift"],
)  # fmt: skip
def test_schedules_of_other_models_make_another_clip(text_model, node):
    """Finite, and far from the clip: the network is asked for something it was not trained for."""
    skip_without_node(node)
    out = made(text_model, patched(text_model, node), steps=3)
    assert torch.isfinite(out).all()
    assert relative(out, made(text_model, steps=3)) > 0.5


# --- guiders, noise, sigmas -------------------------------------------------------------------------------------------


class Run:
    """SamplerCustomAdvanced on two frames."""

    def __init__(self, loaded):
        self.loaded, self.latent = loaded, loaded.latent(16, 24, 2)
        self.positive, self.negative = loaded.text("a red square"), loaded.text("")
        self.sigmas = of(loaded, "BasicScheduler", loaded.model, scheduler="normal", steps=4)

    def node(self, name, **given):
        return of(self.loaded, name, **given)

    def guided(self, model=None, cfg=CFG):
        """What every guider with two prompts takes."""
        return {"model": model or self.loaded.model, "positive": self.positive, "negative": self.negative, "cfg": cfg}

    def cfg(self, model=None, cfg=CFG):
        return self.node("CFGGuider", **self.guided(model, cfg))

    def __call__(self, guider, sigmas=None, noise=None, latent=None):
        return self.loaded.comfy.call(
            "SamplerCustomAdvanced",
            noise=noise or self.node("RandomNoise", noise_seed=3),
            guider=guider,
            sampler=self.node("KSamplerSelect", sampler_name="euler"),
            sigmas=self.sigmas if sigmas is None else sigmas,
            latent_image=latent or self.latent,
        ).values[0]


@pytest.fixture
def run(text_model):
    return Run(text_model)


def test_guiders_of_a_third_prompt_have_cfg_as_limit(run):
    plain = run(run.cfg())["samples"]
    third = run.node("PerpNegGuider", **run.guided(), empty_conditioning=run.negative, neg_scale=0.0)
    assert relative(run(third)["samples"], plain) < NOTHING
    (patch,) = run.loaded.comfy.call("PerpNeg", model=run.loaded.model, empty_conditioning=run.negative).values
    assert relative(run(run.cfg(patch))["samples"], plain) < NOTHING


def test_a_guider_of_one_model_given_twice_is_cfg(run):
    skip_without("DualModelGuider")
    dual = run.node("DualModelGuider", **run.guided(), model_negative=run.loaded.model)
    assert relative(run(dual)["samples"], run(run.cfg())["samples"]) < 1e-4


def test_nodes_of_sigmas_give_one_run_in_parts(run):
    plain = run(run.cfg())
    high, low = run.loaded.comfy.call("SplitSigmasDenoise", sigmas=run.sigmas, denoise=0.5).values
    half = run(run.cfg(), sigmas=high)
    rest = run(run.cfg(), sigmas=low, noise=run.node("DisableNoise"), latent=half)
    assert relative(rest["samples"], plain["samples"]) < 1e-4
    assert torch.equal(run.node("FlipSigmas", sigmas=run.node("FlipSigmas", sigmas=run.sigmas))[:-1], run.sigmas[:-1])
    assert float(run.node("SetFirstSigma", sigmas=run.sigmas, sigma=3.0)[0]) == 3
    more = run.node("ExtendIntermediateSigmas", sigmas=run.sigmas, steps=2, start_at_sigma=-1.0, end_at_sigma=0.0)
    assert len(more) > len(run.sigmas)
    assert bool((more.diff() < 0).all())
    sigma = run.node("SamplingPercentToSigma", model=run.loaded.model, sampling_percent=0.0, return_actual_sigma=True)
    assert sigma == pytest.approx(float(run.sigmas[0]), rel=1e-4)


def test_noise_is_added_as_the_model_says(run):
    noised = of(run.loaded, "AddNoise", run.loaded.model, run.node("RandomNoise", noise_seed=3), run.sigmas, run.latent)
    out = run(run.cfg(), noise=run.node("DisableNoise"), latent=noised)["samples"]
    assert torch.isfinite(out).all()
    assert relative(out, run(run.cfg())["samples"]) < 5e-3


def test_noise_of_another_size_is_refused(run):
    class Noise:
        def generate_noise(self, latent):
            return torch.zeros(2, 8)

    with pytest.raises(UserError, match=r"The noise has the shape \(2, 8\), but the latent \("):
        of(run.loaded, "AddNoise", run.loaded.model, Noise(), run.sigmas, run.latent)


@pytest.mark.parametrize("node", ["SDTurboScheduler", "BetaSamplingScheduler"])
def test_schedulers_of_a_model_end_at_no_noise(run, node):
    sigmas = of(run.loaded, node, run.loaded.model)
    assert float(sigmas[-1]) == 0
    assert bool((sigmas.diff() < 0).all())
    assert torch.isfinite(run(run.cfg(), sigmas=sigmas)["samples"]).all()


def test_sasolver_samples(run):
    sampler = of(run.loaded, "SamplerSASolver", run.loaded.model, use_pece=False, simple_order_2=False)
    (out, _) = run.loaded.comfy.call(
        "SamplerCustom", model=run.loaded.model, add_noise=True, noise_seed=3, cfg=CFG, positive=run.positive,
        negative=run.negative, sampler=sampler, sigmas=run.sigmas, latent_image=run.latent,
    ).values  # fmt: skip
    assert torch.isfinite(out["samples"]).all()


# --- latents ----------------------------------------------------------------------------------------------------------


def test_latents_are_added_turned_cut_and_joined_by_frame(text_model):
    a, b = latents(3), latents(3, seed=2)
    x, y = a["samples"], b["samples"]

    def equal(node, result, *given, **named):
        assert torch.allclose(of(text_model, node, *given, **named)["samples"], result, atol=1e-6), node

    equal("LatentAdd", x + y, a, b)
    equal("LatentSubtract", x - y, a, b)
    equal("LatentMultiply", x * 2, a, multiplier=2.0)
    equal("LatentFlip", x.flip(2), a, flip_method="x-axis: vertically")
    equal("LatentRotate", x.rot90(2, (2, 3)), a, rotation="180 degrees")
    equal("LatentBatch", torch.cat([x, y]), a, b)
    wide = {"samples": torch.randn(2, 4, 12, 12)}
    equal("LatentCrop", wide["samples"][:, :, 2:10, 1:9], wide, width=64, height=64, x=8, y=16)
    equal("LatentCompositeMasked", y, a, b, x=0, y=0, resize_source=False)
    equal("LatentConcat", torch.cat([x, y], dim=3), a, b, dim="x")
    equal("LatentCut", x[:, :, 1:2], a, dim="y", index=1, amount=1)


def test_latents_are_grouped_again_by_frames(text_model):
    (parts,) = text_model.comfy.call("RebatchLatents", latents=[latents(5)], batch_size=[2]).values
    assert [len(part["samples"]) for part in parts] == [2, 2, 1]


def test_operations_on_latents_run_before_and_while_sampling(text_model):
    operation = of(text_model, "LatentOperationTonemapReinhard")
    out = of(text_model, "LatentApplyOperation", latents(3), operation=operation)["samples"]
    assert torch.isfinite(out).all()
    assert not torch.equal(out, latents(3)["samples"])
    out = made(text_model, of(text_model, "LatentApplyOperationCFG", text_model.model, operation=operation))
    assert relative(out, made(text_model)) > 1e-4


def test_latentinterpolate_takes_one_frame_only(text_model):
    """Core divides by a norm without its axis."""
    assert torch.isfinite(
        of(text_model, "LatentInterpolate", latents(1), latents(1, seed=2), ratio=0.5)["samples"]
    ).all()
    with pytest.raises(RuntimeError, match="size of tensor"):
        of(text_model, "LatentInterpolate", latents(3), latents(3, seed=2), ratio=0.5)


# --- conditioning -----------------------------------------------------------------------------------------------------


def test_pairs_of_conditioning_are_the_same_as_one_by_one(text_model):
    text = {name: text_model.text(name) for name in ("a red square", "a blue circle", "")}
    red, blue, none = text.values()
    both = text_model.comfy.call("ConditioningCombine", conditioning_1=red, conditioning_2=blue).values[0]
    plain = made(text_model, positive=both)
    call = text_model.comfy.call
    pair = call("PairConditioningCombine", positive_A=red, negative_A=none, positive_B=blue, negative_B=none).values
    properties = {"strength": 1.0, "set_cond_area": "default"}
    (more,) = call("ConditioningSetPropertiesAndCombine", cond=red, cond_NEW=blue, **properties).values
    pairs = call(
        "PairConditioningSetPropertiesAndCombine", positive=red, negative=none, positive_NEW=blue, negative_NEW=none,
        **properties,
    ).values  # fmt: skip
    (same, _) = call("PairConditioningSetProperties", positive_NEW=red, negative_NEW=none, **properties).values
    for combined in (pair[0], more, pairs[0]):
        assert relative(made(text_model, positive=combined), plain) < NOTHING
    assert relative(made(text_model, positive=same), made(text_model)) < NOTHING
    (default,) = call("ConditioningSetDefaultCombine", cond=red, cond_DEFAULT=blue).values
    assert relative(made(text_model, positive=default), made(text_model)) < NOTHING, "red covers every pixel"
    defaults = call(
        "PairConditioningSetDefaultCombine", positive=red, negative=none, positive_DEFAULT=blue, negative_DEFAULT=none
    ).values
    assert relative(made(text_model, positive=defaults[0]), made(text_model)) < NOTHING


def test_zeroed_conditioning_is_a_text_of_zeros(text_model):
    (zeros,) = text_model.comfy.call("ConditioningZeroOut", conditioning=text_model.text("a red square")).values
    assert not bool(zeros[0][0].any())
    assert torch.isfinite(made(text_model, positive=zeros)).all()


def test_conditioning_times_one_is_the_conditioning(text_model):
    skip_without("ConditioningMultiply")
    text = text_model.text("a red square")
    (one,) = text_model.comfy.call("ConditioningMultiply", conditioning=text, multiplier=1.0).values
    assert relative(made(text_model, positive=one), made(text_model)) < NOTHING


def test_inpainting_keeps_what_the_mask_leaves_dark(text_model):
    frames = torch.rand(3, 24, 16, 3, generator=torch.Generator().manual_seed(4))
    positive, negative, latent = text_model.comfy.call(
        "InpaintModelConditioning", positive=text_model.text("a red square"), negative=text_model.text(""),
        vae=text_model.vae, pixels=frames, mask=torch.zeros(3, 24, 16), noise_mask=True,
    ).values  # fmt: skip
    out = made(text_model, positive=positive, negative=negative, latent_image=latent, steps=3)
    assert relative(out, latent["samples"]) < 1e-2


@pytest.mark.parametrize(
    ("node", "given"), [("FluxGuidance", {"guidance": 9.0}), ("FluxDisableGuidance", {}),
                        ("CLIPTextEncodeControlnet", None), ("ReferenceLatent", {"latent": latents(1)})]
)  # fmt: skip
def test_conditions_of_other_models_have_no_effect(text_model, node, given):
    skip_without_node(node)
    prompt = text_model.text("a red square")
    given = {"clip": text_model.clip, "text": "another text"} if given is None else given
    (conditioning,) = text_model.comfy.call(node, conditioning=prompt, **given).values
    assert relative(made(text_model, positive=conditioning), made(text_model)) < NOTHING


# --- weights ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("node", ["LoraLoaderBypassModelOnly", "LoraLoaderBypass"])
def test_a_bypass_lora_is_the_lora(text_model, base, node):
    from safetensors.torch import save_file

    skip_without_node(node)
    name = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q"
    shape = dict(text_model.model.model.named_parameters())[name + ".weight"].shape
    up, down = torch.randn(shape[0], 2), torch.randn(2, shape[1])
    save_file({f"{name}.lora_up.weight": up, f"{name}.lora_down.weight": down}, base.model("loras", "rest.safetensors"))
    given = {"lora_name": "rest.safetensors", "strength_model": 0.5}
    plain = made(text_model, patched(text_model, "LoraLoaderModelOnly", **given))
    assert relative(plain, made(text_model)) > 1e-4
    if node == "LoraLoaderBypass":
        given |= {"clip": text_model.clip, "strength_clip": 0.5}
    assert relative(made(text_model, patched(text_model, node, **given)), plain) < 1e-4


@pytest.mark.parametrize("node", ["ModelMergeSD1", "ModelMergeSD2"])
def test_a_model_merged_with_itself_is_the_model(text_model, node):
    merged = text_model.comfy.call(node, model1=text_model.model, model2=text_model.model).values[0]
    assert relative(made(text_model, merged), made(text_model)) < NOTHING


def test_an_image_only_checkpoint_is_written(image_model, base):
    from safetensors import safe_open

    image_model.comfy.call(
        "ImageOnlyCheckpointSave", model=image_model.model, clip_vision=image_model.clip_vision, vae=image_model.vae,
        filename_prefix="image_only",
    )  # fmt: skip
    (file,) = base.output.glob("image_only*")
    with safe_open(file, "pt") as opened:
        names = set(opened.keys())
    assert any(name.startswith("model.diffusion_model.") for name in names)
