"""The nodes themselves: what they show while they run, how they stop, and what they take."""

from __future__ import annotations

import logging

import pytest
import small_models
import torch

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
    monkeypatch.setattr(files, "BUNDLED", tmp_path)
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
    assert files.resolve("loras", name) == files.BUNDLED / name
    assert not base.model("loras", name).exists()


def test_boxed_weights_of_a_control_are_listed_with_that_control_alone(comfy, base):
    files = comfy.module("nodes.host.files")
    name = "videocrafter_small_camera.safetensors"
    assert name in files.choices("checkpoints", "motionctrl")
    assert name not in files.choices("checkpoints", "cami2v")
    assert name not in files.choices("checkpoints")
    assert files.resolve("checkpoints", name, "motionctrl") == files.BUNDLED / name
    assert not base.model("checkpoints", name).exists()
    node = comfy.classes["VideoCrafterMotionCtrlControl"]
    assert name in node.define_schema().inputs[1].options
    assert name in node.fingerprint_inputs(file=name)


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
    conditioning = {}
    if kind == "image":
        conditioning = dict(zip(("positive", "negative"), whole.picture(torch.rand(1, 20, 30, 3)), strict=True))
    both = whole.sample(unet, **conditioning), whole.sample(**conditioning)
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
        assert torch.equal(*(conditioning["videocrafter_image_tokens"] for conditioning in tokens))


# --- prompts and pictures ---------------------------------------------------------------------------------------------


def test_a_prompt_that_a_bundled_model_does_not_know_is_logged(boxed_model, text_model, caplog):
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
