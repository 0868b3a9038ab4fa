"""Every wrapper, ending and type that users' files have, and every way in which a file can be bad."""

from __future__ import annotations

import os
import pickle
import tarfile
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from vc_core.checkpoint import METADATA_KEY, read, sort_tensors
from vc_core.errors import UserError

TENSORS = {
    "model.diffusion_model.input_blocks.0.0.weight": torch.arange(3.0 * 5 * 7).reshape(3, 5, 7),
    "first_stage_model.quant_conv.bias": torch.tensor([0.5, -2.0]),
    "cond_stage_model.model.logit_scale": torch.tensor(4.25),
    "alphas_cumprod": torch.tensor([0.9, 0.5, 0.1]),
}

Saver = Callable[[dict[str, Tensor], Path], None]


def deepspeed(tensors: dict[str, Tensor]) -> dict[str, object]:
    inside = {f"_forward_module.{name}": tensor for name, tensor in tensors.items()}
    return {"module": inside, "optimizer": None, "global_step": 7}


SAVERS: dict[str, tuple[str, Saver]] = {
    "bare": (".ckpt", torch.save),
    "ordered": (".pt", lambda t, p: torch.save(OrderedDict(t), p)),
    "state_dict": (".ckpt", lambda t, p: torch.save({"state_dict": t, "epoch": 3}, p)),
    "deepspeed": (".pth", lambda t, p: torch.save(deepspeed(t), p)),
    "deepspeed_nested": (".ckpt", lambda t, p: torch.save({"state_dict": deepspeed(t)}, p)),
    "old_pickle": (".ckpt", lambda t, p: torch.save({"state_dict": t}, p, _use_new_zipfile_serialization=False)),
    "safetensors": (".safetensors", lambda t, p: save_file(t, str(p))),
    "wrong_ending": (".ckpt", lambda t, p: save_file(t, str(p))),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", SAVERS)
def test_reads_bit_for_bit(kind: str, dtype: torch.dtype, tmp_path: Path) -> None:
    ending, save = SAVERS[kind]
    tensors = {name: tensor.to(dtype) for name, tensor in TENSORS.items()}
    save(tensors, tmp_path / f"model{ending}")

    file = read(tmp_path / f"model{ending}")
    contents = sort_tensors(file.tensors, file.left_over)

    found = {**contents.parts["unet"], **contents.parts["autoencoder"], **contents.parts["text_encoder"]}
    expected = {name.split(".", 1)[1].removeprefix("diffusion_model."): t for name, t in tensors.items() if "." in name}
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == dtype
        assert torch.equal(found[name], tensor)
    assert torch.equal(contents.schedule["alphas_cumprod"], tensors["alphas_cumprod"])
    assert contents.unknown == ()
    assert file.mapped == (kind != "old_pickle")


def test_leftovers_of_training_are_listed_and_ignored(tmp_path: Path) -> None:
    extra = {
        "model_ema.diffusion_modelinput_blocks00weight": torch.ones(2),
        "model_ema.decay": torch.tensor(0.999),
        "first_stage_model.loss.logvar": torch.zeros(1),
        "lvlb_weights": torch.zeros(3),
        "cond_stage_model.model.attn_mask": torch.zeros(2, 2),
        "embedder.mean": torch.zeros(3),
    }
    torch.save({"state_dict": {**TENSORS, **extra}, "optimizer_states": [], "epoch": 2}, tmp_path / "m.ckpt")
    file = read(tmp_path / "m.ckpt")
    contents = sort_tensors(file.tensors, file.left_over)
    assert set(contents.ignored) == {*extra, "optimizer_states", "epoch"}
    assert contents.unknown == ()


def test_a_name_that_is_not_known_stays_unknown() -> None:
    contents = sort_tensors({**TENSORS, "something.weight": torch.ones(1)})
    assert contents.unknown == ("something.weight",)


def test_reading_maps_the_file_instead_of_copying_it(tmp_path: Path) -> None:
    """A map is private: changing a tensor changes neither the file nor what the next reader sees."""
    for name, save in (("a.ckpt", torch.save), ("b.safetensors", save_file)):
        save(TENSORS, str(tmp_path / name))
        file = read(tmp_path / name)
        sizes = {tensor.untyped_storage().nbytes() for tensor in file.tensors.values()}
        assert max(sizes) <= file.size
        file.tensors["alphas_cumprod"].fill_(7)
        assert torch.equal(read(tmp_path / name).tensors["alphas_cumprod"], TENSORS["alphas_cumprod"])


class Evil:
    """Unpickling this with pickle itself makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch '{self.marker}'",)


@pytest.mark.parametrize("new_format", [True, False])
def test_code_in_a_file_is_refused_and_not_run(new_format: bool, tmp_path: Path) -> None:
    marker = tmp_path / "it_ran"
    path = tmp_path / "evil.ckpt"
    torch.save({"state_dict": {**TENSORS, "x": Evil(marker)}}, path, _use_new_zipfile_serialization=new_format)
    with pytest.raises(UserError, match=r"evil\.ckpt was refused.*Nothing in it was run") as refused:
        read(path)
    assert not marker.exists()
    if new_format:
        assert "system" in str(refused.value)


def test_a_plain_pickle_with_code_is_refused_and_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "it_ran"
    path = tmp_path / "evil.pt"
    path.write_bytes(pickle.dumps({"x": Evil(marker)}))
    with pytest.raises(UserError, match="refused"):
        read(path)
    assert not marker.exists()


def write(data: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(data) and None


def make_truncated(ending: str, keep: float) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        whole = path.with_name("whole" + ending)
        (save_file if ending == ".safetensors" else torch.save)(TENSORS, str(whole))
        data = whole.read_bytes()
        path.write_bytes(data[: int(len(data) * keep)])

    return make


def make_old_truncated(path: Path) -> None:
    torch.save(TENSORS, path, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) - 20])


def make_tar(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        archive.add(__file__, "model.py")


def make_torchscript(path: Path) -> None:
    torch.jit.script(torch.nn.Identity()).save(str(path))


def with_header(header: bytes, length: int | None = None) -> Callable[[Path], None]:
    """A safetensors file of a header alone, which may claim another length than it has."""
    return write((len(header) if length is None else length).to_bytes(8, "little") + header)


def make_header_bomb(path: Path) -> None:
    """3 GB that take no room on the disk, all of them header."""
    with_header(b"{", 3 * 10**9)(path)
    os.truncate(path, 8 + 3 * 10**9)


def make_self_reference(path: Path, **beside: Tensor) -> None:
    data: dict[str, object] = dict(beside)
    data["state_dict"] = data
    torch.save(data, path)


def make_ring(path: Path) -> None:
    first: dict[str, object] = {"epoch": 1}
    first["module"] = {"state_dict": first}
    torch.save(first, path)


def make_compressed(path: Path) -> None:
    """100 MB of zeros in a file of 100 kB."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(10**8))


def make_overlapping(path: Path) -> None:
    """Records that all claim the same bytes."""
    torch.save(TENSORS, path)
    data = bytearray(path.read_bytes())
    place = data.rfind(b"PK\x01\x02") + 20
    data[place : place + 8] = (10**9).to_bytes(4, "little") * 2
    path.write_bytes(data)


def with_tensor(tensor: Tensor) -> Callable[[Path], None]:
    return lambda path: torch.save({**TENSORS, "w": tensor}, path)


def with_spec(spec: Tensor) -> Callable[[Path], None]:
    return lambda path: save_file({**TENSORS, METADATA_KEY: spec}, str(path))


BAD: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "truncated ckpt": ("m.ckpt", make_truncated(".ckpt", 0.6), "not complete"),
    "truncated safetensors": ("m.safetensors", make_truncated(".safetensors", 0.9), "its header says"),
    "truncated header": ("m.safetensors", make_truncated(".safetensors", 0.1), "not complete"),
    "truncated old pickle": ("m.ckpt", make_old_truncated, "not complete"),
    "empty": ("m.ckpt", lambda path: path.touch(), "is empty"),
    "web page": ("m.ckpt", write(b"<!DOCTYPE html><html>404</html>"), "web page"),
    "lfs pointer": ("m.ckpt", write(b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n"), "git lfs pull"),
    "gguf": ("m.gguf", write(b"GGUF\x03\x00\x00\x00"), "GGUF"),
    "text": ("m.ckpt", write(b"hello, this is a text file\n" * 3), "not a model file"),
    "picture": ("m.ckpt", write(b"\x89PNG\r\n\x1a\n" + bytes(80)), "not a model file"),
    "tar": ("m.ckpt", make_tar, "tar archive"),
    "lora list": ("m.pt", lambda path: torch.save([torch.ones(2, 3), torch.ones(3, 2)], path), "LoRA"),
    "one tensor": ("m.pt", lambda path: torch.save(torch.ones(2), path), "holds a Tensor"),
    "no tensors": ("m.pt", lambda path: torch.save({"state_dict": {"a": 1}}, path), "holds no tensors"),
    "folder": ("m", lambda path: path.mkdir(), "is a folder"),
    "torchscript": ("m.pt", make_torchscript, "TorchScript"),
    "nested header": ("m.safetensors", with_header(b'{"a":' + b"[" * 200_000), "header cannot be read"),
    "no offsets": ("m.safetensors", with_header(b'{"a":{"data_offsets":[]}}'), "header cannot be read"),
    "huge header": ("m.safetensors", make_header_bomb, "header alone should have 3,000,000,000"),
    "self reference": ("m.ckpt", make_self_reference, "holds no tensors"),
    "ring": ("m.ckpt", make_ring, "holds no tensors"),
    "spec of floats": ("m.safetensors", with_spec(torch.tensor([0.5])), "is not text"),
    "spec of negative bytes": ("m.safetensors", with_spec(torch.tensor([-1], dtype=torch.int8)), "is not text"),
    "compressed": ("m.ckpt", make_compressed, "compressed archive"),
    "records that overlap": ("m.ckpt", make_overlapping, "records are larger than the file"),
    "archive of several disks": ("m.ckpt", write(b"PK\x03\x04" + bytes(60) + b"PK\x05\x06" + b"\1" * 18), "records"),
    "sparse tensor": ("m.ckpt", with_tensor(torch.eye(3).to_sparse()), "not a plain array"),
    "tensor without numbers": ("m.ckpt", with_tensor(torch.empty(2, device="meta")), "not a plain array"),
    "complex tensor": ("m.safetensors", lambda p: save_file({"w": torch.ones(2) * 1j}, str(p)), "not a plain array"),
    "repeated number": ("m.ckpt", with_tensor(torch.ones(1).expand(10**9)), "claims 4,000,000,000 bytes"),
    "name of two lines": ("m.ckpt", lambda path: torch.save({"a\nb": 1}, path), "holds no tensors"),
    "name too long": ("m" * 300, lambda path: None, "There is no file"),
    "missing": ("m.ckpt", lambda path: None, "There is no file"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_distinguished(case: str, tmp_path: Path) -> None:
    name, make, message = BAD[case]
    make(tmp_path / name)
    with pytest.raises(UserError, match=message) as refused:
        read(tmp_path / name)
    assert str(tmp_path / name) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_dict_inside_itself_is_read_once(tmp_path: Path) -> None:
    make_self_reference(tmp_path / "m.ckpt", **TENSORS)
    assert read(tmp_path / "m.ckpt").tensors.keys() == TENSORS.keys()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("save", [torch.save, lambda tensors, path: save_file(tensors, str(path))])
def test_a_spec_among_the_tensors_is_read_whatever_type_a_program_gave_it(
    save: Saver, dtype: torch.dtype, tmp_path: Path
) -> None:
    text = '{"name": "\u00e9"}'
    spec = torch.tensor(list(text.encode()), dtype=torch.uint8).to(dtype)
    save({**TENSORS, METADATA_KEY: spec}, tmp_path / "model")
    file = read(tmp_path / "model")
    assert file.metadata[METADATA_KEY] == text
    assert file.tensors.keys() == TENSORS.keys()


def test_a_missing_file_names_the_models_beside_it(tmp_path: Path) -> None:
    torch.save(TENSORS, tmp_path / "videocrafter2.ckpt")
    with pytest.raises(UserError, match=r"videocrafter2\.ckpt"):
        read(tmp_path / "videocrafter.ckpt")


@pytest.mark.parametrize("new", [True, False], ids=["zip", "old"])
def test_a_file_for_which_memory_runs_out_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, new: bool
) -> None:
    torch.save({"a.weight": torch.zeros(2)}, tmp_path / "model.ckpt", _use_new_zipfile_serialization=new)

    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(torch, "load", full)
    with pytest.raises(UserError, match=r"not enough memory to read .*model\.ckpt \(CUDA out of memory\.\)"):
        read(tmp_path / "model.ckpt")
