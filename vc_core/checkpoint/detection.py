"""TENSORS -> SPEC: which model a file holds, told by names and shapes and never by the file's name.

What they cannot tell (prediction, rescale, heads, defaults) comes from our own metadata, from the preset that was
chosen, or, under "auto", from the published model that fits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..errors import UserError
from ..specs import (
    PRESETS,
    VIDEOCRAFTER2,
    AutoencoderSpec,
    DiffusionSpec,
    ImageEncoderSpec,
    LinearTokensSpec,
    ModelSpec,
    ResamplerSpec,
    TextEncoderSpec,
    UNetSpec,
    from_json,
)
from . import foreign, measuring
from .keys import PART_TITLES, Contents, Part, sort_tensors
from .measuring import Fields, MissingTensorError
from .plausible import check_spec
from .reading import METADATA_KEY

AUTO = "auto"
TITLES = {
    "videocrafter2_512": "VideoCrafter2 (T2V-512)",
    "videocrafter1_t2v_1024": "VideoCrafter1 T2V-1024",
    "videocrafter1_t2v_512": "VideoCrafter1 T2V-512",
    "videocrafter1_i2v_512": "VideoCrafter1 I2V-512",
    "videocrafter1_t2v_512_october_2023": "VideoCrafter1 T2V-512 of October 2023",
    "videocrafter1_t2v_256": "VideoCrafter1 T2V-256",
    "dynamicrafter_256": "DynamiCrafter 256",
    "dynamicrafter_512": "DynamiCrafter 512",
    "dynamicrafter_512_interp": "DynamiCrafter 512 for interpolation and loops",
    "tooncrafter_512": "ToonCrafter 512",
    "dynamicrafter_1024": "DynamiCrafter 1024",
    "t2v_turbo_vc2": "T2V-Turbo on VideoCrafter2",
    "t2v_turbo_v2": "T2V-Turbo v2",
}

KIND_FIELDS = (
    *("temporal_conv", "relative_position", "fps_condition", "image_attention"),
    *("concat_channels", "image_gate", "guidance_width", "motion_width"),
)
"""Fields that make the kind of a UNet; all others are sizes."""

Spec = TypeVar(
    "Spec",
    UNetSpec,
    AutoencoderSpec,
    TextEncoderSpec,
    ImageEncoderSpec,
    ResamplerSpec,
    LinearTokensSpec,
)


@dataclass(frozen=True)
class Detection:
    """What a file holds. `title` is for people; `notes` say what was assumed.

    `chosen` is true when the user chose the noise schedule, by a preset or a spec: it then rules over the file's own.
    """

    spec: ModelSpec
    contents: Contents
    title: str
    chosen: bool = False
    notes: tuple[str, ...] = ()

    @property
    def parts(self) -> tuple[Part, ...]:
        """The parts that are there, in the order of `PREFIXES`."""
        return tuple(part for part in PART_TITLES if part in self.contents.parts)


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
    told = {part: _measure(part, tensors) for part, tensors in contents.parts.items()}
    start = _start(contents, told, dict(metadata or {}), preset)
    spec = _filled(start.spec, told, start.exact)
    if start.schedule is None:
        spec = replace(spec, diffusion=_diffusion(spec, contents))
    else:
        chosen = start.schedule
        spec = replace(spec, name=chosen.name, diffusion=chosen.diffusion, defaults=chosen.defaults)
    _check_parts_fit(spec, contents)
    return Detection(spec, contents, _title(spec, contents), start.schedule is not None, start.notes)


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _refuse_foreign(contents: Contents) -> None:
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys((*contents.unknown, *contents.ignored), ())
    for part, tensors in contents.parts.items():
        before = "" if part == "unet" else f"{part}."
        shapes.update({before + name: shape for name, shape in _shapes(tensors).items()})
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
    shapes = _shapes(tensors)
    try:
        if part != "image_tokens":
            return measuring.MEASURES[part](shapes)
        return measuring.resampler(shapes) if "latents" in shapes else measuring.linear_tokens(shapes)
    except MissingTensorError as error:
        raise UserError(
            f"The {PART_TITLES[part]} in this file is not complete: {error}. The file is damaged or of another model; "
            "download it again."
        ) from error


@dataclass(frozen=True)
class _Start:
    """The spec to fill in, whether it must agree with the tensors in every number, and whose schedule rules."""

    spec: ModelSpec
    exact: bool
    schedule: ModelSpec | None = None
    notes: tuple[str, ...] = ()


def _start(
    contents: Contents, told: Mapping[Part, Fields], metadata: Mapping[str, str], preset: str | ModelSpec
) -> _Start:
    if isinstance(preset, ModelSpec):
        return _Start(preset, exact=True, schedule=preset)
    if preset != AUTO and preset not in PRESETS:
        raise UserError(f"There is no preset {preset!r}. Allowed: {AUTO}, {', '.join(PRESETS)}.")
    chosen = PRESETS.get(preset)
    if chosen is not None and "unet" in told:
        _check_kind(chosen, told["unet"])
    if METADATA_KEY in metadata:
        return _Start(_own_spec(metadata[METADATA_KEY]), exact=True, schedule=chosen)
    if chosen is not None:
        return _Start(chosen, exact=False, schedule=chosen)
    if "unet" not in told:
        return _Start(VIDEOCRAFTER2, exact=False)
    return _published(contents, told)


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
        for name in (*KIND_FIELDS, "in_channels")
        if getattr(preset.unet, name) != unet[name]
    ]
    if wrong:
        fitting = " or ".join((AUTO, *(spec.name for spec in _of_kind(unet))))
        raise UserError(f"The preset {preset.name} does not fit this file: {'; '.join(wrong)}. Choose {fitting}.")


def _of_kind(unet: Fields) -> list[ModelSpec]:
    return [spec for spec in PRESETS.values() if all(getattr(spec.unet, name) == unet[name] for name in KIND_FIELDS)]


def _published(contents: Contents, told: Mapping[Part, Fields]) -> _Start:
    """The published model of the same kind as these fields: of its UNet, and of its decoder where that is there."""
    unet = told["unet"]
    same = _of_kind(unet)
    if "autoencoder" in told:
        references = told["autoencoder"]["reference_levels"]
        same = [spec for spec in same if spec.autoencoder.reference_levels == references] or same
    if not same:
        kind = ", ".join(f"{name}={unet[name]}" for name in KIND_FIELDS)
        note = f"No published model is of this kind ({kind}); VideoCrafter2's schedule and defaults are assumed."
        return _Start(replace(VIDEOCRAFTER2, name="custom"), exact=False, notes=(note,))
    notes = []
    if unet["model_channels"] != VIDEOCRAFTER2.unet.model_channels:
        notes.append("The file holds no spec and its model is of no published size: norm groups and heads are guessed.")
    if contents.schedule:
        rescaled = "scale_arr" in contents.schedule
        same = [spec for spec in same if (spec.diffusion.rescale is not None) == rescaled] or same
        last = _last_scale(contents)
        same = [spec for spec in same if spec.diffusion.rescale == last] or same
    else:
        notes.append(f"The file has no noise schedule; that of {TITLES[same[0].name]} is used.")
    if len(same) > 1:
        others = " and ".join(TITLES[spec.name] for spec in same[1:])
        notes.append(f"Its tensors could also be those of {others}: choose that preset if so.")
    return _Start(same[0], exact=False, notes=tuple(notes))


def _filled(base: ModelSpec, told: Mapping[Part, Fields], exact: bool) -> ModelSpec:
    """`base` with the fields the tensors tell; an exact base must not contradict them."""
    changes: dict[str, Any] = {}
    if "unet" in told:
        changes["unet"] = _part(base.unet, told["unet"], "unet", base.name, exact)
        changes["unet"] = _with_norm_groups(changes["unet"], exact)
    if "autoencoder" in told:
        changes["autoencoder"] = _part(base.autoencoder, told["autoencoder"], "autoencoder", base.name, exact)
    if "text_encoder" in told:
        text = _part(base.text_encoder, told["text_encoder"], "text_encoder", base.name, exact)
        changes["text_encoder"] = text if exact else _with_heads(text)
    if "image_encoder" in told:
        start = base.image_encoder
        sure = exact and start is not None
        image = _part(start or ImageEncoderSpec(), told["image_encoder"], "image_encoder", base.name, sure)
        if not sure and image.width != ImageEncoderSpec().width:
            image = replace(image, head_width=64 if image.width % 64 == 0 else image.width)
        changes["image_encoder"] = image
    if "image_tokens" in told:
        changes["image_tokens"] = _image_tokens(base, told["image_tokens"], exact)
    return replace(base, **changes)


def _part(start: Spec, told: Fields, part: Part, name: str, exact: bool) -> Spec:
    if exact:
        wrong = [
            f"{field}: {getattr(start, field)} in {name}, {value} in the file"
            for field, value in told.items()
            if getattr(start, field) != value
        ]
        if wrong:
            raise UserError(
                f"The {PART_TITLES[part]} in this file is not that of {name} ({'; '.join(wrong)}). Choose the preset "
                f"{AUTO!r}, or the one that belongs to the file."
            )
    return replace(start, **told)


def _with_heads(text: TextEncoderSpec) -> TextEncoderSpec:
    """OpenCLIP's heads are 64 wide. A ViT-H file without its last layer would silently give another layer's output."""
    published = TextEncoderSpec()
    if text.width == published.width and text.layers == published.layers - 1:
        raise UserError(
            f"The text encoder in this file has {text.layers} layers instead of {published.layers}: its last layer was "
            "pruned away. Give the unpruned file."
        )
    return replace(text, heads=max(1, text.width // 64))


def _with_norm_groups(unet: UNetSpec, exact: bool) -> UNetSpec:
    """Published UNets normalise in 32 groups; one too narrow for that gets the most that divide it."""
    groups = unet.norm_groups
    while not exact and unet.model_channels % groups:
        groups //= 2
    return replace(unet, norm_groups=groups)


def _image_tokens(base: ModelSpec, told: Fields, exact: bool) -> ResamplerSpec | LinearTokensSpec:
    start = base.image_tokens
    known = {field.name for field in fields(ResamplerSpec)}
    if "inner" not in told:
        exact = exact and isinstance(start, LinearTokensSpec)
        linear = start if isinstance(start, LinearTokensSpec) else LinearTokensSpec()
        return _part(linear, told, "image_tokens", base.name, exact)
    sure = exact and isinstance(start, ResamplerSpec)
    resampler = start if isinstance(start, ResamplerSpec) else ResamplerSpec()
    inner = told["inner"]
    sizes = {name: value for name, value in told.items() if name in known}
    frames = _token_frames(resampler, told["queries"], sure)
    if frames:
        sizes["queries"] //= frames
    sizes["frames"] = frames
    if sure and resampler.heads * resampler.head_channels == inner:
        return _part(resampler, sizes, "image_tokens", base.name, True)
    width = resampler.head_channels if inner % resampler.head_channels == 0 else inner
    return _part(resampler, {**sizes, "heads": inner // width, "head_channels": width}, "image_tokens", base.name, sure)


def _token_frames(start: ResamplerSpec, queries: int, sure: bool) -> int | None:
    """Over how many frames the queries are spread. Published: 16 for all frames, or 16 for each of 16 (DynamiCrafter);
    a spec that fits knows better."""
    for spec in (start, ResamplerSpec(), ResamplerSpec(frames=16)):
        if queries == spec.queries * (spec.frames or 1):
            return spec.frames
    return start.frames if sure or (start.frames and queries % start.frames == 0) else None


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
    if not contents.schedule or spec.unet.guidance_width:
        return diffusion
    if "scale_arr" not in contents.schedule:
        return replace(diffusion, rescale=None)
    last = _last_scale(contents)
    return diffusion if last is None else replace(diffusion, rescale=last)


def _check_parts_fit(spec: ModelSpec, contents: Contents) -> None:
    """Parts of one file must fit each other; a part alone is checked by who joins them."""
    if "unet" in contents.parts and "text_encoder" in contents.parts:
        check_text_width(spec.unet, spec.text_encoder)
    if "unet" in contents.parts and "image_tokens" in contents.parts and spec.image_tokens is not None:
        check_image_width(spec.unet, spec.image_tokens)


def check_image_width(unet: UNetSpec, tokens: ResamplerSpec | LinearTokensSpec) -> None:
    """Raise UserError when the image tokens are not as wide as the UNet's cross-attention expects."""
    if tokens.output_dim != unet.context_dim:
        raise UserError(
            f"The image tokens are {tokens.output_dim} wide, but this UNet reads {unet.context_dim}. Give the "
            "parts of one model."
        )


def check_text_width(unet: UNetSpec, text: TextEncoderSpec) -> None:
    """Raise UserError when the text encoder's tokens are not as wide as the UNet's cross-attention expects."""
    if text.width != unet.context_dim:
        raise UserError(
            f"The text encoder (CLIP) is {text.width} wide, but this UNet reads text of {unet.context_dim}. Give the "
            "text encoder that belongs to the model (published VideoCrafter models: OpenCLIP ViT-H-14, 1024 wide)."
        )


def _title(spec: ModelSpec, contents: Contents) -> str:
    if "unet" not in contents.parts:
        names = [PART_TITLES[part] for part in PART_TITLES if part in contents.parts]
        owner = "" if spec.autoencoder.reference_levels is None else ", with ToonCrafter's decoder,"
        return " and ".join(names) + owner + " without a UNet"
    published = PRESETS.get(spec.name)
    if published is not None and published.unet == spec.unet and published.diffusion == spec.diffusion:
        return TITLES[spec.name]
    kind = "an image-to-video" if spec.unet.image_attention else "a text-to-video"
    return f"{kind} model of VideoCrafter's architecture ({spec.name}, {spec.unet.model_channels} channels)"
