"""Outputs for parts that a file does not have: they raise when they are used, and not before."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

from ...vc_core.errors import UserError
from ...vc_core.specs import ModelSpec


class Missing:
    """The output for a part that the file at `path` does not have."""

    what = ""
    cure = ""

    def __init__(self, path: Path) -> None:
        self.path = path

    def refuse(self, *_: Any, **__: Any) -> NoReturn:
        """Raise UserError: there is no such part."""
        raise UserError(f"{self.path.name} holds no {self.what}. {self.cure}")


class MissingClip(Missing):
    """Instead of a CLIP."""

    what = "text encoder"
    cure = "Load it with VideoCrafter CLIP Loader: OpenCLIP ViT-H-14 for the published models."
    tokenize = encode_from_tokens = encode_from_tokens_scheduled = encode = clone = load_model = Missing.refuse


class MissingVae(Missing):
    """Instead of a VAE."""

    what = "VAE"
    cure = "Load it with VideoCrafter VAE Loader; VAE files for Stable Diffusion 1 and 2 work as well."
    decode = decode_tiled = encode = encode_tiled = get_sd = Missing.refuse
    throw_exception_if_invalid = spacial_compression_decode = spacial_compression_encode = Missing.refuse


class MissingClipVision(Missing):
    """Instead of a CLIP_VISION."""

    encode_image = get_sd = Missing.refuse

    def __init__(self, path: Path, spec: ModelSpec) -> None:
        super().__init__(path)
        self.what = "image encoder"
        if spec.reads_images:
            self.cure = (
                "It is an image-to-video model whose file was saved without one: load the encoder with VideoCrafter "
                "CLIP Vision Loader (OpenCLIP ViT-H-14 for the published models), or the whole checkpoint."
            )
        else:
            self.cure = (
                "It is a text-to-video model; to use an image, load an image-to-video checkpoint (VideoCrafter1 "
                "I2V-512, DynamiCrafter)."
            )
