"""Memory needed at published sizes with fp16 weights, by accounting, without running anything."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from vc_core.autoencoder.autoencoder import Autoencoder
from vc_core.network.unet import VideoUNet
from vc_core.specs import ModelSpec

from . import models
from .live import fused, live_bytes

Size = tuple[int, int, int]

GOALS: dict[Size, tuple[float, float]] = {(16, 40, 64): (4.5e9, 2e9), (16, 72, 128): (6e9, 3e9)}
"""Frames, height and width of latents -> maximum bytes of a pass with all weights on the device, and with streamed
weights."""

STREAMED = 2
"""Number of largest layers on the device at once with streamed weights: one computing, one loading."""


@torch.no_grad()
def pass_bytes(spec: ModelSpec, size: Size, network: VideoUNet | None = None) -> int:
    """Peak memory of a UNet pass of this size in fp16, without the weights."""
    network = network or VideoUNet(spec.unet, device="meta", dtype=torch.float16, attention=fused)
    meta = torch.device("meta")
    conditioning = models.told(spec.unet, 2, meta, torch.float16)
    x = models.latents(spec.unet, size, meta, torch.float16)
    if spec.reads_images:
        conditioning = replace(conditioning, image=conditioning.text[:, :16])
    if spec.continues_images:
        conditioning = replace(conditioning, concat=x[:, : spec.unet.concat_channels])
    timestep = torch.tensor([500.0], device=meta)
    return live_bytes(lambda: network(x, timestep, conditioning))


@torch.no_grad()
def plan(spec: ModelSpec, size: Size) -> dict[str, Any]:
    """Peak memory of a pass, with chunked and with whole feature maps, and of decoding one frame, with all weights and
    with streamed ones."""
    network = VideoUNet(spec.unet, device="meta", dtype=torch.float16, attention=fused)
    decoder = Autoencoder(spec.autoencoder, device="meta", dtype=torch.float16)
    frame = torch.empty(1, spec.autoencoder.latent_channels, *size[1:], dtype=torch.float16, device="meta")
    weights, of_pass = models.weight_bytes(network), pass_bytes(spec, size, network)
    if hasattr(network, "budget"):  # missing in older revisions
        network.budget.values = sys.maxsize
    return {
        "weight_bytes": weights,
        "pass_bytes": of_pass,
        "pass_bytes_whole": pass_bytes(spec, size, network),
        "peak_bytes": weights + of_pass,
        "peak_bytes_streamed": STREAMED * largest_layer(network) + of_pass,
        "decode_bytes_per_frame": models.weight_bytes(decoder) + live_bytes(lambda: decoder.decode(frame)),
    }


def largest_layer(network: nn.Module) -> int:
    """Bytes of the parameters of the largest layer."""
    return max(sum(one.nbytes for one in module.parameters(recurse=False)) for module in network.modules())
