"""The figures of long videos: on clips with known answers, and a whole run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import small_models

from evaluation.free_init import ROUNDS, in_rounds
from evaluation.generate import Case
from evaluation.long_videos import border_error, followed, joined, judged, long_cases, main, segments, worst_place
from vc_core.denoising import Sampling
from vc_core.long import frames
from vc_core.long.off import Off
from vc_core.pipeline import Request, VideoCrafter
from worlds.shapes.world import SIZE, Scene, render, velocity

SCENE = Scene(shape="circle", colour="red", motion="right", x=14.0, y=32.0)


def clip_of(*colours: str) -> np.ndarray:
    """16 frames of each colour, one after the other."""
    return np.concatenate([render([replace(SCENE, colour=colour)])[0].numpy() for colour in colours])


def test_segments_are_judged_one_by_one() -> None:
    case = Case(scene=SCENE, prompt="", seed=1)
    half = segments(clip_of("red", "blue"))
    assert [saw.colour for saw in half] == ["red", "blue"]
    assert followed(case, half) == {"colour": 0.5, "shape": 1.0, "motion": 1.0}
    figures = judged([case], [clip_of("red", "blue")], "fifo")
    assert figures["identity"] == pytest.approx(50)


def test_borders_that_jump_are_seen() -> None:
    smooth = np.linspace(0, 1, 33, dtype=np.float32)[:, None, None, None] * np.ones((1, 4, 4, 3), np.float32)
    assert border_error(smooth, 8) == pytest.approx((1, 1), abs=1e-3)
    jumping = smooth.copy()
    jumping[8:] += 0.1
    across, between = border_error(jumping, 8)
    assert across > 1.5
    assert between == pytest.approx(1, abs=1e-3)
    assert worst_place([smooth], (8, 16)) == pytest.approx(1, abs=1e-3)
    assert worst_place([jumping], (8, 16)) == pytest.approx((1 + 3.2 + 1) / 2, abs=0.1)
    assert worst_place([jumping, smooth], (8,)) == pytest.approx(1.4, abs=0.1)


def test_the_scenes_of_long_clips_stay_in_the_picture() -> None:
    cases = long_cases(6)
    assert [case.scene.motion == "still" for case in cases] == [True, False, False] * 2
    for case in cases:
        assert all(name in case.prompt for name in case.scene.background)
        assert 127 * max(abs(step) for step in velocity(case.scene)) < 0.4 * SIZE


def test_the_command_measures_every_way(tmp_path: Path) -> None:
    model = small_models.save(small_models.TEXT_MODEL, tmp_path / "model.safetensors")
    result = tmp_path / "result.json"
    few = ["--count", "1", "--frames", "20", "--steps", "1", "--ways", "freenoise", "plain", "--cost-of", "16"]
    shown = ["--shown", "1", "--sheets", str(tmp_path)]
    assert main(["--model", str(model), "--result", str(result), *few, *shown]) == 0
    found = json.loads(result.read_text(encoding="utf-8"))
    assert found["20 frames"].keys() == {"freenoise", "plain"}
    cost = found["cost over 16 frames"]["plain"]["16"]
    assert cost["memory"] == 1
    assert 0 < cost["time per frame"] < 50
    assert (tmp_path / "long-freenoise-20.png").is_file()


def test_free_init_is_measured_after_its_rounds(tmp_path: Path) -> None:
    """The clips after each round are those that the way itself gives when it is asked for as many."""
    model = small_models.save(small_models.TEXT_MODEL, tmp_path / "model.safetensors")
    crafter, case = VideoCrafter.load(model), Case(scene=SCENE, prompt="a red ball", seed=1)
    once = Sampling(steps=1, eta=0.0)
    found = in_rounds(crafter, case, 2, once)
    assert len(found) == 3
    request = Request(seed=case.seed, fps=case.scene.fps, sampling=once)
    for rounds in (0, 2):
        clip = list(frames(crafter, case.prompt, request=request, method=Off(free_init=rounds)))
        np.testing.assert_allclose(found[rounds], np.stack([frame.numpy() for frame in clip]), atol=1e-5)
    result = tmp_path / "result.json"
    asked = ["--ways", "--free-init", "1", "--free-init-steps", "1"]
    assert main(["--model", str(model), "--result", str(result), *asked]) == 0
    numbers = json.loads(result.read_text(encoding="utf-8"))["FreeInit"]
    assert numbers["settings"]["steps"] == 1
    for rounds in ROUNDS:
        row = numbers[f"{rounds} further rounds"]
        assert row["clips"] == 1
        assert 0 <= row["identity"] <= 100
        assert 0 < row["flicker"] <= 1
    assert numbers["0 further rounds"] != numbers["4 further rounds"]


def test_a_measurement_in_pieces_is_put_together() -> None:
    head = {"model sha256": "a", "settings": {"steps": 1}, "prompts with the right colour at 16 frames": 50.0}
    first = {
        **head,
        "prompts": ["a", "b"],
        "date": "monday",
        "64 frames": {"plain": 1, "fifo": 2},
        "128 frames": {"plain": 3},
    }
    second = {**head, "prompts": ["a"], "date": "tuesday", "64 frames": {"fifo": 4}}
    both = {"prompts": ["a", "b"], "date": "tuesday", "64 frames": {"plain": 1, "fifo": 4}, "128 frames": {"plain": 3}}
    assert joined(first, second) == {**head, **both}
    with pytest.raises(ValueError, match="Omit --add"):
        joined(first, {**second, "model sha256": "b"})
