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
from .control import Control
from .motionctrl import MotionCtrl
from .table import CONTROLS, control_named

__all__ = ["CONTROLS", "Attachment", "Control", "MotionCtrl", "Scene", "control_named"]
