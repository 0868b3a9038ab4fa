"""The command line called in this process, and what came of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np

from vc_core import cli
from vc_core.specs import AutoencoderSpec, ModelSpec, SamplingDefaults

SMALL = SamplingDefaults(width=16, height=24, frames=3, steps=2, fps=8, cfg=3.0, save_fps=5.0)


def runnable(spec: ModelSpec) -> ModelSpec:
    """With the real vocabulary and a real downscale, so that it can make videos."""
    changes: dict[str, Any] = {
        "text_encoder": replace(spec.text_encoder, vocab_size=49408),
        "autoencoder": AutoencoderSpec(channels=32, channel_mult=(1, 1, 1, 1), num_res_blocks=1),
        "defaults": SMALL,
    }
    return replace(spec, **changes)


def run(*arguments: str | Path) -> int:
    return cli.main([*map(str, arguments), "--quiet"])


def frames_of(path: Path) -> np.ndarray:
    with av.open(str(path)) as file:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)])


def one_line(text: str) -> str:
    """The only line that was written; a traceback or a usage text would be more."""
    assert text.count("\n") == 1, text
    assert text.startswith("error: ")
    return text
