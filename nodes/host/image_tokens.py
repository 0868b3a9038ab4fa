"""The part of an image-to-video model that makes tokens of an encoded image, as ComfyUI holds and moves models."""

from __future__ import annotations

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import torch
from torch import Tensor

from ...vc_core.checkpoint.building import Checkpoint
from ...vc_core.errors import UserError
from ...vc_core.specs import LinearTokensSpec
from .compat import remember_types


class ImageTokens:
    """The output of the image encoder, n tokens width (n width where `pooled`) -> n m d, float32 on the CPU."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        management = comfy.model_management
        device = management.text_encoder_device()
        spec = checkpoint.spec.image_tokens
        assert spec is not None  # detection gives a spec to every part of a file
        self.width = spec.embedding_dim
        self.pooled = isinstance(spec, LinearTokensSpec)
        self.module = checkpoint.build("image_tokens", operations=comfy.ops.manual_cast)
        remember_types(self.module)
        kind = getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)
        self.patcher = kind(self.module, load_device=device, offload_device=management.text_encoder_offload_device())

    def state_dict(self) -> dict[str, Tensor]:
        """Names as published, without the prefix."""
        return dict(self.module.state_dict())

    def __call__(self, embeddings: Tensor) -> Tensor:
        if embeddings.shape[-1] != self.width:
            raise UserError(
                f"The image encoder's tokens are {embeddings.shape[-1]} wide, but this model reads {self.width}. Use "
                "the image encoder of the same checkpoint (for the published model OpenCLIP ViT-H-14)."
            )
        comfy.model_management.load_models_gpu([self.patcher])
        with torch.inference_mode():
            out: Tensor = self.module(embeddings.to(self.patcher.load_device, torch.float32))
        return out.float().cpu()
