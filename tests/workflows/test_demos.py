"""The workflows that need no download show what their notes say: judged by `evaluation`'s detector, from a record."""

from __future__ import annotations

import json

import pytest
import stand_ins
from workflows.demos import RECORD, fingerprint

SMALL = [file.stem for file in stand_ins.FILES if file.stem.endswith(stand_ins.SMALL)]
FAR = 10
"""Pixels of 64 that can be seen without looking for them."""
BENT = 1
"""Pixels by which a path is not straight."""


@pytest.fixture(scope="module")
def record():
    return json.loads(RECORD.read_text(encoding="utf-8"))


def seen(record, number):
    (found,) = [value for name, value in record.items() if name.startswith(number)]
    return found


@pytest.mark.parametrize("name", SMALL)
def test_record_is_of_this_workflow(record, name):
    assert record[name]["workflow"] == fingerprint(stand_ins.load(name)), (
        f"It was changed: run `tests/workflows/make_thumbnails.py '{name}'` and look at the picture"
    )
    assert record[name]["same_shape"] > 0.9
    assert None not in record[name]["colour"]


@pytest.mark.parametrize(
    ("number", "colour", "shape", "axis", "sign"),
    [
        ("01", "red", "circle", "x", 1),
        ("02", "blue", "square", "x", 1),
        ("03", "green", "triangle", "y", 1),
        ("04", "blue", "square", "x", 1),
        ("10 Core", "yellow", "triangle", "y", -1),
        ("10 Object", "red", "circle", "x", 1),
    ],
)
def test_shape_moves_as_the_prompt_says(record, number, colour, shape, axis, sign):
    clip = seen(record, number)
    assert (clip["shape"], set(clip["colour"])) == (shape, {colour})
    assert sign * (clip[axis][-1] - clip[axis][0]) > FAR


def test_key_frames_are_passed(record):
    """From the upper left to the upper right and on to the lower right."""
    clip = seen(record, "05")
    assert clip["x"][4] - clip["x"][0] > FAR
    assert clip["y"][-1] - clip["y"][3] > FAR


def test_object_follows_its_box_down_and_up_again(record):
    """No caption that the model was trained on describes such a motion."""
    clip = seen(record, "10 Object")
    middle = max(clip["y"][3:5])
    assert middle - clip["y"][0] > BENT
    assert middle - clip["y"][-1] > BENT


def test_loop_from_a_picture_goes_there_and_comes_back(record):
    clip = seen(record, "06")
    assert max(clip["x"]) - clip["x"][0] > FAR
    assert abs(clip["x"][-1] - clip["x"][0]) < FAR / 2
    steps = [abs(b - a) for a, b in zip(clip["x"], clip["x"][1:], strict=False)]
    assert max(steps) < FAR, "it does not jump"


def test_long_video_shrinks_all_the_time(record):
    clip = seen(record, "07")
    assert clip["frames"] == 64
    assert set(clip["colour"]) == {"cyan"}
    assert clip["area"][-1] < 0.65 * clip["area"][0]
    assert sum(clip["area"][4:]) < 0.9 * sum(clip["area"][:4])


def test_loop_from_a_prompt_changes_colour_and_comes_back(record):
    clip = seen(record, "08")
    assert clip["colour"][0] == clip["colour"][-1] == "red"
    assert "blue" in clip["colour"]


def test_changing_prompt_changes_the_colour(record):
    clip = seen(record, "09")
    assert clip["colour"][:3] == ["red"] * 3
    assert clip["colour"][-3:] == ["blue"] * 3


def test_dragged_object_is_on_its_track(record):
    """From where it is drawn up to the middle of the clip, then to the right; within 8 % of the image."""
    clip = seen(record, "10 Drag")
    assert (clip["shape"], set(clip["colour"])) == ("square", {"blue"})
    for place in range(8):
        share = place / 7
        x = 20 + 24 * max(0.0, 2 * share - 1)
        y = 44 - 24 * min(1.0, 2 * share)
        assert abs(clip["x"][place] - x) < 0.08 * 64
        assert abs(clip["y"][place] - y) < 0.08 * 64
