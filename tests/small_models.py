"""Small models with weights at random, in the published layout: whole checkpoints that load through every node."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from vc_core.checkpoint import METADATA_KEY, PARTS
from vc_core.checkpoint.building import build_empty
from vc_core.checkpoint.lora import GUIDANCE, _in_order
from vc_core.conditioning.style import StyleAdapter
from vc_core.denoising import NoiseSchedule
from vc_core.network.adapters.camera_features import CameraNetwork
from vc_core.network.adapters.motionctrl import POSE, PROJECTION, TrajectoryEncoder
from vc_core.network.adapters.sketch import SketchEncoder
from vc_core.network.adapters.stylecrafter import text_attentions
from vc_core.network.transformers import TemporalTransformer
from vc_core.network.unet import VideoUNet
from vc_core.specs import (
    AutoencoderSpec,
    DiffusionSpec,
    ImageEncoderSpec,
    ModelSpec,
    ResamplerSpec,
    SamplingDefaults,
    StyleAdapterSpec,
    TextEncoderSpec,
    UNetSpec,
    to_json,
)
from vc_core.specs.sketch import SketchEncoderSpec

TEXT_MODEL = ModelSpec(
    name="small_t2v",
    unet=UNetSpec(
        model_channels=32,
        channel_mult=(1, 2, 4),
        num_res_blocks=1,
        attention_levels=(0, 1),
        head_channels=16,
        context_dim=48,
        norm_groups=8,
    ),
    autoencoder=AutoencoderSpec(channels=32, num_res_blocks=1, norm_groups=8),
    text_encoder=TextEncoderSpec(width=48, heads=3, layers=3, embed_dim=48),
    defaults=SamplingDefaults(width=64, height=64, fps=8, steps=50, cfg=7.0),
)
RELATIVE_MODEL = replace(
    TEXT_MODEL,
    name="small_relative",
    unet=replace(TEXT_MODEL.unet, temporal_conv=False, relative_position=True, temporal_length=5),
    diffusion=DiffusionSpec(rescale=0.3),
)
STYLE_MODEL = replace(
    RELATIVE_MODEL,
    name="small_v1",
    unet=replace(RELATIVE_MODEL.unet, fps_condition=False),
    diffusion=DiffusionSpec(rescale=None),
)
"""In the layout of StyleCrafter's base, VideoCrafter1 T2V-512."""
IMAGE_ENCODER = ImageEncoderSpec(
    image_size=32, patch_size=8, width=64, head_width=16, layers=3, embed_dim=48, text_width=48
)
RESAMPLER = ResamplerSpec(dim=32, depth=1, head_channels=16, heads=2, queries=3, embedding_dim=64, output_dim=48)
IMAGE_MODEL = replace(
    TEXT_MODEL,
    name="small_i2v",
    unet=replace(TEXT_MODEL.unet, image_attention=True),
    image_encoder=IMAGE_ENCODER,
    image_tokens=RESAMPLER,
)
CONTINUING_MODEL = replace(
    IMAGE_MODEL,
    name="small_dynamicrafter",
    unet=replace(IMAGE_MODEL.unet, in_channels=8, concat_channels=4, default_fps=24),
    diffusion=DiffusionSpec(prediction="v", zero_terminal_snr=True, keep_last_rescale=True),
    image_tokens=replace(RESAMPLER, frames=5),
)
VIEWED_MODEL = replace(
    CONTINUING_MODEL,
    name="small_viewcrafter",
    unet=replace(CONTINUING_MODEL.unet, default_fps=10, temporal_length=3),
    diffusion=DiffusionSpec(prediction="v", zero_terminal_snr=True, rescale=0.3),
    defaults=replace(CONTINUING_MODEL.defaults, frames=3, fps=10, prompt="Rotating view of a scene"),
    views=True,
)
TOON_MODEL = replace(
    CONTINUING_MODEL,
    name="small_tooncrafter",
    autoencoder=replace(CONTINUING_MODEL.autoencoder, reference_levels=(2, 3)),
)
SKETCHES = SketchEncoderSpec(
    hint_widths=(4, 4, 6, 6, 8, 8, 12),
    model_channels=32,
    channel_mult=(1, 2, 4),
    num_res_blocks=1,
    attention_levels=(0, 1),
    context_dim=48,
)
"""A sketch encoder for the models that continue images."""
TURBO_MODEL = replace(
    TEXT_MODEL,
    name="small_turbo",
    unet=replace(TEXT_MODEL.unet, guidance_width=24, motion_width=16),
    diffusion=DiffusionSpec(rescale=None),
    defaults=replace(TEXT_MODEL.defaults, steps=4, sampler="lcm", spacing="lcm", motion=0.05),
)
MODELS = {
    "text": TEXT_MODEL,
    "relative": RELATIVE_MODEL,
    "image": IMAGE_MODEL,
    "continuing": CONTINUING_MODEL,
    "toon": TOON_MODEL,
    "viewed": VIEWED_MODEL,
    "turbo": TURBO_MODEL,
}
"""Kind of model -> its numbers, of those that most tests of nodes choose from."""


def state_dict(spec: ModelSpec, seed: int = 5) -> dict[str, torch.Tensor]:
    """A whole checkpoint's tensors: every part the spec has, and the noise schedule."""
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, torch.Tensor] = {}
    for part, record in PARTS.items():
        if getattr(spec, part, None) is None:
            continue
        for name, value in _randomised(build_empty(spec, part), generator).items():
            tensors[record.prefix + name] = value
    schedule = NoiseSchedule.from_spec(spec.diffusion)
    tensors["alphas_cumprod"] = schedule.alphas_cumprod.float()
    if spec.diffusion.rescale is not None:
        tensors["scale_arr"] = schedule.scale.float()
    return tensors


def save(spec: ModelSpec, path: Path, *, prefixes: tuple[str, ...] = (), seed: int = 5, metadata: bool = True) -> Path:
    """Writes a whole checkpoint, or of it the tensors whose names begin with one of `prefixes`."""
    tensors = {
        name: value.clone().contiguous()
        for name, value in state_dict(spec, seed).items()
        if not prefixes or name.startswith(prefixes)
    }
    save_file(tensors, path, {METADATA_KEY: to_json(spec)} if metadata else None)
    return path


def sketch_encoder(spec: SketchEncoderSpec = SKETCHES, seed: int = 9) -> dict[str, torch.Tensor]:
    """The weights of a sketch encoder, as its file has them."""
    return _randomised(SketchEncoder(spec, device="meta"), torch.Generator().manual_seed(seed))


STYLE_ADAPTER = StyleAdapterSpec(
    image_width=IMAGE_ENCODER.width,
    text_width=STYLE_MODEL.unet.context_dim,
    tokens=4,
    layers=1,
    scale_layers=1,
    scales=len(text_attentions(STYLE_MODEL.unet)),
    attentions=tuple(text_attentions(STYLE_MODEL.unet)),
)
"""StyleCrafter's adapter for `STYLE_MODEL`, which reads the image encoder of `IMAGE_MODEL`."""


def style_adapter(spec: StyleAdapterSpec = STYLE_ADAPTER, seed: int = 1) -> dict[str, torch.Tensor]:
    """The tensors of StyleCrafter's adapter file."""
    return _randomised(StyleAdapter(spec, device="meta"), torch.Generator().manual_seed(seed))


def style_temporal(seed: int = 2) -> dict[str, dict[str, torch.Tensor]]:
    """StyleCrafter's temporal file for `STYLE_MODEL`: the state dict of each temporal transformer by its name."""
    generator = torch.Generator().manual_seed(seed)
    modules = VideoUNet(STYLE_MODEL.unet, device="meta").named_modules()
    layers = {name: module for name, module in modules if isinstance(module, TemporalTransformer)}
    return {name: _randomised(module, generator) for name, module in layers.items()}


def turbo_list(unet: UNetSpec, width: int = 12, seed: int = 3) -> list[torch.Tensor]:
    """A LoRA as T2V-Turbo's: pairs of tensors without names in the network's order, with a guidance embedding."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {name: tuple(value.shape) for name, value in VideoUNet(unet, device="meta").state_dict().items()}
    items = []
    for name, shape in _in_order(shapes, unet).items():
        items += low_rank((shape[0], width) if name == GUIDANCE else shape, generator)
    return items


def motionctrl_weights(spec: ModelSpec, *, levels: tuple[int, ...] = (), seed: int = 1) -> dict[str, torch.Tensor]:
    """MotionCtrl's added layers for a model, near the identity; with levels, a trajectory encoder as well."""
    generator = torch.Generator().manual_seed(seed)
    unet, made = VideoUNet(spec.unet, device="meta").state_dict(), {}
    for name, tensor in unet.items():
        block, found, _ = name.partition(".attn2.to_q.weight")
        if found and unet[f"{block}.attn2.to_k.weight"].shape == tensor.shape:
            width = tensor.shape[1]
            change = 0.1 * torch.randn(width, width + POSE, generator=generator)
            made[f"{block}{PROJECTION}.weight"] = torch.eye(width, width + POSE) + change
            made[f"{block}{PROJECTION}.bias"] = torch.zeros(width)
    for name, empty in TrajectoryEncoder(levels, 2, device="meta").state_dict().items() if levels else ():
        made[f"omcm.{name}"] = 0.2 * torch.randn(empty.shape, generator=generator)
    return made


def camera_weights(spec: ModelSpec, *, registers: int | None = 4, seed: int = 2) -> dict[str, torch.Tensor]:
    """CamI2V's added layers for a model at random, or without registers CameraCtrl's, by the names in the module."""
    generator = torch.Generator().manual_seed(seed)
    blocks = {
        name.removesuffix(f"{PROJECTION}.weight"): len(tensor)
        for name, tensor in motionctrl_weights(spec).items()
        if name.endswith(".weight") and not name.startswith("init_attn")
    }
    widths = [mult * spec.unet.model_channels for mult in spec.unet.channel_mult]
    levels = (*widths, *[widths[-1]] * 4)[:4]
    network = CameraNetwork(blocks, {"channels": levels, "units": 1, "frames": 8}, registers, device="meta")
    return {name: 0.2 * torch.randn(tensor.shape, generator=generator) for name, tensor in network.state_dict().items()}


def low_rank(shape: tuple[int, ...], generator: torch.Generator, rank: int = 2) -> list[torch.Tensor]:
    """up and down of a small change of a weight of this shape."""
    up, down = torch.randn(shape[0], rank, generator=generator), torch.randn(rank, *shape[1:], generator=generator)
    return [0.05 * up.reshape(shape[0], rank, *(1 for _ in shape[2:])), down * down[0].numel() ** -0.5]


def _randomised(module: nn.Module, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Weights that keep the stream of every layer at about one; norms near the identity."""
    values: dict[str, torch.Tensor] = {}
    for name, empty in module.state_dict().items():
        value = torch.randn(empty.shape, generator=generator)
        if empty.ndim > 1:
            value = value * empty[0].numel() ** -0.5
        else:
            value = value * 0.1 + (1.0 if name.endswith("weight") else 0.0)
        values[name] = value.half().float()
    return values
