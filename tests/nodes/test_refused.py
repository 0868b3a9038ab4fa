"""What the nodes refuse, before they begin, and what they say then."""

from __future__ import annotations

import pytest
import small_models
import torch
from safetensors.torch import load_file, save_file

from vc_core.errors import UserError


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


def test_the_only_frame_cannot_be_left_out(comfy, text_model):
    given = {"samples": text_model.latent(frames=1), "vae": text_model.vae}
    refused(comfy, "VideoCrafterDecode", "1 frame", "Turn drop_last_frame off", **given, drop_last_frame=True)


@pytest.mark.parametrize(
    ("width", "nearest"), [(513, "512 and 520"), (9, "8 and 16"), (0, "between 8"), (9000, "8192")]
)
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
    refused(comfy, node, "3 images", "Image From Batch", **condition(image=torch.rand(3, 8, 8, 3)))
    refused(comfy, node, "(1, 8, 8, 2)", **condition(image=torch.rand(1, 8, 8, 2)))
    refused(comfy, node, "NaN", **condition(image=torch.full((1, 8, 8, 3), float("nan"))))
    refused(comfy, node, "text-to-video", **condition(model=text_model.model))
    refused(comfy, node, "no image encoder", **condition(clip_vision=text_model.clip_vision))
    refused(comfy, node, "not an image encoder", **condition(clip_vision=text_model.vae))
    positive, _ = comfy.call(node, **condition()).values
    refused(comfy, "VideoCrafterKSampler", "does not read images", **given(text_model, positive=positive))


SETTINGS = {"seed": 1, "steps": 1, "cfg": 3.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}


@pytest.mark.parametrize("without", ["positive", "negative", "both"])
def test_an_image_model_without_an_image_is_refused(comfy, image_model, without):
    """By our sampler and by core's, before the network runs; with one on both sides it runs."""
    names = ("positive", "negative")
    seen = dict(zip(names, image_model.picture(torch.rand(1, 8, 8, 3)), strict=True))
    blind = {"positive": image_model.text("x"), "negative": image_model.text("")}
    conditionings = seen | (blind if without == "both" else {without: blind[without]})
    says = f"the {'positive' if without == 'both' else without} conditioning holds no image"
    latent = {"latent_image": image_model.latent()}
    for node, more in (("VideoCrafterKSampler", {"steps": 1, "scheduler": "trailing"}), ("KSampler", SETTINGS)):
        refused(
            comfy,
            node,
            says,
            "VideoCrafter Image Conditioning",
            **latent,
            **more,
            **conditionings,
            model=image_model.model,
        )
        comfy.call(node, **latent, **more, **seen, model=image_model.model)


def test_other_kinds_of_model_are_refused_by_our_schedule(comfy, text_model):
    (model,) = comfy.call("ModelSamplingDiscrete", model=text_model.model, sampling="eps", zsnr=False).values
    refused(comfy, "VideoCrafterScheduler", "noise schedule", model=model)
    refused(comfy, "VideoCrafterKSampler", "noise schedule", **given(text_model, model=model))


@pytest.mark.parametrize("missing", ["token_embedding", "position_embedding"])
def test_a_text_encoder_without_its_embeddings_is_refused(comfy, base, missing):
    """In the layout that is usual in ComfyUI."""
    names = {"encoder.layers.0.layer_norm1.weight": (8,), "embeddings.token_embedding.weight": (9, 8)}
    names["embeddings.position_embedding.weight"] = (7, 8)
    tensors = {f"text_model.{name}": torch.ones(shape) for name, shape in names.items() if missing not in name}
    save_file(tensors, base.model("text_encoders", f"{missing}.safetensors"))
    refused(comfy, "VideoCrafterCLIPLoader", "is a text encoder without", clip_name=f"{missing}.safetensors")
