"""Model files: damaged ones, headers of safetensors that lie, and pickles that nobody's program has written."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from functools import cache
from typing import Any

import torch
from fuzz.damage import BORDERS, CHANGES, SCALARS, VALUES, damaged, replaced
from fuzz.fuzzing import fuzzed
from fuzz.guards import MIB, Folder
from hypothesis import strategies as st
from safetensors.torch import save

from vc_core.checkpoint import METADATA_KEY, read
from vc_core.checkpoint.building import inspect_checkpoint
from vc_core.checkpoint.finite import check_finite
from vc_core.checkpoint.reading import read_list
from vc_core.checkpoint.report import describe, table
from vc_core.errors import UserError

TENSORS = {
    "model.diffusion_model.input_blocks.0.0.weight": torch.arange(3.0 * 5 * 7).reshape(3, 5, 7),
    "first_stage_model.quant_conv.bias": torch.tensor([0.5, -2.0]).half(),
    "cond_stage_model.model.logit_scale": torch.tensor(4.25),
    "alphas_cumprod": torch.tensor([0.9, 0.5, 0.1]),
    METADATA_KEY: torch.tensor(list(b"{}"), dtype=torch.uint8),
}
LOOSE = [torch.ones(2, 3), torch.zeros(3, 2)]


@cache
def model_file(kind: str) -> bytes:
    """A small model file."""
    if kind == "safetensors":
        return save(TENSORS, {METADATA_KEY: "{}"})
    file = io.BytesIO()
    data: Any = LOOSE if kind.endswith("list") else {"state_dict": TENSORS, "epoch": 3}
    torch.save(data, file, _use_new_zipfile_serialization=kind.startswith("zip"))
    return file.getvalue()


def look(folder: Folder, data: bytes, name: str = "model.ckpt") -> None:
    """Reads a file in each of the ways in which the product reads models."""
    path = folder.file(name, data)
    for way in (_tensors, read_list, lambda path: table(describe(inspect_checkpoint(path)))):
        try:
            way(path)
        except UserError:
            continue


def _tensors(path: Any) -> None:
    file = read(path)
    assert all(isinstance(text, str) for pair in file.metadata.items() for text in pair)
    for name, tensor in file.tensors.items():
        check_finite(tensor, name)
        assert tensor.nbytes <= file.size + MIB
        tensor.to(torch.float32)


KINDS = ("safetensors", "zip", "old", "zip list", "old list")


@fuzzed(st.tuples(st.sampled_from(KINDS), CHANGES), examples=120)
def test_damaged_files(case: tuple[str, list[Any]], folder: Folder) -> None:
    kind, changes = case
    look(folder, damaged(model_file(kind), changes))


COUNTS = st.one_of(st.integers(-1, 40), st.sampled_from([2**20, 2**31, 2**63, 2**64 - 1, 10**30, 1.5, True, None, "4"]))
DTYPES = st.sampled_from(
    ["F32", "F16", "BF16", "F64", "I64", "U8", "I8", "BOOL", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F4", "C64", "U16", "U64"]
)
NAMES = st.sampled_from([*TENSORS, "betas", "x", "a\nb", "\x1b[2J", "", "__metadata__", "lora_up.weight", "x" * 500])


@st.composite
def headers(draw: st.DrawFn) -> tuple[str, int, int]:
    """The header of a safetensors file, its length as the file says it beside the true one, and the bytes after it."""
    entries, start = [], 0
    for _ in range(draw(st.integers(0, 4))):
        shape = draw(st.lists(st.integers(0, 3), max_size=3))
        size = 4
        for side in shape:
            size *= side
        entry: dict[str, Any] = {"dtype": "F32", "shape": shape, "data_offsets": [start, start + size]}
        start += size
        for field in draw(st.lists(st.sampled_from(sorted(entry)), max_size=2)):
            odd = {"dtype": DTYPES, "shape": st.lists(COUNTS, max_size=4), "data_offsets": st.lists(COUNTS, max_size=3)}
            entry[field] = draw(st.one_of(odd[field], VALUES) if draw(st.booleans()) else odd[field])
        entries.append((draw(NAMES), entry))
    if draw(st.booleans()):
        entries.append(
            ("__metadata__", draw(st.one_of(st.dictionaries(st.text(max_size=4), st.text(max_size=4)), VALUES)))
        )
    text = "{" + ",".join(f"{json.dumps(name)}:{json.dumps(value)}" for name, value in entries) + "}"
    return (
        text,
        draw(st.sampled_from([0, 0, 0, 0, 1, -1, 100, 2**31, 2**63])),
        max(0, start + draw(st.sampled_from([0, 0, 0, 1, -1]))),
    )


@fuzzed(headers(), examples=120)
def test_headers_that_lie(case: tuple[str, int, int], folder: Folder) -> None:
    text, more, count = case
    length = (len(text.encode()) + more) % 2**64
    look(folder, struct.pack("<Q", length) + text.encode() + bytes(count), "model.safetensors")


GLOBALS = st.sampled_from(
    [
        "os system", "posix system", "builtins eval", "builtins exec", "builtins getattr", "subprocess Popen",
        "builtins bytearray", "torch load", "torch.hub load", "numpy load", "torch FloatStorage", "torch LongStorage",
        "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter", "torch._utils _rebuild_sparse_tensor",
        "torch._utils _rebuild_qtensor", "torch._utils _rebuild_meta_tensor_no_storage", "torch Size", "torch device",
        "torch._utils _rebuild_nested_tensor", "collections OrderedDict", "torch Tensor", "_codecs encode",
        "torch float32",
        "torch._tensor _rebuild_from_type_v2", "torch.nn.parameter Parameter", "__builtin__ set", "a\u2028b c",
        "torch._utils _rebuild_device_tensor_from_numpy", "numpy.core.multiarray _reconstruct",
        "torch._utils _rebuild_wrapper_subclass",
    ]
).map(lambda name: b"c" + name.replace(" ", "\n").encode() + b"\n")  # fmt: skip
WORDS = st.sampled_from(
    ["state_dict", "storage", "0", "1", "cpu", "true", "weight", "cuda:0", "meta", "x" * 400, "a\nb"]
)
NUMBERS = st.one_of(
    st.integers(0, 255).map(lambda n: b"K" + bytes([n])),
    st.integers(0, 65535).map(lambda n: b"M" + struct.pack("<H", n)),
    st.sampled_from([-1, 2**31 - 1, -(2**31), 1000]).map(lambda n: b"J" + struct.pack("<i", n)),
    st.sampled_from([2**40, 2**63 - 1, -(2**63)]).map(lambda n: b"\x8a\x08" + struct.pack("<q", n)),
    st.floats().map(lambda n: b"G" + struct.pack(">d", n)),
)
LENGTHS = st.sampled_from([0, 0, 0, 0, 1, -1, 2**31 - 1])
TEXTS = st.tuples(WORDS, LENGTHS).map(
    lambda case: b"X" + struct.pack("<I", max(0, len(case[0]) + case[1])) + case[0].encode()
)
SINGLE = st.sampled_from(
    [bytes([code]) for code in b"}])(tuseal012NQRb." + b"\x81\x85\x86\x87\x88\x89\x8f\x90\x93\x92\x94"]
)
MEMO = st.tuples(st.sampled_from([b"q", b"h"]), st.integers(0, 3)).map(lambda case: case[0] + bytes([case[1]]))
OPS = st.one_of(GLOBALS, TEXTS, NUMBERS, SINGLE, SINGLE, MEMO)
SIDES = st.one_of(st.integers(0, 4), st.sampled_from([-1, 2**20, 2**31, 2**40, 2**62]))


@st.composite
def tensors(draw: st.DrawFn) -> bytes:
    """The program that makes a tensor, whose numbers may all lie."""

    def number(value: int) -> bytes:
        return b"\x8a\x09" + value.to_bytes(9, "little", signed=True)

    def text(value: str) -> bytes:
        return b"X" + struct.pack("<I", len(value)) + value.encode()

    storage = b"(" + text(draw(st.sampled_from(["storage", "storage", "module"])))
    storage += (
        b"ctorch\n"
        + draw(
            st.sampled_from([b"FloatStorage", b"HalfStorage", b"ComplexFloatStorage", b"QInt8Storage", b"BoolStorage"])
        )
        + b"\n"
    )
    storage += text(draw(st.sampled_from(["0", "1", "7", "../0", ""]))) + text(
        draw(st.sampled_from(["cpu", "cpu", "meta", "cuda:0", "x"]))
    )
    storage += number(draw(SIDES)) + b"tQ"
    offset = number(draw(st.one_of(st.just(0), SIDES)))
    size, stride = (b"(" + b"".join(map(number, draw(st.lists(SIDES, max_size=3)))) + b"t" for _ in range(2))
    rebuild = b"ctorch._utils\n_rebuild_tensor_v2\n"
    return rebuild + b"(" + storage + offset + size + stride + b"\x89" + b"ccollections\nOrderedDict\n)R" + b"tR"


ENTRY = st.tuples(TEXTS, st.one_of(tensors(), tensors(), NUMBERS, OPS)).map(lambda pair: pair[0] + pair[1] + b"s")
PROGRAMS = st.one_of(
    st.lists(OPS, max_size=30).map(lambda ops: b"\x80\x02" + b"".join(ops) + b"."),
    st.lists(ENTRY, max_size=4).map(lambda entries: b"\x80\x02}" + b"".join(entries) + b"."),
    st.lists(tensors(), max_size=4).map(lambda items: b"\x80\x02](" + b"".join(items) + b"e."),
)
OLD_HEAD = (
    b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03."
    b"\x80\x02}q\x00X\x10\x00\x00\x00protocol_versionq\x01M\xe9\x03s."
)
OLD_KEYS = b"\x80\x02]q\x00X\x01\x00\x00\x000a."


@fuzzed(
    st.tuples(PROGRAMS, st.sampled_from(["plain", "old", "zip"]), st.sampled_from(BORDERS)), examples=150, seconds=10
)
def test_pickle_programs(case: tuple[bytes, str, int], folder: Folder) -> None:
    program, kind, size = case
    if kind == "plain":
        look(folder, program)
    elif kind == "old":
        look(folder, OLD_HEAD + program + OLD_KEYS + struct.pack("<Q", size) + bytes(64))
    else:
        look(
            folder,
            archive([("data.pkl", program), ("data/0", bytes(64)), ("version", b"3\n"), ("byteorder", b"little")]),
        )


def archive(records: list[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED) -> bytes:
    """A zip file, as torch lays it out."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as made:
        for name, data in records:
            made.writestr(f"archive/{name}", data)
    return file.getvalue()


RECORDS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "data.pkl",
                "data/0",
                "version",
                "byteorder",
                "constants.pkl",
                "code/x.py",
                "../x",
                ".data/serialization_id",
            ]
        ),
        st.one_of(st.binary(max_size=40), st.just(b"\x80\x02}."), st.just(b"big"), st.just(b"3\n"), PROGRAMS),
    ),
    max_size=5,
)


@fuzzed(st.tuples(RECORDS, st.one_of(st.just([]), CHANGES)), examples=40)
def test_archives(case: tuple[list[tuple[str, bytes]], list[Any]], folder: Folder) -> None:
    records, changes = case
    look(folder, damaged(archive(list(dict(records).items())), changes))


@cache
def bomb(record: str) -> bytes:
    """300 MiB in 300 KiB."""
    return archive([("data.pkl", b"\x80\x02}."), (record, bytes(300 * MIB))], zipfile.ZIP_DEFLATED)


@fuzzed(st.sampled_from(["data/0", "version"]), examples=2)
def test_archives_that_unpack_to_much_are_refused(case: str, folder: Folder) -> None:
    look(folder, bomb(case))


SPEC = json.loads('{"name": "x", "unet": {"model_channels": 32}}')


@fuzzed(st.one_of(replaced(SPEC, SCALARS | VALUES).map(json.dumps), st.text(max_size=40)), examples=20)
def test_metadata(case: str, folder: Folder) -> None:
    kept = {name: tensor for name, tensor in TENSORS.items() if name != METADATA_KEY}
    text = case.encode("utf-8", "replace").decode()
    look(folder, save(kept, {METADATA_KEY: text}), "model.safetensors")
    as_tensor = {**kept, METADATA_KEY: torch.tensor(list(text.encode()) or [0], dtype=torch.float32)}
    look(folder, save(as_tensor), "model.safetensors")
