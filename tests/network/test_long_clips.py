"""Long clips inside the network: work in parts, and FreeLong by its definition."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.live import fused, live_bytes
from golden_cases import relative_error
from vc_core.conditions import SINGLE, Conditioning
from vc_core.network.adapter import Adapter, Adapters, Place
from vc_core.network.attentions import OverTime
from vc_core.network.call import Call, Pass
from vc_core.network.fused import Fused
from vc_core.network.layers import Layers
from vc_core.network.parts import Budget
from vc_core.network.plan import Plan
from vc_core.network.spectral import blend_low, low_pass
from vc_core.network.transformers import TemporalTransformer
from vc_core.network.unet import VideoUNet
from vc_core.specs import UNetSpec, Windows

SMALL = {"model_channels": 8, "head_channels": 4, "norm_groups": 4, "context_dim": 6, "num_res_blocks": 1}
EXACT = 1e-5
"""Single precision; parts are added up in another order by some kernels."""


def small(**changes: Any) -> VideoUNet:
    torch.manual_seed(0)
    spec = UNetSpec(**{**SMALL, "channel_mult": (1, 2), "attention_levels": (0, 1), **changes})  # type: ignore[arg-type]
    return VideoUNet(spec).eval()


def given(frames: int, clips: int = 1, **changes: Any) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    return {
        "x": drawn(clips, 4, frames, 7, 6),
        "timesteps": torch.full((clips,), 500.0),
        "conditioning": Conditioning(
            **{"text": drawn(clips, 5, 6), **{name: drawn(*shape) for name, shape in changes.items()}}
        ),
    }


@pytest.mark.parametrize(
    ("changes", "clips", "extra"),
    [
        ({}, 1, {}),
        ({"relative_position": True, "temporal_conv": False}, 2, {}),
        ({"image_attention": True}, 2, {"image": (2, 21, 3, 6)}),
        ({"image_attention": True}, 2, {"text": (2, 21, 5, 6), "image": (2, 3, 6)}),
    ],
    ids=["plain", "relative, two clips", "a picture for each frame", "a text for each frame"],
)
@pytest.mark.parametrize("windows", [None, Windows(size=8, stride=3), Windows(size=8, spectral=True)])
def test_work_in_parts_equals_the_whole(
    changes: dict[str, Any], clips: int, extra: dict[str, Any], windows: Windows | None
) -> None:
    network, inputs = small(**changes), given(21, clips, **extra)
    if clips == 1:
        inputs["timesteps"] = torch.linspace(0, 900, 21)[None]
    with torch.no_grad():
        whole = network(**inputs, run=Pass(windows=windows))
        network.budget.values = 1000
        assert relative_error(network(**inputs, run=Pass(windows=windows)), whole) < EXACT


def test_adapters_that_ask_for_whole_clips_get_them() -> None:
    seen: set[int] = set()

    class Watch(Adapter):
        def before_attention(self, at: Place, x: Tensor) -> Tensor:
            if at.attention == "text":
                seen.add(len(x))
            return x

    watch = Watch()
    network, inputs = small(), given(21)
    network.budget.values = 1000
    with torch.no_grad():
        network(**inputs, run=Pass(adapters=(watch,)))
        assert seen != {21}
        seen.clear()
        watch.whole_frames = True
        network(**inputs, run=Pass(adapters=(watch,)))
        assert seen == {21}


def budget_of(values: int) -> Budget:
    budget = Budget()
    budget.values = values
    return budget


@pytest.mark.parametrize(("rows", "clips"), [(1, 1), (12, 2), (210, 3)])
def test_parts_cover_everything_once_and_never_cross_clips(rows: int, clips: int) -> None:
    budget = budget_of(100)
    x = torch.arange(rows * clips * 12.0).view(rows * clips, 3, 2, 2)
    spans = list(budget.frame_spans(x, clips))
    assert torch.equal(torch.cat([x[rows] for _, rows in spans]), x)
    for clip, span in spans:
        assert clip * rows <= span.start < span.stop <= (clip + 1) * rows
    assert max(x[span].numel() for _, span in spans) <= 100
    clip = torch.arange(2 * 3 * 5 * 7 * 2.0).view(2, 3, 5, 7, 2)
    assert torch.equal(torch.cat([clip[:, :, :, rows] for rows in budget.pixel_spans(clip)], dim=3), clip)


def test_parts_are_smaller_on_a_cpu() -> None:
    budget = budget_of(400)
    here, elsewhere = (torch.zeros(20, 3, 5, 1, device=device) for device in ("cpu", "meta"))
    with torch.no_grad():
        assert budget.is_large(here)
        assert not budget.is_large(elsewhere)
    assert len(list(budget.frame_spans(here))) == 4
    assert len(list(budget.frame_spans(elsewhere))) == 1


def test_training_keeps_maps_whole() -> None:
    budget = budget_of(200)
    assert not budget.is_large(torch.zeros(300))
    with torch.no_grad():
        assert budget.is_large(torch.zeros(300))


def test_one_hundred_and_twenty_eight_frames_need_at_most_half_as_much_again() -> None:
    """Of 16 frames, in half precision at 320 x 512, weights and all that lives at once counted without running."""
    network = VideoUNet(UNetSpec(), device="meta", attention=fused).eval().half()
    weights = sum(tensor.nbytes for tensor in network.parameters())

    def needed(frames: int) -> int:
        x = torch.empty(1, 4, frames, 40, 64, device="meta", dtype=torch.half)
        conditioning = Conditioning(torch.empty(1, 77, 1024, device="meta", dtype=torch.half))
        run = Pass(windows=Windows(stride=16))
        return weights + live_bytes(lambda: network(x, torch.empty(1, device="meta"), conditioning, run))

    assert needed(128) <= 1.5 * needed(16)


def test_freelong_does_not_change_a_clip_of_one_window() -> None:
    network, inputs = small(), given(16)
    with torch.no_grad():
        assert torch.equal(network(**inputs, run=Pass(windows=Windows(spectral=True))), network(**inputs))


def test_the_filter_of_freelong_is_a_gaussian_of_the_published_width() -> None:
    keep = low_pass(16, 16, 16)
    assert float(keep[0, 0, 0]) == 1
    for at in ((2, 0, 0), (0, 2, 0), (0, 0, 2)):  # a quarter of the highest frequency
        assert float(keep[at]) == pytest.approx(math.exp(-0.5))
    assert float(keep[8, 8, 8]) == pytest.approx(math.exp(-24), abs=1e-9)


def test_freelong_takes_slow_changes_from_far_and_quick_ones_from_near() -> None:
    near, far = torch.zeros(1, 32, 4, 4, 3), torch.zeros(1, 32, 4, 4, 3)
    near += (-1.0) ** torch.arange(32).view(1, 32, 1, 1, 1)
    far += 5 + torch.cos(2 * torch.pi * torch.arange(32) / 32).view(1, 32, 1, 1, 1)
    expected = near + 5 + math.exp(-0.5 * (2 / 32 / 0.25) ** 2) * (far - 5)
    expected -= near * math.exp(-0.5 * (1 / 0.25) ** 2)
    plan = Plan(Fused())
    plan.budget.values = 100
    plan.over_channels(blend_low, near, far)
    assert torch.allclose(near, expected, atol=1e-5)


@pytest.mark.parametrize("finest", [True, False])
def test_freelong_looks_near_at_the_full_size_and_far_below(finest: bool) -> None:
    """Seen by changing the last frame of a long clip."""
    torch.manual_seed(0)
    layer = TemporalTransformer(8, 2, 1, Layers(groups=4), OverTime(finest=finest)).eval()
    layer.norm = torch.nn.Identity()  # which would carry a change everywhere
    x = torch.randn(40, 8, 3, 2)
    changed = x.clone()
    changed[-1] += 3
    with torch.no_grad():
        run = Pass(windows=Windows(size=4, spectral=True))
        emb = text = torch.zeros(1, 1, 1)
        call = Call(emb, text, None, rows=40, copies=1, run=run, adapters=Adapters(), place=Place(emb, 40, SINGLE))
        difference = (layer(changed, call) - layer(x, call)).abs().amax((1, 2, 3))
    assert float(difference[-1]) > 1
    assert bool(difference[0] > 1e-5) == (not finest)
