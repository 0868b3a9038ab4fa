"""Videos in every container, damaged; and lists that name other files."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from fuzz.damage import CHANGES, damaged
from fuzz.fuzzing import fuzzed
from fuzz.guards import Folder
from hypothesis import strategies as st

from vc_core.errors import UserError
from vc_core.frames import pixels
from vc_core.video import clips
from vc_core.video.clips import load_clip, load_views, open_frames

CODECS = {
    "mp4": ("libx264", "yuv420p"),
    "webm": ("libvpx-vp9", "yuv420p"),
    "mkv": ("ffv1", "yuv444p"),
    "avi": ("mpeg4", "yuv420p"),
    "mov": ("mjpeg", "yuvj420p"),
    "gif": ("gif", "rgb8"),
    "mpg": ("mpeg1video", "yuv420p"),
    "ts": ("mpeg2video", "yuv420p"),
}
SIZE, FRAMES = 32, 4


@cache
def video(suffix: str) -> bytes:
    """A small video file."""
    import tempfile

    codec, colors = CODECS[suffix]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"video.{suffix}"
        with av.open(str(path), "w") as container:
            stream = container.add_stream(codec, rate=25)
            stream.width = stream.height = SIZE
            stream.pix_fmt = colors
            for number in range(FRAMES):
                values = np.random.default_rng(number).integers(0, 255, (SIZE, SIZE, 3), np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(values, format="rgb24")))
            container.mux(stream.encode())
        return path.read_bytes()


@pytest.fixture(autouse=True)
def small_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a decoded file may take in memory beside its own size is bounded by the pixels that are allowed; fewer keep
    the bound of the tests low."""
    for module in (pixels, clips):
        monkeypatch.setattr(module, "MOST_PIXELS", 2**21)


def look(path: Path) -> None:
    """Reads a file in each of the ways in which the product reads videos."""
    for read in (
        lambda: load_clip(path, frames=2, width=16, height=16),
        lambda: load_views([path]),
        lambda: torch.cat([frame.flatten(0, 1)[None] for frame in open_frames(path).frames], dim=1),
    ):
        try:
            found = read()
        except UserError:
            continue
        assert found.shape[-1] == 3
        assert bool(((found >= 0) & (found <= 1)).all())


@pytest.mark.parametrize("suffix", CODECS)
def test_every_container_is_read(suffix: str, folder: Folder) -> None:
    assert len(load_views([folder.file(f"video.{suffix}", video(suffix))])) == FRAMES


NAMES = st.sampled_from(["video.mp4", "video.webm", "video.gif", "video.m3u8", "video", "video.png"])


@fuzzed(st.tuples(st.sampled_from(sorted(CODECS)), NAMES, CHANGES), examples=40)
def test_damaged_videos(case: tuple[str, str, list[Any]], folder: Folder) -> None:
    suffix, name, changes = case
    look(folder.file(name, damaged(video(suffix), changes)))


LISTS = {
    "hls": "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{}\n#EXT-X-ENDLIST\n",
    "concat": "ffconcat version 1.0\nfile {}\n",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n{}\n",
    "dash": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><Period>'
    '<AdaptationSet mimeType="video/mp4">'
    "<Representation><BaseURL>{}</BaseURL></Representation></AdaptationSet></Period></MPD>",
}
TARGETS = st.sampled_from(["other.mp4", "file:other.mp4", "http://127.0.0.1:9/x.ts", "/etc/passwd", "concat:a|b"])


@fuzzed(st.tuples(st.sampled_from(sorted(LISTS)), TARGETS, NAMES), examples=30)
def test_lists_of_other_files(case: tuple[str, str, str], folder: Folder) -> None:
    kind, target, name = case
    folder.file("other.mp4", video("mp4"))
    with pytest.raises(UserError, match=r"cannot be read|has no (video|frames)"):
        list(open_frames(folder.file(name, LISTS[kind].format(target))).frames)
