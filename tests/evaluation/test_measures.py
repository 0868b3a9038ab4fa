"""Measures of any video on clips whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest

from evaluation.measures import MOST_PSNR, measure, psnr, seam_error, ssim


def _texture(width: int = 96) -> np.ndarray:
    """A smooth random picture, 64 width 3, that optical flow can follow."""
    rng = np.random.default_rng(0)
    coarse = rng.random((16, width // 4, 3)).astype(np.float32)
    fine = coarse.repeat(4, 0).repeat(4, 1)
    for axis in (0, 1):
        fine = (np.roll(fine, 1, axis) + 2 * fine + np.roll(fine, -1, axis)) / 4
    return fine


def _sliding(step: int) -> np.ndarray:
    texture = _texture()
    return np.stack([texture[:, i * step : i * step + 64] for i in range(6)])


def test_a_still_picture_neither_flickers_nor_moves() -> None:
    found = measure(_sliding(0))
    assert found.flicker == 1
    assert found.warping_error < 1e-9
    assert found.dynamic_degree < 0.05
    assert found.brightness_drift == found.colour_drift == 0


def test_dynamic_degree_is_the_speed() -> None:
    assert measure(_sliding(2)).dynamic_degree == pytest.approx(2, rel=0.05)


def test_motion_is_no_warping_error_but_flicker_is() -> None:
    moving = _sliding(2)
    flashing = moving.copy()
    flashing[1::2] *= 0.8
    assert measure(flashing).warping_error > 5 * measure(moving).warping_error
    assert measure(flashing).flicker < measure(moving).flicker


def test_drift_is_the_change_from_first_to_last() -> None:
    clip = np.full((5, 16, 16, 3), 0.5, dtype=np.float32)
    clip[..., 0] += np.linspace(0, 0.3, 5)[:, None, None]
    found = measure(clip)
    assert found.brightness_drift == pytest.approx(0.1, abs=1e-5)
    assert found.colour_drift == pytest.approx(0.3, abs=1e-5)


def test_a_loop_has_no_seam_and_a_jump_has_one() -> None:
    texture = _texture(64)
    loop = np.stack([np.roll(texture, 4 * i, axis=1) for i in range(16)])
    assert measure(loop).seam_error == pytest.approx(1, abs=0.05)
    assert seam_error(1 - texture, texture, loop) > 1.5


def test_psnr_and_ssim() -> None:
    picture = _texture(64)
    assert psnr(picture, picture) == MOST_PSNR
    assert psnr(picture, picture + 0.1) == pytest.approx(20, abs=1e-3)
    assert ssim(picture, picture) == pytest.approx(1)
    assert ssim(picture, 1 - picture) < 0.5


@pytest.mark.parametrize("shape", [(1, 8, 8, 3), (4, 8, 8), (4, 8, 8, 4)])
def test_what_is_no_clip_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="two or more frames"):
        measure(np.zeros(shape, dtype=np.float32))
