"""The options of controls on the command line, from their records."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import fields
from os import fspath
from pathlib import Path
from typing import Any

from torch import Tensor

from .. import bundled
from ..errors import UserError
from ..files import expanded
from ..frames.pixels import load_image
from ..parameters import PICTURED, WRITTEN, Kind, Parameter
from ..request import Settings
from ..video.clips import load_clip, load_images
from .control import FILE, Control
from .table import CONTROLS

OWN = "model"
"""The name of the model's own file, where it holds the weights of a control."""
METAVARS = {Kind.NUMBER: "N", Kind.INTEGER: "N", Kind.CHOICE: None, Kind.TEXT: "TEXT", Kind.FILE: "FILE"}
TYPES: dict[Kind, Callable[[str], Any]] = {Kind.NUMBER: float, Kind.INTEGER: int}


def add_control_options(parser: argparse.ArgumentParser) -> None:
    """A switch for each control, or the file of its weights, and its parameters."""
    for name, control in CONTROLS.items():
        group = parser.add_argument_group(f"{control.title}: {control.summary} ({control.models})")
        if control.part is None:
            group.add_argument(_flag(name), action="store_true", help="use it")
        else:
            words = f"the file with its weights, or '{OWN}' where the model's own file holds them"
            if name in bundled.CONTROLS:
                words += f"; '{bundled.SHORT_NAME}' is the bundled file for the small model"
            group.add_argument(_flag(name), metavar="FILE", default=None, help=words)
        for item in control.parameters():
            group.add_argument(_flag(name, item.name), **_argument(item))


def _flag(*names: str) -> str:
    """The option of a control, or of its parameter."""
    return "--" + "-".join(names).replace("_", "-")


def _argument(item: Parameter) -> dict[str, Any]:
    """The arguments of the parser for a parameter."""
    shown = f"{item.default:g}" if isinstance(item.default, float) else item.default
    words = item.help.replace("%", "%%") + (f" (default: {shown})" if shown or item.kind in TYPES else "")
    if item.kind is Kind.SWITCH:
        return {"action": argparse.BooleanOptionalAction, "default": None, "help": item.help.replace("%", "%%")}
    if item.kind is Kind.IMAGES:
        return {"action": "append", "type": Path, "default": None, "metavar": "FILE", "help": words}
    if item.kind in PICTURED:
        return {"type": Path, "default": None, "metavar": "FILE", "help": words}
    return {
        "type": TYPES.get(item.kind, str),
        "default": None,
        "choices": item.choices or None,
        "metavar": METAVARS.get(item.kind, "TEXT_OR_FILE"),
        "help": words,
    }


def controls_of(options: argparse.Namespace, settings: Settings) -> tuple[Control, ...]:
    """The controls that the options choose, for a video of these settings. Raises UserError for parameters of a control
    that is not chosen, and for files that cannot be read."""
    found = []
    for name, control in CONTROLS.items():
        chosen = getattr(options, name, None)
        values = _values(options, control, chosen=chosen not in (None, False))
        if chosen in (None, False):
            continue
        made = {key: _read(value, _named(control, key), settings) for key, value in values.items()}
        if control.part is not None:
            made[FILE] = "" if chosen == OWN else _weights(name, chosen)
        found.append(control(**made))
    return tuple(found)


def _weights(name: str, chosen: str) -> str:
    """The file that the option of a control names; the bundled one for the short name."""
    return str(bundled.resolved(Path(chosen), bundled.CONTROLS[name])) if name in bundled.CONTROLS else chosen


def _values(options: argparse.Namespace, control: type[Control], *, chosen: bool) -> dict[str, Any]:
    """The parameters that are given. Raises UserError where there are some of a control that is not chosen."""
    values = {}
    for item in control.parameters():
        value = getattr(options, f"{control.name}_{item.name}", None)
        if value is None:
            continue
        if not chosen:
            flag = _flag(control.name, item.name)
            file = "" if control.part is None else " FILE"
            raise UserError(f"{flag} works with {_flag(control.name)}{file} only. Leave it out, or give that as well.")
        values[item.name] = value
    return values


def _named(control: type[Control], name: str) -> Parameter:
    return next(item for item in control.parameters() if item.name == name)


def _read(value: Any, item: Parameter, settings: Settings) -> Any:
    """The value of a parameter, read from the file that it names where its kind is read from one."""
    if item.kind is Kind.IMAGES:
        return tuple(image for path in value for image in load_images(path))
    if item.kind is Kind.MASK:
        return load_image(value)[None, :, :, 0]
    if item.kind is Kind.VIDEO:
        return load_clip(value, frames=settings.frames, width=settings.width, height=settings.height)
    if item.kind in WRITTEN and item.kind is not Kind.TEXT:
        return _text(value)
    return value


def _text(value: str) -> str:
    """A text, or that in the file of this name."""
    try:
        path = expanded(value)
        is_file = "\n" not in value and path.is_file()
    except (OSError, ValueError):  # a text too long for a name
        return value
    if not is_file:
        return value
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{value} cannot be read as text ({error}). Save it as UTF-8.") from error


def described(control: Control) -> dict[str, Any]:
    """A control for the metadata of a file: its name, and what it is set to as far as that is text or a number."""
    values = {item.name: getattr(control, item.name) for item in fields(control)}
    files = _names_of_files(control)
    shown = {name: value for name, value in values.items() if name not in files}
    plain = {name: value if isinstance(value, str | int | float) else _size(value) for name, value in shown.items()}
    return {"control": control.name, **{name: file for name, file in files.items() if file}, **plain}


def _names_of_files(control: Control) -> dict[str, str]:
    """The names of the files that a control reads, without their folders; empty for none."""
    fields_of_files = [FILE, *(item.name for item in control.parameters() if item.kind is Kind.FILE)]
    return {name: Path(fspath(getattr(control, name))).name for name in fields_of_files if hasattr(control, name)}


def _size(value: Any) -> Any:
    """The shape of a tensor, or those of several."""
    if isinstance(value, Tensor):
        return list(value.shape)
    return [list(each.shape) for each in value] if isinstance(value, tuple) else None
