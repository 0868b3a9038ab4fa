"""The detector must fail on wrong clips; the command works end to end on an untrained network."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from evaluation import __main__ as command
from evaluation import experiments, report
from evaluation.detector import NOTHING, observe
from evaluation.generate import Settings, clips, draw_cases
from training.files import save_both
from training.network import IMAGE_TO_VIDEO, TEXT_TO_VIDEO, seeded_with_pictures
from vc_core.autoencoder.autoencoder import Autoencoder
from vc_core.pipeline import VideoCrafter
from worlds.shapes.world import SHAPES, Scene, render

SCENE = Scene(shape="cross", colour="green", motion="right", x=20, y=30)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models")
    return save_both(folder, Autoencoder(TEXT_TO_VIDEO.autoencoder), seeded_with_pictures(IMAGE_TO_VIDEO, 0))


@pytest.mark.parametrize(
    ("field", "value"), [("shape", "square"), ("colour", "cyan"), ("motion", "down"), ("motion", "growing")]
)
def test_a_wrong_clip_is_seen_to_be_wrong(field: str, value: str) -> None:
    wrong = replace(SCENE, **{field: value})
    seen = observe(render([wrong])[0].numpy())
    assert getattr(seen, field) == value != getattr(SCENE, field)


def test_an_object_that_changes_on_the_way_is_not_kept() -> None:
    clip = render([SCENE])[0].numpy()
    clip[8:] = render([replace(SCENE, colour="red")])[0, 8:].numpy()
    assert observe(clip).share(colour="green") == 0.5


def test_noise_and_emptiness_hold_no_object() -> None:
    assert observe(np.full((16, 64, 64, 3), 0.05, dtype=np.float32)).colour == NOTHING
    clip = render([SCENE])[0].numpy()
    noisy = np.clip(clip + np.random.default_rng(0).normal(0, 0.05, clip.shape), 0, 1).astype(np.float32)
    seen = observe(noisy)
    assert (seen.colour, seen.shape, seen.motion) == ("green", "cross", "right")


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rows", [slice(8, 55), slice(0, 64)])
@pytest.mark.parametrize("columns", [slice(0, 51), slice(0, 64)])
def test_frames_of_any_size_are_read(shape: str, rows: slice, columns: slice) -> None:
    clip = render([replace(SCENE, shape=shape, motion="still")])[0].numpy()
    seen = observe(clip[:, rows, columns])
    assert (seen.colour, seen.shape, seen.motion) == ("green", shape, "still")


def test_a_clip_depends_on_its_own_seed_alone(models: tuple[Path, Path]) -> None:
    crafter = VideoCrafter.load(models[0])
    cases = draw_cases(3, unseen=True)
    together = list(clips(crafter, cases, Settings(steps=2, batch=2)))
    alone = list(clips(crafter, cases[2:], Settings(steps=2, batch=2)))
    assert np.abs(together[2] - alone[0]).max() < 1e-4  # other sizes of matrices add in another order


def test_the_command_answers_every_question(
    models: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = {name: replace(settings, steps=2) for name, settings in experiments.SAMPLERS.items()}
    monkeypatch.setattr(experiments, "SAMPLERS", quick)
    monkeypatch.setattr(experiments, "Settings", lambda: Settings(steps=2))
    arguments = ["--text-model", str(models[0]), "--image-model", str(models[1]), "--folder", str(tmp_path)]
    assert command.main([*arguments, "--count", "2", "--small-count", "2", "--name", "quick"]) == 0
    table = capsys.readouterr().out
    assert table == (tmp_path / "quick.md").read_text()
    for words in ("colour right", "fps 4 / 8 / 16 / 24", "negative prompt", "direction followed", "bf16 against fp32"):
        assert words in table
    numbers = json.loads((tmp_path / "quick.json").read_text())
    assert set(numbers["held-out combinations"]) == set(quick)
    assert (tmp_path / "quick_text.png").stat().st_size > 0


def test_the_table_says_what_is_reached() -> None:
    numbers = {"negative prompt": {"avoided": 79.9}, "fp16 against fp32": {"psnr": 35.0}}
    assert [row[3] for row in report.rows(numbers)] == [False, True]
