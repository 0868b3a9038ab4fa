"""The whole way for DynamiCrafter, T2V-Turbo and FreeNoise, from files, prompts and pictures to frames."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_models import conditions, consistency_levels, crafter_of, sampling_of
from torch import Tensor

from golden_cases import (
    RecordedNoise,
    allowed,
    cases,
    check_frames,
    fact,
    load,
    relative_error,
    row,
    step_noise,
    stored,
)
from vc_core.conditioning import text_over_time, tokens_for_frames
from vc_core.conditions import Conditioning
from vc_core.denoising import SAMPLERS, Guidance
from vc_core.denoising.denoiser import denoiser
from vc_core.denoising.freenoise import reordered, with_motion_injection
from vc_core.denoising.guidance import guide
from vc_core.frames.fitting import fit, image_latent
from vc_core.frames.views import clip_of_views
from vc_core.image_latents import latent_of, latent_of_views
from vc_core.pipeline import GREY, Request, VideoCrafter
from vc_core.specs import Windows

CONDITIONS = 1e-4  # bicubic coordinates in float32 for the image tokens; the latent and the text are at 1e-5
LATENT = 1e-5
ONE_STEP = 2e-5  # float32 against float64 is 5e-8 .. 5e-6
FIRST_STEP_WITH_NOISE = 3e-4  # from t = 999 with eta 1 rounding stands where the exact value is 0
SHORT = 1e-4  # T2V-Turbo
LONG, PROMPTS = 1e-3, 1e-2  # FreeNoise, at least and at most: of 1e-6 more noise come 5e-5, with two prompts 7e-4
TEXT = 77


def unit(picture: Tensor) -> Tensor:
    """3 h w in -1..1 -> h w 3 in 0..1"""
    return (picture.permute(1, 2, 0) + 1) / 2


def prompts_of(info: dict[str, Any]) -> list[str]:
    return info["prompts"] if "prompts" in info else [info["prompt"]]


def expanded(conditioning: Conditioning, clips: int) -> Conditioning:
    """A conditioning of one clip as that of several."""
    return (
        conditioning
        if len(conditioning.text) == clips
        else replace(conditioning, text=conditioning.text.expand(clips, *conditioning.text.shape[1:]))
    )


@pytest.mark.golden
@pytest.mark.parametrize("path", cases("dc_e2e", "viewcrafter_e2e"), ids=lambda path: path.stem)
@torch.inference_mode()
def test_golden_dynamicrafter_and_viewcrafter(path: Path, tmp_path: Path) -> None:
    info, weights, t = load(path)
    crafter = crafter_of(info, weights, t, tmp_path)
    if info["kind"] == "viewcrafter_e2e":
        check_views(crafter, info, t)
        return
    size = (info["height"], info["width"])
    whole = [t[key].float() / 255 for key in sorted(t) if key.startswith("image/u8_")]
    for number, picture in enumerate(whole):
        fitted = fit(picture, *size, "published")
        torch.testing.assert_close(fitted, unit(t[f"image/cropped_{number}"][0]), atol=2e-6, rtol=0)
    assert info["calls"]
    for call in info["calls"]:
        pictures = [
            unit(t.get(f"{call['name']}/cropped_{number}", t[f"image/cropped_{number}"])[0])
            for number in range(len(whole))
        ]
        check_concat(crafter, call, pictures, t)
        seen = pictures[0] if call["path"] == "cli" else whole[0]  # the web page shows the encoder the whole picture
        check_contexts(crafter, call, info, t, seen)
        check_steps(crafter, info, call, t)


def check_views(crafter: VideoCrafter, info: dict[str, Any], t: dict[str, Tensor]) -> None:
    """Every frame has a latent of its own, and the encoder of the image sees the first."""
    assert info["calls"]
    for call in info["calls"]:
        views = t[f"render/u8_{call['frames']}"].float() / 255
        noise, golden = t[f"{call['name']}/posterior_noise"], t[f"{call['name']}/c_concat"]
        assert torch.equal(clip_of_views(views, views[0], height=info["height"], width=info["width"]), views)
        ours = latent_of_views(crafter.parts, views, RecordedNoise(noise.split(1)))
        assert relative_error(ours, golden) < LATENT, call["name"]
        check_contexts(crafter, {**call, "text_input": True}, info, t, views[0])
        check_steps(crafter, info, call, t)


def check_concat(crafter: VideoCrafter, call: dict[str, Any], pictures: list[Tensor], t: dict[str, Tensor]) -> None:
    """The command draws noise for every frame and uses that of the ends; the web page draws for each picture."""
    noise, golden = t[f"{call['name']}/posterior_noise"], t[f"{call['name']}/c_concat"]
    ends = [pictures[0], *{"i2v": [], "interp": pictures[1:2], "loop": pictures[:1]}[call["mode"]]]
    at = [0, 0 if call["path"] == "gradio" and call["mode"] == "loop" else len(noise) - 1]
    latents = [
        latent_of(crafter.parts, picture, RecordedNoise([noise[place : place + 1]]))
        for picture, place in zip(ends, at, strict=False)
    ]
    ours = image_latent(latents[0], golden.shape[2], *latents[1:])
    assert relative_error(ours.expand_as(golden), golden) < LATENT, call["name"]


def check_contexts(
    crafter: VideoCrafter, call: dict[str, Any], info: dict[str, Any], t: dict[str, Tensor], picture: Tensor
) -> None:
    prompts = prompts_of(info)
    given = {
        "context": (prompts if call["text_input"] else [""] * len(prompts), picture),
        "uncond_context": ([""] * len(prompts), GREY),
        "img_nonetext_context": ([""] * len(prompts), picture),
    }
    assert f"{call['name']}/context" in t
    for which, (texts, shown) in given.items():
        golden = t.get(f"{call['name']}/{which}")
        if golden is not None:
            ours = conditions(crafter, texts, [shown], None)
            assert ours.image is not None
            joined = torch.cat([ours.text, tokens_for_frames(ours.image, 0, published=True)], dim=1)
            assert relative_error(joined, golden) < CONDITIONS, (call["name"], which)


def check_steps(crafter: VideoCrafter, info: dict[str, Any], call: dict[str, Any], t: dict[str, Tensor]) -> None:
    """Each step from the golden latent before it: guided v-prediction with random weights multiplies rounding errors
    by 3 to 9, which would hide mistakes at the end of a run. Then the frames of the golden end."""
    name, settings = call["name"], sampling_of(call)
    schedule = crafter.schedule(Request(image_cfg=settings.guidance.image_scale))
    start, concat = t[f"{name}/x_T"], t[f"{name}/c_concat"]

    def golden_conditioning(which: str) -> Conditioning | None:
        context = t.get(f"{name}/{which}")
        if context is None:
            return None
        image = tokens_for_frames(context[:, TEXT:], start.shape[2], published=True)
        return Conditioning(
            text=context[:, :TEXT], image=image, fps=row(fact("fs", call, info), len(start)), concat=concat
        )

    positive = golden_conditioning("context")
    assert positive is not None
    given = {
        "positive": positive,
        "negative": golden_conditioning("uncond_context"),
        "image_only": golden_conditioning("img_nonetext_context"),
    }
    predict = guide(crafter.predict, given, settings.guidance)
    denoise = denoiser(predict, schedule.prediction)
    levels = settings.levels(schedule)
    assert [level.timestep for level in levels[:-1]] == call["t"]
    count = fact("n_calls", call, default=len(call["t"]))
    noise = step_noise(t.get(f"{name}/noise"), start, count, call["eta"])
    for index in range(count):
        x, recorded = start if index == 0 else t[f"{name}/x"][index - 1], RecordedNoise([noise[index]])
        step = next(SAMPLERS["ddim"](denoise, x, levels[index : index + 2], recorded, call["eta"]))
        tolerance = FIRST_STEP_WITH_NOISE if call["t"][index] == 999 and call["eta"] else ONE_STEP
        assert relative_error(step.x, t[f"{name}/x"][index]) < tolerance, (name, index)
    frames = t.get(f"{name}/video_u8")  # 3 f h w, of one clip
    if frames is not None:
        check_frames(crafter.decode(t[f"{name}/x"][-1]), frames, call.get("video_u8_frames"))


@pytest.mark.golden
@pytest.mark.parametrize("path", cases("turbo_e2e"), ids=lambda path: path.stem)
@torch.inference_mode()
def test_golden_turbo(path: Path, tmp_path: Path) -> None:
    info, weights, t = load(path)
    crafter = crafter_of(info, weights, t, tmp_path)
    assert info["calls"]
    for call in info["calls"]:
        name, x = call["name"], t[f"{call['name']}/x_T"]
        share = fact("percentage", call, info)
        moving = crafter if share is None else with_motion_share(crafter, share)
        conditioning = replace(
            conditions(crafter, prompts_of(info), [None], fact("fps", call, info)),
            guidance=row(fact("w", call, info), len(x)),
            motion=row(motion_of(call, info), len(x)),
        )
        levels = consistency_levels(crafter.parts.schedule, call["steps"], fact("origin", call, info, default=200))
        assert [level.timestep for level in levels[:-1]] == call["t"]
        denoise = denoiser(guide(moving.predict, {"positive": conditioning}, Guidance(scale=1)), "eps")
        recorded = RecordedNoise(t.get(f"{name}/noise", []))
        steps = list(SAMPLERS["lcm"](denoise, x, levels, recorded, 0.0))
        for step in steps:
            assert relative_error(step.denoised, t[f"{name}/denoised"][step.index]) < SHORT, (name, step.index)
            if step is not steps[-1]:
                assert relative_error(step.x, t[f"{name}/x"][step.index]) < SHORT, (name, step.index)
        for latents, golden in zip(steps[-1].x, t[f"{name}/video_u8"], strict=True):
            check_frames(crafter.decode(latents[None]), golden, call.get("video_u8_frames"))


def motion_of(call: dict[str, Any], info: dict[str, Any]) -> Any:
    """The motion guidance of a run, under the pipeline's name or the network's; None where it is not used."""
    if not fact("use_motion_cond", call, info, default=True):
        return None
    return fact("motion_gs", call, info, default=fact("motion", call, info))


def with_motion_share(crafter: VideoCrafter, share: float) -> VideoCrafter:
    """The same model, whose motion guidance acts in another share of the noise."""
    spec = crafter.parts.spec
    defaults = replace(spec.defaults, motion_share=share)
    return VideoCrafter(replace(crafter.parts, spec=replace(spec, defaults=defaults)))


@pytest.mark.golden
@pytest.mark.parametrize("path", cases("freenoise_e2e"), ids=lambda path: path.stem)
@torch.inference_mode()
def test_golden_freenoise(path: Path, tmp_path: Path) -> None:
    info, weights, t = load(path)
    crafter = crafter_of(info, weights, t, tmp_path)
    texts = conditions(crafter, info["prompts"], [None], None).text
    assert relative_error(texts, t["text/emb"]) < LATENT
    assert info["calls"]
    for call in info["calls"]:
        size, stride = fact("window", call, info)
        windows = Windows(size=size, stride=stride, cover_rest=False)  # as the published code
        orders = [[i - g * stride for i in row] for g, row in enumerate(call["shuffled_source_lists"])]
        given, golden = stored(t, call, "noise_before"), stored(t, call, "x_T")
        assert given is not None
        assert golden is not None
        x = reordered(given, windows, orders)
        assert torch.equal(x, golden)
        several = fact("mp", call, {"mp": info.get("multi_prompt", False)})
        if not several:
            x = x.expand(len(texts), *x.shape[1:])
        fps = row(fact("fps", call, info), len(x))
        conditioning = Conditioning(text=texts, fps=fps)
        if several:
            conditioning = replace(conditioning, text=text_over_time(texts, x.shape[2]), early_text=texts[-1:])
        negative = expanded(replace(crafter.condition("", None, 1), fps=fps), len(x))
        settings, own = sampling_of(call), call.get("rel_l2_after_each_step_when_x_T_is_scaled_by_1_plus_1e6")
        levels = settings.levels(crafter.parts.schedule)
        assert [level.timestep for level in levels[:-1]] == call["t"]
        model = with_motion_injection(partial(crafter.predict, windows=windows))
        predict = guide(model, {"positive": conditioning, "negative": negative}, settings.guidance)
        denoise = denoiser(predict, crafter.parts.schedule.prediction, levels)
        noise = RecordedNoise(step_noise(stored(t, call, "noise"), x, len(levels) - 1, call["eta"]))
        latents, video = stored(t, call, "x"), stored(t, call, "video_u8")
        assert latents is not None
        assert video is not None
        for step in SAMPLERS["ddim"](denoise, x, levels, noise, call["eta"]):
            tolerance = allowed(LONG, PROMPTS, own, step.index)
            assert relative_error(step.x, latents[step.index]) < tolerance, (call["name"], step.index)
        for clip, frames in zip(latents[-1], video, strict=True):
            check_frames(crafter.decode(clip[None]), frames, call.get("video_u8_frames"))
