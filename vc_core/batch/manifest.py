"""What was made, as `manifest.jsonl` in the folder of results: one JSON object in each line.

The order of writing is what makes a batch survive being killed at any moment. A video is written under a temporary
name; its entry is appended to the manifest and flushed to disk; then the video gets its name, in one step. A video is
done if its entry and its file exist:

- killed before the entry: there is neither, and the temporary file is removed by the next run;
- killed while the entry is written: the line is incomplete, which counts as no entry;
- killed between entry and name: there is an entry without a file, which does not count;
- killed later: the video is done.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime, timezone
from pathlib import Path, PurePath
from typing import Any

from ..errors import UserError
from ..files import append_line, placed
from ..json_text import parse
from ..video import bytes_of
from ..video.metadata import to_json

NAME, PAGE, SHEET, LOCK = "manifest.jsonl", "index.html", "contact-sheet.jpg", ".batch.lock"
OWN_FILES = frozenset({NAME, PAGE, SHEET, LOCK})
DONE, FAILED = "done", "failed"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A line of the manifest.

    key: of the line's settings, see `lines.key_of`. line: its number when the entry was written. file: relative to the
    folder of results. bytes: of the file, or of all files in a folder of images. seconds: of sampling and writing,
    without loading the model. given: what the line says. settings: all settings of the run, as in the metadata of the
    video. error: why the video could not be made. finished: UTC.
    """

    key: str
    line: int
    status: str
    given: dict[str, Any]
    finished: str = field(default_factory=lambda: datetime.now(timezone.utc).isoformat())
    file: str = ""
    bytes: int = 0
    seconds: float = 0.0
    frames: int = 0
    width: int = 0
    height: int = 0
    fps: float = 0.0
    seed: int = 0
    error: str = ""
    settings: dict[str, Any] = field(default_factory=dict)


NAMES = frozenset(item.name for item in fields(Entry))
KINDS: dict[str, tuple[type, ...]] = {"str": (str,), "int": (int,), "float": (float, int), "dict[str, Any]": (dict,)}
"""What values of the types of an entry's fields may be."""


class Manifest:
    """The entries of a folder of results, the last of each key."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / NAME
        self.entries = {entry.key: entry for entry in _read(self.path)}

    def add(self, entry: Entry) -> None:
        """Appends an entry, on the disk when this returns."""
        append_line(self.path, to_json(asdict(entry)))
        self.entries[entry.key] = entry

    def add_failure(self, key: str, line: int, given: Mapping[str, Any], error: str) -> None:
        """Appends that the result of a line could not be made."""
        self.add(Entry(key=key, line=line, status=FAILED, given=dict(given), error=error))

    def has(self, key: str) -> bool:
        """Whether the video of these settings is done, and its file is as it was written."""
        entry = self.entries.get(key)
        if entry is None or entry.status != DONE:
            return False
        if not _is_inside(entry.file):
            return False
        path = self.folder / entry.file
        try:
            return path.exists() and bytes_of(path) == entry.bytes
        except (OSError, ValueError):  # a name that no file can have
            return False

    def file_of(self, key: str) -> str:
        """The file of a video that is done, or nothing."""
        return self.entries[key].file if self.has(key) else ""

    def files(self) -> list[str]:
        """The files of all videos that are done."""
        return [entry.file for key, entry in self.entries.items() if self.has(key)]

    def ordered(self, keys: Sequence[str]) -> list[Entry]:
        """The entries of these keys in their order, then the videos of earlier lines; without videos that are gone."""
        wanted = dict.fromkeys(keys)
        found = [self.entries[key] for key in {**wanted, **self.entries} if key in self.entries]
        return [each for each in found if self.has(each.key) or (each.status == FAILED and each.key in wanted)]

    def compact(self, keys: Sequence[str]) -> None:
        """Writes the manifest again, in one step, with the last entry of each key that counts, in this order."""
        kept = self.ordered(keys)
        if not kept and not self.path.exists():
            return
        with placed(self.path, overwrite=True) as place:
            place.part.write_text("".join(to_json(asdict(entry)) + "\n" for entry in kept), encoding="utf-8")
        self.entries = {entry.key: entry for entry in kept}


def _is_inside(name: str) -> bool:
    """Whether a name is that of a file in the folder of results, or in a folder in it."""
    parts = PurePath(name).parts
    return bool(parts) and not PurePath(name).is_absolute() and ".." not in parts


def _checked(entry: Entry) -> Entry:
    """Raises TypeError where a value is not of the type of its field."""
    for item in fields(entry):
        value = getattr(entry, item.name)
        if not isinstance(value, KINDS[str(item.type)]):
            raise TypeError(f"{item.name} is {str(value)[:60]!r}")
    return entry


def _read(path: Path) -> Iterator[Entry]:
    """The entries of a manifest; the incomplete last line of a killed process is left out."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except FileNotFoundError:
        return
    for number, line in enumerate(lines, 1):
        try:
            found = parse(line) if line.strip() else None
        except ValueError:
            continue
        if found is None:
            continue
        try:
            yield _checked(Entry(**{name: value for name, value in found.items() if name in NAMES}))
        except (AttributeError, TypeError) as error:
            raise UserError(
                f"Line {number} of {str(path)!r} is not an entry of a batch ({error}). Choose another folder for the "
                "results (--output)."
            ) from error
