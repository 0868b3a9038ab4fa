"""Measures the speed and memory of writing videos.

    python benchmarks/video_writing.py [--only rate] [--frames 128] [--runs 3] [--output FILE]

Rate: a clip of 1024x576 as h264 crf 18, by `vc_core` from floats in memory, and by the ffmpeg command line from raw
bytes in a file, with the same settings; alternating runs, medians. Memory: the peak of a separate process that writes
64, 1024 and, at a small size, 10000 frames from a generator. With `--only`, the other part of an earlier result is
kept.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import av  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402

from vc_core.video import Options, find_format, write  # noqa: E402

WIDTH, HEIGHT, RATE = 1024, 576, 8
SMALL = (320, 192)
SETTINGS = ["-c:v", "libx264", "-preset", "medium", "-crf", "18", "-pix_fmt", "yuv420p", "-movflags", "+faststart"]
COLOUR = ["-color_range", "tv", "-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709"]
SCALE = ["-vf", "scale=out_color_matrix=bt709:out_range=tv:flags=bicubic+accurate_rnd+full_chroma_inp"]
LONG = ("mp4 h264", "webm vp9", "mkv ffv1", "webp", "gif", "apng")


def clip(frames: int, width: int = WIDTH, height: int = HEIGHT) -> Iterator[np.ndarray]:
    """Smooth, drifting colours with a little grain, as a video model makes them. uint8 h w 3."""
    rng = np.random.default_rng(0)
    y, x = np.meshgrid(np.linspace(0, 6, height), np.linspace(0, 10, width), indexing="ij")
    grain = rng.normal(0, 3, (height, width, 3))
    for i in range(frames):
        waves = [np.sin(x + 0.2 * i), np.sin(y - 0.15 * i), np.sin(x + y + 0.1 * i)]
        frame = 127 + 100 * np.stack(waves, axis=-1) + np.roll(grain, 7 * i, axis=1)
        yield np.clip(frame, 0, 255).astype(np.uint8)


def timed(work: Callable[[], Any]) -> tuple[float, float]:
    """Wall-clock seconds, and CPU seconds of this process and its children."""
    clock, cores = time.perf_counter(), sum(os.times()[:4])
    work()
    return time.perf_counter() - clock, sum(os.times()[:4]) - cores


def ours(frames: torch.Tensor, folder: Path) -> tuple[float, float]:
    return timed(lambda: write(folder / "ours.mp4", frames, fps=RATE, overwrite=True))


def theirs(program: str, raw: Path, folder: Path) -> tuple[float, float]:
    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{WIDTH}x{HEIGHT}", "-r", str(RATE), "-i", str(raw)]
    words = [program, "-v", "error", "-y", *source, *SCALE, *SETTINGS, *COLOUR, str(folder / "theirs.mp4")]
    return timed(lambda: subprocess.run(words, check=True))


def programs() -> dict[str, str]:
    """All installed ffmpeg programs, by version."""
    found = [shutil.which("ffmpeg")]
    try:
        import imageio_ffmpeg

        found.append(imageio_ffmpeg.get_ffmpeg_exe())
    except ImportError:
        pass
    known = {}
    for program in filter(None, found):
        head = subprocess.run([program, "-version"], capture_output=True, text=True, check=True).stdout
        known[re.split(r"\s+", head)[2]] = program
    return known


def timings(floats: torch.Tensor, raw: Path, runs: int, folder: Path) -> dict[str, list[tuple[float, float]]]:
    """Program -> wall-clock and CPU seconds of each run; the programs take turns."""
    seconds: dict[str, list[tuple[float, float]]] = {"vc_core": []}
    for _ in range(runs):
        seconds["vc_core"].append(ours(floats, folder))
        for version, program in programs().items():
            seconds.setdefault(f"ffmpeg {version}", []).append(theirs(program, raw, folder))
    return seconds


def ratios(medians: dict[str, tuple[float, ...]], which: int) -> dict[str, float]:
    """The time of each other program over that of `vc_core`; which: 0 for the clock, 1 for the cores."""
    own = medians["vc_core"][which]
    return {name: round(values[which] / own, 3) for name, values in medians.items() if name != "vc_core"}


def rates(count: int, runs: int, folder: Path) -> dict[str, Any]:
    """Rates of writing a clip of `count` frames, by `vc_core` and by each ffmpeg program."""
    frames = np.stack(list(clip(count)))
    raw = folder / "raw"
    frames.tofile(raw)
    floats = torch.from_numpy(frames).float().div_(255.0)
    seconds = timings(floats, raw, runs, folder)
    medians = {name: tuple(map(statistics.median, zip(*values, strict=True))) for name, values in seconds.items()}
    return {
        "frames": count,
        "size": f"{WIDTH}x{HEIGHT}",
        "settings": "h264, crf 18, preset medium, yuv420p, bt709, faststart",
        "runs": runs,
        "seconds": {name: [round(clock, 2) for clock, _ in values] for name, values in seconds.items()},
        "core_seconds": {name: [round(core, 2) for _, core in values] for name, values in seconds.items()},
        "frames_per_second": {name: round(count / clock, 2) for name, (clock, _) in medians.items()},
        "our_rate_over_theirs": ratios(medians, 0),
        "our_rate_over_theirs_by_core_seconds": ratios(medians, 1),
        "bytes": {name: (folder / f"{name}.mp4").stat().st_size for name in ("ours", "theirs")},
        "load_average": os.getloadavg()[0],
    }


def peak(name: str, count: int, size: tuple[int, int]) -> int:
    """Peak memory in MB, in a new process."""
    words = [sys.executable, __file__, "--peak", name, str(count), f"{size[0]}x{size[1]}"]
    return int(subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()[-1]) // 1024


def write_and_count(name: str, count: int, size: tuple[int, int]) -> None:
    """Prints the peak memory in kB after writing one clip, whose frames are not kept in memory."""
    ring = list(clip(8, *size))
    frames: Iterable[np.ndarray] = (ring[i % 8] for i in range(count))
    if name == "gif":
        frames = list(frames)  # a list can be read twice, for one palette, as in the node
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / f"clip{find_format(name).suffix}", frames, fps=RATE, options=Options(format=name))
    sys.stdout.write(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}\n")


def memory() -> dict[str, Any]:
    """Peak memory in MB, by size, format and number of frames."""
    large = {"mp4 h264": {str(n): peak("mp4 h264", n, (WIDTH, HEIGHT)) for n in (64, 1024)}}
    small = {name: {str(n): peak(name, n, SMALL) for n in (64, 1024)} for name in LONG}
    small["mp4 h264"]["10000"] = peak("mp4 h264", 10000, SMALL)
    return {f"{WIDTH}x{HEIGHT}": large, f"{SMALL[0]}x{SMALL[1]}": small}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("rate", "peak_memory_mb"))
    parser.add_argument("--frames", type=int, default=128)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/video_writing.json")
    parser.add_argument("--peak", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        name, count, size = options.peak
        width, height = size.split("x")
        write_and_count(name, int(count), (int(width), int(height)))
        return
    result: dict[str, Any] = json.loads(options.output.read_text()) if options.only and options.output.exists() else {}
    result |= {
        "date": datetime.now(tz=timezone.utc).date().isoformat(),
        "device": f"{os.cpu_count()} cores, {platform.machine()}",
        "versions": {"python": platform.python_version(), "av": av.__version__, "torch": torch.__version__},
    }
    if options.only != "peak_memory_mb":
        with tempfile.TemporaryDirectory() as folder:
            result["rate"] = rates(options.frames, options.runs, Path(folder))
    if options.only != "rate":
        result["peak_memory_mb"] = memory()
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=2) + "\n")
    sys.stdout.write(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
