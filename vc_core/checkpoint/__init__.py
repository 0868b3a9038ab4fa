"""FILE -> MODULES, and back: reading, keys, detection, building, saving."""

from .building import DTYPES, Checkpoint, Parts, build_empty, inspect_checkpoint, load, open_checkpoint
from .detection import AUTO, Detection, detect
from .keys import Contents, sort_tensors
from .parts import PARTS, Part
from .reading import METADATA_KEY, File, read
from .saving import convert, save_tensors

__all__ = [
    "AUTO",
    "DTYPES",
    "METADATA_KEY",
    "PARTS",
    "Checkpoint",
    "Contents",
    "Detection",
    "File",
    "Part",
    "Parts",
    "build_empty",
    "convert",
    "detect",
    "inspect_checkpoint",
    "load",
    "open_checkpoint",
    "read",
    "save_tensors",
    "sort_tensors",
]
