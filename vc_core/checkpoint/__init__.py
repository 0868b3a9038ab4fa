"""FILE -> MODULES, and back: reading, keys, detection, building, saving."""

from .building import DTYPES, Checkpoint, Parts, build_empty, inspect_checkpoint, load, open_checkpoint
from .detection import AUTO, METADATA_KEY, TITLES, Detection, check_image_width, check_text_width, detect
from .keys import PART_TITLES, PREFIXES, Contents, Part, sort_tensors
from .reading import File, read
from .saving import convert, save_tensors

__all__ = [
    "AUTO",
    "DTYPES",
    "METADATA_KEY",
    "PART_TITLES",
    "PREFIXES",
    "TITLES",
    "Checkpoint",
    "Contents",
    "Detection",
    "File",
    "Part",
    "Parts",
    "build_empty",
    "check_image_width",
    "check_text_width",
    "convert",
    "detect",
    "inspect_checkpoint",
    "load",
    "open_checkpoint",
    "read",
    "save_tensors",
    "sort_tensors",
]
