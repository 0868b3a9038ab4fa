"""`python -m vc_core evaluate`: figures of video files, with a contact sheet, plots and JSON beside them."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from .files import check_target, placed
from .frames.pixels import load_image, save_image
from .judging import METRICS, Report, as_json, as_text, judge, metrics
from .judging.drawing import overview
from .judging.table import parameters
from .parameters import Kind, Parameter
from .terminal import say
from .video.clips import Opened, open_frames

RATE = "fps"
"""The parameter that a video file knows itself."""


def add_evaluate_options(parser: argparse.ArgumentParser) -> None:
    """The files, what is measured, and the parameters of the metrics, from their records."""
    parser.add_argument("video", nargs="+", type=Path, metavar="FILE", help="a video, an image or a folder of images")
    parser.add_argument(
        "--metric",
        action="append",
        choices=tuple(METRICS),
        default=None,
        help="measure only this one; can be repeated. All of them if not given",
    )
    for item in parameters():
        parser.add_argument(f"--{item.name.replace('_', '-')}", **_argument(item))
    parser.add_argument(
        "--output",
        "-o",
        type=Path,
        default=Path("output"),
        help="the folder for a JSON file and an image with contact sheet and plots of each video (%(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--overwrite", action="store_true", help="replace files that exist")


def _argument(item: Parameter) -> dict[str, Any]:
    """The arguments of the parser for a parameter."""
    words = item.help.replace("%", "%%")
    if item.kind is Kind.IMAGES:
        return {"type": Path, "default": None, "metavar": "FILE", "help": words}
    shown = f"that of the file, {item.default:g} for images" if item.name == RATE else f"{item.default:g}"
    kind = int if item.kind is Kind.INTEGER else float
    return {"type": kind, "default": None, "metavar": "N", "help": f"{words} (default: {shown})"}


def evaluate(options: argparse.Namespace) -> None:
    """Checks everything that is given, then measures one file after the other."""
    values = _values(options)
    metrics(options.metric or (), **values)
    targets = _targets(options.video, options.output)
    for target in targets.values():
        for suffix in (".json", ".png"):
            check_target(target.with_name(target.name + suffix), overwrite=options.overwrite)
    opened = {name: open_frames(path) for name, path in zip(targets, options.video, strict=True)}
    reports = {name: _judged(name, frames, values, options) for name, frames in opened.items()}
    written = [
        path for name, report in reports.items() for path in _write(targets[name], name, report, options.overwrite)
    ]
    say(as_json(reports) if options.json else as_text(reports))
    if not options.json:
        say("\n" + "\n".join(map(str, written)))


def _values(options: argparse.Namespace) -> dict[str, Any]:
    """The parameters that are given."""
    given = {item: getattr(options, item.name) for item in parameters() if getattr(options, item.name) is not None}
    return {item.name: (load_image(value),) if item.kind is Kind.IMAGES else value for item, value in given.items()}


def _targets(videos: list[Path], folder: Path) -> dict[str, Path]:
    """The files by the names that the reports have, which are unique, and the paths without suffix to write to."""
    found: dict[str, Path] = {}
    stems: set[str] = set()
    for path in videos:
        named = path.resolve()
        stem, number = named.stem or "video", 2
        while stem in stems:
            stem, number = f"{named.stem}-{number}", number + 1
        stems.add(stem)
        name = named.name if named.name not in found else f"{named.name} ({stem})"
        found[name] = folder / stem
    return found


def _judged(name: str, opened: Opened, values: Mapping[str, Any], options: argparse.Namespace) -> Report:
    rate = {} if RATE in values or opened.fps is None else {RATE: opened.fps}
    with tqdm(desc=name, unit="frame", total=opened.count, disable=True if options.quiet else None) as bar:
        return judge(
            opened.frames,
            metrics(options.metric or (), **values, **rate),
            on_frame=lambda done: bar.update(done - bar.n),
        )


def _write(target: Path, name: str, report: Report, overwrite: bool) -> list[Path]:
    """The JSON file and the image."""
    with placed(target.with_name(target.name + ".json"), overwrite=overwrite) as place:
        place.part.write_text(as_json({name: report}) + "\n", encoding="utf-8")
    image = save_image(target.with_name(target.name + ".png"), overview(report, name), overwrite=overwrite)
    return [place.final, image]
