"""Where sampling of a MODEL begins: a noise schedule without its last timesteps, and noise with a mean and a spread."""

from __future__ import annotations

from typing import Any

from ...vc_core.denoising import AnalyticInit
from ...vc_core.errors import UserError
from .model_sampling import RescaledSampling, model_sampling
from .sampling import rescaled

MODEL_SAMPLING = "model_sampling"


def with_start(model: Any, count: int, init: AnalyticInit | None) -> Any:
    """A copy of the MODEL that knows the first `count` timesteps alone, whose samplers begin with `init`."""
    schedule = rescaled(model.get_model_object(MODEL_SAMPLING)).schedule.until(count)
    started = model_sampling(model.model.model_config, schedule)
    started.init = init
    out = model.clone()
    out.add_object_patch(MODEL_SAMPLING, started)
    return out


def check_start(model: Any, *, alone: bool) -> None:
    """Raises UserError for the statistics of a clip where it is not sampled alone."""
    sampling = model.get_model_object(MODEL_SAMPLING)
    if not alone and isinstance(sampling, RescaledSampling) and sampling.init is not None:
        raise UserError(
            "The statistics of VideoCrafter Analytic Init are those of one clip: set long_video to off and free_init "
            "to 0, or the node's statistics to none."
        )
