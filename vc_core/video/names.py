"""File names that stay inside a folder and are valid on every operating system."""

from __future__ import annotations

import re

from ..files import is_device

_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f-\x9f<>:"|?*\ud800-\udfff]')
_INVISIBLE = re.compile(r"[\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]")
MAX_BYTES = 120
"""Maximum length of a folder or file name without counter and suffix; file systems allow 255."""
MAX_FOLDERS = 8
FALLBACK = "video"


def safe_name(name: str) -> tuple[str, str]:
    """A safe relative name with `/` between folders, and a message about the change, empty if there was none.

    Roots, drive letters and `..` are removed; characters that are invalid on some system become `_`; names of Windows
    devices are prefixed with `_`; long names are truncated.
    """
    slashed = name.strip().replace("\\", "/")
    steps = re.sub(r"^[A-Za-z]:(?=/)", "", slashed).split("/")
    parts = [_safe_part(step) for step in steps if step.strip(" .")]
    if slashed.endswith("/") or not parts:
        parts.append(FALLBACK)
    safe = "/".join([*parts[:-1][:MAX_FOLDERS], parts[-1]])
    if safe in (name, slashed):
        return safe, ""
    shown = name if len(name) <= 60 else f"{name[:57]}..."
    reason = "files must stay inside the output folder and have names that are valid on every system"
    return safe, f"The name {shown!r} was changed to {safe!r}: {reason}."


def _safe_part(part: str) -> str:
    clean = _INVISIBLE.sub("", _FORBIDDEN.sub("_", part)).strip().rstrip(" .")
    clean = clean.encode()[:MAX_BYTES].decode(errors="ignore").rstrip(" .")
    if is_device(clean):
        clean = f"_{clean}"
    return clean or "_"
