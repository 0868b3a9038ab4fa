"""The table in `docs/video-files.md`: what each format keeps, and how exactly, measured with another reader.

PYTHONPATH=.:tests python -m frames.table      # measures and writes it
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from video.clips import bars
from video.reading import pixels, planes

from vc_core.video import FORMATS, Format, Options, available_formats, find_format, write

DOC = Path(__file__).resolve().parents[2] / "docs" / "video-files.md"
HEAD = "| format | file | bits | lossless | transparency | sound | plays in browsers | error | tint |"


@dataclass(frozen=True)
class Measured:
    """Of colour bars and ramps at the default quality, in steps of 255: the mean absolute error, and the largest mean
    difference of one channel within one bar."""

    error: float
    tint: float


def stored(path: Path, name: str) -> np.ndarray:
    """All frames f h w 3, the numbers in the file, at the format's own depth where it is lossless."""
    bits = find_format(name).bits
    return pixels(path) if bits == 8 else planes(path, "gbrp10le") if bits == 10 else pixels(path, deep=True)


def measure(name: str, folder: Path) -> Measured:
    """Writes the bars and reads them again."""
    clip, form = bars(3), find_format(name)
    path = write(folder / f"bars{form.suffix}", clip, fps=8, options=Options(format=name)).path
    deep = form.lossless and form.bits > 8
    seen = stored(path, name) * (255 / (2**form.bits - 1)) if deep else pixels(path).astype(np.float64)
    error = seen - clip.numpy() * 255
    flat = error[:, 8:136].reshape(3, 128, 8, 64, 3)[:, :, :, 8:56]  # inside each bar, away from its blurred edges
    return Measured(float(np.abs(error).mean()), float(np.abs(flat.mean(axis=(0, 1, 3))).max()))


def facts(form: Format) -> list[str]:
    """The cells of a format's row that do not depend on the encoder's version."""
    yes = {True: "yes", False: ""}
    alpha = "on or off" if form.name == "gif" else yes[form.alpha is not None]
    ending = form.suffix or "folder of .png"
    return [form.name, ending, str(form.bits), yes[form.lossless], alpha, yes[bool(form.audio)], yes[form.page]]


def rows() -> dict[str, list[str]]:
    """The cells of each format in the document."""
    lines = DOC.read_text(encoding="utf-8").splitlines()
    start = lines.index(HEAD) + 2
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[start:]]
    table = cells[: next((i for i, row in enumerate(cells) if len(row) < len(HEAD.split("|")) - 2), len(cells))]
    return {row[0]: row for row in table}


def main() -> None:
    text = DOC.read_text(encoding="utf-8")
    before, _, after = text.partition(HEAD)
    rest = after.partition("\n\n")[2]
    lines = [HEAD, "|" + "---|" * (HEAD.count("|") - 1)]
    for form in FORMATS:
        if available_formats().get(form.name) is not form:
            continue
        with tempfile.TemporaryDirectory() as folder:
            seen = measure(form.name, Path(folder))
        lines.append(f"| {' | '.join([*facts(form), f'{seen.error:.2f}', f'{seen.tint:.2f}'])} |")
    DOC.write_text(before + "\n".join(lines) + "\n\n" + rest, encoding="utf-8")


if __name__ == "__main__":
    main()
