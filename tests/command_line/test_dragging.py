"""Dragging an object on the command line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import pytest
import torch
from command_line.running import one_line, run

from vc_core import making
from vc_core.control.tracks import tracks_of
from vc_core.denoising import Source
from vc_core.frames.dragging import Drag, rough_video
from vc_core.frames.pixels import load_image, save_image
from vc_core.pipeline import VideoCrafter
from vc_core.video import write_video


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """An image of twice the models' size, the mask of its upper left quarter, and a track to the lower left."""
    found = {
        name: tmp_path / file for name, file in {"image": "image.png", "mask": "mask.png", "track": "t.json"}.items()
    }
    save_image(found["image"], torch.rand(48, 32, 3, generator=torch.Generator().manual_seed(1)))
    white = torch.zeros(48, 32, 3)
    white[:16, :16] = 1
    save_image(found["mask"], white)
    found["track"].write_text('[{"x": 0, "y": 0}, {"x": 0, "y": 32}]', encoding="utf-8")
    return found


@pytest.mark.parametrize("command", ["text", "image"])
def test_a_drag_reaches_the_sampler(
    command: str,
    files: dict[str, Path],
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[Source] = []
    generate = making.VideoCrafter.generate

    def spy(self: Any, *given: Any, **settings: Any) -> Any:
        seen.append(settings["source"])
        return generate(self, *given, **settings)

    monkeypatch.setattr(making.VideoCrafter, "generate", spy)
    model, out = request.getfixturevalue(f"{command}_model"), tmp_path / "out.mp4"
    image = load_image(files["image"])
    given: tuple[str | Path, ...] = ("-i", files["image"])
    if command == "text":
        given = ("--video", tmp_path / "clip.mkv")
        write_video(tmp_path / "clip.mkv", image.expand(3, -1, -1, -1), fps=5)
    drag = ("--drag-mask", files["mask"], "--drag-track", files["track"], "--drag-until", "0.25", "--strength", "0.75")
    made = ("-m", model, "-o", out, "--steps", "4", "--seed", "1", "--device", "cpu")
    assert run(f"{command}-to-video", "a", *given, *drag, *made) == 0
    (source,) = seen
    assert (source.strength, source.kept_until) == (0.75, 0.25)
    assert source.mask is not None
    kept = torch.zeros(1, 1, 3, 3, 2)
    kept[0, 0, 0, 0, 0] = kept[0, 0, 1, 1, 0] = kept[0, 0, 2, 2, 0] = 1
    assert torch.equal(source.mask, 1 - kept)
    mask = load_image(files["mask"]).mean(-1)[None]
    rough = rough_video(Drag(masks=mask, tracks=tracks_of("0,0; 0,32")), [image], 3, 24, 16)
    expected = VideoCrafter.load(model).encode(rough.frames)
    tolerance = 0.05 if command == "text" else 1e-5  # a video file is not exact
    assert float((source.latents - expected).norm() / expected.norm()) < tolerance
    with av.open(str(out)) as file:
        recipe = json.loads(file.metadata["videocrafter"])
    assert recipe["strength"] == 0.75
    assert recipe["drag"] == {"masks": ["mask.png"], "track": "t.json", "until": 0.25, "background": "filled"}


BAD: dict[str, tuple[Sequence[str], str]] = {
    "track alone": (("--drag-track", "0,0; 8,8"), "--drag-track needs a --drag-mask"),
    "share alone": (("--drag-until", "0.5"), "--drag-until needs a --drag-mask"),
    "mask alone": (("--drag-mask", "MASK"), "--drag-mask needs a --drag-track. Give points"),
    "strength alone": (("--strength", "0.5"), "--strength 0.5 needs a --drag-mask"),
    "no track": (("--drag-mask", "MASK", "--drag-track", "1,2; 3"), "is not a point of a track"),
    "no file": (("--drag-mask", "MASK", "--drag-track", "a.json"), "neither a track nor a text file with one"),
    "no mask": (("--drag-mask", "no.png", "--drag-track", "0,0; 8,8"), "Image 'no.png' not found"),
    "two tracks": (("--drag-mask", "MASK", "--drag-track", "0,0\n\n8,8"), "2 tracks for 1 masks"),
    "share": (
        ("--drag-mask", "MASK", "--drag-track", "0,0; 8,8", "--drag-until", "0.7"),
        "down to 0.7 of the noise schedule; it should be from 0 (to the end) to the strength of the run, 0.6",
    ),
    "long": (
        ("--drag-mask", "MASK", "--drag-track", "0,0; 8,8", "--long", "fifo", "--frames", "40"),
        "--drag-mask is not supported with --long fifo",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_one_line_says_what_is_wrong(
    case: str,
    files: dict[str, Path],
    image_model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(making.VideoCrafter, "load", None)  # all of this is reported before weights are read
    arguments = [str(files["mask"]) if given == "MASK" else given for given in BAD[case][0]]
    base = ("-i", files["image"], "-m", image_model, "-o", tmp_path / "o.mp4", "--device", "cpu")
    assert run("image-to-video", "a", *base, *arguments) == 2
    assert BAD[case][1] in one_line(capsys.readouterr().err)
    assert not (tmp_path / "o.mp4").exists()


def test_a_drag_from_text_needs_a_video_and_a_mask_of_the_image_its_size(
    files: dict[str, Path], text_model: Path, image_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drag = ("--drag-mask", files["mask"], "--drag-track", "0,0; 8,8", "-o", tmp_path / "o.mp4", "--device", "cpu")
    assert run("text-to-video", "a", "-m", text_model, *drag) == 2
    assert "--drag-mask needs a --video whose first frame shows the object" in one_line(capsys.readouterr().err)
    save_image(files["image"], torch.rand(48, 48, 3), overwrite=True)
    assert run("image-to-video", "a", "-m", image_model, "-i", files["image"], *drag) == 2
    assert "The mask has 32x48 pixels, but the image 48x48" in one_line(capsys.readouterr().err)
