"""PICTURES -> CONDITIONING for DynamiCrafter and ToonCrafter: a picture to continue, two to fill the time between, or
a row of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..vc_core.denoising import Noise
from ..vc_core.errors import UserError
from ..vc_core.frames.fitting import FITS, Fit
from ..vc_core.frames.fitting import fit as fitted
from ..vc_core.frames.pixels import to_network
from .conditioning import CATEGORY, Conditioning, checked_picture, checked_pictures, picture_tokens, with_values
from .frames import empty_latent
from .host.compat import advanced, aliases
from .host.model import IMAGE_TOKENS, PICTURES
from .host.vae import encode_frames, encode_sampled, looks_at_ends
from .keyframes import length, with_sections
from .references import with_row

POSTERIORS = ("mean", "sampled")
"""What an encoded picture becomes: the middle of the VAE's posterior, or a draw from it."""


class VideoCrafterPictureToVideo(io.ComfyNode):
    """A picture to continue, or two to fill the time between, for DynamiCrafter and ToonCrafter."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VideoCrafterPictureToVideo",
            display_name="VideoCrafter Picture to Video",
            category=CATEGORY,
            description="For DynamiCrafter and ToonCrafter models: the clip begins with the picture itself. With an "
            "end picture it finds its way from one to the other; with loop it ends where it began.",
            inputs=[
                io.Conditioning.Input("positive", tooltip="The encoded prompt: what should happen."),
                io.Conditioning.Input("negative", tooltip="The encoded negative prompt (an empty one is usual)."),
                io.Model.Input("model", tooltip="The DynamiCrafter or ToonCrafter model that will sample."),
                io.ClipVision.Input("clip_vision", tooltip="The image encoder from the same checkpoint."),
                io.Vae.Input("vae", tooltip="The VAE from the same checkpoint."),
                io.Image.Input(
                    "image",
                    tooltip="The picture at the beginning, of any size; transparent parts become white. A batch of "
                    "pictures is a row of key frames: the clip goes from each to the next, for the model for "
                    "interpolation and VideoCrafter KSampler.",
                ),
                io.Int.Input(
                    "width",
                    default=512,
                    min=8,
                    max=8192,
                    step=8,
                    tooltip="Pixels, a multiple of 8. Trained sizes: 512 x 320, 1024 x 576, 256 x 256, by the model's "
                    "name.",
                ),
                io.Int.Input(
                    "height", default=320, min=8, max=8192, step=8, tooltip="Pixels, a multiple of 8; see width."
                ),
                io.Int.Input(
                    "frames",
                    default=16,
                    min=1,
                    max=4096,
                    tooltip="Number of frames; the models were trained with 16. A loop gets one more, which equals the "
                    "first: drop_last_frame of VideoCrafter Decode leaves it out. With key frames it counts the frames "
                    "from one to the next, both included; no frame is in the clip twice.",
                ),
                io.Combo.Input(
                    "fit",
                    options=list(FITS),
                    default="crop",
                    tooltip="How a picture of other proportions comes to the clip's size. crop: it fills the frame and "
                    "the rest is cut off evenly. pad: it lies inside, black around. published: as the "
                    "authors' command, which may do both.",
                ),
                io.Boolean.Input(
                    "loop",
                    default=False,
                    tooltip="The clip ends with the picture it begins with; with more pictures it goes through all of "
                    "them and back to the first. Best with the model for interpolation.",
                ),
                io.Image.Input(
                    "end_image",
                    optional=True,
                    tooltip="The picture at the end, for the model for interpolation and ToonCrafter: one, of any "
                    "size; it is brought to the clip's size like the first.",
                ),
                io.Combo.Input(
                    "posterior",
                    options=list(POSTERIORS),
                    default=POSTERIORS[0],
                    optional=True,
                    tooltip="What the VAE makes of a picture: its mean, the likeliest latent, or a sample, which is "
                    "what the authors take and which brings a little noise along.",
                    **advanced(io.Combo.Input),
                ),
                io.Int.Input(
                    "posterior_seed",
                    default=123,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    optional=True,
                    tooltip="The seed of the posterior's sample, 0 to 18446744073709551615; the mean needs none.",
                    **advanced(io.Int.Input),
                ),
            ],
            outputs=[
                io.Conditioning.Output("positive_out", display_name="positive", tooltip="The prompt with the picture."),
                io.Conditioning.Output(
                    "negative_out", display_name="negative", tooltip="The negative prompt with the picture's latent."
                ),
                io.Conditioning.Output(
                    "picture_only",
                    display_name="picture_only",
                    tooltip="The picture with the negative prompt's text, for the two scales of VideoCrafter KSampler "
                    "or DualCFGGuider.",
                ),
                io.Latent.Output(
                    tooltip="An empty latent of the clip's size and length. With ToonCrafter's VAE it takes the "
                    "pictures along, through the sampler to VideoCrafter Decode."
                ),
            ],
            **aliases(
                "videocrafter",
                "dynamicrafter",
                "tooncrafter",
                "image to video",
                "i2v",
                "interpolation",
                "interpolate frames",
                "start frame",
                "end frame",
                "start end frame",
                "morph",
                "cartoon",
                "toon",
                "loop",
                "animate",
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
        image: Tensor,
        width: int = 512,
        height: int = 320,
        frames: int = 16,
        fit: Fit = "crop",
        loop: bool = False,
        end_image: Tensor | None = None,
        posterior: str = POSTERIORS[0],
        posterior_seed: int = 123,
    ) -> io.NodeOutput:
        row = checked_pictures(image)
        if end_image is not None:
            row.append(checked_picture(end_image))
        _check_continues(model, frames, ends=loop or len(row) > 1)
        ring = loop and len(row) > 1
        latent = empty_latent(width, height, length(len(row), frames, loop=loop))
        pictures = [fitted(picture, height, width, fit) for picture in row]
        latents = _picture_latents(vae, pictures, posterior, posterior_seed)
        if loop:
            latents.append(latents[0])
        if looks_at_ends(vae):
            latent = with_row(latent, [*pictures, *pictures[: int(loop)]], frames)
        tokens = [picture_tokens(model, clip_vision, to_network(picture[None])) for picture in pictures]

        def told(conditioning: Conditioning, which: int) -> Conditioning:
            if len(row) <= 2 and not ring:
                return with_values(conditioning, {IMAGE_TOKENS: tokens[0][which], PICTURES: latents})
            sections = [
                {IMAGE_TOKENS: tokens[number][which], PICTURES: latents[number : number + 2]}
                for number in range(len(latents) - 1)
            ]
            return with_sections(conditioning, sections, frames)

        return io.NodeOutput(told(positive, 0), told(negative, 1), told(negative, 0), latent)


def _picture_latents(vae: Any, pictures: Sequence[Tensor], posterior: str, seed: int) -> list[Tensor]:
    """The latents of pictures h w 3, each 1 c h w as the VAE gives them."""
    if posterior not in POSTERIORS:
        raise UserError(f"There is no posterior {posterior!r}; choose one of {', '.join(POSTERIORS)}.")
    noise = Noise(seed)
    if posterior == "mean":
        return [encode_frames(vae, picture[None]) for picture in pictures]
    return [encode_sampled(vae, picture, noise) for picture in pictures]


def _check_continues(model: Any, frames: int, *, ends: bool) -> None:
    spec = getattr(model.model, "spec", None)
    if spec is None or not spec.continues_images:
        name = "The model" if spec is None else spec.name
        raise UserError(
            f"{name} does not continue pictures: this node is for DynamiCrafter and ToonCrafter. For VideoCrafter1 "
            "I2V use VideoCrafter Image Conditioning."
        )
    if ends and frames < 2:
        raise UserError(f"frames is {frames}; a clip between two pictures has 2 or more, and 16 is best.")


NODES: list[type[io.ComfyNode]] = [VideoCrafterPictureToVideo]
