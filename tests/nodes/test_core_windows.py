"""Context windows: ComfyUI's own node and our preset of it, on clips longer than the network learnt with.

Where frames do not see each other, a frame's result cannot depend on the window it lies in: then a clip made in windows
must be the plain clip, in every schedule, fuse method and with every condition that belongs to a frame.
"""

from __future__ import annotations

import itertools

import pytest
import torch

from comfyui.limits import skip_without
from vc_core.errors import UserError

pytestmark = pytest.mark.weightless

LONG = 40
SCHEDULES = ("standard_static", "standard_uniform", "looped_uniform", "batched")
FUSE_METHODS = ("pyramid", "relative", "flat", "overlap-linear")
EXACT = 1e-4


def relative(a, b):
    return float((a - b).norm() / b.norm())


def manual(loaded, model=None, **settings):
    """Core's node; what is not given is its default, the frame in front of a window among it."""
    skip_without("core's context windows over our frames")
    return loaded.comfy.call("ContextWindowsManual", model=model or loaded.model, **settings).values[0]


def preset(loaded, **settings):
    return loaded.comfy.call("VideoCrafterContextWindows", model=loaded.model, **settings).values[0]


def made(loaded, model, frames=LONG, **given):
    """KSampler's clip of so many frames of 16 x 16 pixels."""
    settings = {"seed": 3, "steps": 2, "cfg": 1.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    settings |= {"positive": loaded.text("a red square"), "negative": loaded.text("")}
    settings |= {"latent_image": loaded.latent(16, 16, frames), **given}
    return loaded.comfy.call("KSampler", model=model, **settings).values[0]["samples"]


def widths(model):
    """A copy of the MODEL, and a list of how many frames the network is given from then on."""
    model, seen = model.clone(), []

    def watch(apply, call):
        seen.append(len(call["input"]) // len(call["cond_or_uncond"]))
        return apply(call["input"], call["timestep"], **call["c"])

    model.set_model_unet_function_wrapper(watch)
    return model, seen


@pytest.fixture(scope="module")
def plain(text_model):
    """Forty frames, seeing each other or not."""
    return made(text_model, text_model.model), made(text_model, text_model.apart())


@pytest.mark.parametrize(("schedule", "fuse"), itertools.product(SCHEDULES, FUSE_METHODS))
def test_windows_of_every_kind_fit_together(text_model, plain, schedule, fuse):
    _, alone = plain
    model = manual(text_model, context_schedule=schedule, fuse_method=fuse)
    assert relative(made(text_model, text_model.apart(model)), alone) < EXACT


@pytest.mark.parametrize(("schedule", "fuse"), zip(SCHEDULES, FUSE_METHODS, strict=True))
def test_windows_bound_what_frames_see_of_each_other(text_model, plain, schedule, fuse):
    together, alone = plain
    out = made(text_model, manual(text_model, context_schedule=schedule, fuse_method=fuse))
    assert torch.isfinite(out).all()
    assert min(relative(out, together), relative(out, alone)) > 1e-3


@pytest.mark.parametrize(
    ("kind", "schedule"),
    [("image", "standard_static"), ("continuing", "standard_static"), ("between", "looped_uniform")],
)
def test_windows_show_each_frame_its_image(request, kind, schedule):
    """Tokens for the whole clip; tokens for each frame and a latent beside each; the same with an end picture."""
    loaded = request.getfixturevalue("image_model" if kind == "image" else "continuing_model")
    conditioning, other = (pictured(loaded, end=kind == "between", seed=seed) for seed in (1, 2))
    model = manual(loaded, context_schedule=schedule)
    expected = made(loaded, loaded.apart(), steps=1, **conditioning)
    assert relative(made(loaded, loaded.apart(model), steps=1, **conditioning), expected) < EXACT
    assert relative(made(loaded, loaded.apart(model), steps=1, **other), expected) > 1e-3
    assert torch.isfinite(made(loaded, model, **conditioning)).all()


def pictured(loaded, *, end=False, seed=1):
    """Conditionings with a picture, as KSampler takes them."""
    generator = torch.Generator().manual_seed(seed)
    first, last = torch.rand(2, 1, 16, 16, 3, generator=generator)
    if not loaded.model.model.spec.unet.concat_channels:
        positive, negative = loaded.picture(first)
        return {"positive": positive, "negative": negative}
    end_image = last if end else None
    positive, negative, _, latent = loaded.continued(first, end_image=end_image, width=16, height=16, frames=LONG)
    return {"positive": positive, "negative": negative, "latent_image": latent}


def test_windows_read_the_texts_of_their_frames(comfy, text_model, plain):
    latent = text_model.latent(16, 16, LONG)
    first, second = text_model.text("a red square"), text_model.text("a blue circle")
    (texts,) = comfy.call("VideoCrafterPromptsOverTime", first=first, second=second, latent_image=latent).values
    model = manual(text_model)
    expected = made(text_model, text_model.apart(), positive=texts)
    assert relative(made(text_model, text_model.apart(model), positive=texts), expected) < EXACT
    assert relative(expected, plain[1]) > 1e-3


@pytest.mark.parametrize("where", ["latent", "conditioning"])
def test_windows_know_the_masks_of_their_frames(comfy, text_model, plain, where):
    """A noise mask, and the mask of one of two prompts, each with a part of its own for every frame."""
    mask = (torch.rand(LONG, 2, 2, generator=torch.Generator().manual_seed(4)) > 0.5).float()
    given = {}
    if where == "latent":
        start = torch.randn(LONG, 4, 2, 2, generator=torch.Generator().manual_seed(5))
        (given["latent_image"],) = comfy.call("SetLatentNoiseMask", samples={"samples": start}, mask=mask).values
    else:
        (masked,) = comfy.call(
            "ConditioningSetMask", conditioning=text_model.text("a blue circle"), mask=mask, strength=1.0,
            set_cond_area="default",
        ).values  # fmt: skip
        given["positive"] = text_model.text("a red square") + masked
    model = manual(text_model)
    expected = made(text_model, text_model.apart(), **given)
    assert relative(made(text_model, text_model.apart(model), **given), expected) < EXACT
    assert relative(expected, plain[1]) > 1e-3


def test_windows_side_by_side_are_clips_of_their_own(comfy, text_model):
    model = manual(text_model, context_schedule="batched", causal_window_fix=False)
    out = made(text_model, model, 32)
    for start in (0, 16):
        (part,) = comfy.call(
            "LatentFromBatch", samples=text_model.latent(16, 16, 32), batch_index=start, length=16
        ).values
        assert relative(out[start : start + 16], made(text_model, text_model.model, latent_image=part)) < EXACT


def test_windows_may_take_a_prompt_each(text_model):
    """Core's `split_conds_to_windows`: of two combined prompts, the first half of the clip gets the first."""
    first, second = text_model.text("a red square"), text_model.text("a blue circle")
    model = manual(text_model, context_schedule="batched", causal_window_fix=False, split_conds_to_windows=True)
    both = made(text_model, model, 32, positive=first + second, cfg=1.0)
    for start, text in ((0, first), (16, second)):
        alone = made(text_model, model, 32, positive=text, cfg=1.0)
        assert relative(both[start : start + 16], alone[start : start + 16]) < EXACT
    assert relative(both[16:], made(text_model, model, 32, positive=first, cfg=1.0)[16:]) > 1e-3


# --- the preset -------------------------------------------------------------------------------------------------------


def test_the_preset_is_cores_node_with_what_suits_the_model(text_model):
    ours, seen = widths(preset(text_model))
    theirs, beside = widths(manual(text_model, freenoise=True))
    out = made(text_model, ours)
    made(text_model, theirs)
    assert set(seen) == {16}
    assert set(beside) == {16, 17}, "core's default shows a window one frame more"
    assert torch.isfinite(out).all()
    settings = {"context_length": 16, "context_overlap": 6, "context_schedule": "standard_uniform"}
    settings |= {"fuse_method": "overlap-linear", "freenoise": False}
    same = manual(text_model, causal_window_fix=False, **settings)
    assert torch.equal(made(text_model, preset(text_model, **settings)), made(text_model, same))


@pytest.mark.parametrize("fuse", FUSE_METHODS)
def test_shifted_windows_fit_together(text_model, plain, fuse):
    model, seen = widths(preset(text_model, context_schedule="shifted", fuse_method=fuse, freenoise=False))
    out, expected = (made(text_model, text_model.apart(each), steps=4) for each in (model, text_model.model))
    assert relative(out, expected) < EXACT
    assert set(seen) == {16}


def test_shifted_windows_are_those_of_the_sampler(text_model):
    """The same windows by ComfyUI's own way and by ours, in all of a run's steps."""
    given = {"steps": 6, "eta": 0.0, "latent_image": text_model.latent(16, 16, LONG)}
    ours = text_model.sample(long_video="windows_fast", **given)
    assert relative(text_model.sample(preset(text_model, context_schedule="shifted"), **given), ours) < EXACT
    assert relative(text_model.sample(preset(text_model), **given), ours) > 0.01


@pytest.mark.parametrize("freenoise", [True, False])
def test_the_preset_reuses_noise_if_asked(text_model, freenoise):
    import comfy.patcher_extension as extension

    starts = []

    def watch(executor, noise, *arguments, **keywords):
        starts.append(noise.clone())
        return executor(noise, *arguments, **keywords)

    model = preset(text_model, freenoise=freenoise)
    model.add_wrapper_with_key(extension.WrappersMP.OUTER_SAMPLE, "watch", watch)
    made(text_model, model)
    (noise,) = starts
    frames = {frame.numpy().tobytes() for frame in noise}
    assert len(frames) == (16 if freenoise else LONG)


@pytest.mark.parametrize("kind", ["text", "image"])
def test_our_samplers_run_in_the_presets_windows(request, kind):
    loaded = request.getfixturevalue(f"{kind}_model")
    conditioning = pictured(loaded) if kind == "image" else {}
    model, seen = widths(preset(loaded))
    latent = loaded.latent(16, 16, LONG)
    out = loaded.sample(model, steps=2, latent_image=latent, **conditioning)
    assert out.shape == (LONG, 4, 2, 2)
    assert torch.isfinite(out).all()
    assert set(seen) == {16}
    unmixed = [
        loaded.sample(loaded.apart(each), steps=2, eta=0.0, latent_image=latent, **conditioning)
        for each in (model, loaded.model)
    ]
    first = [clip[:16] for clip in unmixed]
    assert relative(*first) < EXACT, "the first window begins from the noise of the plain clip"


def test_clips_of_one_window_stay_what_they_are(text_model):
    for frames in (3, 16):
        assert torch.equal(made(text_model, preset(text_model), frames), made(text_model, text_model.model, frames))


@pytest.mark.parametrize(
    ("overlap", "schedule", "frames"),
    [(0, "standard_static", LONG), (0, "standard_uniform", LONG), (0, "looped_uniform", LONG), (0, "batched", LONG),
     (15, "batched", 24), (0, "shifted", 33), (15, "standard_static", 33)],
)  # fmt: skip
def test_overlap_linear_takes_every_overlap(text_model, overlap, schedule, frames):
    model = preset(
        text_model, context_overlap=overlap, context_schedule=schedule, fuse_method="overlap-linear", freenoise=False
    )
    alone = made(text_model, text_model.apart(), frames)
    assert relative(made(text_model, text_model.apart(model), frames), alone) < EXACT


def test_what_cannot_be_windows_is_said(text_model):
    for settings, says in (
        ({"context_overlap": 16}, "context_overlap is 16 and context_length 16"),
        ({"context_schedule": "random"}, "no schedule 'random'"),
        ({"fuse_method": "mean"}, "no fuse method 'mean'"),
    ):
        with pytest.raises(UserError, match=says):
            preset(text_model, **settings)
