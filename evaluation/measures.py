"""The figures of `vc_core.judging` that experiments use. Clips are f h w 3, float32 in 0..1."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from vc_core.judging import judge, metrics, quality
from vc_core.judging.quality import MOST_PSNR
from vc_core.judging.seams import relative

__all__ = ["MOST_PSNR", "Array", "VideoMeasures", "measure", "psnr", "seam_error", "ssim"]

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class VideoMeasures:
    """flicker: temporal_flickering; 1 means no flicker. warping_error: 0 is best. dynamic_degree: motion_speed, in
    pixels per frame. brightness_drift, colour_drift: from the first to the last frame. seam_error: loop_seam, about 1
    for a seamless loop. The records of `vc_core.judging` describe them.
    """

    flicker: float
    warping_error: float
    dynamic_degree: float
    brightness_drift: float
    colour_drift: float
    seam_error: float


NAMES = {
    "flicker": "temporal_flickering",
    "warping_error": "warping_error",
    "dynamic_degree": "motion_speed",
    "brightness_drift": "brightness_drift",
    "colour_drift": "color_drift",
    "seam_error": "loop_seam",
}
"""The fields -> the metrics."""


def measure(clip: Array) -> VideoMeasures:
    """All metrics of a clip. Raises ValueError for fewer than two frames."""
    if clip.ndim != 4 or clip.shape[0] < 2 or clip.shape[3] != 3:
        raise ValueError(f"The clip has the shape {clip.shape}; it must have two or more frames, f h w 3")
    values = judge(torch.from_numpy(clip), metrics(tuple(NAMES.values()))).values
    return VideoMeasures(**{field: values.get(name, 0.0) for field, name in NAMES.items()})


def seam_error(before: Array, after: Array, clip: Array) -> float:
    """The difference of two frames at a seam, relative to the median difference of neighbouring frames in `clip`."""
    usual = float(np.median(np.abs(np.diff(clip, axis=0)).mean(axis=(1, 2, 3))))
    return relative(float(np.abs(after - before).mean()), usual)


def psnr(image: Array, reference: Array) -> float:
    """Peak signal-to-noise ratio in decibels, at most `MOST_PSNR`."""
    return quality.psnr(torch.from_numpy(image), torch.from_numpy(reference))


def ssim(image: Array, reference: Array) -> float:
    """Structural similarity of images h w 3 of at least 7 pixels per side; 1 for equal images."""
    return quality.ssim(torch.from_numpy(image), torch.from_numpy(reference))
