"""Epipolar attention: its blocks of queries, and the memory that it takes at the published sizes."""

from __future__ import annotations

import pytest
import torch
from pretended import PretendedCuda
from torch import Tensor, nn

from benchmarks.live import CudaAttention, LiveBytes
from vc_core.conditions import Evaluation
from vc_core.network.adapter import Place
from vc_core.network.adapters import epipolar
from vc_core.network.adapters.camera_features import CameraCtrl, CamI2V, RayFeatures
from vc_core.network.adapters.epipolar import BLOCK_BYTES, EpipolarAttention, EpipolarLines, block_of_queries
from vc_core.network.attention import sdpa_attention, split_heads

GIB = 2**30
BLOCK = "input_blocks.1.2.transformer_blocks.0"

pytestmark = pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")


def lines_of(frames: int, height: int) -> EpipolarLines:
    generator = torch.Generator().manual_seed(0)
    return EpipolarLines(torch.randn(1, frames, frames, 3, 3, generator=generator), height)


@torch.no_grad()
def test_blocks_of_queries_equal_the_whole_and_ask_for_every_mask_once(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    layer = EpipolarAttention(16, registers=4)
    nn.init.normal_(layer.register_tokens)
    x, lines = torch.randn(1, 3 * 4 * 6, 16), lines_of(3, 32)
    whole = layer(x, 2, lines, 0, (4, 6))
    mask = lines.allowed(0, (4, 6), range(72))
    assert 0.05 < float(mask.double().mean()) < 0.95
    context = torch.cat([layer.register_tokens, x], dim=1)
    added = torch.zeros(1, 1, 72, 76)
    added[..., 4:][~mask[None, None]] = float("-inf")
    plain = layer.to_out(sdpa_attention(layer.to_q(x), layer.to_k(context), layer.to_v(context), 2, added))
    torch.testing.assert_close(whole, plain)
    seen: list[tuple[int, int]] = []
    allowed = EpipolarLines.allowed

    def watched(self: EpipolarLines, clip: int, grid: tuple[int, int], queries: range) -> Tensor:
        seen.append((queries.start, queries.stop))
        return allowed(self, clip, grid, queries)

    monkeypatch.setattr(EpipolarLines, "allowed", watched)
    monkeypatch.setattr(epipolar, "block_of_queries", lambda heads, keys: 25)
    torch.testing.assert_close(layer(x, 2, lines, 0, (4, 6)), whole)
    assert seen == [(0, 25), (25, 50), (50, 72)]


@pytest.mark.parametrize(("heads", "keys"), [(5, 16 * 40 * 64 + 4), (5, 16 * 32 * 32 + 4), (20, 16 * 10 * 16 + 4)])
def test_a_block_needs_no_more_than_half_a_gib(heads: int, keys: int) -> None:
    """By what it counts for each query and key: its mask while it is made, and two attention maps of each head."""
    queries = block_of_queries(heads, keys)
    assert queries * keys * (epipolar.MASK_BYTES + epipolar.LOGIT_BYTES * heads) <= BLOCK_BYTES == GIB / 2
    assert queries >= 64


def with_maps(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    """Attention on a device without fused kernels: logits and weights in float32 at once, as torch computes it."""
    q, k, v = (split_heads(x, heads).float() for x in (q, k, v))
    logits = q @ k.transpose(-2, -1)
    if mask is not None:
        logits = logits.add_(mask)
    return (logits.softmax(-1) @ v).transpose(1, 2).flatten(2)


LEVELS = [(320, (32, 32), 256, True), (320, (40, 64), 320, False), (640, (20, 32), 320, True)]


@pytest.mark.parametrize("device", ["cuda", "cpu"])
@pytest.mark.parametrize(("width", "grid", "height", "masked"), LEVELS)
@torch.no_grad()
def test_the_camera_takes_at_most_a_gib_beside_the_pass(
    device: str, width: int, grid: tuple[int, int], height: int, masked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the published sizes, 16 frames, with both prompts in one pass: in fp16 on a GPU with fused kernels, and in
    fp32 on a device that holds attention maps. At 512 the finest level has 40,960 tokens and no mask."""
    dtype = torch.float16 if device == "cuda" else torch.float32
    if device == "cpu":
        monkeypatch.setattr(epipolar, "sdpa_attention", with_maps)
    with PretendedCuda(), CudaAttention():
        where = "cuda" if device == "cuda" else "meta"
        place = {"device": where, "dtype": dtype}
        features = torch.empty(1, width, 16, *grid, **place)
        rays = torch.empty(1, 6, 16, 8, 8, **place)
        camera = CamI2V(
            RayFeatures(lambda given: [features], rays),
            {BLOCK: nn.Linear(width, width, **place)},
            {BLOCK: EpipolarAttention(width, 4, **place)},
            EpipolarLines(torch.empty(1, 16, 16, 3, 3, device=where), height),
            unmasked=() if masked else (grid[0],),
        )
        at = Place(
            torch.empty(1),
            16,
            Evaluation(),
            stage="input",
            index=1,
            count=12,
            layer=2,
            attention="temporal_1",
            heads=width // 64,
            grid=grid,
        )
        x = torch.empty(2, 16, grid[0] * grid[1], width, **place)
        with LiveBytes() as live:
            out = camera.around_attention(at, torch.empty_like, x)
    beside = live.most - out.nbytes  # the result of the attention layer is there without a camera as well
    assert out.shape == x.shape
    assert beside <= GIB


@pytest.mark.parametrize("kind", ["cami2v", "cameractrl"])
@torch.no_grad()
def test_tokens_of_fused_kernels_get_the_same(kind: str) -> None:
    """They are b f p d in place of (b p) f d, here of two conditionings."""
    torch.manual_seed(0)
    width, grid, frames = 16, (4, 6), 3
    features = torch.randn(1, width, frames, *grid)
    rays = RayFeatures(lambda given: [features], torch.zeros(1, 6, frames, 8, 8))
    layer = EpipolarAttention(width, 4)
    linear = {BLOCK: nn.Linear(width, width)}
    camera = (
        CamI2V(rays, linear, {BLOCK: layer}, lines_of(frames, 32)) if kind == "cami2v" else CameraCtrl(rays, linear)
    )
    at = Place(
        torch.empty(1),
        frames,
        Evaluation(),
        stage="input",
        index=1,
        count=12,
        layer=2,
        attention="temporal_1",
        heads=2,
        grid=grid,
    )
    tokens = torch.randn(2, frames, 24, width)
    apart = tokens.transpose(1, 2).flatten(0, 1)
    fused = camera.around_attention(at, torch.sin, tokens)
    plain = camera.around_attention(at, torch.sin, apart)
    torch.testing.assert_close(fused, plain.unflatten(0, (2, -1)).transpose(1, 2))
    assert not torch.equal(plain, torch.sin(apart))
