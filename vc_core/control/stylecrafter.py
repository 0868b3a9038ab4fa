"""StyleCrafter (arXiv:2312.00330): the style of reference images for VideoCrafter1's text-to-video model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike, fspath

import torch
from torch import Tensor, nn

from ..checkpoint import open_checkpoint
from ..conditioning.style import StyleAdapter, image_bias, style_features
from ..conditions import NEGATIVE, POSITIVE, Branch
from ..denoising.guidance import Term
from ..errors import UserError
from ..features import Feature
from ..frames.fitting import fit
from ..network.adapter import Adapter
from ..network.adapters.stylecrafter import NAME, StyleAttention, WithoutTime, text_attentions
from ..parameters import Kind, about
from ..specs import ModelSpec, UNetSpec
from .attachment import NOTHING, Attachment, Encoders, Scene, no_image_encoder
from .control import WeightedControl

STYLE_SIZE = 512
"""Pixels; the square that is cut out of the middle of a style image."""

TEMPORAL = "style_temporal"
FEATURES = "features"


@dataclass(frozen=True, kw_only=True)
class StyleCrafter(WeightedControl):
    """Makes the video in the style of one or several reference images."""

    name = NAME
    title = "StyleCrafter"
    summary = "makes the video in the style of reference images"
    use = "the style of one or several reference images"
    models = "VideoCrafter1 T2V-512"
    search = ("style", "stylize", "style transfer", "reference image")
    part = "style_adapter"
    encoders = ("image",)
    timed = False
    conflicts = {
        NAME: "one StyleCrafter takes several images",
        Feature.IMAGE_SCALE: "its model has no image conditioning",
    }

    images: tuple[Tensor, ...] = field(
        default=(),
        metadata=about(
            "the style images, of any size; of each, the square in the middle is used",
            kind=Kind.IMAGES,
            required=True,
        ),
    )
    image_weights: str = field(
        default="",
        metadata=about(
            "how much each image counts, such as '1, 0.5': 2 has the effect of the image given twice, 0 leaves it out; "
            "empty is 1 for all"
        ),
    )
    strength: float = field(
        default=1.0, metadata=about("how much the style counts: 1 as trained, 0 is off", low=0, high=2)
    )
    style_cfg: float = field(
        default=7.5,
        metadata=about(
            "guidance scale of the style, beside cfg, which is that of the prompt: higher is closer to the style; its "
            "authors use 7.5 with a cfg of 15",
            low=0,
            high=50,
        ),
    )
    dual_guidance: bool = field(
        default=True,
        metadata=about(
            "guide style and prompt by scales of their own, in 3 passes for each step, as published for videos; off, "
            "both are guided by cfg in 2 passes, as published for images"
        ),
    )
    mode: str = field(
        default="video",
        metadata=about(
            "image makes one image, without the temporal layers and always without dual_guidance; its authors use a "
            "cfg of 6 and 512x512 pixels",
            choices=("video", "image"),
        ),
    )
    temporal: str | PathLike[str] = field(
        default="",
        metadata=about(
            "StyleCrafter's file of temporal layers (temporal_v1_1.pth), which take the place of the model's in this "
            "run; without it they are the model's own",
            kind=Kind.FILE,
        ),
    )

    def check(self, scene: Scene) -> None:
        check_base(scene.spec)
        self._check_images()
        if self.mode == "image" and scene.frames != 1:
            raise UserError(
                f"StyleCrafter's image mode makes one image, and {scene.frames} frames are asked for. Set frames to 1, "
                "or mode to video."
            )
        if fspath(self.temporal):
            self._temporal_tensors()

    def _check_images(self) -> None:
        if not self.images:
            raise UserError("StyleCrafter has no style image. Give one or more, or leave StyleCrafter out.")
        image_bias([1] * len(self.images), self.weights_of_images())

    def weights_of_images(self) -> tuple[float, ...]:
        """The numbers in `image_weights`; none where it is empty. Raises UserError for anything else."""
        given = [part for part in re.split(r"[,;\s]+", self.image_weights) if part]
        try:
            return tuple(float(part) for part in given)
        except ValueError as error:
            raise UserError(
                f"The image_weights of StyleCrafter are {self.image_weights!r}; give one number for each image, such "
                "as '1, 0.5'."
            ) from error

    def encode(self, encoders: Encoders) -> Mapping[str, Tensor]:
        self._check_images()
        if encoders.image is None or encoders.image_norm is None:
            raise UserError(no_image_encoder(self.title))
        squares = torch.stack([fit(image, STYLE_SIZE, STYLE_SIZE, "published") for image in self.images])
        with torch.inference_mode():
            found = [encoders.image(square) for square in squares.split(1)]
            return {FEATURES: torch.cat([style_features(each, encoders.image_norm(each[:, 0])) for each in found])}

    def replaced(self, weights: nn.Module | None) -> Mapping[str, Tensor]:
        del weights
        return self._temporal_tensors() if fspath(self.temporal) and self.mode == "video" else {}

    def attach(self, scene: Scene, weights: nn.Module | None) -> Attachment:
        assert isinstance(weights, StyleAdapter)
        if not self.strength:
            return NOTHING
        check_layers(weights, scene.spec.unet)
        with torch.inference_mode():
            features = scene.encoded[FEATURES].to(scene.device).split(1)
            tokens = weights.tokens(features, self.weights_of_images())
        style = StyleAttention(weights.kv_attn_layers, tokens, weights.scales_of(tokens), self.strength)
        still: tuple[Adapter, ...] = (WithoutTime(),) if self.mode == "image" else ()
        return Attachment(adapters=(style, *still), terms=self.terms(scene.cfg))

    def terms(self, cfg: float) -> tuple[Term, ...]:
        """What dual guidance adds to classifier-free guidance, u + cfg (e - u), to make it
        e + style_cfg (e - n) + cfg (n - u): (e - u) + (style_cfg - cfg) (e - n), where e has prompt and style, n the
        prompt alone, and u neither. Without guidance (cfg 1) there is none."""
        if not self.dual_guidance or self.mode == "image" or cfg == 1:
            return ()
        unstyled = Branch(POSITIVE.conditioning, without=frozenset({self.name}))
        return Term(1.0, POSITIVE, NEGATIVE), Term(self.style_cfg - cfg, POSITIVE, unstyled)

    def _temporal_tensors(self) -> dict[str, Tensor]:
        """The tensors of the temporal file. Raises UserError for a file without them."""
        opened = open_checkpoint(fspath(self.temporal))
        if TEMPORAL not in opened.parts:
            raise UserError(
                f"{fspath(self.temporal)} holds {opened.detection.title}, not StyleCrafter's temporal layers. Give "
                "temporal_v1_1.pth, or leave it out."
            )
        return opened.weights(TEMPORAL)


def check_base(spec: ModelSpec) -> None:
    """Raises UserError for a model whose network is not built as VideoCrafter1 T2V-512's."""
    other = spec.unet.temporal_conv or spec.unet.fps_condition or spec.needs_image or spec.embeds_guidance
    if other or not spec.unet.relative_position:
        raise UserError(
            f"StyleCrafter was trained on VideoCrafter1 T2V-512, and {spec.name} is built in another way. Load "
            "that model (VideoCrafter/Text2Video-512: model.ckpt), or leave StyleCrafter out."
        )


def check_layers(weights: StyleAdapter, spec: UNetSpec) -> None:
    """Raises UserError for style layers of a network of another size."""
    own, wanted = dict(weights.spec.attentions), dict(text_attentions(spec))
    if own != wanted or weights.spec.text_width != spec.context_dim:
        raise UserError(
            f"StyleCrafter's file has style layers for {len(own)} attentions ({_widths(own)} wide) over text of "
            f"{weights.spec.text_width}, but this model has {len(wanted)} ({_widths(wanted)} wide) over text of "
            f"{spec.context_dim}: it belongs to another model. adapter_v1.pth belongs to VideoCrafter1 T2V-512."
        )


def _widths(layers: Mapping[str, int]) -> str:
    return ", ".join(str(width) for width in sorted(set(layers.values())))
