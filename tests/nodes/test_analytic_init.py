"""The start of DynamiCrafter-CIL in ComfyUI: the numbers of vc_core through our samplers and the host's."""

from __future__ import annotations

import pytest
import torch

from vc_core.checkpoint.statistics import read_statistics
from vc_core.denoising import Sampling
from vc_core.network.layers import to_frames
from vc_core.pipeline import Request, VideoCrafter

pytestmark = pytest.mark.weightless

SCALE = 0.18215
SIZE = {"width": 16, "height": 24, "frames": 3}
FILE = "initial_noise_tiny.pt"
START = 900
PICTURE = torch.rand(24, 16, 3, generator=torch.Generator().manual_seed(1))


def relative(a, b):
    return float((a - b).norm() / b.norm())


@pytest.fixture(scope="module")
def statistics(base):
    mean = 0.5 + torch.randn(1, 4, 3, 3, 2, generator=torch.Generator().manual_seed(2))
    torch.save({"Expectation_X0": mean, "Tr_Cov_d": torch.tensor(0.4)}, base.model("checkpoints", FILE))
    return base.model("checkpoints", FILE)


@pytest.fixture(scope="module")
def conditioning(continuing_model):
    positive, negative, _, latent = continuing_model.continued(PICTURE[None])
    return {"positive": positive, "negative": negative, "latent_image": latent}


def started(comfy, model, start=START, name=FILE):
    return comfy.call("VideoCrafterAnalyticInit", model=model, start_timestep=start, statistics=name).values[0]


@pytest.mark.parametrize("spacing", ["trailing", "uniform"])
@pytest.mark.parametrize(("ours", "sampler"), [("ddim_exact", "ddim"), ("dpmpp_2m", "dpmpp_2m"), ("euler", "euler")])
def test_clips_are_those_of_vc_core(base, comfy, continuing_model, statistics, conditioning, spacing, ours, sampler):
    core = VideoCrafter.load(base.model("checkpoints", continuing_model.name))
    wanted = Request(
        seed=7, cfg=3.0, sharp=True, guidance_rescale=0.0, start=START, **SIZE,
        sampling=Sampling(steps=5, sampler=sampler, spacing=spacing, eta=0.0),
    )  # fmt: skip
    source = read_statistics(statistics)
    *_, last = core.steps("a red square", PICTURE, request=wanted, source=source)
    settings = {"steps": 5, "eta": 0.0, "scheduler": spacing, "sampler_name": ours}
    out = continuing_model.sample(model=started(comfy, continuing_model.model), **settings, **conditioning)
    assert relative(out, to_frames(last.x) / SCALE) < 1e-4
    assert relative(continuing_model.sample(**settings, **conditioning), out) > 1e-2


def test_core_ksampler_begins_there(comfy, continuing_model, statistics, conditioning):
    """What the network is given first has the noise level, and around the mean the spread, of the statistics."""
    import comfy.sample as host

    seen = []

    def watch(run, given):
        seen.append((given["input"], given["timestep"]))
        return run(given["input"], given["timestep"], **given["c"])

    model = started(comfy, continuing_model.model).clone()
    model.set_model_unet_function_wrapper(watch)
    settings = {"seed": 1, "steps": 2, "cfg": 1.0, "sampler_name": "euler", "scheduler": "sgm_uniform", "denoise": 1.0}
    comfy.call("KSampler", model=model, **settings, **conditioning)
    x, sigma = seen[0]
    sampling = continuing_model.model.get_model_object("model_sampling")
    assert float((sampling.timestep(sigma) - (START - 1)).abs().max()) == 0
    abar = float(sampling.schedule.alphas_cumprod[START - 1])
    noise = host.prepare_noise(conditioning["latent_image"]["samples"], 1)
    mean = to_frames(read_statistics(statistics).latents)
    expected = abar**0.5 * mean + (1 - abar + abar * 0.4) ** 0.5 * noise
    assert relative(sampling.calculate_input(sigma, x), expected) < 1e-5


def test_the_top_without_statistics_changes_nothing(comfy, continuing_model, conditioning):
    settings = {"steps": 3, "scheduler": "trailing"}
    plain = continuing_model.sample(**settings, **conditioning)
    top = started(comfy, continuing_model.model, 1000, "none")
    assert torch.equal(continuing_model.sample(model=top, **settings, **conditioning), plain)
    less = started(comfy, continuing_model.model, 900, "none")
    assert relative(continuing_model.sample(model=less, **settings, **conditioning), plain) > 1e-3


@pytest.mark.parametrize("sampler", ["ddim_exact", "dpmpp_2m", "euler"])
def test_sampling_may_begin_at_the_first_timestep(base, comfy, continuing_model, conditioning, sampler):
    """One timestep is left, and one step: what vc_core makes of it."""
    model = started(comfy, continuing_model.model, 1, "none")
    settings = {"steps": 1, "scheduler": "trailing", "sampler_name": sampler}
    out = continuing_model.sample(model=model, **settings, **conditioning)
    core = VideoCrafter.load(base.model("checkpoints", continuing_model.name))
    sampling = Sampling(steps=1, spacing="trailing", eta=1.0, sampler=sampler.removesuffix("_exact"))
    request = Request(seed=7, cfg=3.0, sharp=True, guidance_rescale=0.0, start=1, sampling=sampling, **SIZE)
    *_, last = core.steps("a red square", PICTURE, request=request)
    assert relative(out, to_frames(last.x) / SCALE) < 1e-4


@pytest.mark.usefixtures("statistics")
def test_what_is_not_supported_is_refused(comfy, continuing_model, text_model, conditioning):
    with pytest.raises(Exception, match="holds no Expectation_X0"):
        started(comfy, continuing_model.model, name=continuing_model.name)
    with pytest.raises(Exception, match="from 1 to 1000"):
        started(comfy, continuing_model.model, 0)
    model = started(comfy, text_model.model)
    with pytest.raises(Exception, match="clip of 16x24 pixels and 3 frames"):
        text_model.sample(model=model, latent_image=text_model.latent(16, 24, 4))
    with pytest.raises(Exception, match="clip of 16x24 pixels and 3 frames"):
        text_model.sample(model=model, latent_image=text_model.latent(24, 24, 3), sampler_name="euler")
    for long in ({"long_video": "fifo"}, {"free_init": 2}):
        with pytest.raises(Exception, match="set long_video to off"):
            continuing_model.sample(model=started(comfy, continuing_model.model), **long, **conditioning)
