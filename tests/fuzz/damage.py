"""Damage of files, drawn as plain data and applied to a good file; and values of JSON that nobody expects."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

Change = tuple[Any, ...]
BORDERS = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1)

_places = st.one_of(st.integers(0, 96), st.integers(0, 2**22), st.integers(-96, -1))

CHANGES: SearchStrategy[list[Change]] = st.lists(
    st.one_of(
        st.tuples(st.just("flip"), _places, st.integers(1, 255)),
        st.tuples(st.just("number"), _places, st.sampled_from((1, 2, 4, 8)), st.sampled_from(BORDERS), st.booleans()),
        st.tuples(st.just("cut"), _places),
        st.tuples(st.just("drop"), _places, st.integers(1, 64)),
        st.tuples(st.just("insert"), _places, st.binary(min_size=1, max_size=16)),
        st.tuples(st.just("repeat"), _places, st.integers(1, 64)),
    ),
    min_size=1,
    max_size=5,
)


def damaged(data: bytes, changes: list[Change]) -> bytes:
    """The file after the changes, each at a place that is counted around its length."""
    for kind, place, *more in changes:
        at = place % max(1, len(data))
        data = data[:at] + _changed(kind, data[at:], more)
    return data


def _changed(kind: str, rest: bytes, more: list[Any]) -> bytes:
    if kind == "flip":
        return bytes([rest[0] ^ more[0]]) + rest[1:] if rest else rest
    if kind == "number":
        width, value, little = more
        return (value % 256**width).to_bytes(width, "little" if little else "big") + rest[width:]
    if kind == "cut":
        return b""
    if kind == "insert":
        return more[0] + rest
    return rest[more[0] :] if kind == "drop" else rest[: more[0]] + rest


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 70),
    st.sampled_from([*BORDERS, -1, -(2**63), 10**30, 10**400]),
    st.floats(),
    st.text(max_size=12),
    st.sampled_from(["", "nan", "inf", "1e999", "../../x", "a\nb", "\x1b[31m", "\x00", "\ud800", "x" * 3000]),
)
VALUES: SearchStrategy[Any] = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.text(max_size=6), inner, max_size=4),
    ),
    max_leaves=12,
)

DEEP = st.tuples(
    st.sampled_from([("[", "]"), ("[", ""), ('{"a":', ""), ("[[", "1]]")]), st.sampled_from([60, 700, 90_000])
).map(lambda case: case[0][0] * case[1] + case[0][1] * case[1])


def json_text(values: SearchStrategy[Any] = VALUES) -> SearchStrategy[str]:
    """JSON, as it should be, damaged, or so deep that a parser gives up."""
    good = values.map(json.dumps)
    return st.one_of(good, good, st.tuples(good, CHANGES).map(_damaged_text), DEEP)


def _damaged_text(case: tuple[str, list[Change]]) -> str:
    return damaged(case[0].encode("utf-8", "surrogatepass"), case[1]).decode("utf-8", "replace")


@st.composite
def replaced(draw: st.DrawFn, good: Any, values: SearchStrategy[Any] = VALUES) -> Any:
    """A good value of JSON in which a few things, at any depth, are replaced, removed or added."""
    value = json.loads(json.dumps(good))
    for _ in range(draw(st.integers(1, 3))):
        value = _replace(draw, value, values)
    return value


def _replace(draw: st.DrawFn, value: Any, values: SearchStrategy[Any]) -> Any:
    keys = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    if not keys or draw(st.integers(0, 5)) == 0:
        return draw(values)
    key = draw(st.sampled_from(keys))
    how = draw(st.integers(0, 9))
    if how == 0:
        del value[key]
    elif how == 1 and isinstance(value, dict):
        value[draw(st.text(max_size=6))] = draw(values)
    elif how == 1:
        value.append(draw(values))
    else:
        value[key] = _replace(draw, value[key], values)
    return value
