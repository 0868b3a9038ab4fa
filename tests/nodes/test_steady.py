"""ByTheWay, FreqPrior, Noise Calibration, FreeU, Layer Guidance as nodes: what vc_core gives, and FreeU of core."""

from __future__ import annotations

import pytest
import torch
from small_models import TEXT_MODEL

from vc_core.control import ByTheWay, FreeU, FreqPrior, LayerGuidance, NoiseCalibration
from vc_core.denoising import Sampling, Source
from vc_core.network.layers import to_clips, to_frames
from vc_core.pipeline import Request, VideoCrafter

EXACT = 1e-4
SCALE = TEXT_MODEL.autoencoder.scale_factor
FACTORS = {"b1": 1.1, "b2": 1.2, "s1": 0.9, "s2": 0.2}
NODES = {
    "VideoCrafterByTheWayControl": (ByTheWay, {"beta": 4.0, "share": 1.0}),
    "VideoCrafterFreqPriorControl": (FreqPrior, {"rounds": 2}),
    "VideoCrafterFreeUControl": (FreeU, {**FACTORS, "version": "1"}),
    "VideoCrafterLayerGuidanceControl": (LayerGuidance, {"temporal": "perturbed"}),
    "VideoCrafterNoiseCalibrationControl": (NoiseCalibration, {"rounds": 2, "scale": 1.0}),
}


def relative(a, b):
    return float((a - b).norm() / b.norm())


def controlled(loaded, node, **given):
    return loaded.comfy.call(node, model=loaded.model, **given).values[0]


@pytest.mark.parametrize("node", NODES)
def test_the_node_gives_what_vc_core_gives(base, checkpoints, text_model, node):
    control, given = NODES[node]
    settings, source = {}, None
    if control is NoiseCalibration:
        samples = torch.randn(3, 4, 3, 2, generator=torch.Generator().manual_seed(4))
        settings, source = (
            {"latent_image": {"samples": samples}, "denoise": 0.5},
            Source(to_clips(samples * SCALE, 3), 0.5),
        )
    plain, out = text_model.sample(**settings), text_model.sample(controlled(text_model, node, **given), **settings)
    core = VideoCrafter.load(base.model("checkpoints", checkpoints["text"]))
    shape = {} if source else {"width": 16, "height": 24, "frames": 3}
    request = Request(seed=7, cfg=3.0, sampling=Sampling(steps=4), controls=(control(**given),), **shape)
    *_, last = core.steps("a red square", request=request, source=source)
    assert relative(out, to_frames(last.x) / SCALE) < EXACT
    assert relative(out, plain) > EXACT
    assert torch.equal(text_model.sample(**settings), plain)


@pytest.mark.parametrize(("node", "version"), [("FreeU", "1"), ("FreeU_V2", "2")])
def test_freeu_of_core_acts_at_the_right_channels(text_model, node, version):
    """The same as the control, which knows the blocks by the model's numbers. Core's second version divides by zero
    where a map has a single pixel."""

    def sampled(model):
        return text_model.sample(model, latent_image=text_model.latent(64, 48))

    ours = sampled(controlled(text_model, "VideoCrafterFreeUControl", **FACTORS, version=version))
    assert relative(sampled(controlled(text_model, node, **FACTORS)), ours) < EXACT
    assert relative(ours, sampled(text_model.model)) > EXACT


def test_noise_calibration_needs_a_video(text_model):
    model = controlled(text_model, "VideoCrafterNoiseCalibrationControl")
    with pytest.raises(Exception, match="Noise Calibration needs a video to start from"):
        text_model.sample(model)


def test_freqprior_refuses_freenoise(text_model):
    model = text_model.comfy.call("VideoCrafterFreeNoise", model=text_model.model, window=2, stride=1).values[0]
    model = text_model.comfy.call("VideoCrafterFreqPriorControl", model=model).values[0]
    with pytest.raises(Exception, match=r"reused over time .* is not supported with FreqPrior"):
        text_model.sample(model)
