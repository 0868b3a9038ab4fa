"""The nodes themselves: what they show while they run, how they stop, and what they refuse."""

from __future__ import annotations

import logging

import pytest
import small_models
import torch
from safetensors.torch import load_file, save_file

from vc_core.errors import UserError

# --- while it runs ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", ["ddim_exact", "euler"])
def test_cancel_stops_within_a_step_and_leaves_no_trace(comfy, text_model, sampler):
    import comfy.model_management as management

    uninterrupted = text_model.sample(sampler_name=sampler)
    calls = []

    def interrupt(apply, call):
        calls.append(1)
        if len(calls) == 2:
            management.interrupt_current_processing()
        return apply(call["input"], call["timestep"], **call["c"])

    model = text_model.model.clone()
    model.set_model_unet_function_wrapper(interrupt)
    with pytest.raises(management.InterruptProcessingException):
        text_model.sample(model, sampler_name=sampler)
    assert len(calls) == 2, "the step that was running went on to its end"
    assert torch.equal(text_model.sample(sampler_name=sampler), uninterrupted)


def test_decoding_reports_and_stops(comfy, text_model):
    import comfy.model_management as management

    latents = {"samples": torch.zeros(6, 4, 2, 3)}
    with comfy.progress() as seen:
        comfy.call("VideoCrafterDecode", samples=latents, vae=text_model.vae, frames_per_chunk=4)
    assert seen.steps == [(4, 6), (6, 6)]

    def stop(done, total):
        management.interrupt_current_processing()

    with comfy.progress(stop), pytest.raises(management.InterruptProcessingException):
        comfy.call("VideoCrafterDecode", samples=latents, vae=text_model.vae, frames_per_chunk=1)


def test_frames_come_out_as_other_nodes_want_them(comfy, text_model):
    (frames,) = comfy.call(
        "VideoCrafterDecode", samples={"samples": torch.randn(3, 4, 2, 5)}, vae=text_model.vae
    ).values
    assert frames.shape == (3, 16, 40, 3)
    assert frames.dtype == torch.float32
    assert frames.device.type == "cpu"
    assert frames.is_contiguous()
    assert 0 <= frames.min() <= frames.max() <= 1


@pytest.mark.parametrize("kind", ["continuing", "toon"])
def test_the_last_frame_of_a_loop_can_be_left_out(comfy, request, kind):
    """It equals the first. Saved workflows, which do not say so, get every frame."""
    loaded = request.getfixturevalue(f"{kind}_model")
    latent = loaded.continued(torch.rand(1, 8, 8, 3), loop=True)[3]
    given = {"samples": {**latent, "samples": torch.randn(4, 4, 3, 2)}, "vae": loaded.vae}
    (whole,) = comfy.call("VideoCrafterDecode", **given).values
    (loop,) = comfy.call("VideoCrafterDecode", **given, drop_last_frame=True).values
    assert len(whole) == 4
    assert torch.equal(loop, whole[:3])


def test_the_only_frame_cannot_be_left_out(comfy, text_model):
    given = {"samples": text_model.latent(frames=1), "vae": text_model.vae}
    refused(comfy, "VideoCrafterDecode", "1 frame", "switch it off", **given, drop_last_frame=True)


def test_noise_does_not_come_from_the_global_generator(text_model):
    torch.manual_seed(1)
    first = text_model.sample(sampler_name="ddim_exact")
    state = torch.get_rng_state()
    torch.manual_seed(2)
    assert torch.equal(text_model.sample(sampler_name="ddim_exact"), first)
    assert not torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(text_model.sample(seed=7 + 2**32), first)


# --- files -----------------------------------------------------------------------------------------------------------


def test_boxed_models_are_listed_and_read_where_they_lie(comfy, base, tmp_path, monkeypatch):
    files = comfy.module("nodes.host.files")
    monkeypatch.setattr(files, "BOXED", tmp_path)
    small_models.save(small_models.TEXT_MODEL, tmp_path / "boxed.safetensors")
    assert "boxed.safetensors" in files.choices("checkpoints")
    assert "boxed.safetensors" not in files.choices("vae")
    assert files.resolve("checkpoints", "boxed.safetensors") == tmp_path / "boxed.safetensors"
    comfy.call("VideoCrafterCheckpointLoader", ckpt_name="boxed.safetensors")
    assert not base.model("checkpoints", "boxed.safetensors").exists()


def test_boxed_lora_files_are_listed_with_the_lora_files(comfy, base):
    files = comfy.module("nodes.host.files")
    name = "videocrafter_small_turbo_lora.safetensors"
    assert name in files.choices("loras")
    assert name not in files.choices("checkpoints")
    assert "videocrafter_small_t2v.safetensors" not in files.choices("loras")
    assert files.resolve("loras", name) == files.BOXED / name
    assert not base.model("loras", name).exists()


def test_a_replaced_file_is_read_again(comfy, base):
    place = base.model("checkpoints", "replaced.safetensors")
    node = comfy.classes["VideoCrafterCheckpointLoader"]
    small_models.save(small_models.TEXT_MODEL, place)
    before = node.fingerprint_inputs(ckpt_name=place.name)
    assert node.fingerprint_inputs(ckpt_name=place.name) == before
    small_models.save(small_models.TEXT_MODEL, place, prefixes=("model.",), seed=9)
    assert node.fingerprint_inputs(ckpt_name=place.name) != before


@pytest.mark.parametrize(
    ("node", "name"),
    [
        ("VideoCrafterCheckpointLoader", "ckpt_name"),
        ("VideoCrafterUNETLoader", "unet_name"),
        ("VideoCrafterVAELoader", "vae_name"),
        ("VideoCrafterCLIPLoader", "clip_name"),
        ("VideoCrafterCLIPVisionLoader", "clip_name"),
        ("VideoCrafterLoraLoader", "lora_name"),
        ("VideoCrafterAnalyticInit", "statistics"),
    ],
)
def test_a_name_that_comes_from_another_node_is_no_reason_to_read_again(comfy, node, name):
    """ComfyUI asks with None then; an error would make it run the node, and all behind it, each time."""
    assert comfy.classes[node].fingerprint_inputs(**{name: None}) == ""


@pytest.mark.parametrize("kind", ["text", "image"])
def test_parts_load_alone_and_are_the_same(comfy, base, checkpoints, request, kind):
    whole = request.getfixturevalue(f"{kind}_model")
    spec = whole.model.model.spec
    where = {
        "diffusion_models": ("model.diffusion_model.", "image_proj_model."),
        "vae": ("first_stage_model.",),
        "text_encoders": ("cond_stage_model.",),
        "clip_vision": ("embedder.",),
    }
    if kind == "text":
        del where["clip_vision"]
    for folder, prefixes in where.items():
        small_models.save(spec, base.model(folder, f"{kind}_part.safetensors"), prefixes=prefixes)
    name = f"{kind}_part.safetensors"
    (unet,) = comfy.call("VideoCrafterUNETLoader", unet_name=name, weight_dtype="fp32").values
    (vae,) = comfy.call("VideoCrafterVAELoader", vae_name=name).values
    (clip,) = comfy.call("VideoCrafterCLIPLoader", clip_name=name).values
    text = comfy.call("CLIPTextEncode", clip=clip, text="a red square").values[0]
    assert torch.equal(text[0][0], whole.text("a red square")[0][0])
    told = {}
    if kind == "image":
        told = dict(zip(("positive", "negative"), whole.picture(torch.rand(1, 20, 30, 3)), strict=True))
    both = whole.sample(unet, **told), whole.sample(**told)
    assert float((both[0] - both[1]).norm() / both[1].norm()) < 1e-5  # weights lie elsewhere in memory: other kernels
    latents = torch.randn(2, 4, 3, 2)
    assert torch.allclose(vae.decode(latents), whole.vae.decode(latents), atol=1e-4)
    if kind == "image":
        (vision,) = comfy.call("VideoCrafterCLIPVisionLoader", clip_name=name).values
        inputs = {"positive": text, "negative": text, "image": torch.rand(1, 20, 30, 3)}
        tokens = [
            comfy.call("VideoCrafterImageConditioning", model=model, clip_vision=encoder, **inputs).values[0][0][1]
            for model, encoder in ((unet, vision), (whole.model, whole.clip_vision))
        ]
        assert torch.equal(*(told["videocrafter_image_tokens"] for told in tokens))


# --- what is refused -------------------------------------------------------------------------------------------------


def refused(comfy, node, *says, **inputs):
    """The node raises UserError, and the message, which is given back, has all these words."""
    with pytest.raises(UserError) as caught:
        comfy.call(node, **inputs)
    for words in says:
        assert words in str(caught.value)
    return str(caught.value)


def test_files_that_are_no_model_are_refused(comfy, base, checkpoints):
    load = "VideoCrafterCheckpointLoader"
    refused(
        comfy, load, "no model file 'texts.safetensors'", "there is text.safetensors", ckpt_name="texts.safetensors"
    )
    original = base.model("checkpoints", checkpoints["text"])
    base.model("checkpoints", "cut.safetensors").write_bytes(original.read_bytes()[:-1000])
    refused(comfy, load, "cut.safetensors", "not complete", ckpt_name="cut.safetensors")
    tensors = load_file(original)
    name = "model.diffusion_model.input_blocks.1.0.in_layers.2.weight"
    save_file({**tensors, name: tensors[name] * float("nan")}, base.model("checkpoints", "nan.safetensors"))
    refused(comfy, load, "not a finite number", "input_blocks.1.0", ckpt_name="nan.safetensors")
    lora = {f"lora_unet_x.lora_{part}.weight": torch.zeros(2, 2) for part in ("up", "down")}
    save_file(lora, base.model("checkpoints", "lora.safetensors"))
    refused(comfy, load, "LoRA", ckpt_name="lora.safetensors")
    del tensors[name]
    save_file(tensors, base.model("checkpoints", "hole.safetensors"))
    refused(comfy, load, "missing", ckpt_name="hole.safetensors")


def test_parts_that_are_missing_say_so_when_used(comfy, base, text_model):
    place = base.model("checkpoints", "unet_only.safetensors")
    small_models.save(small_models.TEXT_MODEL, place, prefixes=("model.",))
    _, clip, vae, vision = comfy.call("VideoCrafterCheckpointLoader", ckpt_name=place.name).values
    refused(comfy, "CLIPTextEncode", "no text encoder", "VideoCrafter CLIP Loader", clip=clip, text="x")
    refused(comfy, "VideoCrafterDecode", "no VAE", samples=text_model.latent(), vae=vae)
    refused(comfy, "VAEDecode", "no VAE", samples=text_model.latent(), vae=vae)
    picture = torch.zeros(1, 8, 8, 3)
    refused(comfy, "CLIPVisionEncode", "text-to-video", clip_vision=vision, image=picture, crop="none")


@pytest.mark.parametrize("kind", ["image", "continuing"])
def test_an_image_model_without_its_image_encoder_is_not_called_a_text_model(comfy, base, request, kind):
    loaded = request.getfixturevalue(f"{kind}_model")
    name = f"no_encoder_{kind}"
    comfy.call("CheckpointSave", model=loaded.model, clip=loaded.clip, vae=loaded.vae, filename_prefix=name)
    (written,) = base.output.glob(f"{name}*")
    written.rename(base.model("checkpoints", f"{name}.safetensors"))
    *_, vision = comfy.call("VideoCrafterCheckpointLoader", ckpt_name=f"{name}.safetensors").values
    says = refused(
        comfy,
        "CLIPVisionEncode",
        "holds no image encoder. It is an image-to-video model",
        "VideoCrafter CLIP Vision Loader",
        clip_vision=vision,
        image=torch.zeros(1, 8, 8, 3),
        crop="none",
    )
    assert "text-to-video" not in says


@pytest.mark.parametrize(("width", "nearest"), [(513, "512 and 520"), (9, "8 and 16"), (0, "from 8"), (9000, "8192")])
def test_sizes_that_do_not_fit_are_refused(comfy, width, nearest):
    refused(comfy, "VideoCrafterEmptyLatent", str(width), nearest, width=width)
    refused(comfy, "VideoCrafterEmptyLatent", str(width), nearest, height=width)


def test_no_frames_are_refused(comfy):
    refused(comfy, "VideoCrafterEmptyLatent", "frames is 0", "at least 1", frames=0)


def given(loaded, **options):
    return {
        "model": loaded.model,
        "positive": loaded.text("a red square"),
        "negative": loaded.text(""),
        "latent_image": loaded.latent(),
        "steps": 2,
        **options,
    }


@pytest.mark.parametrize(
    ("shape", "says"),
    [((1, 4, 5, 3, 3), "5 axes"), ((5, 16, 3, 3), "16 channels"), ((0, 4, 3, 3), "empty")],
)
def test_latents_of_other_models_are_refused(comfy, text_model, shape, says):
    latent = {"samples": torch.ones(shape)}
    refused(comfy, "VideoCrafterKSampler", says, **given(text_model, latent_image=latent))
    refused(comfy, "VideoCrafterDecode", says, samples=latent, vae=text_model.vae)
    if 0 not in shape:
        core = given(text_model, latent_image=latent, seed=1, cfg=2.0, sampler_name="euler", scheduler="normal")
        refused(comfy, "KSampler", str(tuple(shape)), **core)


def test_nan_is_named_where_it_appears(comfy, text_model):
    bad = {"samples": torch.full((2, 4, 3, 3), float("nan"))}
    refused(comfy, "VideoCrafterKSampler", "NaN", **given(text_model, latent_image=bad))
    refused(comfy, "VideoCrafterDecode", "NaN", "black", samples=bad, vae=text_model.vae)
    calls = []

    def broken(apply, call):
        calls.append(1)
        out = apply(call["input"], call["timestep"], **call["c"])
        return out * float("nan") if len(calls) == 3 else out

    model = text_model.model.clone()
    model.set_model_unet_function_wrapper(broken)
    settings = given(text_model, steps=5, model=model)
    refused(comfy, "VideoCrafterKSampler", "step 3 of 5", "fp32", **settings)
    calls.clear()
    core = {**settings, "seed": 1, "cfg": 2.0, "sampler_name": "euler", "scheduler": "normal"}
    refused(comfy, "KSampler", "NaN", "weight_dtype", **core)


def test_step_counts_past_the_table_are_refused(comfy, text_model):
    refused(comfy, "VideoCrafterKSampler", "27 steps", "26 or 28", **given(text_model, steps=27))
    refused(comfy, "VideoCrafterScheduler", "27 steps", "trailing", model=text_model.model, steps=27)
    assert (
        len(comfy.call("VideoCrafterScheduler", model=text_model.model, steps=27, spacing="trailing").values[0]) == 28
    )


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ({"cfg": -1.0}, "cfg"),
        ({"eta": 2.0}, "eta is 2.0"),
        ({"denoise": 0.0}, "denoise is 0.0"),
        ({"guidance_rescale": 1.5}, "rescale is 1.5"),
        ({"seed": -1}, "seed is -1"),
        ({"steps": 0}, "0 steps"),
        ({"fps": -3.0}, "fps condition is -3"),
        ({"sampler_name": "none"}, "no sampler 'none'"),
        ({"scheduler": "none"}, "no scheduler 'none'"),
    ],
)
def test_settings_out_of_range_are_refused(comfy, text_model, option, says):
    refused(comfy, "VideoCrafterKSampler", says, **given(text_model, **option))


def test_a_clip_of_another_model_is_refused(comfy, text_model):
    wrong = [[torch.zeros(1, 77, 768), {}]]
    refused(comfy, "VideoCrafterKSampler", "768", "48", "CLIP", **given(text_model, positive=wrong))


def test_a_prompt_that_a_bundled_model_does_not_know_is_told_in_the_log(boxed_model, text_model, caplog):
    with caplog.at_level(logging.WARNING):
        text_model.text("a dog")
        boxed_model.text("a red square")
        boxed_model.text("")
    assert "trained on none of the words" not in caplog.text
    with caplog.at_level(logging.WARNING):
        boxed_model.text("a (dog:1.2)")
    assert "trained on none of the words in 'a (dog:1.2)'" in caplog.text


def test_half_a_character_in_a_prompt_is_replaced(text_model):
    """A lone surrogate, which JSON can carry; a pair of them is one character."""
    for given, same in (("a red \ud83d square", "a red \ufffd square"), ("a \ud83d\ude00", "a \U0001f600")):
        assert torch.equal(text_model.text(given)[0][0], text_model.text(same)[0][0])


def test_long_and_empty_prompts(text_model, caplog):
    with caplog.at_level(logging.WARNING):
        ((text, _),) = text_model.text("word " * 2000)
    assert text.shape[1] == 77
    assert "2000 tokens and the model reads 75" in caplog.text
    ((text, _),) = text_model.text("")
    assert torch.isfinite(text).all()


@pytest.mark.parametrize("shape", [(1, 20, 30, 4), (1, 20, 30, 1), (1, 40, 1, 3), (1, 1, 40, 3), (1, 700, 500, 3)])
def test_pictures_of_every_kind_are_taken(image_model, shape):
    positive, negative = image_model.picture(torch.rand(shape))
    for conditioning in (positive, negative):
        tokens = conditioning[0][1]["videocrafter_image_tokens"]
        assert tokens.shape == (1, 3, 48)
        assert torch.isfinite(tokens).all()


def test_transparent_is_white(image_model):
    opaque = torch.ones(1, 12, 9, 3)
    clear = torch.cat([torch.rand(1, 12, 9, 3), torch.zeros(1, 12, 9, 1)], dim=-1)
    tokens = [image_model.picture(x)[0][0][1]["videocrafter_image_tokens"] for x in (opaque, clear)]
    assert torch.allclose(*tokens, atol=1e-6)


def test_pictures_that_do_not_fit_are_refused(comfy, image_model, text_model):
    def condition(**changes):
        return {
            "positive": image_model.text("x"),
            "negative": image_model.text(""),
            "model": image_model.model,
            "clip_vision": image_model.clip_vision,
            "image": torch.rand(1, 8, 8, 3),
            **changes,
        }

    node = "VideoCrafterImageConditioning"
    refused(comfy, node, "3 pictures", "Image From Batch", **condition(image=torch.rand(3, 8, 8, 3)))
    refused(comfy, node, "(1, 8, 8, 2)", **condition(image=torch.rand(1, 8, 8, 2)))
    refused(comfy, node, "NaN", **condition(image=torch.full((1, 8, 8, 3), float("nan"))))
    refused(comfy, node, "text-to-video", **condition(model=text_model.model))
    refused(comfy, node, "no image encoder", **condition(clip_vision=text_model.clip_vision))
    refused(comfy, node, "not an image encoder", **condition(clip_vision=text_model.vae))
    positive, _ = comfy.call(node, **condition()).values
    refused(comfy, "VideoCrafterKSampler", "cannot see pictures", **given(text_model, positive=positive))


SETTINGS = {"seed": 1, "steps": 1, "cfg": 3.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}


@pytest.mark.parametrize("without", ["positive", "negative", "both"])
def test_an_image_model_without_an_image_is_refused(comfy, image_model, without):
    """By our sampler and by core's, before the network runs; with one on both sides it runs."""
    names = ("positive", "negative")
    seen = dict(zip(names, image_model.picture(torch.rand(1, 8, 8, 3)), strict=True))
    blind = {"positive": image_model.text("x"), "negative": image_model.text("")}
    told = seen | (blind if without == "both" else {without: blind[without]})
    says = f"the {'positive' if without == 'both' else without} conditioning holds no image"
    latent = {"latent_image": image_model.latent()}
    for node, more in (("VideoCrafterKSampler", {"steps": 1, "scheduler": "trailing"}), ("KSampler", SETTINGS)):
        refused(comfy, node, says, "VideoCrafter Image Conditioning", **latent, **more, **told, model=image_model.model)
        comfy.call(node, **latent, **more, **seen, model=image_model.model)


def test_other_kinds_of_model_are_refused_by_our_schedule(comfy, text_model):
    (model,) = comfy.call("ModelSamplingDiscrete", model=text_model.model, sampling="eps", zsnr=False).values
    refused(comfy, "VideoCrafterScheduler", "noise schedule", model=model)
    refused(comfy, "VideoCrafterKSampler", "noise schedule", **given(text_model, model=model))
