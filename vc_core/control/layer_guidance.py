"""Perturbed-attention guidance (arXiv:2403.17377) and skip-layer guidance, on layers over pixels and over frames."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from torch import nn

from ..conditions import POSITIVE
from ..denoising.guidance import Term
from ..errors import UserError
from ..network.adapters.weakened import WAYS, Way, WeakenedLayers, Weakening
from ..parameters import about
from ..specs import UNetSpec
from .attachment import NOTHING, Attachment, Scene
from .control import Control

MIDDLE = "middle_block"
EACH = "perturbed: every {} attends to itself alone; skipped: the layers add nothing; off: they stay as they are"


@dataclass(frozen=True, kw_only=True)
class LayerGuidance(Control):
    """Guides away from what the network predicts with weakened attention."""

    name = "layer_guidance"
    title = "Layer Guidance"
    summary = "guides away from what the network predicts with weakened attention, for one more pass in each step"
    use = "better structure (spatial layers) and better motion (temporal layers), also without a negative prompt"
    models = "all models"
    search = (
        "perturbed attention guidance",
        "pag",
        "skip layer guidance",
        "slg",
        "stg",
        "spatiotemporal skip guidance",
    )
    timed = False
    conflicts = {"layer_guidance": "one Layer Guidance weakens spatial and temporal layers"}

    scale: float = field(default=1.0, metadata=about("how strong the guidance is; 0 is off", low=0, high=20))
    spatial: Way = field(
        default="perturbed", metadata=about(f"spatial self-attention. {EACH.format('pixel')}", choices=WAYS)
    )
    temporal: Way = field(default="off", metadata=about(f"temporal attention. {EACH.format('frame')}", choices=WAYS))
    blocks: str = field(
        default=MIDDLE,
        metadata=about(
            "the blocks whose layers are weakened, by their published names, separated by commas: middle_block, "
            "output_blocks.3"
        ),
    )

    def check(self, scene: Scene) -> None:
        self.names(scene.spec.unet)

    def attach(self, scene: Scene, weights: nn.Module | None) -> Attachment:
        del weights
        names = self.names(scene.spec.unet)
        if self.scale == 0 or self.spatial == self.temporal == "off":
            return NOTHING
        weakening = Weakening(spatial=self.spatial, temporal=self.temporal, blocks=names)
        weakened = replace(POSITIVE, without=frozenset({self.name}))
        return Attachment(
            adapters=(WeakenedLayers(self.name, weakening),), terms=(Term(self.scale, POSITIVE, weakened),)
        )

    def names(self, spec: UNetSpec) -> tuple[str, ...]:
        """The blocks. Raises UserError for names of blocks without attention."""
        known = list(blocks_with_attention(spec))
        names = tuple(part.strip() for part in self.blocks.split(",") if part.strip())
        if not names or not set(names) <= set(known):
            raise UserError(
                f"The blocks of {self.title} are {self.blocks!r}; give names of blocks with attention, separated by "
                f"commas: {', '.join(known)}."
            )
        return names


def blocks_with_attention(spec: UNetSpec) -> Iterator[str]:
    """The published names of the blocks that have a transformer, in the order of the network."""
    levels, each = range(len(spec.channel_mult)), spec.num_res_blocks + 1
    attending = [level for level in levels if level in spec.attention_levels]
    for level in attending:
        yield from (f"input_blocks.{1 + level * each + number}" for number in range(spec.num_res_blocks))
    yield MIDDLE
    for level in reversed(attending):
        yield from (f"output_blocks.{(len(levels) - 1 - level) * each + number}" for number in range(each))
