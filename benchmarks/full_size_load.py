"""Measures the memory needed to load a full-size checkpoint in the published layout and to run one sampling step.

    python benchmarks/full_size_load.py --manifest tests/manifests/t2v_512_v2.0.json.gz

The checkpoint (7.4 GB for VideoCrafter2) is written to a temporary folder, with the keys, shapes and dtypes of the
published file and random weights. Each measurement runs in a separate process: importing the modules, loading the
model, and `python -m vc_core text-to-video` with one step, 64x64 pixels and 16 frames. With `--nodes`, it measures the
nodes in a real ComfyUI instead (loader, prompt, one step, decode; fp32, the same size) and writes a separate result;
`COMFYUI_PATH` is ComfyUI's folder.
Requires Linux or macOS, 9 GB of memory for fp32 and 8 GB of disk space.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.full_size import DTYPES  # noqa: E402
from benchmarks.machine import processor  # noqa: E402

RESULT = ROOT / "benchmarks" / "results" / "full_size_load.json"
NODES_RESULT = RESULT.with_name("full_size_load_nodes.json")
BLOCK = 2**22
"""Number of random values drawn once; all weights are filled with them."""

MEASURE = """
import json, resource, sys, time
sys.path.insert(0, {root!r})
begin = time.perf_counter()
{work}
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
json.dump({{"peak_bytes": peak, "seconds": time.perf_counter() - begin, **extra}}, open({out!r}, "w"))
"""

IMPORT = """
import torch
from vc_core.cli import main
from vc_core.conditioning.openclip import open_clip
open_clip("open_clip.transformer")
extra = {"torch": torch.__version__, "threads": torch.get_num_threads()}
"""

LOAD = """
import torch
from itertools import chain
from vc_core.pipeline import VideoCrafter
crafter = VideoCrafter.load({path!r}, dtype=torch.{dtype})
parts = [crafter.parts.unet, crafter.parts.autoencoder, crafter.parts.text_encoder]
kept = sum(t.nbytes for part in parts for t in chain(part.parameters(), part.buffers()))
extra = {{"kept_bytes": kept, "parameters": sum(p.numel() for part in parts for p in part.parameters())}}
"""

RUN = """
from vc_core.cli import main
status = main({arguments!r})
if status:
    sys.exit(status)
extra = {{}}
"""

NODES = """
sys.path.insert(0, {root!r} + "/tests")
import pathlib, tempfile
from comfyui.base import make_base
from comfyui.inprocess import start

def so_far():
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {{"peak_bytes": peak, "seconds": time.perf_counter() - begin}}

folder = tempfile.TemporaryDirectory()
base = make_base(pathlib.Path(folder.name))
base.model("checkpoints", "model.ckpt").symlink_to({path!r})
comfy = start(base)
import comfyui_version, torch
extra = {{"comfyui": comfyui_version.__version__, "torch": torch.__version__, "threads": torch.get_num_threads()}}
extra["modules_only"] = so_far()
model, clip, vae, _ = comfy.call("VideoCrafterCheckpointLoader", ckpt_name="model.ckpt", weight_dtype="fp32").values
parts = [model.model, clip.cond_stage_model, vae.first_stage_model]
kept = {{tensor.data_ptr(): tensor.nbytes for part in parts for tensor in part.state_dict().values()}}
extra |= {{"load": so_far(), "kept_bytes": sum(kept.values())}}
texts = ("a boat on the sea", "")
positive, negative = (comfy.call("CLIPTextEncode", text=text, clip=clip).values[0] for text in texts)
extra["prompt"] = so_far()
(latent,) = comfy.call("VideoCrafterEmptyLatent", width=64, height=64, frames=16).values
prompts = {{"positive": positive, "negative": negative}}
(latent,) = comfy.call("VideoCrafterKSampler", model=model, latent_image=latent, seed=1, steps=1, **prompts).values
extra["step"] = so_far()
(frames,) = comfy.call("VideoCrafterDecode", samples=latent, vae=vae).values
assert frames.shape == (16, 64, 64, 3) and bool(frames.isfinite().all())
extra["decode"] = so_far()
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", type=Path, default=ROOT / "tests" / "manifests" / "t2v_512_v2.0.json.gz")
    parser.add_argument("--folder", type=Path, default=None, help="folder for the checkpoint (default: temporary)")
    parser.add_argument("--nodes", action="store_true", help="measure the nodes in ComfyUI instead of the command line")
    parser.add_argument("--output", type=Path, default=None, help="the JSON file (default: in benchmarks/results)")
    parser.add_argument("--note", default="", help="a note to store in the result")
    parser.add_argument("--make", type=Path, default=None, help="only write the checkpoint to this file")
    parser.add_argument("--dtype", choices=DTYPES, default="published", help="dtype of the weights written by --make")
    options = parser.parse_args()
    if options.make is not None:
        make_checkpoint(options.manifest, options.make, DTYPES[options.dtype])
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path = Path(folder) / "model.ckpt"
        subprocess.run([sys.executable, __file__, "--manifest", options.manifest, "--make", path], check=True)
        report = measure_nodes(path) if options.nodes else measure(path)
    report = {"manifest": options.manifest.name.partition(".json")[0], "note": options.note, **report}
    output: Path = options.output or (NODES_RESULT if options.nodes else RESULT)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    sys.stdout.write(json.dumps(report, indent=2) + "\n")


def make_checkpoint(manifest: Path, path: Path, dtype: str = "") -> None:
    """Writes a .ckpt with the manifest's keys and shapes; see `write_checkpoint`."""
    write_checkpoint(json.loads(gzip.decompress(manifest.read_bytes())), path, dtype)


def write_checkpoint(shapes: dict[str, Any], path: Path, dtype: str = "", *, nested: bool = False) -> None:
    """Writes a .ckpt with tensors of these shapes and dtypes, by name, and the weights in `dtype` (except for the noise
    schedule). nested: names are MODULE/NAME, and the file holds a dict for each module. The weights are written
    directly to the file and need no memory."""
    from mmap import MAP_SHARED

    import torch
    from torch.serialization import set_default_mmap_options, skip_data

    kinds = {name: dtype if dtype and "." in name else kind for name, (_, kind) in shapes.items()}
    tensors = {name: torch.empty(shape, dtype=getattr(torch, kinds[name])) for name, (shape, _) in shapes.items()}
    with skip_data():
        torch.save(by_module(tensors) if nested else {"state_dict": tensors}, path)
    with set_default_mmap_options(MAP_SHARED):
        states = torch.load(path, mmap=True, weights_only=True).values()
    block = torch.rand(BLOCK, generator=torch.Generator().manual_seed(0)) * 2 - 1
    for state in states:
        for name, tensor in state.items():
            fill(name, tensor, block)


def by_module(tensors: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Tensors named MODULE/NAME by their module, then by their name."""
    found: dict[str, dict[str, Any]] = {}
    for name, tensor in tensors.items():
        module, _, own = name.partition("/")
        found.setdefault(module, {})[own] = tensor
    return found


def fill(name: str, tensor: Any, block: Any) -> None:
    """Fills a tensor: norms near 1, weights scaled to keep activations finite, the schedule exact."""
    sys.path.insert(0, str(ROOT))
    from vc_core.denoising.schedule import NoiseSchedule
    from vc_core.specs import DiffusionSpec

    flat = tensor.view(-1)
    if "." not in name:
        schedule = NoiseSchedule.from_spec(DiffusionSpec())
        values = {"alphas_cumprod": schedule.alphas_cumprod, "scale_arr": schedule.scale}.get(name)
        flat.fill_(0 if values is None else float(values[-1]))
        if values is not None:
            flat[: len(values)] = values.to(tensor.dtype)
        return
    centre = 1.0 if tensor.ndim == 1 and name.endswith("weight") else 0.0
    spread = 0.02 if tensor.ndim < 2 else math.sqrt(1 / tensor[0].numel())
    for start in range(0, len(flat), BLOCK):
        part = flat[start : start + BLOCK]
        part.copy_(block[: len(part)] * spread + centre)


def measure(path: Path) -> dict[str, Any]:
    """The figures of each process, and their ratios to the size of the model's tensors."""
    modules = run(IMPORT)
    arguments = ["text-to-video", "a boat on the sea", "--model", str(path), "--output", str(path.with_name("a.mp4"))]
    arguments += ["--width", "64", "--height", "64", "--frames", "16", "--steps", "1", "--seed", "1", "--device", "cpu"]
    report: dict[str, Any] = {
        **here(),
        "torch": modules.pop("torch"),
        "threads": modules.pop("threads"),
        "file_bytes": path.stat().st_size,
        "modules_only": modules,
    }
    for short, dtype in (("fp32", "float32"), ("bf16", "bfloat16")):
        loaded = run(LOAD.format(path=str(path), dtype=dtype))
        step = run(RUN.format(arguments=[*arguments, "--dtype", short, "--overwrite", "--quiet"]))
        kept = loaded["kept_bytes"]
        report[short] = {
            "load": loaded,
            "one_step": step,
            "load_peak_over_kept": loaded["peak_bytes"] / kept,
            "load_peak_without_modules_over_kept": (loaded["peak_bytes"] - modules["peak_bytes"]) / kept,
            "step_peak_over_kept": step["peak_bytes"] / kept,
        }
    return report


def measure_nodes(path: Path) -> dict[str, Any]:
    """The peak memory of a process that runs the nodes in ComfyUI, after each node, and its ratio to the tensors'
    size."""
    nodes = run(NODES.format(root=str(ROOT), path=str(path)))
    ratio = nodes["peak_bytes"] / nodes["kept_bytes"]
    return {**here(), "file_bytes": path.stat().st_size, "fp32": {**nodes, "peak_over_kept": ratio}}


def here() -> dict[str, Any]:
    """Date and machine of the measurement."""
    machine = {"system": platform.system(), "processor": processor(), "python": platform.python_version()}
    return {"date": datetime.now(timezone.utc).strftime("%Y-%m-%d"), "machine": machine}


def run(work: str) -> dict[str, Any]:
    """Runs one measurement in a separate process."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.json"
        code = MEASURE.format(root=str(ROOT), work=work, out=str(out))
        command: Sequence[str] = [sys.executable, "-c", code]
        begin = time.perf_counter()
        subprocess.run(command, check=True, cwd=ROOT)
        result: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
        return {**result, "seconds_with_start": time.perf_counter() - begin}


if __name__ == "__main__":
    main()
