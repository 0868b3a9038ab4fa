"""Command lines, drawn from the parser of the command line: its commands, options, kinds, choices and ranges.

A line is a list of words. `\\0name\\0` in a word stands for the path of an input file (`FILES`): a real argument cannot
hold a NUL.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from vc_core import cli
from vc_core.control import CONTROLS
from vc_core.long.table import options as long_options

FILES = ("text", "image", "picture", "video", "broken", "lines", "words", "tracks")
"""Files that a line can name: two models, media, a batch, texts."""

QUICK = ("--width", "16", "--height", "16", "--frames", "2", "--steps", "1")
BASES: dict[str, tuple[str, ...]] = {
    "text-to-video": ("a boat", "--model", "\0text\0", "--output", "made.gif", "--seed", "1", *QUICK),
    "image-to-video": (
        *("a boat", "--picture", "\0picture\0", "--model", "\0image\0", "--output", "made.gif", "--seed", "1"),
        *QUICK,
    ),
    "batch": ("\0lines\0", "--set", "model=\0text\0", "--output", "made"),
    "submit": ("\0lines\0", "--server", "http://127.0.0.1:9"),
    "inspect": ("\0text\0",),
    "convert": ("\0text\0", "--output", "made.safetensors"),
    "evaluate": ("\0video\0", "--output", "made"),
    "demo": ("--output", "made"),
}
"""A line of each command that works, or that ends with a proper error (submit, where no server is)."""

LAST: dict[str, tuple[str, ...]] = {"demo": ("--output", "\0picture\0"), "submit": ("--patience", "0")}
"""Words that end each line of a command: the demonstration is refused, as it takes seconds; nobody is waited for."""

LONG = ("compile",)
"""Options that are left out: compiling takes minutes, and starts a compiler."""

WEIGHTS = {"text-to-video": 6, "image-to-video": 4, "evaluate": 2}
"""How often a command is drawn; others once."""

BEYOND = (2**31, 2**63, 10**30)
"""More than anything allows. What is allowed, and takes hours, is not drawn."""
INTEGERS = (-(2**63), -8, -1, 0, 1, 2, 3, 5, 8, 16, 24, *BEYOND)
NUMBERS = ("0", "-0", "0.5", "1", "-1", "1.5", "7", "1e-400", "1e400", "1e30", "nan", "inf", "-inf", "-nan")
ODD = ("", " ", " 3", "+3", "0_1", "٣", "1e0", "0x10", "1,5", "True", "--", "-", "\U0001f600", "\udcff")
"""Texts that are almost numbers, or none."""
NAMES = (
    *("", ".", "..", "/", "~", "~nobody/x", "nothing.ckpt", "a b.safetensors", "CON", "nul.mp4", "\u00fc.png"),
    *("x" * 300, "a\nb", "\udcff.png", "http://x/y.mp4", "-", "small", "model", "\\\\server\\x", "C:\\x.mp4"),
)
"""Names of files that are missing, folders, or not allowed somewhere."""
ENDINGS = ("mp4", "gif", "webm", "webp", "apng", "mkv", "mov", "png", "exe", "safetensors", "", "GIF", "mp4 ", "\u00e9")
TARGETS = ("made", "a b", "\u00fc", "CON", "x" * 300, "new/folder/x", "a\nb", "\udcff", "", ".", "made.gif/x", "a:b")
"""Names of outputs, all in the working folder: a user may name any other place, and gets it."""
ADDRESSES = (
    *("http://[", "http://127.0.0.1:port", "http://127.0.0.1:99999", "http://127.0.0.1:9/\u00fc", "ftp://x", "http://"),
    *("http://127.0.0.1:9/a b", "https://127.0.0.1:9", "http://\udcff:9", "http://a..b:9", "http://127.0.0.1:9?\u00fc"),
)
PROMPTS = ("", "a boat", "(a:1.5", "\u0645\u0631\u0643\u0628", "\udcff", "\U0001f600" * 40, "\x1b[31m", "a\r\nb")
"""Texts as a shell can pass them."""


def texts() -> SearchStrategy[str]:
    """What a shell can pass: any character but NUL, and bytes that are no UTF-8 as single surrogates."""
    letters = st.characters(exclude_categories=("Cs",), exclude_characters="\0") | st.characters(
        min_codepoint=0xDC80, max_codepoint=0xDCFF, categories=("Cs",)
    )
    return st.sampled_from(PROMPTS) | st.text(letters, max_size=40)


def paths() -> SearchStrategy[str]:
    """Input files, of whatever kind."""
    return st.sampled_from(tuple(f"\0{name}\0" for name in FILES) + NAMES)


def targets() -> SearchStrategy[str]:
    """Names of outputs."""
    return st.builds("{}.{}".format, st.sampled_from(TARGETS), st.sampled_from(ENDINGS)) | st.sampled_from(TARGETS)


@functools.cache
def parsers() -> dict[str, argparse.ArgumentParser]:
    """The parser of each command."""
    (found,) = (each for each in cli._parser()._actions if isinstance(each, argparse._SubParsersAction))
    return dict(found.choices)


def ranges() -> dict[str, set[float]]:
    """The borders of the options that have a range, by the names of their values."""
    found: dict[str, set[float]] = {}
    for control in CONTROLS.values():
        for item in control.parameters():
            _add(found, f"{control.name}_{item.name}", item)
    for name, methods in long_options().items():
        for parameter in methods.values():
            _add(found, name, parameter)
    return found


def _add(found: dict[str, set[float]], name: str, item: Any) -> None:
    for border in (item.low, item.high):
        if border is not None:
            found.setdefault(name, set()).add(border)


RANGES = ranges()


def values(action: argparse.Action) -> SearchStrategy[str]:
    """What may follow an option, by its kind: mostly something of that kind."""
    if action.dest == "output":
        return targets()
    if action.metavar == "URL":
        return st.sampled_from(ADDRESSES)
    if action.choices is not None:
        return st.sampled_from((*map(str, action.choices), *ODD))
    borders = sorted(RANGES.get(action.dest, ()))
    if action.type is int:
        near = (int(border) + step for border in borders for step in (-1, 0, 1) if abs(border) <= 24)
        return st.sampled_from((*map(str, {*INTEGERS, *near}), "nan", "1.5", *ODD))
    if action.type is float:
        near_floats = (f"{border + step:g}" for border in borders for step in (-1e-6, 0, 1e-6, 1))
        return st.sampled_from((*NUMBERS, *near_floats, *ODD))
    if action.type is Path:
        return paths()
    named = st.sampled_from(("auto", "cpu", "cuda:0", "meta", "mps", "cpu:7", "0-3", "steps=2", "=", "Prompt.text=x"))
    return st.one_of(texts(), paths(), named, st.sampled_from((*map(str, INTEGERS), *NUMBERS, *ODD)))


@st.composite
def used(draw: DrawFn, action: argparse.Action) -> list[str]:
    """An option with its values, or a positional: in full or abbreviated, apart or joined by `=`."""
    least, most = {None: (1, 1), "?": (0, 1), "+": (1, 3), "*": (0, 3), 0: (0, 0)}.get(action.nargs, (1, 1))
    given = draw(st.lists(values(action), min_size=least, max_size=most))
    if not action.option_strings:
        return given
    flag = draw(st.sampled_from(tuple(action.option_strings)))
    if flag.startswith("--") and draw(st.integers(0, 9)) == 0:
        flag = flag[: draw(st.integers(3, max(3, len(flag) - 1)))]
    if len(given) == 1 and draw(st.booleans()):
        return [f"{flag}={given[0]}" if flag.startswith("--") else flag + given[0]]
    return [flag, *given]


def _parts(words: tuple[str, ...]) -> Iterator[list[str]]:
    """The options of a line with their values, and the positionals."""
    place = 0
    while place < len(words):
        size = 2 if words[place].startswith("--") else 1
        yield list(words[place : place + size])
        place += size


def groups(actions: list[argparse.Action]) -> list[tuple[argparse.Action | None, list[argparse.Action]]]:
    """The options that belong together: those of each control below its own, those of long videos, all others."""
    found = []
    rest = list(actions)
    for name in CONTROLS:
        mine = [each for each in rest if each.dest.startswith(f"{name}_")]
        switch = next((each for each in rest if each.dest == name), None)
        if switch is not None:
            found.append((switch, mine))
            rest = [each for each in rest if each is not switch and each not in mine]
    methods = next((each for each in rest if each.dest == "long"), None)
    if methods is not None:
        names = set(long_options())
        found.append((methods, [each for each in rest if each.dest in names]))
        rest = [each for each in rest if each is not methods and each.dest not in names]
    return [(None, rest)] * max(1, len(found)) + found


@st.composite
def more(draw: DrawFn, actions: list[argparse.Action]) -> list[list[str]]:
    """Up to three options of one group, mostly with the one that they need."""
    first, others = draw(st.sampled_from(groups(actions)))
    given = draw(st.lists(st.sampled_from(others), max_size=3)) if others else []
    needed = [first] if first is not None and draw(st.integers(0, 9)) else []
    return [draw(used(each)) for each in (*needed, *given)]


@st.composite
def lines(draw: DrawFn) -> list[str]:
    """A command, the words that make it work, with one of them sometimes left out, and some options, in any order."""
    found = parsers()
    command = draw(st.sampled_from([name for name in found for _ in range(WEIGHTS.get(name, 1))]))
    actions = [each for each in found[command]._actions if each.dest not in LONG]
    parts = list(_parts(BASES[command]))
    if draw(st.integers(0, 9)) == 0:
        parts.pop(draw(st.integers(0, len(parts) - 1)))
    added = [option for _ in range(draw(st.integers(0, 2))) for option in draw(more(actions))]
    if draw(st.booleans()):
        parts = draw(st.permutations([*parts, *added]))
    else:
        parts += added
    return [command, *(word for part in parts for word in part), *LAST.get(command, ())]
