"""The published encoders at full size, on `meta`: every key and every shape, and no other."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from torch import nn

from vc_core.conditioning import ImageEncoder, Resampler, TextEncoder
from vc_core.specs import ImageEncoderSpec, ResamplerSpec, TextEncoderSpec

MANIFESTS = Path(__file__).parents[1] / "manifests"


def published(manifest: str, prefix: str) -> dict[str, list[int]]:
    content = json.loads(gzip.decompress((MANIFESTS / f"{manifest}.json.gz").read_bytes()))
    return {key.removeprefix(prefix): shape for key, (shape, _) in content.items() if key.startswith(prefix)}


def layout(module: nn.Module) -> dict[str, list[int]]:
    return {name: list(tensor.shape) for name, tensor in module.state_dict().items()}


@pytest.mark.parametrize("manifest", ["t2v_512_v1.0", "t2v_512_v2.0", "t2v_1024_v1.0", "i2v_512_v1.0"])
def test_text_encoder(manifest: str) -> None:
    expected = published(manifest, "cond_stage_model.")
    assert len(expected) == 294
    assert layout(TextEncoder(TextEncoderSpec(), device="meta")) == expected


def test_image_encoder() -> None:
    expected = published("i2v_512_v1.0", "embedder.")
    assert len(expected) == 398
    assert layout(ImageEncoder(ImageEncoderSpec(), device="meta")) == expected


def test_resampler() -> None:
    expected = published("i2v_512_v1.0", "image_proj_model.")
    assert expected
    assert layout(Resampler(ResamplerSpec(), device="meta")) == expected
