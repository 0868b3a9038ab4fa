"""The bundled models, which are small: their files, their short name, and the words that they were trained on."""

from __future__ import annotations

import re
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "models"
TEXT = FOLDER / "videocrafter_small_t2v.safetensors"
IMAGE = FOLDER / "videocrafter_small_i2v.safetensors"
CONTINUING = FOLDER / "videocrafter_small_dynamicrafter.safetensors"
TURBO_LORA = FOLDER / "videocrafter_small_turbo_lora.safetensors"
CAMERA = FOLDER / "videocrafter_small_camera.safetensors"
CONTROLS = {"motionctrl": CAMERA}
"""The files with weights of controls, by the names of the controls."""

SHORT_NAME = "small"
"""Short for whichever of them a command needs."""
NAMES = "videocrafter_small_"
"""The beginning of the names in their specs, also after a LoRA."""

_WORDS = """
red green blue yellow orange purple violet cyan turquoise white black grey navy brown
circle disc ball square box triangle cross plus sign ring donut shape
moves moving slides sliding glides gliding travels travelling stands standing still move stays staying place
grows growing gets getting bigger becomes becoming larger shrinks shrinking smaller
left leftwards right rightwards up upwards upper top down downwards lower bottom diagonally slowly fast quickly
"""
WORDS = frozenset(_WORDS.split())
"""The words of `worlds.shapes.captions` that say what a clip shows."""


def model_for(*, picture: bool, continues: bool) -> Path:
    """The model for videos from text, from an image (`picture`), or from an image up to a last one or back to the first
    (`continues`)."""
    if continues:
        return CONTINUING
    return IMAGE if picture else TEXT


def resolved(path: Path, bundled: Path) -> Path:
    """`bundled` for the short name, unless there is a file of that name; every other path as it is."""
    return bundled if str(path) == SHORT_NAME and not path.exists() else path


def warning(model: str, prompt: str) -> str:
    """A warning about a prompt that has none of the words that the bundled model of this name (in its spec) was trained
    on; empty for other prompts and other models."""
    words = re.findall(r"\w+", prompt.lower())
    if not model.startswith(NAMES) or not words or not WORDS.isdisjoint(words):
        return ""
    return (
        f"{model} was trained on none of the words in {prompt!r}, so what the video shows is arbitrary. It knows "
        "colours, simple shapes and motions, as in 'a red square moves to the left on a black background'; see "
        "docs/small-models.md."
    )
