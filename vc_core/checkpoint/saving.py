"""MODEL -> FILES: a checkpoint as safetensors, whole or split into its parts, in fp32, fp16 or bf16.

Tensors are written one by one, so that the memory needed is that of the largest. A file appears under its name when it
is complete, or not at all, and our spec goes into its metadata: nothing has to be guessed when it is loaded again.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from ..errors import UserError
from ..files import Place, check_target, existing_folder, expanded, made, placed
from ..specs import ModelSpec, to_json
from .building import Checkpoint, open_checkpoint, refuse, torch_dtype
from .detection import AUTO
from .finite import check_finite
from .parts import PARTS, Part
from .parts.part import CHANGED
from .reading import METADATA_KEY

SAFETENSORS_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}

OnBytes = Callable[[int, int], None]


@dataclass(frozen=True)
class _Entry:
    """One tensor to write. `part` None is a buffer of the noise schedule, which keeps its type."""

    name: str
    part: str | None
    ours: str
    tensor: Tensor
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        return self.tensor.numel() * self.dtype.itemsize


def convert(
    source: str | PathLike[str] | Sequence[str | PathLike[str]],
    target: str | PathLike[str],
    *,
    split: bool = False,
    dtype: str | torch.dtype | None = None,
    preset: str | ModelSpec = AUTO,
    overwrite: bool = False,
    on_bytes: OnBytes | None = None,
) -> list[Path]:
    """Write a model as safetensors; returns the files made.

    target: a name ending in .safetensors, to which `split` adds _unet, _vae, _clip and _image; or a folder, for the
        source's own name.
    dtype: "fp32", "fp16", "bf16", or None to keep the file's. The noise schedule keeps its own always.
    on_bytes: called with (bytes written, bytes in all) after each tensor.

    Raises UserError when the source cannot be loaded, when a target exists and `overwrite` is false, when the disk is
    full, and when a weight is or becomes infinite. Whatever happens, no partial file is left.
    """
    checkpoint = open_checkpoint(source, preset=preset)
    kind = torch_dtype(dtype)
    for part in checkpoint.parts:
        refuse(checkpoint.difference(part), part)
    files = _planned(checkpoint, expanded(target), split, kind)
    _check_targets(checkpoint, files, overwrite)
    metadata = {"format": "pt", METADATA_KEY: to_json(checkpoint.spec)}
    total = sum(entry.nbytes for entries in files.values() for entry in entries)
    written = 0
    with _all_or_none(list(files), overwrite) as places:
        for place, entries in zip(places, files.values(), strict=True):
            for size in _write(place.part, entries, metadata, checkpoint):
                written += size
                if on_bytes is not None:
                    on_bytes(written, total)
    return [place.final for place in places]


def save_tensors(
    path: str | PathLike[str],
    tensors: dict[str, Tensor],
    metadata: dict[str, str] | None = None,
    *,
    overwrite: bool = False,
) -> Path:
    """Write tensors as one safetensors file, whole or not at all. Raises UserError as `convert` does."""
    entries = [_Entry(name, None, name, tensor, tensor.dtype) for name, tensor in tensors.items()]
    target = check_target(Path(path), overwrite=overwrite)
    _check_space(target, sum(entry.nbytes for entry in entries))
    with _all_or_none([target], overwrite) as (place,), place.part.open("wb") as file:
        _write_header(file, entries, {"format": "pt", **(metadata or {})})
        for entry in entries:
            _write_tensor(file, entry.tensor)
    return place.final


def _planned(checkpoint: Checkpoint, target: Path, split: bool, dtype: torch.dtype | None) -> dict[Path, list[_Entry]]:
    """The files to make and what goes into each."""
    if target.is_dir() or not target.suffix:
        target = target / f"{checkpoint.files[0].path.stem}.safetensors"
    if target.suffix != ".safetensors":
        raise UserError(f"The target is {target}; its name should end in .safetensors, or be a folder.")
    if not split:
        parts = [entry for part in checkpoint.parts for entry in _entries(checkpoint, PARTS[part], dtype)]
        return {target: _schedule_entries(checkpoint) + parts}
    files: dict[Path, list[_Entry]] = {}
    for name in checkpoint.parts:
        part = PARTS[name]
        path = target.with_name(f"{target.stem}_{part.file}.safetensors")
        entries = files.setdefault(path, _schedule_entries(checkpoint) if name == "unet" else [])
        entries += _entries(checkpoint, part, dtype, bare=part.cut is not None)
    return files


def _entries(checkpoint: Checkpoint, part: Part, dtype: torch.dtype | None, *, bare: bool = False) -> list[_Entry]:
    """The tensors of a part, by their published names or, `bare`, by those that other programs expect."""
    return [
        _Entry(
            name.removeprefix(part.cut or "") if bare and not name.startswith(CHANGED) else part.in_file(name),
            part.name,
            name,
            tensor,
            dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype,
        )
        for name, tensor in checkpoint.detection.contents.parts[part.name].items()
    ]


def _schedule_entries(checkpoint: Checkpoint) -> list[_Entry]:
    schedule = checkpoint.detection.contents.schedule
    return [_Entry(name, None, name, tensor, tensor.dtype) for name, tensor in schedule.items()]


def _check_targets(checkpoint: Checkpoint, files: dict[Path, list[_Entry]], overwrite: bool) -> None:
    sources = [file.path for file in checkpoint.files]
    same = [path for path in files if path.exists() and any(path.samefile(source) for source in sources)]
    if same:
        raise UserError(f"{same[0]} is the file that is read. Give the target another name or folder.")
    for path in files:
        check_target(path, overwrite=overwrite)
    _check_space(next(iter(files)), sum(entry.nbytes for entries in files.values() for entry in entries))


def _check_space(target: Path, needed: int) -> None:
    folder = existing_folder(target)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"There is no space for {needed / 1e9:.2f} GB in {folder.resolve()} ({free / 1e9:.2f} GB are free). "
            "Free some, choose another folder, or a smaller type (--dtype fp16)."
        )


@contextmanager
def _all_or_none(targets: Sequence[Path], overwrite: bool) -> Iterator[list[Place]]:
    """A place beside each target; together they get their names at the end, or none does, except for those that replace
    a file. Raises UserError for what the system refuses."""
    places: list[Place] = []
    try:
        with made(targets[0].parent), _undone(places), ExitStack() as stack:
            places += [stack.enter_context(placed(target, overwrite=overwrite)) for target in targets]
            yield places
    except OSError as error:
        names = ", ".join(str(target) for target in targets)
        raise UserError(
            f"Writing {names} failed: {error.strerror or error}. Nothing was left behind. Check the space and the "
            "permissions there, or choose another folder."
        ) from error


@contextmanager
def _undone(places: Sequence[Place]) -> Iterator[None]:
    """Removes the new files that have their names already if the block fails."""
    try:
        yield
    except BaseException:
        for place in places:
            if place.is_new:
                place.final.unlink(missing_ok=True)
        raise


def _write(place: Path, entries: Sequence[_Entry], metadata: dict[str, str], checkpoint: Checkpoint) -> Iterator[int]:
    """Write one file; yields the size of each tensor. Entries of one part follow each other, in its order."""
    with place.open("wb") as file:
        _write_header(file, entries, metadata)
        stream: Iterator[tuple[str, Tensor]] = iter(())
        part: str | None = None
        for entry in entries:
            tensor = entry.tensor
            if entry.part is not None:
                if entry.part != part:
                    part = entry.part
                    stream = checkpoint.stream(part, passing=True)
                tensor = next(stream)[1].to(entry.dtype)
                check_finite(tensor, f"{PARTS[entry.part].title}: {entry.ours}", entry.dtype)
            _write_tensor(file, tensor)
            yield entry.nbytes


def _write_header(file: BinaryIO, entries: Sequence[_Entry], metadata: dict[str, str]) -> None:
    header: dict[str, object] = {"__metadata__": metadata}
    start = 0
    for entry in entries:
        if entry.dtype not in SAFETENSORS_NAMES:
            raise UserError(f"The tensor {entry.name} is of type {entry.dtype}, which safetensors cannot hold.")
        header[entry.name] = {
            "dtype": SAFETENSORS_NAMES[entry.dtype],
            "shape": list(entry.tensor.shape),
            "data_offsets": [start, start + entry.nbytes],
        }
        start += entry.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little"))
    file.write(text)


def _write_tensor(file: BinaryIO, tensor: Tensor) -> None:
    if tensor.numel():
        file.write(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
