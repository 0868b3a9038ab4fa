"""Rows of key frames and the pictures' latents in the nodes: they are those of vc_core."""

from __future__ import annotations

import pytest
import torch

from vc_core.denoising import Noise, Sampling
from vc_core.frames.fitting import fit
from vc_core.network.layers import to_frames
from vc_core.pipeline import Request, VideoCrafter

SCALE = 0.18215
SIZE = {"width": 24, "height": 16, "frames": 3}
EXACT = 1e-4


def relative(a, b):
    return float((a - b).norm() / b.norm())


@pytest.fixture(scope="module")
def row():
    return torch.rand(3, 20, 20, 3, generator=torch.Generator().manual_seed(4))


@pytest.fixture(scope="module")
def core(base, continuing_model):
    return VideoCrafter.load(base.model("checkpoints", continuing_model.name))


def conditionings(loaded, image, **options):
    return loaded.continued(image, **{**SIZE, **options})


def sampled(loaded, conditioning, **options):
    positive, negative, picture_only, latent = conditioning
    settings = {"steps": 3, "eta": 0.0, "scheduler": "trailing", "seed": 2**64 - 1, **options}
    if "image_cfg" in settings:
        settings["picture_only"] = picture_only
    return loaded.sample(positive=positive, negative=negative, latent_image=latent, **settings)


@pytest.mark.parametrize(
    ("options", "request_options"),
    [({}, {}), ({"loop": True}, {}), ({"fit": "pad"}, {"fit": "pad"}), ({"image_cfg": 1.5}, {"image_cfg": 1.5})],
    ids=["row", "ring", "pad", "two scales"],
)
def test_a_row_is_the_ways_of_vc_core_joined(continuing_model, core, row, options, request_options):
    loop = options.get("loop", False)
    scales = {key: value for key, value in options.items() if key == "image_cfg"}
    conditioning = conditionings(
        continuing_model, row, **{key: value for key, value in options.items() if key not in scales}
    )
    out = sampled(continuing_model, conditioning, **scales)
    ends = [*row, row[0]] if loop else list(row)
    parts = []
    for way in range(len(ends) - 1):
        request = Request(
            seed=(2**64 - 1 + way) % 2**64,
            cfg=3.0,
            guidance_rescale=0.0,
            sharp=True,
            sampling=Sampling(steps=3, eta=0.0, spacing="trailing"),
            **SIZE,
            **request_options,
        )
        steps = core.steps("a red square", ends[way], request=request, end_image=ends[way + 1])
        clip = to_frames(list(steps)[-1].x) / SCALE
        parts.append(clip if way == len(ends) - 2 else clip[:-1])
    wanted = torch.cat(parts)
    assert out.shape == wanted.shape == conditioning[3]["samples"].shape
    assert relative(out, wanted) < EXACT


def test_each_way_of_a_row_reads_the_texts_of_its_frames(comfy, continuing_model, row):
    positive, negative, _, latent = conditionings(continuing_model, row)
    other = continuing_model.text("a blue circle")
    texts = comfy.call("VideoCrafterPromptsOverTime", first=positive, second=other, latent_image=latent).values[0]
    each = texts[0][0]
    assert len(each) == 5
    out = sampled(continuing_model, (texts, negative, None, latent))
    for way in (0, 1):
        (_, values), start = positive[0], 2 * way
        only = {**{key: values[key] for key in values if key != "videocrafter_key_frames"}}
        only |= values["videocrafter_key_frames"]["ways"][way]
        empty = {**dict(negative[0][1]), **negative[0][1]["videocrafter_key_frames"]["ways"][way]}
        del empty["videocrafter_key_frames"]
        clip = continuing_model.sample(
            positive=[(each[start : start + 3], only)],
            negative=[(negative[0][0], empty)],
            latent_image={"samples": latent["samples"][:3]},
            steps=3, eta=0.0, scheduler="trailing", seed=(2**64 - 1 + way) % 2**64,
        )  # fmt: skip
        assert relative(out[start : start + 2], clip[:2]) < EXACT


def test_an_end_image_joins_the_row_and_another_size_is_fitted(continuing_model, core, row):
    other = torch.rand(1, 9, 33, 3, generator=torch.Generator().manual_seed(5))
    positive, _, _, latent = conditionings(continuing_model, row[:2], end_image=other)
    assert latent["samples"].shape[0] == 5
    ways = positive[0][1]["videocrafter_key_frames"]["ways"]
    last = ways[-1]["videocrafter_pictures"][1]
    assert relative(last * SCALE, core.encode(fit(other[0], 16, 24)[None])[:, :, 0]) < EXACT
    assert torch.equal(ways[0]["videocrafter_pictures"][1], ways[1]["videocrafter_pictures"][0])


def test_freeinit_is_refused_where_a_run_begins_from_noise_alone(continuing_model, row):
    conditioning = conditionings(continuing_model, row[:1])
    with pytest.raises(Exception, match="begins from noise alone"):
        sampled(continuing_model, conditioning, free_init=1)
    out = sampled(continuing_model, conditioning, free_init=1, scheduler="uniform", sampler_name="ddim_exact", steps=4)
    assert torch.isfinite(out).all()


def test_a_sampled_posterior_is_that_of_vc_core(continuing_model, core, row):
    conditioning = conditionings(continuing_model, row[:1], end_image=row[1:2], posterior="sampled", posterior_seed=8)
    first, last = (fit(picture, 16, 24) for picture in row[:2])
    wanted = core.ends(first, 3, last, noise=Noise(8))
    mean = core.ends(first, 3, last)
    for at, place in ((0, 0), (1, -1)):
        latent = conditioning[0][0][1]["videocrafter_pictures"][at] * SCALE
        assert relative(latent, wanted[:, :, place]) < EXACT
        assert relative(latent, mean[:, :, place]) > EXACT
    again = conditionings(continuing_model, row[:1], posterior="sampled", posterior_seed=9)
    assert not torch.equal(
        again[0][0][1]["videocrafter_pictures"][0], conditioning[0][0][1]["videocrafter_pictures"][0]
    )


def test_what_is_not_supported_is_refused(comfy, continuing_model, row):
    conditioning = positive, negative, _, latent = conditionings(continuing_model, row)
    with pytest.raises(Exception, match=r"has 4 frames, but this row of key frames makes 5: 2 sections of 3"):
        sampled(continuing_model, (*conditioning[:3], {"samples": latent["samples"][:4]}))
    with pytest.raises(Exception, match="noise mask"):
        sampled(continuing_model, (*conditioning[:3], {**latent, "noise_mask": torch.ones(5, 2, 3)}))
    for options in ({"free_init": 1}, {"long_video": "continue"}):
        with pytest.raises(Exception, match=r"row of key frames is not supported with .*: each section"):
            sampled(continuing_model, conditionings(continuing_model, row, frames=9), **options)
    for options in ({"end_image": row[1:2]}, {"loop": True}):
        given = conditionings(continuing_model, row[:1], frames=20, **options)
        with pytest.raises(Exception, match="An end image or a loop is not supported with long_video continue"):
            sampled(continuing_model, given, long_video="continue")
    with pytest.raises(Exception, match="Only some of the conditionings"):
        sampled(continuing_model, (positive, continuing_model.text(""), None, latent))
    settings = {"seed": 1, "steps": 2, "cfg": 3.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    with pytest.raises(Exception, match=r"row of key frames.*VideoCrafter KSampler"):
        comfy.call(
            "KSampler",
            model=continuing_model.model,
            positive=positive,
            negative=negative,
            latent_image=latent,
            **settings,
        )
    with pytest.raises(Exception, match="frames is 1"):
        conditionings(continuing_model, row, frames=1)
    with pytest.raises(Exception, match="posterior is 'x'"):
        conditionings(continuing_model, row, posterior="x")
