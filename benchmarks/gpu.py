"""The GPU sections: peak rates, passes and their kernels, whole videos, memory, and agreement with a CPU.

Weights are random except for the small bundled models. Sections that do not fit into the time limit are skipped.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from vc_core.conditions import Conditioning
from vc_core.network.call import Pass
from vc_core.network.layers import ResBlock
from vc_core.network.transformers import SpatialTransformer, TemporalTransformer
from vc_core.network.unet import VideoUNet
from vc_core.specs import ModelSpec, Windows

from . import gpu_videos, models
from .card import Card
from .clock import operations

if TYPE_CHECKING:
    from vc_core.network.replay import Replay

Size = tuple[int, int, int]

ATTENTIONS: dict[str, tuple[tuple[int, int, int, int], int]] = {
    "frame_320x512": ((16, 5, 2560, 64), 2560),
    "frame_320x512_two_texts": ((32, 5, 2560, 64), 2560),
    "frame_320x512_level_1": ((16, 10, 640, 64), 640),
    "frame_576x1024": ((16, 5, 9216, 64), 9216),
    "frame_576x1024_level_1": ((16, 10, 2304, 64), 2304),
    "text_320x512": ((1, 5, 16 * 2560, 64), 77),
    "text_576x1024": ((1, 5, 16 * 9216, 64), 77),
    "vae_320x512": ((1, 1, 2560, 512), 2560),
    "vae_576x1024_block": ((1, 1, 1820, 512), 9216),
}
"""(Batch, heads, queries, head width), and the number of keys."""


def peaks(card: Card) -> None:
    """Peak rates of a large matrix product, of a copy, and of a convolution in both memory formats."""
    side = 64 if card.tiny else 8192
    for kind in (torch.float16, torch.bfloat16) if card.is_gpu else (torch.float32,):
        a, b = (torch.randn(side, side, device=card.device).to(kind) for _ in range(2))
        taken = card.seconds(lambda a=a, b=b: a @ b, 10, 3)["seconds"]  # type: ignore[misc]
        card.note("peaks", **{f"matmul_{name(kind)}_tflops": 2 * side**3 / taken / 1e12})
    x = torch.randn(side**2 * 4, device=card.device)
    y = torch.empty_like(x)
    taken = card.seconds(lambda: y.copy_(x), 10, 3)["seconds"]
    card.note("peaks", copy_terabytes_per_second=2 * x.nbytes / taken / 1e12)
    for title, layout in (("nchw", torch.contiguous_format), ("nhwc", torch.channels_last)):
        card.note("peaks", **{f"convolution_{title}_tflops": convolution_rate(card, layout) / 1e12})


def convolution_rate(card: Card, layout: torch.memory_format) -> float:
    """Operations per second of a 3x3 convolution in a memory format."""
    frames = torch.randn(*(2, 32, 8, 8) if card.tiny else (32, 320, 72, 128), device=card.device).to(card.half)
    frames = frames.contiguous(memory_format=layout)
    weight = torch.randn(frames.shape[1], frames.shape[1], 3, 3, device=card.device).to(frames)
    weight = weight.contiguous(memory_format=layout)
    taken = card.seconds(lambda: F.conv2d(frames, weight, padding=1), 10, 3)["seconds"]
    return 2 * frames.numel() * weight[0].numel() / taken


def name(kind: torch.dtype) -> str:
    return str(kind).removeprefix("torch.")


@dataclass
class Passes:
    """Passes of a network at one size."""

    card: Card
    title: str
    spec: ModelSpec
    size: Size
    network: VideoUNet

    def given(self, texts: int = 1) -> list[Any]:
        """The arguments of the network for the given number of texts."""
        unet, device, dtype = self.spec.unet, self.card.device, next(self.network.parameters()).dtype
        x = models.latents(unet, self.size, device, dtype)
        conditioning = Conditioning.joined(
            [models.conditioning(unet, seed, device, dtype) for seed in range(2, 2 + texts)]
        )
        return [x, torch.full((1,), 500.0, device=device), conditioning]

    @cached_property
    def operations(self) -> int:
        """Operations of one pass with one text."""
        meta = VideoUNet(self.spec.unet, device="meta")
        given = [one.to("meta", torch.float32) for one in self.given()]
        return operations(lambda: meta(*given))

    def report(self, way: str, call: Callable[..., Tensor], texts: int = 1, profiled: bool = False) -> None:
        """Seconds, rate, memory and kernels of one way to run a pass."""
        given = self.given(texts)

        def work() -> Tensor:
            return call(*given)

        taken = self.card.seconds(work, 5 if self.card.left() > 60 else 3)
        rate = texts * self.operations / taken["seconds"] / 1e12
        peak = self.card.result.get("peaks", {}).get(f"matmul_{name(given[0].dtype)}_tflops", math.nan)
        names = (self.title, way if texts == 1 else f"{way}_{texts}_texts")
        self.card.note(*names, **taken, tflops=rate, share_of_peak=rate / peak, **self.card.memory(work))
        if profiled:
            self.card.note(*names, profile=self.card.kernels(work))


def passes(card: Card, title: str) -> None:
    """Passes with plain layers, with fused layers and as a CUDA graph, with one text and with two, in half precision;
    and their differences from each other and from single precision."""
    spec, size = models.case(title, card.tiny)
    network = models.unet(spec.unet, card.device, card.half)
    here = Passes(card, title, spec, size, network)
    call = models.run(network)
    outs: dict[str, Tensor] = {}
    with models.by_plain_layers(network):
        here.report("plain", call, profiled=True)
        outs["plain"] = call(*here.given()).float()
    models.arrange(network)
    here.report("fused", call, profiled=True)
    outs["fused"] = call(*here.given()).float()
    here.report("fused", call, texts=2)
    if card.is_gpu and find_spec("vc_core.network.replay"):  # missing in older revisions
        with recorded(network, card.device) as replay:
            here.report("graph", replay, profiled=True)
            outs["graph"] = replay(*here.given()).float()
            card.note(title, "graph", is_recorded=not replay.off, held_bytes=replay.recorder.bytes)
            here.report("graph", replay, texts=2)
    agreement(here, outs)


def agreement(here: Passes, outs: dict[str, Tensor]) -> None:
    """Relative L2 distances: of each variant in half precision from single precision (without TF32 and fused kernels),
    and between two passes in single precision."""
    network = here.network.float()
    allowed = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        call = models.run(network)
        with models.by_plain_layers(network):
            exact, again = (call(*here.given()) for _ in range(2))
    finally:
        torch.backends.cudnn.allow_tf32 = allowed
    found = {f"{way}_from_float32": distance(out, exact) for way, out in outs.items()}
    found["fused_from_plain"] = distance(outs["fused"], outs["plain"])
    found["float32_repeated"] = distance(again, exact)
    if "graph" in outs:
        found["graph_from_fused"] = distance(outs["graph"], outs["fused"])
    here.card.note(here.title, "relative_difference", **found)


def distance(a: Tensor, b: Tensor) -> float:
    """|a - b| / |b|"""
    return float((a.double() - b.double()).norm() / b.double().norm())


@contextmanager
def recorded(network: VideoUNet, device: torch.device) -> Iterator[Replay]:
    """A replay of the network as CUDA graphs."""
    from vc_core.network.replay import CudaRecorder, Replay

    replay = Replay(network, CudaRecorder(device))
    try:
        yield replay
    finally:
        replay.release()


def attention(card: Card) -> None:
    """Seconds and rate of each of torch's attention kernels at the networks' sizes, and their distance from plain
    attention in single precision."""
    backends = (
        [SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]
        if card.is_gpu
        else [SDPBackend.MATH]
    )
    for title, ((batch, heads, queries, width), keys) in ATTENTIONS.items():
        queries, keys = (min(queries, 16), min(keys, 16)) if card.tiny else (queries, keys)

        def drawn(n: int, shape: tuple[int, int, int] = (batch, heads, width)) -> Tensor:
            batch, heads, width = shape
            return torch.randn(batch, n, heads, width, device=card.device).to(card.half).transpose(1, 2)

        q, k, v = drawn(queries), drawn(keys), drawn(keys)
        with sdpa_kernel(SDPBackend.MATH):
            exact = F.scaled_dot_product_attention(q[:1, :1, :64].float(), k[:1, :1].float(), v[:1, :1].float())
        for backend in (None, *backends):
            label = "default" if backend is None else backend.name.lower()
            card.note("attention", title, label, **attended(card, (q, k, v), backend, exact))


def attended(
    card: Card, qkv: tuple[Tensor, Tensor, Tensor], backend: SDPBackend | None, exact: Tensor
) -> dict[str, Any]:
    """Figures of one kernel at one size, or the error if it does not support it."""
    q, k, _ = qkv

    def work() -> Tensor:
        if backend is None:
            return F.scaled_dot_product_attention(*qkv)
        with sdpa_kernel(backend):
            return F.scaled_dot_product_attention(*qkv)

    try:
        out = work()
        taken = card.seconds(work, 10, 2)["seconds"]
    except RuntimeError as error:
        return {"refused": str(error).partition("\n")[0][:200]}
    count = 4 * q.numel() * k.shape[2]
    return {
        "milliseconds": 1000 * taken,
        "tflops": count / taken / 1e12,
        "relative_difference": distance(out[:1, :1, :64].float(), exact),
    }


def windows(card: Card) -> None:
    """Passes of 64 frames at 320x512 with windowed attention (FreeNoise)."""
    spec, (frames, height, width) = models.case("vc2_320x512", card.tiny)
    network = models.unet(spec.unet, card.device, card.half)
    here = Passes(card, "windows", spec, (4 * frames, height, width), network)
    windows = Windows(size=frames, stride=max(1, frames // 4))
    call = partial(models.run(network), run=Pass(windows=windows))
    with models.by_plain_layers(network):
        here.report("plain", call)
    models.arrange(network)
    here.report("fused", call)


def compiled_blocks(card: Card) -> None:
    """Passes with torch.compile on the repeated blocks, and the seconds until the first one has finished."""
    spec, size = models.case("vc2_320x512", card.tiny)
    network = models.unet(spec.unet, card.device, card.half)
    models.arrange(network)
    here = Passes(card, "compiled_blocks", spec, size, network)
    given = here.given()
    with models.by_plain_layers(network):
        network.fit(None, 0, 2)
        network.budget.values = 2**40
        before = network(*given)
        with torch._dynamo.config.patch(recompile_limit=64, accumulated_recompile_limit=1024):
            for module in network.modules():
                if isinstance(module, ResBlock | SpatialTransformer | TemporalTransformer):
                    module.compile(dynamic=False, **({"backend": "eager"} if card.tiny else {}))
            begun = time.perf_counter()
            after = network(*given)
            card.wait()
            card.note(
                here.title, compile_seconds=time.perf_counter() - begun, relative_difference=distance(after, before)
            )
            here.report("plain", network)
        if card.is_gpu and card.left() > 15:
            with recorded(network, card.device) as replay:
                here.report("graph", replay)
                card.note(here.title, "graph", is_recorded=not replay.off)


SECTIONS: dict[str, tuple[Callable[[Card], None], float]] = {
    "peaks": (peaks, 5),
    "vc2_320x512": (lambda card: passes(card, "vc2_320x512"), 20),
    "t2v_576x1024": (lambda card: passes(card, "t2v_576x1024"), 30),
    "video_vc2_320x512": (lambda card: gpu_videos.videos(card, "vc2_320x512"), 30),
    "video_t2v_576x1024": (lambda card: gpu_videos.videos(card, "t2v_576x1024"), 50),
    "attention": (attention, 10),
    "decode": (gpu_videos.decode, 10),
    "small_card": (gpu_videos.small_card, 15),
    "small_models": (gpu_videos.small_models, 25),
    "windows": (windows, 10),
    "compiled_blocks": (compiled_blocks, 75),
}
"""Section -> its function, and about how many seconds it takes; the most important ones first."""


def measure(card: Card, only: Sequence[str]) -> None:
    """Runs the given sections in the order of `SECTIONS`."""
    for section, (work, needed) in SECTIONS.items():
        if section in only:
            with card.section(section, 0 if card.tiny else needed) as enough_time:
                if enough_time:
                    work(card)
