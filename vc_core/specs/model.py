"""A whole model in numbers, and what it can do.

Code outside the networks and the checkpoints asks for an ability (`spec.continues_images`), never for the number that
it follows from (`spec.unet.concat_channels`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from .autoencoder import AutoencoderSpec
from .bounds import bounded
from .diffusion import DiffusionSpec, Spacing
from .encoders import ImageEncoderSpec, LinearTokensSpec, ResamplerSpec, TextEncoderSpec
from .unet import UNetSpec


@dataclass(frozen=True, kw_only=True)
class SamplingDefaults:
    """How the authors run the model. Sizes in pixels; `save_fps` is the frame rate of their files.

    `fps` is the condition of the network. Where `fps_is_stride` is set, it counts the frames of the film from one frame
    of the clip to the next: larger is more motion. Otherwise it is frames per second: smaller is more motion.
    """

    width: int = 512
    height: int = 320
    frames: int = 16
    fps: int = 28
    steps: int = 50
    cfg: float = bounded(12.0, zero=True)
    eta: float = bounded(1.0, zero=True, most=1)
    save_fps: float = 10.0
    fps_is_stride: bool = False
    sampler: str = "ddim"
    spacing: Spacing = "uniform"
    guidance_rescale: float = bounded(0.0, zero=True, most=1)
    motion: float | None = bounded(None, zero=True)
    """The motion guidance of a network that has it (T2V-Turbo v2); None leaves it out."""
    prompt: str = ""
    """The prompt of a model that always has the same one (ViewCrafter)."""
    motion_share: float = bounded(0.3, zero=True, most=1)
    """The part of the noise schedule, from the noisiest timestep on, in which the motion guidance acts; after it, it is
    0."""


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """A whole model; a part that is None is absent from models of its kind (a text model has no image encoder)."""

    name: str
    unet: UNetSpec = field(default_factory=UNetSpec)
    diffusion: DiffusionSpec = field(default_factory=DiffusionSpec)
    autoencoder: AutoencoderSpec = field(default_factory=AutoencoderSpec)
    text_encoder: TextEncoderSpec = field(default_factory=TextEncoderSpec)
    image_encoder: ImageEncoderSpec | None = None
    image_tokens: ResamplerSpec | LinearTokensSpec | None = None
    defaults: SamplingDefaults = field(default_factory=SamplingDefaults)
    views: bool = False
    """The latent that is concatenated to the noised one is that of a rendered view for each frame (ViewCrafter)."""

    @property
    def size_multiple(self) -> int:
        """Width and height in pixels must be multiples of this."""
        return self.autoencoder.downscale

    @property
    def temporal_length(self) -> int:
        """The number of frames in a clip of the training."""
        return self.unet.temporal_length

    @property
    def reads_images(self) -> bool:
        """The UNet attends to the tokens of an image beside those of the text."""
        return self.unet.image_attention

    @property
    def continues_images(self) -> bool:
        """The latent of an image is concatenated to the noised latent, so that clips start with that image, end with
        another one, or loop (DynamiCrafter, ToonCrafter)."""
        return self.unet.concat_channels > 0

    @property
    def follows_views(self) -> bool:
        """Every frame is made from a rendered view of its own; the first, and perhaps the last, is an image
        (ViewCrafter)."""
        return self.views

    @property
    def shares_tokens(self) -> bool:
        """Every frame attends to all image tokens, although they were made for the frames of a clip: ViewCrafter's
        models of 25 frames were trained with the tokens of 16."""
        tokens = self.image_tokens
        return self.views and isinstance(tokens, ResamplerSpec) and tokens.frames not in (None, self.defaults.frames)

    def keeps_last_rescale(self, image_scale: float | None) -> bool:
        """Whether sampling ends at the rescale of the last timestep that was run, given the guidance scale of the image
        (None without one): DynamiCrafter's does, ViewCrafter's where the image has a scale of its own."""
        return self.diffusion.keep_last_rescale or (self.views and image_scale is not None)

    @property
    def needs_image(self) -> bool:
        """The model makes videos from an image; without one there is nothing that it was trained on."""
        return self.reads_images or self.continues_images

    @property
    def embeds_guidance(self) -> bool:
        """The UNet reads the guidance scale, and one pass for each step does without a negative prompt (T2V-Turbo)."""
        return self.unet.guidance_width > 0

    @property
    def embeds_motion(self) -> bool:
        """The UNet reads a motion guidance (T2V-Turbo v2)."""
        return self.unet.motion_width > 0

    @property
    def sees_ends(self) -> bool:
        """The decoder reads the images at the clip's ends, and so decodes a clip as a whole (ToonCrafter)."""
        return self.autoencoder.sees_ends
