"""IMAGE -> TOKENS: the image tower of an OpenCLIP model, and images preprocessed for it as in the reference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UserError
from ..specs import ImageEncoderSpec
from .openclip import Device, TextTensors, on, open_clip, run_blocks

MEAN = (0.48145466, 0.4578275, 0.40821073)
DEVIATION = (0.26862954, 0.26130258, 0.27577711)
"""Of red, green and blue, in 0..1, over the images that CLIP was trained on."""

LEAST_SIGMA = 0.001


def preprocess(images: Tensor, size: int = 224) -> Tensor:
    """Images b 3 h w (or b 1 h w, grey) in -1..1, any size -> float32 b 3 size size with CLIP's mean and deviation.

    The whole image is squeezed to a square: blurred along each side that shrinks, then resampled with aligned corners.
    Raises UserError for other shapes and empty sides.
    """
    if images.ndim != 4 or images.shape[1] not in (1, 3) or 0 in images.shape:
        raise UserError(
            f"Images should have the shape (images, 3, height, width), not {tuple(images.shape)}; "
            "1 in place of 3 is grey. An image with alpha has to be put on a background first."
        )
    x = images.float().expand(-1, 3, -1, -1)
    if x.shape[-2:] != (size, size):
        x = _blur(x, -1, size)
        x = _blur(x, -2, size)
        x = F.interpolate(x, (size, size), mode="bicubic", align_corners=True)
    mean, deviation = (torch.tensor(values, device=x.device).view(3, 1, 1) for values in (MEAN, DEVIATION))
    return ((x + 1) / 2 - mean) / deviation


def _blur(x: Tensor, side: int, size: int) -> Tensor:
    """A Gaussian along one side that shrinks to `size`, mirrored at the ends; two standard deviations wide."""
    factor = x.shape[side] / size
    if factor <= 1:
        return x
    sigma = max((factor - 1) / 2, LEAST_SIGMA)
    taps = int(max(4 * sigma, 3)) | 1
    places = torch.arange(taps, dtype=torch.float32, device=x.device) - taps // 2
    kernel = torch.exp(-places.square() / (2 * torch.tensor(sigma, device=x.device).square()))
    kernel = kernel / kernel.sum()
    half = taps // 2
    across = side == -1
    x = F.pad(x, (half, half, 0, 0) if across else (0, 0, half, half), mode="reflect")
    kernel = kernel.view(1, 1, 1, -1) if across else kernel.view(1, 1, -1, 1)
    return F.conv2d(x, kernel.expand(x.shape[1], -1, -1, -1), groups=x.shape[1])


class ImageEncoder(nn.Module):
    """Names in the state dict are those under `embedder.` in published files. Among them are tensors of the text tower
    that nothing uses; a file may lack them (`optional`), and then the loaded module lacks them too."""

    def __init__(self, spec: ImageEncoderSpec, *, device: Device = None, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.spec = spec
        with on(device):
            self.model = ImageTower(spec)
        self.to(dtype=dtype)

    @property
    def optional(self) -> frozenset[str]:
        """The names that a state dict may lack."""
        return frozenset(name for name in self.state_dict() if not name.startswith("model.visual."))

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As `torch.nn.Module`, but without the optional tensors that are absent."""
        for name in self.optional - set(state_dict):
            owner, _, attribute = name.rpartition(".")
            self.get_submodule(owner).register_parameter(attribute, None)
        return super().load_state_dict(state_dict, strict, assign)

    def forward(self, images: Tensor) -> Tensor:
        """Images b 3 h w in -1..1, any size -> b n d, the class token first, before the last norm.

        Images should be in float32: they are preprocessed in it, whatever data type the tower has.
        """
        visual = self.model.visual
        weight: Tensor = visual.conv1.weight
        x = visual.conv1(preprocess(images.to(weight.device), self.spec.image_size).to(weight.dtype))
        x = x.flatten(2).transpose(1, 2)  # b n d
        first = visual.class_embedding.expand(x.shape[0], 1, -1)
        x = visual.ln_pre(torch.cat([first, x], dim=1) + visual.positional_embedding)
        return run_blocks(visual.transformer.resblocks, x)

    def pooled(self, images: Tensor) -> Tensor:
        """Images as for `forward` -> b d, CLIP's embedding of the whole image, not normalised."""
        visual = self.model.visual
        out: Tensor = visual.ln_post(self(images)[:, 0]) @ visual.proj
        return out


class ImageTower(TextTensors):
    """The image tower, beside the tensors of the text tower that published files keep."""

    def __init__(self, spec: ImageEncoderSpec) -> None:
        super().__init__(spec.vocab_size, spec.context_length, spec.text_width, spec.embed_dim)
        transformer: type[Any] = open_clip("open_clip.transformer").VisionTransformer
        self.visual = transformer(
            image_size=spec.image_size,
            patch_size=spec.patch_size,
            width=spec.width,
            layers=spec.layers,
            heads=spec.width // spec.head_width,
            mlp_ratio=4.0,
            output_dim=spec.embed_dim,
        )
