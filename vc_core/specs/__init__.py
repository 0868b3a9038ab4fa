"""What a model is, in numbers.

Every model of the family is one network with different numbers. A `ModelSpec` holds all of them, is frozen, and
survives a round trip through JSON, which is how our own files carry it in their safetensors metadata. `FAMILY` lists
the published models.
"""

from .autoencoder import AutoencoderSpec
from .diffusion import DiffusionSpec, Prediction, Spacing
from .encoders import ImageEncoderSpec, LinearTokensSpec, ResamplerSpec, TextEncoderSpec
from .family import DYNAMICRAFTER, FAMILY, PRESETS, T2V_TURBO, TITLES, VIDEOCRAFTER2, Member
from .model import ModelSpec, SamplingDefaults
from .serializing import from_json, to_json
from .style import StyleAdapterSpec
from .unet import UNetSpec
from .windows import Windows

__all__ = [
    "DYNAMICRAFTER",
    "FAMILY",
    "PRESETS",
    "T2V_TURBO",
    "TITLES",
    "VIDEOCRAFTER2",
    "AutoencoderSpec",
    "DiffusionSpec",
    "ImageEncoderSpec",
    "LinearTokensSpec",
    "Member",
    "ModelSpec",
    "Prediction",
    "ResamplerSpec",
    "SamplingDefaults",
    "Spacing",
    "StyleAdapterSpec",
    "TextEncoderSpec",
    "UNetSpec",
    "Windows",
    "from_json",
    "to_json",
]
