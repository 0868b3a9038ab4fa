"""Clip after clip, each from the last frames of the one before; `denoising.continuing` has the equations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..denoising.continuing import Continuation, Segment, continued
from ..errors import UserError
from .engine import SEEDS, Clip, Engine, Part
from .method import Feature, Video, Windowed, about

FROM_NOISE = "each clip starts from noise and from the one before"


@dataclass(frozen=True, kw_only=True)
class Continue(Windowed):
    """Clips that share frames. A model that continues images is given the last frame of the clip before, and shares it;
    all others share `overlap` frames, and see the image of the video."""

    name = "continue"
    summary = "clip after clip, each from the last frames of the one before"
    use = "motion that goes on: each clip begins with the last 8 frames of the one before (DynamiCrafter: the last one)"
    memory = "one window"
    time = "1.5 to 2"
    eta = 0.0
    conflicts = {
        Feature.SOURCE: FROM_NOISE,
        Feature.MASK: FROM_NOISE,
        Feature.END_IMAGE: "each clip continues the last frame of the one before and cannot lead to an end image",
        Feature.LOOP: "each clip continues the last frame of the one before and never returns to the first",
        Feature.KEY_FRAMES: "each section between key frames is a clip of its own",
        Feature.ANALYTIC_INIT: "the statistics are those of one clip",
        Feature.TIMED_CONTROL: "each clip would begin again with the first frame's value",
        Feature.NOISE_ROUNDS: "each clip continues frames of the one before, which rounds from noise alone do not have",
    }

    overlap: int = field(
        default=8,
        metadata=about(
            "frames that a clip shares with the one before, 1 to one less than the window: more is smoother and "
            "slower; models that continue an image always share 1",
            low=1,
            high=255,
        ),
    )
    correct: float = field(
        default=1.0, metadata=about("how much drift of brightness and colour is corrected, 0 is off", high=1)
    )

    def settled(self, trained: int) -> Continue:
        settled = self if self.window else replace(self, window=trained, overlap=min(self.overlap, trained - 1))
        if settled.overlap >= settled.window:
            raise UserError(
                f"The overlap of continue is {settled.overlap} frames; it should be from 1 to {settled.window - 1}, so "
                f"that a clip of {settled.window} frames adds new ones."
            )
        return settled

    def check(self, video: Video) -> None:
        """A clip has one prompt, so more prompts than clips cannot all be shown."""
        if self.is_plain(video.frames):
            return
        continues = video.spec is not None and video.spec.continues_images
        plan = self._plan(video.frames, continues=continues)
        count = plan.count(self.window)
        if video.prompts > count:
            enough = self.window + 1 + (video.prompts - 2) * (self.window - plan.overlap)
            raise UserError(
                f"{video.prompts} prompts were given, but {plan.frames} frames are made as {count} clips of "
                f"{self.window} frames, each with one prompt. Give at most {count} prompts, ask for at least {enough} "
                "frames, or choose freenoise, in which prompts change from frame to frame."
            )

    def run(self, engine: Engine) -> Iterator[Part]:
        plan = self._plan(engine.frames, continues=engine.continues_images)
        plan = replace(plan, steps=engine.steps, correct=0.0 if engine.blends_prompts else self.correct)
        count = plan.count(self.window)

        def scene(number: int) -> int:
            return min(number * engine.prompts // count, engine.prompts - 1)

        def make(segment: Segment) -> Tensor:
            clip = Clip(
                frames=self.window,
                seed=(engine.seed + segment.number) % SEEDS,
                number=segment.number,
                first=segment.first,
                scene=scene(segment.number),
            )
            if segment.source is None:
                return engine.make(clip)
            image = segment.source.latents[:, :, :1] if engine.continues_images else None
            return engine.make(replace(clip, noise=segment.noise, source=segment.source, image=image))

        source = engine.noise(engine.seed)
        batch, channels, _, height, width = engine.shape
        noise = source.draw((batch, channels, self.window, height, width), "cpu", torch.float32)
        for number, latents in enumerate(continued(make, noise, source, plan, scene)):
            yield Part(latents=latents, number=number)

    def _plan(self, frames: int, *, continues: bool) -> Continuation:
        return Continuation(frames=frames, overlap=1 if continues else self.overlap, correct=self.correct)
