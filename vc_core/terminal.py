"""Text for a terminal, of any encoding, from files that may hold anything."""

from __future__ import annotations

import logging
import sys
import unicodedata


def say(text: str) -> None:
    """A line to the user, or several; what the output's encoding lacks is escaped."""
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(printable(text).encode(encoding, "backslashreplace").decode(encoding) + "\n")
    sys.stdout.flush()


def printable(text: str) -> str:
    """The text with control characters, which a terminal would obey, escaped; lines are kept."""
    return "".join(
        letter if letter == "\n" or unicodedata.category(letter) not in ("Cc", "Cf") else ascii(letter)[1:-1]
        for letter in text
    )


def log_to_terminal(level: int) -> None:
    """Lets the log of this process go to stderr, from that level on."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Printable("%(levelname)s: %(message)s"))
    logging.basicConfig(level=level, handlers=[handler], force=True)


class _Printable(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))
