"""Whole videos on a GPU: seconds, memory, a small card, and agreement with a CPU."""

from __future__ import annotations

import math
import statistics
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vc_core.checkpoint.building import Parts
from vc_core.conditions import Conditioning
from vc_core.denoising import NoiseSchedule, Sampling
from vc_core.pipeline import Request, VideoCrafter

from . import models
from .card import Card

MODELS = Path(__file__).resolve().parent.parent / "models"
GIB = 2**30


class Blind(VideoCrafter):
    """A model with random conditioning, which needs no text encoder."""

    def condition(self, prompt: str, image: Tensor | None, fps: float) -> Conditioning:
        seed = 2 + len(prompt)
        return replace(
            models.conditioning(self.parts.spec.unet, seed, self.parts.device, self.parts.dtype),
            fps=torch.tensor([fps], device=self.parts.device),
        )


def crafter_of(card: Card, title: str) -> VideoCrafter:
    """A model with random weights."""
    spec, size = models.case(title, card.tiny)
    factor = spec.size_multiple
    spec = replace(
        spec, defaults=replace(spec.defaults, frames=size[0], height=size[1] * factor, width=size[2] * factor)
    )
    unet = models.unet(spec.unet, card.device, card.half)
    autoencoder = models.autoencoder(spec.autoencoder, card.device, card.half)
    for network in (unet, autoencoder):
        models.arrange(network)
    return Blind(
        Parts(
            spec=spec,
            schedule=NoiseSchedule.from_spec(spec.diffusion),
            device=card.device,
            dtype=card.half,
            unet=unet,
            autoencoder=autoencoder,
        )
    )


def video(card: Card, crafter: VideoCrafter, request: Request) -> dict[str, Any]:
    """Figures of a whole video: seconds until the first step, per step and for decoding; memory; whether it is
    finite."""
    begun, marks = time.perf_counter(), []
    made: list[Tensor] = []

    def work() -> None:
        nonlocal begun
        begun = time.perf_counter()
        made.append(crafter.generate("a boat", request=request, on_step=lambda step: marks.append(time.perf_counter())))
        card.wait()

    memory = card.memory(work)
    end = time.perf_counter()
    steps = [b - a for a, b in pairwise(marks)]
    return {
        "seconds": end - begun,
        "first_step_seconds": marks[0] - begun,
        "step_seconds": statistics.median(steps) if steps else math.nan,
        "decode_seconds": end - marks[-1],
        "is_finite": bool(made[0].isfinite().all()),
        **memory,
    }


def videos(card: Card, title: str) -> None:
    """Whole videos with guidance: exact, with balanced caches, without CUDA graphs, and with plain layers."""
    crafter = crafter_of(card, title)
    section, steps = f"video_{title}", 2 if card.tiny else 50
    request = Request(seed=1, sampling=Sampling(steps=steps))
    short = replace(request, sampling=Sampling(steps=2 if card.tiny else 10))
    card.note(section, "first_run", **video(card, crafter, replace(short, sampling=Sampling(steps=2))))
    card.note(section, "exact", **video(card, crafter, request), steps=steps)
    cached = replace(request, step_cache="balanced", guidance_cache="balanced")
    card.note(section, "balanced_caches", **video(card, crafter, cached), steps=steps)
    card.note(section, "apart", **video(card, crafter, replace(short, together=False)))
    card.note(section, "together", **video(card, crafter, replace(short, together=True)))
    crafter.graphs = False
    card.note(section, "without_graphs", **video(card, crafter, short))


def decode(card: Card) -> None:
    """Decoding of a clip: seconds, and bytes above the weights."""
    for title in models.CASES:
        spec, size = models.case(title, card.tiny)
        network = models.autoencoder(spec.autoencoder, card.device, card.half)
        z = models.latents(spec.unet, size, card.device, card.half)[0].transpose(0, 1)
        ways: list[tuple[str, Any]] = [("plain", models.by_plain_layers(network)), ("fused", None)]
        for way, context in ways:
            if context is None:
                models.arrange(network)
                found = decoded(card, network, z)
            else:
                with context:
                    found = decoded(card, network, z)
            card.note("decode", title, way, **found)


def decoded(card: Card, network: Any, z: Tensor) -> dict[str, Any]:
    """Seconds and memory of decoding latents."""
    taken = card.seconds(lambda: network.decode(z), 3, 1)
    memory = card.memory(lambda: network.decode(z))
    above = {"above_bytes": memory["allocated_bytes"] - memory["before_bytes"]} if memory else {}
    return {"seconds": taken["seconds"], **memory, **above}


def small_card(card: Card) -> None:
    """A video at 576x1024 with the allocator limited to 6 GiB, and one without a limit."""
    crafter = crafter_of(card, "t2v_576x1024")
    request = Request(seed=1, sampling=Sampling(steps=2 if card.tiny else 4))
    video(card, crafter, replace(request, sampling=Sampling(steps=1)))
    card.note("small_card", "free", **video(card, crafter, request))
    if card.is_gpu:
        total = torch.cuda.get_device_properties(card.device).total_memory
        torch.cuda.set_per_process_memory_fraction(6 * GIB / total)
    try:
        card.note("small_card", "six_gib", **video(card, crafter, request))
    finally:
        if card.is_gpu:
            torch.cuda.set_per_process_memory_fraction(1.0)


def small_models(card: Card) -> None:
    """PSNR in dB of the bundled models' videos on this device against the CPU, from the same seed."""
    image = torch.rand(64, 64, 3, generator=torch.Generator().manual_seed(1))
    steps = 1 if card.tiny else 25
    request = Request(seed=5, sampling=Sampling(steps=steps))
    prompt = "a red square moves quickly to the left on a grey background"
    for which, shown in (("t2v", None), ("i2v", image), ("dynamicrafter", image)):
        file = MODELS / f"videocrafter_small_{which}.safetensors"
        begun = time.perf_counter()
        exact = VideoCrafter.load(file).generate(prompt, shown, request=request)
        card.note("small_models", which, cpu_seconds=time.perf_counter() - begun)
        for kind in (torch.float32, torch.float16) if card.is_gpu else (torch.bfloat16,):
            crafter = VideoCrafter.load(file, device=card.device, dtype=kind)
            made = crafter.generate(prompt, shown, request=request).cpu().float()
            error = float((made - exact).square().mean())
            card.note(
                "small_models",
                which,
                **{f"{str(kind).removeprefix('torch.')}_psnr": -10 * math.log10(max(error, 1e-12))},
            )
