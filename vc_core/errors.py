"""The exception for invalid user input."""

from __future__ import annotations


class UserError(ValueError):
    """Invalid input. The message says what was given, what is allowed, and how to fix it."""

    __module__ = "videocrafter"
    """ComfyUI shows it before the message; without it, it would show the full path of the module's file."""
