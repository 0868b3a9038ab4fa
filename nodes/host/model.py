"""MODEL: our UNet as a model of ComfyUI's own kind.

ComfyUI's loaders keep everything about a model in a configuration (`BASE`) and a module (`BaseModel`), and pass it on
in a patcher. Ours derive from those, so samplers, LoRA, merging, saving, streaming and casts are ComfyUI's.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import comfy.conds
import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.supported_models_base
import torch
from torch import Tensor

from ...vc_core.checkpoint.building import Checkpoint
from ...vc_core.checkpoint.parts import PARTS
from ...vc_core.checkpoint.reading import METADATA_KEY
from ...vc_core.conditioning import tokens_for_clip
from ...vc_core.denoising import NoiseSchedule
from ...vc_core.errors import UserError
from ...vc_core.frames.fitting import image_latent
from ...vc_core.network.layers import to_frames
from ...vc_core.specs import ModelSpec, to_json
from . import towers
from .compat import is_dynamic, keep_tables
from .graphs import with_graphs
from .image_tokens import ImageTokens
from .latents import latent_format
from .memory import free_bytes
from .model_sampling import model_sampling
from .previews import animate
from .reading import open_file
from .temporal_names import mark, temporal_prefixes
from .unet import NativeUNet, rows_at_once

log = logging.getLogger(__name__)

EARLY_TEXT = "videocrafter_early_text"
"""Key of a CONDITIONING: the text, 1 n d, that the first half of the network takes in some steps (FreeNoise)."""

FPS = "videocrafter_fps"
IMAGE_TOKENS = "videocrafter_image_tokens"
PICTURES = "videocrafter_pictures"
VIEWS = "videocrafter_views"
GUIDANCE = "videocrafter_guidance"
MOTION = "videocrafter_motion"
KEY_FRAMES = "videocrafter_key_frames"
"""Keys of a CONDITIONING: frames per second (a number); the tokens of an image (1 m d, or frames m d); the latents of
the image at the beginning and perhaps of the one at the end of a clip (a list of one or two, each 1 c h w, as the VAE
gives them); those of the rendered views of all frames (f c h w, as the VAE gives them); the guidance scale and the
motion guidance for networks that read them (numbers); and, for a row of key frames, which our sampler node makes one
interpolation at a time, what each of them adds to the conditioning (see `nodes.keyframes`)."""

WEIGHT_DTYPES: dict[str, torch.dtype | None] = {
    "default": None,
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "fp8_e4m3fn": torch.float8_e4m3fn,
    "fp8_e4m3fn_fast": torch.float8_e4m3fn,
    "fp8_e5m2": torch.float8_e5m2,
}


class VideoCrafterConfig(comfy.supported_models_base.BASE):
    """The configuration of a model as ComfyUI reads it. `unet_config` has the values that core nodes look up."""

    unet_extra_config: dict[str, Any] = {}
    latent_format = comfy.latent_formats.SD15
    memory_usage_factor = 0.58
    """By accounting (`benchmarks.memory`) a pass holds 0.40 of ComfyUI's unit, and 0.5 with relative positions; the
    rest is for the workspace of kernels."""
    clip_vision_prefix = towers.PUBLISHED_IMAGE

    def __init__(self, spec: ModelSpec, schedule: NoiseSchedule, latent_format: Any) -> None:
        self.spec, self.schedule = spec, schedule
        unet = spec.unet
        super().__init__(
            {
                "spec": unet,
                "in_channels": unet.in_channels,
                "model_channels": unet.model_channels,
                "context_dim": unet.context_dim,
            }
        )
        self.latent_format = latent_format
        diffusion = spec.diffusion
        self.sampling_settings = {
            "linear_start": diffusion.beta_start,
            "linear_end": diffusion.beta_end,
            "timesteps": diffusion.timesteps,
        }

    def model_type(self, state_dict: Any, prefix: str = "") -> Any:
        kinds = comfy.model_base.ModelType
        return kinds.V_PREDICTION if self.schedule.prediction == "v" else kinds.EPS

    def process_clip_state_dict_for_saving(self, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        return towers.text_to_published(state_dict)

    def process_clip_vision_state_dict_for_saving(self, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        return towers.image_to_published(state_dict)


class VideoCrafterModel(comfy.model_base.BaseModel):
    """The network between ComfyUI's samplers and conditionings. `image_tokens` is the part of an image-to-video model
    that turns images into tokens; it is loaded separately, when an image is encoded."""

    def __init__(self, config: VideoCrafterConfig, device: Any = None) -> None:
        super().__init__(config, model_type=config.model_type(None), device=device, unet_model=NativeUNet)
        self.spec = config.spec
        self.model_sampling = model_sampling(config)
        self.image_tokens: ImageTokens | None = None
        self.checkpoint: Checkpoint | None = None  # of a file that also holds the weights of controls
        self.temporal = temporal_prefixes(self)

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """The weights by the names that patches use."""
        return mark(super().state_dict(*args, **kwargs), self.temporal)

    def extra_conds(self, **kwargs: Any) -> dict[str, Any]:
        """The conditions of one CONDITIONING, checked against the network before it runs."""
        noise, which = kwargs["noise"], kwargs.get("prompt_type", "given")
        self._check_latent(noise, which)
        text = self._checked_text(kwargs.get("cross_attn"))
        check_text_frames(text, len(noise), which)
        out: dict[str, Any] = super().extra_conds(**kwargs)
        fps = kwargs.get(FPS)
        out["fps"] = comfy.conds.CONDConstant(float(self.spec.defaults.fps if fps is None else fps))
        out["text_per_frame"] = comfy.conds.CONDConstant(text.shape[0] > 1)
        if kwargs.get(EARLY_TEXT) is not None:
            out["early_text"] = comfy.conds.CONDRegular(kwargs[EARLY_TEXT].to(kwargs["device"]))
        image = kwargs.get(IMAGE_TOKENS)
        if image is not None:
            self._check_image(image)
            if image.shape[0] > 1:
                tokens = tokens_for_clip(self.spec, image[None], len(noise))
                image = tokens if tokens.ndim == 3 else tokens[0]
            out["image"] = comfy.conds.CONDRegular(image.to(kwargs["device"]))
            out["image_per_frame"] = comfy.conds.CONDConstant(image.shape[0] > 1)
        if kwargs.get(KEY_FRAMES) is not None:
            raise UserError(
                "The conditioning holds a row of key frames, which only VideoCrafter KSampler can sample. Use that "
                "node, or give VideoCrafter Image to Video two images at most."
            )
        concat = self._concat(kwargs.get(PICTURES), kwargs.get(VIEWS), noise)
        if image is None:
            self._check_no_image(which)
        if concat is not None:
            out["c_concat"] = comfy.conds.CONDNoiseShape(concat.to(kwargs["device"]))
        return out | self._scales(kwargs.get(GUIDANCE), kwargs.get(MOTION))

    def _concat(self, images: list[Tensor] | None, views: Tensor | None, noise: Tensor) -> Tensor | None:
        """The latent that is concatenated to the noised one, f c h w, of the images at a clip's ends or of the rendered
        views of its frames; None without any."""
        self._check_views(views, len(noise))
        self._check_images(images if views is None else [views], noise)
        if views is not None:
            return self.process_latent_in(views)
        if images is None:
            return None
        latents = [self.process_latent_in(latent) for latent in images]
        return to_frames(image_latent(latents[0], len(noise), *latents[1:]))

    def _scales(self, guidance: float | None, motion: float | None) -> dict[str, Any]:
        """The conditions of networks that read guidance scales; the authors' own where none is given."""
        spec, defaults = self.spec, self.spec.defaults
        out = {}
        if spec.embeds_guidance:
            out["guidance"] = comfy.conds.CONDConstant(float(defaults.cfg if guidance is None else guidance))
        motion = defaults.motion if motion is None else motion
        if spec.embeds_motion and motion is not None:
            start = spec.diffusion.timesteps * (1 - defaults.motion_share)
            out["motion"] = comfy.conds.CONDConstant((float(motion), start))
        return out

    def _apply_model(
        self,
        x: Tensor,
        t: Tensor,
        c_concat: Any = None,
        c_crossattn: Any = None,
        control: Any = None,
        transformer_options: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """A pass that works on as much at once as fits into the host's free memory, which is read here, outside of what
        may be compiled."""
        options = {} if transformer_options is None else transformer_options
        free = free_bytes(x.device, self.current_patcher)
        computed = self.manual_cast_dtype or self.get_dtype()
        self.diffusion_model.fit(free, rows_at_once(x, options) * x[0, 0].numel(), computed.itemsize)
        out: Tensor = super()._apply_model(x, t, c_concat, c_crossattn, control, options, **kwargs)
        return out

    def process_latent_out(self, latent: Tensor) -> Tensor:
        """The end of every run of a sampler, so the place to notice that it went wrong."""
        if not bool(torch.isfinite(latent).all()):
            raise UserError(
                "Sampling ended with NaN or infinite values. Load the model with weight_dtype fp32 or bf16 if it "
                "runs in fp16, lower cfg, or try another sampler; VideoCrafter KSampler says at which step they first "
                "occur."
            )
        return super().process_latent_out(latent)

    def state_dict_for_saving(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """The published names, with the parts that no core node knows, and the spec as a tensor of its JSON text."""
        out: dict[str, Tensor] = super().state_dict_for_saving(*args, **kwargs)
        if self.image_tokens is not None:
            prefix = PARTS["image_tokens"].prefix
            out.update({prefix + name: value for name, value in self.image_tokens.state_dict().items()})
        out[METADATA_KEY] = torch.frombuffer(bytearray(to_json(self.spec).encode()), dtype=torch.uint8)
        return out

    def _check_latent(self, noise: Tensor, which: str) -> None:
        channels = self.latent_format.latent_channels
        if noise.ndim != 4 or noise.shape[1] != channels:
            raise UserError(
                f"The latent has the shape {tuple(noise.shape)}; VideoCrafter takes (frames, {channels}, height / 8, "
                "width / 8), the frames on the first axis. Make it with VideoCrafter Empty Latent, or encode frames "
                "with the model's own VAE."
            )
        if len(noise) == 1 and which == "positive":
            log.warning(
                "The latent has a single frame, so the result is one image. For a video, connect VideoCrafter Empty "
                "Latent to the sampler and set its frames."
            )

    def _checked_text(self, text: Tensor | None) -> Tensor:
        width = self.spec.unet.context_dim
        if text is None or text.shape[-1] != width:
            given = "no text at all" if text is None else f"text {text.shape[-1]} wide"
            raise UserError(
                f"The conditioning holds {given}, but this model reads text {width} wide. Encode the prompt with the "
                "CLIP that belongs to the model: the one from VideoCrafter's checkpoint loader (for the published "
                "models OpenCLIP ViT-H-14, 1024 wide)."
            )
        return text

    def _check_views(self, views: Tensor | None, frames: int) -> None:
        if self.spec.follows_views and views is None:
            raise UserError(
                f"{self.spec.name} follows rendered views, and the conditioning holds none. Put VideoCrafter Views to "
                "Video between the prompts and the sampler."
            )
        if views is None:
            return
        if not self.spec.follows_views:
            raise UserError(
                f"The conditioning holds rendered views, but {self.spec.name} does not follow views. Load a "
                "ViewCrafter model with its preset, or leave VideoCrafter Views to Video out."
            )
        if len(views) != frames:
            raise UserError(
                f"The conditioning holds {len(views)} rendered views, but the latent has {frames} frames. Connect the "
                "latent output of VideoCrafter Views to Video."
            )

    def _check_images(self, images: list[Tensor] | None, noise: Tensor) -> None:
        wanted = self.spec.continues_images
        if wanted and images is None:
            raise UserError(
                f"{self.spec.name} continues an image, and the conditioning holds none. Put VideoCrafter Image to "
                "Video between the prompts and the sampler."
            )
        if images is None:
            return
        if not wanted:
            raise UserError(
                f"The conditioning holds an image to continue, but {self.spec.name} does not continue images. Load "
                "a DynamiCrafter or ToonCrafter model, or leave VideoCrafter Image to Video out."
            )
        given, size = images[0].shape[-2:], noise.shape[-2:]
        if given != size:
            node = "Views to Video" if self.spec.follows_views else "Image to Video"
            raise UserError(
                f"The image was prepared for clips of {given[1] * 8} x {given[0] * 8} pixels, but the latent has "
                f"{size[1] * 8} x {size[0] * 8}. Connect the latent output of VideoCrafter {node}."
            )

    def _check_no_image(self, which: str) -> None:
        """Image attention without an image would run on text alone, which no model was trained on."""
        if not self.spec.reads_images:
            return
        node = "Image to Video" if self.spec.continues_images else "Image Conditioning"
        raise UserError(
            f"{self.spec.name} is an image-to-video model, and the {which} conditioning holds no image. Put "
            f"VideoCrafter {node} between the prompts and the sampler and connect both of its outputs, positive and "
            "negative; or load a text-to-video model."
        )

    def _check_image(self, image: Tensor) -> None:
        if not self.spec.reads_images:
            raise UserError(
                "The conditioning holds an image, but this is a text-to-video model: it does not read images. Load an "
                "image-to-video model, or leave VideoCrafter Image Conditioning out."
            )
        if image.shape[-1] != self.spec.unet.context_dim:
            raise UserError(
                f"The image was encoded for another model ({image.shape[-1]} wide, this model reads "
                f"{self.spec.unet.context_dim}). Connect VideoCrafter Image Conditioning to the model that samples."
            )


def check_text_frames(text: Tensor, frames: int, which: str) -> None:
    """Raises UserError for a conditioning with a text for each frame of a clip of another length."""
    if text.shape[0] not in (1, frames):
        raise UserError(
            f"The latent has {frames} frames, but the {which} conditioning has a text for each of {text.shape[0]}. "
            "Connect the same latent to VideoCrafter Prompts Over Time and to the sampler."
        )


def load_model(checkpoint: Checkpoint, weight_dtype: str = "default", *, disable_dynamic: bool = False) -> Any:
    """MODEL of an opened file: checked strictly, built on `meta`, with the file's tensors assigned.

    A dynamic patcher keeps them in the type of the file, and casts each on the GPU when its layer runs.
    """
    checkpoint.check("unet")
    tensors = checkpoint.detection.contents.parts["unet"]
    parameters = sum(tensor.numel() for tensor in tensors.values())
    config = VideoCrafterConfig(checkpoint.spec, checkpoint.schedule(), latent_format(checkpoint))
    dtype = _choose_dtype(config, weight_dtype, parameters, next(iter(tensors.values())).dtype)
    config.optimizations["fp8"] = weight_dtype.endswith("_fast")
    model = VideoCrafterModel(config, device="meta")
    device, offload = comfy.model_management.get_torch_device(), comfy.model_management.unet_offload_device()
    patcher = patcher_class(disable_dynamic)(model, load_device=device, offload_device=offload)
    dynamic = is_dynamic(patcher)
    weights = checkpoint.weights("unet", dtype=None if dynamic else dtype, computed=dtype)
    model.diffusion_model.load_state_dict(weights, strict=True, assign=True)
    model.diffusion_model.requires_grad_(False)
    if dynamic or comfy.model_management.is_device_cpu(offload):
        model.device = torch.device("cpu")
    else:
        model.device = offload
        model.to(offload)
    if "image_tokens" in checkpoint.parts:
        model.image_tokens = ImageTokens(checkpoint)
    if checkpoint.detection.others:
        model.checkpoint = checkpoint
    return with_graphs(animate(keep_tables(patcher)))


def load_model_file(path: Path, preset: str, weight_dtype: str, disable_dynamic: bool = False) -> Any:
    """MODEL of a file. ComfyUI calls this again when it needs the model fresh, for another device for example."""
    patcher = load_model(open_file(path, preset), weight_dtype, disable_dynamic=disable_dynamic)
    return remember(patcher, load_model_file, (path, preset, weight_dtype))


def remember(patcher: Any, load: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """Records on the patcher how to make it again, for hosts that do so."""
    if hasattr(patcher, "cached_patcher_init"):
        patcher.cached_patcher_init = (load, arguments)
    return patcher


def patcher_class(disable_dynamic: bool = False) -> type:
    """The patcher that core's own loaders use."""
    plain: type = comfy.model_patcher.ModelPatcher
    return plain if disable_dynamic else getattr(comfy.model_patcher, "CoreModelPatcher", plain)


def _choose_dtype(config: VideoCrafterConfig, weight_dtype: str, parameters: int, stored: torch.dtype) -> torch.dtype:
    """The type in which the weights are held; sets on `config` the type in which they compute."""
    if weight_dtype not in WEIGHT_DTYPES:
        raise UserError(f"There is no weight dtype {weight_dtype!r}; choose one of {', '.join(WEIGHT_DTYPES)}.")
    management = comfy.model_management
    supported = config.supported_inference_dtypes
    dtype = WEIGHT_DTYPES[weight_dtype]
    if dtype is None:
        dtype = management.unet_dtype(model_params=parameters, supported_dtypes=supported, weight_dtype=stored)
    device = management.get_torch_device()
    config.set_inference_dtype(dtype, management.unet_manual_cast(dtype, device, supported))
    return dtype
