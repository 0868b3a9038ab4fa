"""Videos longer than a model was trained on: the methods, each a record, and the driver that they share.

table       the methods by name, and their Markdown table
method      what a record says: parameters, conflicts, how it runs
engine      what a method asks of the network, vc_core's pipeline or ComfyUI's MODEL
rounds      rounds of FreeInit
keyframes   a row of clips between key frames
video       videos from vc_core's pipeline

A new method is a file with a record and its row in `table`.
"""

from .method import Method
from .table import METHODS, method_named
from .video import frames, key_frames

__all__ = ["METHODS", "Method", "frames", "key_frames", "method_named"]
