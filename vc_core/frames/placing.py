"""Files that appear complete or not at all.

A file, or a folder of files, is written under a temporary name beside its final one and gets the final name in one
step when it is complete. Whatever ends the work before that (an error, an interruption, a full disk, the death of the
process) leaves nothing under the final name and every other file as it was. What a dead process left under a temporary
name goes when the next file is written into the same folder.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

PREFIX, SUFFIX = ".videocrafter-", ".part"
ABANDONED = 5 * 60
"""Seconds without a change after which a part that nobody holds is taken for the leftover of a process that died."""
STALE = 24 * 60 * 60
"""The same where the system cannot tell whether somebody holds it."""


@dataclass
class Place:
    """`part` is where to write; `final` the name that it gets, which may have moved on when another took it."""

    part: Path
    final: Path


def check_target(path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """`path` as an absolute one that can be written. Raises UserError when it is a folder, exists or cannot be made."""
    try:
        file = Path(path).expanduser().absolute()
        file.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            os.lstat(file)
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"{str(path)!r} cannot be a file here ({error}). Choose another name or folder.") from error
    if file.is_dir() or not file.name:
        raise UserError(f"{str(path)!r} is a folder; name a file in it, for example {str(file / 'video.mp4')!r}.")
    if file.exists() and not overwrite:
        raise UserError(
            f"{str(path)!r} exists already and is kept. Choose another name, or allow it to be overwritten."
        )
    if not os.access(file.parent, os.W_OK | os.X_OK):
        raise UserError(f"Nothing can be written to the folder {str(file.parent)!r}. Choose another folder.")
    return file


@contextlib.contextmanager
def placed(path: str | Path, *, overwrite: bool = False, folder: bool = False) -> Iterator[Place]:
    """Gives a place whose `part` becomes `path` when the block ends well, and is removed when it does not.

    Without `overwrite`, a name that was taken in the meantime is left alone and `-2`, `-3`, ... is added to ours. The
    part exists already, as an empty file that is to be written in place, or with `folder` as an empty folder;
    overwriting is for files only.
    """
    final = check_target(path, overwrite=overwrite)
    _sweep(final.parent)
    place = Place(final.parent / f"{PREFIX}{secrets.token_hex(8)}{SUFFIX}", final)
    if folder:
        place.part.mkdir()
    else:
        place.part.touch(exist_ok=False)
    try:
        with _held(place.part):
            yield place
            _sync(place.part)
            _commit(place, overwrite=overwrite)
    except BaseException:
        _remove(place.part)
        raise


@contextlib.contextmanager
def _held(part: Path) -> Iterator[None]:
    """Locks the part until the block or the process ends, however it ends, so that `_sweep` leaves it alone."""
    if fcntl is None:
        yield
        return
    opened = os.open(part, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(opened, fcntl.LOCK_EX)
        yield
    finally:
        os.close(opened)


def _commit(place: Place, *, overwrite: bool) -> None:
    if overwrite:
        place.part.replace(place.final)
        return
    wanted, number = place.final, 2
    while not _rename_new(place.part, place.final):
        place.final = wanted.with_name(f"{wanted.stem}-{number}{wanted.suffix}")
        number += 1


def _rename_new(part: Path, final: Path) -> bool:
    """Renames without ever replacing; false when `final` exists."""
    try:
        if part.is_dir() or os.name == "nt":
            return _rename_checked(part, final)
        os.link(part, final)
    except FileExistsError:
        return False
    except OSError:  # a file system without hard links
        return _rename_checked(part, final)
    part.unlink()
    return True


def _rename_checked(part: Path, final: Path) -> bool:
    if os.path.lexists(final):
        return False
    try:
        part.rename(final)
    except OSError:
        if os.path.lexists(final):
            return False
        raise
    return True


def _sync(part: Path) -> None:
    """The contents reach the disk before the name does."""
    for file in sorted(part.iterdir()) if part.is_dir() else [part]:
        with file.open("rb+") as opened:
            os.fsync(opened.fileno())


def _remove(part: Path) -> None:
    if part.is_dir():
        shutil.rmtree(part, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def _sweep(folder: Path) -> None:
    """Removes what processes that died left behind."""
    for part in folder.glob(f"{PREFIX}*{SUFFIX}"):
        with contextlib.suppress(OSError):
            newest = max(entry.stat().st_mtime for entry in [part, *(part.iterdir() if part.is_dir() else ())])
            if _abandoned(part, time.time() - newest):
                _remove(part)


def _abandoned(part: Path, age: float) -> bool:
    if fcntl is None:
        return age > STALE
    opened = os.open(part, os.O_RDONLY)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return age > STALE
    finally:
        os.close(opened)
    return age > ABANDONED
