"""Measures loading a full-size checkpoint, and writing a video."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from . import full_size_load, video_writing

MANIFEST = Path(__file__).resolve().parent.parent / "tests" / "manifests" / "t2v_512_v2.0.json.gz"
FRAMES = 32


def loading() -> dict[str, Any]:
    """Seconds and peak memory of a process that loads a full-size .ckpt in fp32. The file of 7.4 GB is temporary."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.ckpt"
        full_size_load.make_checkpoint(MANIFEST, path)
        modules = full_size_load.run(full_size_load.IMPORT)
        loaded = full_size_load.run(full_size_load.LOAD.format(path=str(path), dtype="float32"))
    kept = loaded["kept_bytes"]
    return {
        "seconds": loaded["seconds"],
        "peak_bytes": loaded["peak_bytes"],
        "peak_over_kept": loaded["peak_bytes"] / kept,
        "peak_without_modules_over_kept": (loaded["peak_bytes"] - modules["peak_bytes"]) / kept,
    }


def writing() -> dict[str, Any]:
    """The rate of writing h264 at 1024x576, and its ratio to that of the ffmpeg program, if installed."""
    with tempfile.TemporaryDirectory() as folder:
        found = video_writing.rates(FRAMES, 1, Path(folder))
    return {
        "frames_per_second": found["frames_per_second"]["vc_core"],
        "our_rate_over_ffmpeg": found["our_rate_over_theirs_by_core_seconds"],
    }
