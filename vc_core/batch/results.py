"""A folder of results: what is missing in it is made, and the page of all results is written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from ..errors import UserError
from ..files import locked, remove_abandoned
from ..terminal import say
from .given import counted
from .manifest import LOCK, PAGE, SHEET, Manifest
from .page import save_page
from .sheet import save_sheet

WORST = 5
"""How many of the results that could not be made are named."""


class Keyed(Protocol):
    """What makes one result. file: its name, or the beginning of it."""

    @property
    def key(self) -> str: ...

    @property
    def file(self) -> str: ...


Item = TypeVar("Item", bound=Keyed)

Make = Callable[[Manifest, Sequence[Item]], Sequence[str]]
"""Makes results and enters them into the manifest -> the labels of those that could not be made."""


def make_missing(folder: Path, items: Sequence[Item], make: Make[Item], title: str) -> None:
    """Makes the results that the folder lacks, and writes the page of all, also where an error ends the work. title: of
    the page. Raises UserError if another process is at work in the folder, or some could not be made."""
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / LOCK, "Wait until it is done, or choose another folder (--output)."):
        manifest, keys = Manifest(folder), [item.key for item in items]
        for place in {(folder / item.file).parent for item in items} | {folder}:
            if place.is_dir():
                remove_abandoned(place)
        manifest.compact(keys)
        left = [item for item in items if not manifest.has(item.key)]
        if len(left) < len(items):
            say(f"{len(items) - len(left)} of {len(items)} videos are done already.")
        try:
            failed = make(manifest, left)
        finally:
            _finish(manifest, keys, title)
    say(f"{folder / PAGE}: {counted(len(items) - len(failed), 'video')}")
    if failed:
        raise UserError(
            f"{len(failed)} of {len(left)} videos could not be made ({', '.join(failed[:WORST])}"
            f"{', ...' if len(failed) > WORST else ''}). The same command tries them again."
        )


def _finish(manifest: Manifest, keys: Sequence[str], title: str) -> None:
    """Writes the manifest in the order of the lines, the contact sheet and the page."""
    manifest.compact(keys)
    entries = manifest.ordered(keys)
    sheet = save_sheet(manifest.folder / SHEET, manifest.folder, entries)
    save_page(manifest.folder / PAGE, title, entries, sheet=sheet)
