"""FreeU (arXiv:2309.11497): finer structure by the balance of decoder and skip connections, without training."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from torch import nn

from ..network.adapters.freeu import Factors, StrongerDecoder
from ..parameters import about
from .attachment import NOTHING, Attachment, Scene
from .control import Control

Version = Literal["1", "2"]
VERSIONS: tuple[Version, ...] = ("1", "2")
COARSE, FINE = "the coarsest levels (1280 channels in the published models)", "the level after them (640 channels)"


@dataclass(frozen=True, kw_only=True)
class FreeU(Control):
    """Strengthens features of the decoder and damps the low frequencies of skip connections."""

    name = "freeu"
    title = "FreeU"
    node_title = "FreeU Features"
    summary = "strengthens the decoder's features and damps the low frequencies of its skip connections"
    use = "cleaner structure and less noise, at hardly any cost"
    models = "all models"
    search = ("free lunch", "freeu v2", "backbone", "skip connection")
    timed = False
    conflicts = {"freeu": "two would multiply each other's factors"}

    b1: float = field(default=1.1, metadata=about(f"factor of the features of {COARSE}; 1 is off", low=0, high=10))
    b2: float = field(default=1.2, metadata=about(f"factor of the features of {FINE}; 1 is off", low=0, high=10))
    s1: float = field(
        default=0.9, metadata=about(f"factor of the skip connections' low frequencies at {COARSE}", low=0, high=10)
    )
    s2: float = field(
        default=0.2, metadata=about(f"factor of the skip connections' low frequencies at {FINE}", low=0, high=10)
    )
    version: Version = field(
        default="2",
        metadata=about("2 strengthens features where they are large, 1 everywhere alike", choices=VERSIONS),
    )

    def attach(self, scene: Scene, weights: nn.Module | None) -> Attachment:
        del weights
        spec = scene.spec.unet
        coarse, fine = Factors(backbone=self.b1, skip=self.s1), Factors(backbone=self.b2, skip=self.s2)
        if coarse == fine == Factors():
            return NOTHING
        factors = {4 * spec.model_channels: coarse, 2 * spec.model_channels: fine}
        return Attachment(adapters=(StrongerDecoder(spec, factors, structured=self.version == "2"),))
