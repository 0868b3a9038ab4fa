"""Runs on a GPU, as far as a machine without one can show: each operation finds its tensors on one device."""

from __future__ import annotations

from dataclasses import replace

import pytest
import small_models as small
import torch
from pretended import PretendedCuda

from vc_core.denoising import Sampling, Source
from vc_core.denoising.windows import ContextWindows
from vc_core.long import frames
from vc_core.long.continuing import Continue
from vc_core.long.fifo import Fifo
from vc_core.pipeline import Request, VideoCrafter
from vc_core.specs import Windows

# A tensor without values lies nowhere in memory; where one lies is asked for to know it again.
pytestmark = pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")

SIZE = {"width": 64, "height": 64}
SAMPLING = Sampling(steps=2, spacing="trailing")
PICTURE = torch.rand(20, 30, 3, generator=torch.Generator().manual_seed(1))
SHAPES = {
    "text": small.TEXT_MODEL,
    "relative": small.RELATIVE_MODEL,
    "image": small.IMAGE_MODEL,
    "continuing": small.CONTINUING_MODEL,
    "turbo": small.TURBO_MODEL,
    "toon": small.TOON_MODEL,
}


@pytest.fixture(scope="module")
def crafter(request, tmp_path_factory):
    """A model of the kind asked for, with the least of layers, in fp16 on the device that is not there."""
    spec = SHAPES[request.param]
    spec = replace(
        spec,
        unet=replace(spec.unet, channel_mult=(1, 2), attention_levels=(1,)),
        autoencoder=replace(spec.autoencoder, channels=8, norm_groups=4),
        text_encoder=replace(spec.text_encoder, layers=2),
    )
    file = small.save(spec, tmp_path_factory.mktemp("devices") / "model.safetensors")
    with PretendedCuda():
        return VideoCrafter.load(file, device="cuda", dtype=torch.float16)


def test_two_devices_in_one_operation_are_found():
    with PretendedCuda():
        here, there = torch.ones(2), torch.ones(2, device="cuda")
        assert there.device.type == "cuda"
        assert float(here.sum()) == 2
        with pytest.raises(RuntimeError, match="devices"):
            here + there


@pytest.mark.parametrize(
    ("crafter", "wanted"),
    [
        (
            "text",
            {"guidance_rescale": 0.7, "temporal_guidance": 1.0, "sampling": replace(SAMPLING, sampler="dpmpp_2m_sde")},
        ),
        ("text", {"step_cache": "balanced", "guidance_cache": "balanced", "together": False, "start": 900}),
        ("text", {"frames": 8, "windows": Windows(size=4, stride=2), "then": ("a blue circle",)}),
        ("relative", {"frames": 8, "windows": Windows(size=4, stride=2, spectral=True)}),
        ("image", {"frames": 8, "context": ContextWindows(size=4, stride=2, order="looped"), "image_cfg": 1.5}),
        ("continuing", {"loop": True}),
        ("toon", {"frames": 6}),
        ("turbo", {"sampling": replace(SAMPLING, sampler="lcm", spacing="lcm")}),
    ],
    indirect=["crafter"],
)
def test_every_way_runs_on_another_device(crafter, wanted):
    picture = PICTURE if crafter.parts.image_encoder is not None else None
    with PretendedCuda():
        request = Request(**{"frames": 3, "sampling": SAMPLING, **SIZE, **wanted})
        out = crafter.generate("a red square", picture, request=request)
    assert out.shape[1:] == (64, 64, 3)
    assert out.dtype == torch.float32
    assert next(crafter.parts.unet.parameters()).device.type == "cuda"


@pytest.mark.parametrize("crafter", ["text"], indirect=True)
def test_video_to_video_runs_on_another_device(crafter):
    with PretendedCuda():
        latents = crafter.encode(torch.rand(3, 64, 64, 3))
        source = Source(latents, 0.6, mask=torch.ones(1, 1, 3, 8, 8))
        crafter.generate("a red square", request=Request(frames=3, sampling=SAMPLING, **SIZE), source=source)
    assert latents.device.type == "cuda"


@pytest.mark.parametrize("crafter", ["text"], indirect=True)
@pytest.mark.parametrize("method", [Fifo(window=2, partitions=1), Continue(window=2, overlap=1)])
def test_long_videos_run_on_another_device(crafter, method):
    request = Request(frames=3, sampling=SAMPLING, **SIZE)
    with PretendedCuda():
        assert len(list(frames(crafter, "a red square", request=request, method=method))) == 3
