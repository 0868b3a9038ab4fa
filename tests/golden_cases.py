"""Reads the golden cases: inputs and outputs of the reference implementation on small models.

A case is NAME.json (what was run) beside NAME.safetensors (the numbers). The folder is `tests/golden`, or the one that
the environment variable VC_GOLDEN_DIR names. Tests choose cases by their `kind`, so a new file of a known kind is
tested without a change of code: sizes, conditions, settings and noise are read from the file, the networks' numbers by
`golden_models`. `test_golden_cases.py` shows it with further cases. `pytest -k golden` selects these tests.

Where a case does not store its weights it names a recipe for them: an integer stream of numpy's frozen legacy
generator, scaled to float16-representable values. A digest guards that they are those the outputs were made with.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

COMMITTED = Path(__file__).parent / "golden"
FOLDER = Path(os.environ.get("VC_GOLDEN_DIR") or COMMITTED)

SHARP = ("to_q.", "to_k.", "to_k_ip.", ".q.weight", ".k.weight", "in_proj_weight")
RESIDUAL = (
    *("input_blocks.0.0.", "init_conv", "in_layers.2.", "out_layers.3.", "emb_layers.1.", "temopral_conv.conv"),
    *("proj_in.", "proj_out.", "to_out.0.", "ff.net.2.", "conv_in.", "conv1.", "conv2."),
)
NORM_BIASES = tuple(
    f"{layer}.0.bias" for layer in ("in_layers", "out_layers", "out", "conv1", "conv2", "conv3", "conv4")
)


def cases(*kinds: str, folder: Path = FOLDER) -> list[Any]:
    """The case files of these kinds, by name.

    Where there is none this fails in the default folder: an empty one must not pass for success. A folder of the
    user's choice may hold some kinds alone; tests of the others are then skipped, and say why.
    """
    paths = sorted(folder.glob("*.json"))
    found = [path for path in paths if json.loads(path.read_text(encoding="utf-8")).get("kind") in kinds]
    if found:
        return list(found)
    if folder == COMMITTED:
        raise FileNotFoundError(f"no golden case of kind {kinds} in {folder}")
    reason = f"{folder} holds no golden case of kind {' or '.join(kinds)}"
    return [pytest.param(Path(f"no_{kinds[0]}"), marks=pytest.mark.skip(reason=reason))]


def load(path: Path) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Tensor]]:
    """-> (description, weights in float32, all other tensors)"""
    info: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    stored = load_file(str(path.parent / info["file"]))
    weights = {key[2:]: value.float() for key, value in stored.items() if key.startswith("w/")}
    tensors = {key: value for key, value in stored.items() if not key.startswith("w/")}
    recipe = info.get("weights")
    if recipe:
        if recipe["storage"] == "recipe":
            weights = {key: recipe_tensor(key, shape, recipe) for key, shape in recipe["keys"].items()}
        elif recipe["storage"] == "external":
            beside = load_file(str(path.parent / recipe["file"]))
            weights = {key[2:]: value.float() for key, value in beside.items() if key.startswith("w/")}
        assert digest(weights) == recipe["sha256"], f"{path.name}: these are not the weights of the golden outputs"
    return info, weights, tensors


def relative_error(ours: Tensor, golden: Tensor) -> float:
    """|ours - golden| / |golden| in the L2 norm, in float64."""
    assert ours.shape == golden.shape, f"{tuple(ours.shape)} is not {tuple(golden.shape)}"
    difference = (ours.double() - golden.double()).norm()
    return float(difference / golden.double().norm().clamp_min(1e-30))


def fact(name: str, *places: Mapping[str, Any], default: Any = None) -> Any:
    """What the first of the places says of it: a call of a case goes before the case itself."""
    return next((place[name] for place in places if place.get(name) is not None), default)


def stored(t: Mapping[str, Tensor], call: Mapping[str, Any], name: str) -> Tensor | None:
    """The tensor of a call, or that of a case whose one call has no name in its file."""
    return t.get(f"{call['name']}/{name}", t.get(name))


def row(value: Any, clips: int) -> Tensor | None:
    """b, from one number for all clips or a list with one for each; None for a condition that was not given."""
    if value is None or value == "default":
        return None
    return torch.tensor(value, dtype=torch.float32).reshape(-1).expand(clips)


def fps_of(call: Mapping[str, Any], t: Mapping[str, Tensor]) -> Tensor | None:
    """b, the fps (of DynamiCrafter, fs) of a network's call; None where it was left to the network."""
    given, x = stored(t, call, "in/fps"), stored(t, call, "in/x")
    given = stored(t, call, "in/fs") if given is None else given
    assert x is not None
    return row(fact("fps", call, {"fps": call.get("fs")}), len(x)) if given is None else given


class RecordedNoise:
    """Hands out given draws in their order; fails when asked for more, or for another shape."""

    def __init__(self, draws: Iterable[Tensor]) -> None:
        self.draws = list(draws)

    def draw(self, shape: Sequence[int], device: torch.device | str, dtype: torch.dtype) -> Tensor:
        assert self.draws, "more noise was drawn than was recorded"
        noise = self.draws.pop(0)
        assert tuple(noise.shape) == tuple(shape)
        return noise.to(device=device, dtype=dtype)


def step_noise(recorded: Tensor | None, like: Tensor, steps: int, eta: float) -> list[Tensor]:
    """The draws of a run's steps. Without fresh noise in them (eta 0) a file may leave them out, since drawn they are,
    but nothing is made of them."""
    if eta == 0:
        return [torch.zeros_like(like)] * steps
    assert recorded is not None, "eta is above 0, but the file has no noise of the steps"
    assert len(recorded) >= steps, f"the file has noise of {len(recorded)} steps of {steps}"
    return list(recorded)


def allowed(least: float, most: float, own: Sequence[float] | None, index: int, times: float = 10) -> float:
    """The relative error that a step may have: a multiple of what rounding does to the reference's own run, `own`, if
    the file says so for each step, since another processor rounds as much in other places."""
    return least if own is None else min(most, max(least, times * own[index]))


def check_frames(video: Tensor, golden: Tensor, places: Sequence[int] | None = None, units: int = 1) -> None:
    """Frames f h w 3 in 0..1 against bytes 3 f h w: of all frames, or of some, in their order. `places` says which,
    where the file does; values at the border of two bytes move by one."""
    ours, theirs = (video * 255).to(torch.uint8).int(), golden.permute(1, 2, 3, 0).int()

    def differing(index: int, frame: Tensor) -> int:
        return int((ours[index] - frame).abs().max())

    if places is None and len(theirs) == len(ours):
        places = range(len(ours))
    if places is not None:
        assert max(differing(index, frame) for index, frame in zip(places, theirs, strict=True)) <= units
        return
    index = -1
    for number, frame in enumerate(theirs):
        index = next((i for i in range(index + 1, len(ours)) if differing(i, frame) <= units), -1)
        assert index >= 0, f"no frame of ours is frame {number} of the file's {len(theirs)}"


def recipe_tensor(key: str, shape: Sequence[int], recipe: Mapping[str, Any]) -> Tensor:
    """One tensor of the recipe with this seed and profile ("normal", or "small": tiny residual streams)."""
    stream = np.random.RandomState((zlib.crc32(key.encode()) + 2654435761 * int(recipe["seed"])) & 0xFFFFFFFF)
    unit = stream.randint(-1024, 1025, size=tuple(shape), dtype=np.int32).astype(np.float32) / np.float32(1024)
    base, spread = _distribution(key, shape, small=recipe["profile"] == "small")
    values = np.asarray(np.float32(base) + np.float32(spread) * unit, dtype=np.float32)
    return torch.from_numpy(values.astype(np.float16).astype(np.float32)).reshape(tuple(shape))


def _distribution(key: str, shape: Sequence[int], small: bool) -> tuple[float, float]:
    """Centre and half-width of a tensor's uniform distribution, by the last part of its name and its shape."""
    name = key.rsplit(".", 1)[-1]
    fixed = {
        "logit_scale": (2.65625, 0.0),
        "embeddings_table": (0.0, 0.8),
        "positional_embedding": (0.0, 0.5),
        "class_embedding": (0.0, 0.5),
        "latents": (0.0, 1.0),
    }
    if name in fixed:
        return fixed[name]
    if key.endswith("token_embedding.weight"):
        return 0.0, 1.0
    if name == "text_projection" or (name == "proj" and len(shape) == 2):
        return 0.0, math.sqrt(3.0 / shape[0])
    if len(shape) <= 1:
        if name == "weight":
            return 1.0, 0.3
        norm = "norm" in key or "ln_" in key or key.endswith(NORM_BIASES)
        return 0.0, 0.2 * (2.0**-10 if small and not norm else 1.0)
    gain = 1.5 if any(part in key for part in SHARP) else 1.0
    if small and any(part in key for part in RESIDUAL):
        gain *= 2.0**-10
    return 0.0, gain * math.sqrt(3.0 / math.prod(shape[1:]))


def digest(weights: Mapping[str, Tensor]) -> str:
    """sha256 over names and little-endian float32 bytes in sorted order."""
    total = hashlib.sha256()
    for key in sorted(weights):
        total.update(key.encode())
        total.update(np.ascontiguousarray(weights[key].numpy().astype("<f4")).tobytes())
    return total.hexdigest()
