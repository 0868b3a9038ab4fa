"""Networks in the published layouts with random weights, and their inputs."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from vc_core.autoencoder.autoencoder import Autoencoder
from vc_core.conditions import SINGLE, Conditioning, Evaluation
from vc_core.denoising.guidance import guide
from vc_core.network.call import Pass
from vc_core.network.unet import VideoUNet
from vc_core.specs import PRESETS, AutoencoderSpec, ModelSpec, UNetSpec

BLOCK = 2**22
"""Number of random values drawn once; all weights are filled with them."""

TEXT_TOKENS = 77

CASES: dict[str, tuple[str, tuple[int, int, int]]] = {
    "vc2_320x512": ("videocrafter2_512", (16, 40, 64)),
    "t2v_576x1024": ("videocrafter1_t2v_1024", (16, 72, 128)),
}
"""Name -> published layout, and frames, height and width of the latents."""


def tiny(spec: ModelSpec) -> ModelSpec:
    """The same layout with fewer and narrower layers."""
    few: dict[str, Any] = {"num_res_blocks": 1, "norm_groups": 8}
    narrow: dict[str, Any] = {
        "model_channels": 32,
        "channel_mult": (1, 2),
        "attention_levels": (0,),
        "head_channels": 16,
    }
    unet = replace(spec.unet, **few, **narrow, context_dim=32)
    autoencoder = replace(spec.autoencoder, channels=16, **few)
    return replace(spec, unet=unet, autoencoder=autoencoder)


def case(name: str, small: bool) -> tuple[ModelSpec, tuple[int, int, int]]:
    """The layout and the size of a case, or a `small` version of it."""
    preset, size = CASES[name]
    return (tiny(PRESETS[preset]), (2, 8, 8)) if small else (PRESETS[preset], size)


def unet(spec: UNetSpec, device: torch.device, dtype: torch.dtype) -> VideoUNet:
    """A UNet whose activations stay finite."""
    network = VideoUNet(spec, device="meta").eval().to(dtype).to_empty(device=device)
    return filled(network)


def autoencoder(spec: AutoencoderSpec, device: torch.device, dtype: torch.dtype) -> Autoencoder:
    """An autoencoder whose activations stay finite."""
    return filled(Autoencoder(spec, device="meta").eval().to(dtype).to_empty(device=device))


def filled(module: Any) -> Any:
    """Fills a module: norms near 1, and weights that preserve the variance of activations."""
    block = torch.rand(BLOCK, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            block = block.to(parameter.device)
            flat = parameter.view(-1)
            norm = parameter.ndim == 1 and name.endswith("weight")
            spread = 0.02 if parameter.ndim < 2 else math.sqrt(1 / parameter[0].numel())
            for start in range(0, len(flat), BLOCK):
                part = flat[start : start + BLOCK]
                part.copy_(block[: len(part)] * spread + float(norm))
    return module


def arrange(network: Any) -> None:
    """Converts the weights to the memory format of the fused kernels, in revisions that have them."""
    fused = getattr(network, "fused", None)
    if fused is not None:
        fused.arrange(network)


@contextmanager
def by_plain_layers(network: Any) -> Iterator[None]:
    """While active, the network, or the networks of a model, run without fused kernels."""
    fused = getattr(network, "fused", None)
    before = None if fused is None else fused.wanted
    if fused is not None:
        fused.wanted = False
    try:
        yield
    finally:
        if fused is not None:
            fused.wanted = before


def weight_bytes(module: nn.Module) -> int:
    """Bytes of a module's parameters and buffers."""
    return sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))


def latents(spec: UNetSpec, size: tuple[int, int, int], device: torch.device | str, dtype: torch.dtype) -> Tensor:
    """1 c f h w"""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(1, spec.latent_channels, *size, generator=generator).to(device, dtype)


def told(spec: UNetSpec, seed: int, device: torch.device | str, dtype: torch.dtype) -> Conditioning:
    """A text's conditioning."""
    generator = torch.Generator().manual_seed(seed)
    text = torch.randn(1, TEXT_TOKENS, spec.context_dim, generator=generator).to(device, dtype)
    return Conditioning(text=text, fps=torch.tensor([8.0], device=device))


TOGETHER: dict[str, Any] = {"together": True} if "together" in inspect.signature(guide).parameters else {}
"""Keyword for `guide` to evaluate both conditionings in one pass, in revisions that support it."""


def run(network: VideoUNet) -> Callable[..., Tensor]:
    """The network as called by a pipeline: in chunks as large as the free memory allows, in revisions that support
    it."""
    called: Callable[..., Tensor] = getattr(network, "in_memory", network)
    return called


class Network:
    """A UNet as a model of `vc_core.denoising`."""

    def __init__(self, network: VideoUNet) -> None:
        self.network = network

    def __call__(self, x: Tensor, timestep: Tensor, given: Conditioning, evaluation: Evaluation = SINGLE, /) -> Tensor:
        return run(self.network)(x, timestep, given, Pass(evaluation))
