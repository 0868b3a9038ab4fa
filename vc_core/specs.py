"""What a model is, in numbers.

Every model of the family is one network with different numbers. A `ModelSpec` holds all of them, is frozen, and
survives a round trip through JSON, which is how our own files carry it in their safetensors metadata. `PRESETS` lists
the published models, each as its differences from VideoCrafter2.
"""

from __future__ import annotations

import json
import types
import typing
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from typing import Any, Literal, TypeVar, Union

from .errors import UserError

Prediction = Literal["eps", "v"]
Spacing = Literal["uniform", "trailing", "lcm"]
"""How the timesteps of a run are spread: see `denoising.NoiseSchedule.timesteps`."""


@dataclass(frozen=True, kw_only=True)
class UNetSpec:
    """The video UNet. Widths count channels; `attention_levels` numbers the resolutions from 0 (the finest)."""

    in_channels: int = 4
    """All that the first convolution reads: the noised latent and, behind it, `concat_channels` of a picture."""
    concat_channels: int = 0
    """Channels of a clean latent that stands beside the noised one (DynamiCrafter: that of the picture)."""
    out_channels: int = 4
    model_channels: int = 320
    channel_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    attention_levels: tuple[int, ...] = (0, 1, 2)
    head_channels: int = 64
    transformer_depth: int = 1
    context_dim: int = 1024
    norm_groups: int = 32
    temporal_conv: bool = True
    relative_position: bool = False
    """Learned tables of relative frame distances in every temporal attention (VideoCrafter1's text models)."""
    temporal_length: int = 16
    """Frames seen in training; also the distance at which relative positions are clamped."""
    causal: bool = False
    """Temporal attention looks back only. No published model uses it."""
    fps_condition: bool = True
    default_fps: int = 16
    """The fps condition of a call that names none."""
    image_attention: bool = False
    """A second cross-attention, over image tokens, beside the one over text."""
    image_gate: bool = False
    """A learned factor tanh(alpha) + 1 on every image cross-attention (DynamiCrafter 256)."""
    guidance_width: int = 0
    """Width of the embedding of the guidance scale; 0 is none. T2V-Turbo has 256 and needs no negative prompt."""
    motion_width: int = 0
    """Width of the embedding of the motion guidance; 0 is none (T2V-Turbo v2 has 256)."""

    @property
    def latent_channels(self) -> int:
        """Channels of the noised latent."""
        return self.in_channels - self.concat_channels


@dataclass(frozen=True, kw_only=True)
class DiffusionSpec:
    """The noising process: betas linear in their square root (arXiv:2112.10752), with VideoCrafter's rescale.

    `rescale` is the value that the signal's scale s(t) falls to, linearly over `rescale_steps` steps; None means
    s(t) = 1. The noised latent is sqrt(abar_t) * s(t) * x0 + sqrt(1 - abar_t) * noise.
    """

    timesteps: int = 1000
    beta_start: float = 0.00085
    beta_end: float = 0.012
    prediction: Prediction = "eps"
    rescale: float | None = 0.7
    rescale_steps: int = 400
    zero_terminal_snr: bool = False
    """The last timestep is noise alone (arXiv:2305.08891, algorithm 1)."""
    keep_last_rescale: bool = False
    """Sampling ends at the scale of the last timestep that was run (DynamiCrafter), not at that of timestep 0."""


@dataclass(frozen=True, kw_only=True)
class AutoencoderSpec:
    """The KL autoencoder; each step in `channel_mult` after the first halves height and width."""

    channels: int = 128
    channel_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    latent_channels: int = 4
    norm_groups: int = 32
    scale_factor: float = 0.18215
    reference_levels: tuple[int, ...] | None = None
    """Not None for a decoder over time that looks at the pictures at the clip's ends (ToonCrafter, arXiv:2405.17933).
    It attends to them at these levels, numbered from 0 (the finest), and at all others adds them to the first and the
    last frame."""

    @property
    def downscale(self) -> int:
        """Pixels along one side of a latent pixel."""
        return int(2 ** (len(self.channel_mult) - 1))


@dataclass(frozen=True, kw_only=True)
class TextEncoderSpec:
    """The text tower of an OpenCLIP model (published models: ViT-H-14)."""

    width: int = 1024
    heads: int = 16
    layers: int = 24
    context_length: int = 77
    vocab_size: int = 49408
    embed_dim: int = 1024


@dataclass(frozen=True, kw_only=True)
class ImageEncoderSpec:
    """The image tower of an OpenCLIP model (published models: ViT-H-14). Sizes in pixels."""

    image_size: int = 224
    patch_size: int = 14
    width: int = 1280
    head_width: int = 80
    layers: int = 32
    embed_dim: int = 1024
    text_width: int = 1024
    """Width of the unused text tensors that the published file keeps beside the image tower."""
    vocab_size: int = 49408
    context_length: int = 77

    @property
    def tokens(self) -> int:
        """Tokens it returns for one picture: the class token and one for each patch."""
        return 1 + (self.image_size // self.patch_size) ** 2


@dataclass(frozen=True, kw_only=True)
class ResamplerSpec:
    """The image tokens made by learned queries that attend to the image encoder's tokens (a Perceiver resampler)."""

    dim: int = 1024
    depth: int = 4
    head_channels: int = 64
    heads: int = 12
    queries: int = 16
    embedding_dim: int = 1280
    output_dim: int = 1024
    ff_mult: int = 4
    frames: int | None = None
    """The queries are made so many times over, for one frame each (DynamiCrafter: 16); None is once for all frames."""


@dataclass(frozen=True, kw_only=True)
class LinearTokensSpec:
    """The image tokens made by one linear map from the pooled image embedding. No published model uses it."""

    tokens: int = 4
    embedding_dim: int = 1024
    output_dim: int = 1024


@dataclass(frozen=True, kw_only=True)
class SamplingDefaults:
    """How the authors run the model. Sizes in pixels; `save_fps` is the frame rate of their files.

    `fps` is the condition of the network. Where `fps_is_stride` is set it counts the frames of the film from one frame
    of the clip to the next: larger is more motion. Otherwise it is frames per second: smaller is more motion.
    """

    width: int = 512
    height: int = 320
    frames: int = 16
    fps: int = 28
    steps: int = 50
    cfg: float = 12.0
    eta: float = 1.0
    save_fps: float = 10.0
    fps_is_stride: bool = False
    sampler: str = "ddim"
    spacing: Spacing = "uniform"
    guidance_rescale: float = 0.0
    motion: float | None = None
    """The motion guidance of a network that has it (T2V-Turbo v2); None leaves it out."""
    motion_share: float = 0.3
    """The share of the noise, from the most on, in which the motion guidance acts; later it is 0."""


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """A whole model; a part that is None is absent from its kind (a text model has no image encoder)."""

    name: str
    unet: UNetSpec = UNetSpec()
    diffusion: DiffusionSpec = DiffusionSpec()
    autoencoder: AutoencoderSpec = AutoencoderSpec()
    text_encoder: TextEncoderSpec = TextEncoderSpec()
    image_encoder: ImageEncoderSpec | None = None
    image_tokens: ResamplerSpec | LinearTokensSpec | None = None
    defaults: SamplingDefaults = SamplingDefaults()

    @property
    def size_multiple(self) -> int:
        """Width and height in pixels must be multiples of this."""
        return self.autoencoder.downscale


@dataclass(frozen=True, kw_only=True)
class Windows:
    """FreeNoise's windows over time (arXiv:2310.15169), which let a network of few frames make long clips.

    Temporal attention runs inside windows of `size` frames that begin every `stride` frames, and what they give is
    averaged with triangular weights. A last window, flush with the end, covers the frames that the stride would leave
    over; without `cover_rest` those get nothing, as in the published code. A clip of `size` frames or fewer is one
    window: plain attention.

    `spectral` is FreeLong (arXiv:2407.19918) instead: every frame attends to those up to half a window away, and in the
    layers below the full size the low frequencies of the result are those of attention over the whole clip. `stride`
    then counts for the noise alone.
    """

    size: int = 16
    stride: int = 4
    cover_rest: bool = True
    spectral: bool = False

    def __post_init__(self) -> None:
        if self.size < 1 or not 1 <= self.stride <= self.size:
            raise UserError(
                f"Windows of {self.size} frames every {self.stride} were asked for; the size should be 1 or more, and "
                "the stride from 1 to the size, so that no frame is left out."
            )

    def spans(self, frames: int) -> list[tuple[int, int]]:
        """(first frame, frame after the last) of each window over a clip, in order."""
        starts = list(range(0, max(frames - self.size, 0) + 1, self.stride))
        if self.cover_rest and starts[-1] + self.size < frames:
            starts.append(frames - self.size)
        return [(start, min(start + self.size, frames)) for start in starts]

    def weights(self, length: int) -> list[float]:
        """The weight of each frame of a window: 1, 2, ... up to the middle and down again."""
        return [float(min(i + 1, length - i)) for i in range(length)]


VIDEOCRAFTER2 = ModelSpec(name="videocrafter2_512")
DYNAMICRAFTER = ModelSpec(
    name="dynamicrafter_512",
    unet=UNetSpec(in_channels=8, concat_channels=4, image_attention=True, default_fps=24),
    diffusion=DiffusionSpec(prediction="v", zero_terminal_snr=True, keep_last_rescale=True),
    image_encoder=ImageEncoderSpec(),
    image_tokens=ResamplerSpec(frames=16),
    defaults=SamplingDefaults(fps=24, cfg=7.5, save_fps=8.0, spacing="trailing", guidance_rescale=0.7),
)
T2V_TURBO = ModelSpec(
    name="t2v_turbo_vc2",
    unet=UNetSpec(guidance_width=256),
    diffusion=DiffusionSpec(rescale=None),
    defaults=SamplingDefaults(fps=16, steps=4, cfg=7.5, save_fps=8.0, sampler="lcm", spacing="lcm"),
)

PRESETS: dict[str, ModelSpec] = {
    spec.name: spec
    for spec in (
        VIDEOCRAFTER2,
        replace(
            VIDEOCRAFTER2,
            name="videocrafter1_t2v_1024",
            unet=UNetSpec(temporal_conv=False, relative_position=True),
            diffusion=DiffusionSpec(rescale=0.3),
            defaults=SamplingDefaults(width=1024, height=576),
        ),
        replace(
            VIDEOCRAFTER2,
            name="videocrafter1_t2v_512",
            unet=UNetSpec(temporal_conv=False, relative_position=True, fps_condition=False),
            diffusion=DiffusionSpec(rescale=None),
        ),
        replace(
            VIDEOCRAFTER2,
            name="videocrafter1_i2v_512",
            unet=UNetSpec(image_attention=True),
            image_encoder=ImageEncoderSpec(),
            image_tokens=ResamplerSpec(),
            defaults=SamplingDefaults(fps=8, save_fps=8.0),
        ),
        replace(VIDEOCRAFTER2, name="videocrafter1_t2v_512_october_2023", defaults=SamplingDefaults(fps=8)),
        replace(
            VIDEOCRAFTER2,
            name="videocrafter1_t2v_256",
            diffusion=DiffusionSpec(rescale=None),
            defaults=SamplingDefaults(width=256, height=256, fps=8, cfg=15.0),
        ),
        DYNAMICRAFTER,
        replace(
            DYNAMICRAFTER,
            name="dynamicrafter_512_interp",
            defaults=replace(DYNAMICRAFTER.defaults, fps=5),
        ),
        replace(
            DYNAMICRAFTER,
            name="tooncrafter_512",
            autoencoder=AutoencoderSpec(reference_levels=(2, 3)),
            defaults=replace(DYNAMICRAFTER.defaults, fps=10),
        ),
        replace(
            DYNAMICRAFTER,
            name="dynamicrafter_1024",
            unet=replace(DYNAMICRAFTER.unet, default_fps=10),
            diffusion=replace(DYNAMICRAFTER.diffusion, rescale=0.3),
            defaults=replace(DYNAMICRAFTER.defaults, width=1024, height=576, fps=10),
        ),
        replace(
            DYNAMICRAFTER,
            name="dynamicrafter_256",
            unet=replace(DYNAMICRAFTER.unet, image_gate=True, default_fps=3),
            diffusion=DiffusionSpec(rescale=None),
            defaults=SamplingDefaults(width=256, height=256, fps=3, cfg=7.5, save_fps=8.0, fps_is_stride=True),
        ),
        T2V_TURBO,
        replace(
            T2V_TURBO,
            name="t2v_turbo_v2",
            unet=UNetSpec(guidance_width=256, motion_width=256),
            defaults=replace(T2V_TURBO.defaults, fps=8, steps=8, motion=0.05),
        ),
    )
}

Spec = TypeVar("Spec")


def to_json(spec: ModelSpec) -> str:
    """The spec as JSON text; the kind of image tokens is told by their field names."""
    return json.dumps(asdict(spec), sort_keys=True)


def from_json(text: str) -> ModelSpec:
    """The inverse of `to_json`. Raises ValueError when the text is not a spec, naming the field at fault."""
    try:
        data = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"The model's spec is not JSON: {error}") from error
    return _from_dict(ModelSpec, data, "spec")


def _from_dict(kind: type[Spec], data: Any, where: str) -> Spec:
    if not isinstance(data, dict):
        raise ValueError(f"{where} should be an object with the fields of {kind.__name__}, not {type(data).__name__}")
    known = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(set(data) - known)
    if unknown:
        raise ValueError(f"{where} has unknown fields {unknown}; {kind.__name__} has {sorted(known)}")
    hints = typing.get_type_hints(kind)
    return kind(**{name: _read(hints[name], value, f"{where}.{name}") for name, value in data.items()})


def _read(hint: Any, value: Any, where: str) -> Any:
    """`value` as the annotated type."""
    origin = typing.get_origin(hint)
    if origin in (Union, types.UnionType):
        return _read_union(typing.get_args(hint), value, where)
    if is_dataclass(hint):
        return _from_dict(hint, value, where)  # type: ignore[arg-type]
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ValueError(f"{where} should be a list of numbers, not {value!r}")
        return tuple(_read(typing.get_args(hint)[0], item, where) for item in value)
    if origin is Literal:
        if value not in typing.get_args(hint):
            raise ValueError(f"{where} should be one of {typing.get_args(hint)}, not {value!r}")
        return value
    return _read_plain(hint, value, where)


def _read_union(members: tuple[Any, ...], value: Any, where: str) -> Any:
    """`value` as the first member of the union that it fits."""
    if value is None and type(None) in members:
        return None
    errors = []
    for member in members:
        if member is not type(None):
            try:
                return _read(member, value, where)
            except ValueError as error:
                errors.append(str(error))
    raise ValueError("; ".join(errors))


def _read_plain(hint: Any, value: Any, where: str) -> Any:
    """`value` as a bool, int, float or str; a whole number may stand for a float, a bool for nothing else."""
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise ValueError(f"{where} should be {hint.__name__}, not {value!r}")
    return value
