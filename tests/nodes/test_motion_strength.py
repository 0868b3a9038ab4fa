"""VideoCrafter Motion Strength: the numbers of vc_core, and those of core's node that scales weights."""

from __future__ import annotations

import pytest
import torch

from vc_core.control import MotionStrength
from vc_core.denoising import Sampling
from vc_core.network.layers import to_frames
from vc_core.pipeline import Request, VideoCrafter

SCALE = 0.18215
SIZE = {"width": 16, "height": 24, "frames": 3}
MASK = torch.rand(3, 12, 8, generator=torch.Generator().manual_seed(1))
CHOICES = [
    {"strength": 0.5},
    {"temperature": 6.0},
    {"strength": 0.3, "over_time": "1, 0.2", "mask": MASK},
    {"decoder": 0.2, "levels": "1, 0.5"},
]


def relative(a, b):
    return float((a - b).norm() / b.norm())


def with_strength(comfy, model, **given):
    return comfy.call("VideoCrafterMotionStrengthControl", model=model, **given).values[0]


@pytest.mark.parametrize("given", CHOICES, ids=" ".join)
@pytest.mark.parametrize("kind", ["text_model", "relative_model"])
def test_clips_are_those_of_vc_core(request, base, comfy, kind, given):
    loaded = request.getfixturevalue(kind)
    core = VideoCrafter.load(base.model("checkpoints", loaded.name))
    sampling = Sampling(steps=4, eta=0.0)
    wanted = Request(seed=7, cfg=3.0, sampling=sampling, controls=(MotionStrength(**given),), **SIZE)
    *_, last = core.steps("a red square", request=wanted)
    out = loaded.sample(model=with_strength(comfy, loaded.model, **given), eta=0.0)
    assert relative(out, to_frames(last.x) / SCALE) < 1e-4
    assert relative(loaded.sample(eta=0.0), out) > 1e-4


def test_a_strength_of_one_changes_no_bit(comfy, text_model):
    plain = text_model.sample()
    for given in ({}, {"levels": "1, 1", "over_time": "1"}, {"strength": 0.0, "mask": torch.zeros(1, 8, 8)}):
        assert torch.equal(text_model.sample(model=with_strength(comfy, text_model.model, **given)), plain)


def test_core_scales_the_same_layers_by_their_weights(comfy, text_model):
    """UNetTemporalAttentionMultiply with the same factor for both attentions, and both nodes at once."""
    node = "UNetTemporalAttentionMultiply"
    settings = {"self_structural": 1.0, "cross_structural": 1.0}

    def by_weights(model, factor):
        return comfy.call(node, model=model, self_temporal=factor, cross_temporal=factor, **settings).values[0]

    ours = text_model.sample(model=with_strength(comfy, text_model.model, strength=0.5))
    assert relative(text_model.sample(model=by_weights(text_model.model, 0.5)), ours) < 1e-4
    both = by_weights(with_strength(comfy, text_model.model, strength=2.0), 0.25)
    assert relative(text_model.sample(model=both), ours) < 1e-4


def test_values_over_time_are_cut_to_windows(comfy, text_model):
    given = {"steps": 2, "latent_image": text_model.latent(16, 24, 24), "long_video": "windows"}
    model = with_strength(comfy, text_model.model, over_time="1, 1, 0.2")
    assert relative(text_model.sample(model=model, **given), text_model.sample(**given)) > 1e-4
    with pytest.raises(Exception, match="Motion Strength"):
        text_model.sample(model=model, **{**given, "long_video": "fifo"})
    text_model.sample(model=with_strength(comfy, text_model.model, strength=0.5), **{**given, "long_video": "continue"})


def test_what_does_not_fit_is_refused(comfy, text_model):
    for given, message in (
        ({"levels": "1, x"}, "numbers separated by commas"),
        ({"mask": torch.ones(2, 8, 8)}, "has 2 frames, but the clip has 3"),
    ):
        with pytest.raises(Exception, match=message):
            text_model.sample(model=with_strength(comfy, text_model.model, **given))
