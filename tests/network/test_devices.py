"""No tensor is made on the wrong device: what runs on a GPU is traced with tensors that claim to lie on one.

They hold no numbers, so no GPU is needed, and torch refuses to mix them with tensors of the CPU as a GPU would.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import small_models
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from vc_core.conditioning import Conditioning, build_image_tokens, text_over_time, tokens_for_frames
from vc_core.denoising.freeinit import mixed
from vc_core.denoising.guidance import Guidance, guide
from vc_core.denoising.windows import ContextWindows, in_windows
from vc_core.frames.autoencoder import Autoencoder
from vc_core.network import parts
from vc_core.network.unet import Deep, VideoUNet
from vc_core.specs import ModelSpec, Windows

DEVICE, KIND = "cuda", torch.float16
FRAMES = 10
MODELS = {
    "relative": small_models.RELATIVE_MODEL,
    "continuing": small_models.CONTINUING_MODEL,
    "turbo": small_models.TURBO_MODEL,
}


@pytest.fixture(autouse=True)
def without_numbers() -> Iterator[None]:
    with FakeTensorMode(), torch.inference_mode():
        yield


def there(*shape: int, kind: torch.dtype = KIND) -> Tensor:
    return torch.empty(*shape, device=DEVICE, dtype=kind)


def one_of(spec: ModelSpec) -> tuple[VideoUNet, dict[str, Any]]:
    """The network, and what a pass of 10 frames is given."""
    given: dict[str, Any] = {"x": there(1, 4, FRAMES, 6, 4), "timesteps": there(1, kind=torch.float32)}
    given |= {"text": there(1, 77, 48), "fps": there(1, kind=torch.float32)}
    if spec.unet.concat_channels:
        given |= {"image": there(1, FRAMES, 3, 48), "concat": there(1, 4, FRAMES, 6, 4)}
    if spec.unet.guidance_width:
        given |= {"guidance": there(1, kind=torch.float32), "motion": there(1, kind=torch.float32)}
    unet = replace(spec.unet, channel_mult=(1, 2), attention_levels=(0, 1))
    return VideoUNet(unet, device=DEVICE, dtype=KIND).requires_grad_(False), given


@pytest.mark.parametrize("kind", MODELS)
def test_passes_stay_on_their_device(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    unet, given = one_of(MODELS[kind])
    per_frame = {"timesteps": there(1, FRAMES, kind=torch.float32), "text": there(1, FRAMES, 77, 48)}
    deep = Deep(1)
    for options in (
        {},
        {"fps": None},
        {"temporal": False},
        {"windows": Windows(size=8)},
        {"windows": Windows(size=8, spectral=True)},
        per_frame,
        {**per_frame, "early_text": given["text"]},
        {"deep": deep},
        {"deep": deep},
    ):
        out = unet(**{**given, **options})
        assert (out.device.type, out.shape) == (DEVICE, given["x"].shape), options
    assert deep.features is not None
    monkeypatch.setattr(parts, "LARGE", 2**10)
    monkeypatch.setattr(parts, "PART", 2**9)
    assert unet(**given).device.type == DEVICE


@pytest.mark.parametrize("kind", MODELS)
def test_guidance_and_windows_stay_on_their_device(kind: str) -> None:
    unet, given = one_of(MODELS[kind])
    x, timestep = given.pop("x").float(), given.pop("timesteps")
    told = Conditioning(**given)

    def model(x: Tensor, timestep: Tensor, told: Conditioning, /, *, temporal: bool = True) -> Tensor:
        names = ("text", "image", "fps", "concat", "guidance", "motion")
        out: Tensor = unet(x.half(), timestep, **{name: getattr(told, name) for name in names}, temporal=temporal)
        return out

    windows = in_windows(model, ContextWindows(size=8, stride=8, order="looped"), lambda _: 3)
    guidance = Guidance(scale=3.0, rescale=0.7, temporal=1.0, image_scale=2.0)
    out = guide(windows, told, told, guidance, told)(x, timestep)
    assert (out.device.type, out.dtype, out.shape) == (DEVICE, torch.float32, x.shape)


def test_frames_and_tokens_stay_on_their_device() -> None:
    spec = small_models.CONTINUING_MODEL
    vae = Autoencoder(spec.autoencoder, device=DEVICE, dtype=KIND)
    assert spec.image_tokens is not None
    tokens = build_image_tokens(spec.image_tokens, device=DEVICE, dtype=KIND)
    made = {
        "decoded": vae.decode(there(5, 4, 3, 2)),
        "encoded": vae.encode(there(5, 3, 24, 16)),
        "sampled": vae.encode_with(there(1, 3, 24, 16), there(1, 4, 3, 2, kind=torch.float32)),
        "tokens": tokens_for_frames(tokens(there(1, 17, 64)), FRAMES),
        "texts": text_over_time(there(3, 77, 48), FRAMES),
        "start": mixed(there(1, 4, 8, 6, 4, kind=torch.float32), there(1, 4, 8, 6, 4, kind=torch.float32)),
    }
    assert {name: value.device.type for name, value in made.items()} == dict.fromkeys(made, DEVICE)
