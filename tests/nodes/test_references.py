"""ToonCrafter: its decoder sees the pictures at the clip's ends, which come to it with the latent."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from vc_core.denoising import Sampling
from vc_core.frames.fitting import fit_ends
from vc_core.network.layers import to_clips
from vc_core.pipeline import Request, VideoCrafter

SCALE = 0.18215
WIDTH, HEIGHT, FRAMES = 16, 24, 7
SIZE = {"width": WIDTH, "height": HEIGHT, "frames": FRAMES}
SETTINGS = {"seed": 7, "cfg": 3.0, "steps": 2, "eta": 0.0, "scheduler": "trailing"}
SAMPLING = Sampling(steps=2, eta=0.0, spacing="trailing")
REQUEST = Request(**SIZE, seed=7, cfg=3.0, sharp=True, sampling=SAMPLING, guidance_rescale=0.0)
EXACT = 1e-3  # of pixels in 0..1; weights at random make large differences of the 1e-4 that latents are apart


@pytest.fixture(scope="module")
def pictures():
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(23, 37, 3, generator=generator), torch.rand(31, 17, 3, generator=generator)]


@pytest.fixture(scope="module")
def crafter(base, checkpoints):
    return VideoCrafter.load(base.model("checkpoints", checkpoints["toon"]))


def decoded(comfy, toon_model, latent, **options):
    return comfy.call("VideoCrafterDecode", samples=latent, vae=toon_model.vae, **options).values[0]


def core_frames(crafter, latents, ends, fit="crop"):
    with torch.inference_mode():
        return crafter.decode(to_clips(latents * SCALE, len(latents)), ends, fit)


@pytest.mark.parametrize("case", ["two pictures", "one picture", "a loop", "pad"])
def test_the_whole_way_is_that_of_vc_core(comfy, toon_model, crafter, pictures, case):
    first, last = pictures
    end = last if case in ("two pictures", "pad") else None
    loop, fit = case == "a loop", "pad" if case == "pad" else "crop"
    request = replace(REQUEST, fit=fit, loop=loop, frames=FRAMES + loop)
    wanted = crafter.generate("a red square", first, request=request, end_image=end)
    given = {} if end is None else {"end_image": end[None]}
    positive, negative, _, latent = toon_model.continued(first[None], loop=loop, fit=fit, **given, **SIZE)
    conditioning = {"model": toon_model.model, "positive": positive, "negative": negative, "latent_image": latent}
    sampled = comfy.call("VideoCrafterKSampler", **conditioning, **SETTINGS).values[0]
    frames = decoded(comfy, toon_model, sampled)
    assert frames.shape == (FRAMES + loop, HEIGHT, WIDTH, 3)
    torch.testing.assert_close(frames[:FRAMES], wanted, atol=EXACT, rtol=0)


def test_the_images_pass_through_cores_sampler(comfy, toon_model, crafter, pictures):
    positive, negative, _, latent = toon_model.continued(pictures[0][None], end_image=pictures[1][None], **SIZE)
    conditioning = {"model": toon_model.model, "positive": positive, "negative": negative, "latent_image": latent}
    settings = {"seed": 1, "steps": 2, "cfg": 3.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    (sampled,) = comfy.call("KSampler", **settings, **conditioning).values
    frames = decoded(comfy, toon_model, sampled)
    torch.testing.assert_close(frames, core_frames(crafter, sampled["samples"], pictures), atol=1e-4, rtol=0)


def test_a_row_is_decoded_way_by_way(comfy, toon_model, crafter, pictures):
    size = {**SIZE, "frames": 4}
    row = torch.rand(3, 20, 20, 3, generator=torch.Generator().manual_seed(3))
    *_, latent = toon_model.continued(row, loop=True, **size)
    assert len(latent["samples"]) == 10  # three ways of four frames that share their ends
    latent = {**latent, "samples": torch.randn(10, 4, 3, 2, generator=torch.Generator().manual_seed(4))}
    frames = decoded(comfy, toon_model, latent)
    for way in range(3):
        ends = (row[way], row[(way + 1) % 3])
        wanted = core_frames(crafter, latent["samples"][3 * way :][:4], ends)
        torch.testing.assert_close(frames[3 * way :][:3], wanted[:3], atol=1e-4, rtol=0)
        if way == 2:
            torch.testing.assert_close(frames[-1], wanted[-1], atol=1e-4, rtol=0)
    with pytest.raises(ValueError, match="The latent has 9 frames, but its 4 key frames need 10"):
        decoded(comfy, toon_model, {**latent, "samples": latent["samples"][:9]})


def test_pictures_can_be_given_to_the_decoder(comfy, toon_model, crafter, pictures):
    samples = torch.randn(3, 4, 6, 4, generator=torch.Generator().manual_seed(5))
    both = fit_ends(pictures, 50, 50)
    frames = decoded(comfy, toon_model, {"samples": samples}, references=both)
    torch.testing.assert_close(frames, core_frames(crafter, samples, list(both)), atol=1e-4, rtol=0)
    one = decoded(comfy, toon_model, {"samples": samples}, references=both[:1])
    torch.testing.assert_close(one, core_frames(crafter, samples, [both[0]]), atol=1e-4, rtol=0)
    assert float((one - frames).abs().max()) > 0.01
    with pytest.raises(ValueError, match="references contains 3 images, but at most two"):
        decoded(comfy, toon_model, {"samples": samples}, references=torch.rand(3, 8, 8, 3))


def test_without_images_the_decoder_says_what_to_do_and_core_decodes(comfy, toon_model, crafter):
    samples = torch.randn(3, 4, 3, 2, generator=torch.Generator().manual_seed(6))
    with pytest.raises(ValueError, match=r"contains no images.*VideoCrafter Image to Video.*VAE Decode"):
        decoded(comfy, toon_model, {"samples": samples})
    frames = comfy.call("VAEDecode", samples={"samples": samples}, vae=toon_model.vae).values[0]
    torch.testing.assert_close(frames, core_frames(crafter, samples, ()), atol=1e-4, rtol=0)
    tiled = comfy.call("VAEDecodeTiled", samples={"samples": samples}, vae=toon_model.vae, tile_size=512, overlap=64)
    assert tiled.values[0].shape == frames.shape


def test_too_little_memory_is_an_error_with_the_size(comfy, toon_model, pictures, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(toon_model.vae.first_stage_model, "decode_unscaled", full)
    samples = torch.zeros(3, 4, 3, 2)
    with pytest.raises(
        ValueError, match=r"not enough memory for 3 frames of 16x24.*fewer frames.*VAE Decode \(Tiled\)"
    ):
        decoded(comfy, toon_model, {"samples": samples}, references=pictures[0][None])


def test_other_vaes_take_no_notice(comfy, continuing_model, pictures):
    *_, latent = continuing_model.continued(pictures[0][None], **SIZE)
    assert set(latent) == {"samples", "downscale_ratio_spacial"}
    plain = comfy.call("VideoCrafterDecode", samples=latent, vae=continuing_model.vae).values[0]
    shown = comfy.call(
        "VideoCrafterDecode", samples=latent, vae=continuing_model.vae, references=pictures[0][None]
    ).values[0]
    assert torch.equal(plain, shown)
