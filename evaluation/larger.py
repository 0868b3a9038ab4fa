"""Evaluates sizes above the trained one on the small text model: `python -m evaluation.larger`.

Prompts that name a color, a shape and a motion are sampled at the trained size, and at a multiple of it directly and by
each method. Larger clips are reduced to the trained size and seen by the same detector. The usual fault above the
trained size is several objects, so that a clip counts as right only if it shows one object.

Rows are appended to a file, and a clip that it already holds is not made again.
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import ndimage

from vc_core.control import ScaleCrafter
from vc_core.denoising import Guidance, Sampling
from vc_core.pipeline import Request, VideoCrafter
from worlds.shapes.world import BACKGROUNDS, COLOURS, SIZE

from .detector import SMALLEST_AREA, observe
from .generate import Array, Case, draw_cases

logger = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parent.parent
ONE = 0.8
"""The least share of frames with one object in a clip that shows one."""
TRAINED = "trained size"


@dataclass(frozen=True, kw_only=True)
class Row:
    """A clip and what it shows. single: the share of frames with one object. objects: the mean number of objects."""

    kind: str
    scale: float
    prompt: int
    single: float
    objects: float
    colour: bool
    shape: bool
    motion: bool

    @property
    def right(self) -> bool:
        """Whether the clip shows what its prompt says."""
        return self.single >= ONE and self.colour and self.shape and self.motion


Make = Callable[[VideoCrafter, Case, Request], Array]
"""(model, case, request at the larger size) -> the clip f h w 3"""


def directly(crafter: VideoCrafter, case: Case, request: Request) -> Array:
    """Sampling at the size of the request."""
    return np.asarray(crafter.generate(case.prompt, request=request).numpy(), dtype=np.float32)


def by_scalecrafter(crafter: VideoCrafter, case: Case, request: Request) -> Array:
    """ScaleCrafter with its settings by size."""
    clip = crafter.generate(case.prompt, request=request, controls=(ScaleCrafter(),))
    return np.asarray(clip.numpy(), dtype=np.float32)


KINDS: Mapping[str, Make] = {"direct": directly, "ScaleCrafter": by_scalecrafter}


def count_objects(frame: Array) -> int:
    """How many connected components of a frame h w 3 have the colors of objects, those too small to see left out."""
    palette = np.array([*COLOURS.values(), *BACKGROUNDS.values()], dtype=np.float32)
    mask = np.linalg.norm(frame[:, :, None] - palette, axis=-1).argmin(-1) < len(COLOURS)
    labels, count = ndimage.label(mask)
    return int((np.bincount(labels.ravel(), minlength=count + 1)[1:] >= SMALLEST_AREA).sum())


def reduced(clip: Array) -> Array:
    """A clip f h w 3 at the trained size, by the mean of pixels."""
    pixels = torch.from_numpy(clip).permute(0, 3, 1, 2)
    smaller = torch.nn.functional.interpolate(pixels, size=(SIZE, SIZE), mode="area")
    return np.asarray(smaller.permute(0, 2, 3, 1).numpy(), dtype=np.float32)


def judged(clip: Array, case: Case, **given: Any) -> Row:
    """What a clip shows of its prompt; `given` are the other fields of the row."""
    clip = reduced(clip)
    saw, counts = observe(clip), [count_objects(frame) for frame in clip]
    return Row(
        single=float(np.mean([count == 1 for count in counts])),
        objects=float(np.mean(counts)),
        colour=saw.colour == case.scene.colour,
        shape=saw.shape == case.scene.shape,
        motion=saw.motion == case.scene.motion,
        **given,
    )


def rows_of(crafter: VideoCrafter, options: argparse.Namespace, known: Sequence[Row]) -> Iterator[Row]:
    """The rows that are not known yet, prompt after prompt."""
    there = {(row.kind, row.scale, row.prompt) for row in known}
    sampling = Sampling(steps=options.steps, eta=0.0, guidance=Guidance())
    jobs: list[tuple[str, float, Make]] = [(TRAINED, 1.0, directly)]
    jobs += [(kind, scale, KINDS[kind]) for scale in options.scale for kind in options.kind]
    for number, case in enumerate(draw_cases(options.count, unseen=False)):
        for kind, scale, make in jobs:
            if (kind, scale, number) in there:
                continue
            size = round(scale * SIZE / 8) * 8
            request = Request(seed=case.seed, width=size, height=size, fps=case.scene.fps, sampling=sampling)
            yield judged(make(crafter, case, request), case, kind=kind, scale=scale, prompt=number)


def table(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """Percentages by kind and scale."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(f"{row.kind}, {row.scale:g}x", []).append(row)
    return {name: _figures(some) for name, some in found.items()}


def _figures(rows: Sequence[Row]) -> dict[str, float]:
    shares = {
        "right": [row.right for row in rows],
        "one object": [row.single >= ONE for row in rows],
        **{name: [bool(getattr(row, name)) for row in rows] for name in ("colour", "shape", "motion")},
    }
    figures = {name: round(100 * float(np.mean(values)), 1) for name, values in shares.items()}
    return {"clips": len(rows), **figures, "objects": round(float(np.mean([row.objects for row in rows])), 2)}


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    options = argparse.ArgumentParser(prog="python -m evaluation.larger", description=__doc__)
    options.add_argument("--model", type=Path, default=ROOT / "models" / "videocrafter_small_t2v.safetensors")
    options.add_argument("--count", type=int, default=60, help="prompts")
    options.add_argument("--scale", type=float, nargs="+", default=[2.0, 3.0], help="multiples of the trained size")
    options.add_argument("--kind", nargs="+", choices=list(KINDS), default=list(KINDS))
    options.add_argument("--steps", type=int, default=20)
    options.add_argument("--rows", type=Path, default=Path("larger.jsonl"), help="where the rows are kept")
    options.add_argument("--result", type=Path, default=ROOT / "benchmarks" / "results" / "larger.json")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    options = parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    lines = options.rows.read_text(encoding="utf-8").splitlines() if options.rows.exists() else []
    rows = [Row(**json.loads(line)) for line in lines]
    with options.rows.open("a", encoding="utf-8") as file:
        for row in rows_of(VideoCrafter.load(options.model), options, rows):
            file.write(json.dumps(asdict(row)) + "\n")
            file.flush()
            rows.append(row)
            logger.info("%s", row)
    found = {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} thread(s), torch {torch.__version__}",
        "model": options.model.name,
        "settings": {"steps": options.steps, "eta": 0.0, "sampler": "ddim"},
        **table(rows),
    }
    options.result.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(f"{options.result}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
