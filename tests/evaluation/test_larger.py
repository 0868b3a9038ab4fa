"""The evaluation of larger sizes: drawn clips with one object and with several, and rows that are kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from evaluation import larger
from evaluation.generate import Array, draw_cases
from evaluation.larger import Row, count_objects, judged, main, reduced, table
from worlds.shapes.world import SIZE, render

CASE = draw_cases(1, unseen=False)[0]
GIVEN: dict[str, Any] = {"kind": "direct", "scale": 2.0, "prompt": 0}


def drawn() -> Array:
    """The scene of the case, f h w 3."""
    return np.asarray(render([CASE.scene])[0].numpy(), dtype=np.float32)


def enlarged(clip: Array) -> Array:
    return np.asarray(clip.repeat(2, axis=1).repeat(2, axis=2), dtype=np.float32)


def test_a_clip_at_twice_the_size_is_judged_as_at_the_trained_one() -> None:
    clip = drawn()
    assert np.allclose(reduced(enlarged(clip)), clip, atol=1e-6)
    found = judged(enlarged(clip), CASE, **GIVEN)
    assert found.right
    assert (found.single, found.objects) == (1, 1)


def test_several_objects_are_wrong() -> None:
    tiled = np.tile(drawn(), (1, 2, 2, 1))
    assert tiled.shape[1:3] == (2 * SIZE, 2 * SIZE)
    found = judged(tiled, CASE, **GIVEN)
    assert found.objects == pytest.approx(4, abs=1)
    assert not found.right
    assert count_objects(np.full((SIZE, SIZE, 3), 0.05, dtype=np.float32)) == 0


def test_the_table_counts_clips() -> None:
    row = Row(single=1, objects=1, colour=True, shape=True, motion=True, **GIVEN)
    figures = table([row, replace(row, motion=False), replace(row, kind="ScaleCrafter")])
    assert figures["direct, 2x"] == {
        "clips": 2,
        "right": 50,
        "one object": 100,
        "colour": 100,
        "shape": 100,
        "motion": 50,
        "objects": 1,
    }
    assert figures["ScaleCrafter, 2x"]["right"] == 100


def test_rows_that_are_there_are_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[int, int]] = []

    class Crafter:
        def generate(self, prompt: str, *, request: Any, controls: Any = ()) -> torch.Tensor:
            made.append((request.width, len(controls)))
            return torch.zeros(2, request.height, request.width, 3)

    monkeypatch.setattr(larger.VideoCrafter, "load", lambda path: Crafter())
    given = ["--count", "1", "--scale", "2", "--rows", str(tmp_path / "rows"), "--result", str(tmp_path / "result")]
    assert main(given) == 0
    assert made == [(SIZE, 0), (2 * SIZE, 0), (2 * SIZE, 1)]
    assert main(given) == 0
    assert len(made) == 3
