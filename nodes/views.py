"""Videos along rendered views, with ViewCrafter."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..vc_core.errors import UserError
from ..vc_core.frames.fitting import FITS, Fit
from ..vc_core.frames.pixels import to_network
from ..vc_core.frames.views import clip_of_views
from .conditioning import CATEGORY, Conditioning, checked_image, checked_images, encode_image_tokens, with_values
from .frames import empty_latent
from .host.compat import aliases
from .host.model import IMAGE_TOKENS, VIEWS
from .pictures import POSTERIORS, conditioned_outputs, encode_posterior, posterior_inputs


class VideoCrafterViewsToVideo(io.ComfyNode):
    """Makes a video along rendered views, with ViewCrafter."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VideoCrafterViewsToVideo",
            display_name="VideoCrafter Views to Video",
            category=CATEGORY,
            description="For ViewCrafter models: a video along a path of the camera, from views of the scene that were "
            "rendered along it, for example from a point cloud. The model fills holes and mends what the renders get "
            "wrong.",
            inputs=[
                io.Conditioning.Input(
                    "positive", tooltip='The encoded prompt. The authors always use "Rotating view of a scene".'
                ),
                io.Conditioning.Input("negative", tooltip="The encoded negative prompt (usually empty)."),
                io.Model.Input(
                    "model",
                    tooltip="The ViewCrafter model used for sampling. Its preset has to be chosen in the loader.",
                ),
                io.ClipVision.Input("clip_vision", tooltip="The image encoder from the same checkpoint."),
                io.Vae.Input("vae", tooltip="The VAE from the same checkpoint."),
                io.Image.Input(
                    "views",
                    tooltip="The rendered views, one for each frame, in order: 25, or 16 for ViewCrafter 16. Holes are "
                    "black. Any size; renders with another aspect ratio than the video are fitted like the image.",
                ),
                io.Image.Input(
                    "image",
                    tooltip="The original image, of any size, which takes the place of the first view.",
                ),
                io.Int.Input(
                    "width",
                    default=1024,
                    min=8,
                    max=8192,
                    step=8,
                    tooltip="Width in pixels, a multiple of 8. Use the size that the model was trained on: 1024 x 576, "
                    "or 512 x 320 for ViewCrafter 25 512.",
                ),
                io.Int.Input(
                    "height",
                    default=576,
                    min=8,
                    max=8192,
                    step=8,
                    tooltip="Height in pixels, a multiple of 8; see width.",
                ),
                io.Combo.Input(
                    "fit",
                    options=list(FITS),
                    default="crop",
                    tooltip="How images with a different aspect ratio are fitted to the video. crop: fills the frame "
                    "and crops evenly. pad: fits the whole image, with black bars. published: crops as the authors' "
                    "command does it, with Lanczos scaling.",
                ),
                io.Boolean.Input(
                    "loop",
                    default=False,
                    tooltip="The path of the camera is closed: the image also takes the place of the last view.",
                ),
                io.Image.Input(
                    "end_image",
                    optional=True,
                    tooltip="The original image at the end of the path, which takes the place of the last view: one "
                    "image of any size. For ViewCrafter 25 for sparse views.",
                ),
                *posterior_inputs("views"),
            ],
            outputs=[
                *conditioned_outputs("views", negative="views"),
                io.Latent.Output(tooltip="An empty latent with the size of the video and a frame for each view."),
            ],
            **aliases(
                "videocrafter", "viewcrafter", "novel view", "camera path", "point cloud", "render", "3d", "orbit"
            ),
        )

    @classmethod
    def execute(
        cls,
        positive: Conditioning,
        negative: Conditioning,
        model: Any,
        clip_vision: Any,
        vae: Any,
        views: Tensor,
        image: Tensor,
        width: int = 1024,
        height: int = 576,
        fit: Fit = "crop",
        loop: bool = False,
        end_image: Tensor | None = None,
        posterior: str = POSTERIORS[0],
        posterior_seed: int = 123,
    ) -> io.NodeOutput:
        _check_follows(model, closed=loop, end=end_image is not None)
        first = checked_image(image)
        last = first if loop else None if end_image is None else checked_image(end_image)
        given = torch.stack(checked_images(views))
        latent = empty_latent(width, height, len(given))
        clip = clip_of_views(given, first, last, height=height, width=width, how=fit)
        latents = torch.cat(encode_posterior(vae, list(clip), posterior, posterior_seed))
        tokens, grey = encode_image_tokens(model, clip_vision, to_network(clip[:1]))
        return io.NodeOutput(
            with_values(positive, {IMAGE_TOKENS: tokens, VIEWS: latents}),
            with_values(negative, {IMAGE_TOKENS: grey, VIEWS: latents}),
            with_values(negative, {IMAGE_TOKENS: tokens, VIEWS: latents}),
            latent,
        )


def _check_follows(model: Any, *, closed: bool, end: bool) -> None:
    spec = getattr(model.model, "spec", None)
    if spec is None or not spec.follows_views:
        name = "The model" if spec is None else spec.name
        raise UserError(
            f"{name} is not supported by VideoCrafter Views to Video, which is for ViewCrafter. A file of ViewCrafter "
            "has the same tensors as DynamiCrafter's: if this is one, choose its preset in the loader, for example "
            "viewcrafter_25. For DynamiCrafter and ToonCrafter use VideoCrafter Image to Video."
        )
    if closed and end:
        raise UserError("A closed path ends with the image it starts with: switch loop off, or leave end_image out.")


NODES: list[type[io.ComfyNode]] = [VideoCrafterViewsToVideo]
