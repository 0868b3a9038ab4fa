"""FILE -> TENSORS: read what users have, by its content and never by its ending, and never execute code in it.

Zip files of `torch.save` and safetensors are memory-mapped: a tensor costs memory when it is used, and only once.
"""

from __future__ import annotations

import pickle
import tarfile
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor

from ..errors import DAMAGED, UserError, reason
from ..files import expanded, is_file, is_folder
from ..json_text import parse
from ..network.memory import is_out_of_memory
from .keys import WRAPPERS
from .pickles import has_endless_tuple, has_pickle_head, unsafe_names

METADATA_KEY = "videocrafter.spec"
"""Where our own safetensors files keep the spec, as JSON: in the metadata, or, where another program wrote the file,
as a tensor of bytes of that name, in a file of any kind."""

MAX_HEADER = 100_000_000
"""Bytes; the limit of the safetensors library."""

PROGRAM = "constants.pkl"
"""A record that TorchScript programs have, and files of weights do not."""
REPEATED = 2**20
"""Bytes that a tensor may need beyond those in the file, for a number that is repeated along an axis."""

ENDINGS = (".ckpt", ".pt", ".pth", ".bin", ".safetensors")


@dataclass(frozen=True)
class File:
    """One file's tensors by the names they have in it. `left_over` are the names of its other entries.

    `mapped` says that the tensors are in the file's memory map, so that reading it again is free. `stamp` tells the
    file from what other programs make of it later, see `stamp_of`.
    """

    path: Path
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str] = field(default_factory=dict)
    left_over: tuple[str, ...] = ()
    mapped: bool = True
    stamp: tuple[int, int, int] | None = None

    @property
    def size(self) -> int:
        """Bytes on the disk."""
        return self.path.stat().st_size

    def check_not_cut(self) -> None:
        """Raises UserError where the file was cut since it was opened. To read a mapped tensor that is no longer in the
        file ends the process."""
        now = stamp_of(self.path)
        if self.stamp is not None and now is not None and now[0] == self.stamp[0] and now[1] < self.stamp[1]:
            raise changed(self.path)

    def again(self) -> File:
        """The file, mapped once more. Raises UserError where it was changed since it was opened."""
        opened = read(self.path, known=stamp_of(self.path) == self.stamp)
        if opened.stamp != self.stamp:
            raise changed(self.path)
        return opened


def stamp_of(path: Path) -> tuple[int, int, int] | None:
    """The number of a file in its file system, its bytes and the time of its last change; None where it is gone."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def changed(path: Path) -> UserError:
    """What to say of a file that another program writes to."""
    return UserError(
        f"{path} was changed by another program while it was read. Wait until its download or copy is complete, and "
        "load it again."
    )


def read(path: str | PathLike[str], *, known: bool = False) -> File:
    """Read a .ckpt, .pt, .pth or .safetensors file, memory-mapped where its format allows.

    Raises UserError when there is no such file, when it is truncated, empty, a web page or a pointer in the place of
    a download, when it would execute code, or when it holds no named tensors.
    """
    path = expanded(path)
    head = _head(path)
    stamp = stamp_of(path)
    if head[:4] == b"PK\x03\x04":
        return replace(_unwrapped(path, _read_zip(path, known=known), mapped=True), stamp=stamp)
    if _is_safetensors(head):
        return replace(_read_safetensors(path), stamp=stamp)
    return _unwrapped(path, _read_old_pickle(path), mapped=False)


def read_list(path: str | PathLike[str]) -> list[Tensor] | None:
    """The tensors of a file that is a list without names (T2V-Turbo's LoRA); None for every other file. Raises
    UserError as `read` does for what cannot be read at all."""
    path = expanded(path)
    head = _head(path)
    if _is_safetensors(head):
        return None
    data = _read_zip(path) if head[:4] == b"PK\x03\x04" else _read_old_pickle(path)
    if not _is_nameless(data):
        return None
    for number, tensor in enumerate(data):
        _check_plain(path, str(number), tensor)
    return list(data)


def _head(path: Path) -> bytes:
    """The first bytes of a file that can be a model."""
    _check_exists(path)
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}. Check its permissions.") from error
    _check_download(path, head)
    return head


def _is_nameless(data: Any) -> bool:
    return isinstance(data, list | tuple) and bool(data) and all(isinstance(item, Tensor) for item in data)


def _check_exists(path: Path) -> None:
    if is_folder(path):
        inside = _models_in(path)
        hint = f" It holds {', '.join(inside[:5])}: name one of them." if inside else ""
        raise UserError(f"{path} is a folder, not a model file.{hint}")
    if is_file(path):
        return
    near = _models_in(path.parent)
    hint = f" In that folder there are: {', '.join(near[:5])}." if near else ""
    raise UserError(f"There is no file {path}.{hint} Check the path, or download the model first (see the README).")


def _models_in(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.suffix in ENDINGS) if is_folder(folder) else []


def _check_download(path: Path, head: bytes) -> None:
    """Refuse the usual failed downloads, which are recognised by their first bytes."""
    start = head.lstrip().lower()
    if not head:
        raise UserError(f"{path} is empty (0 bytes). Download it again.")
    if start.startswith((b"<!doctype", b"<html")):
        raise UserError(f"{path} is a web page, not a model: its download was answered by a page. Download it again.")
    if head.startswith(b"version https://git-lfs"):
        raise UserError(f"{path} is a Git LFS pointer, not the model itself. Run `git lfs pull`, or download the file.")
    if head.startswith(b"GGUF"):
        raise UserError(f"{path} is a GGUF file, which is not supported. Use the .ckpt or a .safetensors file.")


def _is_safetensors(head: bytes) -> bool:
    return len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**32


def _no_memory(path: Path, error: BaseException) -> UserError:
    return UserError(
        f"There is not enough memory to read {path} ({reason(error)}). Close other programs. A small file is damaged: "
        "download it again."
    )


def _truncated(path: Path, detail: str) -> UserError:
    return UserError(
        f"{path} is damaged or not complete ({path.stat().st_size:,} bytes; {detail}). Compare its size with the "
        "page it comes from, and download it again."
    )


def _read_safetensors(path: Path) -> File:
    from safetensors import SafetensorError, safe_open

    _check_safetensors_size(path)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            metadata = dict(file.metadata() or {})
    except (*DAMAGED, SafetensorError) as error:
        if is_out_of_memory(error):
            raise _no_memory(path, error) from error
        raise _truncated(path, reason(error)) from error
    for name, tensor in tensors.items():
        _check_plain(path, name, tensor)
    return File(path, tensors, {**_spec_of(path, tensors), **metadata})


def _spec_of(path: Path, tensors: dict[str, Tensor]) -> dict[str, str]:
    """Our spec where it is one of the tensors; it is removed from them."""
    spec = tensors.pop(METADATA_KEY, None)
    return {} if spec is None else {METADATA_KEY: _text_of(path, spec)}


def _text_of(path: Path, tensor: Tensor) -> str:
    """The text whose bytes a tensor holds, in whatever type another program gave it."""
    values = tensor.flatten().double()
    if not bool(((values >= 0) & (values < 256) & (values == values.floor())).all()):
        raise UserError(
            f"The tensor {METADATA_KEY} in {path} is not text. The file was changed by another program: convert the "
            "original checkpoint again."
        )
    return bytes(values.to(torch.uint8).tolist()).decode("utf-8", "replace")


def _check_safetensors_size(path: Path) -> None:
    """Compare the length with that in the header: truncation is the commonest damage, so the message gives bytes."""
    actual = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if 8 + length > actual or length > MAX_HEADER:
            raise _truncated(path, f"its header alone should have {length:,}")
        try:
            header = parse(file.read(length))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
            promised = 8 + length + max(ends, default=0)
        except DAMAGED as error:
            raise _truncated(path, "its header cannot be read") from error
    if actual != promised:
        raise _truncated(path, f"its header says {promised:,}")


def _read_zip(path: Path, *, known: bool = False) -> Any:
    """An archive of torch 1.6 or later."""
    if not known:
        _check_records(path)
        _check_tuples(path, archive=True)
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise _executes_code(path, error) from error
    except DAMAGED as error:
        if is_out_of_memory(error):
            raise _no_memory(path, error) from error
        raise _truncated(path, reason(error)) from error


def _check_records(path: Path) -> None:
    """Compare the sizes of the archive's records with the file: `torch.save` compresses nothing, and what is compressed
    can neither be mapped nor be trusted to fit into memory."""
    try:
        if not zipfile.is_zipfile(path):
            raise _truncated(path, "the end of the archive is missing")
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
    except UserError:
        raise
    except (*DAMAGED, zipfile.BadZipFile) as error:
        raise _truncated(path, f"the list of its records cannot be read: {reason(error)}") from error
    if any(PurePosixPath(record.filename).name == PROGRAM for record in records):
        raise UserError(
            f"{path} is a TorchScript program, not a file of weights. Give the model's .ckpt or .safetensors file."
        )
    if any(record.compress_type != zipfile.ZIP_STORED for record in records):
        raise UserError(
            f"{path} is a compressed archive, which PyTorch does not write. Unpack it and give the .ckpt or "
            ".safetensors file inside, or ask for the original file."
        )
    if sum(record.file_size for record in records) > path.stat().st_size:
        raise _truncated(path, "its records are larger than the file")


def _check_tuples(path: Path, *, archive: bool) -> None:
    if has_endless_tuple(path, archive=archive):
        raise UserError(
            f"{path} was refused: it has a tuple with more items than any model, which would keep Python busy for "
            "years. Take the file from another source, as a .safetensors file if possible."
        )


def _read_old_pickle(path: Path) -> Any:
    """A file of torch before 1.6: one pickle and the numbers after it. It cannot be mapped, so it is read whole."""
    if tarfile.is_tarfile(path):
        raise UserError(f"{path} is a tar archive. Unpack it and give the .ckpt or .safetensors file inside.")
    _check_tuples(path, archive=False)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if has_pickle_head(path):
            raise _executes_code(path, error) from error
        raise _not_a_model(path) from error
    except DAMAGED as error:
        if is_out_of_memory(error):
            raise _no_memory(path, error) from error
        if has_pickle_head(path):
            raise _truncated(path, reason(error)) from error
        raise _not_a_model(path) from error


def _not_a_model(path: Path) -> UserError:
    return UserError(
        f"{path} is not a model file: its content is neither a PyTorch checkpoint nor safetensors. "
        f"Give a file ending in {', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}."
    )


def _executes_code(path: Path, error: Exception) -> UserError:
    names = unsafe_names(path)
    what = f"it asks to run {', '.join(names)}" if names else "its pickle asks for more than tensors"
    return UserError(
        f"{path} was refused: {what}, and a model file has no need to run code. Nothing in it was run. "
        "If you trust its source, ask there for a .safetensors file, or save only its state_dict."
    )


def _unwrapped(path: Path, data: Any, *, mapped: bool) -> File:
    """The named tensors inside a saved object: bare, or under `state_dict`, DeepSpeed's `module` and the like."""
    if _is_nameless(data):
        raise UserError(
            f"{path} is a list of {len(data)} tensors without names: a LoRA (T2V-Turbo's kind), not a model. "
            "Load the model first and the LoRA with a LoRA loader."
        )
    if not isinstance(data, Mapping):
        raise UserError(f"{path} holds a {type(data).__name__}, not named tensors. Give a model checkpoint.")
    entries, left_over = _entries(data)
    entries = _flattened(entries)
    tensors = {name: value for name, value in entries.items() if isinstance(value, Tensor)}
    left_over += [name for name in entries if name not in tensors]
    for name, tensor in tensors.items():
        _check_plain(path, name, tensor)
    if not tensors:
        names = ", ".join(left_over[:8]) or "none"
        raise UserError(f"{path} holds no tensors (its entries: {names}). Give a model file.")
    return File(path, tensors, _spec_of(path, tensors), tuple(left_over), mapped)


def _check_plain(path: Path, name: str, tensor: Tensor) -> None:
    """Raise UserError for a tensor that is not a plain array of numbers in the file: one that is sparse, quantized,
    complex or on no device, or that repeats a few numbers so often that they need more memory than the file has."""
    plain = (
        tensor.layout == torch.strided and not tensor.is_quantized and not tensor.is_nested and not tensor.is_complex()
    )
    if not plain or tensor.device.type != "cpu":
        raise UserError(
            f"{path}: the tensor {name} is not a plain array of numbers ({tensor.layout}, {tensor.dtype}, "
            f"{tensor.device.type}). Save the weights of the model as ordinary tensors."
        )
    if tensor.nbytes > max(tensor.untyped_storage().nbytes(), REPEATED):
        raise _truncated(path, f"the tensor {name} claims {tensor.nbytes:,} bytes, which the file does not hold")


def _entries(data: Mapping[Any, Any]) -> tuple[dict[str, Any], list[str]]:
    """The entries of the innermost dict that holds tensors, and the names of those around it."""
    left_over: list[str] = []
    inner, passed = _inner(data), {id(data)}
    while inner is not None and id(data[inner]) not in passed:
        left_over += [str(name) for name in data if name != inner]
        data = data[inner]
        passed.add(id(data))
        inner = _inner(data)
    return {str(name): value for name, value in data.items()}, left_over


def _flattened(entries: dict[str, Any]) -> dict[str, Any]:
    """Entries that are all state dicts, each of the module that its name gives (StyleCrafter's temporal layers), as one
    state dict of full names; others as they are."""
    if not all(
        isinstance(state, Mapping) and all(isinstance(v, Tensor) for v in state.values()) for state in entries.values()
    ):
        return entries
    return {f"{name}.{key}": tensor for name, state in entries.items() for key, tensor in state.items()}


def _inner(data: Mapping[Any, Any]) -> str | None:
    """The entry that holds the tensors, when they are one level down."""
    for name in WRAPPERS:
        inside = data.get(name)
        if isinstance(inside, Mapping) and inside:
            return name
    return None
