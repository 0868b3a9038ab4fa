"""Images -> the latents that a network reads beside the noised ones: of a clip's ends, or of a view for each frame."""

from __future__ import annotations

import torch
from torch import Tensor

from .checkpoint import Parts
from .denoising import NoiseSource
from .frames.fitting import fit, image_latent
from .frames.pixels import to_network
from .frames.views import clip_of_views
from .request import Request, Settings


def continued(
    parts: Parts,
    first: Tensor,
    last: Tensor | None,
    views: Tensor | None,
    request: Request,
    settings: Settings,
    noise: NoiseSource | None,
) -> tuple[Tensor, Tensor]:
    """The first image h w 3 at the clip's size, and the latent that is concatenated to the noised one. Images are in
    0..1, of any size. `noise` samples the autoencoder's posterior; None takes its mean."""
    height, width = settings.height, settings.width
    if views is not None:
        last = first if request.loop else last
        clip = clip_of_views(views, first, last, height=height, width=width, how=request.fit)
        return clip[0], latent_of_views(parts, clip, noise)
    given = [first] if last is None else [first, last]
    image, *ends = [fit(each, height, width, request.fit) for each in given]
    return image, latent_of_ends(parts, image, settings.frames, *ends, loop=request.loop, noise=noise)


def latent_of_ends(
    parts: Parts,
    first: Tensor,
    frames: int,
    last: Tensor | None = None,
    *,
    loop: bool = False,
    noise: NoiseSource | None = None,
) -> Tensor:
    """1 c f h w of images h w 3 in 0..1 at the clip's size; with `loop` the first is at both ends, exactly the same."""
    latent = latent_of(parts, first, noise)
    end = latent if loop else None if last is None else latent_of(parts, last, noise)
    return image_latent(latent, frames, end)


def latent_of_views(parts: Parts, views: Tensor, noise: NoiseSource | None = None) -> Tensor:
    """1 c f h w of a rendered view for each frame, f h w 3 in 0..1 at the clip's size; drawn frame by frame."""
    return torch.stack([latent_of(parts, view, noise)[0] for view in views], dim=1)[None]


@torch.inference_mode()
def latent_of(parts: Parts, image: Tensor, noise: NoiseSource | None = None) -> Tensor:
    """1 c h w of an image h w 3 in 0..1: the mean of the autoencoder's posterior, or with `noise` a sample of it."""
    autoencoder = parts.autoencoder
    assert autoencoder is not None
    pixels = to_network(image[None]).to(parts.device, parts.dtype)
    if noise is None:
        return autoencoder.encode(pixels).float()
    factor = autoencoder.spec.downscale
    shape = (1, autoencoder.spec.latent_channels, pixels.shape[2] // factor, pixels.shape[3] // factor)
    return autoencoder.encode_with(pixels, noise.draw(shape, pixels.device, torch.float32)).float()
