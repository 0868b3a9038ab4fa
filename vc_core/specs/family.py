"""The published models, one record each.

A new member of the family that differs in numbers is one record in `FAMILY`: presets, detection by the shapes of the
tensors, titles, the choices of the loaders and of the command line, and the table in `docs/presets.md` follow from it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from .autoencoder import AutoencoderSpec
from .diffusion import DiffusionSpec
from .encoders import ImageEncoderSpec, ResamplerSpec
from .model import ModelSpec, SamplingDefaults
from .unet import UNetSpec


@dataclass(frozen=True, kw_only=True)
class Member:
    """A published model: its numbers, its name for people, and where its authors publish it.

    Of members whose files have the same tensors, detection takes the first, and says which others it could be.
    """

    title: str
    file: str
    """The repository on the Hugging Face Hub and the file in it."""
    spec: ModelSpec


VIDEOCRAFTER2 = ModelSpec(name="videocrafter2_512")
DYNAMICRAFTER = ModelSpec(
    name="dynamicrafter_512",
    unet=UNetSpec(in_channels=8, concat_channels=4, image_attention=True, default_fps=24),
    diffusion=DiffusionSpec(prediction="v", zero_terminal_snr=True, keep_last_rescale=True),
    image_encoder=ImageEncoderSpec(),
    image_tokens=ResamplerSpec(frames=16),
    defaults=SamplingDefaults(fps=24, cfg=7.5, save_fps=8.0, spacing="trailing", guidance_rescale=0.7),
)
VIEWCRAFTER = replace(
    DYNAMICRAFTER,
    name="viewcrafter_25",
    unet=replace(DYNAMICRAFTER.unet, default_fps=10, temporal_length=25),
    diffusion=DiffusionSpec(prediction="v", zero_terminal_snr=True, rescale=0.3),
    defaults=replace(
        DYNAMICRAFTER.defaults, width=1024, height=576, frames=25, fps=10, prompt="Rotating view of a scene"
    ),
    views=True,
)
T2V_TURBO = ModelSpec(
    name="t2v_turbo_vc2",
    unet=UNetSpec(guidance_width=256),
    diffusion=DiffusionSpec(rescale=None),
    defaults=SamplingDefaults(fps=16, steps=4, cfg=7.5, save_fps=8.0, sampler="lcm", spacing="lcm"),
)

FAMILY = (
    Member(title="VideoCrafter2 (T2V-512)", file="VideoCrafter/VideoCrafter2: model.ckpt", spec=VIDEOCRAFTER2),
    Member(
        title="VideoCrafter1 T2V-1024",
        file="VideoCrafter/Text2Video-1024: model.ckpt",
        spec=replace(
            VIDEOCRAFTER2,
            name="videocrafter1_t2v_1024",
            unet=UNetSpec(temporal_conv=False, relative_position=True),
            diffusion=DiffusionSpec(rescale=0.3),
            defaults=SamplingDefaults(width=1024, height=576),
        ),
    ),
    Member(
        title="VideoCrafter1 T2V-512",
        file="VideoCrafter/Text2Video-512: model.ckpt",
        spec=replace(
            VIDEOCRAFTER2,
            name="videocrafter1_t2v_512",
            unet=UNetSpec(temporal_conv=False, relative_position=True, fps_condition=False),
            diffusion=DiffusionSpec(rescale=None),
        ),
    ),
    Member(
        title="VideoCrafter1 I2V-512",
        file="VideoCrafter/Image2Video-512: model.ckpt",
        spec=replace(
            VIDEOCRAFTER2,
            name="videocrafter1_i2v_512",
            unet=UNetSpec(image_attention=True),
            image_encoder=ImageEncoderSpec(),
            image_tokens=ResamplerSpec(),
            defaults=SamplingDefaults(fps=8, save_fps=8.0),
        ),
    ),
    Member(
        title="VideoCrafter1 T2V-512 of October 2023",
        file="VideoCrafter/Text2Video-512: model.ckpt, replaced in December 2023",
        spec=replace(VIDEOCRAFTER2, name="videocrafter1_t2v_512_october_2023", defaults=SamplingDefaults(fps=8)),
    ),
    Member(
        title="VideoCrafter1 T2V-256",
        file="VideoCrafter/Text2Video-256: model.ckpt",
        spec=replace(
            VIDEOCRAFTER2,
            name="videocrafter1_t2v_256",
            diffusion=DiffusionSpec(rescale=None),
            defaults=SamplingDefaults(width=256, height=256, fps=8, cfg=15.0),
        ),
    ),
    Member(
        title="MotionCtrl on VideoCrafter (camera and trajectories)",
        file="TencentARC/MotionCtrl: motionctrl.pth",
        spec=replace(
            VIDEOCRAFTER2,
            name="motionctrl_256",
            unet=UNetSpec(fps_condition=False),
            diffusion=DiffusionSpec(rescale=None),
            defaults=SamplingDefaults(width=256, height=256, cfg=7.5),
        ),
    ),
    Member(title="DynamiCrafter 512", file="Doubiiu/DynamiCrafter_512: model.ckpt", spec=DYNAMICRAFTER),
    Member(
        title="DynamiCrafter 512 for interpolation and loops",
        file="Doubiiu/DynamiCrafter_512_Interp: model.ckpt",
        spec=replace(DYNAMICRAFTER, name="dynamicrafter_512_interp", defaults=replace(DYNAMICRAFTER.defaults, fps=5)),
    ),
    Member(
        title="ToonCrafter 512",
        file="Doubiiu/ToonCrafter: model.ckpt",
        spec=replace(
            DYNAMICRAFTER,
            name="tooncrafter_512",
            autoencoder=AutoencoderSpec(reference_levels=(2, 3)),
            defaults=replace(DYNAMICRAFTER.defaults, fps=10),
        ),
    ),
    Member(
        title="DynamiCrafter 1024",
        file="Doubiiu/DynamiCrafter_1024: model.ckpt",
        spec=replace(
            DYNAMICRAFTER,
            name="dynamicrafter_1024",
            unet=replace(DYNAMICRAFTER.unet, default_fps=10),
            diffusion=replace(DYNAMICRAFTER.diffusion, rescale=0.3),
            defaults=replace(DYNAMICRAFTER.defaults, width=1024, height=576, fps=10),
        ),
    ),
    Member(
        title="DynamiCrafter 256",
        file="Doubiiu/DynamiCrafter: model.ckpt",
        spec=replace(
            DYNAMICRAFTER,
            name="dynamicrafter_256",
            unet=replace(DYNAMICRAFTER.unet, image_gate=True, default_fps=3),
            diffusion=DiffusionSpec(rescale=None),
            defaults=SamplingDefaults(width=256, height=256, fps=3, cfg=7.5, save_fps=8.0, fps_is_stride=True),
        ),
    ),
    Member(title="ViewCrafter 25", file="Drexubery/ViewCrafter_25: model.ckpt", spec=VIEWCRAFTER),
    Member(
        title="ViewCrafter 25 for sparse views",
        file="Drexubery/ViewCrafter_25_sparse: model_sparse.ckpt",
        spec=replace(VIEWCRAFTER, name="viewcrafter_25_sparse"),
    ),
    Member(
        title="ViewCrafter 16",
        file="Drexubery/ViewCrafter_16: model.ckpt",
        spec=replace(
            VIEWCRAFTER,
            name="viewcrafter_16",
            unet=replace(VIEWCRAFTER.unet, temporal_length=16),
            defaults=replace(VIEWCRAFTER.defaults, frames=16),
        ),
    ),
    Member(
        title="ViewCrafter 25 512",
        file="Drexubery/ViewCrafter_25_512: model.ckpt",
        spec=replace(
            VIEWCRAFTER,
            name="viewcrafter_25_512",
            diffusion=replace(VIEWCRAFTER.diffusion, rescale=0.7),
            defaults=replace(VIEWCRAFTER.defaults, width=512, height=320),
        ),
    ),
    Member(title="T2V-Turbo on VideoCrafter2", file="jiachenli-ucsb/T2V-Turbo-VC2: unet_lora.pt", spec=T2V_TURBO),
    Member(
        title="T2V-Turbo v2",
        file="jiachenli-ucsb/T2V-Turbo-v2: unet_mg.pt",
        spec=replace(
            T2V_TURBO,
            name="t2v_turbo_v2",
            unet=UNetSpec(guidance_width=256, motion_width=256),
            defaults=replace(T2V_TURBO.defaults, fps=8, steps=8, motion=0.05),
        ),
    ),
    Member(
        title="T2V-Turbo v2 without motion guidance",
        file="jiachenli-ucsb/T2V-Turbo-v2-no-MG: unet_no_mg.pt",
        spec=replace(T2V_TURBO, name="t2v_turbo_v2_no_mg", defaults=replace(T2V_TURBO.defaults, fps=8, steps=8)),
    ),
)

PRESETS: dict[str, ModelSpec] = {member.spec.name: member.spec for member in FAMILY}
TITLES: dict[str, str] = {member.spec.name: member.title for member in FAMILY}
"""What people call the models of `PRESETS`."""
