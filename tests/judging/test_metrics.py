"""Every metric on videos whose answers are known, within 2 %."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from judging.constructed import HEIGHT, WIDTH, fading, flickering, sliding, square, texture
from torch import Tensor

from vc_core.errors import UserError
from vc_core.judging import METRICS, judge, metrics
from vc_core.judging.quality import psnr, ssim
from vc_core.judging.table import markdown, parameters

RED, BLUE = (0.9, 0.1, 0.1), (0.1, 0.1, 0.9)


def figure(name: str, frames: Iterable[Tensor], **values: Any) -> float:
    return judge(frames, metrics((name,), **values)).values[name]


def near(value: float) -> Any:
    return pytest.approx(value, rel=0.02)


STILL = {
    "subject_consistency": 1.0,
    "background_consistency": 1.0,
    "temporal_flickering": 1.0,
    "motion_smoothness": 1.0,
    "dynamic_degree": 0.0,
    "motion_speed": 0.0,
    "warping_error": 0.0,
    "first_frame_psnr": 100.0,
    "first_frame_ssim": 1.0,
    "color_drift": 0.0,
    "brightness_drift": 0.0,
    "window_seams": 0.0,
    "loop_seam": 0.0,
}


def test_a_still_video_of_its_image() -> None:
    image = texture()
    found = judge([image] * 5, metrics(image=(image,), window_stride=2, tile_stride=32))
    assert not found.missing
    assert {name: found.values[name] for name in STILL} == pytest.approx(STILL, abs=1e-5)


@pytest.mark.parametrize("size", [0.02, 0.1, 0.25])
def test_flicker_of_known_size(size: float) -> None:
    clip = flickering(5, size)
    names = ("temporal_flickering", "motion_smoothness", "warping_error", "motion_speed", "color_drift")
    found = judge(clip, metrics(names)).values
    assert 1 - found["temporal_flickering"] == near(size)
    assert 1 - found["motion_smoothness"] == near(size)
    assert found["warping_error"] == near(size**2)
    assert found["motion_speed"] < 0.02
    assert found["color_drift"] == pytest.approx(0, abs=1e-5), "the last frame is as the first one"


@pytest.mark.parametrize(("x", "y"), [(2, 0), (3, 1)])
def test_known_shift(x: int, y: int) -> None:
    found = judge(sliding(5, x, y), metrics(("motion_speed", "warping_error", "motion_smoothness"))).values
    assert found["motion_speed"] == near((x**2 + y**2) ** 0.5)
    assert found["warping_error"] < 1e-4
    assert found["motion_smoothness"] > 0.98


@pytest.mark.parametrize(
    ("x", "fps", "moves"), [(1, 8, 0.0), (2, 8, 1.0), (1, 16, 1.0), (1, 24, 1.0), (2, 4, 0.0), (4, 4, 1.0)]
)
def test_dynamic_degree_at_every_frame_rate(x: int, fps: float, moves: float) -> None:
    """6 pixels of 256 are 1.5 of 64."""
    assert figure("dynamic_degree", sliding(9, x), fps=fps) == moves


@pytest.mark.parametrize(("moving", "moves"), [(3, 0.0), (4, 1.0)])
def test_dynamic_degree_needs_a_quarter_of_the_frames(moving: int, moves: float) -> None:
    clip = sliding(moving + 1, 3)
    assert figure("dynamic_degree", [*clip, *clip[-1:].expand(15 - moving, -1, -1, -1)]) == moves


@pytest.mark.parametrize(("factor", "at", "stride"), [(3.0, (4, 8), 4), (1.0, (), 4), (2.5, (5, 10), 5)])
def test_known_seams_of_windows(factor: float, at: Sequence[int], stride: int) -> None:
    clip = fading(12, 0.02, dict.fromkeys(at, 0.02 * factor))
    assert figure("window_seams", clip, window_stride=stride) == near(factor)


def test_known_seam_of_a_loop() -> None:
    clip = fading(8, 0.02, {})
    assert figure("loop_seam", clip) == near(7)
    assert figure("loop_seam", torch.cat([clip, clip[1:-1].flip(0)])) == near(1)


@pytest.mark.parametrize("factor", [1.0, 4.0])
def test_known_seams_of_tiles(factor: float) -> None:
    """Ramps in both directions, steeper across the borders."""
    x, y = torch.arange(WIDTH), torch.arange(HEIGHT)[:, None]
    ramp = (x + y + (factor - 1) * (x // 16 + y // 16)) / 400
    assert figure("tile_seams", [ramp[..., None].expand(-1, -1, 3)] * 2, tile_stride=16) == near(factor)


def test_known_repetition() -> None:
    tile = texture(32, 48)
    assert figure("repetition", [tile.tile(2, 2, 1)]) == near(1)
    assert figure("repetition", [texture()]) < 0.3


def test_two_objects_are_a_repetition_and_one_is_none() -> None:
    one, two = square(RED, 8), torch.maximum(square(RED, 8), square(RED, 62))
    assert figure("repetition", [one]) < 0.155
    assert figure("repetition", [two]) == near(1)


def test_what_is_long_is_no_repetition() -> None:
    horizon = torch.full((HEIGHT, WIDTH, 3), 0.8)
    horizon[HEIGHT // 2 :] = 0.2
    assert figure("repetition", [horizon]) < 0.05


def test_repetition_is_that_of_all_frames() -> None:
    clip = [square(RED, 8), torch.maximum(square(RED, 8), square(RED, 62))]
    assert figure("repetition", clip) == pytest.approx(sum(figure("repetition", [each]) for each in clip) / 2)


def test_an_object_that_moves_is_consistent() -> None:
    clip = [square(RED, 20 + 3 * i) for i in range(5)]
    found = judge(clip, metrics(("subject_consistency", "background_consistency"))).values
    assert found == {name: near(1) for name in found}


def test_an_object_that_changes_its_color_is_half_consistent() -> None:
    """Its edges stay. Of 8 frames 3 are as before, one has changed from both, and 4 from the first."""
    clip = [square(RED if i < 4 else BLUE) for i in range(9)]
    assert figure("subject_consistency", clip) == near((3 + 0.5 + 4 * 0.75) / 8)
    assert figure("background_consistency", clip) > 0.97


def test_a_background_that_changes_its_color() -> None:
    other = square(RED)
    other[other[..., 0] < 0.5] = torch.tensor((0.0, 0.8, 0.4))
    clip = [square(RED)] * 4 + [other] * 5
    assert figure("background_consistency", clip) < 0.85
    assert figure("subject_consistency", clip) > 0.97


def test_drift_is_the_change_from_first_to_last() -> None:
    clip = torch.full((5, 16, 16, 3), 0.5)
    clip[..., 0] += torch.linspace(0, 0.3, 5)[:, None, None]
    found = judge(clip, metrics(("color_drift", "brightness_drift"))).values
    assert found == {"color_drift": near(0.3), "brightness_drift": near(0.1)}


def test_the_first_frame_against_an_image() -> None:
    clip = 0.1 + 0.8 * texture().expand(2, -1, -1, -1)
    assert figure("first_frame_psnr", clip, image=(clip[0] + 0.01,)) == near(40)
    assert figure("first_frame_ssim", clip, image=(1 - clip[0],)) < 0.2
    larger = clip[0].repeat_interleave(2, 0).repeat_interleave(2, 1)
    assert figure("first_frame_psnr", clip, image=(larger,)) > 30


def test_ssim_is_that_of_scikit_image() -> None:
    structural_similarity = pytest.importorskip("skimage.metrics").structural_similarity
    one, other = texture(), (texture() + 0.2 * texture(seed=1)).clamp(0, 1)
    theirs = structural_similarity(one.numpy(), other.numpy(), channel_axis=2, data_range=1.0)
    assert ssim(one, other) == pytest.approx(float(theirs), abs=1e-5)
    assert psnr(one, one) == 100


def test_names_parameters_and_ranges_are_checked() -> None:
    for values, words in (
        ({"names": ("sharpness",)}, "There is no metric 'sharpness'; choose one of subject_consistency"),
        ({"color": 1}, "No metric has a parameter 'color'; choose one of fps"),
        ({"fps": 0.0}, "fps of dynamic_degree is 0; it should be 0.01 to 1000"),
        ({"window_stride": -1}, "window_stride of window_seams is -1"),
        ({"image": (texture(), texture())}, "2 images were given for the first frame; give one"),
    ):
        with pytest.raises(UserError, match=words):
            metrics(**values)


def test_records_are_complete() -> None:
    known = {item.name for item in parameters()}
    assert known == {"fps", "image", "window_stride", "tile_stride"}
    for name, metric in METRICS.items():
        assert metric.help
        assert set(metric.needs) <= known
        assert inspect.getdoc(metric)
        assert metric.high is None or metric.low < metric.high, name


def test_the_guide_has_the_table_of_the_records() -> None:
    guide = Path(__file__).resolve().parents[2] / "docs" / "evaluate.md"
    assert markdown() in guide.read_text(encoding="utf-8")
