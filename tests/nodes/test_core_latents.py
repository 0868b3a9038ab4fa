"""ComfyUI's latent, mask and VAE nodes on our clips: frames lie on the batch axis, and each is a picture to them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as functional

SAME = 1e-5


def relative(a, b):
    return float((a - b).norm() / b.norm())


def noise(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def call(loaded, node, **inputs):
    return loaded.comfy.call(node, **inputs).values[0]


def made(loaded, latent, sampler="euler", **given):
    settings = {"seed": 3, "steps": 3, "cfg": 1.0, "denoise": 1.0, "positive": loaded.text("a red square")}
    settings |= {"negative": loaded.text(""), "latent_image": latent, **given}
    if sampler == "ddim_exact":
        settings |= {"sampler_name": sampler, "scheduler": "uniform", "steps": 4}
        return call(loaded, "VideoCrafterKSampler", model=loaded.model, **settings)["samples"]
    return call(loaded, "KSampler", model=loaded.model, sampler_name=sampler, scheduler="normal", **settings)["samples"]


# --- VAE --------------------------------------------------------------------------------------------------------------


def test_a_single_tile_is_the_whole_image(text_model):
    frames = torch.rand(3, 64, 48, 3, generator=torch.Generator().manual_seed(2))
    settings = {"vae": text_model.vae, "tile_size": 512, "overlap": 64}
    encoded = call(text_model, "VAEEncode", pixels=frames, vae=text_model.vae)
    tiled = call(text_model, "VAEEncodeTiled", pixels=frames, **settings)
    assert tiled["samples"].shape == (3, 4, 8, 6)
    assert relative(tiled["samples"], encoded["samples"]) < SAME
    decoded = call(text_model, "VAEDecode", samples=encoded, vae=text_model.vae)
    again = call(text_model, "VAEDecodeTiled", samples=encoded, **settings)
    assert again.shape == decoded.shape == (3, 64, 48, 3)
    assert relative(again, decoded) < SAME


def test_tiles_fit_together(boxed_model):
    """Frames larger than a tile, of the world that the autoencoder has learnt: about the same, and in order."""
    frames = torch.full((2, 128, 160, 3), 0.35)
    frames[0, 20:60, 30:70] = torch.tensor([0.9, 0.1, 0.1])
    frames[1, 60:110, 80:140] = torch.tensor([0.1, 0.7, 0.2])
    settings = {"vae": boxed_model.vae, "tile_size": 64, "overlap": 16}
    encoded = call(boxed_model, "VAEEncode", pixels=frames, vae=boxed_model.vae)
    tiled = call(boxed_model, "VAEEncodeTiled", pixels=frames, **settings)
    decoded = call(boxed_model, "VAEDecode", samples=encoded, vae=boxed_model.vae)
    again = call(boxed_model, "VAEDecodeTiled", samples=encoded, **settings)
    back = call(boxed_model, "VAEDecode", samples=tiled, vae=boxed_model.vae)
    assert again.shape == back.shape == frames.shape
    for picture in (again, back):
        near, other = ((picture - wanted).abs().mean() for wanted in (decoded, decoded.flip(0)))
        assert near < 0.06
        assert near < other / 2


# --- latents ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["nearest-exact", "bilinear", "area", "bicubic", "bislerp"])
def test_latents_are_scaled_frame_by_frame(text_model, method):
    samples = noise(3, 4, 2, 2)
    (wide, twice) = (
        call(text_model, "LatentUpscale", samples={"samples": samples}, upscale_method=method, width=80, height=64),
        call(text_model, "LatentUpscaleBy", samples={"samples": samples}, upscale_method=method, scale_by=2.0),
    )
    assert wide["samples"].shape == (3, 4, 8, 10)
    assert twice["samples"].shape == (3, 4, 4, 4)
    alone = call(text_model, "LatentUpscaleBy", samples={"samples": samples[1:2]}, upscale_method=method, scale_by=2.0)
    assert relative(twice["samples"][1:2], alone["samples"]) < SAME


def test_a_clip_is_made_larger_in_a_second_pass(text_model):
    small = {"samples": made(text_model, text_model.latent(16, 16, 3))}
    large = call(text_model, "LatentUpscale", samples=small, upscale_method="bilinear", width=64, height=64)
    moved = [relative(made(text_model, large, steps=4, denoise=denoise), large["samples"]) for denoise in (0.25, 0.75)]
    assert 0 < moved[0] < moved[1]
    expected = functional.interpolate(small["samples"], size=(8, 8), mode="bilinear")
    assert relative(large["samples"], expected) < SAME


def test_clips_are_pasted_and_blended_frame_by_frame(text_model):
    below, above = noise(3, 4, 4, 4, seed=1), noise(3, 4, 2, 2, seed=2)
    out = call(
        text_model, "LatentComposite", samples_to={"samples": below}, samples_from={"samples": above}, x=8, y=16,
        feather=0,
    )["samples"]  # fmt: skip
    expected = below.clone()
    expected[:, :, 2:4, 1:3] = above
    assert torch.equal(out, expected)
    other = noise(3, 4, 4, 4, seed=3)
    mixed = call(
        text_model, "LatentBlend", samples1={"samples": below}, samples2={"samples": other}, blend_factor=0.25
    )["samples"]
    assert relative(mixed, 0.25 * below + 0.75 * other) < SAME
    assert relative(made(text_model, {"samples": mixed}, denoise=0.4), mixed) > 1e-3


def test_repeating_a_clip_makes_it_longer(text_model):
    """On the batch axis, as for pictures; to this model that is one clip of twice the length, and not two."""
    clip = text_model.latent(16, 16, 3)
    twice = call(text_model, "RepeatLatentBatch", samples=clip, amount=2)
    out = made(text_model, twice)
    assert out.shape[0] == 6
    assert relative(out, made(text_model, text_model.latent(16, 16, 6))) < SAME
    start = {"samples": noise(3, 4, 2, 2)}
    longer = call(text_model, "RepeatLatentBatch", samples=start, amount=2)["samples"]
    assert torch.equal(longer, torch.cat([start["samples"]] * 2))


def test_a_part_of_a_clip_is_those_frames(text_model):
    clip = {"samples": noise(5, 4, 2, 2)}
    part = call(text_model, "LatentFromBatch", samples=clip, batch_index=1, length=3)
    whole = call(text_model, "VAEDecode", samples=clip, vae=text_model.vae)
    assert relative(call(text_model, "VAEDecode", samples=part, vae=text_model.vae), whole[1:4]) < SAME
    assert made(text_model, part).shape == (3, 4, 2, 2)


def test_saved_latents_come_back(base, text_model):
    clip = {"samples": noise(3, 4, 2, 2)}
    text_model.comfy.call("SaveLatent", samples=clip, filename_prefix="clip")
    (written,) = base.output.glob("clip*.latent")
    written.rename(base.input / "clip.latent")
    assert torch.equal(call(text_model, "LoadLatent", latent="clip.latent")["samples"], clip["samples"])


# --- masks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m", "ddim_exact"])
def test_noise_masks_hold_what_they_leave_dark(text_model, sampler):
    """One mask for all frames, and one for each: the frames that are dark are kept, bit by bit almost."""
    start = {"samples": noise(3, 4, 2, 2)}
    single = torch.zeros(1, 2, 2)
    single[:, 0] = 1
    each = torch.zeros(3, 2, 2)
    each[1] = 1
    for mask in (single, each):
        masked = call(text_model, "SetLatentNoiseMask", samples=start, mask=mask)
        out = made(text_model, masked, sampler)
        free = mask.expand(3, 2, 2)[:, None].expand_as(out) > 0
        assert relative(out[~free], start["samples"][~free]) < 1e-5
        assert relative(out[free], start["samples"][free]) > 0.1
    repeated = call(text_model, "SetLatentNoiseMask", samples=start, mask=single.expand(3, 2, 2))
    single_out = made(text_model, call(text_model, "SetLatentNoiseMask", samples=start, mask=single), sampler)
    assert relative(made(text_model, repeated, sampler), single_out) < SAME


def test_masks_of_pixels_fit_the_latents(text_model):
    """Inpainting: a mask in pixels, for each frame, next to the frames themselves."""
    frames = torch.rand(3, 32, 16, 3, generator=torch.Generator().manual_seed(2))
    mask = torch.zeros(3, 32, 16)
    mask[:, 16:] = 1
    latent = call(text_model, "VAEEncodeForInpaint", pixels=frames, vae=text_model.vae, mask=mask, grow_mask_by=0)
    out = made(text_model, latent)
    assert relative(out[:, :, :2], latent["samples"][:, :, :2]) < SAME
    assert relative(out[:, :, 2:], latent["samples"][:, :, 2:]) > 0.1
