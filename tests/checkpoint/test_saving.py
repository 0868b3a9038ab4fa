"""Converting: bit-equal round trips, whole and split; and nothing left behind when it fails."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import BinaryIO

import pytest
import torch
from checkpoint.synthetic import IMAGE_MODEL, PARTS_OF, TEXT_MODEL, part_weights, published
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from vc_core.checkpoint import METADATA_KEY, PARTS, convert, load, open_checkpoint, save_tensors
from vc_core.checkpoint import saving as saving_module
from vc_core.errors import UserError
from vc_core.specs import ModelSpec, from_json

BOTH = pytest.mark.parametrize("spec", [TEXT_MODEL, IMAGE_MODEL], ids=lambda spec: spec.name)
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def make(folder: Path, spec: ModelSpec, dtype: torch.dtype = torch.float32) -> Path:
    return save_tensors(folder / "model.safetensors", published(spec, dtype))


@pytest.mark.parametrize(("spec", "dtype"), [(IMAGE_MODEL, None), *((TEXT_MODEL, name) for name in DTYPES)])
def test_a_whole_file_round_trips(spec: ModelSpec, dtype: str | None, tmp_path: Path) -> None:
    source = tmp_path / "model.ckpt"
    torch.save({"state_dict": published(spec)}, source)
    (path,) = convert(source, tmp_path / "out.safetensors", dtype=dtype, preset=spec)
    written, tensors = load_file(str(path)), published(spec)
    assert written.keys() == tensors.keys()
    for name, tensor in tensors.items():
        wanted = tensor if dtype is None or "." not in name else tensor.to(DTYPES[dtype])
        assert written[name].dtype == wanted.dtype
        assert torch.equal(written[name], wanted), name
    with safe_open(path, framework="pt") as file:
        assert from_json(file.metadata()[METADATA_KEY]) == spec
    assert open_checkpoint(path).spec == spec


@BOTH
def test_split_files_join_to_the_same_model(spec: ModelSpec, tmp_path: Path) -> None:
    source = make(tmp_path, spec)
    paths = convert(source, tmp_path / "parts", split=True, preset=spec)
    endings = ["unet", "vae", "clip"] + (["image"] if spec is IMAGE_MODEL else [])
    assert [path.name for path in paths] == [f"model_{ending}.safetensors" for ending in endings]
    for path in paths:
        assert open_checkpoint(path).spec == spec
    whole, joined = load(source, preset=spec), load(paths)
    for part in PARTS_OF[spec.name]:
        ours, theirs = getattr(joined, part).state_dict(), getattr(whole, part).state_dict()
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert torch.equal(joined.schedule.scale, whole.schedule.scale)


def test_split_parts_have_the_names_that_other_programs_expect(tmp_path: Path) -> None:
    unet, vae, clip = convert(make(tmp_path, TEXT_MODEL), tmp_path / "parts", split=True, preset=TEXT_MODEL)
    assert "input_blocks.0.0.weight" in load_file(str(unet))
    assert "decoder.conv_in.weight" in load_file(str(vae))
    assert "transformer.resblocks.0.ln_1.weight" in load_file(str(clip))


def test_the_noise_schedule_keeps_its_type(tmp_path: Path) -> None:
    (path,) = convert(make(tmp_path, TEXT_MODEL), tmp_path / "half.safetensors", dtype="fp16", preset=TEXT_MODEL)
    assert load_file(str(path))["alphas_cumprod"].dtype == torch.float32


def test_the_same_conversion_gives_the_same_bytes(tmp_path: Path) -> None:
    source = make(tmp_path, TEXT_MODEL)
    (one,) = convert(source, tmp_path / "one.safetensors", preset=TEXT_MODEL)
    (two,) = convert(source, tmp_path / "two.safetensors", preset=TEXT_MODEL)
    assert one.read_bytes() == two.read_bytes()


def test_progress_counts_every_byte(tmp_path: Path) -> None:
    reported: list[tuple[int, int]] = []
    source = make(tmp_path, TEXT_MODEL)
    convert(source, tmp_path / "o.safetensors", preset=TEXT_MODEL, on_bytes=lambda *pair: reported.append(pair))
    total = sum(tensor.nbytes for tensor in published(TEXT_MODEL).values())
    assert reported[-1] == (total, total)
    assert [written for written, _ in reported] == sorted(written for written, _ in reported)


def test_tensors_of_every_type_and_shape_are_written_as_safetensors_reads_them(tmp_path: Path) -> None:
    tensors: dict[str, Tensor] = {
        "scalar": torch.tensor(3.5),
        "empty": torch.zeros(0, 3),
        "view": torch.arange(30.0).reshape(5, 6).t()[1:4],
        "int": torch.tensor([2**40]),
        "bool": torch.tensor([True, False, True]),
        "bf16": torch.linspace(-1, 1, 7).bfloat16(),
        "fp8": torch.linspace(-1, 1, 5).to(torch.float8_e4m3fn),
    }
    path = save_tensors(tmp_path / "t.safetensors", tensors, {"a": "b"})
    read = load_file(str(path))
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert read[name].dtype == tensor.dtype
        assert read[name].shape == tensor.shape
        assert torch.equal(read[name].float(), tensor.float())


class FullDisk:
    """A file on which only so many bytes fit."""

    def __init__(self, file: BinaryIO, error: BaseException, fits: int) -> None:
        self.file, self.error, self.fits = file, error, fits

    def write(self, tensor: Tensor) -> None:
        self.fits -= tensor.nbytes
        if self.fits < 0:
            raise self.error


FAILURES: dict[str, tuple[BaseException, type[BaseException], str]] = {
    "disk full": (
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        UserError,
        "No space left.*Nothing was left behind",
    ),
    "interrupted": (KeyboardInterrupt(), KeyboardInterrupt, ""),
    "another error": (RuntimeError("the machine is on fire"), RuntimeError, "on fire"),
}


@pytest.mark.parametrize(("case", "split"), [*((case, False) for case in FAILURES), ("disk full", True)])
def test_a_failure_on_the_way_leaves_nothing(
    case: str, split: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error, raised, message = FAILURES[case]
    source = make(tmp_path, TEXT_MODEL)
    target = tmp_path / "out"
    target.mkdir()
    (target / "model.safetensors").write_bytes(b"older")
    disk = FullDisk(None, error, 100_000)  # type: ignore[arg-type]
    monkeypatch.setattr(saving_module, "_write_tensor", lambda file, tensor: disk.write(tensor))
    with pytest.raises(raised, match=message):
        convert(source, target, split=split, preset=TEXT_MODEL, overwrite=True)
    assert [path.name for path in target.iterdir()] == ["model.safetensors"]
    assert (target / "model.safetensors").read_bytes() == b"older"


def test_a_disk_that_is_too_small_is_refused_before_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make(tmp_path, TEXT_MODEL)
    usage = saving_module.shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(saving_module.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UserError, match="There is no space for"):
        convert(source, tmp_path / "out.safetensors", preset=TEXT_MODEL)


class TestTargets:
    def test_an_existing_file_is_kept_unless_forced(self, tmp_path: Path) -> None:
        source, target = make(tmp_path, TEXT_MODEL), tmp_path / "out.safetensors"
        target.write_bytes(b"precious")
        with pytest.raises(UserError, match="already exists"):
            convert(source, target, preset=TEXT_MODEL)
        assert target.read_bytes() == b"precious"
        convert(source, target, preset=TEXT_MODEL, overwrite=True)
        assert open_checkpoint(target).spec == TEXT_MODEL

    def test_the_source_is_never_the_target(self, tmp_path: Path) -> None:
        (path,) = convert(make(tmp_path, TEXT_MODEL), tmp_path / "out.safetensors", preset=TEXT_MODEL)
        with pytest.raises(UserError, match="is the file that is read"):
            convert(path, path, overwrite=True)

    def test_another_ending_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"should end in \.safetensors"):
            convert(make(tmp_path, TEXT_MODEL), tmp_path / "out.ckpt", preset=TEXT_MODEL)

    def test_a_broken_source_is_refused_before_writing(self, tmp_path: Path) -> None:
        tensors = published(TEXT_MODEL)
        del tensors["model.diffusion_model.out.2.bias"]
        torch.save(tensors, tmp_path / "m.ckpt")
        with pytest.raises(UserError, match=r"out\.2\.bias"):
            convert(tmp_path / "m.ckpt", tmp_path / "o.safetensors", preset=TEXT_MODEL)

    def test_nan_weights_are_refused_and_nothing_is_left(self, tmp_path: Path) -> None:
        tensors = published(TEXT_MODEL)
        tensors["model.diffusion_model.out.2.bias"][0] = float("nan")
        torch.save(tensors, tmp_path / "m.ckpt")
        with pytest.raises(UserError, match="not a finite number"):
            convert(tmp_path / "m.ckpt", tmp_path / "o.safetensors", preset=TEXT_MODEL)
        assert [path.name for path in tmp_path.iterdir()] == ["m.ckpt"]


def test_the_header_is_aligned_and_in_the_order_of_the_file(tmp_path: Path) -> None:
    path = save_tensors(tmp_path / "t.safetensors", {"b": torch.ones(3), "a": torch.zeros(2)})
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    assert length % 8 == 0
    header = json.loads(data[8 : 8 + length])
    assert header["b"]["data_offsets"] == [0, 12]
    assert header["a"]["data_offsets"] == [12, 20]


def test_ignored_leftovers_are_not_carried_over(tmp_path: Path) -> None:
    tensors = {**published(TEXT_MODEL), "model_ema.decay": torch.ones(1)}
    torch.save(tensors, tmp_path / "m.ckpt")
    (path,) = convert(tmp_path / "m.ckpt", tmp_path / "o.safetensors", preset=TEXT_MODEL)
    assert "model_ema.decay" not in load_file(str(path))


def test_one_part_alone_converts(tmp_path: Path) -> None:
    torch.save(part_weights(TEXT_MODEL, "autoencoder"), tmp_path / "vae.pt")
    (path,) = convert(tmp_path / "vae.pt", tmp_path / "o.safetensors", preset=TEXT_MODEL)
    assert all(name.startswith(PARTS["autoencoder"].prefix) for name in load_file(str(path)))
