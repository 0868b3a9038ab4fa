"""Nodes that change attention: which layers they act on, over time, over the pixels and over text and pictures."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from vc_core.network.attentions import CrossAttention, SelfAttention, TemporalAttention
from vc_core.network.transformers import TemporalTransformer

from .test_core_patches import NOTHING, made, patched, relative

FRAMES, SIZE, TEXT, IMAGE = 5, (16, 24), 77, 3
"""Of latents 3 x 2, 2 x 1 and 1 x 1: no two kinds of attention have the same number of keys."""


def counted(model):
    """A copy of the MODEL whose attention is another function, and how often that runs by its number of keys."""
    model, calls = model.clone(), Counter()

    def attend(usual, q, k, v, heads, *arguments, **keywords):
        calls[k.shape[1]] += 1
        q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
        return ((q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1) @ v).transpose(1, 2).flatten(2)

    options = model.model_options["transformer_options"] = model.model_options["transformer_options"].copy()
    options["optimized_attention_override"] = attend
    return model, calls


def count(model, kind):
    return sum(type(module) is kind for module in model.model.diffusion_model.modules())


@pytest.mark.parametrize("patch", [None, "attn2_patch"])
def test_another_attention_runs_over_time_pixels_text_and_images(image_model, patch):
    image = torch.rand(1, 32, 32, 3, generator=torch.Generator().manual_seed(2))
    positive, negative = image_model.picture(image)[:2]
    settings = {"positive": positive, "negative": negative, "size": SIZE, "frames": FRAMES, "cfg": 1.0}
    model, calls = counted(image_model.model)
    if patch is not None:
        model.set_model_attn2_patch(lambda q, k, v, extra: (q, k, v))
    out = made(image_model, model, **settings)
    assert calls[FRAMES] == count(model, TemporalAttention) > 4
    assert calls[6] + calls[2] + calls[1] == count(model, SelfAttention) > 2
    assert calls[TEXT] == calls[IMAGE] == count(model, CrossAttention) > 2
    assert relative(out, made(image_model, **settings)) < NOTHING


SCALES = ("self_structural", "self_temporal", "cross_structural", "cross_temporal")


def scaled_by_hand(loaded, scale, factor):
    """A copy of the MODEL whose results of one kind of attention are `factor` times as large."""
    attention, temporal = "attn1" if scale.startswith("self") else "attn2", scale.endswith("temporal")
    model, unet = loaded.model.clone(), loaded.model.model.diffusion_model
    over_time = tuple(name for name, module in unet.named_modules() if isinstance(module, TemporalTransformer))
    weights = {
        f"diffusion_model.{name}": ("set", (value * factor,))
        for name, value in unet.state_dict().items()
        if f".{attention}.to_out.0." in name and name.startswith(over_time) is temporal
    }
    assert len(model.add_patches(weights)) == len(weights) > 0
    return model


@pytest.mark.parametrize("scale", SCALES)
def test_temporal_and_spatial_attention_are_scaled_apart(text_model, scale):
    ones, given = dict.fromkeys(SCALES, 1.0), {"size": SIZE, "frames": FRAMES, "cfg": 1.0}
    plain = made(text_model, **given)  # and the weights are the file's again
    by_hand = made(text_model, scaled_by_hand(text_model, scale, 0.5), **given)
    node = "UNetTemporalAttentionMultiply"
    out = made(text_model, patched(text_model, node, **{**ones, scale: 0.5}), **given)
    assert relative(out, by_hand) < NOTHING
    assert relative(out, plain) > 1e-4
    assert relative(made(text_model, patched(text_model, node, **ones), **given), plain) < NOTHING


def test_names_of_weights_stay_the_published_ones(text_model):
    names = [name for name in text_model.model.model.state_dict() if name.startswith("diffusion_model.")]
    assert names == [f"diffusion_model.{name}" for name in text_model.model.model.diffusion_model.state_dict()]
    assert not any(name.count(".time_stack.") for name in names)
    saved = text_model.model.model.state_dict_for_saving(text_model.model.model.diffusion_model.state_dict())
    assert all(type(name) is str for name in saved)


@pytest.mark.parametrize(("node", "attention"), [("UNetSelfAttentionMultiply", 1), ("UNetCrossAttentionMultiply", 2)])
def test_self_and_cross_attention_are_scaled_over_time_as_well(text_model, node, attention):
    """As in other video models: core scales every layer of that name."""
    ones, given = dict.fromkeys("qkv", 1.0) | {"out": 1.0}, {"size": SIZE, "frames": FRAMES, "cfg": 1.0}
    plain = made(text_model, **given)
    model = patched(text_model, node, **{**ones, "out": 0.5})
    both = {name: 0.5 if name.startswith("self" if attention == 1 else "cross") else 1.0 for name in SCALES}
    assert relative(
        made(text_model, model, **given),
        made(text_model, patched(text_model, "UNetTemporalAttentionMultiply", **both), **given),
    ) < NOTHING  # fmt: skip
    assert relative(made(text_model, model, **given), plain) > 1e-4
    assert relative(made(text_model, patched(text_model, node, **ones), **given), plain) < NOTHING
