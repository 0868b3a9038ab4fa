"""A pass on a GPU leaves the CPU alone, so that it can be recorded and Python runs ahead of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import small_models as small
import torch
from fused_passes import Allocating, Trace
from network.tiny import ALONE
from pretended import PretendedCuda
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vc_core.conditions import Conditioning
from vc_core.network import parts
from vc_core.network.adapters.deep import KeepDeep
from vc_core.network.attentions import triangle
from vc_core.network.call import Deep, Pass
from vc_core.network.unet import VideoUNet
from vc_core.specs import Windows


class Waits(TorchDispatchMode):
    """While entered, lists operations that copy between a GPU and the CPU, or whose result the CPU waits for."""

    WAITED_FOR = ("_local_scalar_dense", "equal", "is_nonzero", "nonzero", "repeat_interleave.Tensor")

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        leaves = tree_leaves((args, kwargs, out))
        devices = {leaf.device.type for leaf in leaves if isinstance(leaf, torch.Tensor)}
        devices |= {leaf.type for leaf in leaves if isinstance(leaf, torch.device)}
        name = str(func).removeprefix("aten.")
        if "cpu" in devices or name.startswith(self.WAITED_FOR):
            self.found.append(name)
        return out


@pytest.mark.parametrize("kind", ["TEXT", "RELATIVE", "IMAGE", "CONTINUING", "TURBO"])
@pytest.mark.parametrize("windows", [None, Windows(size=4, stride=2), Windows(size=4, stride=2, spectral=True)])
@pytest.mark.parametrize("fused", [False, True])
@torch.no_grad()
def test_a_pass_on_a_gpu_never_waits_for_it(kind, windows, fused, monkeypatch):
    """Nor does it copy anything to or from it: neither could be recorded."""
    if fused:
        pytest.importorskip("triton", reason="its kernels say how they are cut into launches")
        Allocating(Trace()).install(monkeypatch)
    spec = getattr(small, f"{kind}_MODEL").unet
    with PretendedCuda():
        made = VideoUNet(spec, device="meta").half().to_empty(device="cuda").eval()
        made.budget.values = parts.WHOLE

        def zeros(*shape):
            return torch.zeros(shape, device="cuda", dtype=torch.float16)

        x, text, one = zeros(1, 4, 8, 8, 8), zeros(2, 7, spec.context_dim), zeros(1)
        image = zeros(2, 8, 4, spec.context_dim) if spec.image_attention else None
        concat = zeros(1, spec.concat_channels, 8, 8, 8) if spec.concat_channels else None
        plain = Conditioning(text, image, concat=concat)
        with Waits() as waits:
            keep = KeepDeep(1)
            every = replace(plain, fps=one, guidance=one, motion=one, early_text=text)
            made(x, one, every, Pass(windows=windows, adapters=(keep,)))
            made(x, one[:, None].repeat(1, 8), plain, Pass(windows=windows, deep=Deep(1, keep.result)))
            made(x, one, plain, replace(ALONE, windows=windows))
    assert not waits.found


def test_weights_of_windows_are_made_where_they_are_needed():
    for length in range(1, 18):
        assert triangle(length, torch.zeros(1)).tolist() == Windows().weights(length)
