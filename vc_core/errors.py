"""The one exception that a user's input can cause."""

from __future__ import annotations


class UserError(ValueError):
    """Something given cannot be used. The message says what was given, what is allowed, and the cure."""

    __module__ = "videocrafter"
    """ComfyUI writes it before every message; the name it has for a pack's module is the whole path of the file."""
