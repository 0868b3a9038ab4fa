"""Further golden cases, made by our own code in the format of the reference's files, of numbers that no kept case has.

They say nothing about the reference. They show that the golden tests read a case instead of assuming it: each maker
states its specs and settings a second time, in our terms, beside the description in the reference's.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from .controls import (
    cami2v_motionctrl_unet,
    cami2v_pose_encoder,
    freetraj_noise,
    freetraj_path,
    freetraj_unet,
    motionctrl_omcm,
    motionctrl_unet,
    stylecrafter_unet,
    tooncrafter_sketch_controlnet,
)
from .networks import (
    dc_resampler,
    dc_unet,
    freenoise_mp_unet,
    freenoise_unet,
    image_encoder,
    text_encoder,
    turbo_lora,
    turbo_unet,
    unet,
    vae,
    viewcrafter_unet,
)
from .trajectories import dc_ddim_analytic, ddim_analytic, turbo_lcm_analytic
from .whole_models import dc_e2e, e2e, freenoise_e2e, turbo_e2e

MAKERS: dict[str, Callable[[Path], Path]] = {
    maker.__name__: maker
    for maker in (
        unet, dc_unet, turbo_unet, freenoise_unet, freenoise_mp_unet, turbo_lora,
        image_encoder, text_encoder, dc_resampler, vae,
        ddim_analytic, dc_ddim_analytic, turbo_lcm_analytic,
        e2e, dc_e2e, turbo_e2e, freenoise_e2e,
        freetraj_path, freetraj_noise, freetraj_unet, motionctrl_omcm, motionctrl_unet,
        cami2v_motionctrl_unet, cami2v_pose_encoder, stylecrafter_unet, tooncrafter_sketch_controlnet, viewcrafter_unet,
    )
}  # fmt: skip
