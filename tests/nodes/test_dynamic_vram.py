"""Dynamic VRAM, ComfyUI's default on NVIDIA: weights stay in the file until their layer runs, and results are the same.

The other files of this folder run in both modes as well (`pytest tests/nodes --dynamic-vram`); here is what only this
mode has.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import small_models as small
import torch
from safetensors.torch import load_file, save_file

from comfyui.dynamic_vram import casts, poisoned

KINDS = ("text", "relative", "image", "continuing", "toon", "turbo")


@pytest.fixture(autouse=True)
def _only_with_dynamic_vram(dynamic_vram):
    if not dynamic_vram:
        pytest.skip("runs with --dynamic-vram")


@pytest.fixture
def picture():
    return torch.rand(2, 24, 16, 3, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def loaded(request, kind):
    return request.getfixturevalue(f"{kind}_model")


def conditions(loaded, kind, picture):
    """What this kind needs beside its defaults."""
    if kind == "image":
        positive, negative = loaded.picture(picture[:1])
        return {"positive": positive, "negative": negative}
    if kind in ("continuing", "toon"):
        positive, negative, _, latent = loaded.continued(picture[:1], end_image=picture[1:])
        return {"positive": positive, "negative": negative, "latent_image": latent}
    return {}


def slots_of(patcher):
    (slots,) = patcher.model.dynamic_vbars.values()
    return slots


@pytest.mark.parametrize("kind", KINDS)
def test_a_pass_reads_every_weight_through_its_slot_and_equals_the_plain_one(comfy, loaded, kind, picture):
    settings = conditions(loaded, kind, picture)
    unet = loaded.model.model.diffusion_model
    assert loaded.model.is_dynamic()
    before = casts(unet)
    first = loaded.sample(**settings)
    assert casts(unet) > before + 100
    with poisoned(unet) as weights:
        assert weights > 50
        assert torch.equal(loaded.sample(**settings), first)
    plain = loaded.model.clone(disable_dynamic=True)
    assert not plain.is_dynamic()
    assert torch.equal(loaded.sample(model=plain, **settings), first)


def test_memory_that_is_full_and_weights_that_were_evicted_change_nothing(text_model):
    first = text_model.sample()
    slots = slots_of(text_model.model)
    slots.free_memory(1)
    assert torch.equal(text_model.sample(), first)
    slots.full = True
    try:
        assert torch.equal(text_model.sample(), first)
    finally:
        slots.full = False


def test_prompts_are_read_through_slots(text_model):
    first = text_model.text("a red square")[0][0]
    tower = text_model.clip.cond_stage_model
    with poisoned(tower) as weights:
        assert weights > 10
        assert torch.equal(text_model.text("a red square")[0][0], first)


@pytest.mark.parametrize("kind", ["text", "toon"])
@pytest.mark.parametrize("tiled", [False, True])
def test_frames_are_encoded_and_decoded_through_slots(comfy, loaded, kind, picture, tiled):
    vae = loaded.vae
    name, options = ("Tiled", {"tile_size": 64, "overlap": 16}) if tiled else ("", {})

    def both():
        latent = comfy.call(f"VAEEncode{name}", pixels=picture, vae=vae, **options).values[0]
        decoded = [comfy.call(f"VAEDecode{name}", samples=latent, vae=vae, **options).values[0]]
        if kind == "toon" and not tiled:
            decoded += comfy.call("VideoCrafterDecode", samples=latent, vae=vae, references=picture).values
        return [latent["samples"], *decoded]

    first = both()
    with poisoned(vae.first_stage_model) as weights:
        assert weights > 10
        assert all(torch.equal(now, then) for now, then in zip(both(), first, strict=True))


def test_pictures_are_read_through_slots(comfy, base, image_model, picture):
    wide = replace(small.IMAGE_MODEL.image_tokens, dim=128)  # ComfyUI gives no slot to layers of less than 16 KiB
    small.save(replace(small.IMAGE_MODEL, image_tokens=wide), base.model("checkpoints", "wide_tokens.safetensors"))
    loaded = type(image_model)(comfy, "wide_tokens.safetensors", weight_dtype="fp32")
    first = loaded.picture(picture[:1])[0][0]
    tokens = loaded.model.model.image_tokens.module
    with poisoned(loaded.clip_vision.model) as seen, poisoned(tokens) as made:
        assert seen > 10
        assert made > 4
        again = loaded.picture(picture[:1])[0][0]
    shown = [value for value in first[1].values() if isinstance(value, torch.Tensor)]
    assert shown
    for key, value in first[1].items():
        assert not isinstance(value, torch.Tensor) or torch.equal(again[1][key], value)


@pytest.fixture(scope="module")
def half(comfy, base, checkpoints):
    """A model whose file is in fp16."""
    tensors = load_file(base.model("checkpoints", checkpoints["image"]))
    name = "half.safetensors"
    small.save(small.IMAGE_MODEL, base.model("checkpoints", name))
    metadata = {small.METADATA_KEY: small.to_json(small.IMAGE_MODEL)}
    save_file(
        {key: value.half() if value.is_floating_point() else value for key, value in tensors.items()},
        base.model("checkpoints", name),
        metadata,
    )
    return name


@pytest.mark.parametrize("weight_dtype", ["default", "fp32", "bf16"])
def test_weights_stay_in_the_file_and_in_its_type(comfy, half, weight_dtype, text_model):
    loaded = type(text_model)(comfy, half, weight_dtype=weight_dtype)
    tower = loaded.clip.cond_stage_model
    modules = [loaded.model.model.diffusion_model, loaded.vae.first_stage_model]
    for module in (*modules, tower, loaded.clip_vision.model, loaded.model.model.image_tokens.module):
        values = [value for value in module.state_dict().values() if value.ndim > 1]
        assert values
        assert {value.dtype for value in values if value.is_floating_point()} == {torch.float16}
    for module in modules:
        for name, value in module.state_dict().items():
            place = getattr(value.untyped_storage(), "_comfy_tensor_file_slice", None)
            assert place is not None, name
            assert place.file_ref.name.endswith(half)
    if weight_dtype != "default":
        wanted = {"fp32": torch.float32, "bf16": torch.bfloat16}[weight_dtype]
        assert loaded.model.model.diffusion_model.time_embed[0].weight_comfy_model_dtype == wanted
        assert loaded.vae.vae_dtype == wanted


# The file's values are exact in fp16. ComfyUI keeps layers of less than 16 KiB in the type of the file, so they are
# more exact than where all are rounded to bf16 or fp8.
@pytest.mark.parametrize(("weight_dtype", "bound"), [("fp16", 0.0), ("bf16", 0.02), ("fp8_e4m3fn", 0.2)])
def test_weights_cast_when_their_layer_runs_equal_those_cast_when_loaded(
    comfy, checkpoints, text_model, weight_dtype, bound
):
    loaded = type(text_model)(comfy, checkpoints["text"], weight_dtype=weight_dtype)
    plain = loaded.model.clone(disable_dynamic=True)
    assert plain.model.diffusion_model.time_embed[0].weight.dtype != torch.float32
    expected = loaded.sample(model=plain)
    assert float((loaded.sample() - expected).norm() / expected.norm()) <= bound


@pytest.mark.parametrize("cached", [False, True])
def test_blocks_are_fetched_in_their_order(comfy, text_model, monkeypatch, cached):
    """As on a GPU that copies beside computing: each block's weights come before the block, all are released."""
    from comfy import model_management, model_prefetch

    model = text_model.model
    if cached:
        (model,) = comfy.call("VideoCrafterStepCache", model=model, quality="fast").values
    settings = {"model": model, "steps": 20, "eta": 0.0}
    expected = text_model.sample(**settings)
    slots_of(text_model.model).free_memory(1)
    unet = model.model.diffusion_model
    names = {module: name for name, module in unet.named_modules()}
    popped = []
    pop = model_prefetch.prefetch_queue_pop

    def watch(queue, device, module, *more):
        popped.append("end" if module is None else names[module])
        return pop(queue, device, module, *more)

    monkeypatch.setattr(model_prefetch, "prefetch_queue_pop", watch)
    monkeypatch.setattr(model_management, "NUM_STREAMS", 1)
    monkeypatch.setattr(model_management, "is_device_cpu", lambda device: False)
    monkeypatch.setattr(model_management, "device_supports_non_blocking", lambda device: True)
    monkeypatch.setattr(model_management, "get_offload_stream", lambda device: None)
    monkeypatch.setattr(model_management, "ensure_pin_registerable", lambda size: None)
    assert torch.equal(text_model.sample(**settings), expected)

    ends = [index for index, name in enumerate(popped) if name == "end"]
    passes = [popped[begin:end] for begin, end in zip([0, *(index + 1 for index in ends)], ends, strict=False)]
    whole = [*(f"input_blocks.{i}" for i in range(len(unet.input_blocks))), "middle_block"]
    whole += [f"output_blocks.{i}" for i in range(len(unet.output_blocks))]
    assert passes[0] == whole
    assert (min(len(blocks) for blocks in passes) < len(whole)) == cached
    assert not any(hasattr(module, "_prefetch") for module in unet.modules())


def handed_out(comfy, loaded, base):
    """Node -> a MODEL that it gives."""
    model = loaded.model
    torch.save(small.turbo_list(small.TEXT_MODEL.unet), base.model("loras", "dynamic_turbo.pt"))
    calls = {
        "VideoCrafterLoraLoader": {"lora_name": "dynamic_turbo.pt"},
        "VideoCrafterStepCache": {"quality": "high"},
        "VideoCrafterGuidanceCache": {"quality": "high"},
        "VideoCrafterFreeNoise": {},
        "VideoCrafterContextWindows": {},
    }
    return {name: comfy.call(name, model=model, **options).values[0] for name, options in calls.items()}


def test_every_model_can_be_made_plain_and_made_again(comfy, base, text_model):
    """What ComfyUI asks for hooks, compiling and several GPUs."""
    for name, model in handed_out(comfy, text_model, base).items():
        expected = text_model.sample(model=model)
        plain = model.clone(disable_dynamic=True)
        assert not plain.is_dynamic(), name
        assert torch.equal(text_model.sample(model=plain), expected), name
        copy = model.deepclone_multigpu()
        assert copy.model is not model.model, name
        assert torch.equal(text_model.sample(model=copy), expected), name


def test_clip_and_vae_can_be_made_plain(text_model):
    clip = text_model.clip.clone(disable_dynamic=True)
    assert not clip.patcher.is_dynamic()
    text = clip.encode_from_tokens_scheduled(clip.tokenize("a red square"))
    assert torch.equal(text[0][0], text_model.text("a red square")[0][0])
    assert not text_model.vae.patcher.clone(disable_dynamic=True).is_dynamic()


def test_a_damaged_file_is_refused_although_layers_have_no_weights_yet(comfy, base, checkpoints):
    tensors = load_file(base.model("checkpoints", checkpoints["image"]))
    metadata = {small.METADATA_KEY: small.to_json(small.IMAGE_MODEL)}
    for part, says in {
        "model.diffusion_model.time_embed.0.weight": "video UNet",
        "first_stage_model.decoder.conv_in.weight": "autoencoder",
        "image_proj_model.proj_in.weight": "do not fit",
        "cond_stage_model.model.transformer.resblocks.0.ln_1.weight": "text encoder",
        "embedder.model.visual.transformer.resblocks.0.ln_1.weight": "image encoder",
    }.items():
        broken = {**tensors, part: tensors[part][:-1].clone()}
        save_file(broken, base.model("checkpoints", "broken.safetensors"), metadata)
        with pytest.raises(ValueError, match=says):
            comfy.call("VideoCrafterCheckpointLoader", ckpt_name="broken.safetensors")


def test_a_number_too_large_for_the_type_is_refused_when_loading(comfy, base, checkpoints):
    tensors = load_file(base.model("checkpoints", checkpoints["text"]))
    name = "model.diffusion_model.time_embed.0.weight"
    tensors[name] = tensors[name].clone()
    tensors[name][0, 0] = 1e6
    save_file(
        tensors, base.model("checkpoints", "large.safetensors"), {small.METADATA_KEY: small.to_json(small.TEXT_MODEL)}
    )
    comfy.call("VideoCrafterCheckpointLoader", ckpt_name="large.safetensors", weight_dtype="fp32")
    with pytest.raises(ValueError, match=r"time_embed\.0\.weight"):
        comfy.call("VideoCrafterCheckpointLoader", ckpt_name="large.safetensors", weight_dtype="fp16")
