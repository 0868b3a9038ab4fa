"""`python -m training.storybook.compiling`: beside a run, tries kernels and compiled blocks at its shapes.

First it compares the kernels of `fused` and `frames` with torch's operations, and writes `kernels.json` into a folder.
Then it computes one step of each kind with compiled blocks, which fills the caches on disk, compares its loss and
gradients with those without, times both, and writes `compiled_KIND.json`. A run takes what these files say is right.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .fitting import Batch, Flat, Gradients
from .forward import Blocks, gated, group_norm, over_frames
from .gallery import Gallery
from .lessons import VideoBatches, VideoLesson
from .networks import ImageBranch, Network
from .painting import paint
from .specs import STANDARD, TINY, Specs

logger = logging.getLogger(__name__)

WRONG = 0.06
"""The relative difference of gradients above which compiled blocks count as wrong; 16 bits alone make 0.02."""
WRONG_KERNEL = 0.02
KINDS = ("stills", "text_to_video", "continuing", "image_to_video")
SHAPES = 64
"""Shapes for which a block may be compiled; the stages of a run have several each."""


def write(folder: Path, name: str, found: dict[str, Any]) -> None:
    """Write a JSON file, whole or not at all."""
    logger.info("%s: %s", name, found)
    part = folder / f"{name}.{os.getpid()}.part"
    part.write_text(json.dumps(found), encoding="utf-8")
    part.replace(folder / f"{name}.json")


def kernels_of(folder: Path) -> Blocks:
    """Blocks with the kernels that `kernels.json` calls right; without that file, without kernels."""
    path = folder / "kernels.json"
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if not found.get("norms") and not found.get("frames"):
        return Blocks()
    return Blocks.fused(norms=bool(found.get("norms")), frames=bool(found.get("frames")))


def build(kind: str, specs: Specs, words: int, blocks: Blocks) -> VideoLesson:
    """The lesson of a stage, untrained."""
    torch.manual_seed(0)
    spec = {"continuing": specs.continuing, "image_to_video": specs.image_to_video}.get(kind, specs.text_to_video)
    network = Network(spec, words, blocks, over_time=kind != "stills")
    branch = None if spec.image_encoder is None else ImageBranch(spec)
    return VideoLesson(network, branch, hinted=kind == "text_to_video")


def drawn(specs: Specs, device: str) -> Gallery:
    """A gallery of a few clips, many times over, with noise for latents."""
    gallery = Gallery(specs.text_to_video, device, most=256)
    clips = gallery._on_device(paint(4, np.random.default_rng(0), size=specs.text_to_video.defaults.width))
    side = specs.text_to_video.defaults.width // specs.text_to_video.autoencoder.downscale
    clips["latents"] = torch.randn(4, clips["frames"].shape[1], 4, side, side, device=device).half()
    clips["firsts"] = clips["frames"][:, 0]
    names = ("rows", "names", "poses", "camera", "around", "latents", "firsts")
    gallery._store({name: clips[name].repeat(64, *[1] * (clips[name].ndim - 1)) for name in names})
    return gallery


def _difference(mine: Callable[..., Tensor], true: Callable[..., Tensor], *tensors: Tensor) -> float:
    """The greatest relative difference of two functions' results and gradients, in 16 bits and in 32."""
    half = [x.bfloat16().requires_grad_() for x in tensors]
    full = [x.detach().float().requires_grad_() for x in half]
    a, b = mine(*half), true(*full)
    grad = torch.randn_like(a)
    a.backward(grad)
    b.backward(grad.float())
    pairs = [(a, b), *((x.grad, y.grad) for x, y in zip(half, full, strict=True))]
    return max(float((x.detach().float() - y.detach()).norm() / y.detach().norm()) for x, y in pairs)  # type: ignore[union-attr]


def check_kernels(device: str) -> dict[str, Any]:
    """Which kernels are right: `norms` with the gated GELU, and `frames`."""
    from . import fused
    from .frames import over_frames as kernel

    def norms() -> float:
        worst = 0.0
        for rows, silu, width in ((1, True, 64), (1, False, 128), (16, False, 64)):
            x, w, b = torch.randn(32, 12, 12, width, device=device), *torch.randn(2, width, device=device)

            def true(x: Tensor, w: Tensor, b: Tensor, rows: int = rows, silu: bool = silu) -> Tensor:
                out = group_norm(x, w, b, 8, 1e-5, rows)
                return torch.nn.functional.silu(out) if silu else out

            def mine(x: Tensor, w: Tensor, b: Tensor, rows: int = rows, silu: bool = silu) -> Tensor:
                return fused.group_norm(x, w, b, 8, 1e-5, rows, silu)

            worst = max(worst, _difference(mine, true, 2 * x + 1, w, b))
        return max(worst, _difference(fused.gated, gated, torch.randn(500, 512, device=device)))

    def frames() -> float:
        tables = torch.randn(2, 32, 16, device=device)
        tables[:, -1] = 0
        qkv = torch.randn(2, 16, 36, 192, device=device)
        return _difference(partial(kernel, heads=4), partial(over_frames, heads=4), qkv, *tables)

    found: dict[str, Any] = {}
    for name, check in (("norms", norms), ("frames", frames)):
        try:
            found[f"{name}_difference"] = check()
            found[name] = found[f"{name}_difference"] < WRONG_KERNEL
        except Exception:  # whatever is wrong with a kernel, the run goes without it
            logger.exception("The kernels %s cannot be used", name)
            found[name] = False
    return found


def _prepared(kind: str, specs: Specs, gallery: Gallery, blocks: Blocks) -> tuple[VideoLesson, Flat]:
    """A lesson in the type of training, none of whose layers are zero."""
    lesson = build(kind, specs, gallery.words.size, blocks).to(gallery.device)
    generator = torch.Generator(gallery.device).manual_seed(1)
    with torch.no_grad():
        for p in lesson.parameters():
            if not p.any():
                p.normal_(std=0.03, generator=generator)
    dtype = torch.bfloat16 if gallery.device.startswith("cuda") else torch.float32
    return lesson, Flat(lesson.to(dtype), dtype)


def _timed(steps: Sequence[Gradients], batch: Batch, times: int = 8) -> list[float]:
    """The median seconds of a step for each, in turn, because the run beside them has the GPU now more, now less."""
    wait = torch.cuda.synchronize if batch[0].is_cuda else (lambda: None)
    seconds: list[list[float]] = [[] for _ in steps]
    for gradients in steps:
        gradients(batch)
    for _ in range(times):
        for gradients, found in zip(steps, seconds, strict=True):
            wait()
            began = time.perf_counter()
            gradients(batch)
            wait()
            found.append(time.perf_counter() - began)
    return [statistics.median(found) for found in seconds]


def try_compiled(kind: str, specs: Specs, gallery: Gallery, sizes: dict[str, int], folder: Path) -> dict[str, Any]:
    """Compile, compare and time the step of a kind."""
    on_gpu = gallery.device.startswith("cuda")
    compiled = Blocks.compiled() if on_gpu else Blocks()
    lesson, flat = _prepared(kind, specs, gallery, kernels_of(folder))
    stills = sizes["stills_of_clip"] if kind == "stills" else 0
    size = sizes["still_clips_at_once"] if stills else sizes["clips_at_once"]
    batch = VideoBatches(gallery, lesson, size, stills=stills)(0.1)
    plain = Gradients(lesson, flat, graphs=on_gpu)
    loss = float(plain(batch))
    wanted = flat.gradients.float().clone()
    began = time.perf_counter()
    lesson.network.blocks = compiled
    after = Gradients(lesson, flat, graphs=on_gpu)
    flat.gradients.zero_()
    other = float(after(batch))
    seconds = time.perf_counter() - began
    difference = float((flat.gradients.float() - wanted).norm() / wanted.norm())
    before, now = _timed((plain, after), batch)
    stayed = lesson.network.blocks is compiled
    right = stayed and abs(other - loss) <= 0.03 * abs(loss) and difference <= WRONG
    del plain, after
    torch.compiler.reset()
    began = time.perf_counter()
    lesson.network.blocks = Blocks.compiled() if on_gpu else compiled
    Gradients(lesson, flat, graphs=on_gpu)(batch)
    warm = time.perf_counter() - began
    times = {"warm": warm, "ms_before": 1000 * before, "ms": 1000 * now, "seconds": seconds, "ratio": now / before}
    return {"right": right, "difference": difference, "loss": loss, "loss_compiled": other, **times}


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--folder", type=Path, required=True)
    options.add_argument("--device", default="cuda")
    options.add_argument("--tiny", action="store_true")
    options.add_argument("--kernels-only", action="store_true")
    for name in ("still-clips-at-once", "stills-of-clip", "clips-at-once"):
        options.add_argument(f"--{name}", type=int, required=True)
    given = options.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stdout)
    torch.set_float32_matmul_precision("high")
    torch._dynamo.config.recompile_limit = SHAPES
    on_gpu = given.device.startswith("cuda")
    found = check_kernels(given.device) if on_gpu else {"norms": False, "frames": False}
    write(given.folder, "kernels", found)
    if given.kernels_only:
        return 0
    specs = TINY if given.tiny else STANDARD
    gallery = drawn(specs, given.device)
    for kind in KINDS:
        try:
            write(given.folder, f"compiled_{kind}", try_compiled(kind, specs, gallery, vars(given), given.folder))
        except Exception:
            logger.exception("The step of %s cannot be compiled", kind)
        if on_gpu:
            torch.cuda.empty_cache()
    return 0


if __name__ == "__main__":
    sys.exit(main())
