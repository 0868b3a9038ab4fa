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

from .errors import UserError

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


def expanded(path: str | os.PathLike[str]) -> Path:
    """`path` with `~` replaced by the home folder; a name that merely begins with `~` stays as it is."""
    try:
        return Path(path).expanduser()
    except RuntimeError:  # no user of that name
        return Path(path)


def check_target(path: str | os.PathLike[str], *, overwrite: bool = False, folder: bool = False) -> Path:
    """`path` as an absolute one that can be written; nothing is made yet. `folder`: it is to become a folder of files,
    which never replaces anything. Raises UserError when it exists or cannot be made."""
    try:
        file = expanded(path).absolute()
        with contextlib.suppress(FileNotFoundError):
            os.lstat(file)
    except (OSError, ValueError) as error:
        raise UserError(f"{str(path)!r} cannot be a file here ({error}). Choose another name or folder.") from error
    inside = f"name a file in it, for example {str(file / 'video.mp4')!r}."
    if folder and os.path.lexists(file):
        cure = f"Choose a new name, or {inside}" if file.is_dir() else "Choose a new name."
        raise UserError(f"{str(path)!r} exists already, and a folder of pictures replaces nothing. {cure}")
    if file.is_dir() or not file.name:
        raise UserError(f"{str(path)!r} is a folder; {inside}")
    if file.exists() and not overwrite:
        raise UserError(
            f"{str(path)!r} exists already and is kept. Choose another name, or overwrite it (--overwrite on the "
            "command line, overwrite=True in Python)."
        )
    there = existing_folder(file)
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"Nothing can be written to the folder {str(there)!r}. Choose another folder.")
    return file


def existing_folder(file: Path) -> Path:
    """The nearest folder above a file that exists already."""
    return next((above for above in file.absolute().parents if above.is_dir()), file.parent)


@contextlib.contextmanager
def placed(path: str | Path, *, overwrite: bool = False, folder: bool = False) -> Iterator[Place]:
    """Gives a place whose `part` becomes `path` when the block ends well, and is removed when it does not.

    Without `overwrite`, a name that was taken in the meantime is left alone and `-2`, `-3`, ... is added to ours. The
    part exists already, as an empty file that is to be written in place, or with `folder` as an empty folder;
    overwriting is for files only. Folders on the way to `path` are made, and removed again when the block fails.
    """
    final = check_target(path, overwrite=overwrite, folder=folder)
    with _made(final.parent):
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
                _commit(place, overwrite=overwrite and not folder)
        except BaseException:
            _remove(place.part)
            raise


@contextlib.contextmanager
def _made(folder: Path) -> Iterator[None]:
    """Makes a folder and those above it; the ones that were new and are empty go again when the block fails."""
    new = [above for above in (folder, *folder.parents) if not above.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"The folder {str(folder)!r} cannot be made ({error}). Choose another one.") from error
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):  # not empty, or gone
            for above in new:
                above.rmdir()
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
