"""What code may do while it reads a hostile input, and how it is caught when it does more.

Audit hooks of Python see files that are opened for writing, processes, connections and pickles; what a library written
in C does is seen in the test's folder, which is also the working folder and that of temporary files. A library that
hangs without coming back to Python is ended by `faulthandler_timeout` (pyproject.toml). Two guards need an operating
system: without `signal.setitimer` (Windows), time is compared after the example; without `/proc/self/clear_refs`
(Windows and macOS), memory is not measured.
"""

from __future__ import annotations

import contextlib
import gc
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

MIB = 1 << 20
CONSTANT = 128
"""MiB that any example may use beyond twice the size of its input: imports, buffers of decoders, small networks."""

WALL = 10
"""The bound in seconds is of processor time; this many times of it may pass on the clock, for a busy machine."""

EXECUTES = re.compile(
    r"os\.(system|exec|fork|forkpty|posix_spawn|spawn|startfile)|subprocess\.Popen|pickle\.find_class"
)
CONNECTS = ("socket.connect", "socket.bind")
MOVES = ("os.rename", "os.link", "os.symlink", "os.mkdir", "os.rmdir", "os.remove", "os.truncate", "os.chmod")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
PARTS = (".part", ".partial", ".tmp")
"""Endings of temporary files; one that remains is a file that was half-written."""


class Breach(AssertionError):  # noqa: N818 (not an error of the code's own)
    """The code did what it must not do."""


class Overtime(BaseException):
    """Raised where code takes too long; not an Exception, so that no handler in that code ends it."""


@dataclass
class Folder:
    """The only place on the disk that an example may write to, emptied after each."""

    root: Path
    written: int = 0
    """Bytes of the example's input."""

    @property
    def inputs(self) -> Path:
        return self.root / "inputs"

    @property
    def outputs(self) -> Path:
        """Where the code under test writes. It stays empty if the input is refused."""
        return self.root / "outputs"

    def file(self, name: str, data: bytes | str) -> Path:
        """A file among the inputs."""
        content = data if isinstance(data, bytes) else data.encode("utf-8", "surrogatepass")
        path = self.inputs / name
        path.write_bytes(content)
        self.written += len(content)
        return path

    def refresh(self) -> None:
        """Empties the folder."""
        self.written = 0
        for place in (self.inputs, self.outputs, self.root / "temporary"):
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(parents=True)

    def left_over(self, *, refused: bool) -> list[str]:
        """Files that should not be here after an example."""
        outputs = [path for path in self.outputs.rglob("*") if refused or path.name.endswith(PARTS)]
        inputs = [path for path in self.inputs.rglob("*") if path.name.endswith(PARTS)]
        return [str(path.relative_to(self.root)) for path in outputs + inputs]


@dataclass
class Watch:
    """What one example did that it must not do, as seen by the audit hook."""

    root: str
    network: bool
    thread: int = field(default_factory=threading.get_ident)
    seen: list[str] = field(default_factory=list)

    def report(self, event: str, arguments: tuple[Any, ...]) -> None:
        if EXECUTES.fullmatch(event) or (event in CONNECTS and not self.network):
            self._refuse(f"{event}{arguments[:2]!r}"[:200])
        elif event == "open" and _writes(arguments):
            self._check(event, arguments[0])
        elif event in MOVES:
            for path in arguments[: 2 if event in MOVES[:3] else 1]:
                self._check(event, path)

    def _check(self, event: str, path: Any) -> None:
        if isinstance(path, int) or path is None:
            return
        place = os.path.realpath(os.fsdecode(path))
        if not place.startswith(self.root) and place != os.devnull and "__pycache__" not in place:
            self._refuse(f"{event} of {place!r}, outside of the folder of the test")

    def _refuse(self, what: str) -> None:
        self.seen.append(what)
        raise Breach(what)


_watching: Watch | None = None


def _writes(arguments: tuple[Any, ...]) -> bool:
    _, mode, flags = arguments
    return bool(flags & WRITING) if isinstance(flags, int) else any(letter in (mode or "") for letter in "wax+")


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    watch = _watching
    if watch is not None and threading.get_ident() == watch.thread:
        watch.report(event, arguments)


@contextlib.contextmanager
def _watched(watch: Watch) -> Iterator[None]:
    global _watching
    _install()
    _watching = watch
    try:
        yield
    finally:
        _watching = None


def _install() -> None:
    """Adds the hook to the interpreter, once: hooks cannot be removed."""
    if not getattr(_install, "done", False):
        sys.addaudithook(_hook)
        _install.done = True  # type: ignore[attr-defined]


@contextlib.contextmanager
def _bounded(seconds: float) -> Iterator[None]:
    """Ends the block with Overtime after `seconds` of processor time, or `WALL` times as many on the clock."""
    started, clock = time.process_time(), time.monotonic()
    alarms = hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread()
    if not alarms:
        yield
    else:
        with (
            _alarm(signal.SIGPROF, signal.ITIMER_PROF, seconds),
            _alarm(signal.SIGALRM, signal.ITIMER_REAL, WALL * seconds),
        ):
            yield
    used, passed = time.process_time() - started, time.monotonic() - clock
    if used > seconds or passed > WALL * seconds:
        raise Overtime(f"it took {used:.1f} s of processor time, {passed:.1f} s in all")


@contextlib.contextmanager
def _alarm(number: int, timer: int, seconds: float) -> Iterator[None]:
    def ring(_: int, frame: FrameType | None) -> None:
        raise Overtime(f"it took over {seconds:g} s, and is at {_place(frame)}")

    before = signal.signal(number, ring)
    signal.setitimer(timer, seconds)
    try:
        yield
    finally:
        signal.setitimer(timer, 0)
        signal.signal(number, before)


def _place(frame: FrameType | None) -> str:
    return "an unknown place" if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno}"


def _peak(line: str = "VmHWM") -> int | None:
    """Bytes of the process: the most since `_reset_peak`, or what it has now with `VmRSS`."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        return None
    found = re.search(rf"{line}:\s+(\d+) kB", status)
    return int(found[1]) * 1024 if found else None


def _reset_peak() -> int | None:
    """Returns the bytes that the process has now; None where peaks cannot be measured."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return None
    return _peak("VmRSS")


@contextlib.contextmanager
def guarded(folder: Folder, *, seconds: float, memory: int = CONSTANT, network: bool = False) -> Iterator[None]:
    """Runs one example in `folder`, and raises Breach for what it must not do; a refusal (UserError) ends the block.

    seconds: of processor time.
    memory: MiB beyond twice the size of its input.
    network: whether it may connect to others.
    """
    folder.refresh()
    watch = Watch(os.path.realpath(folder.root), network)
    refused = False
    before = _reset_peak()
    try:
        with _placed(folder), _watched(watch), _bounded(seconds):
            yield
    except Overtime as error:
        raise Breach(f"a hang: {error}") from error
    except Exception as error:
        if watch.seen or not is_refusal(error):
            raise
        refused = True
        _check_message(str(error))
    finally:
        if watch.seen:
            raise Breach(f"it must not do this: {'; '.join(watch.seen)}")
    _check_peak(before, 2 * folder.written + memory * MIB)
    left = folder.left_over(refused=refused)
    if left:
        raise Breach(f"files are left over after {'a refusal' if refused else 'it was done'}: {', '.join(left[:5])}")


@contextlib.contextmanager
def _placed(folder: Folder) -> Iterator[None]:
    """Makes the folder the one for relative names and temporary files."""
    working, temporary = Path.cwd(), tempfile.tempdir
    os.chdir(folder.outputs)
    tempfile.tempdir = str(folder.root / "temporary")
    try:
        yield
    finally:
        os.chdir(working)
        tempfile.tempdir = temporary


def _check_peak(before: int | None, allowed: int) -> None:
    peak = _peak()
    if before is not None and peak is not None and peak - before > allowed:
        gc.collect()
        raise Breach(f"it used {(peak - before) / MIB:,.0f} MiB; {allowed / MIB:,.0f} MiB are allowed")


def is_refusal(error: BaseException) -> bool:
    """Whether an error is our UserError, in vc_core or in the package that ComfyUI makes of it."""
    return any(kind.__name__ == "UserError" and kind.__module__ == "videocrafter" for kind in type(error).__mro__)


def _check_message(text: str) -> None:
    if not text.strip() or len(text.splitlines()) != 1:
        raise Breach(f"the message should be one line: {text!r}")
