"""ComfyUI's samplers, schedulers and guiders on our MODEL, judged by what mathematics says of them.

The small network has weights at random, so nothing here is a picture; but its probability flow is an equation like any
other, and samplers that solve it must meet.
"""

from __future__ import annotations

import inspect

import pytest
import torch

from comfyui.limits import skip_without

pytestmark = pytest.mark.weightless

FLOW = (
    "euler", "euler_cfg_pp", "heun", "heunpp2", "exp_heun_2_x0", "dpm_2", "lms", "dpm_fast", "dpmpp_2m",
    "dpmpp_2m_cfg_pp", "ipndm", "ipndm_v", "deis", "res_multistep", "res_multistep_cfg_pp", "gradient_estimation",
    "gradient_estimation_cfg_pp", "ddim", "uni_pc", "uni_pc_bh2",
)  # fmt: skip
"""Those that solve the probability flow, without fresh noise; `dpm_adaptive`, with its own steps, has a test."""
SAME = (
    ("ddim", "euler"),
    ("ddpm", "euler_ancestral"),
    ("dpmpp_sde_gpu", "dpmpp_sde"),
    ("dpmpp_2m_sde_gpu", "dpmpp_2m_sde"),
    ("dpmpp_2m_sde_heun_gpu", "dpmpp_2m_sde_heun"),
    ("dpmpp_3m_sde_gpu", "dpmpp_3m_sde"),
)
"""Two names for the same numbers on this model and device."""
CFG_PP = ("euler", "euler_ancestral", "dpmpp_2m", "res_multistep", "res_multistep_ancestral", "gradient_estimation")
SCHEDULERS = ("normal", "karras", "sgm_uniform", "beta")
STEPS = {"dpm_fast": 4}
"""For samplers that divide the range by themselves; the others take 2."""


def relative(a, b):
    return float((a - b).norm() / b.norm())


def all_samplers():
    """The samplers of the ComfyUI at hand, asked for when the tests run."""
    import comfy.samplers

    return list(comfy.samplers.KSampler.SAMPLERS)


class Bench:
    """One small clip, and the ways to sample it."""

    def __init__(self, loaded):
        self.comfy, self.model = loaded.comfy, loaded.model
        self.text, self.other, self.empty = map(loaded.text, ("a red square", "a blue circle", ""))
        self.latent = loaded.latent(16, 16, 2)

    def k(self, sampler="euler", scheduler="normal", steps=3, positive=None, negative=None, **given):
        settings = {"model": self.model, "seed": 1, "cfg": 2.0, "latent_image": self.latent, "denoise": 1.0, **given}
        return self.comfy.call(
            "KSampler", sampler_name=sampler, scheduler=scheduler, steps=steps, positive=positive or self.text,
            negative=negative or self.empty, **settings,
        ).values[0]["samples"]  # fmt: skip

    def custom(self, guider, sampler="euler", steps=3, seed=1, latent=None):
        """SamplerCustomAdvanced with a guider, and the sigmas of `normal`."""
        (sigmas,) = self.comfy.call("BasicScheduler", model=self.model, scheduler="normal", steps=steps).values
        return self.comfy.call(
            "SamplerCustomAdvanced",
            noise=self.comfy.call("RandomNoise", noise_seed=seed).values[0],
            guider=guider,
            sampler=self.comfy.call("KSamplerSelect", sampler_name=sampler).values[0],
            sigmas=sigmas,
            latent_image=latent or self.latent,
        ).values[0]["samples"]


@pytest.fixture(scope="module")
def bench(text_model):
    return Bench(text_model)


@pytest.fixture(scope="module")
def flow(bench):
    """Where the probability flow leads from the first noise, by very many small steps."""
    return bench.k(steps=100, cfg=1.0)


def test_our_node_draws_the_fresh_noise_of_comfyuis_samplers_on_the_cpu(text_model, bench, monkeypatch):
    """So a seed is the same clip on every machine, and all seeds can be used. On a CPU it is ComfyUI's own noise."""
    skip_without("fresh noise of a seed of its own on the CPU")
    import comfy.k_diffusion.sampling as host
    import comfy.sample
    import comfy.samplers

    sampling, (model, text, empty) = bench.comfy.module("nodes.host.sampling"), (bench.model, bench.text, bench.empty)
    sigmas = sampling.host_sigmas(model, "euler", "normal", 3, 1.0)
    noise, latent = torch.randn(2, 4, 2, 2, generator=torch.Generator().manual_seed(1)), torch.zeros(2, 4, 2, 2)
    for name in ("euler_ancestral", "dpm_2_ancestral", "lcm", "seeds_2"):
        ours, theirs = (
            comfy.sample.sample_custom(model, noise, 2.0, sampler, sigmas, text, empty, latent, seed=5)
            for sampler in (sampling.host_sampler(name, 1.0), comfy.samplers.sampler_object(name))
        )
        assert torch.equal(ours, theirs), name

    given = {"steps": 2, "scheduler": "normal", "latent_image": bench.latent, "seed": 2**64 - 1, "cfg": 1.0}
    given |= {"positive": text, "negative": empty}
    functions = {name: comfy.samplers.sampler_object(name).sampler_function for name in all_samplers()}
    names = [name for name, function in functions.items() if "noise_sampler" in inspect.signature(function).parameters]
    names = [name for name in names if not name.startswith(sampling.BROWNIAN)]
    assert len(names) > 10
    made = []
    for machine in (1.0, -1.0):
        monkeypatch.setattr(host, "default_noise_sampler", lambda x, seed=None, m=machine: lambda *_: m + 0 * x)
        made.append({name: text_model.sample(sampler_name=name, **given) for name in names})
    for name in names:
        assert torch.equal(made[0][name], made[1][name]), name


@pytest.mark.parametrize("name", ["ddim", "dpmpp_sde", "euler_ancestral"])
def test_the_last_of_all_seeds_runs(text_model, name):
    out = text_model.sample(sampler_name=name, scheduler="normal", seed=2**64 - 1, steps=2)
    assert torch.isfinite(out).all()
    assert not torch.equal(out, text_model.sample(sampler_name=name, scheduler="normal", seed=1, steps=2))


# --- samplers and schedulers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_every_sampler_is_finite(bench, scheduler):
    for sampler in all_samplers():
        out = bench.k(sampler, scheduler, STEPS.get(sampler, 2))
        assert out.shape == bench.latent["samples"].shape, sampler
        assert torch.isfinite(out).all(), sampler


def test_every_sampler_follows_the_prompt(bench):
    for sampler in all_samplers():
        steps = STEPS.get(sampler, 2)
        text, other = (bench.k(sampler, "simple", steps, positive=text) for text in (bench.text, bench.other))
        assert torch.isfinite(text).all(), sampler
        assert relative(text, other) > 1e-3, sampler


def test_every_scheduler_of_the_host_ends_where_the_flow_ends(bench, flow):
    """`ddim_uniform` alone begins below the last timestep, with less noise, so its clip is another solution."""
    import comfy.samplers

    for scheduler in comfy.samplers.KSampler.SCHEDULERS:
        end = bench.k("heun", scheduler, 25, cfg=1.0) if scheduler == "ddim_uniform" else flow
        assert relative(bench.k("dpmpp_2m", scheduler, 25, cfg=1.0), end) < 0.1, scheduler


@pytest.mark.parametrize("sampler", FLOW)
def test_samplers_without_fresh_noise_solve_the_same_equation(bench, flow, sampler):
    guidance = {"negative": bench.text, "cfg": 2.0} if sampler.endswith("_cfg_pp") else {"cfg": 1.0}
    few, many = (relative(bench.k(sampler, steps=steps, **guidance), flow) for steps in (4, 25))
    assert many < 0.05
    assert many < few / 3


def test_dpm_adaptive_solves_the_same_equation(bench, flow):
    assert relative(bench.k("dpm_adaptive", cfg=1.0), flow) < 0.02


def test_the_list_of_samplers_without_fresh_noise_is_whole(bench):
    """Judged by their nature: the only ones for which the seed of the steps does not count."""
    skip_without("fresh noise of a seed of its own on the CPU")
    import comfy.sample
    import comfy.samplers

    sigmas = bench.comfy.call("BasicScheduler", model=bench.model, scheduler="normal", steps=3).values[0]
    noise = comfy.sample.prepare_noise(bench.latent["samples"], 1)

    def run(name, seed):
        with torch.inference_mode():
            return comfy.sample.sample_custom(
                bench.model, noise, 1.0, comfy.samplers.sampler_object(name), sigmas, bench.text, bench.empty,
                bench.latent["samples"], seed=seed, disable_pbar=True,
            )  # fmt: skip

    still = {name for name in all_samplers() if torch.equal(run(name, 1), run(name, 2))}
    assert still == {*FLOW, "dpm_adaptive"}


@pytest.mark.parametrize(("name", "same"), SAME)
def test_two_names_for_one_sampler_give_one_clip(bench, name, same):
    assert relative(bench.k(name), bench.k(same)) < 1e-5


@pytest.mark.parametrize("plain", CFG_PP)
def test_cfg_pp_is_the_plain_sampler_where_guidance_has_nothing_to_add(bench, plain):
    """With the same text on both sides the guided and the unguided prediction are one."""
    same = {"positive": bench.text, "negative": bench.text, "steps": 4}
    assert relative(bench.k(f"{plain}_cfg_pp", **same), bench.k(plain, **same)) < 1e-4
    assert relative(bench.k(f"{plain}_cfg_pp", cfg=3.0), bench.k(plain, cfg=3.0)) > 1e-3


def test_guidance_of_one_leaves_the_negative_prompt_out(bench):
    assert torch.equal(bench.k(cfg=1.0), bench.k(cfg=1.0, negative=bench.other))
    assert relative(bench.k(cfg=3.0), bench.k(cfg=3.0, negative=bench.other)) > 1e-3


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m", "dpmpp_2m_sde", "lcm", "uni_pc"])
def test_less_denoising_keeps_more_of_the_clip(bench, sampler):
    start = {"samples": torch.randn(2, 4, 2, 2, generator=torch.Generator().manual_seed(2)) * 50}
    moved = [
        relative(bench.k(sampler, steps=5, latent_image=start, denoise=denoise), start["samples"])
        for denoise in (0.1, 0.4, 1.0)
    ]
    assert 0 < moved[0] < moved[1] < moved[2]


def test_no_denoising_keeps_the_clip(bench):
    start = {"samples": torch.randn(2, 4, 2, 2, generator=torch.Generator().manual_seed(2))}
    assert torch.equal(bench.k(latent_image=start, denoise=0.0), start["samples"])


def test_seeds_count_and_frames_of_a_clip_have_noise_of_their_own(bench):
    out = bench.k(seed=3)
    assert torch.equal(out, bench.k(seed=3))
    assert relative(out, bench.k(seed=4)) > 1e-2
    assert relative(out[0], out[1]) > 1e-2


def test_batch_seeds_give_each_frame_the_noise_of_its_place(bench):
    """`batch_index`, as LatentFromBatch leaves it: a part of a clip starts from the noise that the part had."""
    import comfy.sample

    whole = {"samples": torch.zeros(4, 4, 2, 2)}
    (part,) = bench.comfy.call("LatentFromBatch", samples=whole, batch_index=2, length=2).values
    noise = comfy.sample.prepare_noise(whole["samples"], 5)
    of_part = comfy.sample.prepare_noise(part["samples"], 5, part["batch_index"])
    assert torch.equal(of_part, noise[2:])
    assert relative(bench.k(seed=5, latent_image=part), bench.k(seed=5)) > 1e-3
    assert torch.equal(bench.k(seed=5, latent_image=part), bench.k(seed=5, latent_image=dict(part)))


def test_fixed_seed_behavior_gives_all_frames_one_noise(bench):
    (fixed,) = bench.comfy.call("LatentBatchSeedBehavior", samples=bench.latent, seed_behavior="fixed").values
    alike, free = bench.k(latent_image=fixed), bench.k()
    assert relative(alike[1], alike[0]) < relative(free[1], free[0]) / 2


def test_the_same_seed_is_another_clip_in_our_sampler(bench, text_model):
    """What the help says: ComfyUI draws frame by frame in its own layout, we draw the clip as the references do."""
    settings = {"latent_image": bench.latent, "sampler_name": "euler", "scheduler": "normal", "steps": 3, "cfg": 2.0}
    assert relative(text_model.sample(seed=1, **settings), bench.k(seed=1)) > 0.1


# --- stages and guiders -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", ["euler", "heun", "ddim", "dpm_2"])
@pytest.mark.parametrize("split", [1, 3])
def test_two_stages_are_one_run(bench, sampler, split):
    given = {"model": bench.model, "noise_seed": 1, "steps": 4, "cfg": 2.0, "sampler_name": sampler}
    given |= {"scheduler": "karras", "positive": bench.text, "negative": bench.empty}
    (first,) = bench.comfy.call(
        "KSamplerAdvanced", add_noise="enable", end_at_step=split, return_with_leftover_noise="enable",
        latent_image=bench.latent, **given,
    ).values  # fmt: skip
    (second,) = bench.comfy.call(
        "KSamplerAdvanced", add_noise="disable", start_at_step=split, latent_image=first, **given
    ).values
    assert relative(second["samples"], bench.k(sampler, "karras", 4)) < 1e-5


def test_split_sigmas_are_one_run(bench):
    (sigmas,) = bench.comfy.call("BasicScheduler", model=bench.model, scheduler="karras", steps=4).values
    (sampler,) = bench.comfy.call("KSamplerSelect", sampler_name="euler").values
    (guider,) = bench.comfy.call(
        "CFGGuider", model=bench.model, positive=bench.text, negative=bench.empty, cfg=2.0
    ).values
    parts = bench.comfy.call("SplitSigmas", sigmas=sigmas, step=2).values
    noises = (
        bench.comfy.call("RandomNoise", noise_seed=1).values[0],
        bench.comfy.call("DisableNoise").values[0],
    )
    latent = bench.latent
    for noise, part in zip(noises, parts, strict=True):
        latent = bench.comfy.call(
            "SamplerCustomAdvanced", noise=noise, guider=guider, sampler=sampler, sigmas=part, latent_image=latent
        ).values[0]
    assert relative(latent["samples"], bench.k("euler", "karras", 4)) < 1e-5


def test_guiders_are_the_guidance_that_they_say(bench):
    call = bench.comfy.call
    (basic,) = call("BasicGuider", model=bench.model, conditioning=bench.text).values
    (cfg,) = call("CFGGuider", model=bench.model, positive=bench.text, negative=bench.empty, cfg=2.0).values
    assert torch.equal(bench.custom(basic), bench.k(cfg=1.0))
    assert torch.equal(bench.custom(cfg), bench.k(cfg=2.0))
    assert torch.equal(bench.custom(cfg, seed=2), bench.k(cfg=2.0, seed=2))


def test_the_guider_of_two_texts_has_the_other_guiders_as_limits(bench):
    call = bench.comfy.call

    def dual(first, second, both, negative, **scales):
        (guider,) = call(
            "DualCFGGuider", model=bench.model, cond1=first, cond2=second, negative=negative, style="regular",
            cfg_conds=both, **scales,
        ).values  # fmt: skip
        return bench.custom(guider)

    text, other, empty = bench.text, bench.other, bench.empty
    # The guided prediction begins at the negative's, goes towards the second text's and from there towards the first's.
    only_second = dual(text, other, 0.0, empty, cfg_cond2_negative=2.0)
    assert relative(only_second, bench.k(positive=other, cfg=2.0)) < 1e-4
    without_second = dual(text, other, 2.0, empty, cfg_cond2_negative=2.0)
    assert relative(without_second, bench.k(cfg=2.0)) < 1e-4
    both = dual(text, other, 3.0, empty, cfg_cond2_negative=1.5)
    assert min(relative(both, only_second), relative(both, without_second)) > 1e-3


def test_our_samplers_run_behind_every_guider(bench):
    call = bench.comfy.call
    (ours,) = call("VideoCrafterSampler", sampler="ddim_exact", eta=0.0).values
    (sigmas,) = call("VideoCrafterScheduler", model=bench.model, spacing="trailing", steps=4).values
    guiders = [
        call("BasicGuider", model=bench.model, conditioning=bench.text).values[0],
        call("CFGGuider", model=bench.model, positive=bench.text, negative=bench.empty, cfg=2.0).values[0],
        call("DualCFGGuider", model=bench.model, cond1=bench.text, cond2=bench.other, negative=bench.empty,
             cfg_conds=3.0, cfg_cond2_negative=1.5).values[0],
    ]  # fmt: skip
    made = []
    for guider in guiders:
        (noise,) = call("RandomNoise", noise_seed=1).values
        made.append(
            call("SamplerCustomAdvanced", noise=noise, guider=guider, sampler=ours, sigmas=sigmas,
                 latent_image=bench.latent).values[0]["samples"]
        )  # fmt: skip
    assert torch.isfinite(torch.stack(made)).all()
    assert min(relative(a, b) for a in made for b in made if a is not b) > 1e-3
