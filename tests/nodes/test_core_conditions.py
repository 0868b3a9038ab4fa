"""ComfyUI's conditioning nodes on our CLIP and MODEL: where, when and how much each prompt counts.

One step of Euler's method without guidance gives what the network predicts, so what a prompt should give in one place
or another can be taken from a clip that has it alone.
"""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from comfyui.controlnet import random_controlnet

SAME = 1e-4


def relative(a, b):
    return float((a - b).norm() / b.norm())


@pytest.fixture(scope="module")
def texts(text_model):
    return text_model.text("a red square"), text_model.text("a blue circle")


@pytest.fixture(scope="module")
def alone(text_model, texts):
    """What each prompt predicts by itself."""
    return tuple(made(text_model, text) for text in texts)


def made(loaded, positive, model=None, **given):
    """KSampler's clip of 3 frames of 16 x 32 pixels: latents 2 wide, 4 high."""
    settings = {"seed": 3, "steps": 1, "cfg": 1.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    settings |= {"negative": loaded.text(""), "latent_image": loaded.latent(16, 32), **given}
    return loaded.comfy.call("KSampler", model=model or loaded.model, positive=positive, **settings).values[0][
        "samples"
    ]


def test_combined_prompts_are_the_mean_of_their_predictions(comfy, text_model, texts, alone):
    first, second = texts
    (both,) = comfy.call("ConditioningCombine", conditioning_1=first, conditioning_2=second).values
    assert relative(made(text_model, both), sum(alone) / 2) < SAME
    assert relative(alone[0], alone[1]) > 1e-2


def test_the_average_of_prompts_has_the_prompts_at_its_ends(comfy, text_model, texts, alone):
    results = {}
    for strength in (1.0, 0.5, 0.0):
        (mixed,) = comfy.call(
            "ConditioningAverage", conditioning_to=texts[0], conditioning_from=texts[1],
            conditioning_to_strength=strength,
        ).values  # fmt: skip
        results[strength] = made(text_model, mixed)
    assert relative(results[1.0], alone[0]) < SAME
    assert relative(results[0.0], alone[1]) < SAME
    assert min(relative(results[0.5], end) for end in alone) > 1e-3


def test_prompts_in_a_row_are_read_as_one(comfy, text_model, texts, alone):
    """Attention over every word twice is attention over every word once."""
    (twice,) = comfy.call("ConditioningConcat", conditioning_to=texts[0], conditioning_from=texts[0]).values
    assert twice[0][0].shape[1] == 2 * texts[0][0][0].shape[1]
    assert relative(made(text_model, twice), alone[0]) < SAME
    (joined,) = comfy.call("ConditioningConcat", conditioning_to=texts[0], conditioning_from=texts[1]).values
    assert min(relative(made(text_model, joined), end) for end in alone) > 1e-3


@pytest.mark.parametrize(
    ("node", "where"),
    [
        ("ConditioningSetArea", {"width": 16, "height": 16, "x": 0, "y": 0}),
        ("ConditioningSetAreaPercentage", {"width": 1.0, "height": 0.5, "x": 0.0, "y": 0.0}),
    ],
)
def test_areas_leave_the_rest_of_each_frame_alone(comfy, text_model, texts, alone, node, where):
    (there,) = comfy.call(node, conditioning=texts[1], strength=1.0, **where).values
    out = made(text_model, texts[0] + there)
    assert relative(out[:, :, 2:], alone[0][:, :, 2:]) < SAME
    assert relative(out[:, :, :2], alone[0][:, :, :2]) > 1e-3
    (nowhere,) = comfy.call("ConditioningSetAreaStrength", conditioning=there, strength=0.0).values
    assert relative(made(text_model, texts[0] + nowhere), alone[0]) < SAME


@pytest.mark.parametrize("frames", [1, 3])
def test_masks_give_each_place_its_prompt(comfy, text_model, texts, alone, frames):
    """A mask for all frames, or one for each."""
    mask = torch.zeros(frames, 4, 2)
    mask[:, :2] = 1
    if frames > 1:
        mask[1] = 1
    parts = [
        comfy.call(
            "ConditioningSetMask", conditioning=text, mask=part, strength=1.0, set_cond_area="default"
        ).values[0]
        for text, part in zip(texts, (mask, 1 - mask), strict=True)
    ]  # fmt: skip
    out = made(text_model, parts[0] + parts[1])
    expected = torch.where(mask[:, None] > 0, *alone)
    assert relative(out, expected) < SAME


def test_time_ranges_switch_from_prompt_to_prompt(comfy, text_model, texts):
    ranges = [
        comfy.call("ConditioningSetTimestepRange", conditioning=text, start=start, end=end).values[0]
        for text, (start, end) in zip(texts, ((0.0, 0.5), (0.5, 1.0)), strict=True)
    ]
    out = made(text_model, ranges[0] + ranges[1], steps=4)
    given = {"model": text_model.model, "noise_seed": 3, "steps": 4, "cfg": 1.0, "sampler_name": "euler"}
    given |= {"scheduler": "normal", "negative": text_model.text("")}
    (sigmas,) = comfy.call("BasicScheduler", model=text_model.model, scheduler="normal", steps=4).values
    middle = text_model.model.get_model_object("model_sampling").percent_to_sigma(0.5)
    switch = int((sigmas > middle).sum())
    assert 0 < switch < 4
    (first,) = comfy.call(
        "KSamplerAdvanced", add_noise="enable", end_at_step=switch, return_with_leftover_noise="enable",
        latent_image=text_model.latent(16, 32), positive=texts[0], **given,
    ).values  # fmt: skip
    (second,) = comfy.call(
        "KSamplerAdvanced", add_noise="disable", start_at_step=switch, latent_image=first, positive=texts[1], **given
    ).values
    assert relative(out, second["samples"]) < SAME
    (always,) = comfy.call("ConditioningSetTimestepRange", conditioning=texts[0], start=0.0, end=1.0).values
    assert relative(made(text_model, always), made(text_model, texts[0])) < SAME


def test_a_prompt_for_each_frame_is_read_by_that_frame(text_model, texts):
    (first, values), (second, _) = texts[0][0], texts[1][0]
    model = text_model.apart()
    mixed = made(text_model, [[torch.cat([first, second, first]), values]], model)
    each = [made(text_model, [[text, values]], model) for text in (first, second)]
    for frame, text in enumerate((0, 1, 0)):
        assert relative(mixed[frame], each[text][frame]) < SAME
        assert relative(mixed[frame], each[1 - text][frame]) > 1e-3


# --- text -------------------------------------------------------------------------------------------------------------


def test_weights_count_in_proportion_and_for_their_words_alone(text_model):
    plain, more, most = (text_model.text(f"a (red:{weight}) square")[0][0] for weight in (1.0, 1.3, 1.6))
    assert torch.allclose(plain, text_model.text("a red square")[0][0], atol=1e-6)
    assert relative(most - plain, 2 * (more - plain)) < 1e-3
    changed = (most - plain).abs().amax(-1)[0] > 1e-6
    assert changed.nonzero().flatten().tolist() == [2], "start, a, red, square, end"


def test_an_embedding_file_stands_for_its_words(base, text_model):
    """A file that holds the vectors of a word is that word."""
    clip = text_model.clip
    tokens = clip.tokenize("circle")
    (row,) = tokens.values()
    table = clip.cond_stage_model.state_dict()["clip_h.transformer.text_model.embeddings.token_embedding.weight"]
    save_file({"clip_h": table[row[0][1][0]][None].clone()}, base.root / "models" / "embeddings" / "a_word.safetensors")
    said = text_model.text("a blue embedding:a_word")[0][0]
    assert torch.allclose(said, text_model.text("a blue circle")[0][0], atol=1e-5)


def test_clip_skip_chooses_the_layer(comfy, text_model):
    layers = {
        layer: comfy.call("CLIPSetLastLayer", clip=text_model.clip, stop_at_clip_layer=layer).values[0]
        for layer in (-1, -2)
    }
    outputs = {
        layer: comfy.call("CLIPTextEncode", clip=clip, text="a red square").values[0][0][0]
        for layer, clip in layers.items()
    }
    usual = text_model.text("a red square")[0][0]
    assert torch.equal(outputs[-2], usual), "the last but one is what these models were trained with"
    assert relative(outputs[-1], usual) > 1e-2


# --- ControlNet -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def control_net(text_model, dynamic_vram):
    """A small one with weights at random, in the layout of Stable Diffusion 2.1's."""
    unet = text_model.model.model.spec.unet
    return random_controlnet(unet, [1, 1, 1], [1, 1, 0], dynamic_vram=dynamic_vram)


def controlled(loaded, net, hints, **settings):
    (positive, _) = loaded.comfy.call(
        "ControlNetApplyAdvanced", positive=loaded.text("a red square"), negative=loaded.text(""), control_net=net,
        image=hints, **{"strength": 1.0, "start_percent": 0.0, "end_percent": 1.0, **settings},
    ).values[:2]  # fmt: skip
    return positive


def test_controlnet_guides_each_frame_by_its_hint(text_model, control_net):
    """One hint for all frames, or one each."""
    generator = torch.Generator().manual_seed(5)
    hints = torch.rand(3, 32, 16, 3, generator=generator)
    other = hints.clone()
    other[1] = torch.rand(32, 16, 3, generator=generator)
    model = text_model.apart()
    one, two = (made(text_model, controlled(text_model, control_net, each), model) for each in (hints, other))
    assert torch.isfinite(one).all()
    for frame in (0, 2):
        assert relative(two[frame], one[frame]) < SAME
    assert relative(two[1], one[1]) > 1e-4
    shared = made(text_model, controlled(text_model, control_net, hints[:1]), model)
    assert relative(shared[0], one[0]) < SAME
    assert relative(shared[1], one[1]) > 1e-4


def test_controlnet_counts_by_its_strength_and_range(text_model, texts, alone, control_net):
    hints = torch.rand(3, 32, 16, 3, generator=torch.Generator().manual_seed(5))
    full = made(text_model, controlled(text_model, control_net, hints))
    assert relative(full, alone[0]) > 1e-4
    off = made(text_model, controlled(text_model, control_net, hints, start_percent=0.5))
    assert relative(off, alone[0]) < SAME, "the one step lies before its range"
    weak = made(text_model, controlled(text_model, control_net, hints, strength=0.01))
    assert relative(weak, alone[0]) < relative(full, alone[0])


def test_the_older_node_guides_both_prompts_from_the_positive_one(text_model, control_net):
    hints = torch.rand(3, 32, 16, 3, generator=torch.Generator().manual_seed(5))
    settings = {"cfg": 3.0, "negative": text_model.text("")}
    (positive,) = text_model.comfy.call(
        "ControlNetApply", conditioning=text_model.text("a red square"), control_net=control_net, image=hints,
        strength=1.0,
    ).values  # fmt: skip
    prompts = text_model.comfy.call(
        "ControlNetApplyAdvanced", positive=text_model.text("a red square"), negative=text_model.text(""),
        control_net=control_net, image=hints, strength=1.0, start_percent=0.0, end_percent=1.0,
    ).values  # fmt: skip
    both = made(text_model, prompts[0], **settings | {"negative": prompts[1]})
    assert relative(made(text_model, positive, **settings), both) < SAME
    assert relative(made(text_model, prompts[0], **settings), both) > 1e-4


@pytest.mark.parametrize("node", ["ControlNetApplySD3", "ControlNetInpaintingAliMamaApply"])
def test_controlnet_nodes_for_other_models_guide_as_the_plain_one(text_model, control_net, node):
    """The VAE and the mask are for the ControlNets of those models alone."""
    hints = torch.rand(3, 32, 16, 3, generator=torch.Generator().manual_seed(5))
    more = {"mask": hints[..., 0]} if node == "ControlNetInpaintingAliMamaApply" else {}
    prompts = text_model.comfy.call(
        node, positive=text_model.text("a red square"), negative=text_model.text(""), control_net=control_net,
        vae=text_model.vae, image=hints, strength=1.0, **more,
    ).values  # fmt: skip
    assert relative(made(text_model, prompts[0]), made(text_model, controlled(text_model, control_net, hints))) < SAME


def test_controlnet_finds_its_frames_in_our_context_windows(comfy, text_model, control_net):
    """Also the second of two in a row. (Core's own windows all get the hints of the first frames.)"""
    generator = torch.Generator().manual_seed(6)
    positive = controlled(text_model, control_net, torch.rand(40, 32, 16, 3, generator=generator))
    positive, negative = comfy.call(
        "ControlNetApplyAdvanced", positive=positive, negative=text_model.text(""), control_net=control_net,
        image=torch.rand(40, 32, 16, 3, generator=generator), strength=0.5, start_percent=0.0, end_percent=1.0,
    ).values[:2]  # fmt: skip
    latent = text_model.latent(16, 32, 40)
    (windows,) = comfy.call("VideoCrafterContextWindows", model=text_model.model, freenoise=False).values
    plain, windowed = (
        made(text_model, positive, text_model.apart(model), negative=negative, latent_image=latent, cfg=2.0)
        for model in (text_model.model, windows)
    )
    assert relative(windowed, plain) < SAME
