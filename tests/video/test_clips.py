"""Reading the frames of a video file."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import torch
from video.reading import ffmpeg

from vc_core.errors import UserError
from vc_core.video import Options, write_video
from vc_core.video.clips import load_clip

LOSSLESS = Options(format="mkv ffv1")


def test_a_clip_of_its_own_size_comes_back_exactly(tmp_path: Path) -> None:
    frames = torch.randint(0, 256, (5, 14, 22, 3), generator=torch.Generator().manual_seed(0)) / 255
    write_video(tmp_path / "a.mkv", frames, fps=7, options=LOSSLESS)
    assert torch.equal(load_clip(tmp_path / "a.mkv", frames=3, width=22, height=14), frames[:3])


@pytest.mark.parametrize(("width", "height"), [(8, 16), (48, 16), (16, 16)])
def test_another_size_is_covered_and_center_cropped(width: int, height: int, tmp_path: Path) -> None:
    """Red on the left, blue on the right, as much of each whatever the size."""
    frames = torch.zeros(2, 24, 40, 3)
    frames[:, :, :20, 0] = 1
    frames[:, :, 20:, 2] = 1
    write_video(tmp_path / "a.mkv", frames, fps=7, options=LOSSLESS)
    clip = load_clip(tmp_path / "a.mkv", frames=2, width=width, height=height)
    assert clip.shape == (2, height, width, 3)
    assert 0 <= float(clip.min()) <= float(clip.max()) <= 1
    means = clip.mean(dim=(0, 1, 2))
    assert float(means[0]) == pytest.approx(float(means[2]), abs=1.01 * 2 / width)  # an odd pixel to crop
    assert float(clip[0, 0, 0, 0]) > 0.99
    assert float(clip[0, 0, -1, 2]) > 0.99


@pytest.mark.parametrize(("degrees", "corner"), [(90, (-1, 0)), (-90, (0, -1)), (180, (-1, -1))])
def test_a_rotated_video_is_turned_upright(degrees: int, corner: tuple[int, int], tmp_path: Path) -> None:
    """White in the upper left of what the camera saw; the file says how it was held."""
    frames = torch.zeros(2, 16, 32, 3)
    frames[:, :8, :8] = 1
    write_video(tmp_path / "seen.mp4", frames, fps=7)
    turn = ["-display_rotation", str(degrees), "-i", str(tmp_path / "seen.mp4"), "-c", "copy", str(tmp_path / "a.mp4")]
    subprocess.run([ffmpeg(), "-v", "error", *turn], check=True)
    size = (32, 16) if degrees == 180 else (16, 32)
    clip = load_clip(tmp_path / "a.mp4", frames=2, width=size[0], height=size[1])
    assert float(clip[0, corner[0], corner[1]].min()) > 0.8
    assert float(clip[0].mean()) == pytest.approx(1 / 8, abs=0.05)


def test_a_file_that_is_not_a_video_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"no video at all")
    with pytest.raises(UserError, match="cannot be read as a video"):
        load_clip(tmp_path / "a.mp4", frames=1, width=8, height=8)
    with pytest.raises(UserError, match=r"Video .* not found"):
        load_clip(tmp_path / "b.mp4", frames=1, width=8, height=8)
