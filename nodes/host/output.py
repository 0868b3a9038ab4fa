"""Files for the user: where they go, what is written into them, progress and Cancel."""

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
"""The page's own pattern, which it fills in for core's nodes alone."""
PART = re.compile(r"yyyy|yy|dd?|MM?|hh?|mm?|ss?")
"""Of a date: what the page knows, the longest first."""


@dataclass(frozen=True)
class Target:
    """Where a new file goes: inside ComfyUI's output folder, or its temporary one."""

    path: Path
    subfolder: str
    kind: str
    """"output" or "temp", as the page calls the two folders."""
    message: str = ""

    def shown(self, path: Path) -> dict[str, str]:
        """What the page needs to fetch a file that was written here, perhaps under a name beside the wished one or in a
        folder of that name."""
        folder = Path(self.subfolder, path.parent.relative_to(self.path.parent)).as_posix()
        return {"filename": path.name, "subfolder": "" if folder == "." else folder, "type": self.kind}


def target(prefix: str, suffix: str, *, width: int, height: int, temporary: bool = False) -> Target:
    """The next free numbered name that begins with `prefix`, which may hold folders, ComfyUI's %width%, %year% and the
    like, and %date:yyyy-MM-dd%.

    Raises UserError when ComfyUI refuses the place.
    """
    folder = folder_paths.get_temp_directory() if temporary else folder_paths.get_output_directory()
    safe, message = safe_name(dated(prefix, datetime.now().astimezone()))
    try:
        full, name, counter, subfolder, _ = folder_paths.get_save_image_path(safe, folder, width, height)
        counter = _free(Path(full), name, suffix, counter)
    except OSError as error:
        raise UserError(f"Nothing can be written under {safe!r} in {folder} ({error}). Choose another name.") from error
    except Exception as error:
        raise UserError(f"ComfyUI refuses the name {safe!r} ({error}). Choose another name.") from error
    path = Path(full) / f"{name}_{counter:05}_{suffix}"
    return Target(path, subfolder, "temp" if temporary else "output", message)


def dated(text: str, now: datetime) -> str:
    """The text with each %date:...% filled in as the page does: yyyy, yy, MM, dd, hh (of 24), mm and ss; M, d, h, m and
    s without a zero in front; everything else as it is."""
    values = {"y": now.year, "M": now.month, "d": now.day, "h": now.hour, "m": now.minute, "s": now.second}

    def value(part: re.Match[str]) -> str:
        digits = f"{values[part[0][0]]:0{len(part[0])}}"
        return digits[2:] if part[0] == "yy" else digits

    return DATE.sub(lambda found: PART.sub(value, found[1]), text)


def _free(folder: Path, name: str, suffix: str, counter: int) -> int:
    """ComfyUI counts from the names that it finds; a name that some other program took is passed over."""
    while (folder / f"{name}_{counter:05}_{suffix}").exists():
        counter += 1
    return counter


def metadata(hidden: Any) -> dict[str, Any]:
    """Prompt and workflow for the file, from a node's hidden inputs; empty under `--disable-metadata`."""
    if args.disable_metadata or hidden is None:
        return {}
    texts = {} if hidden.prompt is None else {"prompt": hidden.prompt}
    return {**texts, **(hidden.extra_pnginfo or {})}


def progress() -> Callable[[int, int | None], None]:
    """Moves the node's progress bar; raises ComfyUI's exception once the user has pressed Cancel."""
    bar = comfy.utils.ProgressBar(1)

    def on_frame(done: int, total: int | None) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        bar.update_absolute(done, total)

    return on_frame


def check_cancelled() -> None:
    """Raises ComfyUI's exception once the user has pressed Cancel."""
    comfy.model_management.throw_exception_if_processing_interrupted()


def video_from_file(path: Path) -> Any:
    """A VIDEO that is a file."""
    return InputImpl.VideoFromFile(str(path))


def video_from_frames(frames: Callable[[], Tensor], rate: Fraction, audio: Any | None) -> Any:
    """A VIDEO of the frames f h w c in 0..1 that `frames` gives, called when the first of them is needed."""
    return InputImpl.VideoFromComponents(_Later(frames, rate, audio))


class _Later(Types.VideoComponents):
    """Components whose images are made when they are asked for."""

    def __init__(self, frames: Callable[[], Tensor], rate: Fraction, audio: Any | None) -> None:
        self._frames = frames
        self.frame_rate, self.audio = rate, audio

    @cached_property
    def images(self) -> Tensor:
        """f h w 3"""
        return self._frames()[..., :3]
