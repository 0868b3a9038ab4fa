"""The terms of `vc_core.denoising.guidance` in the host: ComfyUI computes classifier-free guidance, we add the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import comfy.samplers
from torch import Tensor

from ...vc_core.conditions import NEGATIVE, POSITIVE, Branch
from ...vc_core.denoising.guidance import Combination, Rule, Term, summed
from ...vc_core.network.layers import to_clips, to_frames
from .branches import BRANCHES, step_of
from .model_sampling import RescaledSampling

Predictions = dict[Branch, Tensor]


def with_combination(model: Any, combination: Combination) -> Any:
    """The MODEL with what follows classifier-free guidance in a combination: terms of changed passes, and rules."""
    _, changed = _parts(combination)
    if not changed and not combination.rules:
        return model
    model = model.clone()
    model.set_model_sampler_post_cfg_function(partial(after_cfg, terms=changed, rules=combination.rules))
    return model


class Guider(comfy.samplers.CFGGuider):
    """ComfyUI's guider for a combination of more conditionings than the positive and the negative one. Those two are
    computed as ever, all others in one further call."""

    def __init__(self, model: Any, conditionings: Mapping[str, Any], combination: Combination, cfg: float) -> None:
        """`conditionings`: CONDITIONING by the names of `conditions.Branch`. `cfg`: the scale that other nodes see."""
        super().__init__(model)
        self.combination, _ = _parts(combination)
        self.inner_set_conds(dict(conditionings))
        self.set_cfg(cfg)

    def predict_noise(self, x: Tensor, timestep: Tensor, model_options: Any = None, seed: int | None = None) -> Tensor:
        """ComfyUI's entry for each call of the model."""
        options = {**(model_options or {}), "sampler_cfg_function": self._combined, "disable_cfg1_optimization": True}
        out: Tensor = comfy.samplers.sampling_function(
            self.inner_model,
            x,
            timestep,
            self.conds["negative"],
            self.conds["positive"],
            self.cfg,
            model_options=options,
            seed=seed,
        )
        return out

    def _combined(self, arguments: dict[str, Any]) -> Tensor:
        """ComfyUI's function for classifier-free guidance, which returns what is subtracted from x."""
        found = _predictions(arguments, self.combination.branches, self.conds)
        out: Tensor = arguments["input"] - self.combination(found)
        return out


def needs_guider(conditionings: Mapping[str, Any]) -> bool:
    """Whether there are conditionings beside the two of ComfyUI's own guider."""
    return not set(conditionings) <= {POSITIVE.conditioning, NEGATIVE.conditioning}


def _parts(combination: Combination) -> tuple[Combination, tuple[Term, ...]]:
    """The part of a combination whose branches differ in their conditionings alone, and the terms of changed passes.
    The rules follow both."""
    plain = tuple(term for term in combination.terms if not (_is_changed(term.toward) or _is_changed(term.away)))
    changed = tuple(term for term in combination.terms if term not in plain)
    return replace(combination, terms=plain, rules=()), changed


def _is_changed(branch: Branch) -> bool:
    """Whether something is left out of the network in this branch."""
    return branch != Branch(branch.conditioning)


def after_cfg(arguments: dict[str, Any], terms: Sequence[Term], rules: Sequence[Rule]) -> Tensor:
    """ComfyUI's function for what follows classifier-free guidance. Terms are the same of denoised latents as of what
    the network predicts; rules are not, so those see its predictions."""
    out: Tensor = arguments["denoised"]
    conditional: Tensor = arguments["cond_denoised"]
    terms = _counting(terms, arguments)
    if terms:
        conds = {POSITIVE.conditioning: arguments["cond"], NEGATIVE.conditioning: arguments["uncond"]}
        found = _predictions(arguments, Combination(terms=tuple(terms)).branches, conds)
        varies = any(term.course is not None for term in terms)
        timestep = arguments["model"].model_sampling.timestep(arguments["sigma"]) if varies else None
        out = summed(out, terms, found, timestep)
    if out is not conditional:
        for rule in rules:
            out = _in_network_terms(arguments, rule, out, conditional)
    return out


def _counting(terms: Sequence[Term], arguments: dict[str, Any]) -> Sequence[Term]:
    """The terms that count in the step of a call."""
    if all(term.steps is None for term in terms):
        return terms
    options = arguments["model_options"].get("transformer_options", {})
    step, _ = step_of({**options, "sigmas": arguments["sigma"]})
    return [term for term in terms if term.counts(step)]


def _predictions(arguments: dict[str, Any], branches: Sequence[Branch], conds: Mapping[str, Any]) -> Predictions:
    """The denoised latents of the branches: the two that ComfyUI has computed, and the others from one call for all
    that leave the same out of the network."""
    found = {POSITIVE: arguments["cond_denoised"], NEGATIVE: arguments["uncond_denoised"]}
    kinds: dict[Branch, list[Branch]] = {}
    for branch in branches:
        if branch not in found:
            kinds.setdefault(replace(branch, conditioning=""), []).append(branch)
    for alike in kinds.values():
        options = arguments["model_options"].copy()
        options["transformer_options"] = {**options.get("transformer_options", {}), BRANCHES: tuple(alike)}
        computed = comfy.samplers.calc_cond_batch(
            arguments["model"],
            [conds[branch.conditioning] for branch in alike],
            arguments["input"],
            arguments["sigma"],
            options,
        )
        found.update(zip(alike, computed, strict=True))
    return found


def _in_network_terms(arguments: dict[str, Any], rule: Rule, denoised: Tensor, conditional: Tensor) -> Tensor:
    """Denoised latents f c h w, changed by a rule for what the network predicts, b c f h w."""
    base, factor = _parts_of_denoised(arguments)
    given, positive = (_one_clip((base - latents) / factor) for latents in (denoised, conditional))
    return base - factor * to_frames(rule(given, positive))


def _parts_of_denoised(arguments: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """(base, factor): the denoised latents are base - factor * what the network predicted. Each frame may have a sigma
    of its own."""
    x, sigma = arguments["input"], arguments["sigma"]
    sampling, factor = arguments["model"].model_sampling, sigma.to(x).reshape(-1, *(1,) * (x.ndim - 1))
    if isinstance(sampling, RescaledSampling) and sampling.schedule.prediction == "v":
        alpha = sampling.alpha(sigma, x.ndim).to(x)
        return x * alpha, factor * alpha.sqrt()
    return x, factor


def _one_clip(x: Tensor) -> Tensor:
    """f c h w -> 1 c f h w"""
    return to_clips(x, x.shape[0])
