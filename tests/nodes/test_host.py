"""Our MODEL among ComfyUI's own nodes: judged by what comes out."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

LAYER = "input_blocks.1.1.transformer_blocks.0.attn1.to_q"
TEMPORAL = "input_blocks.1.2.transformer_blocks.0.attn2.to_v"


def relative(a, b):
    return float((a - b).norm() / b.norm())


@pytest.fixture(scope="module")
def plain(text_model):
    return text_model.sample()


def sampled(loaded, model=None, **options):
    return loaded.sample(model=model, **options)


# --- weights ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "bound"),
    # One forward pass of the published network differs by about 1 % in fp16 and 8 % in bf16; five steps of a small one
    # that does not denoise add up to more, in proportion to the type's last bit (2^-11, 2^-8, 2^-4, 2^-3).
    [("fp16", 0.05), ("bf16", 0.2), ("fp8_e4m3fn", 0.8), ("fp8_e4m3fn_fast", 0.8), ("fp8_e5m2", 1.2)],
)
def test_lower_precision_is_finite_and_close(comfy, checkpoints, plain, dtype, bound):
    loaded = make(comfy, checkpoints["text"], weight_dtype=dtype)
    assert next(loaded.model.model.diffusion_model.parameters()).dtype.itemsize == {"fp16": 2, "bf16": 2}.get(dtype, 1)
    out = sampled(loaded)
    assert torch.isfinite(out).all()
    assert relative(out, plain) < bound


def test_half_precision_arithmetic_is_finite_and_close(comfy, checkpoints, plain):
    """As on a card that computes in half precision; on the CPU ComfyUI would cast the weights up."""
    for dtype, bound in ((torch.float16, 0.05), (torch.bfloat16, 0.3)):
        loaded = make(comfy, checkpoints["text"], weight_dtype={torch.float16: "fp16", torch.bfloat16: "bf16"}[dtype])
        loaded.model.model.manual_cast_dtype = dtype
        out = sampled(loaded)
        assert torch.isfinite(out).all()
        assert relative(out, plain) < bound


def make(comfy, name, **options):
    from types import SimpleNamespace

    model, clip, vae, vision = comfy.call("VideoCrafterCheckpointLoader", ckpt_name=name, **options).values
    made = SimpleNamespace(comfy=comfy, model=model, clip=clip, vae=vae, clip_vision=vision)

    def text(prompt):
        return comfy.call("CLIPTextEncode", clip=clip, text=prompt).values[0]

    def sample(model=None, **given):
        latent = comfy.call("VideoCrafterEmptyLatent", width=16, height=24, frames=3).values[0]
        settings = {"positive": text("a red square"), "negative": text(""), "latent_image": latent, "steps": 4}
        settings |= {"cfg": 3.0, "seed": 7, **given}
        return comfy.call("VideoCrafterKSampler", model=model or made.model, **settings).values[0]["samples"]

    made.text, made.sample = text, sample
    return made


def test_streamed_weights_give_the_same(comfy, checkpoints, plain):
    """Low memory: layers stay behind, and each brings its weights in when it runs."""
    loaded = make(comfy, checkpoints["text"], weight_dtype="fp32")
    model = loaded.model
    model.force_cast_weights = True
    streamed = []

    def watch(apply, call):
        layers = [m for m in model.model.diffusion_model.modules() if hasattr(m, "comfy_cast_weights")]
        streamed.append(len(layers) > 100 and all(layer.comfy_cast_weights for layer in layers))
        return apply(call["input"], call["timestep"], **call["c"])

    model.set_model_unet_function_wrapper(watch)
    assert relative(sampled(loaded), plain) < 1e-5
    assert streamed == [True] * 4


def test_saved_models_load_again_with_equal_results(comfy, base, checkpoints, text_model, plain):
    comfy.call("ModelSave", model=text_model.model, filename_prefix="saved_unet")
    (written,) = base.output.glob("saved_unet*")
    written.rename(base.model("diffusion_models", "saved.safetensors"))
    (model,) = comfy.call("VideoCrafterUNETLoader", unet_name="saved.safetensors", weight_dtype="fp32").values
    assert relative(sampled(text_model, model), plain) < 1e-6


def test_saved_checkpoints_load_again_whole(comfy, base, image_model):
    comfy.call(
        "CheckpointSave", model=image_model.model, clip=image_model.clip, vae=image_model.vae, filename_prefix="whole"
    )
    (written,) = base.output.glob("whole*")
    saved = load_file(written)
    original = load_file(base.model("checkpoints", image_model.name))
    parts = ("model.diffusion_model.", "first_stage_model.", "cond_stage_model.", "image_proj_model.")
    for name, tensor in original.items():
        if name.startswith(parts):
            assert torch.equal(saved[name].float(), tensor), name
    written.rename(base.model("checkpoints", "whole.safetensors"))
    again = make(comfy, "whole.safetensors", weight_dtype="fp32")
    assert again.model.model.spec == image_model.model.model.spec
    picture = torch.rand(1, 9, 14, 3, generator=torch.Generator().manual_seed(1))
    positive, negative = image_model.picture(picture)
    expected = image_model.sample(positive=positive, negative=negative)
    assert relative(again.sample(positive=positive, negative=negative), expected) < 1e-5
    with pytest.raises(ValueError, match="holds no image encoder"):
        comfy.call("CLIPVisionEncode", clip_vision=again.clip_vision, image=picture, crop="none")


def test_merged_models_lie_between(comfy, base, text_model, plain):
    import small_models

    small_models.save(small_models.TEXT_MODEL, base.model("diffusion_models", "other.safetensors"), seed=6)
    (other,) = comfy.call("VideoCrafterUNETLoader", unet_name="other.safetensors", weight_dtype="fp32").values
    for ratio, equals in ((1.0, plain), (0.0, sampled(text_model, other))):
        (merged,) = comfy.call("ModelMergeSimple", model1=text_model.model, model2=other, ratio=ratio).values
        assert relative(sampled(text_model, merged), equals) < 1e-4
    (merged,) = comfy.call("ModelMergeSimple", model1=text_model.model, model2=other, ratio=0.5).values
    assert relative(sampled(text_model, merged), plain) > 1e-3


LORA_NAMES = {
    "published": lambda name: (f"diffusion_model.{name}.lora_up.weight", f"diffusion_model.{name}.lora_down.weight"),
    "peft": lambda name: (f"diffusion_model.{name}.lora_B.weight", f"diffusion_model.{name}.lora_A.weight"),
    "kohya": lambda name: (
        f"lora_unet_{name.replace('.', '_')}.lora_up.weight",
        f"lora_unet_{name.replace('.', '_')}.lora_down.weight",
    ),
}


@pytest.mark.parametrize("naming", LORA_NAMES)
def test_loras_change_the_result_and_nothing_at_strength_zero(comfy, base, text_model, plain, naming):
    unet = text_model.model.model.diffusion_model
    generator = torch.Generator().manual_seed(8)
    tensors = {}
    for name in (LAYER, TEMPORAL):
        rows, columns = unet.get_submodule(name).weight.shape
        up, down = LORA_NAMES[naming](name)
        tensors[up] = torch.randn(rows, 2, generator=generator)
        tensors[down] = torch.randn(2, columns, generator=generator)
    save_file(tensors, base.model("loras", f"{naming}.safetensors"))
    results = {}
    for strength in (0.0, 1.0):
        (model,) = comfy.call(
            "LoraLoaderModelOnly", model=text_model.model, lora_name=f"{naming}.safetensors", strength_model=strength
        ).values
        results[strength] = sampled(text_model, model)
    assert torch.equal(results[0.0], plain)
    assert relative(results[1.0], plain) > 1e-3
    assert torch.equal(sampled(text_model), plain), "the LoRA stayed in the loaded model"


def test_text_encoder_loras_change_the_text(comfy, base, text_model):
    stem = "lora_te_text_model_encoder_layers_0_self_attn_q_proj"
    generator = torch.Generator().manual_seed(9)
    width = text_model.model.model.spec.text_encoder.width
    save_file(
        {
            f"{stem}.lora_up.weight": torch.randn(width, 2, generator=generator),
            f"{stem}.lora_down.weight": torch.randn(2, width, generator=generator),
        },
        base.model("loras", "text.safetensors"),
    )
    _, clip = comfy.call(
        "LoraLoader", model=text_model.model, clip=text_model.clip, lora_name="text.safetensors",
        strength_model=1.0, strength_clip=1.0,
    ).values  # fmt: skip
    changed = comfy.call("CLIPTextEncode", clip=clip, text="a red square").values[0][0][0]
    assert relative(changed, text_model.text("a red square")[0][0]) > 1e-3


# --- conditions ------------------------------------------------------------------------------------------------------


def test_frames_may_have_texts_of_their_own(text_model):
    ((first, told),) = text_model.text("a red square")
    ((second, _),) = text_model.text("a blue circle moves to the right")
    same = text_model.sample(positive=[[first.repeat(3, 1, 1), told]])
    assert relative(same, text_model.sample()) < 1e-4
    mixed = text_model.sample(positive=[[torch.cat([first, second, second]), told]], cfg=1.0)
    for text in (first, second):
        assert relative(mixed, text_model.sample(positive=[[text, told]], cfg=1.0)) > 1e-3


def test_conditionings_combine(comfy, text_model, plain):
    a, b = text_model.text("a red square"), text_model.text("a blue circle")
    for node, inputs in (
        ("ConditioningCombine", {"conditioning_1": a, "conditioning_2": b}),
        ("ConditioningConcat", {"conditioning_to": a, "conditioning_from": b}),
        ("ConditioningAverage", {"conditioning_to": a, "conditioning_from": b, "conditioning_to_strength": 0.3}),
    ):
        (joined,) = comfy.call(node, **inputs).values
        assert relative(sampled(text_model, positive=joined), plain) > 1e-4, node
    (area,) = comfy.call("ConditioningSetArea", conditioning=b, width=16, height=16, x=0, y=0, strength=1.0).values
    assert relative(sampled(text_model, positive=a + area), plain) > 1e-4


def test_weights_and_embeddings_in_prompts_count(comfy, base, text_model):
    width = text_model.model.model.spec.text_encoder.width
    save_file({"clip_h": torch.randn(2, width)}, base.root / "models" / "embeddings" / "styled.safetensors")
    plain = text_model.text("a red square")[0][0]
    for prompt in ("a (red:1.4) square", "a red square embedding:styled"):
        assert relative(text_model.text(prompt)[0][0], plain) > 1e-3


def test_fps_condition_counts_from_everywhere(comfy, text_model, plain):
    positive, negative = comfy.call(
        "VideoCrafterFPS", positive=text_model.text("a red square"), negative=text_model.text(""), fps=24.0
    ).values
    by_node = sampled(text_model, positive=positive, negative=negative)
    assert relative(by_node, plain) > 1e-4
    assert relative(sampled(text_model, fps=24.0), by_node) < 1e-6
    default = float(text_model.model.model.spec.defaults.fps)
    assert relative(sampled(text_model, fps=default), plain) < 1e-6
    assert relative(sampled(text_model, positive=positive, negative=negative, fps=default), plain) < 1e-6


def test_a_picture_counts_by_its_strength(image_model):
    picture = torch.rand(1, 20, 30, 3, generator=torch.Generator().manual_seed(3))
    results = {}
    for strength in (0.0, 0.5, 1.0):
        positive, negative = image_model.picture(picture, strength)
        results[strength] = image_model.sample(positive=positive, negative=negative)
    grey, negative = image_model.picture(torch.full((1, 8, 8, 3), 0.5))
    assert relative(results[0.0], image_model.sample(positive=grey, negative=negative)) < 1e-4
    assert relative(results[0.5], results[0.0]) > 1e-4
    assert relative(results[1.0], results[0.5]) > 1e-4


def test_any_number_of_frames_runs_in_any_size(text_model):
    for width, height, frames in ((8, 8, 1), (40, 24, 3), (72, 8, 17)):
        out = text_model.sample(latent_image=text_model.latent(width, height, frames), steps=1)
        assert out.shape == (frames, 4, height // 8, width // 8)


def test_sampling_leaves_its_inputs_alone(text_model, plain):
    latent = text_model.latent()
    before = latent["samples"].clone()
    options = json.dumps(sorted(text_model.model.model_options["transformer_options"]))
    sampled(text_model, latent_image=latent, guidance_rescale=0.7, temporal_guidance=1.0)
    assert set(latent) == set(text_model.latent())
    assert torch.equal(latent["samples"], before)
    assert json.dumps(sorted(text_model.model.model_options["transformer_options"])) == options
    assert torch.equal(sampled(text_model), plain)


# --- the rest of the host ---------------------------------------------------------------------------------------------


def test_two_stages_of_core_are_one_run(comfy, text_model):
    given = {"model": text_model.model, "cfg": 3.0, "sampler_name": "euler", "scheduler": "normal", "steps": 4}
    given |= {"positive": text_model.text("a red square"), "negative": text_model.text("")}
    latent = text_model.latent()
    whole = comfy.call("KSampler", seed=1, latent_image=latent, denoise=1.0, **given).values[0]["samples"]
    stages = {"noise_seed": 1, **given}
    (first,) = comfy.call(
        "KSamplerAdvanced", add_noise="enable", end_at_step=2, return_with_leftover_noise="enable", latent_image=latent,
        **stages,
    ).values  # fmt: skip
    (second,) = comfy.call(
        "KSamplerAdvanced", add_noise="disable", start_at_step=2, latent_image=first, **stages
    ).values
    assert relative(second["samples"], whole) < 1e-5


@pytest.mark.parametrize("hints", [1, 3])
def test_controlnet_of_stable_diffusion_2_guides_the_frames(text_model, hints):
    """A small one with weights at random, in the layout of its kind; one hint for all frames, or one each."""
    import comfy.cldm.cldm
    import comfy.controlnet
    import comfy.ops

    unet = text_model.model.model.spec.unet
    control = comfy.cldm.cldm.ControlNet(
        image_size=32, in_channels=4, hint_channels=3, model_channels=unet.model_channels, num_res_blocks=[1, 1, 1],
        channel_mult=unet.channel_mult, num_head_channels=unet.head_channels, use_spatial_transformer=True,
        transformer_depth=[1, 1, 0], transformer_depth_middle=1, context_dim=unet.context_dim, legacy=False,
        use_linear_in_transformer=True, dtype=torch.float32, operations=comfy.ops.manual_cast,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(4)
    for parameter in control.parameters():
        spread = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.1
        parameter.data = torch.randn(parameter.shape, generator=generator) * spread
    net = comfy.controlnet.ControlNet(control, load_device=torch.device("cpu"))
    results = []
    for hint in (torch.zeros(hints, 24, 16, 3), torch.rand(hints, 24, 16, 3, generator=generator)):
        positive, negative = comfy_call_control(text_model, net, hint)
        results.append(sampled(text_model, positive=positive, negative=negative))
    assert torch.isfinite(torch.stack(results)).all()
    assert relative(results[1], results[0]) > 1e-4


def comfy_call_control(loaded, net, hint):
    return loaded.comfy.call(
        "ControlNetApplyAdvanced", positive=loaded.text("a red square"), negative=loaded.text(""), control_net=net,
        image=hint, strength=1.0, start_percent=0.0, end_percent=1.0,
    ).values[:2]  # fmt: skip


def test_models_can_be_made_afresh_for_another_device(text_model, plain):
    """What ComfyUI asks of loaders for its split over several GPUs, and for weight hooks."""
    load, arguments = text_model.model.cached_patcher_init
    assert torch.equal(sampled(text_model, load(*arguments, disable_dynamic=True)), plain)
    copy = text_model.model.deepclone_multigpu()
    assert copy.model is not text_model.model.model
    assert torch.equal(sampled(text_model, copy), plain)
    for part in (text_model.clip, text_model.vae):
        load, arguments = part.patcher.cached_patcher_init
        assert type(load(*arguments)) is type(part.patcher)
