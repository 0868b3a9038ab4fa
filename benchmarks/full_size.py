"""The models measured at full size: their workflow template, and a file with random weights in the published layout."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
MANIFESTS, TEMPLATES, BUNDLED = ROOT / "tests" / "manifests", ROOT / "workflows", ROOT / "models"
DTYPES = {"published": "", "fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
"""Number formats of the weights in generated files."""


@dataclass(frozen=True)
class Model:
    """A checkpoint, by its file name in the templates.

    manifest: the keys and shapes of the published file; empty for a bundled model.
    """

    file: str
    manifest: str = ""

    @property
    def template(self) -> dict[str, Any]:
        """The first workflow template that loads it."""
        for path in sorted(TEMPLATES.glob("*.json")):
            workflow: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            if any(self.file in (node.get("widgets_values") or []) for node in workflow["nodes"]):
                return workflow
        raise FileNotFoundError(f"no workflow in {TEMPLATES} loads {self.file}")

    def path(self, folder: Path, dtype: str = "published") -> Path:
        """The model's file, created in `folder` if it does not exist."""
        if not self.manifest:
            return BUNDLED / self.file
        path = folder / self.file
        if not path.is_file():
            make(MANIFESTS / f"{self.manifest}.json.gz", path, dtype)
        return path


MODELS = {
    "videocrafter2": Model("videocrafter2_512.ckpt", "t2v_512_v2.0"),
    "t2v_1024": Model("videocrafter1_t2v_1024.ckpt", "t2v_1024_v1.0"),
    "i2v_512": Model("videocrafter1_i2v_512.ckpt", "i2v_512_v1.0"),
    "dynamicrafter_512": Model("dynamicrafter_512.ckpt", "dynamicrafter_512_v1"),
    "small": Model("videocrafter_small_t2v.safetensors"),
}


def make(manifest: Path, path: Path, dtype: str = "published") -> None:
    """Writes a checkpoint with random weights, atomically and in a separate process."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    words = ["--manifest", str(manifest), "--make", str(part), "--dtype", dtype]
    subprocess.run([sys.executable, "-m", "benchmarks.full_size_load", *words], check=True, cwd=ROOT)
    part.rename(path)
