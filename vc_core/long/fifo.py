"""A queue of frames of rising noise: FIFO-Diffusion (arXiv:2405.11473); `denoising.fifo` has the equations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import Tensor

from ..denoising import Noise
from ..denoising.fifo import Queue, run
from .engine import SEEDS, Engine, Part, Session
from .method import Feature, Windowed, about

FROM_NOISE = "every frame but those of the first clip starts from noise"
IN_THE_QUEUE = "the frames of its queue have different noise levels"


@dataclass(frozen=True, kw_only=True)
class Fifo(Windowed):
    """One frame after the other from a queue that begins with a clip of `window` frames."""

    name = "fifo"
    summary = "any length through a queue of frames of rising noise"
    use = "hundreds of frames with as much motion as in short clips"
    memory = "one window"
    time = "3 or more"
    eta = 1.0
    conflicts = {
        Feature.SOURCE: FROM_NOISE,
        Feature.MASK: FROM_NOISE,
        Feature.END_IMAGE: FROM_NOISE,
        Feature.LOOP: "its queue never returns to the first frame",
        Feature.KEY_FRAMES: "each section between key frames is a clip of its own",
        Feature.ANALYTIC_INIT: "the statistics are those of one clip",
        Feature.CONTINUING_MODEL: IN_THE_QUEUE,
        Feature.MOTION_MODEL: IN_THE_QUEUE,
        Feature.IMAGE_SCALE: "its queue has one scale for prompt and image",
        Feature.CACHE: f"{IN_THE_QUEUE}, so that no pass is like the one before",
        Feature.FRAME_TEXTS: "its windows move through the video",
        Feature.CONTROL: "its windows move through the video, and each hint belongs to a frame",
        Feature.TIMED_CONTROL: "its windows move through the video, and each value belongs to a frame",
        Feature.NOISE_ROUNDS: "its queue draws the noise of each frame when the frame enters it",
        Feature.FIRST_STEPS: f"{IN_THE_QUEUE}, so that no step of it is the first",
    }

    partitions: int = field(
        default=4,
        metadata=about(
            "windows that the queue is long, which is also its number of noise levels over the window", low=1, high=16
        ),
    )

    def settled(self, trained: int) -> Fifo:
        settled = super().settled(trained)
        Queue(size=settled.window, partitions=settled.partitions)  # raises UserError for odd windows
        return settled

    def run(self, engine: Engine) -> Iterator[Part]:
        queue = Queue(size=self.window, partitions=self.partitions)

        def program(session: Session) -> Iterator[Tensor]:
            base = session.opening()
            noise = Noise((session.seed + 1) % SEEDS)
            return run(session.estimator(), queue.levels(session.schedule), base, engine.frames, noise, queue)

        frames = engine.within(program, opening=self.window, turns=queue.early + engine.frames)
        for number, latents in enumerate(frames):
            yield Part(latents=latents[:, :, None], number=number)
