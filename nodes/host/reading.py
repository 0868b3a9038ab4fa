"""Model files as ComfyUI maps them where it reads weights from the disk when a layer runs (dynamic VRAM)."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from os import PathLike
from pathlib import Path

import comfy.utils

from ...vc_core.checkpoint.building import Checkpoint, open_checkpoint
from ...vc_core.checkpoint.detection import AUTO
from ...vc_core.checkpoint.reading import File, read

try:
    import comfy.memory_management as memory
except ImportError:  # before dynamic VRAM
    memory = None

HOST_ENDINGS = (".safetensors", ".sft")
"""The endings by which ComfyUI recognises a safetensors file."""


def open_file(path: Path, preset: str = AUTO) -> Checkpoint:
    """As `open_checkpoint`, with the tensors mapped by ComfyUI where it can read them from the disk to the GPU."""
    return open_checkpoint(path, preset=preset, reader=read_mapped)


def read_mapped(path: str | PathLike[str]) -> File:
    """As `read`. Under dynamic VRAM the tensors of a safetensors file are ComfyUI's own, which know their place in the
    file. Raises UserError as `read` does."""
    file = read(path)
    dynamic = memory is not None and memory.aimdo_enabled
    if not dynamic or file.path.suffix.lower() not in HOST_ENDINGS or not file.mapped or zipfile.is_zipfile(file.path):
        return file
    tensors = comfy.utils.load_torch_file(str(file.path))
    return replace(file, tensors={name: tensors[name] for name in file.tensors})
