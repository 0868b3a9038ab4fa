"""VideoCrafter Drag: the numbers of vc_core through our sampler and the host's, and core's Differential Diffusion."""

from __future__ import annotations

import pytest
import torch

from vc_core.control.tracks import tracks_of
from vc_core.denoising import Sampling, Source
from vc_core.frames.dragging import Drag, rough_video
from vc_core.network.layers import to_frames
from vc_core.pipeline import Request, VideoCrafter

SCALE = 0.18215
SIZE = {"width": 16, "height": 24, "frames": 3}
TRACK = "4,4; 4,36"
IMAGE = torch.rand(48, 32, 3, generator=torch.Generator().manual_seed(1))
MASK = torch.zeros(1, 48, 32)
MASK[:, :16, :16] = 1


def relative(a, b):
    return float((a - b).norm() / b.norm())


def dragged(comfy, loaded, **given):
    settings = {"latent": loaded.latent(), "image": IMAGE[None], "mask": MASK, "track": TRACK, **given}
    return comfy.call("VideoCrafterDragObject", model=loaded.model, vae=loaded.vae, **settings).values


def expected(base, loaded, sampler, *, strength=0.8, until=0.4, steps=10, picture=None):
    core = VideoCrafter.load(base.model("checkpoints", loaded.name))
    rough = rough_video(Drag(masks=MASK, tracks=tracks_of(TRACK)), [IMAGE], 3, 24, 16)
    source = Source(core.encode(rough.frames), strength, rough.latent_mask(8)[None, None], until)
    sampling = Sampling(steps=steps, sampler=sampler, eta=0.0)
    request = Request(seed=7, cfg=3.0, sharp=True, guidance_rescale=0.0, sampling=sampling, **SIZE)
    *_, last = core.steps("a red square", picture, request=request, source=source)
    return to_frames(last.x) / SCALE


@pytest.mark.parametrize(("ours", "sampler"), [("ddim_exact", "ddim"), ("euler", "euler"), ("dpmpp_2m", "dpmpp_2m")])
def test_a_drag_is_that_of_vc_core(base, comfy, text_model, ours, sampler):
    model, latent, rough = dragged(comfy, text_model, keep_until=0.4)
    assert rough.shape == (3, 24, 16, 3)
    settings = {"steps": 10, "eta": 0.0, "denoise": 0.8, "sampler_name": ours, "latent_image": latent}
    out = text_model.sample(model=model, **settings)
    assert relative(out, expected(base, text_model, sampler)) < 1e-4
    assert relative(text_model.sample(**settings), out) > 1e-2, "without the node's MODEL the object is never released"
    assert model.model_options is not text_model.model.model_options
    assert "denoise_mask_function" not in text_model.model.model_options


def test_an_image_to_video_model_continues_the_image(base, comfy, continuing_model):
    picture = IMAGE[::2, ::2].contiguous()
    positive, negative, _, latent = continuing_model.continued(picture[None])
    model, latent, _ = dragged(comfy, continuing_model, latent=latent, keep_until=0.4)
    given = {"positive": positive, "negative": negative, "latent_image": latent}
    out = continuing_model.sample(model=model, steps=10, eta=0.0, denoise=0.8, **given)
    assert relative(out, expected(base, continuing_model, "ddim", picture=picture)) < 1e-4


def test_core_ksampler_and_differential_diffusion_do_the_same(base, comfy, text_model):
    """A grey mask is Differential Diffusion's clock for each pixel: generated from that share of the run on."""
    model, latent, _ = dragged(comfy, text_model, keep_until=0.4)
    settings = {
        "seed": 7, "steps": 10, "cfg": 3.0, "sampler_name": "euler", "scheduler": "sgm_uniform", "denoise": 0.8,
        "positive": text_model.text("a red square"), "negative": text_model.text(""),
    }  # fmt: skip
    ours = comfy.call("KSampler", model=model, latent_image=latent, **settings).values[0]["samples"]
    sampling = text_model.model.get_model_object("model_sampling")
    sigmas = comfy.call(
        "BasicScheduler", model=text_model.model, scheduler="sgm_uniform", steps=10, denoise=0.8
    ).values[0]
    begun = float(sampling.timestep(sigmas[:1])[0])
    grey = latent["noise_mask"].clamp_min(0.4 * 1000 / begun)
    differential = comfy.call("DifferentialDiffusion", model=text_model.model, strength=1.0).values[0]
    theirs = comfy.call("KSampler", model=differential, latent_image={**latent, "noise_mask": grey}, **settings)
    assert relative(theirs.values[0]["samples"], ours) < 1e-5
    plain = comfy.call("KSampler", model=text_model.model, latent_image=latent, **settings).values[0]["samples"]
    assert relative(plain, ours) > 1e-2


def test_a_video_and_several_objects(comfy, text_model):
    clip = IMAGE.expand(3, -1, -1, -1) * torch.tensor([1.0, 0.5, 0.25]).view(3, 1, 1, 1)
    masks = torch.cat([MASK, MASK.roll(16, dims=2)])
    _, latent, rough = dragged(comfy, text_model, image=clip, mask=masks, track="0,0; 0,32\n\n0,0; 0,0")
    kept = 1 - latent["noise_mask"]
    assert kept.shape == (3, 3, 2)
    assert kept[:, :, 1].tolist() == [[1, 0, 0]] * 3
    assert kept[:, :, 0].tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    assert float(rough[2].mean()) < float(rough[0].mean())


def test_tracks_of_core_are_taken(comfy, text_model):
    tracks = {"track_path": torch.tensor([[[4.0, 4.0]], [[4.0, 36.0]]]), "track_visibility": torch.ones(2, 1)}
    _, _, rough = dragged(comfy, text_model, track=tracks)
    assert torch.equal(rough, dragged(comfy, text_model)[2])


def test_what_does_not_fit_is_refused(comfy, text_model):
    with pytest.raises(Exception, match="is not a point of a track"):
        dragged(comfy, text_model, track="1,2; 3")
    with pytest.raises(Exception, match="mask of the object is empty"):
        dragged(comfy, text_model, mask=MASK * 0)
    with pytest.raises(Exception, match="The mask has 16x16 pixels, but the image 32x48"):
        dragged(comfy, text_model, mask=torch.ones(1, 16, 16))
    with pytest.raises(Exception, match=r"keep_until is 1\.5"):
        dragged(comfy, text_model, keep_until=1.5)
    with pytest.raises(Exception, match="as many as there are frames"):
        dragged(comfy, text_model, image=IMAGE.expand(2, -1, -1, -1))
    differential = comfy.call("DifferentialDiffusion", model=text_model.model, strength=1.0).values[0]
    with pytest.raises(Exception, match=r"Differential Diffusion\. Leave that node out"):
        comfy.call(
            "VideoCrafterDragObject", model=differential, vae=text_model.vae, latent=text_model.latent(),
            image=IMAGE[None], mask=MASK, track=TRACK,
        )  # fmt: skip
