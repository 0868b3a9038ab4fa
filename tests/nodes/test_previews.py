"""Previews: the colours are those of the decoded clip, and its frames follow each other in every sampler node."""

from __future__ import annotations

import numpy as np
import pytest
import small_models as small
import torch
from PIL import Image

from comfyui.limits import skip_without
from vc_core.specs import ModelSpec

STEPS = 4
COLOURS = {"red": (0.9, 0.1, 0.1), "green": (0.1, 0.7, 0.15), "blue": (0.15, 0.3, 0.95), "white": (0.97, 0.97, 0.97)}


@pytest.fixture(autouse=True)
def switched_on(comfy, monkeypatch):
    """Previews of every frame, as a quick machine has them with --preview-method auto."""
    from comfy.cli_args import LatentPreviewMethod, args

    monkeypatch.setattr(args, "preview_method", LatentPreviewMethod.Auto)
    previews = comfy.module("nodes.host.previews")
    monkeypatch.setattr(previews, "SECONDS", 0.0)
    monkeypatch.setattr(previews, "REST", 0)


@pytest.fixture(scope="module")
def conditioned(text_model):
    return {"positive": text_model.text("a red square"), "negative": text_model.text("")}


def pictures(seen):
    return [np.asarray(picture) for _, picture, _ in seen.previews]


def core(comfy, model, conditioned, latent, **options):
    """A run of ComfyUI's own KSampler."""
    settings = {"seed": 1, "steps": STEPS, "cfg": 3.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    given = {**settings, "model": model, "latent_image": latent, **conditioned, **options}
    return comfy.call("KSampler", **given).values[0]["samples"]


def test_progress_and_previews_of_the_clip(comfy, text_model):
    skip_without("previews of the small models")
    with comfy.progress() as seen:
        text_model.sample(steps=STEPS)
    assert [step for step in dict.fromkeys(seen.steps) if step[0]] == [(n, STEPS) for n in range(1, STEPS + 1)]
    assert all(isinstance(picture, Image.Image) for _, picture, _ in seen.previews)
    assert len({picture.tobytes() for picture in pictures(seen)}) > 4, "the preview shows one frame of the clip only"


def test_the_preview_is_the_decoded_clip(comfy, text_model):
    skip_without("previews of the small models")
    with comfy.progress() as seen:
        latent = text_model.latent(frames=1)
        made = text_model.sample(steps=STEPS, latent_image=latent, sampler_name="euler", scheduler="normal")
    (decoded,) = comfy.call("VideoCrafterDecode", samples={"samples": made}, vae=text_model.vae).values
    assert np.allclose(pictures(seen)[-1], decoded[0].numpy() * 255, atol=1.01), "one level is lost to rounding down"


@pytest.mark.parametrize("name", COLOURS)
def test_colours_of_the_boxed_model(comfy, name):
    skip_without("previews of the small models")
    import latent_preview

    model, _, vae, _ = comfy.call("VideoCrafterCheckpointLoader", ckpt_name="videocrafter_small_t2v.safetensors").values
    frame = torch.full((1, 64, 64, 3), 0.05)
    frame[:, 16:48, 16:48] = torch.tensor(COLOURS[name])
    latents = model.model.process_latent_in(vae.encode(frame))
    previewer = latent_preview.get_previewer(torch.device("cpu"), model.model.latent_format)
    shown = np.asarray(previewer.decode_latent_to_preview(latents)) / 255
    decoded = vae.decode(model.model.process_latent_out(latents))[0].float().cpu().numpy()
    assert shown.shape == decoded.shape == (64, 64, 3)
    assert np.abs(shown - decoded).max() < 0.02
    middle = shown[20:44, 20:44].mean((0, 1))
    assert np.abs(middle - COLOURS[name]).max() < 0.2, "the square has its colour"


def test_published_autoencoders_have_the_colours_of_stable_diffusion(comfy):
    from comfy.latent_formats import SD15

    class Opened:
        spec = ModelSpec(name="as_published")

    latent_format = comfy.module("nodes.host.latents").latent_format(Opened)
    assert type(latent_format) is SD15
    assert (latent_format.latent_rgb_factors, latent_format.scale_factor) == (
        SD15().latent_rgb_factors,
        SD15().scale_factor,
    )


def test_core_samplers_show_every_frame(comfy, text_model, conditioned):
    skip_without("previews of the small models")
    latent = text_model.latent(frames=4)
    with comfy.progress() as seen:
        core(comfy, text_model.model, conditioned, latent)
    shown = pictures(seen)
    assert len(shown) > 2 * STEPS
    last = [picture.tobytes() for picture in shown[-8:]]
    assert len(set(last)) >= 3, "the preview stands still"


def test_previews_do_not_change_the_clip(comfy, text_model, conditioned, monkeypatch):
    from comfy.cli_args import LatentPreviewMethod, args

    latent = text_model.latent()
    watched = core(comfy, text_model.model, conditioned, latent)
    monkeypatch.setattr(args, "preview_method", LatentPreviewMethod.NoPreviews)
    with comfy.progress() as seen:
        assert torch.equal(core(comfy, text_model.model, conditioned, latent), watched)
    assert not seen.previews
    reported = [step for step in dict.fromkeys(seen.steps) if step[0]]
    assert reported[-1] == (STEPS, STEPS)  # ComfyUI leaves out reports that follow each other closely
    assert reported == sorted(reported)


def test_a_file_without_its_autoencoder_shows_no_wrong_colours(comfy, base, text_model):
    small.save(
        small.TEXT_MODEL, base.model("diffusion_models", "blind.safetensors"), prefixes=("model.diffusion_model.",)
    )
    (model,) = comfy.call("VideoCrafterUNETLoader", unet_name="blind.safetensors").values
    with comfy.progress() as seen:
        text_model.sample(model, steps=STEPS)
    assert seen.steps
    assert not seen.previews
