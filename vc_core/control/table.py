"""The controls by name, in the order in which users see them, what they do not support, and their table as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor, nn

from ..errors import UserError
from ..features import Feature, Use, refuse_uses
from .attachment import NOTHING, Attachment, Scene
from .bytheway import ByTheWay
from .cami2v import CamI2V, MotionCtrlI2V
from .control import Control
from .freetraj import FreeTraj
from .freeu import FreeU
from .freqprior import FreqPrior
from .layer_guidance import LayerGuidance
from .motion_strength import MotionStrength
from .motionctrl import MotionCtrl
from .noise_calibration import NoiseCalibration
from .scalecrafter import ScaleCrafter
from .sketch import Sketch
from .stylecrafter import StyleCrafter

CONTROLS: dict[str, type[Control]] = {
    control.name: control
    for control in (
        MotionCtrl,
        FreeTraj,
        CamI2V,
        MotionCtrlI2V,
        Sketch,
        StyleCrafter,
        MotionStrength,
        ByTheWay,
        FreqPrior,
        NoiseCalibration,
        FreeU,
        LayerGuidance,
        ScaleCrafter,
    )
}

EACH_SECTION = (
    "each section between key frames is a clip of its own, and would begin again with the first frame's value"
)


def check_each_section(controls: Sequence[Control]) -> None:
    """Raises UserError for controls that a row of key frames does not support."""
    for control in controls:
        reason = control.conflicts.get(Feature.KEY_FRAMES, EACH_SECTION if control.is_timed else None)
        if reason is not None:
            raise UserError(f"{control.title} is not supported with key frames: {reason}. Leave it out.")


def control_named(name: str) -> type[Control]:
    """A control by its name. Raises UserError where there is none."""
    if name not in CONTROLS:
        raise UserError(f"There is no control {name!r}; choose one of {', '.join(CONTROLS)}.")
    return CONTROLS[name]


def check(controls: Sequence[Control], scene: Scene, uses: Mapping[Feature, Use]) -> None:
    """Raises UserError where controls do not support each other or what else is in use, or cannot act on the scene."""
    for place, control in enumerate(controls):
        reasons = {feature: why for feature, why in control.conflicts.items() if isinstance(feature, Feature)}
        if control.is_timed:
            reasons.setdefault(Feature.KEY_FRAMES, EACH_SECTION)
        refuse_uses(control.title, reasons, uses, f"leave {control.title} out")
        for feature, cure in control.needs.items():
            if feature not in uses:
                raise UserError(f"{control.title} needs {feature.value}. {cure}, or leave {control.title} out.")
        for other in (*controls[:place], *controls[place + 1 :]):
            if other.name in control.conflicts:
                raise UserError(
                    f"{other.title} is not supported with {control.title}: {control.conflicts[other.name]}. Leave one "
                    "of the two out."
                )
        control.check(scene)


@dataclass(frozen=True, eq=False, kw_only=True)
class Prepared:
    """A control with the network of its weights and with what it has taken from encoders."""

    control: Control
    network: nn.Module | None = None
    encoded: Mapping[str, Tensor] = field(default_factory=dict)


def attached(controls: Sequence[Prepared], scene: Scene) -> Attachment:
    """What controls add to a run, in the order in which they are given."""
    if not controls:
        return NOTHING
    return Attachment.joined(
        [each.control.attach(replace(scene, encoded=each.encoded), each.network) for each in controls]
    )


def markdown() -> str:
    """The controls as a Markdown table: use, models, parameters with their defaults."""
    names = ["control", "use it for", "works with", "weights", "parameters"]
    rows = [names, ["---"] * len(names)]
    for name, control in CONTROLS.items():
        given = ", ".join(item.name for item in control.parameters())
        title = f"[{control.title}](controls/{name}.md)"
        rows.append([title, control.use, control.models, "a file" if control.part else "none", given])
    return "\n".join("|---" * len(row) + "|" if row[0] == "---" else f"| {' | '.join(row)} |" for row in rows)
