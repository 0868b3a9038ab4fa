"""The smallest storybook models, for frames of 32 pixels."""

from __future__ import annotations

from dataclasses import replace

from training.storybook.specs import TINY
from vc_core.specs import ModelSpec

SIDE = 32


def _small(spec: ModelSpec) -> ModelSpec:
    image = spec.image_encoder and replace(spec.image_encoder, image_size=SIDE, patch_size=8)
    return replace(spec, image_encoder=image, defaults=replace(spec.defaults, width=SIDE, height=SIDE))


SMALL = replace(
    TINY,
    text_to_video=_small(TINY.text_to_video),
    image_to_video=_small(TINY.image_to_video),
    continuing=_small(TINY.continuing),
)
