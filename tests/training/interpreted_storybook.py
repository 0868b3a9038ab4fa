"""The kernels of the storybook's training, in float32, against torch's operations in float64, with their gradients.

`test_storybook_passes.py` runs this file in a process of its own, with Triton's interpreter switched on. It cannot show
the gradients of 16 bits; a run on a GPU compares those itself (`training.storybook.compiling`)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from training.storybook import forward, frames, fused


def compare(kernel: Callable[..., Tensor], plain: Callable[..., Tensor], *tensors: Tensor) -> None:
    """The results and the gradients of all tensors, which are float32."""
    mine = [x.clone().requires_grad_() for x in tensors]
    exact = [x.double().requires_grad_() for x in tensors]
    out, expected = kernel(*mine), plain(*exact)
    grad = torch.randn_like(out)
    out.backward(grad)
    expected.backward(grad.double())
    for found, right in ((out, expected), *((x.grad, y.grad) for x, y in zip(mine, exact, strict=True))):
        assert found is not None
        assert right is not None
        torch.testing.assert_close(found.double(), right, rtol=1e-4, atol=1e-4 * float(right.detach().abs().max()))


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize(("maps", "rows", "width"), [(4, 1, 4), (4, 2, 8), (3, 1, 1)], ids=["maps", "clips", "narrow"])
@pytest.mark.parametrize("silu", [False, True], ids=["norm", "silu"])
def test_group_norms(maps: int, rows: int, width: int, silu: bool) -> None:
    def plain(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        parts = x.reshape(maps // rows, -1, 4 * width).transpose(1, 2)
        out = F.group_norm(parts, 4, weight, bias, 1e-5).transpose(1, 2).reshape(x.shape)
        return F.silu(out) if silu else out

    def kernel(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return fused.group_norm(x, weight, bias, 4, 1e-5, rows, silu)

    compare(kernel, plain, 2 * torch.randn(maps, 5, 7, 4 * width) + 1, *torch.randn(2, 4 * width))


def test_the_gated_gelu() -> None:
    compare(fused.gated, forward.gated, torch.randn(3, 67, 48))


@pytest.mark.parametrize("pixels", [4, 9])
def test_attention_over_frames(pixels: int) -> None:
    tables = torch.randn(2, 32, 16)
    tables[:, -1] = 0
    qkv = torch.randn(2, 16, pixels, 3 * 32)
    compare(partial(frames.over_frames, heads=2), partial(forward.over_frames, heads=2), qkv, *tables)
