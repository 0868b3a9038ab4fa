"""NAMES -> PARTS: the names that tensors have in published files, and the sorting of a file's tensors by them.

A published checkpoint holds several parts, each under a prefix of its own, beside the buffers of the noise schedule.
Files with one part alone usually drop the prefix; the part's layouts say by which names it is then recognised.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from .parts import PARTS, Part, Shapes
from .parts.part import CHANGED

SCHEDULE = (
    "betas",
    "alphas_cumprod",
    "alphas_cumprod_prev",
    "sqrt_alphas_cumprod",
    "sqrt_one_minus_alphas_cumprod",
    "log_one_minus_alphas_cumprod",
    "sqrt_recip_alphas_cumprod",
    "sqrt_recipm1_alphas_cumprod",
    "posterior_variance",
    "posterior_log_variance_clipped",
    "posterior_mean_coef1",
    "posterior_mean_coef2",
    "scale_arr",
)
"""Buffers of the noise schedule, stored without a prefix."""

IGNORED = tuple(
    re.compile(pattern)
    for pattern in (
        r"model_ema\.",
        r"(ema|optimizer|optimizer_states|lr_schedulers|loops|callbacks|scheduler)(\.|$)",
        r"(lvlb_weights|logvar|learning_logvar|global_step|epoch|num_updates|decay)$",
        r"uncond_(type|embedding)$",
        r"(v_pred|ztsnr)$",
        *(pattern for part in PARTS.values() for pattern in part.ignored),
    )
)
"""Leftovers of training and of other uses, and ComfyUI's marks of the prediction, which the spec holds; harmless to
inference: listed, then ignored."""

PREFIXED = tuple(part for part in PARTS.values() if part.prefix)
ADDED = tuple(part for part in PARTS.values() if part.inside is not None or part.beside)
"""Parts that are added to a UNet, which have the tensors among its own that they claim."""
FIRST = "input_blocks.0.0.weight"
"""The tensor of a UNet that a file with only some of them does not have."""
LAYOUTS = sorted(
    ((part, layout) for part in PARTS.values() for layout in part.layouts), key=lambda pair: pair[1].shape is None
)
"""Parts in files without prefixes; those recognised by a shape, which are the more particular, come first."""

WRAPPERS = ("state_dict", "module", "model", "model_state_dict")
"""Names under which a saved dict may hold the tensors, looked for in this order."""


@dataclass(frozen=True)
class Contents:
    """The tensors of one or more files, sorted. Names in `parts` are those of our modules, without prefixes."""

    parts: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    schedule: dict[str, Tensor] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()

    def merged(self, other: Contents) -> Contents:
        """Both together; a part that `other` has replaces ours."""
        return Contents(
            {**self.parts, **other.parts},
            other.schedule or self.schedule,
            self.ignored + other.ignored,
            self.unknown + other.unknown,
        )


def sort_tensors(tensors: Mapping[str, Tensor], left_over: Iterable[str] = ()) -> Contents:
    """Sort a file's tensors into parts. `left_over` are names of entries that are not tensors."""
    parts: dict[str, dict[str, Tensor]] = {}
    schedule: dict[str, Tensor] = {}
    ignored = list(left_over)
    bare: dict[str, Tensor] = {}
    unwrapped = unwrap_names(tensors)
    added = [part for part in ADDED if part.mark is None or any(map(part.mark.match, unwrapped))]
    for name, tensor in unwrapped.items():
        found = _placed(name, added)
        if any(pattern.match(name) for pattern in IGNORED):
            ignored.append(name)
        elif found is not None:
            part, ours = found
            parts.setdefault(part.name, {})[ours] = tensor
        elif name in SCHEDULE:
            schedule[name] = tensor
        else:
            bare[name] = tensor
    unknown = _sort_bare(bare, parts)
    _sort_changed(parts, added)
    return Contents(parts, schedule, tuple(ignored), unknown)


def _placed(name: str, added: Iterable[Part]) -> tuple[Part, str] | None:
    """The part that a tensor belongs to by its name in the file, and our name; None where the name does not say.
    added: the parts of the file that are added to a UNet."""
    for part in added:
        ours = part.added(name)
        if ours is not None:
            return part, ours
    for part in PREFIXED:
        if name.startswith(part.prefix):
            return part, part.published(name.removeprefix(part.prefix))
    return None


def _sort_changed(parts: dict[str, dict[str, Tensor]], added: Iterable[Part]) -> None:
    """Of a file with a part that is added to a UNet, and only some of the UNet's own tensors: these become the part's,
    which replaces those of the model with them."""
    owner = next((part.name for part in added if part.name in parts), None)
    if owner is not None and "unet" in parts and FIRST not in parts["unet"]:
        parts[owner].update({CHANGED + name: tensor for name, tensor in parts.pop("unet").items()})


def unwrap_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with the prefixes removed that DeepSpeed and other wrappers put before the published names."""
    wrapper = _wrapper_prefix(tensors)
    return {name.removeprefix(wrapper): tensor for name, tensor in tensors.items()}


def _wrapper_prefix(names: Iterable[str]) -> str:
    """What comes before the first published prefix (`_forward_module.` in DeepSpeed's files)."""
    prefixes = "|".join(re.escape(part.prefix) for part in PREFIXED)
    pattern = re.compile(rf"(?P<wrapper>(?:[A-Za-z_]\w*\.)*?)(?:{prefixes})")
    for name in names:
        match = pattern.match(name)
        if match and not any(ignorable.match(name) for ignorable in IGNORED):
            return match["wrapper"]
    for name in names:
        if name.startswith("_forward_module."):
            return "_forward_module."
    return ""


def shapes_of(tensors: Mapping[str, Tensor]) -> Shapes:
    """The shapes of tensors, by their names."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _sort_bare(bare: dict[str, Tensor], parts: dict[str, dict[str, Tensor]]) -> tuple[str, ...]:
    """Move the tensors of parts without prefix from `bare` into `parts`; what is left is returned by name."""
    for part, layout in LAYOUTS:
        if part.name in parts or not layout.recognises(shapes_of(bare)):
            continue
        for name in [name for name in bare if name.startswith(layout.starts)]:
            parts.setdefault(part.name, {})[layout.add + part.published(name)] = bare.pop(name)
    return tuple(bare)
