"""Runs of the small models of `combining` with controls and companions, in vc_core."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import small_models as small
import torch
from control.combining import BASES, END, EXAMPLES, FRAMES, IMAGE, PROMPT, Companion, control_of, lora_of, method_of
from safetensors.torch import save_file
from torch import Tensor

from vc_core.control import Control
from vc_core.denoising import Sampling, Source
from vc_core.long import frames
from vc_core.long.video import OnStep, key_frames
from vc_core.pipeline import VideoCrafter
from vc_core.request import Request

REQUEST = Request(frames=FRAMES, seed=3, cfg=5.0, sampling=Sampling(steps=1))
NOTHING = Companion()
Chosen = tuple[tuple[str, str], ...]
"""Controls by name, each "active", "neutral" or "timed"."""


class Bench:
    """Small models, files of their controls, and the results of runs, each made once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.loaded: dict[tuple[str, bool], VideoCrafter] = {}
        self.results: dict[tuple[Any, ...], Tensor] = {}

    def crafter(self, base: str, lora: bool = False) -> VideoCrafter:
        """A small model, perhaps with a LoRA."""
        if (base, lora) not in self.loaded:
            spec, path = BASES[base].spec, self.folder / f"{base}.safetensors"
            if not path.exists():
                small.save(spec, path)
                save_file(lora_of(spec), self.folder / f"{base}_lora.safetensors")
            files = [path, self.vision()] if base == "style" else [path]
            loras = [(self.folder / f"{base}_lora.safetensors", 1.0)] if lora else []
            self.loaded[base, lora] = VideoCrafter.load(files, loras=loras)
        return self.loaded[base, lora]

    def vision(self) -> Path:
        """An image encoder, as its published file has it."""
        path, start = self.folder / "vision.pt", "embedder.model."
        if not path.exists():
            whole = small.state_dict(small.IMAGE_MODEL)
            torch.save({name.removeprefix(start): each for name, each in whole.items() if name.startswith(start)}, path)
        return path

    def control(self, base: str, name: str, how: str = "active") -> Control:
        """The control of an example, with its file for this model."""
        example, path = EXAMPLES[name], self.folder / f"{name}_{base}.pt"
        if example.weights is not None and not path.exists():
            torch.save(example.weights(BASES[base].spec), path)
        changes = {"active": {}, "neutral": example.neutral, "timed": example.timed}[how]
        return control_of(name, None if example.weights is None else path, **changes)

    def run(self, base: str, chosen: Chosen, wanted: Companion = NOTHING, *, on: bool = True) -> Tensor:
        """What a run with these controls makes: latents, or of long videos the frames. on: with the companion, or in
        its setting without it."""
        decoded = bool(wanted.method or wanted.rounds)
        key = (base, chosen, repr(wanted) if on else repr((wanted.setting, wanted.always)), decoded)
        if key not in self.results:
            controls = tuple(self.control(base, *each) for each in chosen)
            self.results[key] = self.made(base, controls, wanted, on)
        return self.results[key]

    def made(
        self,
        base: str,
        controls: tuple[Control, ...],
        wanted: Companion,
        on: bool = True,
        on_step: OnStep | None = None,
    ) -> Tensor:
        """As `run`, without a look at earlier results. on_step: called after each step; what it raises ends the run."""
        size, given = BASES[base].size, {**wanted.always, **(wanted.given if on else {})}
        changes = {"width": size, "height": size, **wanted.setting, **(wanted.change if on else {})}
        request = replace(REQUEST, controls=controls, **changes)
        crafter, image = self.crafter(base, "lora" in given), IMAGE if base == "continuing" else None
        if "keys" in given:
            return stacked(key_frames(crafter, [PROMPT], [IMAGE, END], request=request, on_step=on_step))
        more = {
            "source": self.source(size, given, changes.get("frames", FRAMES)),
            "end_image": END if "end" in given else None,
        }
        if wanted.method or wanted.rounds:
            method = method_of(wanted if on else NOTHING)
            return stacked(frames(crafter, PROMPT, image, request=request, method=method, on_step=on_step, **more))
        for step in crafter.steps(PROMPT, image, request=request, **more):
            if on_step is not None:
                on_step(step)
        return step.x

    def source(self, size: int, given: Mapping[str, Any], frames: int) -> Source | None:
        """The video that a run starts from, if it does."""
        if "strength" not in given:
            return None
        latents = torch.randn(1, 4, frames, size // 8, size // 8, generator=torch.Generator().manual_seed(6))
        mask = torch.ones(frames, size // 8, size // 8)
        mask[:, :2, :2] = 0
        until = given.get("kept_until", 0.0)
        return Source(latents, strength=given["strength"], mask=mask if until else None, kept_until=until)


def stacked(made: Iterable[Tensor]) -> Tensor:
    """Frames h w 3 as f h w 3, without an operation of torch: those that are watched are all of the run."""
    return torch.from_numpy(np.stack([frame.numpy() for frame in made]))
