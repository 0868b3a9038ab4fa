"""The CPU parts. Each function adds a part to the result, as numbers under plain names."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vc_core.autoencoder.autoencoder import Autoencoder
from vc_core.denoising.guidance import Guidance, guide
from vc_core.errors import UserError
from vc_core.network.call import Pass
from vc_core.network.unet import VideoUNet
from vc_core.pipeline import Request, VideoCrafter
from vc_core.specs import ModelSpec, Windows

from . import memory, models
from .breakdown import Breakdown
from .clock import LONG, Clock, ceiling, convolution_rate, matrix_rate, operations

log = logging.getLogger(__name__)

Size = tuple[int, int, int]
"""Frames, and height and width of the latents (one eighth of the video's)."""

SIZES: tuple[Size, ...] = ((16, 8, 8), (16, 16, 16), (16, 24, 24), (16, 40, 64), (16, 72, 128))
GROWTH: tuple[int, ...] = (16, 32, 64, 128)
SMALL_MODEL = Path(__file__).resolve().parent.parent / "models" / "videocrafter_small_t2v.safetensors"
CPU = torch.device("cpu")


@dataclass
class Bench:
    """Settings and results of a run."""

    clock: Clock
    spec: ModelSpec
    dtype: torch.dtype = torch.float32
    longest: float = 240.0
    side: int = 4096
    sizes: tuple[Size, ...] = SIZES
    result: dict[str, Any] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        return self.clock.device

    @property
    def rate(self) -> float:
        """Operations per second of a matrix product in this run's dtype."""
        return float(self.result["matmul"][str(self.dtype).removeprefix("torch.")])

    @property
    def ceiling(self) -> float:
        """Operations per second of the fastest kernel in this run's dtype."""
        return float(self.result["convolution"][str(self.dtype).removeprefix("torch.")])

    def inputs(self, size: Size, dtype: torch.dtype | None = None, device: torch.device | None = None) -> list[Any]:
        """The inputs of a UNet."""
        device, dtype = device or self.device, dtype or self.dtype
        unet = self.spec.unet
        timestep = torch.tensor([500.0], device=device)
        return [models.latents(unet, size, device, dtype), timestep, models.told(unet, 2, device, dtype)]

    def operations(self, size: Size, **keywords: Any) -> int:
        """Operations of one UNet pass."""
        meta = torch.device("meta")
        network = VideoUNet(self.spec.unet, device=meta)
        given = self.inputs(size, torch.float32, meta)
        with torch.no_grad():
            return operations(lambda: network(*given, **keywords))

    def fits(self, size: Size) -> bool:
        """Whether a pass of this size is expected to be fast enough, at the rate of a plain matrix product."""
        return self.operations(size) / self.rate <= self.longest


def matmul(bench: Bench) -> None:
    """The rates of torch.matmul, to which everything else is compared, and of a convolution, in each dtype; on a CPU
    also the peak rate of its cores."""
    kinds = [torch.float32, torch.bfloat16] + ([torch.float16] if bench.device.type == "cuda" else [])
    bench.result["matmul"] = {
        str(kind).removeprefix("torch."): matrix_rate(bench.clock, kind, bench.side) for kind in kinds
    }
    bench.result["convolution"] = {
        str(kind).removeprefix("torch."): convolution_rate(bench.clock, kind) for kind in kinds
    }
    if bench.device.type == "cpu":
        most = bench.result["ceiling"] = ceiling()
        bench.result["ceiling_over_matmul"] = {kind: most[kind] / bench.result["matmul"][kind] for kind in most}


def unet(bench: Bench) -> None:
    """UNet passes of growing size, and the same passes in bfloat16."""
    network = models.unet(bench.spec.unet, bench.device, bench.dtype)
    weights = models.weight_bytes(network)
    passes = {}
    for size in bench.sizes:
        if not bench.fits(size):
            passes[name(size)] = {"left_out": f"would take more than {bench.longest:g} s"}
            continue
        passes[name(size)] = one_pass(bench, network, size)
    bench.result["unet"] = {"weight_bytes": weights, "passes": passes, "growth_with_size": grown(passes)}
    if bench.dtype == torch.float32:
        bench.result["bfloat16"] = half(bench, network)


def grown(passes: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Seconds per value of the latents, relative to the first measured size."""
    each = {
        title: found["seconds"] / math.prod(map(int, title.split("x")))
        for title, found in passes.items()
        if "seconds" in found
    }
    first = next(iter(each.values()), 1.0)
    return {title: value / first for title, value in each.items()}


@torch.inference_mode()
def one_pass(bench: Bench, network: VideoUNet, size: Size) -> dict[str, Any]:
    """Seconds, rate relative to a matrix product, memory, and the time by kind of module; of a single pass if it is
    long."""
    given, count = bench.inputs(size), bench.operations(size)
    log.info("UNet pass %s, %.2f TFLOP", name(size), count / 1e12)
    breakdown = Breakdown(network, bench.clock)
    seconds = 0.0 if count / bench.rate > LONG else bench.clock.seconds(lambda: models.run(network)(*given))
    peak = bench.clock.peak(lambda: breakdown.measure(*given))
    seconds = seconds or breakdown.total
    return {
        "operations": count,
        "seconds": seconds,
        "rate_over_matmul": count / seconds / bench.rate,
        "rate_over_convolution": count / seconds / bench.ceiling,
        **peak,
        "shares": breakdown.shares,
    }


@torch.inference_mode()
def guided(bench: Bench) -> None:
    """A guided step compared with two separate passes, at the faster sizes."""
    network = models.unet(bench.spec.unet, bench.device, bench.dtype)
    spec, found = bench.spec.unet, {}
    positive, negative = (models.told(spec, seed, bench.device, bench.dtype) for seed in (2, 3))
    model = models.Network(network)
    for size in [size for size in bench.sizes if bench.operations(size) / bench.rate < bench.longest / 10]:
        x, timestep = bench.inputs(size)[:2]
        step = guide(model, {"positive": positive, "negative": negative}, Guidance(scale=12.0), **models.TOGETHER)
        expected = 2 * bench.operations(size) / bench.rate

        def passes(x: Tensor = x, timestep: Tensor = timestep) -> None:
            model(x, timestep, positive)
            model(x, timestep, negative)

        def run(x: Tensor = x, timestep: Tensor = timestep, step: Any = step) -> None:
            step(x, timestep)

        apart, joined = bench.clock.seconds(passes, expected), bench.clock.seconds(run, expected)
        found[name(size)] = {"two_passes": apart, "step": joined, "step_over_two_passes": joined / apart}
    bench.result["guided"] = found


@torch.inference_mode()
def growth(bench: Bench) -> None:
    """Time per frame for growing clips of the first size, plain and with windowed attention, relative to 16 frames."""
    network = models.unet(bench.spec.unet, bench.device, bench.dtype)
    found: dict[str, Any] = {}
    _, height, width = bench.sizes[0]
    models.run(network)(*bench.inputs((GROWTH[0], height, width)))  # warm-up
    for title, windows in (("plain", None), ("windows", Windows())):
        first = 0.0
        for frames in GROWTH:
            size = (frames, height, width)
            if not bench.fits(size):
                continue
            given = bench.inputs(size)

            def run(given: list[Any] = given, windows: Windows | None = windows) -> None:
                models.run(network)(*given, Pass(windows=windows))

            each = bench.clock.once(run) / frames
            first = first or each
            found.setdefault(title, {})[str(frames)] = {"seconds_per_frame": each, "over_16": each / first}
    bench.result["frames"] = found


def half(bench: Bench, network: VideoUNet) -> dict[str, Any]:
    """The same passes with weights and activations in bfloat16. Converts the network in place."""
    network.to(torch.bfloat16)
    halved = replace(bench, dtype=torch.bfloat16)
    found = {}
    for title, exact in bench.result["unet"]["passes"].items():
        if "seconds" in exact:
            frames, height, width = map(int, title.split("x"))
            passed = one_pass(halved, network, (frames, height, width))
            kept = {name: value for name, value in passed.items() if "bytes" not in name}  # it reuses float32's memory
            found[title] = {**kept, "over_float32": passed["seconds"] / exact["seconds"]}
    return found


@torch.inference_mode()
def autoencoder(bench: Bench) -> None:
    """Decoding and encoding of one frame and of a chunked clip."""
    network = models.autoencoder(bench.spec.autoencoder, bench.device, bench.dtype)
    meta = Autoencoder(bench.spec.autoencoder, device="meta")
    z = models.latents(bench.spec.unet, (16, 40, 64), bench.device, bench.dtype)[0].transpose(0, 1)
    pixels = torch.rand(1, 3, 320, 512, device=bench.device).to(bench.dtype) * 2 - 1
    jobs: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
        "decode_1": (lambda: network.decode(z[:1]), lambda: meta.decode(z[:1].to("meta", torch.float32))),
        "encode_1": (lambda: network.encode(pixels), lambda: meta.encode(pixels.to("meta", torch.float32))),
    }
    found: dict[str, Any] = {}
    for title, (work, count) in jobs.items():
        total, seconds = operations(count), bench.clock.seconds(work)
        found[title] = {
            "operations": total,
            "seconds": seconds,
            "rate_over_matmul": total / seconds / bench.rate,
            "rate_over_convolution": total / seconds / bench.ceiling,
            **bench.clock.peak(work),
        }
    quarter = z[:, :, :20, :32]
    for title, frames in (("decode_4_of_20x32", 4), ("decode_16_of_20x32", 16)):
        found[title] = bench.clock.peak(lambda frames=frames: network.decode(quarter[:frames]))  # type: ignore[misc]
    bench.result["autoencoder"] = found


def video(bench: Bench) -> None:
    """A whole clip of the small bundled model: 10 guided steps and decoding."""
    from vc_core.denoising import Sampling

    crafter = VideoCrafter.load(SMALL_MODEL, device=bench.device, dtype=bench.dtype)
    request = Request(seed=1, sampling=Sampling(steps=10))
    seconds = bench.clock.seconds(lambda: crafter.generate("a red square moves to the left", request=request))
    bench.result["small_video"] = {"steps": 10, "seconds": seconds}


def planned(bench: Bench) -> None:
    """Peak memory with fp16 weights, by accounting, and the goals."""
    found = {}
    for size, (whole, streamed) in memory.GOALS.items():
        goals = {"goal_bytes": whole, "goal_bytes_streamed": streamed}
        found[name(size)] = {**memory.plan(bench.spec, size), **goals}
    bench.result["planned_fp16"] = found


@torch.inference_mode()
def compiled(bench: Bench) -> None:
    """A pass of the small model's UNet with torch.compile, relative to one without it; also for other numbers of
    frames, which need no third graph."""
    crafter = VideoCrafter.load(SMALL_MODEL, device=bench.device, dtype=bench.dtype)
    unet = crafter.parts.unet
    assert unet is not None
    conditioning = crafter.condition("a red square moves to the left", None, 8.0)
    sizes = [(16, 8, 8), (24, 8, 8), (32, 8, 8)]
    given = [
        [models.latents(unet.spec, size, bench.device, bench.dtype), torch.tensor([500.0], device=bench.device)]
        for size in sizes
    ]
    plain = [bench.clock.seconds(lambda one=one: unet(*one, conditioning)) for one in given]  # type: ignore[misc]
    if not hasattr(crafter, "compile"):
        bench.result["compiled"] = {"left_out": "this revision cannot"}
        return
    try:
        crafter.compile()
    except UserError as error:
        bench.result["compiled"] = {"left_out": str(error)}
        return
    first = [bench.clock.once(lambda one=one: unet(*one, conditioning)) for one in given]  # type: ignore[misc]
    later = [bench.clock.seconds(lambda one=one: unet(*one, conditioning)) for one in given]  # type: ignore[misc]
    bench.result["compiled"] = {
        name(size): {"first_call_seconds": begun, "over_plain": now / was}
        for size, begun, now, was in zip(sizes, first, later, plain, strict=True)
    }


def loading(bench: Bench) -> None:
    """See `files.loading`."""
    from . import files

    bench.result["loading"] = files.loading()


def writing(bench: Bench) -> None:
    """See `files.writing`."""
    from . import files

    bench.result["writing"] = files.writing()


PARTS: dict[str, Callable[[Bench], None]] = {
    "unet": unet,
    "guided": guided,
    "frames": growth,
    "autoencoder": autoencoder,
    "video": video,
    "planned": planned,
    "compiled": compiled,
    "writing": writing,
    "loading": loading,
}


def measure(bench: Bench, parts: Sequence[str]) -> None:
    """Runs the given parts, and before them the matrix product to which they are compared."""
    if parts:
        matmul(bench)
    for part in parts:
        log.info("%s", part)
        PARTS[part](bench)


def name(size: Sequence[int]) -> str:
    """A size as text."""
    return "x".join(map(str, size))
