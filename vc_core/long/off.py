"""All frames as one clip, without any method."""

from __future__ import annotations

from dataclasses import dataclass

from .method import OneClip


@dataclass(frozen=True, kw_only=True)
class Off(OneClip):
    """The plain clip."""

    name = "off"
    summary = "all frames as one clip"
    use = "clips of about the length that the model was trained on"
    memory = "all frames"
    time = "1"
