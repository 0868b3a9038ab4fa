"""The second clock of Time-to-Move in ComfyUI: what a noise mask keeps is generated from a noise level on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...vc_core.errors import UserError
from .long import check_own

FUNCTION = "denoise_mask_function"
"""Where ComfyUI keeps, among the `model_options`, the function that changes a noise mask from step to step."""


@dataclass(frozen=True)
class Release:
    """ComfyUI's `denoise_mask_function`: the mask as it is down to a share of the noise schedule, then 1 everywhere."""

    kept_until: float

    def __call__(self, sigma: Tensor, denoise_mask: Tensor, extra_options: dict[str, Any]) -> Tensor:
        """sigma: b; denoise_mask: (b f) c h w, 1 where it is generated."""
        sampling = extra_options["model"].inner_model.model_sampling
        timestep = float(sampling.timestep(sigma.flatten()[:1])[0])
        kept = timestep >= self.kept_until * sampling.num_timesteps
        return denoise_mask if kept else torch.ones_like(denoise_mask)


def with_release(model: Any, kept_until: float) -> Any:
    """A copy of the MODEL whose samplers keep what a noise mask keeps down to this share of the noise schedule. Raises
    UserError for models that are not VideoCrafter's, and for one whose noise mask another node changes."""
    check_own(model)
    known = model.model_options.get(FUNCTION)
    if known is not None and not isinstance(known, Release):
        raise UserError(
            "The noise mask of this model is already changed from step to step, by Differential Diffusion. Leave that "
            "node out, or VideoCrafter Drag Object."
        )
    out = model.clone()
    out.set_model_denoise_mask_function(Release(kept_until))
    return out
