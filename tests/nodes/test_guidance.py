"""Lists of guidance terms in the host, beyond those of the sampler node's settings."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor

EXACT = 1e-4  # float32 differences times their weights
SIGMAS = torch.tensor([3.0, 0.0])


@pytest.fixture(scope="module")
def shown(text_model):
    """Four conditionings by name."""
    texts = {"positive": "a red square", "negative": "", "plain": "a square", "still": "a photo"}
    return {name: text_model.text(text) for name, text in texts.items()}


def denoised(guider, seed: int = 1) -> Tensor:
    """What a guider makes of one noised latent, f c h w, without a sampler's steps."""
    import comfy.samplers

    class Probe(comfy.samplers.Sampler):
        def sample(self, model_wrap, sigmas, extra_args, callback, noise, *_, **__):
            return model_wrap(3.0 * noise, sigmas[:1].expand(len(noise)), **extra_args)

    noise = torch.randn(3, 4, 3, 2, generator=torch.Generator().manual_seed(seed))
    return guider.sample(noise, torch.zeros_like(noise), Probe(), SIGMAS, seed=seed, disable_pbar=True)


def prediction(model, conditioning) -> Tensor:
    import comfy.samplers

    guider = comfy.samplers.CFGGuider(model)
    guider.inner_set_conds({"positive": conditioning})
    return denoised(guider)


def test_any_list_of_terms_takes_one_more_call_than_classifier_free_guidance(comfy, text_model, shown):
    """Style guidance, e + s (e - n) + t (n - u), with one term more, and then temporal guidance."""
    host, core = comfy.module("nodes.host.guidance"), comfy.module("vc_core.conditions")
    terms = comfy.module("vc_core.denoising.guidance")
    positive, negative = core.POSITIVE, core.NEGATIVE
    plain, still = core.Branch("plain"), core.Branch("still")
    combination = terms.Combination(
        positive,
        (
            terms.Term(2.0, positive, plain),
            terms.Term(3.0, plain, negative),
            terms.Term(0.5, positive, still),
            terms.Term(1.5, positive, terms.FROZEN),
        ),
    )
    found = {core.Branch(name): prediction(text_model.model, given) for name, given in shown.items()}
    frozen = text_model.model.clone()
    frozen.model_options["transformer_options"][comfy.module("nodes.host.branches").BRANCHES] = (terms.FROZEN,)
    found[terms.FROZEN] = prediction(frozen, shown["positive"])
    assert not torch.equal(found[terms.FROZEN], found[positive])

    calls: list[list[int]] = []

    def counted(apply, arguments):
        calls.append(arguments["cond_or_uncond"])
        return apply(arguments["input"], arguments["timestep"], **arguments["c"])

    model = host.with_combination(text_model.model, combination)
    model.set_model_unet_function_wrapper(counted)
    out = denoised(host.Guider(model, shown, combination, cfg=2.0))
    wanted = combination(found)
    assert float((out - wanted).norm() / wanted.norm()) < EXACT
    assert sum(len(call) for call in calls) == 5, "each branch once"
    assert len(calls) == 3, "the usual two, the other two, and the one without attention between frames"


def test_a_rule_sees_what_the_network_predicts(comfy, text_model, shown):
    """Denoised latents are base - sigma * prediction for a model that predicts the noise, so that a rule which doubles
    the prediction shows."""
    host, terms = comfy.module("nodes.host.guidance"), comfy.module("vc_core.denoising.guidance")
    settings = terms.Guidance(scale=2.0).combination
    both = {name: shown[name] for name in ("positive", "negative")}

    def twice(guided: Tensor, positive: Tensor) -> Tensor:
        assert guided.shape == positive.shape == (1, 4, 3, 3, 2), "b c f h w"
        return 2 * guided

    make = partial(terms.Combination, settings.base, settings.terms)
    plain, doubled = (
        denoised(host.Guider(host.with_combination(text_model.model, one), both, one, cfg=2.0))
        for one in (make(), make(rules=(twice,)))
    )
    noised = 3.0 * torch.randn(3, 4, 3, 2, generator=torch.Generator().manual_seed(1))
    scale = text_model.model.model.latent_format.scale_factor
    torch.testing.assert_close(noised - doubled * scale, 2 * (noised - plain * scale), rtol=1e-3, atol=1e-3)
