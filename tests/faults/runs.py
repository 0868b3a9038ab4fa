"""Runs of vc_core in which faults are tried: every model, sampler, long-video method, control and companion, read from
the records and from the table of `control/combining.py`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import small_models as small
import torch
from control.combining import BASES, COMPANIONS, END, EXAMPLES, IMAGE, PROMPT, Companion, bases_of
from control.running import REQUEST, Bench
from torch import Tensor

from vc_core.control import Control
from vc_core.denoising import SAMPLERS, Sampling
from vc_core.long.video import OnStep
from vc_core.network.unet import VideoUNet
from vc_core.pipeline import VideoCrafter

STEPS: dict[str, Any] = {"sampling": Sampling(steps=3, spacing="trailing")}
VIDEO = torch.rand(9, 32, 32, 3, generator=torch.Generator().manual_seed(1))
Made = Callable[["OnStep | None"], Tensor]


class CoreRuns:
    """Runs of the small models, by name. `fresh` forgets the loaded models, so that the next run loads its own."""

    def __init__(self, folder: Path) -> None:
        self.bench = Bench(folder)
        self.toon: VideoCrafter | None = None
        self.made: dict[str, Made] = {
            **{f"model {name}": self._run(name, Companion(setting=STEPS)) for name in BASES},
            **{f"sampler {name}": self._run("text", Companion(setting=_with(name))) for name in SAMPLERS},
            **{_named(name): self._companion(each) for name, each in COMPANIONS.items()},
            **{f"control {name}": self._control(name) for name in EXAMPLES},
            "whole videos of a text": lambda on_step: self._whole("text", on_step),
            "whole videos of an image": lambda on_step: self._whole("continuing", on_step),
            "whole videos of ToonCrafter": self._tooncrafter,
            "encoding and decoding": self._autoencoder,
        }

    def fresh(self) -> None:
        """The models are loaded again when they are needed next."""
        self.bench.loaded.clear()
        self.toon = None

    def networks(self) -> list[VideoUNet]:
        """The networks that are loaded."""
        crafters = [*self.bench.loaded.values(), *([] if self.toon is None else [self.toon])]
        return [crafter.unet for crafter in crafters]

    def _run(self, base: str, companion: Companion, *names: str) -> Made:
        def made(on_step: OnStep | None) -> Tensor:
            controls: tuple[Control, ...] = tuple(self.bench.control(base, name) for name in names)
            return self.bench.made(base, controls, companion, on_step=on_step)

        return made

    def _companion(self, companion: Companion) -> Made:
        return self._run(companion.bases[0], replace(companion, setting={**STEPS, **companion.setting}))

    def _control(self, name: str) -> Made:
        return self._run(bases_of(name)[0], Companion(setting=STEPS, always=EXAMPLES[name].given), name)

    def _whole(self, base: str, on_step: OnStep | None) -> Tensor:
        size, image = BASES[base].size, IMAGE if base == "continuing" else None
        request = replace(REQUEST, width=size, height=size, **STEPS)
        return self.bench.crafter(base).generate(PROMPT, image, request=request, on_step=on_step)

    def _tooncrafter(self, on_step: OnStep | None) -> Tensor:
        base = BASES["continuing"]
        if self.toon is None:
            autoencoder = replace(base.spec.autoencoder, reference_levels=small.TOON_MODEL.autoencoder.reference_levels)
            path = self.bench.folder / "toon.safetensors"
            self.toon = VideoCrafter.load(small.save(replace(base.spec, autoencoder=autoencoder), path))
        request = replace(REQUEST, width=base.size, height=base.size, **STEPS)
        return self.toon.generate(PROMPT, IMAGE, request=request, end_image=END, on_step=on_step)

    def _autoencoder(self, on_step: OnStep | None) -> Tensor:
        crafter = self.bench.crafter("text")
        return crafter.decode(crafter.encode(VIDEO))


def _with(sampler: str) -> dict[str, Any]:
    return {"sampling": Sampling(sampler=sampler, steps=3, spacing="trailing")}


def _named(companion: str) -> str:
    return f"{'method' if COMPANIONS[companion].method else 'with'} {companion}"
