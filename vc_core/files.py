"""Atomic writing of files and folders.

A file, or a folder of files, is written under a temporary name in the target folder and renamed in one step once it is
complete. If the work ends earlier (an error, an interruption, a full disk, a killed process), there is nothing under
the final name, and other files are unchanged. Temporary files of killed processes are removed when the next file is
written to the same folder.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from .errors import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

T = TypeVar("T")

PREFIX, SUFFIX = ".videocrafter-", ".part"
ABANDONED = 5 * 60
"""Seconds without a change after which an unlocked temporary file is considered abandoned."""
STALE = 24 * 60 * 60
"""The same on systems without file locks."""
WINDOWS = os.name == "nt"
BUSY = 3.0 if WINDOWS else 0.0
"""Seconds for which a file that is open elsewhere is waited for. Windows neither renames nor replaces one, and virus
scanners open new files for a moment."""
_DEVICES = frozenset({"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in "123456789¹²³")})


@dataclass
class Place:
    """`part` is the temporary path to write to; `final` the path it gets, which changes if the requested one is
    taken. `is_new` says that it has got it, and that no other file was replaced."""

    part: Path
    final: Path
    is_new: bool = False


def expanded(path: str | os.PathLike[str]) -> Path:
    """`path` with `~` replaced by the home folder; other names that start with `~` are unchanged."""
    try:
        return Path(path).expanduser()
    except (RuntimeError, ValueError):  # no user of that name, or a name that no user can have
        return Path(path)


def is_file(path: Path) -> bool:
    """Whether there is a file of that name; no for names that no file can have, too long ones for example."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def is_folder(path: Path) -> bool:
    """Whether there is a folder of that name; no for names that no folder can have."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def is_device(name: str) -> bool:
    """Whether a file or folder of this name is a device on Windows, whatever its ending."""
    return name.split(".")[0].rstrip().lower() in _DEVICES


def _check_windows(path: str, parts: Sequence[str]) -> None:
    """Raises UserError, on Windows, for a name below the drive that Windows accepts and that no file has afterwards."""
    for part in parts if WINDOWS else ():
        if is_device(part) or ":" in part:
            what = "names a device" if is_device(part) else "contains a colon"
            cure = f"Choose another one, for example {'_' + part.replace(':', '_')!r}."
            raise UserError(f"{path!r} is not a valid file name on Windows: {part!r} {what}. {cure}")


def check_target(path: str | os.PathLike[str], *, overwrite: bool = False, folder: bool = False) -> Path:
    """`path` as an absolute path, checked to be writable; nothing is created yet.

    folder: whether it is going to be a folder of files, which never replaces anything.

    Raises UserError if it exists or cannot be written.
    """
    try:
        file = expanded(path).absolute()
        with contextlib.suppress(FileNotFoundError):
            os.lstat(file)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{str(path)!r} is not a valid file name here ({error}). Choose another name or folder."
        ) from error
    _check_windows(str(path), file.parts[1:])
    inside = f"name a file in it, for example {str(file / 'video.mp4')!r}."
    if folder and os.path.lexists(file):
        cure = f"Choose a new name, or {inside}" if file.is_dir() else "Choose a new name."
        raise UserError(f"{str(path)!r} already exists, and a folder of images never replaces anything. {cure}")
    if file.is_dir() or not file.name:
        raise UserError(f"{str(path)!r} is a folder; {inside}")
    if file.exists() and not overwrite:
        raise UserError(
            f"{str(path)!r} already exists. Choose another name, or overwrite it (--overwrite on the command line, "
            "overwrite=True in Python)."
        )
    parent = existing_folder(file)
    if not os.access(parent, os.W_OK | os.X_OK):
        raise UserError(f"The folder {str(parent)!r} is not writable. Choose another folder.")
    return file


def existing_folder(file: Path) -> Path:
    """The nearest existing folder above a file."""
    return next((above for above in file.absolute().parents if above.is_dir()), file.parent)


@contextlib.contextmanager
def placed(path: str | Path, *, overwrite: bool = False, folder: bool = False) -> Iterator[Place]:
    """Yields a `Place` whose `part` is renamed to `path` if the block succeeds, and removed if it fails.

    Without `overwrite`, a name that was taken in the meantime is not replaced: `-2`, `-3`, ... is appended to the new
    one; the same where a file to be replaced is open in another program that prevents it. `part` already exists, as an
    empty file to be written in place, or as an empty folder with `folder`; folders are never overwritten. Missing
    parent folders are created, and removed again if the block fails.
    """
    final = check_target(path, overwrite=overwrite, folder=folder)
    with made(final.parent):
        _sweep(final.parent)
        place = Place(final.parent / f"{PREFIX}{secrets.token_hex(8)}{SUFFIX}", final)
        _create(place, folder=folder)
        try:
            with _held(place.part):
                yield place
                _sync(place.part)
                _commit(place, overwrite=overwrite and not folder)
        except BaseException:
            _remove(place.part)
            raise


def _create(place: Place, *, folder: bool) -> None:
    """Creates the part, empty. Raises UserError where the system refuses it."""
    try:
        if folder:
            place.part.mkdir()
        else:
            place.part.touch(exist_ok=False)
    except OSError as error:
        raise UserError(
            f"Nothing can be written to {str(place.final.parent)!r} ({error.strerror or error}). Check the space and "
            "the permissions there, or choose another folder."
        ) from error


@contextlib.contextmanager
def made(folder: Path) -> Iterator[None]:
    """Creates a folder and its parents; removes those that are new and empty if the block fails."""
    new = [above for above in (folder, *folder.parents) if not above.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"The folder {str(folder)!r} cannot be created ({error}). Choose another one.") from error
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):  # not empty, or gone
            for above in new:
                above.rmdir()
        raise


@contextlib.contextmanager
def _held(part: Path) -> Iterator[None]:
    """Locks the part until the block or the process ends, so that `_sweep` does not remove it."""
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
        is_new = not os.path.lexists(place.final)
        try:
            _waiting(lambda: place.part.replace(place.final))
        except PermissionError:
            if not place.final.is_file():
                raise
            log.warning("%s is open in another program and was not replaced.", place.final)
        else:
            place.is_new = is_new
            return
    wanted, number = place.final, 2
    while not _rename_new(place.part, place.final):
        place.final = wanted.with_name(f"{wanted.stem}-{number}{wanted.suffix}")
        number += 1
    place.is_new = True


def _waiting(work: Callable[[], T]) -> T:
    """What `work` returns. While a file that is open in another program prevents it, it is tried again, for `BUSY`
    seconds."""
    end = time.monotonic() + BUSY
    while True:
        try:
            return work()
        except PermissionError:
            if time.monotonic() >= end:
                raise
            time.sleep(BUSY / 30)


def _rename_new(part: Path, final: Path) -> bool:
    """Renames without replacing; returns False if `final` exists."""
    try:
        if part.is_dir() or WINDOWS:
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
        _waiting(lambda: part.rename(final))
    except OSError:
        if os.path.lexists(final):
            return False
        raise
    return True


def _sync(part: Path) -> None:
    """Flushes the contents to disk before the file is renamed."""
    for file in sorted(part.iterdir()) if part.is_dir() else [part]:
        with file.open("rb+") as opened:
            os.fsync(opened.fileno())


def _remove(part: Path) -> None:
    if part.is_dir():
        shutil.rmtree(part, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(path: Path, cure: str) -> Iterator[None]:
    """Holds the lock of a file, which is created if needed, until the block or the process ends.

    Raises UserError, which ends with `cure`, if another process holds it. Without file locks there is no protection.
    """
    with path.open("ab") as file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UserError(f"Another process works in the folder {str(path.parent)!r}. {cure}") from error
            except OSError:  # a file system without locks
                pass
        yield


def append_line(path: Path, text: str) -> None:
    """Appends a line to a file, which is created if needed, and flushes it to disk.

    An incomplete last line stays a line of its own.
    """
    with _waiting(lambda: path.open("ab+")) as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - 1))
        incomplete = file.read(1) not in (b"", b"\n")
        file.write(b"\n" * incomplete + text.encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def remove_abandoned(folder: Path) -> None:
    """Removes the temporary files of processes that ended, whatever their age."""
    _sweep(folder, age=0.0)


def _sweep(folder: Path, age: float = ABANDONED) -> None:
    """Removes abandoned temporary files that are older than `age` in seconds."""
    for part in folder.glob(f"{PREFIX}*{SUFFIX}"):
        with contextlib.suppress(OSError):
            newest = max(entry.stat().st_mtime for entry in [part, *(part.iterdir() if part.is_dir() else ())])
            if _abandoned(part, time.time() - newest, age):
                _remove(part)


def _abandoned(part: Path, age: float, least: float) -> bool:
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
    return age >= least
