"""VAE: the autoencoder as ComfyUI's own, which falls back to tiles when memory runs out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.ldm.models.autoencoder
import comfy.model_management
import comfy.ops
import comfy.sd
import torch
from torch import Tensor

from ...vc_core.autoencoder.autoencoder import DECODED, ENCODED, Autoencoder
from ...vc_core.checkpoint.building import Checkpoint
from ...vc_core.denoising import Noise
from ...vc_core.errors import UserError
from ...vc_core.specs import AutoencoderSpec
from .compat import fill, is_dynamic, known, remember_types
from .latents import NATIVE_GROUPS, is_native
from .model import WEIGHT_DTYPES, remember
from .operations import weights_of
from .reading import open_file, read_mapped

DIFFUSERS_MARK = "decoder.up_blocks.0.resnets.0.norm1.weight"


class OwnAutoencoder(Autoencoder):
    """Ours, called as ComfyUI calls an autoencoder: latents are not scaled here but by its samplers."""

    def encode(self, pixels: Tensor) -> Tensor:  # type: ignore[override]
        """n 3 h w in -1..1 -> the posterior's mean, n c h/8 w/8"""
        return self.moments(pixels)[0]

    def decode(self, latents: Tensor) -> Tensor:  # type: ignore[override]
        """n c h w -> n 3 (8 h) (8 w). Raises UserError for latents of another kind of model."""
        needed = self.spec.latent_channels
        if latents.ndim != 4 or latents.shape[1] != needed:
            raise UserError(
                f"The latent has the shape {tuple(latents.shape)}, but this VAE decodes (frames, {needed}, height / "
                f"{self.spec.downscale}, width / {self.spec.downscale}): it was made for another kind of model. Decode "
                "it with that model's VAE, or sample the latent of VideoCrafter Empty Latent."
            )
        return self.decode_unscaled(latents)


def load_vae(checkpoint: Checkpoint, weight_dtype: str = "default") -> Any:
    """VAE of an opened file that has an autoencoder.

    Autoencoders of the published widths become ComfyUI's own module; narrower ones and ToonCrafter's, which it cannot
    build, are ours inside ComfyUI's VAE.
    """
    spec = checkpoint.spec.autoencoder
    checkpoint.check("autoencoder")
    kind = WEIGHT_DTYPES[weight_dtype]
    dtype = kind if kind in (torch.float32, torch.float16, torch.bfloat16) else None
    if is_native(spec):
        weights = checkpoint.weights("autoencoder")
        vae = comfy.sd.VAE(sd=weights, config={"params": _config(spec)}, dtype=dtype)
        fill(vae.first_stage_model, weights, vae.patcher)
    else:
        vae = _around(checkpoint, dtype)
    vae.latent_channels = spec.latent_channels
    vae.downscale_ratio = vae.upscale_ratio = spec.downscale
    _estimate(vae, spec)
    return vae


def _estimate(vae: Any, spec: AutoencoderSpec) -> None:
    """Give ComfyUI the memory of one frame, instead of its constants of 2178 and 1767 for every width."""
    decode, encode = vae.memory_used_decode, vae.memory_used_encode
    down, up = DECODED * spec.channels / 2178, ENCODED * spec.channels / 1767
    vae.memory_used_decode = lambda shape, dtype: decode(shape, dtype) * down
    vae.memory_used_encode = lambda shape, dtype: encode(shape, dtype) * up


def _around(checkpoint: Checkpoint, dtype: torch.dtype | None) -> Any:
    """ComfyUI's VAE with our module in it: made with the smallest autoencoder it can build, which is then replaced."""
    config = _config(AutoencoderSpec(channels=NATIVE_GROUPS, channel_mult=(1,), num_res_blocks=1))
    smallest = comfy.ldm.models.autoencoder.AutoencoderKL(**config).state_dict()
    vae = comfy.sd.VAE(sd=smallest, config={"params": config}, dtype=dtype)
    spec, kind = checkpoint.spec.autoencoder, vae.vae_dtype
    operations = comfy.ops.disable_weight_init
    module = OwnAutoencoder(spec, operations=operations, weights=weights_of(operations), device="meta", dtype=kind)
    remember_types(module)
    vae.first_stage_model = module
    # The plain patcher cannot stream the weights of the decoder that sees the ends, and must load it whole.
    vae.disable_offload = spec.sees_ends
    vae.patcher = type(vae.patcher)(
        module, load_device=vae.device, offload_device=comfy.model_management.vae_offload_device()
    )
    dtype = None if is_dynamic(vae.patcher) else kind
    module.load_state_dict(checkpoint.weights("autoencoder", dtype=dtype, computed=kind), strict=True, assign=True)
    module.requires_grad_(False).eval()
    if hasattr(vae, "model_size"):  # newer hosts keep the size of the module
        vae.size = None
        vae.model_size()
    return vae


def load_vae_file(path: Path, weight_dtype: str = "default") -> Any:
    """VAE of a file: one of ours, or any autoencoder of Stable Diffusion's kind in the names of `diffusers`."""
    tensors = read_mapped(path).tensors
    if DIFFUSERS_MARK in tensors:
        vae = comfy.sd.VAE(sd=dict(tensors))
        vae.throw_exception_if_invalid()
    else:
        vae = load_vae(open_file(path), weight_dtype)
    remember(vae.patcher, load_vae_patcher, (path, weight_dtype))
    return vae


def load_vae_patcher(path: Path, weight_dtype: str, disable_dynamic: bool = False) -> Any:
    """The patcher alone, made again."""
    del disable_dynamic  # ComfyUI's VAE has no such choice
    return load_vae_file(path, weight_dtype).patcher


def decode_frames(vae: Any, latents: Tensor) -> Tensor:
    """IMAGE frames h w 3, float32 on the CPU, of latents frames c h w as a LATENT holds them."""
    out: Tensor = vae.decode(latents)
    if out.ndim == 5:
        out = out.flatten(0, 1)
    return out.to("cpu", torch.float32)


def looks_at_ends(vae: Any) -> bool:
    """Whether this is a VAE whose decoder sees the images at a clip's ends (ToonCrafter)."""
    module = getattr(vae, "first_stage_model", None)
    return isinstance(module, OwnAutoencoder) and module.spec.sees_ends


ENDS = 2
"""Memory that the images at the ends take in a decoder that sees them, in frames."""


def decode_clip(vae: Any, latents: Tensor, ends: Tensor) -> Tensor:
    """IMAGE frames h w 3, float32 on the CPU, of a clip's latents frames c h w, decoded at once by a VAE that sees the
    images at its ends, 2 h w 3 in 0..1. Raises UserError if there is not enough memory."""
    load = comfy.model_management.load_models_gpu
    memory = vae.memory_used_decode(latents.shape, vae.vae_dtype) * (len(latents) + ENDS)
    shown = vae.process_input(ends.movedim(-1, 1))
    try:
        load([vae.patcher], memory_required=memory, **known(load, force_full_load=vae.disable_offload))
        z, pixels = (part.to(vae.device, vae.vae_dtype) for part in (latents, shown))
        out = vae.first_stage_model.decode_unscaled(z, pixels).to("cpu", torch.float32)
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"There is not enough memory for {len(latents)} frames of {ends.shape[2]}x{ends.shape[1]}, which this VAE "
            "decodes at once. Use fewer frames or a smaller size, or decode with VAE Decode (Tiled), which ignores the "
            "images at the ends."
        ) from error
    frames: Tensor = vae.process_output(out).movedim(1, -1)
    return frames


def encode_frames(vae: Any, frames: Tensor) -> Tensor:
    """Latents frames c h w as a LATENT holds them (not scaled), on the CPU, of frames h w 3 in 0..1."""
    if not hasattr(vae, "encode"):
        raise UserError(f"The vae input is {type(vae).__name__}, not a VAE.")
    out: Tensor = vae.encode(frames)
    return out.to("cpu", torch.float32)


def encode_sampled(vae: Any, image: Tensor, noise: Noise) -> Tensor:
    """As `encode_frames` of one image h w 3, but a sample of the posterior: 1 c h w. Raises UserError for a VAE
    without one."""
    module: Any = getattr(vae, "first_stage_model", None)
    if not hasattr(module, "encoder") or not hasattr(module, "quant_conv"):
        raise UserError(
            "The posterior of this VAE cannot be sampled: connect the VAE of the model's own checkpoint, or choose "
            "the posterior mean."
        )
    pixels = image[None].movedim(-1, 1)
    memory = vae.memory_used_encode(pixels.shape, vae.vae_dtype)
    comfy.model_management.load_models_gpu([vae.patcher], memory_required=memory)
    pixels = vae.process_input(pixels).to(vae.device, vae.vae_dtype)
    mean, logvar = module.quant_conv(module.encoder(pixels)).to("cpu", torch.float32).chunk(2, dim=1)
    return mean + (0.5 * logvar.clamp(-30.0, 20.0)).exp() * noise.draw(mean.shape)


def check_vae(vae: Any, latents: Tensor) -> None:
    """Raise UserError for latents that the VAE does not decode."""
    channels = getattr(vae, "latent_channels", latents.shape[1])
    if getattr(vae, "latent_dim", 2) != 2:
        raise UserError("The VAE is for latents with a time axis; VideoCrafter's decodes frame by frame.")
    if latents.shape[1] != channels:
        raise UserError(
            f"The latent has {latents.shape[1]} channels and the VAE decodes {channels}. Use the VAE of the model "
            "that made the latent."
        )


def _config(spec: AutoencoderSpec) -> dict[str, Any]:
    """The autoencoder as ComfyUI's configuration describes it."""
    return {
        "embed_dim": spec.latent_channels,
        "ddconfig": {
            "double_z": True,
            "z_channels": spec.latent_channels,
            "resolution": 256,
            "in_channels": 3,
            "out_ch": 3,
            "ch": spec.channels,
            "ch_mult": list(spec.channel_mult),
            "num_res_blocks": spec.num_res_blocks,
            "attn_resolutions": [],
            "dropout": 0.0,
        },
    }
