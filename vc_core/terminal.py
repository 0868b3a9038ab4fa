"""Output to a terminal of any encoding, safe for text from untrusted files."""

from __future__ import annotations

import logging
import sys
import unicodedata


def say(text: str) -> None:
    """Prints text to stdout. Characters that its encoding lacks are escaped."""
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(printable(text).encode(encoding, "backslashreplace").decode(encoding) + "\n")
    sys.stdout.flush()


def printable(text: str) -> str:
    """The text with control characters escaped, except newlines."""
    return "".join(
        letter if letter == "\n" or unicodedata.category(letter) not in ("Cc", "Cf") else ascii(letter)[1:-1]
        for letter in text
    )


def one_line(text: str) -> str:
    """The text as `printable`, with spaces in the place of line breaks."""
    return printable(" ".join(text.split()))


def log_to_terminal(level: int) -> None:
    """Sends this process's log messages of at least that level to stderr."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Printable("%(levelname)s: %(message)s"))
    logging.basicConfig(level=level, handlers=[handler], force=True)


class _Printable(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))
