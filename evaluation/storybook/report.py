"""The judge's questions to a set of models, within a time limit, and sheets of what they made."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from vc_core.pipeline import VideoCrafter

from .cases import Case
from .judging import Verdict, judge, summary
from .making import Settings, clips
from .recogniser import Recogniser
from .tracking import observe

logger = logging.getLogger(__name__)

SHOWN = 6
"""Frames of a clip on a sheet."""
TEXT_HEIGHT = 12
SOME = 150
"""Cases of the questions that are not the main one."""


@dataclass(kw_only=True)
class Judge:
    """The cases with their drawn scenes (bytes n f h w 3), the classifier, and when to stop asking."""

    cases: list[Case]
    drawn: Tensor
    model: Recogniser
    folder: Path
    device: str
    until: float
    """By `time.perf_counter`: no question begins later."""
    found: dict[str, Any] = field(default_factory=dict)

    def verdicts(self, made: Tensor) -> list[Verdict]:
        """Verdicts on clips n f 3 h w in -1..1 of the first n cases."""
        cases = self.cases[: len(made)]
        kinds = [[actor.kind for actor in case.scene.actors] for case in cases]
        seen = observe(made.float(), kinds, self.model, fps=cases[0].scene.fps)
        return [judge(case.scene, one) for case, one in zip(cases, seen, strict=True)]

    def of_drawn(self) -> None:
        """What the judge says of the scenes as they are drawn: its own accuracy."""
        if self._late("drawn"):
            return
        self._note("drawn", summary(self.verdicts(_network(self.drawn).to(self.device))))

    def ask(self, name: str, path: Path, settings: Settings, count: int, *, sheet: bool = False) -> None:
        """Let a model make the first `count` cases, judge them, and compare their ends with the drawn ones."""
        if self._late(name) or not path.exists():
            return
        dtype = torch.float16 if self.device.startswith("cuda") else torch.float32
        crafter = VideoCrafter.load(path, device=self.device, dtype=dtype)
        began = time.perf_counter()
        made = clips(crafter, self.cases[:count], settings, self.drawn[:count])
        seconds = time.perf_counter() - began
        verdicts = self.verdicts(made)
        found: dict[str, Any] = {**summary(verdicts), "clips": len(made), "seconds": round(seconds, 1)}
        if crafter.parts.image_encoder is not None:
            true = _network(self.drawn[: len(made)]).to(self.device)
            for word, frame in (("first frame, dB", 0), ("last frame, dB", -1)):
                error = ((made[:, frame].float() - true[:, frame]) / 2).square().mean((1, 2, 3))
                found[word] = round(float((-10 * error.clamp_min(1e-9).log10()).mean()), 2)
        self._note(name, found)
        if sheet:
            contact_sheet(self.cases, made, verdicts).save(self.folder / f"{name}.jpg", quality=88)

    def _late(self, name: str) -> bool:
        late = time.perf_counter() > self.until
        if late:
            logger.warning("There is no time left for %s", name)
        return late

    def _note(self, name: str, found: dict[str, Any]) -> None:
        self.found[name] = found
        logger.info("%s: %s", name, found)
        text = json.dumps(self.found, indent=1) + "\n"
        (self.folder / "report.json").write_text(text, encoding="utf-8")


def ask_all(judge_: Judge, models: Path, autoencoder: float, *, steps: int = 25) -> dict[str, Any]:
    """All questions in the order of their worth. `autoencoder` is its PSNR in dB, which goes into the report."""
    judge_.found["autoencoder, dB"] = round(autoencoder, 2)
    files = {name: models / f"storybook_{name}.safetensors" for name in ("t2v", "dynamicrafter", "i2v")}
    count = len(judge_.cases)
    some = min(SOME, count)
    judge_.ask("t2v", files["t2v"], Settings(steps=steps), count, sheet=True)
    judge_.of_drawn()
    judge_.ask("dynamicrafter", files["dynamicrafter"], Settings(steps=steps), some, sheet=True)
    judge_.ask("dynamicrafter_two_ends", files["dynamicrafter"], Settings(steps=steps, ends=2), some, sheet=True)
    judge_.ask("i2v", files["i2v"], Settings(steps=steps), some, sheet=True)
    judge_.ask("t2v_cfg_2.5", files["t2v"], Settings(steps=steps, cfg=2.5), some)
    judge_.ask("t2v_cfg_6", files["t2v"], Settings(steps=steps, cfg=6.0), some)
    judge_.ask("t2v_dpmpp_2m_15", files["t2v"], Settings(sampler="dpmpp_2m", steps=15), some)
    return judge_.found


def contact_sheet(cases: Sequence[Case], made: Tensor, verdicts: Sequence[Verdict], rows: int = 20) -> Image.Image:
    """The first clips, unpicked, in three columns: some frames of each below its prompt and what is wrong in it."""
    side, count = made.shape[-1], min(len(made), 3 * rows)
    width, height = SHOWN * side, side + 2 * TEXT_HEIGHT
    sheet = Image.new("RGB", (3 * width + 16, -(-count // 3) * height), "white")
    pen = ImageDraw.Draw(sheet)
    for index in range(count):
        left, top = index % 3 * (width + 8), index // 3 * height
        prompt = cases[index].prompt
        cut = prompt.rfind(" ", 0, 94) if len(prompt) > 94 else len(prompt)
        pen.text((left + 2, top), prompt[:cut], fill="black")
        pen.text((left + 2, top + TEXT_HEIGHT), f"{prompt[cut:].strip()}  [{wrong(verdicts[index])}]", fill="firebrick")
        for column, frame in enumerate(np.linspace(0, made.shape[1] - 1, SHOWN).round().astype(int)):
            sheet.paste(to_image(made[index, frame]), (left + column * side, top + 2 * TEXT_HEIGHT))
    return sheet


def wrong(verdict: Verdict) -> str:
    """What is not as the prompt says."""
    parts = {
        "actors": verdict.actors,
        "place": verdict.place,
        "time": verdict.time,
        "colour": all(verdict.colours),
        "motion": all(verdict.motions),
        "camera": verdict.camera,
    }
    return ", ".join(name for name, right in parts.items() if not right) or "ok"


def to_image(frame: Tensor) -> Image.Image:
    """3 h w in -1..1 as an image."""
    pixels = frame.float().add(1).mul(127.5).round().clamp(0, 255).to("cpu", torch.uint8)
    return Image.fromarray(pixels.permute(1, 2, 0).numpy())


def _network(frames: Tensor) -> Tensor:
    return frames.permute(0, 1, 4, 2, 3).float() / 127.5 - 1
