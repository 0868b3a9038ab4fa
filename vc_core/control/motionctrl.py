"""MotionCtrl (arXiv:2312.03641): camera poses and object trajectories for VideoCrafter."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ..errors import UserError
from ..network.adapter import Adapter
from ..network.adapters.motionctrl import CameraPoses, MotionCtrlNetwork, TrajectoryFeatures
from ..parameters import Kind, about
from ..specs import UNetSpec
from .attachment import NOTHING, Attachment, Scene
from .camera import MOVES_HELP, moved, moves_of, poses_of
from .control import WeightedControl
from .flow import flow_map
from .tracks import TRACKS_HELP, Track, every, for_frames, on_canvas, tracks_of

log = logging.getLogger(__name__)

TRAINED = 256
"""Width and height, in pixels, of the clips that the trajectory encoder was trained on."""
INIT_HEADS = 8


@dataclass(frozen=True, kw_only=True)
class MotionCtrl(WeightedControl):
    """Moves the camera along poses, and objects along tracks."""

    name = "motionctrl"
    title = "MotionCtrl"
    summary = "moves the camera, and moves objects along tracks"
    use = "camera moves (pan, zoom, roll, poses of a file), and objects that follow a drawn track"
    models = "MotionCtrl's own model (camera and tracks), VideoCrafter2 (camera)"
    part = "motionctrl"
    search = ("camera", "pan", "zoom", "roll", "trajectory", "drag", "motion control", "pose")

    camera: str = field(default="", metadata=about(MOVES_HELP))
    speed: float = field(
        default=1.0, metadata=about("of all camera moves; MotionCtrl's demo offers 0 to 2", low=0, high=10)
    )
    poses: str = field(
        default="",
        metadata=about(
            "camera poses in place of named moves, 12 numbers for each frame, the rows of a 3x4 matrix from world to "
            "camera: MotionCtrl's JSON, a RealEstate10K file, or plain numbers",
            kind=Kind.DOCUMENT,
        ),
    )
    tracks: str = field(default="", metadata=about(TRACKS_HELP, kind=Kind.TRACKS))
    canvas: int = field(
        default=0,
        metadata=about(
            "width in pixels of the image that the tracks were drawn on; 0 is that of the video", low=0, high=16384
        ),
    )
    strength: float = field(default=1.0, metadata=about("how much both count: 1 as trained, 0 is off", low=0, high=2))
    tracks_until: float = field(
        default=800.0,
        metadata=about(
            "the lowest timestep at which tracks act, 0 to 999; lower values follow them more closely and look less "
            "natural (without guidance, at cfg 1, they act in all steps)",
            low=0,
            high=999,
        ),
    )

    conflicts = {"motionctrl": "one MotionCtrl moves both the camera and all objects"}

    def check(self, scene: Scene) -> None:
        if scene.spec.needs_image:
            raise UserError(
                f"MotionCtrl is for VideoCrafter's text-to-video models, and {scene.spec.name} makes videos from an "
                "image. Load motionctrl.pth or VideoCrafter2, or leave MotionCtrl out."
            )
        if self.camera.strip() and self.poses.strip():
            raise UserError("Both camera moves and camera poses were given; leave one of the two out.")
        self.poses_for(scene.frames)
        self.tracks_for(scene)

    def poses_for(self, frames: int) -> Tensor | None:
        """Poses f 12 of a clip; None where the camera is not controlled. Raises UserError for another number."""
        if self.poses.strip():
            poses = poses_of(self.poses, self.speed)
            if len(poses) != frames:
                raise UserError(
                    f"There are camera poses for {len(poses)} frames, but the clip has {frames}. Give one pose for "
                    "each frame."
                )
            return poses
        return moved(moves_of(self.camera), frames, self.speed) if self.camera.strip() else None

    def tracks_for(self, scene: Scene) -> list[Track]:
        """The tracks with a point for each frame, at whole pixels of the video."""
        found = tracks_of(self.tracks)
        if not self.tracks.lstrip().startswith("["):
            found = [every(track, scene.frames) for track in found]
        canvas = self.canvas or scene.width
        return on_canvas([for_frames(track, scene.frames) for track in found], canvas=canvas, width=scene.width)

    def attach(self, scene: Scene, weights: nn.Module | None) -> Attachment:
        assert isinstance(weights, MotionCtrlNetwork)
        poses, tracks = self.poses_for(scene.frames), self.tracks_for(scene)
        if not self.strength or (poses is None and not tracks):
            return NOTHING
        check_base(weights, scene.spec.unet)
        adapters: list[Adapter] = []
        if poses is not None:
            adapters.append(CameraPoses(weights.projections, poses[None].to(scene.device), strength=self.strength))
        if tracks:
            flow = flow_map(tracks, scene.frames, scene.height, scene.width)
            adapters.append(self.trajectories(scene, weights, flow[None]))
        return Attachment(adapters=tuple(adapters))

    def trajectories(self, scene: Scene, weights: MotionCtrlNetwork, flow: Tensor) -> TrajectoryFeatures:
        """The adapter for a flow map 1 2 f h w. Negative passes get the features of a map without motion. Raises
        UserError for weights without a trajectory encoder."""
        if weights.omcm is None:
            raise UserError(
                "This file has MotionCtrl's layers for the camera, but none for tracks. Give motionctrl.pth, or leave "
                "the tracks out."
            )
        if (scene.height, scene.width) != (TRAINED, TRAINED):
            log.warning(
                "MotionCtrl learned tracks at %dx%d pixels; at %dx%d objects may not follow them.",
                TRAINED,
                TRAINED,
                scene.width,
                scene.height,
            )
        with torch.inference_mode():
            moving = self._features(weights.omcm, flow, scene)
            still = self._features(weights.omcm, torch.zeros_like(flow[:, :, :1]), scene)
        blocks = last_blocks(scene.spec.unet)
        return TrajectoryFeatures(moving, blocks, still=still, until=self.tracks_until if scene.guided else 0.0)

    def _features(self, encoder: nn.Module, flow: Tensor, scene: Scene) -> list[Tensor]:
        maps: list[Tensor] = encoder(flow.to(scene.device, scene.dtype))
        return [self.strength * each for each in maps] if self.strength != 1 else maps


def last_blocks(spec: UNetSpec) -> list[int]:
    """The number of the last encoder block of each level."""
    each = spec.num_res_blocks + 1
    return [level * each + spec.num_res_blocks for level in range(len(spec.channel_mult))]


def check_base(weights: MotionCtrlNetwork, spec: UNetSpec) -> None:
    """Raises UserError for weights of a network of another size."""
    own = {int(layer.out_features) for layer in weights.projections.values()}  # type: ignore[arg-type]
    base = {mult * spec.model_channels for mult in spec.channel_mult} | {INIT_HEADS * spec.head_channels}
    if not own <= base:
        raise UserError(
            f"MotionCtrl's layers are {', '.join(map(str, sorted(own)))} wide, but those of this model "
            f"{', '.join(map(str, sorted(base)))}: they belong to another model. The published files belong to "
            "VideoCrafter2 and to MotionCtrl's own model."
        )
