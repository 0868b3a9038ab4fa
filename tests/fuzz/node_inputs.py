"""Inputs of our nodes, drawn from their recorded schemas (`tests/nodes/object_info.json`).

An input is plain data: a widget's value, or what a socket is given, from which `test_node_inputs.py` makes the tensors
and the models. Sizes and counts are small, or beyond what a widget allows, as a linked number can be: what is allowed
and takes minutes is not drawn.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

SCHEMAS: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "nodes" / "object_info.json").read_text(encoding="utf-8")
)
KINDS = ("text", "relative", "image", "continuing", "toon", "viewed", "turbo", "style")
"""The small models; "other" is one of another family."""

WORDS = (
    *("", " ", "0", "0 2", "0, 1", "1 0.5", "all", "-1", "nan", "inf", "1e400", "1:2", "zoom in", "pan left + zoom in"),
    *(
        "pan left 1e9",
        "0.5 1.0 2.0",
        '[{"x": 2, "y": 2}, {"x": 9, "y": 9}]',
        "[]",
        "{}",
        "[[1, 2], [3, NaN]]",
        "[" * 300,
    ),
    *('[{"x": 1e400, "y": -5}]', "[[0.1, 0.1, 0.5, 0.5], [0.4, 0.4, 0.9, 0.9]]", "0: 0.1 0.1 0.5 0.5", "null", "\0"),
    *("\ud83d", "\U0001f600", "a boat", "temporal_flickering", "input.1, middle", "video/%date:yyyy%", "../../x", "/x"),
    *("CON", "x" * 300, "a\nb", "%width%_%year%", "%date:", "a/b/c", "1 0 0 0 0 1 0 0 0 0 1 0\n" * 3, "\u0663", "1_0"),
)
"""Texts that a widget may hold: numbers, cameras, tracks, boxes, blocks, metrics, names of files."""


def integers(spec: Mapping[str, Any]) -> SearchStrategy[int]:
    """Near the lower border, the default where it is small, and beyond both borders."""
    low, high = spec.get("min", 0), spec.get("max", 2**31)
    few = {low - 1, low, low + 1, low + 2, low + 8, high + 1, -(2**63), 2**63, 10**30}
    near = {value for value in (spec.get("default", low), high) if abs(value) <= 24}
    return st.sampled_from(sorted(few | near | ({16, 24} if low == 8 else set())))


def numbers(spec: Mapping[str, Any]) -> SearchStrategy[float]:
    """Over and at the borders, and what is no number."""
    low, high = float(spec.get("min", 0)), float(spec.get("max", 1))
    inside = st.floats(low, high, width=64)
    border = st.sampled_from((low, high, float(spec.get("default", low)), -0.0, low - 0.1, high + 0.1))
    odd = st.sampled_from((float("nan"), float("inf"), float("-inf"), 1e300, -1e300, 5e-324))
    return st.one_of(border, inside, border, odd)


def chosen(spec: Mapping[str, Any]) -> SearchStrategy[Any]:
    """A choice. `files` stands for those of the host, by number; the host's samplers and schedulers likewise."""
    options = spec.get("options", [])
    if options == "files":
        return st.tuples(st.just("file"), st.integers(0, 30))
    plain = [each for each in options if each not in ("files", "the host's")]
    parts = [st.sampled_from(plain)] * 4 + [st.just("none of these")] if plain else []
    if "files" in options:
        parts += [st.tuples(st.just("file"), st.integers(0, 30))] * 4
    if "the host's" in options:
        parts += [st.tuples(st.just("host"), st.integers(0, 60))]
    return st.one_of(parts)


def images() -> SearchStrategy[Any]:
    """b h w c, its type and content."""
    side = st.sampled_from((16, 24, 16, 24, 16, 24, 1, 7, 8, 33, 0))
    shape = st.tuples(
        st.sampled_from((1, 1, 1, 2, 3, 3, 3, 0, 5)), side, side, st.sampled_from((3, 3, 3, 3, 3, 3, 4, 1, 2, 5))
    )
    return st.tuples(st.just("tensor"), shape, types(), contents())


def masks() -> SearchStrategy[Any]:
    side = st.sampled_from((16, 24, 2, 1, 7, 0))
    shape = st.tuples(st.sampled_from((1, 1, 2, 3, 5, 0)), side, side)
    return st.tuples(st.just("tensor"), shape, types(), contents())


def types() -> SearchStrategy[str]:
    return st.sampled_from(("float32", "float32", "float32", "float16", "bfloat16", "float64", "uint8"))


def contents() -> SearchStrategy[str]:
    return st.sampled_from((*["random"] * 8, "zeros", "large", "nan", "inf"))


def latents() -> SearchStrategy[Any]:
    """f c h w with what other nodes add; or of models with other axes or channels."""
    usual = st.tuples(
        st.sampled_from((3, 3, 3, 1, 2, 5, 8)), st.just(4), st.sampled_from((3, 2, 1, 5)), st.sampled_from((2, 3, 1))
    )
    other = st.sampled_from(
        ((0, 4, 3, 2), (3, 16, 3, 2), (1, 4, 3, 3, 2), (3, 4, 0, 2), (3, 4), (1, 8, 32), (3, 4, 3, 1))
    )
    more = st.sampled_from(("", "", "", "mask", "wide mask", "batch_index", "empty mask"))
    return st.tuples(st.just("latent"), st.one_of(usual, usual, usual, other), types(), contents(), more)


def models() -> SearchStrategy[Any]:
    """The model of the example, seldom another one."""
    kind = st.sampled_from(("", "", "", "", "", "", *KINDS, "other"))
    return st.tuples(st.just("model"), kind)


def conditionings() -> SearchStrategy[Any]:
    """Text of the model's encoder, or another shape; with what other nodes add."""
    kind = st.sampled_from(
        ("own", "own", "own", "own", "own", "frames", "two", "empty", "wide", "short", "half", "extra")
    )
    return st.tuples(st.just("conditioning"), kind)


def audio() -> SearchStrategy[Any]:
    shape = st.sampled_from(((1, 2, 400), (1, 1, 0), (1, 6, 50), (0, 2, 10), (2, 1, 9), (3,)))
    return st.tuples(st.just("audio"), shape, st.sampled_from((8000, 44100, 0, -1, 1)), contents())


def encoded() -> SearchStrategy[Any]:
    return st.tuples(st.just("encoded"), st.sampled_from(("own", "wide", "several")))


def long_video() -> SearchStrategy[Any]:
    return st.tuples(st.just("long"), combos(SCHEMAS["VideoCrafterLongVideo"]["input"]["required"]["method"][1]))


@st.composite
def combos(draw: DrawFn, spec: Mapping[str, Any]) -> dict[str, Any]:
    """A choice with widgets of its own, by their names."""
    option = draw(st.sampled_from(spec["options"]))
    inputs = option["inputs"].get("required", {})
    return {"method": option["key"], **{name: draw(value(item)) for name, item in inputs.items()}}


TYPES: dict[str, Callable[[Mapping[str, Any]], SearchStrategy[Any]]] = {
    "INT": integers,
    "FLOAT": numbers,
    "COMBO": chosen,
    "COMFY_DYNAMICCOMBO_V3": combos,
    "BOOLEAN": lambda _: st.booleans(),
    "STRING": lambda _: st.sampled_from(WORDS) | st.text(max_size=20),
    "IMAGE": lambda _: images(),
    "MASK": lambda _: masks(),
    "LATENT": lambda _: latents(),
    "CONDITIONING": lambda _: conditionings(),
    "AUDIO": lambda _: audio(),
    "CLIP_VISION_OUTPUT": lambda _: encoded(),
    "VIDEOCRAFTER_LONG_VIDEO": lambda _: long_video(),
    **dict.fromkeys(("MODEL", "CLIP_VISION", "VAE"), lambda _: models()),
}


def value(item: Any) -> SearchStrategy[Any]:
    """What an input may be given. item: its type and options in the schema."""
    kind, spec = item
    return TYPES[kind.partition(",")[0]](spec)


FITTING: dict[str, tuple[tuple[str, ...], str]] = {
    "VideoCrafterCamI2VControl": (("continuing",), "fuzz_camera.safetensors"),
    "VideoCrafterImageConditioning": (("image",), ""),
    "VideoCrafterMotionCtrlControl": (("text",), "fuzz_motion.safetensors"),
    "VideoCrafterMotionCtrlI2VControl": (("continuing",), "fuzz_motion_i2v.safetensors"),
    "VideoCrafterPictureToVideo": (("continuing", "toon"), ""),
    "VideoCrafterSketchControl": (("continuing", "toon"), "fuzz_sketch.ckpt"),
    "VideoCrafterStyleCrafterControl": (("style",), "fuzz_style.pth"),
    "VideoCrafterViewsToVideo": (("viewed",), ""),
}
"""The models that a node is for, and the file of weights that fits; other nodes are for all."""

USUAL: dict[str, Any] = {
    "IMAGE": ("tensor", (3, 24, 16, 3), "float32", "random"),
    "MASK": ("tensor", (1, 24, 16), "float32", "random"),
    "LATENT": ("latent", (3, 4, 3, 2), "float32", "random", ""),
    "CONDITIONING": ("conditioning", "own"),
    "MODEL": ("model", ""),
    "CLIP_VISION": ("model", ""),
    "VAE": ("model", ""),
}


def plain(name: str, item: Any, file: str) -> Any:
    """A value with which an input does its usual, in little time; None where there is none."""
    kind, spec = item
    if name == "file" and file:
        return file
    if kind == "INT":
        default = spec.get("default", spec.get("min", 0))
        return default if abs(default) <= 24 else max(spec["min"], 16 if spec["min"] == 8 else 2)
    return USUAL.get(kind, spec.get("default"))


@st.composite
def calls(draw: DrawFn) -> dict[str, Any]:
    """A node with its inputs, up to three of them unusual, the model that its sockets share, and whether a MODEL that
    it gives is sampled with."""
    node = draw(st.sampled_from(sorted(SCHEMAS)))
    kinds, file = FITTING.get(node, (KINDS, ""))
    groups = SCHEMAS[node]["input"]
    optional = [name for name in groups.get("optional", {}) if draw(st.booleans())]
    items = {**groups.get("required", {}), **{name: groups["optional"][name] for name in optional}}
    changed = draw(st.sets(st.sampled_from(sorted(items)), max_size=3))
    inputs = {}
    for name, item in items.items():
        usual = None if name in changed else plain(name, item, file)
        inputs[name] = draw(value(item)) if usual is None else usual
    kind = draw(st.sampled_from((*kinds, *kinds, *kinds, *kinds, *KINDS)))
    return {"node": node, "kind": kind, "inputs": inputs, "sampled": draw(st.booleans())}
