"""Measures of any video that need no network. Clips are f h w 3, float32 in 0..1."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

Array = npt.NDArray[np.float32]

MOST_PSNR = 100.0
"""Decibels given to equal pictures, whose ratio would be infinite."""
CONSISTENT = 1.0
"""Pixels by which flow there and back may miss the start before the pixel counts as covered or uncovered."""


@dataclass(frozen=True)
class VideoMeasures:
    """flicker: VBench's (255 - mean absolute difference of neighbouring frames) / 255, 1 is the calmest.
    warping_error: mean squared difference of neighbours after motion is undone, where flow is consistent; 0 is best.
    dynamic_degree: mean speed in pixels per frame of the fastest 5 % of pixels.
    brightness_drift, colour_drift: change from the first to the last frame, of the mean brightness and of the mean
    colour (a distance), in 0..1.
    seam_error: the difference of the last and the first frame over the median difference of neighbours; about 1 for a
    clip that loops without a seam.
    """

    flicker: float
    warping_error: float
    dynamic_degree: float
    brightness_drift: float
    colour_drift: float
    seam_error: float


def measure(clip: Array) -> VideoMeasures:
    """All measures that need nothing but the clip. Raises ValueError for fewer than two frames."""
    if clip.ndim != 4 or clip.shape[0] < 2 or clip.shape[3] != 3:
        raise ValueError(f"A clip of two or more frames, f h w 3, is measured; this one has the shape {clip.shape}")
    steps = np.abs(np.diff(clip, axis=0)).mean(axis=(1, 2, 3))
    warping, dynamic = _motion(clip)
    means = clip.mean(axis=(1, 2))
    return VideoMeasures(
        flicker=1 - float(steps.mean()),
        warping_error=warping,
        dynamic_degree=dynamic,
        brightness_drift=float(abs(means[-1].mean() - means[0].mean())),
        colour_drift=float(np.linalg.norm(means[-1] - means[0])),
        seam_error=seam_error(clip[-1], clip[0], clip),
    )


def seam_error(before: Array, after: Array, clip: Array) -> float:
    """The difference of two frames that a join puts side by side over the median difference of neighbours in `clip`."""
    usual = float(np.median(np.abs(np.diff(clip, axis=0)).mean(axis=(1, 2, 3))))
    return float(np.abs(after - before).mean()) / max(usual, 1e-6)


def psnr(picture: Array, reference: Array) -> float:
    """Peak signal-to-noise ratio in decibels, at most `MOST_PSNR`."""
    if np.array_equal(picture, reference):
        return MOST_PSNR
    return min(MOST_PSNR, float(peak_signal_noise_ratio(reference, picture, data_range=1.0)))


def ssim(picture: Array, reference: Array) -> float:
    """Structural similarity, 1 for equal pictures; pictures are h w 3, 7 pixels or more on a side."""
    return float(structural_similarity(reference, picture, channel_axis=2, data_range=1.0))


def optical_flow(first: Array, second: Array) -> Array:
    """Motion in pixels from each pixel of `first` to its place in `second`, h w 2 (x, y), by DIS (arXiv:1603.03590)."""
    flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    flow.setFinestScale(0)
    return np.asarray(flow.calc(_grey(first), _grey(second), None), dtype=np.float32)


def _grey(frame: Array) -> npt.NDArray[np.uint8]:
    return np.asarray(np.round(frame @ np.array([0.299, 0.587, 0.114]) * 255).clip(0, 255), dtype=np.uint8)


def _motion(clip: Array) -> tuple[float, float]:
    """Warping error and dynamic degree."""
    errors, speeds = [], []
    rows, columns = np.indices(clip.shape[1:3], dtype=np.float32)
    for first, second in itertools.pairwise(clip):
        there, back = optical_flow(first, second), optical_flow(second, first)
        x, y = columns + there[..., 0], rows + there[..., 1]
        warped = cv2.remap(second, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        returned = cv2.remap(back, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        valid = np.linalg.norm(there + returned, axis=-1) < CONSISTENT
        if valid.any():
            errors.append(float(np.square(warped - first)[valid].mean()))
        length = np.sort(np.linalg.norm(there, axis=-1).ravel())
        speeds.append(float(length[-max(1, length.size // 20) :].mean()))
    return float(np.mean(errors)) if errors else 0.0, float(np.mean(speeds))
