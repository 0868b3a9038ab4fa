"""The video UNet's relatives, DynamiCrafter, T2V-Turbo and FreeNoise's long clips, against their references."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_models import unet_spec
from network.tiny import TINY
from torch import Tensor

from golden_cases import COMMITTED, cases, fps_of, load, relative_error, row
from vc_core.conditioning import text_over_time, tokens_for_frames
from vc_core.conditions import Conditioning
from vc_core.errors import UserError
from vc_core.network.call import PLAIN, Pass
from vc_core.network.layers import scale_sinusoid
from vc_core.network.unet import VideoUNet
from vc_core.specs import Windows

TOLERANCE = 3e-5  # float32 against float64 is 3e-6 .. 1.1e-5
TOLERANCE_EPS = 1e-5  # the cases with tiny residual streams: 4e-7
SCALE_ROUNDING = 1.5e-3  # of angles up to 14000 rad in float32: one bit of the processor's exp is worth 1e-3
TEXT_TOKENS = 77


def network(path: Path) -> tuple[VideoUNet, dict[str, Any], dict[str, Tensor], float]:
    """The case's network, its description, its tensors and the error that may be."""
    info, weights, t = load(path)
    model = VideoUNet(unet_spec(info["config"]), device="meta").eval()
    model.load_state_dict(weights, assign=True)
    assert info["calls"]
    return model, info, t, TOLERANCE_EPS if info["weights"]["profile"] == "small" else TOLERANCE


def windows_of(numbers: Sequence[int]) -> Windows:
    """The reference's windows, which leave frames over where the stride does not fit."""
    size, stride = numbers
    return Windows(size=size, stride=stride, cover_rest=False)


@pytest.mark.golden
@pytest.mark.parametrize("path", cases("dc_unet", "viewcrafter_unet"), ids=lambda path: path.stem)
@torch.no_grad()
def test_golden_dynamicrafter(path: Path) -> None:
    model, info, t, tolerance = network(path)
    own = model.spec.latent_channels
    for call in info["calls"]:
        name = call["name"]
        x, context = t[f"{name}/in/x"], t[f"{name}/in/context"]
        image = tokens_for_frames(context[:, TEXT_TOKENS:], x.shape[2], published=True)
        conditioning = Conditioning(context[:, :TEXT_TOKENS], image, fps_of(call, t), x[:, own:])
        y = model(x[:, :own], t[f"{name}/in/timesteps"], conditioning)
        assert relative_error(y, t[f"{name}/out/y"]) < tolerance, name


@pytest.mark.golden
@pytest.mark.parametrize("path", cases("dc_unet", folder=COMMITTED), ids=lambda path: path.stem)
@torch.no_grad()
def test_tokens_of_other_lengths_stay_with_their_frames(path: Path) -> None:
    """Clips that are not 16 frames long: tokens resampled over time keep nearer to those of the nearest trained frame
    than all tokens for every frame do, which the reference falls back to and which no frame was trained with."""
    model, info, t, _ = network(path)
    sixteen = [call for call in info["calls"] if t[f"{call['name']}/in/context"].shape[1] == TEXT_TOKENS + 16 * 16]
    if not sixteen:
        pytest.skip("this case has no tokens for 16 frames")
    name = sixteen[0]["name"]
    context, shape = t[f"{name}/in/context"][:1], t[f"{name}/in/x"].shape
    image = context[:, TEXT_TOKENS:].unflatten(1, (16, 16))
    assert torch.equal(tokens_for_frames(image, 16), image)
    for frames in (8, 24):
        x = torch.randn(1, 8, frames, *shape[3:], generator=torch.Generator().manual_seed(1))
        nearest = image[:, torch.linspace(0, 15, frames).round().long()]
        conditioning = Conditioning(context[:, :TEXT_TOKENS], concat=x[:, 4:])
        near, ours, others = (
            model(x[:, :4], t[f"{name}/in/timesteps"][:1], replace(conditioning, image=tokens))
            for tokens in (nearest, tokens_for_frames(image, frames), image.flatten(1, 2))
        )
        assert relative_error(ours, near) < 0.85 * relative_error(others, near), frames


@pytest.mark.golden
@pytest.mark.parametrize("path", cases("turbo_unet"), ids=lambda path: path.stem)
@torch.no_grad()
def test_golden_turbo(path: Path) -> None:
    model, info, t, tolerance = network(path)
    for call in info["calls"]:
        name = call["name"]
        x = t[f"{name}/in/x"]
        scales = {kind: row(call.get(kind), len(x)) for kind in ("guidance", "motion")}
        for kind, stored in (("guidance", "timestep_cond"), ("motion", "motion_cond")):
            scale = scales[kind]
            if scale is not None:
                width = t[f"{name}/in/{stored}"].shape[1]
                embedding = scale_sinusoid(scale, width)
                torch.testing.assert_close(embedding, t[f"{name}/in/{stored}"], atol=SCALE_ROUNDING, rtol=0)
        conditioning = Conditioning(t[f"{name}/in/context"], fps=fps_of(call, t), **scales)
        y = model(x, t[f"{name}/in/timesteps"], conditioning)
        assert relative_error(y, t[f"{name}/out/y"]) < tolerance, name


@pytest.mark.golden
@pytest.mark.parametrize("path", cases("freenoise_unet"), ids=lambda path: path.stem)
@torch.no_grad()
def test_golden_windows(path: Path) -> None:
    """The reference leaves frames over when the stride does not fit; there, and only there, ours must do so on
    request to be equal."""
    model, info, t, tolerance = network(path)
    for call in info["calls"]:
        name = call["name"]
        windows = None
        if call["window"]:
            windows = windows_of(call["window"])
            assert [list(span) for span in windows.spans(call["t"])] == call["views"], name
            assert windows.weights(windows.size) == call["weights_per_window"], name
        conditioning = Conditioning(t[f"{name}/in/context"], fps=fps_of(call, t))
        given = (t[f"{name}/in/x"], t[f"{name}/in/timesteps"], conditioning)
        y = model(*given, Pass(windows=windows))
        assert relative_error(y, t[f"{name}/out/y"]) < tolerance, name
        if windows is not None and (call["t"] - windows.size) % windows.stride == 0:
            assert torch.equal(y, model(*given, Pass(windows=replace(windows, cover_rest=True)))), name


@pytest.mark.golden
@pytest.mark.parametrize("path", cases("freenoise_mp_unet"), ids=lambda path: path.stem)
@torch.no_grad()
def test_golden_prompts_over_time(path: Path) -> None:
    model, info, t, tolerance = network(path)
    for call in info["calls"]:
        name = call["name"]
        text = text_over_time(t["prompts"], call["t"])
        torch.testing.assert_close(text[0, :, 0], t[f"{name}/frame_context_first_token"], atol=1e-6, rtol=0)
        first, *others = call["views"]
        windows = windows_of((first[1] - first[0], others[0][0] if others else 1))
        assert [list(span) for span in windows.spans(call["t"])] == call["views"], name
        early = t["prompts"][-1:] if call["use_injection"] else None
        conditioning = Conditioning(text, fps=fps_of(call, t), early_text=early)
        y = model(t[f"{name}/in/x"], t[f"{name}/in/timesteps"], conditioning, Pass(windows=windows))
        assert relative_error(y, t[f"{name}/out/y"]) < tolerance, name


def tiny(**changes: Any) -> VideoUNet:
    torch.manual_seed(0)
    model = VideoUNet(replace(TINY, **changes)).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("alpha"):
            torch.nn.init.constant_(parameter, 0.7)
    return model


def inputs(f: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 4, f, 5, 7, generator=generator)
    return x, torch.tensor([300, 600]), torch.randn(2, 13, 11, generator=generator)


@torch.no_grad()
def test_the_concatenated_latent_is_needed_fits_and_matters() -> None:
    model = tiny(in_channels=8, concat_channels=4)
    x, when, text = inputs()
    with pytest.raises(UserError, match="needs the latent of an image beside the noised latent, but there is none"):
        model(x, when, Conditioning(text))
    with pytest.raises(UserError, match=r"is \(2, 4, 2, 5, 7\), but this model expects the shape \(2, 4, 3, 5, 7\)"):
        model(x, when, Conditioning(text, concat=x[:, :, 1:]))
    with pytest.raises(UserError, match="this model does not use one"):
        tiny()(x, when, Conditioning(text, concat=x))
    one, other = (model(x, when, Conditioning(text, concat=scale * x)) for scale in (1, 0))
    assert not torch.allclose(one, other, atol=1e-3)


@torch.no_grad()
def test_the_gate_scales_the_image_attention() -> None:
    x, when, text = inputs()
    image = torch.randn(2, 5, 11, generator=torch.Generator().manual_seed(4))
    open_, closed = tiny(image_attention=True), tiny(image_attention=True, image_gate=True)
    closed.load_state_dict({**closed.state_dict(), **open_.state_dict()})
    for name, parameter in closed.named_parameters():
        if name.endswith("alpha"):
            parameter.fill_(-20.0)  # tanh(-20) + 1 is 0
    without = open_(x, when, Conditioning(text))
    torch.testing.assert_close(closed(x, when, Conditioning(text, image)), without, atol=2e-5, rtol=0)


@pytest.mark.parametrize("relative", [False, True], ids=["plain", "relative"])
@pytest.mark.parametrize("frames", [1, 7, 16])
@torch.no_grad()
def test_one_window_is_no_windows(frames: int, relative: bool) -> None:
    model = tiny(temporal_conv=not relative, relative_position=relative)
    x, when, text = inputs(frames)
    windows = Pass(windows=Windows())
    assert torch.equal(model(x, when, Conditioning(text), windows), model(x, when, Conditioning(text)))


@pytest.mark.parametrize("size", [1, 8, 9, 16, 32])
def test_windows_cover_every_frame(size: int) -> None:
    for stride in range(1, size + 1):
        windows = Windows(size=size, stride=stride)
        for frames in range(1, 201, 7):
            spans = windows.spans(frames)
            weight = [0.0] * frames
            for first, end in spans:
                assert 0 <= first < end <= frames
                assert end - first == min(size, frames)
                for i, share in enumerate(windows.weights(end - first)):
                    weight[first + i] += share
            assert min(weight) > 0
            assert spans == sorted(set(spans))


@torch.no_grad()
def test_a_constant_is_left_alone_by_the_fusion_of_windows() -> None:
    """Equal frames attend to equal frames in every window, so windows must change nothing, at any length."""
    model = tiny(temporal_conv=False)
    x, when, text = inputs(1)
    clip = x.expand(-1, -1, 37, -1, -1)
    plain, windows = (model(clip, when, Conditioning(text), run) for run in (PLAIN, Pass(windows=Windows())))
    torch.testing.assert_close(windows, plain, atol=2e-5, rtol=0)


def test_windows_that_leave_frames_out_are_refused() -> None:
    with pytest.raises(UserError, match="stride from 1 to the size"):
        Windows(size=8, stride=9)
