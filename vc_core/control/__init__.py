"""Controls of what a video shows, each a record: camera, tracks, style and others.

table       the controls by name, and their Markdown table
control     what a record says: parameters, conflicts, how it acts
attachment  the scene that a control is applied to, and what it adds to a run
networks    the weights of controls from files
options     their options on the command line

A new control is a file with a record and its row in `table`. Controls that have weights have a record of a part in
`checkpoint.parts` as well.
"""

from .attachment import Attachment, Scene
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
from .table import CONTROLS, control_named

__all__ = [
    "CONTROLS",
    "Attachment",
    "ByTheWay",
    "CamI2V",
    "Control",
    "FreeTraj",
    "FreeU",
    "FreqPrior",
    "LayerGuidance",
    "MotionCtrl",
    "MotionCtrlI2V",
    "MotionStrength",
    "NoiseCalibration",
    "ScaleCrafter",
    "Scene",
    "Sketch",
    "StyleCrafter",
    "control_named",
]
