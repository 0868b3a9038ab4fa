"""ScaleCrafter (arXiv:2310.07702): sizes above the trained one, without training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from torch import nn

from ..conditions import NEGATIVE
from ..denoising.guidance import Term
from ..errors import UserError
from ..network.adapters.dilation import Dilation
from ..parameters import Kind, about
from .attachment import Attachment, Scene
from .control import Control
from .dilation_table import COURSES, SYNTAX, Plan, dilations, factors_of, plan_for, table_of, weaker

AUTOMATIC = -1
BY_SIZE = "by size"


@dataclass(frozen=True, kw_only=True)
class ScaleCrafter(Control):
    """Dilates convolutions in the first steps of videos above the trained size."""

    name = "scalecrafter"
    title = "ScaleCrafter"
    summary = "makes videos above the trained size without repeated objects, without further weights"
    use = "one object instead of several at 1.2 to 4 times the trained width and height"
    models = "all models"
    search = ("high resolution", "upscale", "larger", "dilation", "hires", "repetition")
    wants_step = True
    timed = False
    conflicts = {"scalecrafter": "one ScaleCrafter sets all factors"}

    factors: str = field(
        default="",
        metadata=about(
            "dilation factors of the convolutions; empty chooses the published ones by the size of the video. Rows "
            f"such as {SYNTAX}: levels count from 0, the size of the latents; fractions such as 2.5 are allowed",
            kind=Kind.DOCUMENT,
        ),
    )
    dilated_steps: int = field(
        default=AUTOMATIC,
        metadata=about(
            "how many of the first steps are dilated. -1 is by size: 40 % of the steps at twice the trained size, 74 % "
            "from three times on; 0 is off",
            low=AUTOMATIC,
            high=1000,
        ),
    )
    course: str = field(
        default=BY_SIZE,
        metadata=about(
            "constant keeps the factors; progressive lets them fall to 2 over the dilated steps; stages does so with "
            "equally many steps for each whole factor; by size is progressive from three times the trained size on",
            choices=(BY_SIZE, *COURSES),
        ),
    )
    damped_steps: int = field(
        default=AUTOMATIC,
        metadata=about(
            "in how many of the first steps the guidance is damped: its base comes from a less dilated network, which "
            "costs one more pass. -1 is by size: as many as are dilated where both sides have three times the trained "
            "size, otherwise none; 0 is off",
            low=AUTOMATIC,
            high=1000,
        ),
    )
    weaker_factors: str = field(
        default="",
        metadata=about(
            "the factors of the damped guidance's base, as factors; empty are the same without the finest level of the "
            "decoder, as published",
            kind=Kind.DOCUMENT,
        ),
    )
    dispersed_steps: int = field(
        default=0,
        metadata=about(
            "in how many of the first steps the most dilated layers have dispersed kernels, 5x5 in place of 3x3 at "
            "half the factor. 0 is off, as in all published settings",
            low=0,
            high=1000,
        ),
    )

    def check(self, scene: Scene) -> None:
        trained = scene.spec.defaults
        if max(ratios(scene)) < 1 and not self.factors.strip():
            raise UserError(
                f"{self.title} is for videos above the trained size, {trained.width}x{trained.height}, but this one "
                f"has {scene.width}x{scene.height}. Choose a larger size, or leave {self.title} out; its factors can "
                "be given for any size."
            )
        levels = len(scene.spec.unet.channel_mult)
        table_of(self.factors, self.title, levels)
        table_of(self.weaker_factors, self.title, levels)

    def attach(self, scene: Scene, weights: nn.Module | None) -> Attachment:
        del weights
        plan, spec = self.plan(scene), scene.spec.unet
        steps, factors = self.steps_of(scene, plan), factors_of(plan.table, spec)
        adapters = self._dilations(factors, steps, plan, instead=False)
        damped = min(steps, self.damped_of(steps, plan))
        given = table_of(self.weaker_factors, self.title, len(spec.channel_mult))
        less = factors_of(given or weaker(plan.table), spec)
        if not (adapters and damped and scene.guided) or less == factors:
            return Attachment(adapters=tuple(adapters))
        base = replace(NEGATIVE, without=frozenset({self.name}))
        return Attachment(
            adapters=(*adapters, *self._dilations(less, steps, plan, instead=True)),
            terms=(Term(1.0, base, NEGATIVE, steps=damped),),
        )

    def _dilations(self, factors: Mapping[str, float], steps: int, plan: Plan, *, instead: bool) -> list[Dilation]:
        return dilations(
            factors,
            steps,
            course=plan.course,
            dispersed_steps=self.dispersed_steps,
            owner=self.name,
            instead=instead,
        )

    def plan(self, scene: Scene) -> Plan:
        """The settings for the size of the scene, with the table that is given."""
        found = plan_for(ratios(scene))
        table = table_of(self.factors, self.title, len(scene.spec.unet.channel_mult))
        if table:
            found = replace(found, table=table, share=found.share or plan_for([2]).share)
        return found if self.course == BY_SIZE else replace(found, course=self.course)

    def steps_of(self, scene: Scene, plan: Plan) -> int:
        """How many steps are dilated, at least one where the number is left to the size."""
        if self.dilated_steps == AUTOMATIC:
            return max(1, round(plan.share * scene.steps))
        return min(self.dilated_steps, scene.steps)

    def damped_of(self, steps: int, plan: Plan) -> int:
        """In how many steps the guidance is damped, where `steps` are dilated."""
        if self.damped_steps == AUTOMATIC:
            return steps if plan.damped else 0
        return self.damped_steps


def ratios(scene: Scene) -> tuple[float, float]:
    """Height and width in relation to the trained ones."""
    trained = scene.spec.defaults
    return scene.height / trained.height, scene.width / trained.width
