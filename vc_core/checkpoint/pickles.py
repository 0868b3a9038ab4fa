"""What a pickle asks for, found without loading it: functions to run, and tuples that are too large to be compared."""

from __future__ import annotations

import io
import pickle
import pickletools
import zipfile
from pathlib import Path, PurePosixPath
from typing import IO, Any

import torch

from ..errors import DAMAGED

PROGRAM = "data.pkl"
"""The record of an archive that holds the pickle."""
OLD_PICKLES = 5
"""How many pickles an old file begins with: magic number, protocol, system, weights, keys of the storages."""
MOST_ITEMS = 10**7
"""Items of a tuple with all that is in it. A tuple that holds another one twice, over and over, has more with few
bytes, and Python needs years to hash it. A checkpoint has less than a million."""


def has_pickle_head(path: Path) -> bool:
    """Whether a file begins as a pickle of the protocols 2 to 5 does."""
    with path.open("rb") as file:
        head = file.read(2)
    return head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")


def unsafe_names(path: Path) -> list[str]:
    """The first functions and classes that a refused file asks for."""
    find = getattr(torch.serialization, "get_unsafe_globals_in_checkpoint", None)
    if find is None:
        return []
    try:
        return [str(name) for name in find(path)][:5]
    except (*DAMAGED, pickle.UnpicklingError):
        return []


def has_endless_tuple(path: Path, *, archive: bool) -> bool:
    """Whether a file of `torch.save`, an archive or an old pickle, builds a tuple of more than `MOST_ITEMS` before it
    ends, or before it is damaged."""
    try:
        if archive:
            with zipfile.ZipFile(path) as records:
                programs = [name for name in records.namelist() if PurePosixPath(name).name == PROGRAM]
                return any(_Sizes().exceeded(io.BytesIO(records.read(name))) for name in programs)
        with path.open("rb") as file:
            return any(_Sizes().exceeded(file) for _ in range(OLD_PICKLES))
    except (*DAMAGED, zipfile.BadZipFile):
        return False


PUT, GET = ("PUT", "BINPUT", "LONG_BINPUT"), ("GET", "BINGET", "LONG_BINGET")
TUPLES = ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3")


class _Sizes:
    """The stack and memo of a pickle, with the number of items in the place of each object; None is a mark."""

    def __init__(self) -> None:
        self.stack: list[int | None] = []
        self.memo: dict[Any, int] = {}

    def exceeded(self, file: IO[bytes]) -> bool:
        """Whether the next pickle of the file builds a tuple of more than `MOST_ITEMS`."""
        for code, argument, _ in pickletools.genops(file):
            if code.name == "MARK":
                self.stack.append(None)
            elif code.name == "MEMOIZE":
                self.memo[len(self.memo)] = self.stack[-1] or 0
            elif code.name in PUT:
                self.memo[argument] = self.stack[-1] or 0
            elif code.name in GET:
                self.stack.append(self.memo[argument])
            elif self._built(code):
                return True
        return False

    def _built(self, code: pickletools.OpcodeInfo) -> bool:
        """Replaces what an operation takes by what it makes. Returns whether that is a tuple of too many items."""
        items = self._popped(code)
        self.stack += [min(items, MOST_ITEMS + 1)] * len(code.stack_after)
        return items > MOST_ITEMS and code.name in TUPLES

    def _popped(self, code: pickletools.OpcodeInfo) -> int:
        """Takes what an operation takes; returns the number of items in it, and 1 for itself."""
        items, before = 1, list(code.stack_before)
        if pickletools.markobject in before:
            while (top := self.stack.pop()) is not None:
                items += top
            before = before[: before.index(pickletools.markobject)]
        for _ in before:
            items += self.stack.pop() or 0
        return items
