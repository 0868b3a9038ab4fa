"""Long use of a server, measured by `benchmarks.soak`: what is changed, counted, judged and drawn."""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path

import numpy as np
import pytest
import stand_ins

from benchmarks import long_video, soak
from benchmarks.curves import Curve, plotted
from comfyui.base import make_base
from comfyui.probe import Held

WORKFLOWS = soak.api()


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.stem)
def test_workflows_are_changed_within_what_they_allow(file: Path) -> None:
    prompt = json.loads(file.read_text(encoding="utf-8"))
    plain, made = stand_ins.cut_down(prompt), []
    for seed in range(8):
        changed = soak.changed(prompt, random.Random(seed), {"VideoCrafterStepCache": {"threshold": 0.1}})
        assert {key: node["class_type"] for key, node in changed.items() if key != "soak"} == {
            key: node["class_type"] for key, node in plain.items()
        }
        for node in changed.values():
            assert node["inputs"].get("steps", soak.STEPS) == soak.STEPS
            assert all(value[0] in changed for value in node["inputs"].values() if isinstance(value, list))
        made.append(json.dumps(soak.seeded(changed, random.Random(seed)), sort_keys=True))
    assert len(set(made)) > 1


def held(run: int, resident: int) -> dict[str, int]:
    names = [field.name for field in dataclasses.fields(Held)]
    return {"run": run, **dict.fromkeys(names, 10), "resident": resident}


def test_growth_is_counted_once_the_server_has_settled() -> None:
    measured = [held(run, 500 if run < soak.SETTLED else 1000 + run) for run in range(10, 310, 10)]
    found = soak.growth(measured)
    assert found["resident"] == pytest.approx(1290 / 1060 - 1, abs=1e-5)
    assert found["tensors"] == found["handles"] == 0
    assert soak.growth(measured[:2]) == {}


def test_files_that_are_left_are_found_and_results_removed(tmp_path: Path) -> None:
    base = make_base(tmp_path)
    (tmp_path / "tmp").mkdir()
    (base.output / "a.mp4").touch()
    assert soak.leftovers(base) == []
    (base.output / ".videocrafter-1.part").touch()
    (tmp_path / "tmp" / "x").touch()
    assert soak.leftovers(base) == ["output/.videocrafter-1.part", "tmp/x"]
    soak.clear(base)
    assert list(base.output.iterdir()) == []


def test_curves_begin_at_zero() -> None:
    flat = np.asarray(plotted("runs", [Curve("a", [1, 2], [5.0, 5.0]), Curve("b", [1, 2], [0.0, 0.0])]))
    grown = np.asarray(plotted("runs", [Curve("a", [1, 2], [0.0, 5.0]), Curve("b", [1, 2], [0.0, 0.0])]))
    assert flat.shape == grown.shape
    assert not np.array_equal(flat, grown)


def test_a_long_video_is_read_to_its_end(tmp_path: Path) -> None:
    found = long_video.by_vc_core(tmp_path, seconds=4)
    assert (found["frames"], found["frames_read"], found["last_frame_is_right"]) == (96, 96, True)
    assert len(found["resident"]) == long_video.MARKS
