"""The numbers of StyleCrafter's style adapter."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class StyleAdapterSpec:
    """StyleCrafter's style encoder, its scale predictor, and the keys and values of style that each text attention of
    the UNet has beside those of the text.

    image_width: of the image encoder's tokens. text_width: of the text, and of the style tokens. tokens: style tokens
    of a set of reference images. layers, scale_layers: blocks of the style encoder and of the scale predictor. heads,
    scale_heads: of their attentions, which the shapes do not say. scale_hidden: width of the predictor's last layer
    but one. scales: how many it predicts, one for each attention or more.
    attentions: name and width of each text attention, in the order in which the predictor numbers them.
    """

    image_width: int = 1280
    text_width: int = 1024
    tokens: int = 8
    layers: int = 3
    heads: int = 8
    scale_layers: int = 2
    scale_heads: int = 8
    scale_hidden: int = 32
    scales: int = 16
    attentions: tuple[tuple[str, int], ...] = ()
