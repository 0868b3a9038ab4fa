"""Our MODEL among ComfyUI's own nodes: judged by what comes out."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import small_models
import torch
from safetensors.torch import load_file, save_file

from comfyui.limits import skip_without
from vc_core import bundled
from vc_core.checkpoint import METADATA_KEY
from vc_core.errors import UserError
from vc_core.specs import AutoencoderSpec, to_json

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
def test_lower_precision_is_finite_and_close(comfy, checkpoints, plain, dtype, bound, dynamic_vram):
    loaded = make(comfy, checkpoints["text"], weight_dtype=dtype)
    layer = loaded.model.model.diffusion_model.time_embed[0]
    held = layer.weight_comfy_model_dtype if dynamic_vram else layer.weight.dtype
    assert held.itemsize == {"fp16": 2, "bf16": 2}.get(dtype, 1)
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


@pytest.fixture(scope="module")
def other(comfy, base):
    """A second model of the same layout."""
    small_models.save(small_models.TEXT_MODEL, base.model("diffusion_models", "other.safetensors"), seed=6)
    (model,) = comfy.call("VideoCrafterUNETLoader", unet_name="other.safetensors", weight_dtype="fp32").values
    return model


def test_merged_models_lie_between(comfy, text_model, other, plain):
    for ratio, equals in ((1.0, plain), (0.0, sampled(text_model, other))):
        (merged,) = comfy.call("ModelMergeSimple", model1=text_model.model, model2=other, ratio=ratio).values
        assert relative(sampled(text_model, merged), equals) < 1e-4
    (merged,) = comfy.call("ModelMergeSimple", model1=text_model.model, model2=other, ratio=0.5).values
    assert relative(sampled(text_model, merged), plain) > 1e-3


def test_differences_of_models_add_up(comfy, text_model, other):
    (difference,) = comfy.call("ModelMergeSubtract", model1=other, model2=text_model.model, multiplier=1.0).values
    (whole,) = comfy.call("ModelMergeAdd", model1=text_model.model, model2=difference).values
    assert relative(sampled(text_model, whole), sampled(text_model, other)) < 1e-4


def test_models_merge_by_their_blocks(comfy, base, text_model, other):
    """The names of the blocks are those that the node knows; what is neither goes with the input."""
    ratios = {"input": 0.75, "middle": 0.5, "out": 0.0}
    (merged,) = comfy.call("ModelMergeBlocks", model1=text_model.model, model2=other, **ratios).values
    first, second = (small_models.state_dict(small_models.TEXT_MODEL, seed) for seed in (5, 6))
    prefix, tensors = "model.diffusion_model.", {}
    for name in first:
        if name.startswith(prefix):
            part = next((part for part in ratios if name.removeprefix(prefix).startswith(part)), "input")
            tensors[name] = torch.lerp(second[name], first[name], ratios[part])
    metadata = {METADATA_KEY: to_json(small_models.TEXT_MODEL)}
    save_file(tensors, base.model("diffusion_models", "by_hand.safetensors"), metadata)
    (by_hand,) = comfy.call("VideoCrafterUNETLoader", unet_name="by_hand.safetensors", weight_dtype="fp32").values
    assert relative(sampled(text_model, merged), sampled(text_model, by_hand)) < 1e-4


def test_hooks_put_a_lora_on_one_prompt(comfy, base, text_model):
    """Core's LoRA hooks on both prompts are the LoRA; on the positive one alone they are neither."""
    width = text_model.model.model.diffusion_model.get_submodule(LAYER).weight.shape
    generator = torch.Generator().manual_seed(3)
    up, down = pair("diffusion_model.", LAYER)
    tensors = {up: torch.randn(width[0], 2, generator=generator), down: torch.randn(2, width[1], generator=generator)}
    save_file(tensors, base.model("loras", "hooked.safetensors"))
    (hooks,) = comfy.call(
        "CreateHookLoraModelOnly", lora_name="hooked.safetensors", strength_model=1.0
    ).values  # fmt: skip
    positive, negative = (
        comfy.call("ConditioningSetProperties", cond_NEW=text_model.text(text), hooks=hooks, strength=1.0,
                   set_cond_area="default").values[0]
        for text in ("a red square", "")
    )  # fmt: skip
    (model,) = comfy.call(
        "LoraLoaderModelOnly", model=text_model.model, lora_name="hooked.safetensors", strength_model=1.0
    ).values
    everywhere = sampled(text_model, model)
    assert relative(sampled(text_model, positive=positive, negative=negative), everywhere) < 1e-4
    assert relative(sampled(text_model, positive=positive), everywhere) > 1e-3
    assert torch.equal(sampled(text_model), sampled(text_model)), "the hook stayed in the loaded model"


def pair(prefix, name):
    return f"{prefix}{name}.lora_up.weight", f"{prefix}{name}.lora_down.weight"


LORA_NAMES = {
    "published": lambda name: pair("diffusion_model.", name),
    "peft": lambda name: (f"diffusion_model.{name}.lora_B.weight", f"diffusion_model.{name}.lora_A.weight"),
    "kohya": lambda name: pair("lora_unet_", name.replace(".", "_")),
    "checkpoint": lambda name: pair("model.diffusion_model.", name),
    "bare": lambda name: pair("", name),
    "trainer": lambda name: (
        f"base_model.model.{name}.lora_B.default.weight",
        f"base_model.model.{name}.lora_A.default.weight",
    ),
}
BY_CORE = ("published", "peft", "kohya")
"""Those that core's loader knows; ours knows all."""


@pytest.mark.parametrize("naming", LORA_NAMES)
def test_loras_change_weights_by_up_times_down_in_every_naming(comfy, base, text_model, plain, naming):
    unet = text_model.model.model.diffusion_model
    tensors, changed = {}, text_model.model.clone()
    for index, name in enumerate((LAYER, TEMPORAL)):
        generator = torch.Generator().manual_seed(index)
        rows, columns = unet.get_submodule(name).weight.shape
        up, down = torch.randn(rows, 2, generator=generator), torch.randn(2, columns, generator=generator)
        tensors |= dict(zip(LORA_NAMES[naming](name), (up, down), strict=True))
        changed.add_patches({f"diffusion_model.{name}.weight": ("diff", (up @ down,))}, 0.5)
    save_file(tensors, base.model("loras", f"{naming}.safetensors"))
    expected = sampled(text_model, changed)
    assert relative(expected, plain) > 1e-3
    named = {"model": text_model.model, "lora_name": f"{naming}.safetensors"}
    loaders = [("VideoCrafterLoraLoader", "strength")]
    if naming in BY_CORE:
        loaders.append(("LoraLoaderModelOnly", "strength_model"))
    for node, strength in loaders:
        (model,) = comfy.call(node, **named, **{strength: 0.5}).values
        assert relative(sampled(text_model, model), expected) < 1e-4, node
        (model,) = comfy.call(node, **named, **{strength: 0.0}).values
        assert torch.equal(sampled(text_model, model), plain), node


def test_saved_vaes_load_again(comfy, base, boxed_model):
    """As VAESave writes them: of the published kind; of a narrower one the file does not say enough."""
    published = replace(small_models.TEXT_MODEL, autoencoder=AutoencoderSpec(channels=32, num_res_blocks=1))
    small_models.save(published, base.model("vae", "published.safetensors"), prefixes=("first_stage_model.",))
    (vae,) = comfy.call("VideoCrafterVAELoader", vae_name="published.safetensors").values

    def again(vae, name):
        comfy.call("VAESave", vae=vae, filename_prefix=name)
        (written,) = base.output.glob(f"{name}*")
        written.rename(base.model("vae", f"{name}.safetensors"))
        return comfy.call("VideoCrafterVAELoader", vae_name=f"{name}.safetensors").values[0]

    latents = {"samples": torch.randn(2, 4, 3, 2, generator=torch.Generator().manual_seed(4))}
    decoded = [comfy.call("VAEDecode", samples=latents, vae=each).values[0] for each in (again(vae, "kept"), vae)]
    assert relative(*decoded) < 1e-5
    with pytest.raises(UserError, match="own checkpoint"):
        again(boxed_model.vae, "narrow")


def test_a_narrow_model_without_its_metadata_is_refused_in_words(comfy, base, boxed_model):
    bare = load_file(bundled.TEXT)
    save_file(bare, base.model("checkpoints", "bare.safetensors"))
    with pytest.raises(UserError, match="in how many groups it normalises"):
        comfy.call("VideoCrafterCheckpointLoader", ckpt_name="bare.safetensors")


def test_a_lora_with_nan_is_refused_and_named(comfy, base, text_model):
    name = "input_blocks.0.0"
    rows, columns = text_model.model.model.diffusion_model.state_dict()[f"{name}.weight"].flatten(1).shape
    tensors = {
        f"{name}.lora_up.weight": torch.full((rows, 2), float("nan")),
        f"{name}.lora_down.weight": torch.zeros(2, columns),
    }
    save_file(tensors, base.model("loras", "nan.safetensors"))
    with pytest.raises(
        UserError, match=r"not a finite number \(the change of input_blocks\.0\.0 in .*nan\.safetensors"
    ):
        comfy.call("VideoCrafterLoraLoader", model=text_model.model, lora_name="nan.safetensors", strength=1.0)


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


def test_models_can_be_made_afresh_for_another_device(text_model, plain):
    """What ComfyUI asks of loaders for its split over several GPUs, and for weight hooks."""
    skip_without("passes on several GPUs")
    load, arguments = text_model.model.cached_patcher_init
    assert torch.equal(sampled(text_model, load(*arguments, disable_dynamic=True)), plain)
    copy = text_model.model.deepclone_multigpu()
    assert copy.model is not text_model.model.model
    assert torch.equal(sampled(text_model, copy), plain)
    for part in (text_model.clip, text_model.vae):
        load, arguments = part.patcher.cached_patcher_init
        assert type(load(*arguments)) is type(part.patcher)


def test_passes_of_guidance_are_split_over_devices(text_model, plain):
    """Core's MultiGPU split with the CPU as two devices: one pass each, in two threads, and the clip stays the same."""
    skip_without("passes on several GPUs")
    model = text_model.model.clone()
    second = model.deepclone_multigpu(new_load_device=torch.device("cpu", 1))
    second.is_multigpu_base_clone = True
    model.set_additional_models("multigpu", [second])
    model.match_multigpu_clones()
    networks = []

    def watch(apply, call):
        networks.append(apply.__self__)
        return apply(call["input"], call["timestep"], **call["c"])

    model.set_model_unet_function_wrapper(watch)
    assert relative(sampled(text_model, model), plain) < 1e-5
    assert {id(network) for network in networks} == {id(model.model), id(second.model)}
    assert len(networks) == 8
