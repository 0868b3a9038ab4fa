"""Which control works with what: examples of the controls, what they are combined with, and what is expected.

A control has an entry in `EXAMPLES`; whatever else the matrix says follows from the records. What a control does not
support is in its `conflicts`, in those of the long-video methods, or in the `refused` of its example.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from textwrap import wrap
from typing import Any

import small_models as small
import torch
from torch import Tensor

from vc_core.checkpoint import PARTS
from vc_core.control import CONTROLS, Control, Scene
from vc_core.control.control import WeightedControl
from vc_core.control.table import EACH_SECTION
from vc_core.denoising import Sampling
from vc_core.errors import UserError
from vc_core.features import Feature, uses_of_controls, uses_of_windows
from vc_core.long import METHODS
from vc_core.long.method import OneClip
from vc_core.network.adapters.stylecrafter import text_attentions
from vc_core.specs import ModelSpec, Windows

PROMPT = "a red boat"
FRAMES, LONG, WINDOW, STRIDE = 3, 6, 4, 2
CAMERA = "pan left + zoom in"
TRACK = '[{"x": 2, "y": 2}, {"x": 30, "y": 20}]'
BOX = "0, 0.1, 0.6, 0.1, 0.6\n2, 0.4, 0.4"


@dataclass(frozen=True, kw_only=True)
class Base:
    """A small model, and the size of its clips in pixels."""

    spec: ModelSpec
    size: int = 32

    @property
    def scene(self) -> Scene:
        """A clip of this model."""
        size = {"width": self.size, "height": self.size, "frames": FRAMES}
        return Scene(spec=self.spec, steps=1, cfg=5.0, prompts=(PROMPT,), **size)


LEVELS = {"channel_mult": (1, 2), "attention_levels": (0, 1)}


def _smaller(spec: ModelSpec) -> ModelSpec:
    """With fewer levels, since the matrix has many runs."""
    autoencoder = replace(spec.autoencoder, channels=8, norm_groups=4)
    return replace(spec, unet=replace(spec.unet, **LEVELS), autoencoder=autoencoder)


BASES = {
    "text": Base(spec=_smaller(small.TEXT_MODEL)),
    "style": Base(spec=_smaller(small.STYLE_MODEL)),
    "continuing": Base(spec=_smaller(small.CONTINUING_MODEL), size=64),
}
ENCODER = replace(small.SKETCHES, **LEVELS)


def _style_adapter() -> dict[str, Tensor]:
    layers = tuple(text_attentions(BASES["style"].spec.unet))
    return small.style_adapter(replace(small.STYLE_ADAPTER, scales=len(layers), attentions=layers))


def noise_of_images(count: int, seed: int, height: int = 20, width: int = 30) -> tuple[Tensor, ...]:
    """Images h w 3 in 0..1."""
    return tuple(torch.rand(count, height, width, 3, generator=torch.Generator().manual_seed(seed)))


IMAGE, END = noise_of_images(2, 2, 24, 24)


@dataclass(frozen=True, kw_only=True)
class Example:
    """One control.

    active: values with an effect. neutral: changes of them that leave none. timed: changes that give it a value for
    each frame, where `active` has none. weights: the tensors of its file, for a model, by the names in the file.
    given: further arguments of all its runs, for a control that needs a video to start from.
    refused: by the name of a companion, changes of the request that are refused, and a part of the message.
    """

    active: Mapping[str, Any]
    neutral: Mapping[str, Any]
    timed: Mapping[str, Any] = field(default_factory=dict)
    weights: Callable[[ModelSpec], Mapping[str, Any]] | None = None
    given: Mapping[str, Any] = field(default_factory=dict)
    refused: Mapping[str, tuple[Mapping[str, Any], str]] = field(default_factory=dict)


def _in_file(part: str, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {PARTS[part].in_file(name): tensor for name, tensor in weights.items()}


AT_ONCE = ({"frames": 20}, "at most 16 frames at once")

EXAMPLES: dict[str, Example] = {
    "motionctrl": Example(
        active={"camera": CAMERA, "tracks": TRACK, "tracks_until": 0.0},
        neutral={"strength": 0.0},
        weights=lambda spec: small.motionctrl_weights(spec, levels=(32, 64)),
    ),
    "freetraj": Example(
        active={"words": "red boat", "boxes": BOX, "prompt": PROMPT},
        neutral={"guided_steps": 0, "noise": False},
        refused={"HyperTile": ({}, "it needs all pixels of a frame at once")},
    ),
    "cami2v": Example(
        active={"camera": CAMERA, "guidance": 1.5},
        neutral={"camera": ""},
        weights=lambda spec: _in_file("cami2v", small.camera_weights(spec)),
        refused=dict.fromkeys(("freenoise", "freelong"), AT_ONCE),
    ),
    "motionctrl_i2v": Example(
        active={"camera": CAMERA},
        neutral={"camera": ""},
        weights=lambda spec: _in_file("motionctrl", small.motionctrl_weights(spec)),
    ),
    "sketch": Example(
        active={"images": noise_of_images(2, 1), "frames": "0 2", "strength": 1.0},
        neutral={"strength": 0.0},
        weights=lambda spec: {"state_dict": small.sketch_encoder(ENCODER)},
    ),
    "stylecrafter": Example(
        active={"images": noise_of_images(2, 3)},
        neutral={"strength": 0.0},
        weights=lambda spec: _style_adapter(),
    ),
    "motion_strength": Example(active={"strength": 0.3}, neutral={"strength": 1.0}, timed={"over_time": "0, 1"}),
    "bytheway": Example(active={"beta": 4.0, "share": 1.0}, neutral={"share": 0.0}),
    "freqprior": Example(active={"rounds": 2, "stop": 0}, neutral={"rounds": 1}),
    "noise_calibration": Example(active={"scale": 1.0}, neutral={"rounds": 0}, given={"strength": 0.8}),
    "freeu": Example(active={}, neutral=dict.fromkeys(("b1", "b2", "s1", "s2"), 1.0)),
    "layer_guidance": Example(active={"temporal": "skipped"}, neutral={"scale": 0.0}),
    "scalecrafter": Example(active={"factors": "level 1: 2, middle: 2"}, neutral={"dilated_steps": 0}),
}
"""By the name of the control. A new control needs an entry here, and nothing else."""


@dataclass(frozen=True, kw_only=True)
class Companion:
    """What a control is combined with in vc_core, beside other controls.

    setting: changes of the request in which the companion acts. change: changes of the request that ask for it.
    features: what records call it. method: a long-video method. rounds: of FreeInit. given: further arguments of a run.
    always: arguments of a run without it as well. bases: the models that have it.
    """

    setting: Mapping[str, Any] = field(default_factory=dict)
    change: Mapping[str, Any] = field(default_factory=dict)
    features: tuple[Feature, ...] = ()
    method: str = ""
    rounds: int = 0
    given: Mapping[str, Any] = field(default_factory=dict)
    always: Mapping[str, Any] = field(default_factory=dict)
    bases: tuple[str, ...] = tuple(BASES)


MANY_STEPS = {"sampling": Sampling(steps=13, spacing="trailing")}
"""As many as the caches need to save something."""
CACHES = {"step_cache": "fast", "guidance_cache": "fast"}


def method_of(companion: Companion) -> OneClip | Any:
    """The long-video method of a run."""
    if not companion.method:
        return METHODS["off"](free_init=companion.rounds)
    kind = METHODS[companion.method]
    names = {item.name for item in kind.parameters()}
    wanted = {"window": WINDOW, "stride": STRIDE, "overlap": STRIDE, "partitions": 1}
    return kind(**{name: value for name, value in wanted.items() if name in names})


def _of_method(name: str) -> tuple[Feature, ...]:
    """The features of a long-video method that controls may not support."""
    found = method_of(Companion(method=name)).windows()
    network = found if isinstance(found, Windows) else None
    return tuple(uses_of_windows(network, found if found is None or network else found.noise, LONG))


COMPANIONS: dict[str, Companion] = {
    "LoRA": Companion(given={"lora": True}),
    "step and guidance cache": Companion(setting=MANY_STEPS, change=CACHES, features=(Feature.CACHE,)),
    "prompts over time": Companion(change={"then": (f"{PROMPT} at night",)}, features=(Feature.FRAME_TEXTS,)),
    "temporal guidance, rescale": Companion(change={"temporal_guidance": 0.5, "guidance_rescale": 0.5}),
    "other samplers": Companion(change={"sampling": Sampling(sampler="dpmpp_2m", steps=2, spacing="trailing")}),
    "a video to start from": Companion(given={"strength": 0.8}, features=(Feature.SOURCE,)),
    "Drag Object": Companion(given={"strength": 0.9, "kept_until": 0.5}, features=(Feature.SOURCE, Feature.MASK)),
    "FreeInit": Companion(rounds=1),
    **{
        name: Companion(setting={"frames": LONG}, method=name, features=_of_method(name))
        for name, method in METHODS.items()
        if name not in ("off", "fifo")
    },
    "fifo": Companion(setting={"frames": LONG, "sampling": Sampling(steps=WINDOW, eta=1.0)}, method="fifo"),
    "end image": Companion(given={"end": True}, features=(Feature.END_IMAGE,), bases=("continuing",)),
    "one clip as a loop": Companion(change={"loop": True}, features=(Feature.LOOP,), bases=("continuing",)),
    "key frames": Companion(given={"keys": True}, features=(Feature.KEY_FRAMES,), bases=("continuing",)),
}
"""By their rows in the table of the documentation."""


IN_COMFYUI = ("ControlNet", "ComfyUI's samplers", "HyperTile")
"""Rows of what only ComfyUI has."""


def control_of(name: str, file: Path | None = None, **changes: Any) -> Control:
    """The control with the values of its example."""
    kind, values = CONTROLS[name], {**EXAMPLES[name].active, **changes}
    return kind(file=file, **values) if file is not None and issubclass(kind, WeightedControl) else kind(**values)


def lora_of(spec: ModelSpec) -> dict[str, Tensor]:
    """A LoRA of two layers of a model, in Kohya's names."""
    weights, generator = small.state_dict(spec), torch.Generator().manual_seed(3)
    made: dict[str, Tensor] = {}
    for layer in ("input_blocks.1.1.transformer_blocks.0.attn2.to_k", "output_blocks.1.0.in_layers.2"):
        shape = tuple(weights[f"model.diffusion_model.{layer}.weight"].shape)
        up, down = small.low_rank(shape, generator)
        stem = f"lora_unet_{layer.replace('.', '_')}"
        made |= {f"{stem}.lora_up.weight": 40 * up, f"{stem}.lora_down.weight": down.contiguous()}
    return made


def bases_of(name: str) -> list[str]:
    """The small models that a control works on."""
    return [base for base in BASES if not _other_model(name, base)]


def _other_model(name: str, base: str) -> bool:
    try:
        control_of(name).check(BASES[base].scene)
    except UserError:
        return True
    return False


def shared_bases(one: str, other: str) -> list[str]:
    """The small models that both controls work on."""
    return [base for base in bases_of(one) if base in bases_of(other)]


def reason_against(name: str, companion: str, *, timed: bool = False) -> str | None:
    """Why a control does not work with a companion; None where it does. timed: with a value for each frame."""
    wanted, example = COMPANIONS[companion], EXAMPLES[name]
    control = control_of(name, **(example.timed if timed else {}))
    if companion in example.refused:
        return example.refused[companion][1]
    for feature in wanted.features:
        if feature in control.conflicts:
            return control.conflicts[feature]
    if control.is_timed and Feature.KEY_FRAMES in wanted.features:
        return EACH_SECTION
    uses = [*uses_of_controls((control,)), *([Feature.SOURCE] if "strength" in example.given else [])]
    conflicts = METHODS[wanted.method].conflicts if wanted.method else {}
    if wanted.rounds:
        conflicts = METHODS["off"].round_conflicts
    return next((conflicts[use] for use in uses if use in conflicts), None)


def reason_against_both(one: str, other: str) -> str | None:
    """Why two controls, or two of the same, do not work together; None where they do."""
    return CONTROLS[one].conflicts.get(other) or CONTROLS[other].conflicts.get(one)


def lacks(name: str, companion: str) -> bool:
    """Whether no model of a control has the companion."""
    return not set(bases_of(name)) & set(COMPANIONS[companion].bases)


def pairs() -> list[tuple[str, str]]:
    """All pairs of controls, and each control with itself."""
    return [*combinations(CONTROLS, 2), *((name, name) for name in CONTROLS)]


def cell(name: str, companion: str) -> str:
    """What the table says of a control and a companion."""
    if lacks(name, companion):
        return "–"
    if reason_against(name, companion):
        return "no"
    return "not per frame" if EXAMPLES[name].timed and reason_against(name, companion, timed=True) else "yes"


def pair_cell(one: str, other: str) -> str:
    """What the table says of two controls."""
    if reason_against_both(one, other):
        return "no"
    return "yes" if shared_bases(one, other) else "–"


def markdown() -> str:
    """The table of the documentation, and the reasons of what is refused."""
    titles = [control.title for control in CONTROLS.values()]
    rows = [["with", *titles], ["---"] * (1 + len(titles))]
    for companion, wanted in COMPANIONS.items():
        shown = f"`{companion}`" if wanted.method else companion
        rows.append([shown, *(cell(name, companion) for name in CONTROLS)])
    rows += [[row, *("no" if row in EXAMPLES[name].refused else "yes" for name in CONTROLS)] for row in IN_COMFYUI]
    rows += [[control.title, *(pair_cell(name, other) for other in CONTROLS)] for name, control in CONTROLS.items()]
    return "\n".join([*("".join(f"| {each} " for each in row) + "|" for row in rows), "", *_reasons()])


def _reasons() -> list[str]:
    """A line for each reason, with what it is for."""
    found: dict[str, dict[str, list[str]]] = {}
    for name, control in CONTROLS.items():
        for companion in COMPANIONS:
            timed = bool(EXAMPLES[name].timed)
            why = None if lacks(name, companion) else reason_against(name, companion, timed=timed)
            if why:
                title = f"{control.title} (per frame)" if timed else control.title
                found.setdefault(why, {}).setdefault(companion, []).append(title)
        for row in filter(EXAMPLES[name].refused.__contains__, IN_COMFYUI):
            found.setdefault(EXAMPLES[name].refused[row][1], {}).setdefault(row, []).append(control.title)
        for other, second in CONTROLS.items():
            why = control.conflicts.get(other) if isinstance(other, str) else None
            if why:
                found.setdefault(why, {}).setdefault(second.title, []).append(control.title)
    lines = []
    for why, companions in found.items():
        controls = list(dict.fromkeys(title for titles in companions.values() for title in titles))
        line = f"- {', '.join(controls)} with {', '.join(companions)}: {why}."
        lines += wrap(line, 120, subsequent_indent="  ", break_on_hyphens=False)
    return lines
