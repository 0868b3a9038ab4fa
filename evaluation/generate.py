"""Makes clips of many prompts in batches; each clip equals the one that its seed gives alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vc_core.conditions import SINGLE, Conditioning, Evaluation
from vc_core.denoising import Guidance, Noise, Sampling, sample
from vc_core.network.adapter import Adapter
from vc_core.network.call import Pass
from vc_core.pipeline import GREY, VideoCrafter
from worlds.shapes.captions import caption
from worlds.shapes.world import Scene, random_scene, render

Array = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Case:
    """A clip to make, and the scene that its prompt describes."""

    scene: Scene
    prompt: str
    seed: int
    negative: str = ""
    unseen: bool = False
    """Whether the scene's combination of shape, colour and motion was held out of training."""

    def picture(self) -> Tensor:
        """The scene's first frame, h w 3 in 0..1, as the input of image-to-video."""
        return render([self.scene], frames=[0])[0, 0]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Sampling settings; `cfg` None is the model's default."""

    sampler: str = "dpmpp_2m"
    steps: int = 20
    eta: float = 0.0
    cfg: float | None = None
    batch: int = 8


def draw_cases(count: int, *, unseen: bool, fps: int = 8, seed: int = 0) -> list[Case]:
    """`count` scenes with captions, of combinations held out of training (`unseen`) or of the others."""
    rng = np.random.default_rng([seed, int(unseen)])
    cases = []
    for number in range(count):
        scene = random_scene(rng, unseen=unseen, fps=fps)
        cases.append(Case(scene=scene, prompt=caption(scene, rng, complete=True), seed=1000 + number, unseen=unseen))
    return cases


class _EachNoise:
    """The noise of a batch of clips, drawn for each with its own seed."""

    def __init__(self, seeds: Sequence[int]) -> None:
        self.sources = [Noise(seed) for seed in seeds]

    def draw(self, shape: Sequence[int], device: torch.device | str, dtype: torch.dtype) -> Tensor:
        return torch.cat([source.draw((1, *shape[1:]), device, dtype) for source in self.sources])


Adapters = Callable[[Sequence[Any]], tuple[Adapter, ...]]
"""Cases -> the adapters of a pass with them."""


def no_adapters(cases: Sequence[Any]) -> tuple[Adapter, ...]:
    """For clips without control."""
    del cases
    return ()


def clips(
    crafter: VideoCrafter, cases: Sequence[Case], settings: Settings, adapters: Adapters = no_adapters
) -> Iterator[Array]:
    """The clips f h w 3 in 0..1 of the cases, in order."""
    for start in range(0, len(cases), settings.batch):
        part = cases[start : start + settings.batch]
        latents = _latents(crafter, part, settings, adapters(part))
        for latent in latents:
            yield crafter.decode(latent[None]).cpu().numpy()


@torch.inference_mode()
def _latents(crafter: VideoCrafter, cases: Sequence[Case], settings: Settings, adapters: tuple[Adapter, ...]) -> Tensor:
    spec = crafter.parts.spec
    defaults = spec.defaults
    scale = defaults.cfg if settings.cfg is None else settings.cfg
    sampling = Sampling(
        steps=settings.steps, sampler=settings.sampler, eta=settings.eta, guidance=Guidance(scale=scale)
    )
    seen = crafter.parts.image_encoder is not None
    positive = Conditioning.batched(
        [crafter.condition(c.prompt, c.picture() if seen else None, c.scene.fps) for c in cases]
    )
    negative = Conditioning.batched([crafter.condition(c.negative, GREY if seen else None, c.scene.fps) for c in cases])
    unet = crafter.parts.unet
    assert unet is not None

    def predict(x: Tensor, timestep: Tensor, given: Conditioning, evaluation: Evaluation = SINGLE, /) -> Tensor:
        dtype = crafter.parts.dtype
        out: Tensor = unet(x.to(dtype), timestep, given.to(dtype=dtype), Pass(evaluation, adapters=adapters))
        return out

    side = spec.size_multiple
    shape = (
        len(cases),
        spec.autoencoder.latent_channels,
        defaults.frames,
        defaults.height // side,
        defaults.width // side,
    )
    steps = sample(
        predict,
        crafter.parts.schedule,
        {"positive": positive, "negative": negative},
        noise=_EachNoise([case.seed for case in cases]),
        shape=shape,
        settings=sampling,
    )
    *_, last = steps
    return last.x


def with_fps(case: Case, fps: int) -> Case:
    """The same case with another fps condition."""
    return replace(case, scene=replace(case.scene, fps=fps))
