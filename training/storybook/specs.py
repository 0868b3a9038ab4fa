"""The small storybook models in numbers.

All have the layout of VideoCrafter1's text-to-video model for 1024x576: relative positions in every temporal attention,
no temporal convolutions, and a signal that falls to 0.3. Unlike the published model they predict the velocity
(arXiv:2202.00512), which small networks learn faster where a clip is mostly noise.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from vc_core.specs import (
    AutoencoderSpec,
    DiffusionSpec,
    ImageEncoderSpec,
    ModelSpec,
    ResamplerSpec,
    SamplingDefaults,
    TextEncoderSpec,
    UNetSpec,
)
from worlds.storybook.world import DEFAULT_FPS, FRAMES, SIZE

TEXT_WIDTH = 32
IMAGE_WIDTH = 64

TEXT_TO_VIDEO = ModelSpec(
    name="storybook_t2v",
    unet=UNetSpec(
        model_channels=64,
        channel_mult=(1, 1),
        num_res_blocks=1,
        attention_levels=(0, 1),
        head_channels=16,
        context_dim=TEXT_WIDTH,
        norm_groups=8,
        temporal_conv=False,
        relative_position=True,
        temporal_length=FRAMES,
        default_fps=DEFAULT_FPS,
    ),
    diffusion=DiffusionSpec(prediction="v", rescale=0.3),
    autoencoder=AutoencoderSpec(channels=32, channel_mult=(1, 2, 2, 2), num_res_blocks=1, norm_groups=8),
    text_encoder=TextEncoderSpec(width=TEXT_WIDTH, heads=4, layers=5, embed_dim=TEXT_WIDTH),
    defaults=SamplingDefaults(
        width=SIZE,
        height=SIZE,
        frames=FRAMES,
        fps=DEFAULT_FPS,
        steps=25,
        cfg=4.0,
        eta=0.0,
        save_fps=float(DEFAULT_FPS),
        spacing="trailing",
    ),
)
IMAGE_TO_VIDEO = replace(
    TEXT_TO_VIDEO,
    name="storybook_i2v",
    unet=replace(TEXT_TO_VIDEO.unet, image_attention=True),
    image_encoder=ImageEncoderSpec(
        image_size=SIZE, patch_size=12, width=IMAGE_WIDTH, head_width=16, layers=3, embed_dim=32, text_width=32
    ),
    image_tokens=ResamplerSpec(
        dim=64, depth=2, head_channels=16, heads=4, queries=16, embedding_dim=IMAGE_WIDTH, output_dim=TEXT_WIDTH
    ),
    defaults=replace(TEXT_TO_VIDEO.defaults, cfg=3.0),
)
CONTINUING = replace(
    IMAGE_TO_VIDEO,
    name="storybook_dynamicrafter",
    unet=replace(IMAGE_TO_VIDEO.unet, in_channels=8, concat_channels=4),
    diffusion=DiffusionSpec(prediction="v", rescale=0.3, zero_terminal_snr=True, keep_last_rescale=True),
    image_tokens=ResamplerSpec(
        dim=64,
        depth=2,
        head_channels=16,
        heads=4,
        queries=16,
        embedding_dim=IMAGE_WIDTH,
        output_dim=TEXT_WIDTH,
        frames=FRAMES,
    ),
    defaults=replace(TEXT_TO_VIDEO.defaults, cfg=3.0, guidance_rescale=0.7),
)


@dataclass(frozen=True, kw_only=True)
class Specs:
    """The models of one run."""

    text_to_video: ModelSpec = TEXT_TO_VIDEO
    image_to_video: ModelSpec = IMAGE_TO_VIDEO
    continuing: ModelSpec = CONTINUING


STANDARD = Specs()


def _tiny(spec: ModelSpec) -> ModelSpec:
    unet = replace(spec.unet, model_channels=16, channel_mult=(1, 1), attention_levels=(1,))
    autoencoder = replace(spec.autoencoder, channels=8, channel_mult=(1, 1, 2, 2))
    return replace(spec, unet=unet, autoencoder=autoencoder)


TINY = Specs(text_to_video=_tiny(TEXT_TO_VIDEO), image_to_video=_tiny(IMAGE_TO_VIDEO), continuing=_tiny(CONTINUING))
"""The same layouts with networks so small that they learn next to nothing, to try the recipe with."""
