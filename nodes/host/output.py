"""Output files: their paths, the metadata written into them, progress and cancelling."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.utils
import folder_paths
from comfy.cli_args import args
from comfy_api.latest import InputImpl, Types
from torch import Tensor

from ...vc_core.errors import UserError
from ...vc_core.video import safe_name

DATE = re.compile(r"%date:([^%]*)%")
"""The frontend's own placeholder, which it replaces for core's nodes only."""
PART = re.compile(r"yyyy|yy|dd?|MM?|hh?|mm?|ss?")
"""The parts of a date that the frontend supports, longest first."""


@dataclass(frozen=True)
class Target:
    """The path of a new file in ComfyUI's output or temporary folder."""

    path: Path
    subfolder: str
    kind: str
    """"output" or "temp": the frontend's names of the two folders."""
    message: str = ""

    def shown(self, path: Path) -> dict[str, str]:
        """What the frontend needs to fetch a file that was written here, either next to the requested path or inside a
        folder of that name."""
        folder = Path(self.subfolder, path.parent.relative_to(self.path.parent)).as_posix()
        return {"filename": path.name, "subfolder": "" if folder == "." else folder, "type": self.kind}


def target(prefix: str, suffix: str, *, width: int, height: int, temporary: bool = False) -> Target:
    """The next free numbered path for `prefix`, which may contain folders, ComfyUI's placeholders such as %width%
    and %year%, and %date:yyyy-MM-dd%.

    Raises UserError if ComfyUI rejects the path.
    """
    folder = folder_paths.get_temp_directory() if temporary else folder_paths.get_output_directory()
    safe, message = safe_name(dated(prefix, datetime.now().astimezone()))
    try:
        full, name, counter, subfolder, _ = folder_paths.get_save_image_path(safe, folder, width, height)
        counter = _free(Path(full), name, suffix, counter)
    except OSError as error:
        raise UserError(f"Cannot write {safe!r} in {folder} ({error}). Choose a different filename_prefix.") from error
    except Exception as error:
        raise UserError(f"ComfyUI rejects the name {safe!r} ({error}). Choose a different filename_prefix.") from error
    path = Path(full) / f"{name}_{counter:05}_{suffix}"
    return Target(path, subfolder, "temp" if temporary else "output", message)


def dated(text: str, now: datetime) -> str:
    """The text with each %date:...% replaced as the frontend does: yyyy, yy, MM, dd, hh (24-hour), mm and ss; M, d, h,
    m and s without a leading zero. Everything else is unchanged."""
    values = {"y": now.year, "M": now.month, "d": now.day, "h": now.hour, "m": now.minute, "s": now.second}

    def value(part: re.Match[str]) -> str:
        digits = f"{values[part[0][0]]:0{len(part[0])}}"
        return digits[2:] if part[0] == "yy" else digits

    return DATE.sub(lambda found: PART.sub(value, found[1]), text)


def _free(folder: Path, name: str, suffix: str, counter: int) -> int:
    """The first free counter, starting at ComfyUI's, in case another program has created files."""
    while (folder / f"{name}_{counter:05}_{suffix}").exists():
        counter += 1
    return counter


def metadata(hidden: Any) -> dict[str, Any]:
    """Prompt and workflow from a node's hidden inputs, to be saved in the file; empty under `--disable-metadata`."""
    if args.disable_metadata or hidden is None:
        return {}
    texts = {} if hidden.prompt is None else {"prompt": hidden.prompt}
    return {**texts, **(hidden.extra_pnginfo or {})}


def progress() -> Callable[[int, int | None], None]:
    """A callback that updates the node's progress bar, and raises ComfyUI's exception when the user has cancelled."""
    bar = comfy.utils.ProgressBar(1)

    def on_frame(done: int, total: int | None) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        bar.update_absolute(done, total)

    return on_frame


def check_cancelled() -> None:
    """Raises ComfyUI's exception when the user has cancelled."""
    comfy.model_management.throw_exception_if_processing_interrupted()


def video_from_file(path: Path) -> Any:
    """A VIDEO backed by a file."""
    return InputImpl.VideoFromFile(str(path))


def video_from_frames(frames: Callable[[], Tensor], rate: Fraction, audio: Any | None) -> Any:
    """A VIDEO of the frames f h w c in 0..1 that `frames` returns; it is called when they are first needed."""
    return InputImpl.VideoFromComponents(_LazyComponents(frames, rate, audio))


class _LazyComponents(Types.VideoComponents):
    """Components whose images are computed on first access."""

    def __init__(self, frames: Callable[[], Tensor], rate: Fraction, audio: Any | None) -> None:
        self._frames = frames
        self.frame_rate, self.audio = rate, audio

    @cached_property
    def images(self) -> Tensor:
        """f h w 3"""
        return self._frames()[..., :3]
