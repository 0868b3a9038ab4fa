"""What published sizes need in memory with fp16 weights, by accounting: nothing is run."""

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
"""Frames, height and width of latents -> the bytes that a pass may take with all weights on the device, and with
weights that stream through it."""

STREAMED = 2
"""Of the largest layers, how many are on the device at once while weights stream: one computes, the next one comes."""


@torch.no_grad()
def pass_bytes(spec: ModelSpec, size: Size, network: VideoUNet | None = None) -> int:
    """What lives at the most in one UNet pass of this size in fp16, without the weights."""
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
    """A pass, with large maps in parts and with whole ones, and the decoding of one frame: what lives at the most, with
    and without all weights."""
    network = VideoUNet(spec.unet, device="meta", dtype=torch.float16, attention=fused)
    decoder = Autoencoder(spec.autoencoder, device="meta", dtype=torch.float16)
    frame = torch.empty(1, spec.autoencoder.latent_channels, *size[1:], dtype=torch.float16, device="meta")
    weights, of_pass = models.weight_bytes(network), pass_bytes(spec, size, network)
    if hasattr(network, "budget"):  # as in all but older revisions
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
