"""Cameras of DynamiCrafter: CamI2V (arXiv:2410.15957), and its authors' versions of CameraCtrl (arXiv:2404.02101) and
MotionCtrl (arXiv:2312.03641)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from torch import Tensor, nn

from ..conditions import POSITIVE
from ..denoising import Noise
from ..denoising.guidance import Term
from ..errors import UserError
from ..network.adapter import Adapter
from ..network.adapters import camera_features
from ..network.adapters.camera_features import CameraNetwork, RayFeatures
from ..network.adapters.epipolar import EpipolarLines
from ..network.adapters.motionctrl import CameraPoses, MotionCtrlNetwork
from ..parameters import Kind, about
from ..specs import ModelSpec
from .attachment import NOTHING, Attachment, Scene
from .camera import MOVES_HELP, moved, moves_of, poses_of
from .camera_geometry import fundamental_matrices, intrinsics, pose_rows, ray_map, relative_poses
from .camera_path import Timing, along, focal_length, square
from .control import WeightedControl

LAST = 999
"""The noisiest timestep."""

FINEST = 64
"""Width and height have to be multiples of this many pixels: the pixels along one side of a pixel of the coarsest
features."""

ONE_CAMERA = "a video has one camera"

SEARCHED = ("camera", "pan", "zoom", "roll", "pose", "trajectory", "cameractrl", "camera control", "path")

COURSES = ("constant", "cosine")
"""How the camera guidance changes over the timesteps: not at all, or from full at the noisiest to none at the last."""


@dataclass(frozen=True, kw_only=True)
class ImageCamera(WeightedControl):
    """A camera that starts at the image of a DynamiCrafter model and follows a path. The cameras differ in their
    weights."""

    use: ClassVar[str] = "camera moves (named, or poses of a file) through the scene of an image"
    models: ClassVar[str] = "DynamiCrafter 256 and 512"
    multiple: ClassVar[int] = 8

    camera: str = field(default="", metadata=about(MOVES_HELP))
    poses: str = field(
        default="",
        metadata=about(
            "camera poses in place of named moves: a RealEstate10K file, or 12 numbers for each frame, the rows of a "
            "3x4 matrix from world to camera; a path of any length is resampled to the frames of the clip",
            kind=Kind.DOCUMENT,
        ),
    )
    scale: float = field(
        default=1.0,
        metadata=about("factor of all translations; the authors' examples use 0.1 to 1", low=0, high=100),
    )
    share: float = field(
        default=1.0,
        metadata=about("share of the path that the clip covers, from its start; less is slower", low=0.01, high=1),
    )
    there_and_back: bool = field(
        default=False, metadata=about("follow the path to its end and back, so that the clip ends where it began")
    )
    ease: bool = field(
        default=False, metadata=about("slow down at both ends of the path, along a Bezier curve of the time")
    )
    ease_in: float = field(
        default=0.5, metadata=about("with ease, the time of the curve's first inner control point", low=0, high=1)
    )
    ease_out: float = field(
        default=0.5, metadata=about("with ease, the time of the curve's second inner control point", low=0, high=1)
    )
    frame: int = field(
        default=0,
        metadata=about("the frame, from 0, whose camera is that of the image; the others are relative to it", low=0),
    )
    focal: float = field(
        default=0.0,
        metadata=about(
            "focal length in pixels of the video; 0 is half of the longer side of the image before it is cropped, "
            "which the authors assume",
            low=0,
        ),
    )
    guidance: float = field(
        default=1.0,
        metadata=about(
            "how strongly the camera is followed beyond what the model predicts; 1 is off, other values take one more "
            "pass per step, and the authors' demo offers up to 4",
            low=0,
            high=10,
        ),
    )
    guidance_course: str = field(
        default="constant",
        metadata=about(
            "how the camera guidance changes: constant, or cosine, from full in the first step to none in the last",
            choices=COURSES,
        ),
    )

    @property
    def is_on(self) -> bool:
        """Whether there is a path."""
        return bool(self.poses.strip() or self.camera.strip())

    def defaults(self) -> Mapping[str, Any]:
        return {"spacing": "trailing", "guidance_rescale": 0.7} if self.is_on else {}

    def check(self, scene: Scene) -> None:
        if not scene.spec.continues_images:
            raise UserError(
                f"{self.title} is for DynamiCrafter, and {scene.spec.name} does not continue an image. Load "
                f"DynamiCrafter, or leave {self.title} out."
            )
        if self.camera.strip() and self.poses.strip():
            raise UserError("Both camera moves and camera poses were given; leave one of the two out.")
        if self.frame >= scene.frames:
            raise UserError(
                f"The frame of {self.title} is {self.frame}, but the clip has {scene.frames}, counted from 0. Choose "
                f"one from 0 to {scene.frames - 1}."
            )
        wrong = [side for side in (scene.width, scene.height) if side % self.multiple]
        if wrong:
            raise UserError(
                f"{self.title} works with widths and heights that are multiples of {self.multiple} pixels, but one is "
                f"{wrong[0]}. Change the size, for example to {scene.spec.defaults.width}x{scene.spec.defaults.height}."
            )
        self.path(scene.frames)

    def path(self, frames: int) -> Tensor | None:
        """1 f 4 4, the poses of a clip from camera to the world of the chosen frame; None without a camera. Raises
        UserError for a text that names no path."""
        if self.poses.strip():
            given = poses_of(self.poses, None)
        elif self.camera.strip():
            given = moved(moves_of(self.camera), frames)
        else:
            return None
        timing = Timing(
            share=self.share, ease=self.ease, ease_in=self.ease_in, ease_out=self.ease_out, back=self.there_and_back
        )
        return relative_poses(along(square(given.unflatten(1, (3, 4))), frames, timing)[None], self.frame, self.scale)

    def replaced(self, weights: nn.Module | None) -> Mapping[str, Tensor]:
        if not self.is_on:
            return {}
        assert isinstance(weights, CameraNetwork | MotionCtrlNetwork)
        return weights.changed.tensors

    def attach(self, scene: Scene, weights: nn.Module | None) -> Attachment:
        relative = self.path(scene.frames)
        if relative is None:
            return NOTHING
        assert weights is not None
        return Attachment(adapters=(self.adapter(scene, weights, relative),), terms=self.terms())

    def adapter(self, scene: Scene, weights: nn.Module, relative: Tensor) -> Adapter:
        """What follows a path 1 f 4 4."""
        raise TypeError(f"{type(self).__name__} has no adapter")

    def terms(self) -> tuple[Term, ...]:
        """The camera guidance: (guidance - 1) times the difference that the camera makes to the positive branch."""
        if self.guidance == 1:
            return ()
        without = replace(POSITIVE, without=frozenset({self.name}))
        return (Term(self.guidance - 1, POSITIVE, without, cosine if self.guidance_course == "cosine" else None),)


def cosine(timestep: Tensor) -> Tensor:
    """1 at the noisiest timestep, 0 at timestep 0."""
    return ((1 - timestep / LAST) * (math.pi / 2)).cos()


@dataclass(frozen=True, kw_only=True)
class CamI2V(ImageCamera):
    """Rays of the camera's pixels, and attention along epipolar lines; or with CameraCtrl's weights the rays alone."""

    name = camera_features.NAME
    title = "CamI2V"
    summary = "moves the camera through the scene of an image, with weights of CamI2V, RealCam-I2V or CameraCtrl"
    part = "cami2v"
    search = SEARCHED
    multiple = FINEST
    conflicts = dict.fromkeys((camera_features.NAME, "motionctrl_i2v", "motionctrl"), ONE_CAMERA)

    def check(self, scene: Scene) -> None:
        super().check(scene)
        if self.is_on and scene.at_once > POSE_FRAMES:
            raise UserError(
                f"{self.title} works with at most {POSE_FRAMES} frames at once, but the network would see "
                f"{scene.at_once}. Make the clip {POSE_FRAMES} frames long, or use a long-video method with windows "
                "of whole passes (windows, co_denoising)."
            )

    def adapter(self, scene: Scene, weights: nn.Module, relative: Tensor) -> Adapter:
        assert isinstance(weights, CameraNetwork)
        check_base(self.title, weights.projections, scene.spec)
        check_encoder(weights.pose_encoder.channels, scene.spec)
        lens = intrinsics(self.focal or assumed_focal(scene), scene.width, scene.height)
        rays = ray_map(relative, lens, scene.height, scene.width)
        features = RayFeatures(weights.pose_encoder, rays, weights.pose_encoder.frames)
        if not weights.attentions:
            return camera_features.CameraCtrl(features, weights.projections)
        noise = Noise(scene.seed).draw((1, scene.frames, scene.frames, 3, 1))
        lines = EpipolarLines(fundamental_matrices(relative, lens, noise), scene.height)
        unmasked = unmasked_heights(scene)
        return camera_features.CamI2V(features, weights.projections, weights.attentions, lines, unmasked=unmasked)


@dataclass(frozen=True, kw_only=True)
class MotionCtrlI2V(ImageCamera):
    """The poses themselves, by MotionCtrl's layers."""

    name = "motionctrl_i2v"
    title = "MotionCtrl I2V"
    summary = "moves the camera through the scene of an image, with CamI2V's authors' weights of MotionCtrl"
    models = "DynamiCrafter 256"
    part = "motionctrl"
    search = SEARCHED
    conflicts = dict.fromkeys(("motionctrl_i2v", "motionctrl"), ONE_CAMERA)

    def adapter(self, scene: Scene, weights: nn.Module, relative: Tensor) -> Adapter:
        assert isinstance(weights, MotionCtrlNetwork)
        check_base(self.title, weights.projections, scene.spec)
        return CameraPoses(weights.projections, pose_rows(relative).to(scene.device), owner=self.name)


POSE_FRAMES = 16
"""The most frames that the published pose encoders take."""


def assumed_focal(scene: Scene) -> float:
    """The focal length that the authors assume, in pixels; of an image of the clip's shape where its own is not
    known."""
    height, width = scene.image or (scene.height, scene.width)
    return focal_length(scene.width, scene.height, width, height)


def unmasked_heights(scene: Scene) -> tuple[int, ...]:
    """The heights of the feature maps in which all pixels see each other: the finest one of models of more than
    256 x 256 pixels, whose mask its authors left out."""
    trained = scene.spec.defaults
    return (scene.grid[0],) if trained.width * trained.height > 256 * 256 else ()


def check_base(title: str, layers: Mapping[str, nn.Module], spec: ModelSpec) -> None:
    """Raises UserError for layers of a network of another size."""
    unet = spec.unet
    own = {int(layer.out_features) for layer in layers.values()}  # type: ignore[arg-type]
    base = {mult * unet.model_channels for mult in unet.channel_mult} | {8 * unet.head_channels}
    if not own <= base:
        raise UserError(
            f"{title}'s layers are {', '.join(map(str, sorted(own)))} wide, but those of this model "
            f"{', '.join(map(str, sorted(base)))}: they belong to another model. The published files belong to "
            "DynamiCrafter."
        )


def check_encoder(channels: tuple[int, ...], spec: ModelSpec) -> None:
    """Raises UserError for a pose encoder whose levels are not those of the network."""
    wanted = tuple(mult * spec.unet.model_channels for mult in spec.unet.channel_mult)
    if channels[: len(wanted)] != wanted:
        raise UserError(
            f"The pose encoder's levels are {', '.join(map(str, channels))} wide, but those of this model "
            f"{', '.join(map(str, wanted))}: it belongs to another model."
        )
