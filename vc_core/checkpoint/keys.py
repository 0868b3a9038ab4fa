"""The names that tensors have in published files, as data, and the sorting of a file's tensors by them.

A published checkpoint holds five parts, each under a prefix of its own, beside the buffers of the noise schedule. Files
with one part alone usually drop the prefix; `BARE` says by which names such a part is known.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

Part = Literal["unet", "autoencoder", "text_encoder", "image_encoder", "image_tokens"]

PREFIXES: dict[Part, str] = {
    "unet": "model.diffusion_model.",
    "autoencoder": "first_stage_model.",
    "text_encoder": "cond_stage_model.",
    "image_encoder": "embedder.",
    "image_tokens": "image_proj_model.",
}

PART_TITLES: dict[Part, str] = {
    "unet": "video UNet",
    "autoencoder": "autoencoder (VAE)",
    "text_encoder": "text encoder (CLIP)",
    "image_encoder": "image encoder (CLIP vision)",
    "image_tokens": "image tokens",
}

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
        r"(first_stage_model\.)?loss\.",
        r"(cond_stage_model\.model\.|embedder\.model\.|model\.)?attn_mask$",
        r"embedder\.(mean|std)$",
        r"cond_stage_model\.model\.visual\.",
        r"uncond_(type|embedding)$",
        r"(v_pred|ztsnr)$",
    )
)
"""Leftovers of training and of other uses, and ComfyUI's marks of what is predicted, which the spec says; harmless to
inference: listed, then ignored."""

WRAPPERS = ("state_dict", "module", "model", "model_state_dict")
"""Names under which a saved dict may hold the tensors, looked for in this order."""

RENAMED_PREFIXES: dict[str, str] = {"framestride_embed.": "fps_embedding."}
"""Modules of the UNet that some published files call by another name."""


@dataclass(frozen=True)
class Bare:
    """How a part is known in a file that has dropped its prefix: `marker` is there, names begin with `starts`."""

    part: Part
    marker: str
    starts: tuple[str, ...]
    strip: str = ""
    add: str = ""


_CLIP_REST = ("token_embedding.", "positional_embedding", "ln_final.", "text_projection", "logit_scale")
_CLIP_TEXT = ("transformer.", *_CLIP_REST)

BARE = (
    Bare(
        "unet",
        "input_blocks.0.0.weight",
        (
            "time_embed.",
            "fps_embedding.",
            "framestride_embed.",
            "time_cond_proj.",
            "motion_cond_proj.",
            "combine_proj.",
            "input_blocks.",
            "init_attn.",
            "middle_block.",
            "output_blocks.",
            "out.",
        ),
    ),
    Bare("autoencoder", "decoder.conv_in.weight", ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")),
    Bare("text_encoder", "transformer.resblocks.0.ln_1.weight", _CLIP_TEXT, add="model."),
    Bare(
        "text_encoder",
        "model.transformer.resblocks.0.ln_1.weight",
        tuple("model." + start for start in _CLIP_TEXT),
    ),
    Bare("image_encoder", "visual.class_embedding", ("visual.", *_CLIP_REST), add="model."),
    Bare("image_encoder", "model.visual.class_embedding", ("model.",)),
    Bare("image_tokens", "latents", ("latents", "layers.", "proj_in.", "proj_out.", "norm_out.")),
    Bare("image_tokens", "proj.weight", ("proj.", "norm.")),
)


@dataclass(frozen=True)
class Contents:
    """The tensors of one or more files, sorted. Names in `parts` are those of our modules, without prefixes."""

    parts: dict[Part, dict[str, Tensor]] = field(default_factory=dict)
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
    """Sort a file's tensors into parts. `left_over` names what the reader has already found to be no tensor."""
    parts: dict[Part, dict[str, Tensor]] = {}
    schedule: dict[str, Tensor] = {}
    ignored = list(left_over)
    bare: dict[str, Tensor] = {}
    for name, tensor in unwrap_names(tensors).items():
        part = _published_part(name)
        if any(pattern.match(name) for pattern in IGNORED):
            ignored.append(name)
        elif part is not None:
            parts.setdefault(part, {})[_renamed(part, name.removeprefix(PREFIXES[part]))] = tensor
        elif name in SCHEDULE:
            schedule[name] = tensor
        else:
            bare[name] = tensor
    unknown = _sort_bare(bare, parts)
    return Contents(parts, schedule, tuple(ignored), unknown)


def unwrap_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with the prefixes removed that DeepSpeed and other wrappers put before the published names."""
    wrapper = _wrapper_prefix(tensors)
    return {name.removeprefix(wrapper): tensor for name, tensor in tensors.items()}


def _wrapper_prefix(names: Iterable[str]) -> str:
    """What stands before the first published prefix (`_forward_module.` in DeepSpeed's files)."""
    pattern = re.compile(r"(?P<wrapper>(?:[A-Za-z_]\w*\.)*?)(?:" + "|".join(map(re.escape, PREFIXES.values())) + ")")
    for name in names:
        match = pattern.match(name)
        if match and not any(ignorable.match(name) for ignorable in IGNORED):
            return match["wrapper"]
    for name in names:
        if name.startswith("_forward_module."):
            return "_forward_module."
    return ""


def _published_part(name: str) -> Part | None:
    return next((part for part, prefix in PREFIXES.items() if name.startswith(prefix)), None)


def _renamed(part: Part, name: str) -> str:
    if part == "unet":
        for theirs, ours in RENAMED_PREFIXES.items():
            if name.startswith(theirs):
                return ours + name.removeprefix(theirs)
    return name


def _sort_bare(bare: dict[str, Tensor], parts: dict[Part, dict[str, Tensor]]) -> tuple[str, ...]:
    """Move the tensors of parts without prefix from `bare` into `parts`; what stays is returned by name."""
    for rule in BARE:
        if rule.marker not in bare or rule.part in parts:
            continue
        for name in [name for name in bare if name.startswith(rule.starts)]:
            ours = rule.add + _renamed(rule.part, name.removeprefix(rule.strip))
            parts.setdefault(rule.part, {})[ours] = bare.pop(name)
    return tuple(bare)
