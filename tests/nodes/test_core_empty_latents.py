"""Empty latents of other models in the samplers of core: refused with the cure, or turned into a clip by core."""

from __future__ import annotations

import logging

import pytest
import torch

from comfyui.limits import skip_without_node
from vc_core.errors import UserError

from .test_core_patches import made

pytestmark = pytest.mark.weightless

SIZE = {"width": 64, "height": 32}
REFUSED = {
    "EmptyHunyuanLatentVideo": {**SIZE, "length": 5},
    "EmptyHunyuanVideo15Latent": {**SIZE, "length": 5},
    "EmptyMochiLatentVideo": {**SIZE, "length": 7},
    "EmptyLTXVLatentVideo": {**SIZE, "length": 9},
    "EmptyCosmosLatentVideo": {**SIZE, "length": 9},
    "EmptyARVideoLatent": {**SIZE, "length": 5},
    "EmptyMiniMaxH3LatentAV": {**SIZE, "length": 8},
    "EmptyQwenImageLayeredLatentImage": {**SIZE, "layers": 2},
    "EmptyAceStep1.5LatentAudio": {"seconds": 1.0},
    "EmptyLatentAudio": {"seconds": 1.0},
    "EmptyLatentHunyuan3Dv2": {"resolution": 64},
}
"""Node -> inputs. Their latents have five axes, three, or several tensors."""

CONVERTED = {
    "EmptyLatentImage": ({**SIZE, "batch_size": 2}, (2, 4, 4, 8)),
    "EmptySD3LatentImage": ({**SIZE, "batch_size": 2}, (2, 4, 4, 8)),
    "EmptyFlux2LatentImage": ({**SIZE, "batch_size": 2}, (2, 4, 2, 4)),
    "EmptyHunyuanImageLatent": ({"width": 128, "height": 64, "batch_size": 2}, (2, 4, 2, 4)),
    "EmptyChromaRadianceLatentImage": ({"width": 16, "height": 16, "batch_size": 2}, (2, 4, 16, 16)),
    "EmptyHiDreamO1LatentImage": ({"width": 16, "height": 16, "batch_size": 2}, (2, 4, 16, 16)),
    "StableCascade_EmptyLatentImage": ({**SIZE, "compression": 16, "batch_size": 2}, (2, 4, 2, 4)),
    "EmptyAceStepLatentAudio": ({"seconds": 0.5}, (1, 4, 16, 5)),
}
"""Node -> inputs and the shape of the clip. Their latents have four axes, and core gives them four channels."""


def empty(loaded, node, inputs):
    skip_without_node(node)
    return loaded.comfy.call(node, **inputs).values[0]


def custom(loaded, latent):
    (sigmas,) = loaded.comfy.call("VideoCrafterScheduler", model=loaded.model, steps=1).values
    (sampler,) = loaded.comfy.call("VideoCrafterSampler").values
    prompts = {"positive": loaded.text("a red square"), "negative": loaded.text("")}
    return loaded.comfy.call(
        "SamplerCustom", model=loaded.model, add_noise=True, noise_seed=3, cfg=3.0, sampler=sampler, sigmas=sigmas,
        latent_image=latent, **prompts,
    ).values[0]["samples"]  # fmt: skip


def advanced(loaded, latent):
    call = loaded.comfy.call
    (guider,) = call("BasicGuider", model=loaded.model, conditioning=loaded.text("a red square")).values
    (sigmas,) = call("VideoCrafterScheduler", model=loaded.model, steps=1).values
    (noise,) = call("RandomNoise", noise_seed=3).values
    (sampler,) = call("KSamplerSelect", sampler_name="euler").values
    return call(
        "SamplerCustomAdvanced", noise=noise, guider=guider, sampler=sampler, sigmas=sigmas, latent_image=latent
    ).values[0]["samples"]


def ksampler(loaded, latent):
    return made(loaded, latent_image=latent)


@pytest.mark.parametrize("node", REFUSED)
def test_latents_with_an_axis_of_time_or_of_sound_are_refused(text_model, node):
    latent = empty(text_model, node, REFUSED[node])
    for sample in (ksampler, custom, advanced):
        with pytest.raises(UserError, match=r"takes \(frames, 4, .*VideoCrafter Empty Latent"):
            sample(text_model, latent)


@pytest.mark.parametrize("node", CONVERTED)
def test_empty_images_of_other_models_become_a_clip_of_their_batch(text_model, node):
    """Core cuts the channels before the model sees the latent. Frames are the batch, and the size is as the other model
    counts it; VideoCrafter KSampler refuses all but Stable Diffusion's."""
    inputs, shape = CONVERTED[node]
    latent = empty(text_model, node, inputs)
    out = ksampler(text_model, latent)
    assert out.shape == shape
    assert torch.isfinite(out).all()
    if latent["samples"].shape[1] != 4:
        with pytest.raises(UserError, match=r"channels, but VideoCrafter needs 4.*VideoCrafter Empty Latent"):
            text_model.sample(latent_image=latent)


@pytest.mark.parametrize("sample", [ksampler, custom, advanced])
def test_sixteen_empty_channels_are_the_clip_of_four(text_model, sample):
    other = empty(text_model, "EmptySD3LatentImage", {**SIZE, "batch_size": 2})
    assert torch.equal(sample(text_model, other), sample(text_model, text_model.latent(64, 32, 2)))


@pytest.mark.parametrize("sample", [ksampler, custom, advanced])
def test_one_frame_is_warned_of(text_model, caplog, sample):
    says = "a single frame, so the result is one image. For a video, connect VideoCrafter Empty Latent"
    with caplog.at_level(logging.WARNING):
        sample(text_model, text_model.latent(16, 16, 2))
        assert says not in caplog.text
        sample(text_model, empty(text_model, "EmptySD3LatentImage", {"width": 16, "height": 16}))
    assert caplog.text.count(says) == 1
