"""A whole video: what is kept of it, what cannot be measured, and how it is reported."""

from __future__ import annotations

import json
import weakref
from collections.abc import Iterator

import pytest
import torch
from judging.constructed import HEIGHT, WIDTH, sliding, texture
from torch import Tensor

from vc_core.errors import UserError
from vc_core.judging import METRICS, Report, as_json, as_text, judge, metrics
from vc_core.judging.drawing import PAGE, overview

QUICK = ("temporal_flickering", "color_drift", "window_seams")


@pytest.fixture(scope="module")
def report() -> Report:
    return judge(sliding(4, 1), metrics())


def test_frames_of_a_long_video_are_let_go() -> None:
    alive: list[weakref.ref[Tensor]] = []
    most = 0

    def frames() -> Iterator[Tensor]:
        nonlocal most
        for index in range(60):
            frame = torch.full((160, 240, 3), index / 60)
            alive.append(weakref.ref(frame))
            yield frame
            del frame
            most = max(most, sum(each() is not None for each in alive))

    found = judge(frames(), metrics(QUICK, window_stride=8))
    assert most <= 8
    assert [each.index for each in found.shown] == list(range(0, 60, 4))
    assert all(max(each.image.shape) <= 160 for each in found.shown)
    assert found.frames == 60


def test_progress_is_reported_for_each_frame() -> None:
    done: list[int] = []
    judge(sliding(3, 1), metrics(QUICK), on_frame=done.append)
    assert done == [1, 2, 3]


def test_what_cannot_be_measured_is_missing_with_its_reason(report: Report) -> None:
    assert report.missing == {
        "first_frame_psnr": "needs image",
        "first_frame_ssim": "needs image",
        "window_seams": "needs window_stride",
        "tile_seams": "needs tile_stride",
    }
    assert report.values.keys() | report.missing.keys() == METRICS.keys()
    single = judge([texture()], metrics(window_stride=8, tile_stride=200))
    assert single.values.keys() == {"repetition"}
    assert single.missing["window_seams"] == "needs 9 frames or more"
    assert single.missing["motion_smoothness"] == "needs 3 frames or more"
    assert single.missing["tile_seams"] == "nothing of the video can be measured by it"


@pytest.mark.parametrize(
    ("frames", "words"),
    [
        ([], "The video has no frames"),
        ([torch.zeros(8, 8, 3), torch.zeros(8, 9, 3)], "Frame 1 has 9x8 pixels, but the first one has 8x8"),
        ([torch.zeros(8, 8)], "Frame 0 has the shape"),
        ([torch.full((8, 8, 3), float("nan"))], "Frame 0 contains NaN"),
    ],
)
def test_bad_frames_are_refused(frames: list[Tensor], words: str) -> None:
    with pytest.raises(UserError, match=words):
        judge(frames, metrics(QUICK))


def test_the_table_has_a_column_for_each_video_and_their_mean(report: Report) -> None:
    text = as_text({"a.mp4": report, "b.mp4": judge([texture()] * 3, metrics(QUICK))})
    lines = text.splitlines()
    assert lines[0] == f"a.mp4: 4 frames of {WIDTH}x{HEIGHT}"
    (row,) = [line.split() for line in lines if line.startswith("temporal_flickering")]
    one = report.values["temporal_flickering"]
    assert row[1:4] == [f"{one:.4f}", "1.0000", f"{(one + 1) / 2:.4f}"]
    (row,) = [line.split() for line in lines if line.startswith("repetition")]
    assert row[2] == row[3] == "-"
    assert "Not measured: first_frame_psnr, first_frame_ssim (needs image)." in lines


def test_json_has_everything(report: Report) -> None:
    found = json.loads(as_json({"a.mp4": report}))
    video = found["videos"]["a.mp4"]
    assert (video["frames"], video["width"], video["height"]) == (4, WIDTH, HEIGHT)
    assert found["mean"].keys() == video["metrics"].keys() == report.values.keys()
    assert video["not_measured"] == report.missing
    for name, each in video["metrics"].items():
        assert each["value"] == pytest.approx(report.values[name], rel=1e-5)
        assert each["range"] == [METRICS[name].low, METRICS[name].high]
        assert len(each["per_frame"]) == 4
    assert video["metrics"]["dynamic_degree"]["parameters"] == {"fps": 8.0}


def test_the_overview_shows_frames_and_curves(report: Report) -> None:
    image = overview(report, "a clip \u52d5\u753b")
    assert image.shape[1:] == (PAGE, 3)
    colors = {tuple(color) for color in (image.flatten(0, 1) * 255).round().int().unique(dim=0).tolist()}
    assert {(255, 255, 255), (31, 119, 180)} <= colors
    assert len(colors) > 500, "the frames"
    single = overview(judge([texture()], metrics()), "one frame")
    assert single.shape[0] < image.shape[0]
