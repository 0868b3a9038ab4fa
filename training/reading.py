"""An auxiliary task with which the text encoder learns to distinguish motions.

Trained on single frames, the encoder represents colours and shapes, but gives opposite directions almost the same
tokens, since single frames do not require more. So it is trained briefly to predict the content of a caption through
linear probes, which are then discarded. Its tokens must stay close to the previous ones, or the network would no longer
understand them.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worlds.shapes.captions import caption
from worlds.shapes.world import COLOURS, DIRECTIONS, SHAPES, SPEEDS, Scene, random_scene

from .network import Network
from .trainer import rank

KEPT_WEIGHT = 4.0
SPEED_WEIGHT, NAME_WEIGHT = 0.2, 0.1


class ReadingLesson(nn.Module):
    """The text encoder of a network and the probes; called with a step, it returns the loss for that step's
    captions."""

    def __init__(self, network: Network, *, batch: int, seed: int) -> None:
        super().__init__()
        self.words, self.batch, self.seed = network.words, batch, seed
        self.text = network.text
        self.before = copy.deepcopy(network.text).requires_grad_(False)
        width = network.spec.text_encoder.embed_dim
        self.moves = nn.Linear(width, 4)
        self.names = nn.ModuleList(nn.Linear(width, len(names)) for names in (SPEEDS, COLOURS, SHAPES))

    def forward(self, step: int) -> Tensor:
        rng = np.random.default_rng([self.seed, step, rank()])
        scenes = [random_scene(rng) for _ in range(self.batch)]
        rows = self.words.read([caption(scene, rng) for scene in scenes], rng)
        rows = rows.to(self.moves.weight.device)
        tokens, before = self.text.encode(rows), self.before.encode(rows)
        ends = (rows != self.words.rows[0]).sum(1).clamp(max=rows.shape[1]) - 1
        last, mean = tokens[torch.arange(len(rows)), ends], tokens.mean(1)
        targets = torch.tensor([heading(scene) for scene in scenes], device=tokens.device)
        moves = F.mse_loss(self.moves(last), targets) + F.mse_loss(self.moves(mean), targets)
        speed, colour, shape = (
            F.cross_entropy(reader(mean), torch.tensor(numbers, device=tokens.device))
            for reader, numbers in zip(self.names, numbered(scenes), strict=True)
        )
        kept = F.mse_loss(tokens, before)
        return moves + SPEED_WEIGHT * speed + NAME_WEIGHT * (colour + shape) + KEPT_WEIGHT * kept


def heading(scene: Scene) -> tuple[float, float, float, float]:
    """The motion of the shape: a unit vector to the right and down; 1 if it grows, -1 if it shrinks; 1 if it is
    still."""
    dx, dy = DIRECTIONS.get(scene.motion, (0, 0))
    length = float(np.hypot(dx, dy)) or 1.0
    grows = {"growing": 1.0, "shrinking": -1.0}.get(scene.motion, 0.0)
    return dx / length, dy / length, grows, float(scene.motion == "still")


def numbered(scenes: list[Scene]) -> list[list[int]]:
    """Class indices of the scenes' speeds, colours and shapes."""
    kinds = ((list(SPEEDS), "speed"), (list(COLOURS), "colour"), (list(SHAPES), "shape"))
    return [[names.index(getattr(scene, field)) for scene in scenes] for names, field in kinds]
