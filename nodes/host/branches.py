"""Which branches of guidance the conditionings of one of ComfyUI's calls are, and which step it belongs to."""

from __future__ import annotations

from typing import Any

from ...vc_core.conditions import NEGATIVE, POSITIVE, Branch

BRANCHES = "videocrafter_branches"
"""The branches of a call in `transformer_options`, in the order of its conditionings."""
USUAL = (POSITIVE, NEGATIVE)
"""Those of ComfyUI's own classifier-free guidance."""


def branches_of(options: dict[str, Any]) -> tuple[Branch, ...]:
    """The branch of each part of the batch in a pass; `options` are the `transformer_options`. Guiders of other packs
    may have further conditionings; those are named by their place."""
    named: tuple[Branch, ...] = options.get(BRANCHES, USUAL)
    places: list[int] = list(options.get("cond_or_uncond") or (0,))
    return tuple(named[place] if place < len(named) else Branch(str(place)) for place in places)


def step_of(options: dict[str, Any]) -> tuple[int | None, int | None]:
    """The index of the step that runs, which is how many of the run's sigmas lie above its own, and how many there are;
    None where the `transformer_options` do not tell."""
    run, now = options.get("sample_sigmas"), options.get("sigmas")
    if run is None or now is None:
        return None, None
    return int((run.to(now) > now.flatten()[0] * (1 + 1e-4)).sum()), len(run) - 1
