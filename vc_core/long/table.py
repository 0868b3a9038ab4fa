"""The methods by name, in the order in which users see them, what they do not support, and their table as Markdown."""

from __future__ import annotations

from ..errors import UserError
from ..features import refuse_uses
from .co_denoising import CoDenoising
from .continuing import Continue
from .fifo import Fifo
from .freelong import FreeLong
from .freenoise import FreeNoise
from .loop import Loop
from .method import Method, OneClip, Parameter, Video
from .off import Off
from .windows import OverlappingWindows
from .windows_fast import ShiftedWindows

METHODS: dict[str, type[Method]] = {
    method.name: method
    for method in (Off, FreeNoise, Continue, FreeLong, OverlappingWindows, Loop, Fifo, ShiftedWindows, CoDenoising)
}


def method_named(name: str) -> type[Method]:
    """A method by its name. Raises UserError where there is none."""
    if name not in METHODS:
        raise UserError(f"There is no long-video method {name!r}; choose one of {', '.join(METHODS)}.")
    return METHODS[name]


def settled(method: Method, *, trained: int, frames: int) -> Method:
    """The method for a video of `frames` frames by a model that was trained on `trained`: with what the model decides
    filled in, and off for a single clip where there would be several."""
    found = method.settled(trained)
    return found if isinstance(found, OneClip) or not found.is_plain(frames) else Off()


def options() -> dict[str, dict[str, Parameter]]:
    """The parameters of all methods: by the parameter's name, then by the method's."""
    found: dict[str, dict[str, Parameter]] = {}
    for name, method in METHODS.items():
        for item in method.parameters():
            found.setdefault(item.name, {})[name] = item
    return found


def check(method: Method, video: Video) -> None:
    """Raises UserError where a settled method does not support what else the video uses, or cannot make it."""
    if not method.is_plain(video.frames):
        others = [name for name, other in METHODS.items() if not other.conflicts.keys() & video.uses.keys()]
        cure = f"use {', '.join(others)}"
        refuse_uses(f"{video.option} {method.name}", method.conflicts, video.uses, cure)
    if isinstance(method, OneClip) and method.free_init:
        cure = f"set {video.rounds_option} to 0"
        refuse_uses(video.rounds_option, method.round_conflicts, video.uses, cure)
    method.check(video)


def with_eta(eta: float) -> list[str]:
    """The methods that this share of fresh noise suits."""
    return [name for name, method in METHODS.items() if method.eta == eta]


def markdown(*, parameters: bool = True) -> str:
    """The methods as a Markdown table: use, eta, memory, time per frame, and perhaps parameters with their defaults."""
    names = ["long_video", "use it for", "eta", "memory", "time", *(["parameters"] if parameters else [])]
    rows = [names, ["---"] * len(names)]
    for name, method in METHODS.items():
        eta = "any" if method.eta is None else f"{method.eta:g}"
        given = ", ".join(f"{item.name} {_shown(item)}" for item in method.parameters())
        rows.append([name, method.use, eta, method.memory, method.time, *([given] if parameters else [])])
    return "\n".join("|---" * len(row) + "|" if row[0] == "---" else f"| {' | '.join(row)} |" for row in rows)


def _shown(item: Parameter) -> str:
    if item.name == "window" and not item.default:
        return "as trained"
    return item.default if item.choices else f"{item.default:g}"
