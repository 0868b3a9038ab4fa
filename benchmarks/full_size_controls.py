"""Loads controls at full size, beside their base models, and runs one sampling step with each.

    python -m benchmarks.full_size_controls --folder /a/folder/with/12/GB

Files with the keys and shapes of the published ones and random weights in bf16 are written to the folder, one control
after the other, and removed again. A process of its own says what the files are recognized as, loads the model, and
runs one step without the control and one with it: 64x64 pixels, 4 frames, cfg 1, bf16. The peak of its memory includes
the pages of the files that the system keeps mapped. Requires Linux or macOS and 13 GB of memory.
"""

from __future__ import annotations

import argparse
import gzip
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.full_size import MANIFESTS, ROOT
from benchmarks.full_size_load import here, run, write_checkpoint

RESULT = ROOT / "benchmarks" / "results" / "full_size_controls.json"
DTYPE = "bfloat16"
BASE, CONTROL = "base", "control"
VISION = "embedder.model."
PICTURE = "torch.rand(64, 64, 3, generator=torch.Generator().manual_seed({}))"


@dataclass(frozen=True, kw_only=True)
class File:
    """A file by the manifests of its tensors: names of manifests, each with the beginnings of the names that are taken
    from it; without any, all. cut: left out of each name. nested: the file holds a dict for each module."""

    manifests: Mapping[str, tuple[str, ...]]
    cut: str = ""
    nested: bool = False

    def shapes(self) -> dict[str, Any]:
        """Shape and dtype of each tensor."""
        found: dict[str, Any] = {}
        for manifest, starts in self.manifests.items():
            content = json.loads(gzip.decompress((MANIFESTS / f"{manifest}.json.gz").read_bytes()))
            found |= {name: each for name, each in content.items() if not starts or name.startswith(starts)}
        return {name.removeprefix(self.cut): each for name, each in found.items()}


@dataclass(frozen=True, kw_only=True)
class Case:
    """A control at full size. files: by their names; those whose names begin with "base" are the model. made: the
    control, in Python; {name} stands for the path of a file. image: whether the model begins with an image."""

    files: Mapping[str, File]
    made: str
    image: bool = False


OTHER_PARTS = ("betas", "alphas_cumprod", "first_stage_model.", "cond_stage_model.")
"""What the manifest of MotionCtrl's file, of its network alone, leaves out."""
DYNAMICRAFTER = File(manifests={"dynamicrafter_512_v1": ()})
CASES: dict[str, Case] = {
    "motionctrl": Case(
        files={
            BASE: File(
                manifests={
                    "t2v_512_v1.0": ("betas", "alphas_cumprod", "first_stage_model.", "cond_stage_model."),
                    "motionctrl": (),
                }
            )
        },
        made="MotionCtrl(camera='zoom in', tracks='8, 8; 50, 40', tracks_until=0.0)",
    ),
    "cami2v_512": Case(
        files={BASE: DYNAMICRAFTER, CONTROL: File(manifests={"cami2v_512_new_keys": ()})},
        made="CamI2V(file={control!r}, camera='pan left')",
        image=True,
    ),
    "sketch": Case(
        files={BASE: DYNAMICRAFTER, CONTROL: File(manifests={"tooncrafter_sketch_encoder": ()})},
        made=f"Sketch(file={{control!r}}, images=({PICTURE.format(2)},), frames='1')",
        image=True,
    ),
    "stylecrafter": Case(
        files={
            BASE: File(manifests={"t2v_512_v1.0": ()}),
            "base_vision": File(manifests={"i2v_512_v1.0": (VISION,)}, cut=VISION),
            CONTROL: File(manifests={"stylecrafter_adapter_v1": ()}),
            "temporal": File(manifests={"stylecrafter_temporal_v1": ()}, nested=True),
        },
        made=f"StyleCrafter(file={{control!r}}, temporal={{temporal!r}}, images=({PICTURE.format(2)},))",
    ),
}

STEP = """
import torch
from vc_core.checkpoint import open_checkpoint
from vc_core.control import CamI2V, MotionCtrl, Sketch, StyleCrafter
from vc_core.denoising import Sampling
from vc_core.pipeline import Request, VideoCrafter

files, base = {files!r}, {base!r}
extra = {{"recognized": {{name: open_checkpoint(path).detection.title for name, path in files.items()}}}}

def so_far():
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {{"peak_bytes": peak, "seconds": time.perf_counter() - begin}}

crafter = VideoCrafter.load(base, dtype=torch.{dtype})
extra |= {{"torch": torch.__version__, "threads": torch.get_num_threads(), "load": so_far()}}
image = {image}
control = {made}
request = dict(width=64, height=64, frames=4, seed=1, cfg=1.0, sampling=Sampling(steps=1))

def step(*controls):
    return list(crafter.steps("a boat on the sea", image, request=Request(controls=controls, **request)))[-1].x

plain = step()
extra["step_without"] = so_far()
steered = step(control)
extra["step_with"] = so_far()
network = crafter.networks(control)
extra["parameters_of_control"] = sum(each.numel() for each in network.parameters())
extra["is_finite"] = bool(steered.isfinite().all() and plain.isfinite().all())
extra["relative_change"] = float((steered - plain).norm() / plain.norm())
"""


def measure(name: str, folder: Path) -> dict[str, Any]:
    """The figures of a control, whose files are written to the folder and removed again."""
    case, paths = CASES[name], {}
    try:
        for file in case.files:
            paths[file] = str(folder / f"{name}_{file}.ckpt")
            subprocess.run(
                [sys.executable, "-m", "benchmarks.full_size_controls", "--make", name, file, paths[file]],
                check=True,
                cwd=ROOT,
            )
        work = STEP.format(
            files=paths,
            base=[path for file, path in paths.items() if file.startswith(BASE)],
            dtype=DTYPE,
            image=PICTURE.format(1) if case.image else None,
            made=case.made.format(**paths),
        )
        sizes = {file: Path(path).stat().st_size for file, path in paths.items()}
        return {**here(), "file_bytes": sizes, **run(work)}
    finally:
        for path in paths.values():
            Path(path).unlink(missing_ok=True)


def make(name: str, file: str, path: Path) -> None:
    """Writes one file of a control."""
    wanted = CASES[name].files[file]
    shapes = wanted.shapes()
    if wanted.nested:
        shapes = {f"{module}/{key}": each for module, state in shapes.items() for key, each in state.items()}
    write_checkpoint(shapes, path, DTYPE, nested=wanted.nested)


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=None, help="folder for the files (default: temporary)")
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES), help="the controls")
    parser.add_argument("--output", type=Path, default=RESULT, help="the JSON file; other controls in it are kept")
    parser.add_argument("--make", nargs=3, default=None, metavar=("CONTROL", "FILE", "PATH"), help="only write a file")
    return parser


def main() -> None:
    options = parser().parse_args()
    if options.make is not None:
        name, file, path = options.make
        make(name, file, Path(path))
        return
    for name in options.only:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            found = measure(name, Path(folder))
        kept = json.loads(options.output.read_text(encoding="utf-8")) if options.output.is_file() else {}
        options.output.write_text(json.dumps({**kept, name: found}, indent=2) + "\n", encoding="utf-8")
        sys.stdout.write(f"{name}: {json.dumps(found, indent=2)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
