"""The numbers of what encodes text and images: both CLIP encoders, and the layers that make image tokens."""

from __future__ import annotations

from dataclasses import dataclass

from .bounds import bounded


@dataclass(frozen=True, kw_only=True)
class TextEncoderSpec:
    """The text encoder of an OpenCLIP model (published models: ViT-H-14)."""

    width: int = 1024
    heads: int = 16
    layers: int = bounded(24, most=100)
    context_length: int = 77
    vocab_size: int = 49408
    embed_dim: int = 1024


@dataclass(frozen=True, kw_only=True)
class ImageEncoderSpec:
    """The image encoder of an OpenCLIP model (published models: ViT-H-14). Sizes in pixels."""

    image_size: int = 224
    patch_size: int = 14
    width: int = 1280
    head_width: int = 80
    layers: int = bounded(32, most=100)
    embed_dim: int = 1024
    text_width: int = 1024
    """Width of the unused text tensors that the published file keeps beside the image encoder."""
    vocab_size: int = 49408
    context_length: int = 77

    @property
    def tokens(self) -> int:
        """Tokens that it returns for one image: the class token and one for each patch."""
        return 1 + (self.image_size // self.patch_size) ** 2


@dataclass(frozen=True, kw_only=True)
class ResamplerSpec:
    """The image tokens made by learned queries that attend to the image encoder's tokens (a Perceiver resampler)."""

    dim: int = 1024
    depth: int = bounded(4, most=100)
    head_channels: int = 64
    heads: int = 12
    queries: int = 16
    embedding_dim: int = 1280
    output_dim: int = 1024
    ff_mult: int = 4
    frames: int | None = None
    """The queries exist this many times, once for each frame (DynamiCrafter: 16); None is once for all frames."""


@dataclass(frozen=True, kw_only=True)
class LinearTokensSpec:
    """The image tokens made by one linear map from the pooled image embedding. No published model uses it."""

    tokens: int = 4
    embedding_dim: int = 1024
    output_dim: int = 1024
