"""Long clips through the nodes: the numbers of vc_core, no change for short ones, Cancel, and messages."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from comfyui.limits import skip_without
from vc_core.conditioning import text_over_time
from vc_core.denoising import Sampling
from vc_core.errors import UserError
from vc_core.long import METHODS, frames
from vc_core.long.continuing import Continue
from vc_core.long.fifo import Fifo
from vc_core.network.layers import to_frames
from vc_core.pipeline import Request, VideoCrafter
from vc_core.specs import Windows

LONG = 37
WINDOWS = Windows(size=8, stride=3)
REQUEST = Request(seed=7, width=16, height=24, frames=LONG, cfg=3.0, sampling=Sampling(steps=4))
SCALE = 0.18215
EXACT = 1e-4
"""Single precision in another order of operations, carried through four steps of a network that does not denoise."""


def relative(a, b):
    return float((a - b).norm() / b.norm())


def crafter(base, name):
    return VideoCrafter.load(base.model("checkpoints", name))


def freenoise(comfy, loaded, **settings):
    return comfy.call("VideoCrafterFreeNoise", model=loaded.model, **settings).values[0]


@pytest.mark.parametrize("kind", ["text", "relative"])
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_freenoise_is_that_of_vc_core(request, base, comfy, checkpoints, kind, eta):
    loaded = request.getfixturevalue(f"{kind}_model")
    model = freenoise(comfy, loaded, window=8, stride=3)
    asked = replace(REQUEST, sampling=Sampling(steps=4, eta=eta), windows=WINDOWS)
    steps = list(crafter(base, checkpoints[kind]).steps("a red square", request=asked))
    expected = to_frames(steps[-1].x) / SCALE
    out = loaded.sample(model, steps=4, eta=eta, latent_image=loaded.latent(frames=LONG))
    assert relative(out, expected) < EXACT


def test_the_samplers_option_is_the_patch_with_its_defaults(comfy, text_model):
    latent = text_model.latent(frames=LONG)
    patched = text_model.sample(freenoise(comfy, text_model), steps=2, latent_image=latent)
    assert torch.equal(text_model.sample(steps=2, latent_image=latent, long_video="freenoise"), patched)
    assert not torch.equal(text_model.sample(steps=2, latent_image=latent), patched)


NAMES = [name for name in METHODS if name != "off"]
SHORT_QUEUE = Fifo(partitions=1)
"""A queue of one part, a quarter of the published one."""


@pytest.mark.parametrize("way", [name for name in NAMES if name != "freenoise"])
def test_long_videos_are_those_of_vc_core(base, checkpoints, text_model, way):
    core = crafter(base, checkpoints["text"])
    count = 18 if way == "fifo" else LONG
    request = replace(REQUEST, frames=count, guidance_rescale=0.5, sampling=Sampling(steps=4, eta=1.0))
    method = SHORT_QUEUE if way == "fifo" else METHODS[way]()
    expected = torch.stack(list(frames(core, "a red square", request=request, method=method)))
    given = {"steps": 4, "guidance_rescale": 0.5, "latent_image": text_model.latent(frames=count)}
    settings = {"long_video_settings": SHORT_QUEUE} if way == "fifo" else {"long_video": way}
    out = text_model.sample(**settings, **given)
    assert out.shape[0] == count
    decoded = core.decode((out * SCALE).transpose(0, 1)[None])
    assert relative(decoded, expected) < EXACT


def test_settings_of_a_method_take_the_place_of_its_name(comfy, base, checkpoints, text_model):
    """Those of the node are read by vc_core alike."""
    skip_without("combos with inputs of their own")
    asked = {"method": "continue", "window": 12, "overlap": 3, "correct": 0.5}
    (method,) = comfy.call("VideoCrafterLongVideo", method=asked).values
    assert method == Continue(window=12, overlap=3, correct=0.5)
    given = {"steps": 2, "eta": 0.0, "latent_image": text_model.latent(frames=20), "long_video": "loop"}
    out = text_model.sample(long_video_settings=method, **given)
    core = crafter(base, checkpoints["text"])
    request = replace(REQUEST, frames=20, sampling=Sampling(steps=2, eta=0.0))
    expected = torch.stack(list(frames(core, "a red square", request=request, method=method)))
    assert relative(core.decode((out * SCALE).transpose(0, 1)[None]), expected) < EXACT
    with pytest.raises(UserError, match="overlap of continue is 0"):
        comfy.call("VideoCrafterLongVideo", method={**asked, "overlap": 0})


def test_the_nodes_defaults_are_those_of_the_methods(comfy):
    """Of every parameter of every method, and so are the ranges; vc_core's tests hold the command line to the same."""
    skip_without("combos with inputs of their own")
    sampler = comfy.classes["VideoCrafterKSampler"].INPUT_TYPES()["optional"]
    assert sampler["long_video"][1]["options"] == list(METHODS)
    options = comfy.classes["VideoCrafterLongVideo"].INPUT_TYPES()["required"]["method"][1]["options"]
    assert [option["key"] for option in options] == NAMES
    for option in options:
        widgets = {"free_init": sampler["free_init"], **option["inputs"]["required"]}
        parameters = {item.name: item for item in METHODS[option["key"]].parameters()}
        assert parameters.keys() <= widgets.keys() <= parameters.keys() | {"free_init"}
        for name, item in parameters.items():
            widget = widgets[name][1]
            assert widget["default"] == item.default
            assert (widget.get("min", 0), widget.get("max")) == (item.low or 0, item.high) or item.choices
            assert widget.get("options") == (list(item.choices) or None)
    chosen = comfy.module("nodes.long").chosen
    spec = SimpleNamespace(model=SimpleNamespace(spec=None))
    for name, method in METHODS.items():
        assert chosen(name, None, 0, spec, 100) == method().settled(16)


@pytest.mark.weightless
@pytest.mark.parametrize("way", ["off", "freenoise", "windows"])
def test_rounds_of_freeinit_are_those_of_vc_core(base, checkpoints, text_model, way):
    core = crafter(base, checkpoints["text"])
    request = replace(REQUEST, frames=20, sampling=Sampling(steps=4, eta=0.0))
    expected = torch.stack(list(frames(core, "a red square", request=request, method=METHODS[way](free_init=2))))
    given = {"steps": 4, "eta": 0.0, "latent_image": text_model.latent(frames=20), "long_video": way}
    out = text_model.sample(free_init=2, **given)
    assert relative(core.decode((out * SCALE).transpose(0, 1)[None]), expected) < EXACT
    assert relative(text_model.sample(**given), out) > 0.1


def test_each_clip_of_a_picture_begins_with_the_last_frame_of_the_one_before(continuing_model):
    """So the first 16 frames are the plain clip, and frame 16 is in the video once."""
    picture = torch.rand(1, 24, 16, 3, generator=torch.Generator().manual_seed(2))
    conditioning = {frames: continuing_model.continued(picture, frames=frames) for frames in (16, 20)}
    given = {"steps": 2, "scheduler": "trailing", "eta": 0.0}

    def sample(frames, **options):
        positive, negative, *_ = conditioning[frames]
        latent = continuing_model.latent(frames=frames)
        return continuing_model.sample(positive=positive, negative=negative, latent_image=latent, **given, **options)

    long = sample(20, long_video="continue")
    assert long.shape[0] == 20
    assert relative(long[:16], sample(16)) < EXACT
    assert float(long.diff(dim=0).abs().amax((1, 2, 3)).min()) > 0


@pytest.mark.weightless
def test_a_queue_goes_on_from_a_clip_of_any_sampler(text_model):
    """euler is DDIM without noise of its own, so the queue begins alike."""
    given = {"steps": 4, "eta": 0.0, "latent_image": text_model.latent(frames=17), "long_video_settings": SHORT_QUEUE}
    exact = text_model.sample(**given)
    other = text_model.sample(sampler_name="euler", **given)
    assert other.shape == exact.shape
    assert relative(other, exact) < 0.3


@pytest.mark.weightless
def test_freeinit_starts_other_samplers_at_the_same_level(text_model):
    """euler without noise of its own is DDIM, in every round."""
    given = {"steps": 4, "eta": 0.0, "latent_image": text_model.latent(frames=4), "free_init": 1}
    exact = text_model.sample(**given)
    assert relative(text_model.sample(sampler_name="euler", **given), exact) < 0.05


@pytest.mark.weightless
@pytest.mark.parametrize("way", NAMES)
@pytest.mark.parametrize("sampler", ["ddim_exact", "euler"])
def test_sixteen_frames_stay_what_they_are(text_model, way, sampler):
    settings = {"steps": 2, "latent_image": text_model.latent(frames=16), "sampler_name": sampler}
    assert torch.equal(text_model.sample(long_video=way, **settings), text_model.sample(**settings))


@pytest.mark.weightless
@pytest.mark.parametrize("noise", ["shuffled", "fresh"])
def test_noise_modes_count_for_every_sampler(comfy, text_model, noise):
    """Without any step that changes it: what the sampler starts from is what the mode says."""
    model = freenoise(comfy, text_model, window=8, stride=4, noise=noise)
    seen = []

    def watch(executor, start, *arguments, **keywords):
        seen.append(start.clone())
        return executor(start, *arguments, **keywords)

    import comfy.patcher_extension as extension

    model.add_wrapper_with_key(extension.WrappersMP.OUTER_SAMPLE, "watch", watch)
    text_model.sample(model, sampler_name="euler", steps=1, latent_image=text_model.latent(frames=16))
    (start,) = seen
    later, earlier = start[8:12], start[0:4]
    same = all(any(torch.equal(a, b) for b in earlier) for a in later)
    assert same == (noise == "shuffled")


def test_prompts_over_time_are_those_of_vc_core(comfy, text_model):
    first, second = text_model.text("a red square"), text_model.text("a blue circle")
    latent = text_model.latent(frames=20)
    ((text, values),) = comfy.call(
        "VideoCrafterPromptsOverTime", first=first, second=second, latent_image=latent
    ).values[0]
    assert torch.equal(text, text_over_time(torch.cat([first[0][0], second[0][0]]), 20)[0])
    assert values.keys() == first[0][1].keys()
    given = {"latent_image": latent, "steps": 2, "long_video": "freenoise"}
    both = text_model.sample(positive=[(text, values)], **given)
    assert not torch.equal(both, text_model.sample(positive=first, **given))
    three = comfy.call(
        "VideoCrafterPromptsOverTime", first=first, second=second, third=first, latent_image=latent
    ).values[0]
    assert torch.equal(three[0][0][-1], first[0][0][0])


@pytest.mark.weightless
def test_injection_is_that_of_vc_core(base, checkpoints, comfy, text_model):
    """Seventeen steps and more, so that all three parts of a run are in it."""
    request = replace(
        REQUEST, sampling=Sampling(steps=20, eta=0.0), windows=Windows(), then=("a blue circle",), frames=20
    )
    expected = to_frames(list(crafter(base, checkpoints["text"]).steps("a red square", request=request))[-1].x) / SCALE
    latent = text_model.latent(frames=20)
    given = {
        "first": text_model.text("a red square"),
        "second": text_model.text("a blue circle"),
        "latent_image": latent,
    }
    run = {"steps": 20, "eta": 0.0, "latent_image": latent, "long_video": "freenoise"}
    conditioning = comfy.call("VideoCrafterPromptsOverTime", injection=True, **given).values[0]
    assert relative(text_model.sample(positive=conditioning, **run), expected) < EXACT
    plain = comfy.call("VideoCrafterPromptsOverTime", **given).values[0]
    assert relative(text_model.sample(positive=plain, **run), expected) > 10 * EXACT


@pytest.mark.weightless
@pytest.mark.parametrize("way", ["continue", "windows"])
def test_prompts_over_time_reach_every_window(comfy, text_model, way):
    latent = text_model.latent(frames=24)
    first, second = text_model.text("a red square"), text_model.text("a blue circle")
    conditioning = comfy.call("VideoCrafterPromptsOverTime", first=first, second=second, latent_image=latent).values[0]
    given = {"steps": 2, "eta": 0.0, "latent_image": latent, "long_video": way}
    both, one = text_model.sample(positive=conditioning, **given), text_model.sample(positive=first, **given)
    assert relative(both[-8:], one[-8:]) > 3 * relative(both[:8], one[:8])


def test_windows_do_not_take_a_controlnet(comfy):
    from vc_core.denoising.windows import ContextWindows

    check = comfy.module("nodes.host.unet")._check_windows
    check({"output": []}, 16, ContextWindows())
    check(None, 20, ContextWindows())
    with pytest.raises(UserError, match="ControlNet"):
        check({"output": []}, 20, SimpleNamespace(size=16))


def test_what_cannot_be_done_is_said(comfy, text_model):
    text = text_model.text("a boat")
    with pytest.raises(UserError, match="stride"):
        freenoise(comfy, text_model, window=8, stride=9)
    with pytest.raises(UserError, match="noise mode"):
        freenoise(comfy, text_model, noise="pink")
    long = text_model.latent(frames=20)
    with pytest.raises(UserError, match=r"denoise of 0.5 .* long_video continue: .* Set denoise to 1"):
        text_model.sample(latent_image=long, long_video="continue", denoise=0.5)
    with pytest.raises(UserError, match="no long-video method 'stretch'"):
        text_model.sample(long_video="stretch")
    each = [(text[0][0].expand(20, -1, -1), {})]
    with pytest.raises(UserError, match="Prompts Over Time is not supported with long_video fifo"):
        text_model.sample(latent_image=long, long_video="fifo", positive=each)
    hinted = [(text[0][0], {"control": object()})]
    with pytest.raises(UserError, match="ControlNet is not supported with long_video fifo"):
        text_model.sample(latent_image=long, long_video="fifo", positive=hinted)
    with pytest.raises(UserError, match="free_init is not supported with long_video fifo"):
        text_model.sample(latent_image=long, long_video="fifo", free_init=1)
    with pytest.raises(UserError, match=r"denoise of 0.5 is not supported with free_init"):
        text_model.sample(free_init=1, denoise=0.5)
    with pytest.raises(UserError, match="free_init of off is 11; it should be 0 to 10"):
        text_model.sample(free_init=11)
    with pytest.raises(UserError, match="one encoded prompt"):
        comfy.call("VideoCrafterPromptsOverTime", first=text + text, second=text, latent_image=long)
    short = [(text[0][0][:, :5], {})]
    with pytest.raises(UserError, match="different shapes"):
        comfy.call("VideoCrafterPromptsOverTime", first=text, second=short, latent_image=long)


@pytest.mark.weightless
@pytest.mark.parametrize("way", NAMES)
def test_cancel_stops_a_long_run(comfy, text_model, way, monkeypatch):
    import comfy.model_management as management

    calls = []

    def cancelled():
        calls.append(0)
        if len(calls) == 30:
            raise management.InterruptProcessingException

    monkeypatch.setattr(management, "throw_exception_if_processing_interrupted", cancelled)
    with pytest.raises(management.InterruptProcessingException):
        text_model.sample(steps=50, latent_image=text_model.latent(frames=LONG), long_video=way)
    assert len(calls) == 30


def test_the_given_model_and_conditionings_are_left_alone(comfy, text_model):
    before = dict(text_model.model.model_options["transformer_options"])
    freenoise(comfy, text_model)
    assert text_model.model.model_options["transformer_options"] == before


def over_time(comfy, loaded, frames):
    """Two prompts spread over a clip of so many frames."""
    first, second = loaded.text("a red square"), loaded.text("a blue circle")
    latent = loaded.latent(frames=frames)
    return comfy.call("VideoCrafterPromptsOverTime", first=first, second=second, latent_image=latent).values[0]


@pytest.mark.weightless
@pytest.mark.parametrize("way", ["off", "freenoise", "continue", "windows"])
@pytest.mark.parametrize(("texts", "frames"), [(16, 32), (32, 16), (24, 18)])
@pytest.mark.parametrize("which", ["positive", "negative"])
def test_prompts_over_time_of_another_length_are_refused(comfy, text_model, way, texts, frames, which):
    given = {which: over_time(comfy, text_model, texts), "latent_image": text_model.latent(frames=frames)}
    with pytest.raises(UserError, match=f"latent has {frames} frames, but the {which} .* text for each of {texts}"):
        text_model.sample(long_video=way, **given)


@pytest.mark.parametrize("windows", [False, True], ids=["whole", "context windows"])
def test_core_samplers_refuse_prompts_over_time_of_another_length(comfy, text_model, windows):
    model = text_model.model
    if windows:
        model = comfy.call("VideoCrafterContextWindows", model=model).values[0]
    settings = {"seed": 3, "steps": 1, "cfg": 1.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    settings |= {"positive": over_time(comfy, text_model, 24), "negative": text_model.text("")}
    with pytest.raises(
        UserError, match="latent has 16 frames, but the positive conditioning has a text for each of 24"
    ):
        comfy.call("KSampler", model=model, latent_image=text_model.latent(frames=16), **settings)
    out = comfy.call("KSampler", model=model, latent_image=text_model.latent(frames=24), **settings).values[0]
    assert torch.isfinite(out["samples"]).all()


@pytest.mark.weightless
def test_long_videos_of_windows_in_windows_are_refused(comfy, text_model):
    windows = comfy.call("VideoCrafterContextWindows", model=text_model.model).values[0]
    core = comfy.call("ContextWindowsManual", model=text_model.model).values[0]
    inside = freenoise(comfy, text_model)
    for way in NAMES:
        for model, name in ((windows, "Context Windows"), (core, "Context Windows"), (inside, "FreeNoise")):
            with pytest.raises(UserError, match=f"windows of .*{name}.*long_video {way}"):
                text_model.sample(model, latent_image=text_model.latent(frames=20), long_video=way, steps=1)
    short = {"latent_image": text_model.latent(frames=16), "steps": 1, "eta": 0.0}
    assert torch.equal(text_model.sample(windows, long_video="windows", **short), text_model.sample(**short))


def test_nodes_refuse_windows_in_windows(comfy, text_model):
    windows = comfy.call("VideoCrafterContextWindows", model=text_model.model).values[0]
    with pytest.raises(UserError, match="windows of a Context Windows node, and VideoCrafter FreeNoise"):
        comfy.call("VideoCrafterFreeNoise", model=windows)
    inside = freenoise(comfy, text_model)
    with pytest.raises(UserError, match="windows of VideoCrafter FreeNoise, and VideoCrafter Context Windows"):
        comfy.call("VideoCrafterContextWindows", model=inside)
    comfy.call("VideoCrafterFreeNoise", model=inside, window=8, stride=2)  # a second one takes the place of the first


def test_a_run_refuses_windows_in_windows(comfy, text_model):
    """Core's node does not see ours."""
    skip_without("core's context windows over our frames")
    both = comfy.call("ContextWindowsManual", model=freenoise(comfy, text_model)).values[0]
    settings = {"seed": 3, "steps": 1, "cfg": 1.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    settings |= {"positive": text_model.text("a boat"), "negative": text_model.text("")}
    with pytest.raises(UserError, match="both ComfyUI's context windows and windows of VideoCrafter"):
        comfy.call("KSampler", model=both, latent_image=text_model.latent(frames=20), **settings)
