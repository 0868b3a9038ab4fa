"""The parts of a checkpoint, one record each.

A new part is a file in this folder with its record, and a row in `PARTS`: sorting, detection, checks, building, saving
and reports read the records.
"""

from .autoencoder import AUTOENCODER
from .cami2v import CAMERA_LAYERS
from .image_encoder import IMAGE_ENCODER
from .image_tokens import IMAGE_TOKENS
from .measuring import Fields, MissingTensorError, Shapes
from .motionctrl import MOTIONCTRL
from .part import Base, Layout, Part
from .sketch_encoder import SKETCH_ENCODER
from .style_adapter import STYLE_ADAPTER
from .style_temporal import STYLE_TEMPORAL
from .text_encoder import TEXT_ENCODER
from .unet import UNET

PARTS: dict[str, Part] = {
    part.name: part
    for part in (
        UNET,
        AUTOENCODER,
        TEXT_ENCODER,
        IMAGE_ENCODER,
        IMAGE_TOKENS,
        SKETCH_ENCODER,
        CAMERA_LAYERS,
        MOTIONCTRL,
        STYLE_ADAPTER,
        STYLE_TEMPORAL,
    )
}
"""In the order in which they are listed and saved."""

__all__ = ["PARTS", "Base", "Fields", "Layout", "MissingTensorError", "Part", "Shapes"]
