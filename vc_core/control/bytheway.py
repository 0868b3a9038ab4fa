"""ByTheWay (arXiv:2410.06241): more motion and a steadier structure, without training."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import nn

from ..features import Feature
from ..network.adapters.bytheway import Enhancement, StrongerMotion
from ..parameters import about
from .attachment import NOTHING, Attachment, Scene
from .control import Control


@dataclass(frozen=True, kw_only=True)
class ByTheWay(Control):
    """Strengthens the high frequencies of temporal attention in the first steps."""

    name = "bytheway"
    title = "ByTheWay"
    summary = "strengthens the motion in temporal attention in the first steps, without further weights"
    use = "more motion, and objects that keep their structure"
    models = "all models"
    search = ("more motion", "broadway", "temporal attention", "motion amplitude")
    wants_step = True
    timed = False
    conflicts = {
        "bytheway": "one ByTheWay changes all layers",
        "freetraj": "both change the maps of temporal attention",
        Feature.FREELONG: "it attends to near frames and to all frames, whose attention maps differ",
    }

    alpha: float = field(
        default=0.1,
        metadata=about(
            "how far the attention maps go towards those of the coarsest decoder level, which keeps the structure; 0.1 "
            "as published for VideoCrafter2",
            low=0,
            high=1,
        ),
    )
    beta: float = field(
        default=10.0,
        metadata=about(
            "factor of the high frequencies of the attention maps, for more motion; 10 as published for VideoCrafter2. "
            "Smaller values only restore the energy that the mix takes",
            low=0,
            high=50,
        ),
    )
    tau: int = field(
        default=7,
        metadata=about(
            "how many frequencies on either side of the highest one are strengthened; 7 as published, which with 16 "
            "frames is all but the mean",
            low=0,
            high=128,
        ),
    )
    share: float = field(
        default=0.2,
        metadata=about("the share of the steps, from the first on, that it acts in; 0.2 as published", low=0, high=1),
    )

    def attach(self, scene: Scene, weights: nn.Module | None) -> Attachment:
        del weights
        unchanged = self.alpha == 0 and self.beta <= 1
        if unchanged or self.share == 0:
            return NOTHING
        steps = max(1, round(self.share * scene.steps))
        enhancement = Enhancement(alpha=self.alpha, beta=self.beta, tau=self.tau)
        return Attachment(adapters=(StrongerMotion(scene.spec.unet, enhancement, steps),))
