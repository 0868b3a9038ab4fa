"""Passes by fused kernels, with these in plain torch: the same results, in channels-last memory from end to end."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fused_passes import Defined
from torch import Tensor, nn

from golden_cases import relative_error
from vc_core.autoencoder.autoencoder import Autoencoder
from vc_core.conditions import Conditioning
from vc_core.network.adapter import Adapter, Place
from vc_core.network.adapters.contexts import KeptContexts
from vc_core.network.adapters.deep import KeepDeep
from vc_core.network.attention import Attention, sdpa_attention
from vc_core.network.call import PLAIN, Deep, Pass
from vc_core.network.unet import VideoUNet
from vc_core.specs import AutoencoderSpec, UNetSpec, Windows

from .test_kernels import HERE, interpreted, needs_triton
from .tiny import ALONE

EXACT = 1e-5
SMALL: dict[str, Any] = {
    "model_channels": 16,
    "channel_mult": (1, 2),
    "num_res_blocks": 1,
    "attention_levels": (0, 1),
    "head_channels": 8,
    "context_dim": 6,
    "norm_groups": 4,
}
KINDS: dict[str, dict[str, Any]] = {
    "text": {},
    "relative": {"relative_position": True, "temporal_conv": False, "temporal_length": 5},
    "causal": {"causal": True},
    "image": {"image_attention": True},
    "DynamiCrafter": {"image_attention": True, "image_gate": True, "in_channels": 8, "concat_channels": 4},
}


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> Defined:
    defined = Defined()
    defined.install(monkeypatch)
    return defined


def network_of(**changes: Any) -> VideoUNet:
    torch.manual_seed(0)
    network = VideoUNet(UNetSpec(**{**SMALL, **changes})).eval()
    with torch.no_grad():
        for weight in network.parameters():
            if weight.ndim == 1:  # else norms and biases would be ones and zeros
                weight.add_(0.1 * torch.randn_like(weight))
    return network


def given(network: VideoUNet, frames: int = 7, clips: int = 2, texts: int = 1) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    spec = network.spec
    x = drawn(clips, 4, frames, 5, 3)
    return {
        "x": x,
        "timesteps": torch.arange(1, clips + 1) * 300.0,
        "conditioning": Conditioning(
            text=drawn(texts * clips, 5, 6),
            image=drawn(texts * clips, frames, 3, 6) if spec.image_attention else None,
            concat=drawn(*x.shape) if spec.concat_channels else None,
        ),
    }


def both_ways(network: VideoUNet, inputs: dict[str, Any], run: Pass = PLAIN) -> tuple[Tensor, Tensor]:
    """What the fused and the plain layers give."""
    results = []
    with torch.no_grad():
        for wanted in (True, False):
            network.fused.wanted = wanted
            network.fused.arrange(network)
            results.append(network(**inputs, run=run))
    return results[0], results[1]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("windows", [None, Windows(size=4, stride=3), Windows(size=4, spectral=True)])
@pytest.mark.parametrize("values", [2**24, 1000], ids=["whole", "in parts"])
def test_fused_layers_equal_plain_ones(kernels: Defined, kind: str, windows: Windows | None, values: int) -> None:
    network = network_of(**KINDS[kind])
    network.budget.values = values
    fused, plain = both_ways(network, given(network), Pass(windows=windows))
    assert relative_error(fused, plain) < EXACT
    assert {"group_norm", "add_layer_norm", "geglu", "attend_over_frames"} <= set(kernels.calls)


@pytest.mark.parametrize("frames", [1, 2, 19, 130])
def test_any_number_of_frames(kernels: Defined, frames: int) -> None:
    """Relative positions within their reach and beyond it, and more frames than the kernel takes."""
    network = network_of(**KINDS["relative"])
    inputs = given(network, frames, clips=1)
    fused, plain = both_ways(network, inputs)
    assert relative_error(fused, plain) < EXACT
    assert (kernels.calls["attend_over_frames"] == 0) == (frames > 128)


def test_several_conditionings_noise_levels_of_frames_and_no_temporal_attention(kernels: Defined) -> None:
    network = network_of()
    together = given(network, texts=2)
    by_frame = {**given(network, clips=1), "timesteps": torch.linspace(0, 900, 7)[None]}
    for inputs, run in ((together, PLAIN), (by_frame, PLAIN), (by_frame, ALONE)):
        fused, plain = both_ways(network, inputs, run)
        assert relative_error(fused, plain) < EXACT


def test_what_is_kept_between_passes(kernels: Defined) -> None:
    network = network_of()
    inputs = given(network, clips=1)
    keep, kept = KeepDeep(1), KeptContexts()
    with torch.no_grad():
        whole = network(**inputs, run=Pass(adapters=(keep, kept)))
        assert keep.result is not None
        again = network(**inputs, run=Pass(adapters=(kept,), deep=Deep(1, keep.result)))
        assert relative_error(again, whole) < EXACT


def test_an_attention_that_a_host_hands_in_sees_the_tokens_of_pixels(kernels: Defined) -> None:
    seen: set[tuple[int, ...]] = set()

    def watched(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
        seen.add(tuple(q.shape[:2]))
        return sdpa_attention(q, k, v, heads, mask)

    class Host(Adapter):
        def attention_backend(self, at: Place, function: Attention) -> Attention:
            return watched if at.attention in ("temporal_1", "temporal_2") else function

    network = network_of()
    fused, plain = both_ways(network, given(network), Pass(adapters=(Host(),)))
    assert relative_error(fused, plain) < EXACT
    assert seen == {(2 * 15, 7), (2 * 6, 7)}
    assert not kernels.calls["attend_over_frames"]


def test_a_host_that_gives_maps_in_another_layout_changes_nothing(kernels: Defined) -> None:
    class Host(Adapter):
        def after_encoder_block(self, at: Place, h: Tensor) -> Tensor:
            return h.contiguous()

    network = network_of()
    fused, plain = both_ways(network, given(network), Pass(adapters=(Host(),)))
    assert relative_error(fused, plain) < EXACT


def test_training_and_networks_of_unknown_layers_stay_plain(kernels: Defined) -> None:
    class Operations:
        Conv1d, Conv2d, Conv3d = nn.Conv1d, nn.Conv2d, nn.Conv3d
        Linear, LayerNorm, GroupNorm = nn.Linear, nn.LayerNorm, nn.GroupNorm

    network = network_of()
    network(**given(network)).sum().backward()
    other = VideoUNet(network.spec, operations=Operations)
    with torch.no_grad():
        other(**given(other))
    assert not kernels.calls


@pytest.mark.parametrize("levels", [None, (1,)], ids=["pictures", "references"])
@pytest.mark.parametrize("values", [2**24, 1000], ids=["whole", "in parts"])
def test_the_autoencoder(kernels: Defined, levels: tuple[int, ...] | None, values: int) -> None:
    torch.manual_seed(0)
    spec = AutoencoderSpec(channels=16, channel_mult=(1, 2), num_res_blocks=1, norm_groups=4, reference_levels=levels)
    model = Autoencoder(spec).eval()
    model.decoder.mid.attn_1.plan.budget.values = values
    pixels, latents = torch.rand(3, 3, 12, 10), torch.randn(7, 4, 6, 5)
    ends = None if levels is None else pixels[:2]
    results = []
    for wanted in (True, False):
        model.fused.wanted = wanted
        with torch.no_grad():
            model.fused.arrange(model)
            results.append((model.encode(pixels), model.decode(latents, ends=ends)))
    for fused, plain in zip(*results, strict=True):
        assert relative_error(fused, plain) < EXACT
    assert {"group_norm", "add"} == set(kernels.calls)


def test_weights_of_convolutions_lie_as_their_maps_do(kernels: Defined) -> None:
    network = network_of()
    names = network.state_dict()
    network.fused.arrange(network)
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Conv3d)]
    assert all(layer.weight.movedim(1, -1).is_contiguous() for layer in layers)
    assert all(torch.equal(weight, names[name]) for name, weight in network.state_dict().items())


@pytest.mark.parametrize("ending", ["attn1.to_k.weight", "emb_layers.1.bias", "in_layers.2.bias"])
def test_a_joined_weight_that_is_replaced_is_read(kernels: Defined, ending: str) -> None:
    """As by a LoRA, before the network is arranged again."""
    network = network_of()
    network.fused.arrange(network)
    inputs, results = given(network), []
    with torch.no_grad():
        before = network(**inputs)
        for name, weight in list(network.named_parameters()):
            if name.endswith(ending):
                owner, _, last = name.rpartition(".")
                setattr(network.get_submodule(owner), last, nn.Parameter(weight * 2 + 0.1))
        for wanted in (True, False):
            network.fused.wanted = wanted
            results.append(network(**inputs))
    assert relative_error(results[0], results[1]) < EXACT
    assert relative_error(results[0], before) > 100 * EXACT


@needs_triton
def test_a_pass_in_the_interpreter_of_triton() -> None:
    done = interpreted("-m", "pytest", "-q", "-p", "no:cacheprovider", str(HERE / "interpreted_pass.py"))
    assert done.returncode == 0, done.stdout + done.stderr
