"""Drag an object along a track, without training (Time-to-Move)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..vc_core.control.tracks import tracks_of
from ..vc_core.errors import UserError
from ..vc_core.frames.dragging import BACKGROUNDS, KEPT_UNTIL, Background, Drag, Reference, rough_video
from ..vc_core.frames.fitting import FITS, Fit
from .conditioning import checked_images
from .controls import points_of
from .frames import DOWNSCALE, check_latents
from .host.compat import advanced, aliases, either
from .host.dragging import with_release
from .host.vae import encode_frames


class VideoCrafterDragObject(io.ComfyNode):
    """Moves an object of an image along a track."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VideoCrafterDragObject",
            display_name="VideoCrafter Drag Object",
            category="VideoCrafter/control",
            description="Drags an object along a track, with any VideoCrafter model (Time-to-Move). The object is cut "
            "out by a mask and pasted along the track; sampling starts from this rough video and keeps the object on "
            "its track for the first steps. Set denoise of the sampler to about 0.6.",
            inputs=[
                io.Model.Input("model", tooltip="The video model."),
                io.Vae.Input("vae", tooltip="The VAE of the model, which encodes the rough video."),
                io.Latent.Input(
                    "latent",
                    tooltip="Size and length of the clip, from VideoCrafter Empty Latent or VideoCrafter Image to "
                    "Video.",
                ),
                io.Image.Input(
                    "image",
                    tooltip="The image with the object, of any size; or the frames of a video, as many as the clip "
                    "has, whose first one shows the object.",
                ),
                io.Mask.Input(
                    "mask",
                    tooltip="White where the object is, as large as the image. A batch of masks is several objects.",
                ),
                _track(
                    tooltip="How the object moves, in pixels of the image: points x, y separated by semicolons or line "
                    "breaks, or JSON as KJNodes' spline editor writes it, or the output of a track node. The points "
                    "are evenly spaced in time; the object moves as the track does from its first point on. One track "
                    "for all masks, or one for each, with an empty line between them.",
                ),
                io.Float.Input(
                    "keep_until",
                    default=KEPT_UNTIL,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="0 to the sampler's denoise: the share of the noise schedule down to which the object is "
                    "kept on its track. Lower values follow the track more closely; higher ones let the model change "
                    "the object more, for example its shadow and its pose. At 0 it is pasted to the end.",
                ),
                io.Combo.Input(
                    "background",
                    options=list(BACKGROUNDS),
                    default=BACKGROUNDS[0],
                    tooltip="What is where the object was. filled: the colors around it; kept: the image as it is, "
                    "with the object.",
                ),
                io.Combo.Input(
                    "fit",
                    options=list(FITS),
                    default=FITS[0],
                    tooltip="How an image with a different aspect ratio is fitted to the clip. Choose the fit of "
                    "VideoCrafter Image to Video.",
                    **advanced(io.Combo.Input),
                ),
            ],
            outputs=[
                io.Model.Output(tooltip="The model, which keeps the object on its track in the first steps."),
                io.Latent.Output(tooltip="The rough video with a noise mask, for latent_image of the sampler."),
                io.Image.Output("rough_video", display_name="rough_video", tooltip="The rough video, to look at."),
            ],
            **aliases("videocrafter", "drag", "trajectory", "time to move", "ttm", "cut and drag", "move object"),
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        vae: Any,
        latent: dict[str, Any],
        image: Tensor,
        mask: Tensor,
        track: Any,
        keep_until: float = KEPT_UNTIL,
        background: Background = BACKGROUNDS[0],
        fit: Fit = FITS[0],
    ) -> io.NodeOutput:
        check_latents(latent["samples"])
        if not 0 <= keep_until <= 1:
            raise UserError(f"keep_until is {keep_until:g}; it should be from 0 (to the end) to 1 (not at all).")
        released = with_release(model, keep_until)
        drag = Drag(
            masks=_masks(mask),
            tracks=tracks_of(track if isinstance(track, str) else points_of(track)),
            background=background,
        )
        rough = _rough(drag, checked_images(image), latent["samples"], fit)
        out = {**latent, "samples": encode_frames(vae, rough.frames), "noise_mask": rough.latent_mask(DOWNSCALE)}
        return io.NodeOutput(released, out, rough.frames)


def _track(tooltip: str) -> Any:
    """The input of the track, a text or ComfyUI's TRACKS."""
    return either(io.String.Input("track", default="16,32; 48,32", multiline=True, tooltip=tooltip), "TRACKS")


def _masks(mask: Tensor) -> Tensor:
    """A MASK, h w or k h w, as k h w in 0..1."""
    masks = mask if mask.ndim == 3 else mask[None]
    return masks.float().clamp(0, 1)


def _rough(drag: Drag, images: Sequence[Tensor], latents: Tensor, how: Fit) -> Reference:
    """The rough video of the clip with these latents, f c h w."""
    frames, _, height, width = latents.shape
    return rough_video(drag, images, frames, DOWNSCALE * height, DOWNSCALE * width, how)


NODES: list[type[io.ComfyNode]] = [VideoCrafterDragObject]
