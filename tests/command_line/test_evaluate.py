"""`evaluate` on the command line: files, their figures, and what it says of bad input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from command_line.running import one_line, run
from judging.constructed import fading, texture

from vc_core.frames.pixels import save_image
from vc_core.video import write
from vc_core.video.clips import load_images, open_frames

QUICK = ("--metric", "temporal_flickering", "--metric", "window_seams", "--metric", "dynamic_degree")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of images of a known seam."""
    for index, frame in enumerate(fading(6, 0.02, {4: 0.06})):
        save_image(tmp_path / "frames" / f"{index:02}.png", frame)
    return tmp_path / "frames"


def test_a_video_and_a_folder_have_a_json_file_and_an_image_each(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    video = tmp_path / "clip.mp4"
    write(video, torch.stack(load_images(folder)), fps=24)
    out = tmp_path / "out"
    assert run("evaluate", video, folder, "-o", out, "--window-stride", "4", *QUICK) == 0
    table = capsys.readouterr().out
    assert "clip.mp4: 6 frames of 96x64" in table
    assert str(out / "frames.json") in table
    assert {path.name for path in out.iterdir()} == {"clip.json", "clip.png", "frames.json", "frames.png"}
    for name, fps in (("clip.mp4", 24), ("frames", 8)):
        found = json.loads((out / f"{name.removesuffix('.mp4')}.json").read_text(encoding="utf-8"))["videos"][name]
        assert found["metrics"]["window_seams"]["value"] == pytest.approx(3, rel=0.1)
        assert found["metrics"]["dynamic_degree"]["parameters"]["fps"] == fps
    assert run("evaluate", video, "-o", out, *QUICK) == 2
    assert "already exists" in one_line(capsys.readouterr().err)
    assert run("evaluate", video, "-o", out, "--overwrite", "--json", *QUICK) == 0
    assert json.loads(capsys.readouterr().out)["videos"].keys() == {"clip.mp4"}


def test_the_frames_of_an_animated_image(tmp_path: Path) -> None:
    file = tmp_path / "clip.webp"
    write(file, fading(4, 0.05, {}), fps=10)
    opened = open_frames(file)
    assert opened.count == 4
    assert opened.fps == pytest.approx(10)
    assert len(list(opened.frames)) == 4


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nothing.mp4",), "Video 'nothing.mp4' not found. Check the name"),
        (("nothing.png",), "Image 'nothing.png' not found"),
        (("empty",), "There are no images in 'empty'"),
        (("image.png", "--image", "nothing.png"), "Image 'nothing.png' not found"),
        (("image.png", "--fps", "0"), "fps of dynamic_degree is 0; it should be 0.01 to 1000"),
        (("image.png", "--window-stride", "-1"), "window_stride of window_seams is -1"),
        (("text.mp4",), "'text.mp4' cannot be read as a video"),
    ],
)
def test_bad_input_gets_one_line_and_nothing_is_written(
    arguments: tuple[str, ...],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.mp4").write_text("no video")
    save_image(tmp_path / "image.png", texture())
    before = sorted(tmp_path.rglob("*"))
    assert run("evaluate", *arguments) == 2
    assert words in one_line(capsys.readouterr().err)
    assert sorted(tmp_path.rglob("*")) == before
