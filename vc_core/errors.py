"""The exception for invalid user input, and those that libraries raise for it."""

from __future__ import annotations

import re
import struct
import zlib

DAMAGED = (
    OSError,
    ValueError,
    SyntaxError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    EOFError,
    AssertionError,
    MemoryError,
    RuntimeError,
    struct.error,
    zlib.error,
)
"""What libraries raise while they decode a damaged file, from a wrong length to a size that no memory has."""

LONGEST = 4000
"""Characters of a message. Longer ones quote a file that has long texts where short ones are expected."""
ENDING = 1000
"""Characters at the end that a message keeps, for the cure."""
CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class UserError(ValueError):
    """Invalid input. The message says what was given, what is allowed, and how to fix it.

    It is one line, whatever the names and texts that it quotes from a file: line breaks become spaces, and control
    characters, which could change what a terminal shows, are escaped.
    """

    __module__ = "videocrafter"
    """ComfyUI shows it before the message; without it, it would show the full path of the module's file."""

    def __init__(self, message: str) -> None:
        if len(message) > LONGEST:
            message = f"{message[: LONGEST - ENDING]} ... {message[-ENDING:]}"
        super().__init__(CONTROLS.sub(_shown, message))


def reason(error: BaseException, otherwise: str = "") -> str:
    """What an error of a library says, in a line. Where it says nothing, `otherwise`, or else its kind."""
    return next(iter(str(error).splitlines()), "").strip() or otherwise or type(error).__name__


def _shown(found: re.Match[str]) -> str:
    return " " if found[0].isspace() else ascii(found[0])[1:-1]
