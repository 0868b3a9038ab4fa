"""Specs as JSON text and back, as our own files carry them in their metadata."""

from __future__ import annotations

import json
import types
import typing
from dataclasses import asdict, fields, is_dataclass
from typing import Any, Literal, TypeVar, Union

from ..json_text import parse
from .model import ModelSpec

Spec = TypeVar("Spec")


def to_json(spec: ModelSpec) -> str:
    """The spec as JSON text; the kind of image tokens follows from the names of their fields."""
    return json.dumps(asdict(spec), sort_keys=True)


def from_json(text: str) -> ModelSpec:
    """The inverse of `to_json`. Raises ValueError when the text is not a spec, naming the field at fault."""
    try:
        data = parse(text)
    except ValueError as error:
        raise ValueError(f"The model's spec is not JSON: {error}") from error
    return _from_dict(ModelSpec, data, "spec")


def _from_dict(kind: type[Spec], data: Any, where: str) -> Spec:
    if not isinstance(data, dict):
        raise ValueError(f"{where} should be an object with the fields of {kind.__name__}, not {type(data).__name__}")
    known = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(set(data) - known)
    if unknown:
        raise ValueError(f"{where} has unknown fields {unknown}; {kind.__name__} has {sorted(known)}")
    hints = typing.get_type_hints(kind)
    return kind(**{name: _read(hints[name], value, f"{where}.{name}") for name, value in data.items()})


def _read(hint: Any, value: Any, where: str) -> Any:
    """`value` as the annotated type."""
    origin = typing.get_origin(hint)
    if origin in (Union, types.UnionType):
        return _read_union(typing.get_args(hint), value, where)
    if is_dataclass(hint):
        return _from_dict(hint, value, where)  # type: ignore[arg-type]
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ValueError(f"{where} should be a list of numbers, not {value!r}")
        return tuple(_read(typing.get_args(hint)[0], item, where) for item in value)
    if origin is Literal:
        if value not in typing.get_args(hint):
            raise ValueError(f"{where} should be one of {typing.get_args(hint)}, not {value!r}")
        return value
    return _read_plain(hint, value, where)


def _read_union(members: tuple[Any, ...], value: Any, where: str) -> Any:
    """`value` as the first member of the union that it fits."""
    if value is None and type(None) in members:
        return None
    errors = []
    for member in members:
        if member is not type(None):
            try:
                return _read(member, value, where)
            except ValueError as error:
                errors.append(str(error))
    raise ValueError("; ".join(errors))


def _read_plain(hint: Any, value: Any, where: str) -> Any:
    """`value` as a bool, int, float or str; an int is accepted for a float, a bool only for a bool."""
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise ValueError(f"{where} should be {hint.__name__}, not {value!r}")
    return value
