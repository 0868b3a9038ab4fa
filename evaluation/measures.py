"""Video metrics that need no network. Clips are f h w 3, float32 in 0..1."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

Array = npt.NDArray[np.float32]

MOST_PSNR = 100.0
"""The PSNR of equal images in dB, which would be infinite."""
CONSISTENT = 1.0
"""Maximum forward-backward error of the flow in pixels; larger errors mean that a pixel is occluded."""


@dataclass(frozen=True)
class VideoMeasures:
    """flicker: VBench's (255 - mean absolute difference of neighbouring frames) / 255; 1 means no flicker.
    warping_error: mean squared difference of neighbouring frames after motion compensation, where the flow is
    consistent; 0 is best.
    dynamic_degree: mean speed of the fastest 5 % of pixels, in pixels per frame.
    brightness_drift, colour_drift: change of the mean brightness, and distance of the mean colours, between the first
    and the last frame, in 0..1.
    seam_error: difference of the last and the first frame relative to the median difference of neighbouring frames;
    about 1 for a seamless loop.
    """

    flicker: float
    warping_error: float
    dynamic_degree: float
    brightness_drift: float
    colour_drift: float
    seam_error: float


def measure(clip: Array) -> VideoMeasures:
    """All metrics of a clip. Raises ValueError for fewer than two frames."""
    if clip.ndim != 4 or clip.shape[0] < 2 or clip.shape[3] != 3:
        raise ValueError(f"The clip has the shape {clip.shape}; it must have two or more frames, f h w 3")
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
    """The difference of two frames at a seam, relative to the median difference of neighbouring frames in `clip`."""
    usual = float(np.median(np.abs(np.diff(clip, axis=0)).mean(axis=(1, 2, 3))))
    return float(np.abs(after - before).mean()) / max(usual, 1e-6)


def psnr(image: Array, reference: Array) -> float:
    """Peak signal-to-noise ratio in decibels, at most `MOST_PSNR`."""
    if np.array_equal(image, reference):
        return MOST_PSNR
    return min(MOST_PSNR, float(peak_signal_noise_ratio(reference, image, data_range=1.0)))


def ssim(image: Array, reference: Array) -> float:
    """Structural similarity of images h w 3 of at least 7 pixels per side; 1 for equal images."""
    return float(structural_similarity(reference, image, channel_axis=2, data_range=1.0))


def optical_flow(first: Array, second: Array) -> Array:
    """Optical flow in pixels from `first` to `second`, h w 2 (x, y), by DIS (arXiv:1603.03590)."""
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
        forward, backward = optical_flow(first, second), optical_flow(second, first)
        x, y = columns + forward[..., 0], rows + forward[..., 1]
        warped = cv2.remap(second, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        returned = cv2.remap(backward, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        valid = np.linalg.norm(forward + returned, axis=-1) < CONSISTENT
        if valid.any():
            errors.append(float(np.square(warped - first)[valid].mean()))
        length = np.sort(np.linalg.norm(forward, axis=-1).ravel())
        speeds.append(float(length[-max(1, length.size // 20) :].mean()))
    return float(np.mean(errors)) if errors else 0.0, float(np.mean(speeds))
