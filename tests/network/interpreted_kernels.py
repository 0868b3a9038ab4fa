"""The kernels against plain PyTorch in float64. `test_kernels.py` runs this file in a process of its own, with Triton's
interpreter switched on."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vc_core.network import kernels
from vc_core.network.kernels import group_norms

TYPES = (torch.float32, torch.float16, torch.bfloat16)
CAUSAL = torch.full((33, 33), float("-inf")).triu(1)
ALONE = torch.full((33, 33), float("-inf")).fill_diagonal_(0)
"""Every frame sees itself alone."""


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    torch.manual_seed(0)
    with torch.no_grad():
        yield


@pytest.fixture(params=TYPES, ids=["fp32", "fp16", "bf16"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


def check(found: Tensor, expected: Tensor, roundings: float = 1) -> None:
    """Equal but for the rounding of the result, and as many more of the largest value where inner steps round too."""
    eps = torch.finfo(found.dtype).eps
    most = float(expected.abs().max())
    exact = 1e-5 if found.dtype == torch.float32 else (roundings - 1) * eps + 1e-5
    cut = 2 if found.dtype == torch.bfloat16 else 1  # the interpreter cuts digits off where a device rounds
    torch.testing.assert_close(found.double(), expected, rtol=cut * eps / 2 * 1.01, atol=exact * most)


def last(x: Tensor) -> Tensor:
    """The same map with its channels last in memory."""
    return x.movedim(1, -1).contiguous().movedim(-1, 1)


def expected_group_norm(x: Tensor, groups: int, w: Tensor, b: Tensor, silu: bool, add: Tensor | None) -> Tensor:
    x = x.double()
    if add is not None:
        rows = add.double().repeat_interleave(len(x) // len(add), 0)
        x = x + rows[(...,) + (None,) * (x.dim() - 2)]
    y = F.group_norm(x, groups, w.double(), b.double(), 1e-5)
    return F.silu(y) if silu else y


@pytest.mark.parametrize(
    ("shape", "groups"),
    [
        ((2, 40, 5), 8),  # 5 channels of a group in 5 pixels
        ((4, 32, 13, 15), 8),
        ((1, 48, 3, 5, 7), 16),  # a clip
        ((2, 36, 4), 4),  # no block is a multiple of 8 channels
        ((3, 8, 1, 1), 8),  # one value to a group: its bias
        ((1, 160, 2, 3), 4),
    ],
    ids=str,
)
@pytest.mark.parametrize(
    ("whole", "dtype"),
    [(True, torch.float32), (True, torch.bfloat16), (False, torch.float32), (False, torch.float16)],
    ids=["whole-fp32", "whole-bf16", "split-fp32", "split-fp16"],
)
def test_group_norm(
    shape: tuple[int, ...], groups: int, whole: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not whole:
        monkeypatch.setattr(group_norms, "WHOLE", 0)
        monkeypatch.setattr(group_norms, "PART", 64)
    group_norms.plan.cache_clear()
    x = last(torch.randn(shape).mul(2).add(1).to(dtype))
    w, b = torch.randn(shape[1]).to(dtype), torch.randn(shape[1]).to(dtype)
    assert kernels.usable(x)
    found = kernels.group_norm(x, groups, w, b, 1e-5)
    assert found.movedim(1, -1).is_contiguous()
    check(found, expected_group_norm(x, groups, w, b, False, None))
    if shape[0] % 2 == 0:
        add = torch.randn(2, shape[1]).to(dtype)
        check(
            kernels.group_norm(x, groups, w, b, 1e-5, silu=True, add=add),
            expected_group_norm(x, groups, w, b, True, add),
        )


@pytest.mark.parametrize("pixels", [300, 3000])
@pytest.mark.parametrize("whole", [True, False], ids=["whole", "split"])
def test_a_mean_far_from_zero_costs_no_digits(pixels: int, whole: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not whole:
        monkeypatch.setattr(group_norms, "WHOLE", 0)
    group_norms.plan.cache_clear()
    x = last(1000 + torch.randn(1, 16, pixels).mul(0.1))
    w, b = torch.ones(16), torch.zeros(16)
    found = kernels.group_norm(x, 2, w, b, 1e-5)
    expected = expected_group_norm(x, 2, w, b, False, None)
    # The mean itself, in float32, is 6e-5 off, which is 6e-4 of the spread.
    torch.testing.assert_close(found.double(), expected, atol=1.2e-3, rtol=0)
    x[..., 0] = -1000  # the value that deviations are counted from is itself far away
    found = kernels.group_norm(x, 2, w, b, 1e-5)
    torch.testing.assert_close(found.double(), expected_group_norm(x, 2, w, b, False, None), atol=1e-4, rtol=1e-4)


def test_a_view_of_frames_as_a_clip_is_read_where_it_lies() -> None:
    frames = last(torch.randn(6, 16, 4, 5))
    clips = frames.unflatten(0, (2, 3)).transpose(1, 2)
    w, b = torch.randn(16), torch.randn(16)
    found = kernels.group_norm(clips, 4, w, b, 1e-5)
    assert found.stride() == clips.stride()
    check(found, expected_group_norm(clips, 4, w, b, False, None))
    loose = torch.randn(2, 16, 4, 10)[..., ::2]
    check(kernels.group_norm(loose, 4, w, b, 1e-5), expected_group_norm(loose, 4, w, b, False, None))


@pytest.mark.parametrize("d", [40, 320, 1280])
def test_layer_norm(d: int, dtype: torch.dtype) -> None:
    x, h = torch.randn(2, 7, d).to(dtype), torch.randn(2, 7, d).to(dtype)
    w, b = torch.randn(d).to(dtype), torch.randn(d).to(dtype)

    def expected(tokens: Tensor) -> Tensor:
        return F.layer_norm(tokens.double(), (d,), w.double(), b.double(), 1e-5)

    check(kernels.layer_norm(x, w, b, 1e-5), expected(x))
    total, found = kernels.add_layer_norm(x, h, w, b, 1e-5)
    check(total, x.double() + h.double())
    check(found, expected(total))
    later = torch.randn(d).to(dtype)
    more, same = kernels.add_layer_norm(x, h, w, b, 1e-5, later)
    check(more, total.double() + later.double())
    assert torch.equal(same, found)


@pytest.mark.parametrize("d", [5, 40, 300])
def test_geglu(d: int, dtype: torch.dtype) -> None:
    x = torch.randn(3, 9, 2 * d).mul(3).to(dtype)
    value, gate = x.double().chunk(2, dim=-1)
    check(kernels.geglu(x), value * F.gelu(gate))


def test_the_gate_is_the_exact_one() -> None:
    gate = torch.linspace(-12, 12, 2001)
    found = kernels.geglu(torch.cat([torch.ones_like(gate), gate]))
    torch.testing.assert_close(found.double(), F.gelu(gate.double()), atol=1e-6, rtol=0)


def test_add(dtype: torch.dtype) -> None:
    for x in (torch.randn(2, 9, 40), last(torch.randn(2, 40, 3, 5)), last(torch.randn(1, 300, 9, 1, 1))):
        x = x.to(dtype)
        h, axis = torch.randn_like(x), 2 if x.dim() == 3 else 1
        bias = torch.randn(x.shape[axis]).to(dtype)
        shift = bias.double()[(...,) + (None,) * (x.dim() - 1 - axis)]
        check(kernels.add(x, h), x.double() + h.double())
        check(kernels.add(x, h, bias), x.double() + h.double() + shift)
    x, h = torch.randn(4, 6)[:, ::2], torch.randn(4, 3)
    check(kernels.add(x, h), x.double() + h.double())


def expected_attention(
    q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None, positions: tuple[Tensor, Tensor] | None
) -> Tensor:
    q, k, v = (x.double().unflatten(3, (heads, -1)) for x in (q, k, v))  # b f p heads d
    keys, values = k[:, None], v[:, None]  # b 1 f p heads d
    if positions is not None:
        frame = torch.arange(q.shape[1])
        distance = frame[None] - frame[:, None] + len(frame) - 1
        near = (table.double()[distance][None, :, :, None, None] for table in positions)
        keys, values = (x + r for x, r in zip((keys, values), near, strict=True))
    logits = (q[:, :, None] * keys).sum(-1) * q.shape[-1] ** -0.5  # b f f p heads
    if mask is not None:
        logits = logits + mask.double()[None, :, :, None, None]
    return (logits.softmax(dim=2)[..., None] * values).sum(2).flatten(3)


@pytest.mark.parametrize(
    ("frames", "pixels", "heads", "d"),
    [(1, 5, 2, 8), (3, 5, 1, 24), (16, 5, 2, 64), (20, 3, 1, 40), (33, 1, 1, 128)],
    ids=str,
)
@pytest.mark.parametrize("positions", [False, True], ids=["plain", "relative"])
def test_attention_over_frames(
    frames: int, pixels: int, heads: int, d: int, positions: bool, dtype: torch.dtype
) -> None:
    q, k, v = (torch.randn(2 if frames < 16 else 1, frames, pixels, heads * d).to(dtype) for _ in range(3))
    vectors = tuple(torch.randn(2 * frames - 1, d).to(dtype) for _ in range(2)) if positions else (None, None)
    masks = [None, CAUSAL, ALONE] if frames == 3 else [CAUSAL]
    for mask in masks:
        mask = None if mask is None else mask[:frames, :frames].to(dtype)
        found = kernels.attend_over_frames(q, k, v, heads, mask=mask, k_positions=vectors[0], v_positions=vectors[1])
        assert found.is_contiguous()
        check(found, expected_attention(q, k, v, heads, mask, vectors if positions else None), roundings=2)


@pytest.mark.parametrize("kind", [torch.float16, torch.float32], ids=["fp16", "fp32"])
def test_attention_reads_views(kind: torch.dtype) -> None:
    """A window of a clip, of queries, keys and values that one product made, pixels before frames."""
    together = torch.randn(1, 4, 9, 3 * 32).to(kind)
    q, k, v = (x.transpose(1, 2)[:, 2:7] for x in together.chunk(3, dim=-1))
    check(kernels.attend_over_frames(q, k, v, 2), expected_attention(q, k, v, 2, None, None), roundings=2)
    spread = torch.randn(1, 3, 2, 64).to(kind)[..., ::2]  # channels apart: copied
    check(
        kernels.attend_over_frames(spread, spread, spread, 2),
        expected_attention(spread, spread, spread, 2, None, None),
        roundings=2,
    )


def test_large_logits_do_not_overflow() -> None:
    q = torch.full((1, 3, 2, 64), 60.0, dtype=torch.float16)  # q . k is 230400
    v = torch.randn(1, 3, 2, 64).half()
    check(kernels.attend_over_frames(q, q, v, 1), expected_attention(q, q, v, 1, None, None), roundings=2)


def test_every_plan_covers_its_map() -> None:
    """All pixels and channels are in some program's part, in blocks that fill their lanes."""
    sizes = itertools.product(
        (1, 2, 16, 32), (40, 640, 2560, 9216, 147456), (32, 64, 320, 640, 960, 1280, 1920, 2560), (1, 132)
    )
    for n, p, c, processors in sizes:
        cut = group_norms.plan(n, p, c, 32, processors)
        assert cut.units * cut.vector * cut.blocks == c
        assert cut.per_block * cut.blocks == 32
        assert cut.units <= cut.lanes
        assert cut.splits <= group_norms.SPLITS
        assert not cut.splits or (cut.splits - 1) * cut.rows < p <= cut.splits * cut.rows
