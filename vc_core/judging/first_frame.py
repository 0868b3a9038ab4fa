"""First-frame fidelity: how like the first frame is to the image that the video was made from."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from ..errors import UserError
from ..frames.fitting import fit
from ..parameters import Kind, about
from .metric import Metric
from .moment import Moment
from .quality import MOST_PSNR, psnr, ssim


@dataclass(frozen=True, kw_only=True, eq=False)
class FirstFrame(Metric):
    """A figure of the first frame, against an image that is scaled to cover it and cropped evenly."""

    better = "higher"
    reads = 1
    needs = ("image",)

    image: Sequence[Tensor] = field(
        default=(),
        metadata=about(
            "the image that the first frame should show, of any size, for first_frame_psnr and first_frame_ssim",
            kind=Kind.IMAGES,
        ),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.image) > 1:
            raise UserError(f"{len(self.image)} images were given for the first frame; give one.")

    def at(self, moment: Moment) -> float | None:
        if moment.index:
            return None
        frame, image = moment.frame.image, self.image[0]
        if image.shape != frame.shape:
            image = fit(image, frame.shape[0], frame.shape[1], "crop")
        return self.likeness(frame, image)

    @abstractmethod
    def likeness(self, frame: Tensor, image: Tensor) -> float:
        """How like the frame is to the image of the same size."""


class FirstFramePSNR(FirstFrame):
    """Peak signal-to-noise ratio."""

    name = "first_frame_psnr"
    help = "the peak signal-to-noise ratio of the first frame against the given image"
    high = MOST_PSNR
    unit = "dB"

    def likeness(self, frame: Tensor, image: Tensor) -> float:
        return psnr(frame, image)


class FirstFrameSSIM(FirstFrame):
    """Structural similarity."""

    name = "first_frame_ssim"
    help = "the structural similarity of the first frame to the given image"
    low = -1.0

    def likeness(self, frame: Tensor, image: Tensor) -> float:
        return ssim(frame, image)
