"""Fused kernels behind ComfyUI's nodes, with these in plain torch: the host's own casts, patches and memory modes."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from fused_passes import Defined

from comfyui.dynamic_vram import poisoned

from .test_core_attention import counted
from .test_dynamic_vram import KINDS, conditions

SAME = 1e-4  # over all steps of a run


@pytest.fixture
def picture():
    return torch.rand(2, 24, 16, 3, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def loaded(request, kind):
    return request.getfixturevalue(f"{kind}_model")


@pytest.fixture
def kernels(monkeypatch):
    """Switches the kernels on, and says what was called."""

    def switch() -> Defined:
        defined = Defined()
        defined.install(monkeypatch)
        return defined

    return switch


def relative(one, other):
    return float((one - other).norm() / other.norm())


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_equals_that_by_plain_layers(loaded, kind, picture, kernels, dynamic_vram):
    settings = conditions(loaded, kind, picture)
    expected = loaded.sample(**settings)
    defined = kernels()
    unet = loaded.model.model.diffusion_model
    with poisoned(unet) if dynamic_vram else nullcontext():
        assert relative(loaded.sample(**settings), expected) < SAME
    assert {"group_norm", "layer_norm", "add_layer_norm", "geglu", "attend_over_frames"} == set(defined.calls)


def test_patches_of_norms_and_of_the_projections_of_the_first_attention_are_kept(text_model, kernels):
    model = text_model.model.clone()
    state = model.model.state_dict()
    names = [name for name in state if ".norm" in name or ".in_layers.0." in name or "init_attn.0.proj" in name]
    changes = {name: ("diff", (0.2 * torch.randn(state[name].shape),)) for name in names}
    assert set(model.add_patches(changes)) == set(changes)
    plain, expected = text_model.sample(), text_model.sample(model=model)
    assert relative(expected, plain) > 0.01
    kernels()
    assert relative(text_model.sample(model=model), expected) < SAME


@pytest.mark.parametrize("weight_dtype", ["fp16", "fp8_e4m3fn"])
def test_weights_of_another_type_are_cast_for_the_kernels(comfy, checkpoints, text_model, weight_dtype, kernels):
    loaded = type(text_model)(comfy, checkpoints["text"], weight_dtype=weight_dtype)
    expected = loaded.sample()
    kernels()
    assert relative(loaded.sample(), expected) < 0.02


def test_an_attention_that_a_node_hands_in_still_sees_the_tokens_of_pixels(text_model, kernels):
    model, plain = counted(text_model.model)
    expected = text_model.sample(model=model)
    seen = dict(plain)
    defined = kernels()
    model, fused = counted(text_model.model)
    assert relative(text_model.sample(model=model), expected) < SAME
    assert fused == seen
    assert not defined.calls["attend_over_frames"]


def test_layers_that_other_code_casts_stay_plain(comfy):
    from comfy import ops

    operations = comfy.module("nodes.host.operations")

    class Custom(ops.manual_cast):
        class GroupNorm(ops.manual_cast.GroupNorm):
            def forward_comfy_cast_weights(self, x):
                return super().forward_comfy_cast_weights(x)

    assert operations.weights_of(Custom) is None
    assert operations.weights_of(ops.manual_cast) is operations.cast_weights


@pytest.mark.parametrize("kind", ["text", "toon"])
def test_frames_are_encoded_and_decoded(comfy, loaded, kind, picture, kernels):
    def both():
        latent = comfy.call("VAEEncode", pixels=picture, vae=loaded.vae).values[0]
        return latent["samples"], comfy.call("VAEDecode", samples=latent, vae=loaded.vae).values[0]

    expected = both()
    defined = kernels()
    for now, then in zip(both(), expected, strict=True):
        assert relative(now, then) < SAME
    assert set(defined.calls) == {"group_norm"}
