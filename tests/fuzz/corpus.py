"""Inputs that once failed, as files: `corpus/<test>/<hash>.json`, or `.bin` where the input is bytes alone."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "corpus"


def name_of(test: str) -> str:
    """The folder's name of a test."""
    return re.sub(r"[^\w.-]+", "_", test).strip("_")


def cases(test: str) -> Iterator[Any]:
    """The inputs that are kept for a test."""
    for file in sorted((FOLDER / name_of(test)).glob("*.*")):
        data = file.read_bytes()
        yield data if file.suffix == ".bin" else _unpacked(json.loads(data))


def keep(test: str, case: Any) -> Path:
    """Writes an input: bytes, or numbers, texts, None, lists, tuples and dicts of these.

    Raises TypeError for anything else: a strategy draws plain data, of which the test makes its objects.
    """
    data = case if isinstance(case, bytes) else json.dumps(_packed(case), indent=1).encode()
    digest = hashlib.sha256(data).hexdigest()[:12]
    folder = FOLDER / name_of(test)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{digest}{'.bin' if isinstance(case, bytes) else '.json'}"
    file.write_bytes(data)
    return file


def _packed(case: Any) -> Any:
    if isinstance(case, bytes):
        return {"bytes": base64.b64encode(case).decode()}
    if isinstance(case, tuple):
        return {"tuple": [_packed(item) for item in case]}
    if isinstance(case, list):
        return [_packed(item) for item in case]
    if isinstance(case, dict):
        return {"dict": [[_packed(key), _packed(value)] for key, value in case.items()]}
    if case is None or isinstance(case, str | int | float):
        return case
    raise TypeError(f"{type(case).__name__} cannot be kept in the corpus; draw plain data instead")


def _unpacked(data: Any) -> Any:
    if isinstance(data, list):
        return [_unpacked(item) for item in data]
    if not isinstance(data, dict):
        return data
    ((kind, inside),) = data.items()
    if kind == "bytes":
        return base64.b64decode(inside)
    if kind == "tuple":
        return tuple(_unpacked(item) for item in inside)
    return {_unpacked(key): _unpacked(value) for key, value in inside}
