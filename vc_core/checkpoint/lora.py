"""LORA FILES -> WEIGHT CHANGES of a UNet: low-rank changes W += strength * up @ down (arXiv:2106.09685).

Four kinds of file are read: T2V-Turbo's list of tensors without names, files of the PEFT library, files with kohya's
names (dots written as underscores), and files with the published names of the modules. A change is an ordinary sum: it
can be stacked, scaled, and taken back to the bit.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor

from ..denoising.schedule import NoiseSchedule
from ..errors import UserError
from ..files import expanded
from ..json_text import parse
from ..network.unet import VideoUNet
from ..specs import T2V_TURBO, ModelSpec, UNetSpec
from .building import Parts
from .finite import check_finite
from .foreign import some
from .reading import read, read_list

log = logging.getLogger(__name__)

Location = str | PathLike[str]
Shapes = Mapping[str, Sequence[int]]
GUIDANCE = "time_cond_proj.weight"
"""The weight that T2V-Turbo's LoRA changes and VideoCrafter2 lacks. No value of it is published: it starts at zero."""

PREFIXES = ("base_model.", "model.", "module.", "diffusion_model.", "unet.", "lora_unet_", "transformer.")
"""What programs put before the name of a module, in any combination."""
TEXT = re.compile(r"(lora_te|text_encoder|cond_stage_model|te_text_model)")
"""Changes of a text encoder, which stays as it is."""
DOWN = re.compile(r"^(?P<module>.+?)[._](?:lora_A|lora_down|lora\.down|lora_linear_layer\.down)(?:\.\w+)?\.weight$")
UP = re.compile(r"^(?P<module>.+?)[._](?:lora_B|lora_up|lora\.up|lora_linear_layer\.up)(?:\.\w+)?\.weight$")
ALPHA = re.compile(r"^(?P<module>.+?)\.alpha$")


@dataclass(frozen=True, eq=False)
class Change:
    """The change of one weight. up: out rank (1 1 ..); down: rank in (kernel ..)."""

    up: Tensor
    down: Tensor
    scale: float = 1.0

    def fits(self, shape: Sequence[int]) -> bool:
        """Whether it is the change of a weight of this shape."""
        up, down = self.up.shape, self.down.shape
        return (
            len(up) >= 2
            and len(down) >= 2
            and math.prod(up[1:]) == down[0]
            and up[0] == shape[0]
            and math.prod(down[1:]) == math.prod(shape[1:])
        )

    def of(self, weight: Tensor) -> Tensor:
        """The change, in float32 and the shape of the weight."""
        up, down = (part.detach().to(weight.device, torch.float32).flatten(1) for part in (self.up, self.down))
        return (up @ down).reshape(weight.shape) * self.scale


@dataclass(frozen=True, eq=False)
class Lora:
    """The changes in one file, by the names of the UNet's weights."""

    path: Path
    kind: str
    changes: Mapping[str, Change]

    @property
    def guidance_width(self) -> int:
        """Width of the guidance embedding that it brings along (T2V-Turbo), or 0."""
        change = self.changes.get(GUIDANCE)
        return 0 if change is None else math.prod(change.down.shape[1:])


def read_lora(path: Location, spec: UNetSpec) -> Lora:
    """The changes that a file holds for the UNet of this spec.

    Raises UserError when it is no LoRA, or one of another model, naming what does not fit.
    """
    path = expanded(path)
    shapes = {name: tuple(value.shape) for name, value in VideoUNet(spec, device="meta").state_dict().items()}
    items = read_list(path)
    if items is not None:
        return Lora(path, "list", _of_list(path, items, _in_order(shapes, spec)))
    kind, changes = _of_names(path, read(path).tensors, shapes, spec)
    return Lora(path, kind, changes)


def lora_spec(spec: ModelSpec, loras: Iterable[tuple[Location, float]]) -> ModelSpec:
    """What the model becomes: one with a guidance embedding is sampled as T2V-Turbo, at the size of its base."""
    for path, _ in loras:
        spec = grown_spec(spec, read_lora(path, spec.unet).guidance_width)
    return spec


def with_loras(parts: Parts, loras: Iterable[tuple[Location, float]]) -> Parts:
    """A loaded model with LoRA files applied one after the other, each with its strength; `parts` changes with it."""
    for path, strength in loras:
        assert parts.unet is not None
        lora = read_lora(path, parts.spec.unet)
        spec = grown_spec(parts.spec, lora.guidance_width)
        if spec is not parts.spec:
            unet = with_guidance(parts.unet, lora.guidance_width)
            parts = replace(parts, spec=spec, unet=unet, schedule=NoiseSchedule.from_spec(spec.diffusion))
        assert parts.unet is not None
        apply(parts.unet, lora, strength)
        parts.unet.fused.arrange(parts.unet)
        log.info("%s: %d weights changed, strength %g", path, len(lora.changes), strength)
    return parts


def apply(unet: VideoUNet, lora: Lora, strength: float = 1.0) -> dict[str, Tensor]:
    """Change the weights; returns those that were replaced, for `restore`. Raises UserError for what does not fit."""
    if not math.isfinite(strength):
        raise UserError(f"The strength of a LoRA is {strength}; it should be a finite number, usually 0 to 1.")
    weights = dict(unet.named_parameters())
    missing = [name for name, change in lora.changes.items() if name not in weights]
    if missing:
        raise UserError(f"{lora.path} changes weights that this network lacks: {some(missing)}.")
    replaced = {}
    for name, change in lora.changes.items():
        weight = weights[name]
        replaced[name] = weight.data
        weight.data = (weight.data.float() + strength * change.of(weight.data)).to(weight.dtype)
    return replaced


def restore(unet: VideoUNet, replaced: Mapping[str, Tensor]) -> None:
    """Undo `apply`, exactly; LoRA files that were applied later have to be undone first."""
    weights = dict(unet.named_parameters())
    for name, value in replaced.items():
        weights[name].data = value


def with_guidance(unet: VideoUNet, width: int) -> VideoUNet:
    """The same network, weights shared, with a guidance embedding that does nothing yet."""
    spec = replace(unet.spec, guidance_width=width)
    weights = unet.state_dict()
    like = weights["time_embed.0.weight"]
    attention = unet.attention
    grown = VideoUNet(spec, attention=attention, device="meta")
    grown.load_state_dict({**weights, GUIDANCE: like.new_zeros(spec.model_channels, width)}, assign=True)
    return grown.requires_grad_(False).eval()


def grown_spec(spec: ModelSpec, width: int) -> ModelSpec:
    """The spec of a model that a LoRA gave a guidance embedding of this width; 0 changes nothing."""
    if not width or spec.unet.guidance_width:
        return spec
    defaults = replace(T2V_TURBO.defaults, width=spec.defaults.width, height=spec.defaults.height)
    unet = replace(spec.unet, guidance_width=width)
    return replace(spec, name=f"{spec.name}_turbo", unet=unet, diffusion=T2V_TURBO.diffusion, defaults=defaults)


def _in_order(shapes: Shapes, spec: UNetSpec) -> dict[str, tuple[int, ...]]:
    """The weights that a list counts, in the order of the network: all linear maps and convolutions but those over one
    axis. The guidance embedding is among them, even where the network has none yet."""
    order: dict[str, tuple[int, ...]] = {}
    for name, shape in shapes.items():
        if name.startswith("input_blocks.") and GUIDANCE not in order:
            order[GUIDANCE] = (spec.model_channels, spec.guidance_width)
        if name.endswith(".weight") and len(shape) in (2, 4, 5):
            order[name] = tuple(shape)
    return order


def _of_list(path: Path, items: Sequence[Tensor], order: Mapping[str, tuple[int, ...]]) -> dict[str, Change]:
    if len(items) != 2 * len(order):
        raise UserError(
            f"{path} is a LoRA list of {len(items)} tensors, but this network needs {2 * len(order)}, two for each of "
            f"{len(order)} layers: it is of another model. T2V-Turbo's belongs to VideoCrafter2."
        )
    changes = {}
    for index, (name, shape) in enumerate(order.items()):
        change = Change(items[2 * index], items[2 * index + 1])
        if name == GUIDANCE and shape[1] == 0:
            shape = (shape[0], math.prod(change.down.shape[1:]))
        changes[name] = _checked(path, name, change, shape)
    return changes


def _of_names(
    path: Path, tensors: Mapping[str, Tensor], shapes: Shapes, spec: UNetSpec
) -> tuple[str, dict[str, Change]]:
    pairs = _sorted(tensors)
    if not pairs.downs or pairs.ups.keys() != pairs.downs.keys():
        lone = sorted(pairs.ups.keys() ^ pairs.downs.keys()) or list(tensors)
        raise UserError(f"{path} is not a LoRA that can be read: there are no pairs of tensors for {some(lone)}.")
    weights = _weights(shapes, spec)
    targets, unknown = _targets(pairs, weights)
    share = _peft_scale(path) if any("lora_A" in name for name in tensors) else 1.0
    changes = {}
    for module, target in targets.items():
        change = Change(pairs.ups[module], pairs.downs[module], _scale(path, module, pairs, share))
        shape = _shape(target, weights[target], change)
        changes[target + ".weight"] = _checked(path, target, change, shape)
    if unknown or not changes:
        raise UserError(
            f"{path} is a LoRA of another model: {len(unknown)} of its {len(pairs.downs)} layers are not in this "
            f"network ({some(unknown or pairs.downs)})."
        )
    return pairs.kind, changes


@dataclass(frozen=True)
class _Pairs:
    """The tensors of a file by the names of their modules, and the names of all others."""

    ups: dict[str, Tensor]
    downs: dict[str, Tensor]
    alphas: dict[str, Tensor]
    others: list[str]

    @property
    def kind(self) -> str:
        """The kind of names: kohya's, or those of the modules."""
        return "kohya" if any("lora_unet_" in module for module in self.downs) else "names"


def _sorted(tensors: Mapping[str, Tensor]) -> _Pairs:
    pairs = _Pairs({}, {}, {}, [])
    for name, tensor in tensors.items():
        for pattern, found in ((UP, pairs.ups), (DOWN, pairs.downs), (ALPHA, pairs.alphas)):
            match = pattern.match(name)
            if match:
                found[match["module"]] = tensor
                break
        else:
            pairs.others.append(name)
    return pairs


def _weights(shapes: Shapes, spec: UNetSpec) -> dict[str, tuple[int, ...]]:
    """The shape of each module's weight; that of the guidance embedding also where the network has none yet."""
    weights = {name.removesuffix(".weight"): tuple(shape) for name, shape in shapes.items() if name.endswith(".weight")}
    weights.setdefault(GUIDANCE.removesuffix(".weight"), (spec.model_channels, 0))
    return weights


def _targets(pairs: _Pairs, weights: Mapping[str, tuple[int, ...]]) -> tuple[dict[str, str], list[str]]:
    """The network's module for each of the file's; and the names in the file that have none."""
    known = {**{module.replace(".", "_"): module for module in weights}, **{module: module for module in weights}}
    found = {module: _target(module, known) for module in pairs.downs}
    unknown = [module for module, target in found.items() if target is None and not TEXT.search(module)]
    return {module: target for module, target in found.items() if target is not None}, pairs.others + unknown


def _scale(path: Path, module: str, pairs: _Pairs, otherwise: float) -> float:
    """The factor of a module's change: alpha over the rank, where the file gives alpha."""
    if module not in pairs.alphas:
        return otherwise
    return _alpha(path, module, pairs.alphas[module]) / max((*pairs.downs[module].shape[:1], 1))


def _shape(target: str, shape: tuple[int, ...], change: Change) -> tuple[int, ...]:
    """The shape of the changed weight; a guidance embedding that the network lacks is as wide as the change."""
    grows = target + ".weight" == GUIDANCE and shape[1] == 0
    return (shape[0], math.prod(change.down.shape[1:])) if grows else shape


def _target(module: str, known: Mapping[str, str]) -> str | None:
    """The network's module that a file calls by this name."""
    while module not in known:
        prefix = next((prefix for prefix in PREFIXES if module.startswith(prefix)), None)
        if prefix is None:
            return None
        module = module.removeprefix(prefix)
    return known[module]


def _peft_scale(path: Path) -> float:
    """alpha / rank from the settings that PEFT keeps beside its files; 1 without them. They are those of PEFT's file
    alone: folders of LoRA files hold others beside it."""
    settings = path.with_name("adapter_config.json")
    if not settings.is_file():
        return 1.0
    try:
        data = parse(settings.read_text(encoding="utf-8"))
        rank, alpha = float(data["r"]), float(data["lora_alpha"])
        scale = alpha / (math.sqrt(rank) if data.get("use_rslora") else rank)
        if not math.isfinite(scale):
            raise ValueError(f"lora_alpha is {alpha:g} and r is {rank:g}")
        return scale
    except (ValueError, KeyError, TypeError, ZeroDivisionError, OSError) as error:
        raise UserError(f"{settings}, which gives the scale of the LoRA beside it, cannot be read: {error}.") from error


def _alpha(path: Path, module: str, alpha: Tensor) -> float:
    """The number in a tensor `alpha`. Raises UserError for anything else than one finite number."""
    if alpha.numel() != 1 or not math.isfinite(float(alpha)):
        raise UserError(
            f"{path}: the alpha of {module} is not one finite number. The file is damaged: download it again."
        )
    return float(alpha)


def _checked(path: Path, name: str, change: Change, shape: Sequence[int]) -> Change:
    """The change, if it fits its weight and holds finite numbers; raises UserError otherwise."""
    if not change.fits(shape):
        raise UserError(
            f"{path} is a LoRA of another model: its change of {name} is {list(change.up.shape)} by "
            f"{list(change.down.shape)}, but the weight is {list(shape)}."
        )
    for tensor in (change.up, change.down):
        check_finite(tensor, f"the change of {name} in {path}")
    return change
