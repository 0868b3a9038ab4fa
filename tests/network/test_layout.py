"""Passes on a GPU, traced without one: no map changes its memory layout, and what is launched."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fused_passes import Allocating, Attention, Trace
from pretended import PretendedCuda

from benchmarks.live import LiveBytes
from vc_core.autoencoder.autoencoder import Autoencoder
from vc_core.conditions import Conditioning
from vc_core.network import parts
from vc_core.network.adapters.contexts import KeptContexts
from vc_core.network.call import Pass
from vc_core.network.unet import VideoUNet
from vc_core.specs import DYNAMICRAFTER, PRESETS, Windows

pytest.importorskip("triton", reason="its kernels say how they are cut into launches")
pytestmark = pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")

VC2, LARGE = PRESETS["videocrafter2_512"], PRESETS["videocrafter1_t2v_1024"]
HALF = torch.float16


@pytest.fixture
def trace(monkeypatch):
    counted = Trace()
    Allocating(counted).install(monkeypatch)
    return counted


def on_cuda(network):
    network = network.half().to_empty(device="cuda").eval().requires_grad_(False)
    network.fused.arrange(network)
    return network


def traced(trace: Trace, spec: Any, size: tuple[int, int, int], windows: Windows | None = None, texts: int = 1) -> None:
    """A pass of a run that has begun: keys and values of the conditionings are known."""
    with PretendedCuda(), torch.no_grad(), Attention(trace):
        network = on_cuda(VideoUNet(spec.unet, device="meta"))
        network.budget.values = parts.WHOLE
        x = torch.zeros(1, 4, *size, device="cuda", dtype=HALF)

        def tokens(rows: int, count: int) -> torch.Tensor:
            return torch.zeros(rows, count, spec.unet.context_dim, device="cuda", dtype=HALF)

        conditioning = Conditioning(
            text=tokens(texts, 77),
            image=tokens(texts * size[0], 16) if spec.unet.image_attention else None,
            concat=x if spec.unet.concat_channels else None,
        )
        inputs = (x, torch.zeros(1, device="cuda"), conditioning, Pass(windows=windows, adapters=(KeptContexts(),)))
        network(*inputs)
        trace.clear()
        with trace:
            network(*inputs)


@pytest.mark.parametrize(
    ("spec", "size", "most"), [(VC2, (16, 40, 64), 992), (LARGE, (16, 72, 128), 835)], ids=["VC2", "T2V-1024"]
)
def test_a_pass_changes_no_layout_and_launches_at_most(trace, spec, size, most):
    traced(trace, spec, size)
    assert list(trace.layouts) == [f"clone {(size[0], 4, *size[1:])}"], "the latents that come in"
    assert sum(trace.launches.values()) <= most


@pytest.mark.parametrize("spec", [VC2, LARGE], ids=["VC2", "T2V-1024"])
@pytest.mark.parametrize("windows", [Windows(), Windows(spectral=True)], ids=["FreeNoise", "FreeLong"])
def test_windows_are_views(trace, spec, windows):
    traced(trace, spec, (24, 8, 8), windows)
    assert list(trace.layouts) == ["clone (24, 4, 8, 8)"]


@pytest.mark.parametrize("spec", [VC2, DYNAMICRAFTER], ids=["VC2", "DynamiCrafter"])
def test_several_conditionings_and_pictures_are_views(trace, spec):
    traced(trace, spec, (16, 8, 8), texts=2)
    assert list(trace.layouts) == [f"clone (16, {spec.unet.in_channels}, 8, 8)"]


def test_the_autoencoder_changes_no_layout(trace):
    with PretendedCuda(), torch.no_grad(), Attention(trace):
        model = on_cuda(Autoencoder(VC2.autoencoder, device="meta"))
        latents = torch.zeros(2, 4, 40, 64, device="cuda", dtype=HALF)
        pixels = torch.zeros(2, 3, 320, 512, device="cuda", dtype=HALF)
        with trace:
            model.decode_unscaled(latents)
            model.moments(pixels)
    assert list(trace.layouts) == ["clone (2, 4, 40, 64)", "clone (2, 3, 320, 512)"]


@pytest.mark.parametrize(("size", "gib"), [((16, 40, 64), 80), ((16, 72, 128), 80), ((16, 72, 128), 2.2)])
def test_a_pass_takes_no_more_than_is_planned(trace, size, gib):
    """With whole maps and with parts; kernels allocate nothing beside their results."""
    free, values = int(gib * 2**30), size[0] * size[1] * size[2]
    with PretendedCuda(), torch.no_grad(), Attention(trace):
        network = on_cuda(VideoUNet(LARGE.unet, device="meta"))
        network.fit(free, values, 2)
        x = torch.zeros(1, 4, *size, device="cuda", dtype=HALF)
        text = torch.zeros(1, 77, LARGE.unet.context_dim, device="cuda", dtype=HALF)
        with LiveBytes("cuda") as live:
            network(x, torch.zeros(1, device="cuda"), Conditioning(text))
    assert (network.budget.values == parts.WHOLE) == (gib > 3)
    assert live.most < min(free / parts.KERNELS, 2 * (parts.HELD_AT_MOST * 320 * values + parts.MOST_WIDE))
