"""Optical flow on images whose motion is known."""

from __future__ import annotations

import pytest
import torch
from judging.constructed import HEIGHT, WIDTH, sliding, texture

from vc_core.judging import flow
from vc_core.judging.filters import local_mean
from vc_core.judging.flow import Flow, inside, warp


@pytest.mark.parametrize(("x", "y", "width"), [(3, 0, WIDTH), (1, 2, 75), (5, 4, 97)])
def test_speed_and_direction_of_a_known_shift(x: int, y: int, width: int) -> None:
    first, second = sliding(2, x, y, width=width)
    found = Flow.between(first, second)
    assert found.speed == pytest.approx((x**2 + y**2) ** 0.5, rel=0.02)
    assert found.forward[found.valid].mean(0).tolist() == pytest.approx([-x, -y], abs=0.02)
    assert found.backward.median(0).values.median(0).values.tolist() == pytest.approx([x, y], abs=0.02)
    assert found.valid.float().mean() == pytest.approx((1 - x / width) * (1 - y / HEIGHT), abs=0.05)
    assert found.error is not None
    assert found.error < 1e-4


def test_parts_of_pixels() -> None:
    image = local_mean(texture().movedim(-1, 0)[None], 1)[0].movedim(0, -1)
    moved = warp(image, torch.tensor([0.5, 0.25]).expand(HEIGHT, WIDTH, 2))
    found = Flow.between(moved, image).forward[8:-8, 8:-8]
    assert found.mean((0, 1)).tolist() == pytest.approx([0.5, 0.25], abs=0.01)


def test_an_object_moves_over_a_still_background() -> None:
    background, patch = texture(), texture(24, 24, seed=1)
    first, second = background.clone(), background.clone()
    first[20:44, 30:54] = patch
    second[22:46, 34:58] = patch
    found = Flow.between(first, second)
    assert found.forward[26:38, 36:48].mean((0, 1)).tolist() == pytest.approx([4, 2], abs=0.05)
    assert found.forward[:, 75:].abs().max() < 0.05
    assert found.valid[24:40, 34:50].all()
    assert found.valid[24:44, 55:57].float().mean() < 0.6, "the object covers it"


@pytest.mark.parametrize("change", [0.1, -0.05])
def test_a_change_of_brightness_is_no_motion(change: float) -> None:
    image = 0.2 + 0.5 * texture()
    found = Flow.between(image, image + change)
    assert found.forward.abs().max() < 1e-3
    assert found.error == pytest.approx(change**2, rel=1e-3)


def test_what_has_no_texture_stands_still() -> None:
    found = Flow.between(torch.full((20, 31, 3), 0.2), torch.full((20, 31, 3), 0.7))
    assert found.forward.abs().max() == 0
    assert found.valid.all()


def test_tiny_images() -> None:
    assert Flow.between(torch.zeros(1, 1, 3), torch.ones(1, 1, 3)).speed == 0


def test_the_middle_of_a_motion_is_the_frame_between() -> None:
    first, between, second = sliding(3, 2, 1)
    error = (Flow.between(first, second).middle() - between).abs()
    assert error[4:-4, 6:-6].mean() < 0.004
    assert (first + second - 2 * between).abs().mean() > 0.05


def test_the_flow_of_large_images_is_enlarged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow, "LARGEST", 70 * 100)
    first, second = sliding(2, 6, height=128, width=192)
    found = Flow.between(first, second)
    assert found.forward.shape == (128, 192, 2)
    assert found.speed == pytest.approx(6, rel=0.05), "less exact than at the full size"


def test_inside() -> None:
    moved = torch.zeros(2, 3, 2)
    moved[0, 2, 0], moved[1, 0, 1] = 1, -1.2
    assert inside(moved).tolist() == [[True, True, False], [True, True, True]]
