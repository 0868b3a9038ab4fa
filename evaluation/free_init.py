"""Evaluates FreeInit (arXiv:2312.07537): clips of held-out prompts after the first and after additional rounds."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from vc_core.denoising import Sampling, Step
from vc_core.long import frames
from vc_core.long.off import Off
from vc_core.pipeline import Request, VideoCrafter

from .detector import observe
from .experiments import average, judge
from .generate import Array, Case, draw_cases
from .measures import measure

logger = logging.getLogger(__name__)

ROUNDS = (0, 2, 4)
"""Numbers of additional rounds. The authors' 3 to 5 iterations include the first sampling."""


def in_rounds(crafter: VideoCrafter, case: Case, rounds: int, sampling: Sampling) -> list[Array]:
    """The clips f h w 3 of one run, after the first and after each additional round."""
    found = []

    def keep(step: Step) -> None:
        if step.index == step.total - 1:
            found.append(step.x)

    request = Request(seed=case.seed, fps=case.scene.fps, sampling=sampling)
    for _ in frames(crafter, case.prompt, request=request, method=Off(free_init=rounds), on_step=keep):
        pass
    return [np.asarray(crafter.decode(latents).cpu().numpy(), dtype=np.float32) for latents in found]


def figures(cases: Sequence[Case], clips: Sequence[Array]) -> dict[str, Any]:
    """Agreement of the clips with their prompts, and the measures that need no prompt."""
    seen = [observe(clip) for clip in clips]
    identity = [saw.share(colour=saw.colour, shape=saw.shape) for saw in seen]
    return {
        **judge(cases, seen),
        "identity": round(100 * float(np.mean(identity)), 1),
        **average([asdict(measure(clip)) for clip in clips]),
    }


def free_init(crafter: VideoCrafter, count: int, steps: int) -> tuple[dict[str, Any], list[list[Array]]]:
    """The figures after each of `ROUNDS`, and the corresponding clips of each prompt."""
    cases = draw_cases(count, unseen=True)
    sampling = Sampling(steps=steps, eta=0.0)
    made = []
    for case in cases:
        clips = in_rounds(crafter, case, max(ROUNDS), sampling)
        made.append([clips[number] for number in ROUNDS])
        logger.info("FreeInit: %d of %d prompts", len(made), count)
    found = {
        f"{number} further rounds": figures(cases, [clips[place] for clips in made])
        for place, number in enumerate(ROUNDS)
    }
    return {"settings": {"steps": steps, "eta": 0.0, "sampler": "ddim"}, **found}, made
