"""An exercise that makes the text tower tell motions apart.

Learnt from frames, the tower knows colours and shapes, and gives opposite directions almost the same tokens, because
nothing in a frame asks for more. So it learns for a moment to tell, through linear maps that are thrown away, what a
caption says; what it told before it must still tell, or the network would no longer understand it.
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
    """The text tower of a network and the maps; called with a step, it gives the error of that step's captions."""

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
    """Where the shape goes, as a step of length 1 to the right and down; 1 if it grows, -1 if it shrinks; 1 if it
    rests."""
    dx, dy = DIRECTIONS.get(scene.motion, (0, 0))
    length = float(np.hypot(dx, dy)) or 1.0
    grows = {"growing": 1.0, "shrinking": -1.0}.get(scene.motion, 0.0)
    return dx / length, dy / length, grows, float(scene.motion == "still")


def numbered(scenes: list[Scene]) -> list[list[int]]:
    """The numbers of the scenes' speeds, colours and shapes."""
    kinds = ((list(SPEEDS), "speed"), (list(COLOURS), "colour"), (list(SHAPES), "shape"))
    return [[names.index(getattr(scene, field)) for scene in scenes] for names, field in kinds]
