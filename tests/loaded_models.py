"""A small model as ComfyUI has loaded it, and shorthands for what most tests of nodes do with it."""

from __future__ import annotations

import torch

from comfyui.inprocess import Comfy
from vc_core.network.transformers import TemporalTransformer


class Loaded:
    """What the checkpoint loader gives, and conditionings made with it."""

    def __init__(self, comfy: Comfy, name: str, **options: object) -> None:
        self.comfy, self.name = comfy, name
        loaded = comfy.call("VideoCrafterCheckpointLoader", ckpt_name=name, **options)
        self.model, self.clip, self.vae, self.clip_vision = loaded.values

    def text(self, prompt: str) -> object:
        return self.comfy.call("CLIPTextEncode", clip=self.clip, text=prompt).values[0]

    def picture(self, image: object, strength: float = 1.0, prompt: str = "a red square") -> tuple:
        return self.comfy.call(
            "VideoCrafterImageConditioning",
            positive=self.text(prompt),
            negative=self.text(""),
            model=self.model,
            clip_vision=self.clip_vision,
            image=image,
            strength=strength,
        ).values

    def continued(self, image: object, **options: object) -> tuple:
        """positive, negative, picture_only and the latent of pictures b h w 3 continued, 3 frames of 16 x 24."""
        size = {"width": 16, "height": 24, "frames": 3}
        return self.comfy.call(
            "VideoCrafterPictureToVideo",
            positive=self.text("a red square"),
            negative=self.text(""),
            model=self.model,
            clip_vision=self.clip_vision,
            vae=self.vae,
            image=image,
            **{**size, **options},
        ).values

    def viewed(self, views: object, image: object, **options: object) -> tuple:
        """positive, negative, picture_only and the latent of rendered views f h w 3, frames of 16 x 24."""
        return self.comfy.call(
            "VideoCrafterViewsToVideo",
            positive=self.text("a red square"),
            negative=self.text(""),
            model=self.model,
            clip_vision=self.clip_vision,
            vae=self.vae,
            views=views,
            image=image,
            **{"width": 16, "height": 24, **options},
        ).values

    def latent(self, width: int = 16, height: int = 24, frames: int = 3) -> dict:
        return self.comfy.call("VideoCrafterEmptyLatent", width=width, height=height, frames=frames).values[0]

    def apart(self, model: object = None) -> object:
        """A copy of the MODEL in which frames do not see each other: what mixes them ends in zeros."""
        model = (model or self.model).clone()
        unet = model.model.diffusion_model
        temporal = [name for name, module in unet.named_modules() if isinstance(module, TemporalTransformer)]
        ends = (*(f"{name}.proj_out." for name in temporal), "temopral_conv.conv4.3.")
        zeros = {
            f"diffusion_model.{name}": ("set", (torch.zeros_like(value),))
            for name, value in unet.state_dict().items()
            if any(end in name for end in ends)
        }
        taken = model.add_patches(zeros)
        assert len(taken) == len(zeros) > 0
        return model

    def sample(self, model: object = None, **options: object) -> object:
        settings = {
            "positive": self.text("a red square"),
            "negative": self.text(""),
            "latent_image": self.latent(),
            "steps": 4,
            "cfg": 3.0,
            "seed": 7,
            **options,
        }
        return self.comfy.call("VideoCrafterKSampler", model=model or self.model, **settings).values[0]["samples"]
