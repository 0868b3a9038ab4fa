"""ViewCrafter in ComfyUI: rendered views give the numbers of vc_core, and what does not fit is refused."""

from __future__ import annotations

import pytest
import torch

from comfyui.limits import skip_without
from vc_core.denoising import Sampling
from vc_core.network.layers import to_frames
from vc_core.pipeline import Request, VideoCrafter

SCALE = 0.18215
WIDTH, HEIGHT, FRAMES = 16, 24, 3
EXACT = 1e-4
SETTINGS = {"steps": 5, "eta": 0.0, "scheduler": "trailing"}


def relative(a, b):
    return float((a - b).norm() / b.norm())


def expected(base, name, views, image, end=None, **request):
    core = VideoCrafter.load(base.model("checkpoints", name))
    settings = {"seed": 7, "cfg": 3.0, "sharp": True, "width": WIDTH, "height": HEIGHT, "frames": FRAMES, "fps": 10}
    sampling = Sampling(steps=5, eta=0.0, spacing="trailing")
    wanted = Request(**{**settings, "sampling": sampling, "guidance_rescale": 0.0, **request})
    steps = list(core.steps("a red square", image, request=wanted, end_image=end, views=views))
    return to_frames(steps[-1].x) / SCALE


@pytest.fixture(scope="module")
def views():
    return torch.rand(FRAMES, 12, 8, 3, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def image():
    return torch.rand(23, 37, 3, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("kind", ["open", "loop", "end image", "published"])
def test_views_are_those_of_vc_core(base, viewed_model, views, image, kind):
    end = torch.rand(31, 17, 3, generator=torch.Generator().manual_seed(3)) if kind == "end image" else None
    fit, loop = "published" if kind == "published" else "crop", kind == "loop"
    wanted = expected(base, viewed_model.name, views, image, end, fit=fit, loop=loop)
    given = {} if end is None else {"end_image": end[None]}
    positive, negative, _, latent = viewed_model.viewed(views, image[None], fit=fit, loop=loop, **given)
    out = viewed_model.sample(positive=positive, negative=negative, latent_image=latent, **SETTINGS)
    assert relative(out, wanted) < EXACT


def test_two_scales_end_as_those_of_vc_core(base, viewed_model, views, image):
    wanted = expected(base, viewed_model.name, views, image, image_cfg=1.5)
    positive, negative, picture_only, latent = viewed_model.viewed(views, image[None])
    given = {"positive": positive, "negative": negative, "picture_only": picture_only, "latent_image": latent}
    out = viewed_model.sample(image_cfg=1.5, **given, **SETTINGS)
    assert relative(out, wanted) < EXACT


def test_continued_clips_follow_their_own_views(viewed_model, image):
    """Each clip of 3 frames shares one with the clip before, and the views are cut as the video."""
    views = torch.rand(5, 12, 8, 3, generator=torch.Generator().manual_seed(4))
    changed = views.clone()
    changed[3] = 0
    made = []
    for given in (views, changed):
        positive, negative, _, latent = viewed_model.viewed(given, image[None])
        conditioning = {"positive": positive, "negative": negative, "latent_image": latent}
        made.append(viewed_model.sample(long_video="continue", **conditioning, **SETTINGS))
    assert made[0].shape[0] == 5
    assert torch.equal(made[0][:2], made[1][:2])
    assert not torch.equal(made[0][3:], made[1][3:])


def test_context_windows_cut_the_views_as_the_clip(comfy, viewed_model, image):
    skip_without("core's context windows over our frames")
    views = torch.rand(9, 12, 8, 3, generator=torch.Generator().manual_seed(5))
    positive, negative, _, latent = viewed_model.viewed(views, image[None])
    windows = {"context_length": 5, "context_overlap": 2, "context_schedule": "standard_static", "context_stride": 1}
    windows |= {"closed_loop": False, "fuse_method": "pyramid", "dim": 0, "freenoise": False}
    (model,) = comfy.call("ContextWindowsManual", model=viewed_model.model, **windows).values
    conditioning = {"positive": positive, "negative": negative, "latent_image": latent}
    out = viewed_model.sample(model=model, **conditioning, **SETTINGS)
    assert out.shape == latent["samples"].shape
    assert bool(out.isfinite().all())


def test_sampled_posteriors_are_drawn_from_their_seed(viewed_model, views, image):
    results = [
        viewed_model.viewed(views, image[None], posterior=posterior, posterior_seed=seed)[0][0][1]["videocrafter_views"]
        for posterior, seed in (("mean", 1), ("sampled", 1), ("sampled", 1), ("sampled", 2))
    ]
    assert torch.equal(results[1], results[2])
    assert not any(torch.equal(results[1], results[i]) for i in (0, 3))


def test_what_does_not_fit_is_refused(viewed_model, continuing_model, views, image):
    with pytest.raises(Exception, match=r"choose its preset in the loader, for example viewcrafter_25"):
        continuing_model.viewed(views, image[None])
    with pytest.raises(
        Exception, match=r"follows rendered views, one for each frame\. Use VideoCrafter Views to Video"
    ):
        viewed_model.continued(image[None])
    with pytest.raises(Exception, match="A closed path ends with the image it starts with"):
        viewed_model.viewed(views, image[None], loop=True, end_image=image[None])
    positive, negative, _, latent = viewed_model.viewed(views, image[None])
    given = {"positive": positive, "negative": negative}
    with pytest.raises(Exception, match="holds 3 rendered views, but the latent has 4 frames"):
        viewed_model.sample(latent_image=viewed_model.latent(frames=4), **given)
    with pytest.raises(Exception, match=r"Connect the latent output of VideoCrafter Views to Video"):
        viewed_model.sample(latent_image=viewed_model.latent(width=32), **given)
    with pytest.raises(Exception, match="follows rendered views, and the conditioning holds none"):
        viewed_model.sample(latent_image=latent)
    with pytest.raises(Exception, match="holds rendered views, but small_dynamicrafter does not follow views"):
        continuing_model.sample(latent_image=latent, **given)
