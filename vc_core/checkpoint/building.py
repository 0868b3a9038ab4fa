"""FILE -> MODULES: build each part on `meta` from its spec, check it against the file, and assign the file's tensors.

No weight is initialised at random and none exists twice: tensors kept in the file's own type stay in its memory map,
tensors of another type or device are made one by one while the map is released group by group.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from os import PathLike
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from ..autoencoder.autoencoder import Autoencoder
from ..conditioning.image_encoder import ImageEncoder
from ..conditioning.image_tokens import LinearTokens, Resampler
from ..conditioning.text_encoder import TextEncoder
from ..denoising.schedule import NoiseSchedule, is_rounded
from ..errors import DAMAGED, UserError, reason
from ..network.attention import Attention, sdpa_attention
from ..network.fused import Fused
from ..network.unet import VideoUNet
from ..specs import ModelSpec
from .detection import AUTO, IN_MODEL, Detection, detect_contents
from .finite import check_finite
from .foreign import some
from .keys import Contents, sort_tensors
from .parts import PARTS, Part, Shapes
from .reading import File, read

log = logging.getLogger(__name__)

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}

GROUP_BYTES = 256 * 2**20
"""While tensors are cast or moved, the file is mapped again after this many bytes, which bounds the peak of memory."""

Location = str | PathLike[str]
Reader = Callable[[Location], File]


@dataclass(frozen=True)
class Difference:
    """How a part's tensors differ from what its network needs; all empty when it can be loaded."""

    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    misshapen: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.misshapen)


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """One model in one or more opened files. Nothing is read from the disk but headers until weights are asked for."""

    detection: Detection
    files: tuple[File, ...]
    sources: Mapping[str, File]

    @property
    def spec(self) -> ModelSpec:
        return self.detection.spec

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts that are there."""
        return self.detection.parts

    def require(self, part: str) -> None:
        """Raise UserError when the files lack the part, or do not say how it is built."""
        if part not in self.parts:
            names = ", ".join(str(file.path) for file in self.files)
            held = ", ".join(PARTS[other].title for other in self.parts)
            raise UserError(
                f"There is no {PARTS[part].title} in {names} (it holds: {held}). Give the file that has it."
            )
        check = PARTS[part].check
        if check is not None:
            check(self.detection.part_spec(part))

    def schedule(self) -> NoiseSchedule:
        """The file's own noise schedule, or the spec's where the file has none, or has it rounded to half precision."""
        buffers = self.detection.contents.schedule
        alphas, scale = buffers.get("alphas_cumprod"), buffers.get("scale_arr")
        diffusion = self.spec.diffusion
        incomplete = alphas is None or (scale is None) != (diffusion.rescale is None)
        if self.detection.chosen or alphas is None or incomplete or is_rounded(alphas):
            return NoiseSchedule.from_spec(diffusion)
        return NoiseSchedule.from_buffers(
            alphas, scale, diffusion.prediction, keep_last_scale=diffusion.keep_last_rescale
        )

    def difference(self, part: str) -> Difference:
        """Compare the names and shapes of a part with those its network needs."""
        self.require(part)
        record, spec, tensors = PARTS[part], self.detection.part_spec(part), self.detection.contents.parts[part]
        if record.shapes is not None:
            return compare_shapes(record.shapes(spec), tensors)
        return compare(_built(record, spec), tensors)

    def check(self, part: str) -> None:
        """Raise UserError when tensors of the part are missing, unknown or misshapen."""
        refuse(self.difference(part), part)

    def weights(
        self,
        part: str,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
        computed: torch.dtype | None = None,
    ) -> dict[str, Tensor]:
        """The tensors of a part by the names in its module, checked to be finite. `dtype` None keeps the file's own.

        `computed` is the type that the caller will cast them to later: they must be finite in that type as well.
        Raises UserError naming the first tensor that is not finite.
        """
        self.require(part)
        result = {}
        for name, tensor in self.stream(part, device=device, dtype=dtype):
            check_finite(tensor, f"{PARTS[part].title}: {name}", computed or dtype)
            result[name] = tensor
        return result

    def stream(
        self,
        part: str,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
        passing: bool = False,
    ) -> Iterator[tuple[str, Tensor]]:
        """The tensors one by one, unchecked. Those that need no copy are the memory map itself. Raises UserError where
        the file was changed since it was opened.

        `passing` says that the caller keeps none of them, so that the map can be released in between.
        """
        tensors, source = self.detection.contents.parts[part], self.sources[part]
        where = torch.device(device)
        source.check_not_cut()
        kept = not passing and all(_kept(tensor, where, dtype) for tensor in tensors.values())
        if kept or not source.mapped:
            for name, tensor in tensors.items():
                yield name, _moved(tensor, where, dtype)
            return
        for group in _groups(tensors):
            fresh = sort_tensors(source.again().tensors).parts[part]
            for name in group:
                yield name, _moved(fresh[name], where, dtype, copy=not passing)

    def build(
        self,
        part: str,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
        operations: ModuleType | Any = nn,
        attention: Attention = sdpa_attention,
    ) -> nn.Module:
        """The part as a module in evaluation mode. Raises UserError when tensors are missing, unknown or misshapen, and
        for a part that is not run.

        The file is compared with the spec's own network: the layers in `operations` may create their weights only when
        they are loaded.
        """
        self.require(part)
        record, spec = PARTS[part], self.detection.part_spec(part)
        module = _built(record, spec, operations, attention)
        wanted = module if operations is nn else _built(record, spec)
        refuse(compare(wanted, self.detection.contents.parts[part]), part)
        try:
            module.load_state_dict(self.weights(part, device=device, dtype=dtype), strict=True, assign=True)
        except RuntimeError as error:  # only the types can still be wrong
            cure = "Load them as fp32, fp16 or bf16, or give the original file."
            raise UserError(f"The {record.title}'s weights have an unusable type ({reason(error)}). {cure}") from error
        left = [name for name, tensor in chain(module.named_parameters(), module.named_buffers()) if tensor.is_meta]
        if left:
            raise RuntimeError(f"{record.title}: no values were loaded for {some(left)}")
        fused = getattr(module, "fused", None)
        if isinstance(fused, Fused):
            fused.arrange(module)
        return module.requires_grad_(False).eval()


@dataclass(frozen=True, eq=False)
class Parts:
    """A loaded model; a part is None where the file lacks it. `dtype` is that in which the UNet computes. `added` holds
    the networks of parts that controls add to a UNet, by name."""

    spec: ModelSpec
    schedule: NoiseSchedule
    device: torch.device
    dtype: torch.dtype
    unet: VideoUNet | None = None
    autoencoder: Autoencoder | None = None
    text_encoder: TextEncoder | None = None
    image_encoder: ImageEncoder | None = None
    image_tokens: Resampler | LinearTokens | None = None
    added: Mapping[str, nn.Module] = field(default_factory=dict)
    title: str = ""
    notes: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The parts that are there."""
        return tuple(name for name in PARTS if name in self.added or getattr(self, name, None) is not None)

    def require(self, *parts: str) -> None:
        """Raise UserError naming the parts that are missing, and the cure."""
        missing = [PARTS[part].title for part in parts if getattr(self, part) is None]
        if missing:
            raise UserError(
                f"The model has no {' and no '.join(missing)}. Give a whole checkpoint, or all files of a split one."
            )


def open_checkpoint(
    path: Location | Sequence[Location], *, preset: str | ModelSpec = AUTO, reader: Reader = read
) -> Checkpoint:
    """Open a model's file, or the several files of a split one; a part in a later file replaces an earlier one's.

    `reader` opens one file. Raises UserError as `read` and `detect` do, and when tensors are left that belong to
    nothing known.
    """
    checkpoint = inspect_checkpoint(path, preset=preset, reader=reader)
    unknown = checkpoint.detection.contents.unknown
    if unknown:
        names = ", ".join(str(file.path) for file in checkpoint.files)
        raise UserError(
            f"{len(unknown)} tensors in {names} belong to no part of a VideoCrafter model: {some(unknown)}. The file "
            "is of another model, or was changed by another program."
        )
    for note in checkpoint.detection.notes:
        log.info("%s: %s", checkpoint.detection.title, note)
    return checkpoint


def inspect_checkpoint(
    path: Location | Sequence[Location], *, preset: str | ModelSpec = AUTO, reader: Reader = read
) -> Checkpoint:
    """As `open_checkpoint`, but unknown tensors are only listed, in `detection.contents.unknown`."""
    paths = [path] if isinstance(path, str | PathLike) else list(path)
    if not paths:
        raise UserError("No model file was given. Give the path of a .ckpt or .safetensors file.")
    files = tuple(reader(one) for one in paths)
    contents = Contents()
    metadata: dict[str, str] = {}
    sources: dict[str, File] = {}
    for file in files:
        found = sort_tensors(file.tensors, file.left_over)
        contents = contents.merged(found)
        sources.update(dict.fromkeys(found.parts, file))
        metadata = {**metadata, **file.metadata} if "unet" in found.parts else {**file.metadata, **metadata}
    try:
        detection = detect_contents(contents, metadata, preset)
    except UserError as error:
        raise UserError(f"{', '.join(str(file.path) for file in files)}: {error}") from error
    return Checkpoint(detection, files, sources)


def load(
    path: Location | Sequence[Location],
    *,
    preset: str | ModelSpec = AUTO,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | str | None = "fp32",
    attention: Attention = sdpa_attention,
) -> Parts:
    """Load every part that the file, or the files of a split model, hold.

    `dtype` is a torch type, "fp32", "fp16", "bf16", or None for the type in the file. Raises UserError for whatever is
    wrong with the file, naming it.
    """
    kind = torch_dtype(dtype)
    checkpoint = open_checkpoint(path, preset=preset)
    built = {part: checkpoint.build(part, device=device, dtype=kind, attention=attention) for part in checkpoint.parts}
    parts: dict[str, Any] = {part: module for part, module in built.items() if part in IN_MODEL}
    return Parts(
        checkpoint.spec,
        checkpoint.schedule(),
        torch.device(device),
        parts["unet"].time_embed[0].weight.dtype if "unet" in parts else kind or torch.float32,
        added={part: module for part, module in built.items() if part not in IN_MODEL},
        title=checkpoint.detection.title,
        notes=checkpoint.detection.notes,
        **parts,
    )


def build_empty(
    spec: ModelSpec, part: str, *, operations: ModuleType | Any = nn, attention: Attention = sdpa_attention
) -> nn.Module:
    """The part's network on `meta`: names and shapes, no memory."""
    return _built(PARTS[part], getattr(spec, part, None), operations, attention, spec.name)


def _built(
    part: Part,
    spec: Any,
    operations: ModuleType | Any = nn,
    attention: Attention = sdpa_attention,
    model: str = "in this file",
) -> nn.Module:
    if spec is None:
        raise UserError(f"The model {model} has no {part.title}.")
    if part.build is None:
        raise UserError(
            f"The {part.title} can be inspected and converted, but this version does not run it. Leave its file out."
        )
    try:
        return part.build(spec, operations, attention)
    except DAMAGED as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"The {part.title} cannot be built with the numbers {model} ({reason(error)}). The file is damaged or of "
            "another model; download it again."
        ) from error


def compare(module: nn.Module, tensors: Mapping[str, Tensor]) -> Difference:
    """How the tensors differ from the module's, by name and shape; those that it calls `optional` may be missing."""
    wanted = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    return compare_shapes(wanted, tensors, getattr(module, "optional", frozenset()))


def compare_shapes(
    wanted: Shapes, tensors: Mapping[str, Tensor], optional: Collection[str] = frozenset()
) -> Difference:
    """How the tensors differ from those wanted, by name and shape; `optional` ones may be missing."""
    misshapen = [
        f"{name} is {list(tensor.shape)}, should be {list(wanted[name])}"
        for name, tensor in tensors.items()
        if name in wanted and tuple(tensor.shape) != wanted[name]
    ]
    return Difference(
        tuple(name for name in wanted if name not in tensors and name not in optional),
        tuple(name for name in tensors if name not in wanted),
        tuple(misshapen),
    )


def refuse(difference: Difference, part: str) -> None:
    """Raise UserError when there is a difference, naming the tensors."""
    if not difference:
        return
    found = [
        f"{len(names)} {title}: {some(names)}"
        for title, names in (
            ("missing", difference.missing),
            ("unknown", difference.unexpected),
            ("of another shape", difference.misshapen),
        )
        if names
    ]
    raise UserError(
        f"The tensors of the {PARTS[part].title} do not fit its network ({'; '.join(found)}). The file is damaged "
        "or of another model; run `python -m vc_core inspect` on it, and download it again."
    )


def torch_dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    """The torch type of a name in `DTYPES`; None and torch types pass. Raises UserError for other names."""
    if not isinstance(dtype, str):
        return dtype
    if dtype not in DTYPES:
        raise UserError(f"There is no dtype {dtype!r}. Allowed: {', '.join(DTYPES)}.")
    return DTYPES[dtype]


def _kept(tensor: Tensor, device: torch.device, dtype: torch.dtype | None) -> bool:
    return tensor.device == device and (dtype is None or tensor.dtype == dtype or not tensor.is_floating_point())


def _moved(tensor: Tensor, device: torch.device, dtype: torch.dtype | None, *, copy: bool = False) -> Tensor:
    kind = dtype if tensor.is_floating_point() else None
    return tensor.detach().to(device=device, dtype=kind, copy=copy)


def _groups(tensors: Mapping[str, Tensor]) -> Iterator[list[str]]:
    """Names in runs of about `GROUP_BYTES`, in the file's order."""
    group: list[str] = []
    size = 0
    for name, tensor in tensors.items():
        group.append(name)
        size += tensor.nbytes
        if size >= GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group
