"""The evaluation of FreeTraj: boxes, overlaps, and clips that follow a path by construction."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from evaluation.freetraj import BOX, PATHS, Prompt, judged, overlap, path_of, prompts, table
from vc_core.control import CONTROLS, FreeTraj
from worlds.shapes.world import SIZE, Scene, render

PROMPT = Prompt("red", "circle", "grey", seed=1)


def clip_along(name: str, shape: str = "circle") -> np.ndarray:
    """A shape in the center of each box of a path."""
    scene = Scene(shape=shape, colour="red", motion="still", background=("grey",))
    frames = []
    for top, left in path_of(name).corners:
        x, y = (SIZE * (side + BOX / 2) for side in (left, top))
        frames.append(render([replace(scene, x=x, y=y)], frames=[0])[0, 0])
    return np.asarray(torch.stack(frames).numpy(), dtype=np.float32)


@pytest.mark.parametrize("name", PATHS)
def test_a_clip_that_follows_a_path_does_so_and_no_other(name: str) -> None:
    found = judged(clip_along(name), path_of(name), PROMPT)
    assert found.inside == 1
    assert found.iou > 0.75
    assert (found.colour, found.shape) == (True, True)
    other = "zigzag" if name == "up" else "up"
    assert judged(clip_along(name), path_of(other), PROMPT).iou < 0.6
    assert not judged(clip_along(name, "square"), path_of(name), PROMPT).shape


def test_overlap_is_that_of_two_boxes() -> None:
    assert overlap((0, 2, 0, 2), (0, 2, 1, 3)) == pytest.approx(1 / 3)
    assert overlap((0, 1, 0, 1), (2, 3, 2, 3)) == 0


def test_all_objects_occur_and_words_are_in_the_prompt() -> None:
    given = prompts(48)
    assert len({one.words for one in given[:40]}) == 40
    assert all(one.words in one.text for one in given)
    assert CONTROLS["freetraj"] is FreeTraj
    rows = [judged(clip_along("up"), path_of("up"), PROMPT)] * 2
    assert table(rows)["clips"] == 2
    assert table(rows)["inside"] == 100
