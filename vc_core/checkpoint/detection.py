"""TENSORS -> SPEC: which model a file holds, read from names and shapes and never from the file's name.

What they cannot give (prediction, rescale, heads, defaults) comes from our own metadata, from the preset that was
chosen, or, under "auto", from the published model that fits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError
from ..specs import PRESETS, TITLES, VIDEOCRAFTER2, DiffusionSpec, ModelSpec, from_json
from . import foreign
from .keys import Contents, shapes_of, sort_tensors
from .parts import PARTS, Base, Fields, MissingTensorError, Part
from .plausible import check_numbers, check_spec
from .reading import METADATA_KEY

AUTO = "auto"

IN_MODEL = frozenset(item.name for item in fields(ModelSpec))
"""Names of the parts whose numbers are in the spec of a model; those of others are `Detection.others`."""


@dataclass(frozen=True)
class Detection:
    """What a file holds. `title` is for people; `notes` say what was assumed; `others` are the specs of parts that
    belong to no model (see `IN_MODEL`).

    `chosen` is true when the user chose the noise schedule, by a preset or a spec: it then replaces the file's own.
    """

    spec: ModelSpec
    contents: Contents
    title: str
    chosen: bool = False
    notes: tuple[str, ...] = ()
    others: Mapping[str, Any] = field(default_factory=dict)

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts that are there, in the order of `PARTS`."""
        return tuple(name for name in PARTS if name in self.contents.parts)

    def part_spec(self, part: str) -> Any:
        """The spec of one part; None where the model has none."""
        return getattr(self.spec, part) if part in IN_MODEL else self.others.get(part)


def detect(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None, preset: str | ModelSpec = AUTO
) -> Detection:
    """The model in one file, by the names it uses. Tensors may be on `meta`.

    `preset` is "auto", a name in `PRESETS`, or a spec. Raises UserError when the file is not one of ours (saying what
    it seems to be), when the preset contradicts the tensors, and when the parts do not fit together.
    """
    return detect_contents(sort_tensors(tensors), metadata, preset)


def detect_contents(
    contents: Contents, metadata: Mapping[str, str] | None = None, preset: str | ModelSpec = AUTO
) -> Detection:
    """As `detect`, for tensors that are sorted already (of several files, for example)."""
    _refuse_foreign(contents)
    measured = {PARTS[name]: _measure(PARTS[name], tensors) for name, tensors in contents.parts.items()}
    start = _start(contents, measured, dict(metadata or {}), preset)
    completed = {part.name: _complete(part, start, numbers) for part, numbers in measured.items()}
    spec = replace(start.spec, **{name: value for name, value in completed.items() if name in IN_MODEL})
    if start.schedule is None:
        spec = replace(spec, diffusion=_diffusion(spec, contents))
    else:
        chosen = start.schedule
        spec = replace(spec, name=chosen.name, diffusion=chosen.diffusion, defaults=chosen.defaults, views=chosen.views)
    _check_plausible(spec)
    _check_parts_fit(spec, contents)
    others = {name: value for name, value in completed.items() if name not in IN_MODEL}
    return Detection(spec, contents, _title(spec, contents), start.schedule is not None, start.notes, others)


def _refuse_foreign(contents: Contents) -> None:
    """The UNets of other models have the same prefix as ours, so its names are looked at as well."""
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys((*contents.unknown, *contents.ignored), ())
    shapes.update(shapes_of(contents.parts.get("unet", {})))
    rule = foreign.identify(shapes)
    if rule is not None:
        raise UserError(f"This file is not a VideoCrafter model: it seems to be {rule.title}. {rule.cure}.")
    if not contents.parts:
        names = foreign.some(contents.unknown or tuple(contents.schedule) or contents.ignored)
        raise UserError(
            f"This file is not a VideoCrafter model, and nothing in it is recognised (its tensors: {names}). Give a "
            "VideoCrafter1 or 2 checkpoint, or one of its parts."
        )


def _measure(part: Part, tensors: Mapping[str, Tensor]) -> Fields:
    try:
        return part.measure(shapes_of(tensors))
    except MissingTensorError as error:
        raise UserError(
            f"The {part.title} in this file is not complete: {error}. The file is damaged or of another model; "
            "download it again."
        ) from error


@dataclass(frozen=True)
class _Start:
    """The spec to complete, whether it must agree with the tensors in every number, and whose schedule is used."""

    spec: ModelSpec
    exact: bool
    schedule: ModelSpec | None = None
    notes: tuple[str, ...] = ()


def _complete(part: Part, start: _Start, measured: Fields) -> Any:
    known = part.name in IN_MODEL
    spec = getattr(start.spec, part.name) if known else None
    return part.complete(Base(start.spec.name, spec, start.exact and known), measured)


def _start(
    contents: Contents, measured: Mapping[Part, Fields], metadata: Mapping[str, str], preset: str | ModelSpec
) -> _Start:
    if isinstance(preset, ModelSpec):
        return _Start(preset, exact=True, schedule=preset)
    if preset != AUTO and preset not in PRESETS:
        raise UserError(f"There is no preset {preset!r}. Allowed: {AUTO}, {', '.join(PRESETS)}.")
    chosen = PRESETS.get(preset)
    unet = measured.get(PARTS["unet"])
    if chosen is not None and unet is not None:
        _check_kind(chosen, unet)
    if METADATA_KEY in metadata:
        return _Start(_own_spec(metadata[METADATA_KEY]), exact=True, schedule=chosen)
    if chosen is not None:
        return _Start(chosen, exact=False, schedule=chosen)
    if unet is None:
        return _Start(VIDEOCRAFTER2, exact=False)
    return _published(contents, measured)


def _own_spec(text: str) -> ModelSpec:
    try:
        spec = from_json(text)
        check_spec(spec)
        return spec
    except (ValueError, TypeError) as error:
        raise UserError(
            f"The spec in this file's metadata cannot be used: {error}. Convert the original checkpoint again, "
            "with this version."
        ) from error


def _check_kind(preset: ModelSpec, unet: Fields) -> None:
    wrong = [
        f"{name} is {unet[name]} in the file and {getattr(preset.unet, name)} in the preset"
        for name in (*PARTS["unet"].kind, "in_channels")
        if getattr(preset.unet, name) != unet[name]
    ]
    if wrong:
        fitting = " or ".join((AUTO, *(spec.name for spec in _of_kind(unet))))
        raise UserError(f"The preset {preset.name} does not fit this file: {'; '.join(wrong)}. Choose {fitting}.")


def _of_kind(unet: Fields) -> list[ModelSpec]:
    return [spec for spec in PRESETS.values() if PARTS["unet"].of_kind(spec.unet, unet)]


def _published(contents: Contents, measured: Mapping[Part, Fields]) -> _Start:
    """The published model of the same kind as these numbers: of its UNet, and of its other parts where present."""
    unet = measured[PARTS["unet"]]
    same = _of_kind(unet)
    if not same:
        kind = ", ".join(f"{name}={unet[name]}" for name in PARTS["unet"].kind)
        note = f"No published model is of this kind ({kind}); VideoCrafter2's schedule and defaults are assumed."
        return _Start(replace(VIDEOCRAFTER2, name="custom"), exact=False, notes=(note,))
    for part, numbers in measured.items():
        same = _prefer(same, [part.of_kind(getattr(spec, part.name, None), numbers) for spec in same])
    notes = []
    if unet["model_channels"] != VIDEOCRAFTER2.unet.model_channels:
        notes.append("The file holds no spec and its model is of no published size: norm groups and heads are guessed.")
    if contents.schedule:
        same = _of_schedule(same, contents)
    else:
        notes.append(f"The file has no noise schedule; that of {TITLES[same[0].name]} is used.")
    if len(same) > 1:
        others = " and ".join(TITLES[spec.name] for spec in same[1:])
        notes.append(f"Its tensors could also be those of {others}: choose that preset if so.")
    return _Start(same[0], exact=False, notes=tuple(notes))


def _of_schedule(specs: list[ModelSpec], contents: Contents) -> list[ModelSpec]:
    """Those that have the rescale of the file's own schedule."""
    rescaled, last = "scale_arr" in contents.schedule, _last_scale(contents)
    specs = _prefer(specs, [(spec.diffusion.rescale is not None) == rescaled for spec in specs])
    return _prefer(specs, [spec.diffusion.rescale == last for spec in specs])


def _prefer(specs: list[ModelSpec], fits: list[bool]) -> list[ModelSpec]:
    """Those that fit; all of them where none does."""
    return [spec for spec, fit in zip(specs, fits, strict=True) if fit] or specs


def _last_scale(contents: Contents) -> float | None:
    """The value that the rescale of the file's own schedule falls to, where its numbers are at hand."""
    scale = contents.schedule.get("scale_arr")
    if scale is None or scale.device.type == "meta" or scale.numel() == 0:
        return None
    last = float(scale[-1].to(torch.float64))
    known = {spec.diffusion.rescale for spec in PRESETS.values() if spec.diffusion.rescale is not None}
    return next((value for value in known if abs(value - last) < 1e-3), round(last, 4))


def _diffusion(spec: ModelSpec, contents: Contents) -> DiffusionSpec:
    """With the rescale that the file's own schedule shows. Models with a guidance embedding were distilled without it,
    whatever their file kept of the one they were made from."""
    diffusion = spec.diffusion
    if not contents.schedule or spec.embeds_guidance:
        return diffusion
    if "scale_arr" not in contents.schedule:
        return replace(diffusion, rescale=None)
    last = _last_scale(contents)
    return diffusion if last is None else replace(diffusion, rescale=last)


def _check_plausible(spec: ModelSpec) -> None:
    """Numbers follow from the file's shapes, which may be anything."""
    try:
        check_numbers(spec, "spec")
    except ValueError as error:
        raise UserError(
            f"No VideoCrafter model has the shapes in this file: {error}. The file is damaged or of another model; "
            "download it again."
        ) from error


def _check_parts_fit(spec: ModelSpec, contents: Contents) -> None:
    """Parts of one file must fit each other; a part alone is checked by who joins them."""
    for part in PARTS.values():
        if part.fits is not None and "unet" in contents.parts and part.name in contents.parts:
            part.fits(spec)


def _title(spec: ModelSpec, contents: Contents) -> str:
    if "unet" not in contents.parts:
        names = [f"the {part.title}" for part in PARTS.values() if part.name in contents.parts]
        decoder = ", with ToonCrafter's decoder," if spec.sees_ends else ""
        return " and ".join(names) + decoder + " without a UNet"
    published = PRESETS.get(spec.name)
    if published is not None and published.unet == spec.unet and published.diffusion == spec.diffusion:
        return TITLES[spec.name]
    kind = "an image-to-video" if spec.reads_images else "a text-to-video"
    return f"{kind} model of VideoCrafter's architecture ({spec.name}, {spec.unet.model_channels} channels)"
