"""A video of hours, written frame by frame: memory while it is written, and whether all of it can be read."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vc_core.video import write

from .nvidia_smi import Watch

if TYPE_CHECKING:
    from comfyui.server import Server

RATE, SIDE, NODE_SIDE = 24, 32, 16
"""Frames per second, and pixels per side: of frames from a generator, and of the node's, which are all in memory."""
MARKS = 24
"""Readings of the memory."""
BATCH = 48
"""Images of the batch that is repeated; the nodes repeat it up to 4096 times."""


def frames(count: int) -> Iterator[np.ndarray]:
    """A grey ramp that moves, 32x32; the last frame is bright at the left alone. uint8 h w 3."""
    ramp = np.linspace(20, 200, SIDE)
    for index in range(count - 1):
        yield np.broadcast_to(np.roll(ramp, index)[None, :, None], (SIDE, SIDE, 3)).astype(np.uint8)
    last = np.zeros((SIDE, SIDE, 3), np.uint8)
    last[:, : SIDE // 2] = 230
    yield last


def by_vc_core(folder: Path, seconds: float) -> dict[str, Any]:
    """Writes frames from a generator, and reads the file. What grows with it is the index of the mp4 file, which the
    muxer holds until the end."""
    import psutil

    count = round(RATE * seconds)
    process, resident = psutil.Process(), []
    every = max(1, count // MARKS)

    def on_frame(done: int, _: int | None) -> None:
        if done % every == 0:
            resident.append(process.memory_info().rss)

    begun = time.monotonic()
    path = write(folder / "long.mp4", frames(count), fps=RATE, on_frame=on_frame).path
    written = time.monotonic() - begun
    read, last = _played(path)
    return {
        "frames": count,
        "frames_read": read,
        "last_frame_is_right": bool(last[:, :4].mean() > 200 and last[:, -4:].mean() < 30),
        "seconds": round(written, 1),
        "bytes": path.stat().st_size,
        "resident": resident,
        "growth": round(resident[-1] / resident[0] - 1, 5),
        "growth_bytes_per_frame": round((resident[-1] - resident[0]) / count, 1),
    }


def by_node(server: Server, seconds: float) -> dict[str, Any]:
    """Writes a repeated batch by VideoCrafter Video Combine, and reads the file.

    ComfyUI holds all images of a batch, so `extra_bytes` is what the server takes at most beyond them.
    """
    times = round(RATE * seconds / BATCH)
    specs = server.object_info()["VideoCrafterVideoCombine"]["input"]["required"]
    defaults = {name: spec[1]["default"] for name, spec in specs.items() if "default" in spec[1]}
    server.run(_prompt(1, defaults))  # loads what it needs
    with Watch(server.rss, card=False) as watch:
        before = watch.peaks()["host_peak_bytes"]
        begun = time.monotonic()
        run = server.run(_prompt(times, defaults), timeout=3600)
        took, peak = time.monotonic() - begun, watch.peaks()["host_peak_bytes"]
    if run.status != "success":
        raise RuntimeError(f"the node did not write the video: {run.error}")
    (file,) = run.files
    read, _ = _played(server.base.output / file["subfolder"] / file["filename"])
    images = times * BATCH * NODE_SIDE**2 * 3 * 4
    return {
        "frames": times * BATCH,
        "frames_read": read,
        "seconds": round(took, 1),
        "image_bytes": images,
        "extra_bytes": peak - before - images,
    }


def _prompt(times: int, defaults: dict[str, Any]) -> dict[str, Any]:
    image = {"width": NODE_SIDE, "height": NODE_SIDE, "batch_size": BATCH, "color": 0xC08040}
    combine = {**defaults, "images": ["2", 0], "fps": float(RATE), "format": "mp4 h264", "filename_prefix": "long"}
    return {
        "1": {"class_type": "EmptyImage", "inputs": image},
        "2": {"class_type": "RepeatImageBatch", "inputs": {"image": ["1", 0], "amount": times}},
        "3": {"class_type": "VideoCrafterVideoCombine", "inputs": combine},
    }


def _played(path: Path) -> tuple[int, np.ndarray]:
    """The number of frames in a file, all of them decoded, and the last one."""
    import av

    count = 0
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            last = frame
            count += 1
    return count, last.to_ndarray(format="rgb24")
