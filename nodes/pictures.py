"""Image-to-video conditioning of DynamiCrafter and ToonCrafter: one image to animate, two to interpolate between, or a
sequence of key frames."""

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
from .conditioning import CATEGORY, Conditioning, checked_image, checked_images, encode_image_tokens, with_values
from .frames import empty_latent
from .host.compat import advanced, aliases
from .host.model import IMAGE_TOKENS, PICTURES
from .host.vae import encode_frames, encode_sampled, looks_at_ends
from .keyframes import length, with_sections
from .references import with_references

POSTERIORS = ("mean", "sampled")
"""How an image is encoded: as the mean of the VAE's posterior, or as a sample of it."""


def posterior_inputs(encoded: str) -> list[Any]:
    """The widgets that say how the VAE encodes what is given."""
    return [
        io.Combo.Input(
            "posterior",
            options=list(POSTERIORS),
            default=POSTERIORS[0],
            optional=True,
            tooltip=f"How the VAE encodes the {encoded}: mean takes the mean of its posterior; sampled draws from "
            "it, as the authors do, which adds a little noise.",
            **advanced(io.Combo.Input),
        ),
        io.Int.Input(
            "posterior_seed",
            default=123,
            min=0,
            max=0xFFFFFFFFFFFFFFFF,
            optional=True,
            tooltip="Seed for posterior sampled, 0 to 18446744073709551615.",
            **advanced(io.Int.Input),
        ),
    ]


def conditioned_outputs(added: str, negative: str) -> list[Any]:
    """The prompts with what was added to them, and what was added alone."""
    return [
        io.Conditioning.Output("positive_out", display_name="positive", tooltip=f"The prompt with the {added}."),
        io.Conditioning.Output(
            "negative_out", display_name="negative", tooltip=f"The negative prompt with the {negative}."
        ),
        io.Conditioning.Output(
            "picture_only",
            display_name="picture_only",
            tooltip=f"The {added} with the text of the negative prompt, for separate text and image guidance in "
            "VideoCrafter KSampler or DualCFGGuider.",
        ),
    ]


class VideoCrafterPictureToVideo(io.ComfyNode):
    """Animates an image, or interpolates between two or more, with DynamiCrafter and ToonCrafter."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VideoCrafterPictureToVideo",
            display_name="VideoCrafter Image to Video",
            category=CATEGORY,
            description="For DynamiCrafter and ToonCrafter models: the clip starts with the image itself. With an end "
            "image the model interpolates between the two; with loop the clip ends where it started.",
            inputs=[
                io.Conditioning.Input("positive", tooltip="The encoded prompt: what should happen."),
                io.Conditioning.Input("negative", tooltip="The encoded negative prompt (usually empty)."),
                io.Model.Input("model", tooltip="The DynamiCrafter or ToonCrafter model used for sampling."),
                io.ClipVision.Input("clip_vision", tooltip="The image encoder from the same checkpoint."),
                io.Vae.Input("vae", tooltip="The VAE from the same checkpoint."),
                io.Image.Input(
                    "image",
                    tooltip="The first image of the clip, of any size; transparent areas become white. A batch of "
                    "images is a sequence of key frames: the clip goes from each to the next. Key frames need the "
                    "interpolation model and VideoCrafter KSampler.",
                ),
                io.Int.Input(
                    "width",
                    default=512,
                    min=8,
                    max=8192,
                    step=8,
                    tooltip="Width in pixels, a multiple of 8. Use the size in the model's name: 512 x 320, 1024 x "
                    "576 or 256 x 256.",
                ),
                io.Int.Input(
                    "height",
                    default=320,
                    min=8,
                    max=8192,
                    step=8,
                    tooltip="Height in pixels, a multiple of 8; see width.",
                ),
                io.Int.Input(
                    "frames",
                    default=16,
                    min=1,
                    max=4096,
                    tooltip="Number of frames; the models were trained on 16. A loop gets one more, which equals the "
                    "first; drop_last_frame of VideoCrafter Decode removes it. With key frames: the number of frames "
                    "from one key frame to the next, including both; key frames in the middle appear only once.",
                ),
                io.Combo.Input(
                    "fit",
                    options=list(FITS),
                    default="crop",
                    tooltip="How an image with a different aspect ratio is fitted to the clip. crop: fills the frame "
                    "and crops evenly. pad: fits the whole image, with black bars. published: as the authors' command "
                    "does it, which may do both.",
                ),
                io.Boolean.Input(
                    "loop",
                    default=False,
                    tooltip="The clip ends with the image it starts with; with several images it goes through all of "
                    "them and back to the first. Works best with the interpolation model.",
                ),
                io.Image.Input(
                    "end_image",
                    optional=True,
                    tooltip="The last image of the clip, for the interpolation model and ToonCrafter: one image of any "
                    "size, fitted like the first.",
                ),
                *posterior_inputs("images"),
            ],
            outputs=[
                *conditioned_outputs("images", negative="images' latents"),
                io.Latent.Output(
                    tooltip="An empty latent with the clip's size and length. With ToonCrafter's VAE it also carries "
                    "the images, through the sampler to VideoCrafter Decode."
                ),
            ],
            **aliases(
                "videocrafter",
                "dynamicrafter",
                "tooncrafter",
                "image to video",
                "picture to video",
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
        given = checked_images(image)
        if end_image is not None:
            given.append(checked_image(end_image))
        _check_continues(model, frames, ends=loop or len(given) > 1)
        latent = empty_latent(width, height, length(len(given), frames, loop=loop))
        images = [fitted(each, height, width, fit) for each in given]
        latents = encode_posterior(vae, images, posterior, posterior_seed)
        if loop:
            latents.append(latents[0])
        if looks_at_ends(vae):
            latent = with_references(latent, [*images, *images[: int(loop)]], frames)
        tokens = [encode_image_tokens(model, clip_vision, to_network(each[None])) for each in images]
        single = len(given) == 1 or (len(given) == 2 and not loop)

        def conditioned(conditioning: Conditioning, branch: int) -> Conditioning:
            """The conditioning with the images; branch 0 has their tokens, branch 1 those of a grey image."""
            if single:
                return with_values(conditioning, {IMAGE_TOKENS: tokens[0][branch], PICTURES: latents})
            sections = [
                {IMAGE_TOKENS: tokens[index][branch], PICTURES: latents[index : index + 2]}
                for index in range(len(latents) - 1)
            ]
            return with_sections(conditioning, sections, frames)

        return io.NodeOutput(conditioned(positive, 0), conditioned(negative, 1), conditioned(negative, 0), latent)


def encode_posterior(vae: Any, images: Sequence[Tensor], posterior: str, seed: int) -> list[Tensor]:
    """The latents of images h w 3, each 1 c h w as the VAE returns them."""
    if posterior not in POSTERIORS:
        raise UserError(f"posterior is {posterior!r}; it must be one of {', '.join(POSTERIORS)}.")
    if posterior == "mean":
        return [encode_frames(vae, image[None]) for image in images]
    noise = Noise(seed)
    return [encode_sampled(vae, image, noise) for image in images]


def _check_continues(model: Any, frames: int, *, ends: bool) -> None:
    spec = getattr(model.model, "spec", None)
    if spec is not None and spec.follows_views:
        raise UserError(
            f"{spec.name} follows rendered views, one for each frame. Use VideoCrafter Views to Video instead of "
            "VideoCrafter Image to Video."
        )
    if spec is None or not spec.continues_images:
        name = "The model" if spec is None else spec.name
        raise UserError(
            f"{name} is not supported by VideoCrafter Image to Video, which is for DynamiCrafter and ToonCrafter. For "
            "VideoCrafter1 I2V use VideoCrafter Image Conditioning."
        )
    if ends and frames < 2:
        raise UserError(
            f"frames is {frames}; a clip between two images needs at least 2. The models were trained on 16."
        )


NODES: list[type[io.ComfyNode]] = [VideoCrafterPictureToVideo]
