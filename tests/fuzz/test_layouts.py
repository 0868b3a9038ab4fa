"""Key layouts of published files, and small files of every kind, with tensors removed, reshaped or renamed."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from checkpoint.synthetic import IMAGE_MODEL, TEXT_MODEL, published
from checkpoint.test_lora import NAMES, factors, model
from checkpoint.test_manifests import FOLDER, manifest
from fuzz.damage import replaced
from fuzz.fuzzing import fuzzed
from fuzz.guards import Folder
from hypothesis import strategies as st
from safetensors.torch import save_file
from small_models import (
    camera_weights,
    motionctrl_weights,
    sketch_encoder,
    style_adapter,
    style_temporal,
    turbo_list,
)
from torch import Tensor

from vc_core.checkpoint import METADATA_KEY, convert, detect, load, open_checkpoint
from vc_core.checkpoint.building import inspect_checkpoint
from vc_core.checkpoint.lora import apply, read_lora, restore
from vc_core.checkpoint.report import describe, table
from vc_core.checkpoint.statistics import read_statistics
from vc_core.errors import UserError
from vc_core.network.unet import VideoUNet
from vc_core.specs import to_json

Tensors = dict[str, Tensor]
LISTS = ("t2v_turbo_vc2_unet_lora",)
LAYOUTS = sorted(file.name.removesuffix(".json.gz") for file in FOLDER.glob("*.json.gz"))
LAYOUTS = [name for name in LAYOUTS if name not in LISTS and not name.startswith("stylecrafter_temporal")]
SIDES = st.sampled_from([0, 1, 2, 3, 7, 32, 1000, 10**6, 10**7, 2**40])
DTYPES = st.sampled_from(["float64", "float16", "bfloat16", "int64", "uint8", "bool", "complex64", "float8_e4m3fn"])
NUMBERS = st.sampled_from(["0", "1", "15", "99", "9999", "1234567", "9" * 30, "٣", "x"])
CHANGES = st.lists(
    st.tuples(
        st.integers(0, 3000),
        st.one_of(
            st.tuples(st.just("remove")),
            st.tuples(st.just("reshape"), st.lists(SIDES, max_size=5)),
            st.tuples(st.just("resize"), st.integers(0, 4), SIDES),
            st.tuples(st.just("retype"), DTYPES),
            st.tuples(st.just("fill"), st.sampled_from([0.0, math.nan, math.inf, 1e38])),
            st.tuples(st.just("number"), st.integers(0, 4), NUMBERS),
            st.tuples(st.just("rename"), st.text(max_size=12)),
            st.tuples(
                st.just("prefix"), st.sampled_from(["module.", "model_ema.", "model.", "unet.", "lora_unet_", "omcm."])
            ),
        ),
    ),
    min_size=1,
    max_size=4,
)


def changed(tensors: Tensors, changes: list[Any], most: int = 10**5) -> Tensors:
    """The tensors after the changes. most: numbers in one that is not on `meta`."""
    made = dict(tensors)
    for index, (kind, *more) in changes:
        if not made:
            return made
        name = list(made)[index % len(made)]
        if kind in ("remove", "rename", "prefix", "number"):
            tensor = made.pop(name)
            if kind != "remove":
                made[_renamed(kind, name, more)] = tensor
        else:
            made[name] = _another(kind, made[name], more, most)
    return made


def _renamed(kind: str, name: str, more: list[Any]) -> str:
    if kind != "number":
        return more[0] if kind == "rename" else more[0] + name
    words = name.split(".")
    places = [place for place, word in enumerate(words) if word.isdigit()] or [0]
    words[places[more[0] % len(places)]] = more[1]
    return ".".join(words)


def _another(kind: str, tensor: Tensor, more: list[Any], most: int) -> Tensor:
    if kind == "retype":
        real = tensor.real if tensor.is_complex() else tensor
        return real.to(getattr(torch, more[0]))
    if kind == "fill":
        filled = torch.full(tensor.shape, more[0], device=tensor.device)  # not every type can be filled with infinity
        return filled.to(tensor.dtype) if tensor.is_floating_point() else tensor
    shape = list(tensor.shape)
    if kind == "resize" and shape:
        shape[more[0] % len(shape)] = more[1]
    elif kind == "reshape":
        shape = more[0]
    limit = 2**60 if tensor.is_meta else most
    return tensor.new_ones(shape) if math.prod(max(1, side) for side in shape) <= limit else tensor


@fuzzed(st.tuples(st.sampled_from(LAYOUTS), CHANGES), examples=25)
def test_published_layouts(case: tuple[str, list[Any]]) -> None:
    name, changes = case
    detect(changed(manifest(name), changes))


@cache
def small(kind: str) -> Tensors:
    """The tensors of a small file of a kind."""
    if kind == "temporal":
        return {f"{name}.{key}": value for name, state in style_temporal().items() for key, value in state.items()}
    makers: dict[str, Callable[[], Tensors]] = {
        "text": lambda: published(TEXT_MODEL),
        "image": lambda: published(IMAGE_MODEL),
        "motionctrl": lambda: motionctrl_weights(TEXT_MODEL, levels=(32, 64)),
        "cami2v": lambda: camera_weights(TEXT_MODEL),
        "cameractrl": lambda: camera_weights(TEXT_MODEL, registers=None),
        "sketch": sketch_encoder,
        "style": style_adapter,
    }
    return makers[kind]()


PARTS = ("motionctrl", "cami2v", "cameractrl", "sketch", "style", "temporal")


def write(path: Path, tensors: Tensors, metadata: dict[str, str] | None = None) -> Path:
    """A file of safetensors, or of torch where safetensors has no such names or types."""
    try:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata)
    except (ValueError, KeyError, RuntimeError):
        torch.save(tensors, path)
    return path


@fuzzed(st.tuples(st.sampled_from(["text", "image"]), st.booleans(), st.booleans(), CHANGES), examples=3, seconds=20)
def test_whole_models(case: tuple[str, bool, bool, list[Any]], folder: Folder) -> None:
    kind, told, split, changes = case
    spec = TEXT_MODEL if kind == "text" else IMAGE_MODEL
    path = folder.inputs / "model.safetensors"
    write(path, changed(small(kind), changes), {METADATA_KEY: to_json(spec)} if told else None)
    folder.written += path.stat().st_size
    try:
        table(describe(inspect_checkpoint(path)))
        load(path)
    except UserError:
        pass
    convert(path, folder.outputs / "made.safetensors", split=split, dtype="fp16")


@fuzzed(st.tuples(st.sampled_from(PARTS), CHANGES), examples=25, seconds=20)
def test_files_of_controls(case: tuple[str, list[Any]], folder: Folder) -> None:
    kind, changes = case
    path = write(folder.inputs / "control.safetensors", changed(small(kind), changes))
    folder.written += path.stat().st_size
    opened = open_checkpoint(path)
    table(describe(opened))
    for part in opened.parts:
        opened.check(part)
        opened.build(part)


@cache
def network() -> VideoUNet:
    """A small UNet, unchanged after each example."""
    return model()


@cache
def lora(kind: str) -> Tensors:
    """The tensors of a LoRA file; those of a list are numbered."""
    if kind == "list":
        return {str(number): item for number, item in enumerate(turbo_list(TEXT_MODEL.unet))}
    tensors = {}
    for module, (up, down) in factors().items():
        names = NAMES[kind](module)
        tensors.update({names[0]: up, names[1]: down, f"{names[0].split('.lora')[0]}.alpha": torch.tensor(1.0)})
    return tensors


@fuzzed(st.tuples(st.sampled_from(["list", *NAMES]), st.one_of(st.just([]), CHANGES)), examples=15, seconds=20)
def test_lora_files(case: tuple[str, list[Any]], folder: Folder) -> None:
    kind, changes = case
    tensors = changed(lora(kind), changes)
    path = folder.inputs / "lora.safetensors"
    if kind == "list":
        torch.save(list(tensors.values()), path)
    else:
        write(path, tensors)
    folder.written += path.stat().st_size
    unet = network()
    found = read_lora(path, unet.spec)
    if found.guidance_width == 0:
        restore(unet, apply(unet, found))


STATISTICS = {"Expectation_X0": torch.ones(1, 4, 3, 4, 4), "Tr_Cov_d": torch.tensor(0.5)}


@fuzzed(st.one_of(st.just([]), CHANGES), examples=25)
def test_statistics(case: list[Any], folder: Folder) -> None:
    found = read_statistics(write(folder.inputs / "start.pt", changed(STATISTICS, case)))
    assert bool(found.latents.isfinite().all())
    assert math.isfinite(found.variance)


NESTED = {"state_dict": {"module": {"model": {"a": 1}}}, "epoch": 3, "optimizer_states": [{"x": 1}]}


@fuzzed(st.tuples(replaced(NESTED), st.booleans()), examples=25)
def test_wrapped_state_dicts(case: tuple[Any, bool], folder: Folder) -> None:
    data, with_tensors = case
    if with_tensors and isinstance(data, dict):
        data = {
            **data,
            "state_dict": {"w": torch.ones(2), **(data.get("x") or {})}
            if isinstance(data.get("x"), dict)
            else STATISTICS,
        }
    path = folder.inputs / "model.ckpt"
    torch.save(data, path)
    inspect_checkpoint(path)
