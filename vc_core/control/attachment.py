"""What a control is applied to, and what it adds to a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from ..conditioning.tokenizer import tokenize
from ..conditions import Conditioning
from ..denoising import Noise, NoiseSource
from ..denoising.guidance import Guidance, Rule, Term
from ..denoising.sampling import Begin, Open
from ..network.adapter import Adapter
from ..specs import ModelSpec

SEEDS = 2**64
FURTHER = 2**63
"""Lies between the seed of a run and that of the further noise of its controls."""

ChangeNoise = Callable[[Tensor, NoiseSource, Open], Tensor]
"""(initial noise b c f h w, a source of further noise, what gives the run that is about to begin) -> the initial noise
to use, of the same shape"""


@dataclass(frozen=True, eq=False, kw_only=True)
class Encoders:
    """The encoders that a front end has at hand; None where there is none.

    text: prompts -> b n d. tokens: prompts -> tokens b n, as the text encoder reads them. image: images n h w 3 in
    0..1, of any size -> n m d, the image encoder's tokens before its last norm. image_norm: that norm.
    """

    text: Callable[[Sequence[str]], Tensor] | None = None
    tokens: Callable[[Sequence[str]], Tensor] | None = None
    image: Callable[[Tensor], Tensor] | None = None
    image_norm: Callable[[Tensor], Tensor] | None = None


def no_image_encoder(title: str) -> str:
    """What to say where the control of this title has no image encoder."""
    return (
        f"{title} reads images by an image encoder, and there is none: the files of text-to-video models have a text "
        "encoder alone. Give OpenCLIP ViT-H-14 as well (laion2b_s32b_b79k: open_clip_pytorch_model.bin of "
        "laion/CLIP-ViT-H-14-laion2B-s32B-b79K on the Hugging Face Hub)."
    )


@dataclass(frozen=True, eq=False, kw_only=True)
class Scene:
    """The run that a control is applied to.

    spec: the model. frames: of the whole clip. width, height: of the frames, in pixels. steps: of the run. cfg: the
    guidance scale; 1 is without guidance. seed: 0 to 2^64 - 1. device, dtype: those in which the network computes.
    passing: the frames that a pass of the network sees; None for all of them. image: height and width of the image that
    the clip begins with, before it is fitted to the clip; None where there is none, or it is not known.
    prompts: as they follow one another; empty where a front end has encoded them before.
    tokenize: prompts -> tokens b n, with start and end tokens.
    conditionings: of the run, by the names of `conditions.Branch`; empty while a control is only checked.
    encoded: what `Control.encode` has returned.
    """

    spec: ModelSpec
    frames: int
    width: int
    height: int
    steps: int
    cfg: float
    seed: int = 0
    passing: int | None = None
    image: tuple[int, int] | None = None
    device: torch.device | str = "cpu"
    dtype: torch.dtype = torch.float32
    prompts: tuple[str, ...] = ()
    tokenize: Callable[[Sequence[str]], Tensor] = tokenize
    conditionings: Mapping[str, Conditioning] = field(default_factory=dict)
    encoded: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def at_once(self) -> int:
        """The frames that a pass of the network sees."""
        return self.frames if self.passing is None else min(self.passing, self.frames)

    @property
    def guided(self) -> bool:
        """Whether there is a negative pass beside the positive one."""
        return self.cfg != 1

    @property
    def grid(self) -> tuple[int, int]:
        """Height and width of the latents."""
        return self.height // self.spec.size_multiple, self.width // self.spec.size_multiple


@dataclass(frozen=True, eq=False, kw_only=True)
class Attachment:
    """What controls add to a run.

    adapters: of every pass, in the order in which they act. They find out by `at.evaluation.branches` what they act on,
        and leave branches alone whose `without` holds the name of their control.
    terms: further terms of the guidance, whose branches are computed beside those of classifier-free guidance.
    rules: further rules, which follow all terms.
    noise: changes the initial noise of runs that start from noise; None leaves it as it is.
    """

    adapters: tuple[Adapter, ...] = ()
    terms: tuple[Term, ...] = ()
    rules: tuple[Rule, ...] = ()
    noise: ChangeNoise | None = None

    @staticmethod
    def joined(parts: Sequence[Attachment]) -> Attachment:
        """Several in the order in which their controls were given: the adapters of the first are called first and wrap
        those of the others, and its change of the noise comes first."""
        changes = tuple(part.noise for part in parts if part.noise is not None)
        return Attachment(
            adapters=tuple(adapter for part in parts for adapter in part.adapters),
            terms=tuple(term for part in parts for term in part.terms),
            rules=tuple(rule for part in parts for rule in part.rules),
            noise=partial(_changed, changes) if changes else None,
        )

    def begin(self, seed: int) -> Begin | None:
        """The change of the initial noise of a run with this seed. Its further noise has a stream of its own, so that
        the noise of the steps stays that of a run without controls."""
        change = self.noise
        if change is None:
            return None
        source = Noise((seed + FURTHER) % SEEDS)
        return lambda drawn, opening: change(drawn, source, opening)

    def guidance(self, given: Guidance) -> Guidance:
        """The guidance with the terms and rules."""
        if not (self.terms or self.rules):
            return given
        return replace(given, terms=(*given.terms, *self.terms), rules=(*given.rules, *self.rules))


def _changed(changes: Sequence[ChangeNoise], drawn: Tensor, source: NoiseSource, opening: Open) -> Tensor:
    for change in changes:
        drawn = change(drawn, source, opening)
    return drawn


NOTHING = Attachment()
