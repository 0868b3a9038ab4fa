"""Camera poses: named moves, and lists of numbers. A pose is the rows of a 3 x 4 matrix [R | T] from world to camera,
12 numbers; those of a clip are f 12."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import UserError
from ..json_text import parse

POSE = 12
DISTANCE = 1.5
"""How far a move at speed 1 goes."""
ANGLE = math.pi / 3
"""How far a roll at speed 1 turns, in radians."""
DEPTH_SCALE = (1.5, 1.0, 1.3)
"""What the translations of plain numbers are multiplied by, for x, y and z, as MotionCtrl's demo does."""


@dataclass(frozen=True)
class Move:
    """Directions of translation and of rotation about x, y and z."""

    shift: tuple[float, float, float] = (0.0, 0.0, 0.0)
    turn: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def __add__(self, other: Move) -> Move:
        """Both at once."""
        return Move(_sum(self.shift, other.shift), _sum(self.turn, other.turn))

    def __mul__(self, speed: float) -> Move:
        """The move at another speed."""
        return Move(_times(self.shift, speed), _times(self.turn, speed))


MOVES = {
    "pan up": Move(shift=(0.0, 1.0, 0.0)),
    "pan down": Move(shift=(0.0, -1.0, 0.0)),
    "pan left": Move(shift=(1.0, 0.0, 0.0)),
    "pan right": Move(shift=(-1.0, 0.0, 0.0)),
    "zoom in": Move(shift=(0.0, 0.0, -2.0)),
    "zoom out": Move(shift=(0.0, 0.0, 2.0)),
    "roll clockwise": Move(turn=(0.0, 0.0, -1.0)),
    "roll counterclockwise": Move(turn=(0.0, 0.0, 1.0)),
    "still": Move(),
}
"""By their names. The camera moves: panning left shows what lies to the left."""

MOVES_HELP = (
    f"moves of the camera: {', '.join(MOVES)}. + joins moves that happen at once, a comma those that follow one "
    "another, and a number behind a move is its speed: 'pan left 0.5 + zoom in, still'"
)


def moves_of(text: str) -> list[Move]:
    """The moves that a text names, one after the other; each may be several at once. Raises UserError for others."""
    return [_joined(part) for part in re.split(r",|\bthen\b", text.lower())]


def _joined(text: str) -> Move:
    """The moves of one stretch of the clip."""
    total = Move()
    for part in re.split(r"\+|\band\b", text):
        match = re.fullmatch(r"\s*([a-z][a-z ]*?)\s*(\d*\.?\d+)?\s*", part)
        if match is None or match[1] not in MOVES:
            raise UserError(
                f"There is no camera move {part.strip()!r}. Choose from {', '.join(MOVES)}; join moves with + where "
                "they happen at once, and with a comma where they follow one another."
            )
        total = total + MOVES[match[1]] * float(match[2] or 1)
    return total


def moved(moves: Sequence[Move], frames: int, speed: float = 1.0) -> Tensor:
    """Poses f 12 of moves that share the clip's frames, each from where the one before has ended."""
    ends = [number * frames // len(moves) for number in range(len(moves) + 1)]
    poses: list[Tensor] = []
    for move, first, last in zip(moves, ends[:-1], ends[1:], strict=True):
        before = poses[-1] if poses else None
        for place in range(last - first):
            pose = _pose(move, speed * place / (last - first))
            poses.append(pose if before is None else _behind(before, pose))
    return torch.stack(poses).flatten(1).float()


def _pose(move: Move, share: float) -> Tensor:
    """3 4, [R | T] of a share of a move; R = Rz Ry Rx."""
    x, y, z = (share * ANGLE * turn for turn in move.turn)
    rotation = torch.eye(3, dtype=torch.float64)
    for axis, angle in ((2, z), (1, y), (0, x)):
        rotation = rotation @ _about(axis, angle)
    shift = torch.tensor([share * DISTANCE * each for each in move.shift], dtype=torch.float64)
    return torch.cat([rotation, shift[:, None]], dim=1)


def _about(axis: int, angle: float) -> Tensor:
    """3 3, the rotation about an axis."""
    a, b = (axis + 1) % 3, (axis + 2) % 3
    out = torch.eye(3, dtype=torch.float64)
    out[a, a] = out[b, b] = math.cos(angle)
    out[a, b], out[b, a] = -math.sin(angle), math.sin(angle)
    return out


def _behind(before: Tensor, pose: Tensor) -> Tensor:
    """A pose 3 4 of a move that begins where `before` has ended."""
    rotation = pose[:, :3] @ before[:, :3]
    shift = pose[:, 3] + rotation @ before[:, :3].T @ before[:, 3]
    return torch.cat([rotation, shift[:, None]], dim=1)


def poses_of(text: str, speed: float | None = 1.0) -> Tensor:
    """Poses f 12 as a text lists them.

    A JSON list of lists of 12 numbers (MotionCtrl's files), and a RealEstate10K file, which has 19 numbers in a line,
    the last 12 of which are the pose, are used as they are. Plain numbers, 12 for each frame, have their translations
    scaled by `speed` as in MotionCtrl's demo; None uses them as they are too. Raises UserError for anything else.
    """
    stripped = text.strip()
    if stripped.startswith("["):
        return _checked(_from_json(stripped))
    records = _records(stripped)
    if records:
        return _checked(records)
    numbers = _numbers(re.split(r"[\s,;]+", stripped))
    if not numbers or len(numbers) % POSE:
        raise UserError(f"{len(numbers)} numbers were given as camera poses; give {POSE} for each frame.")
    poses = _checked([numbers[place : place + POSE] for place in range(0, len(numbers), POSE)])
    return poses if speed is None else scaled(poses, speed)


def _records(text: str) -> list[list[float]]:
    """The poses of a RealEstate10K file; none where the text is something else."""
    lines = [line.split() for line in text.splitlines() if line.strip() and not line.startswith("http")]
    return [_numbers(line)[-POSE:] for line in lines] if all(len(line) == RECORD for line in lines) else []


RECORD = 19
"""Numbers in a line of RealEstate10K: the time, 6 of the lens, and the pose."""


def scaled(poses: Tensor, speed: float) -> Tensor:
    """Poses f 12 with their translations scaled as in MotionCtrl's demo."""
    rows = poses.unflatten(1, (3, 4)).clone()
    rows[:, :, 3] *= speed * torch.tensor(DEPTH_SCALE)
    return rows.flatten(1)


def _from_json(text: str) -> list[list[float]]:
    try:
        found = parse(text)
        return [[float(number) for number in pose] for pose in found]
    except (ValueError, TypeError, OverflowError) as error:
        raise UserError(f"The camera poses are not a JSON list of lists of {POSE} numbers: {error}.") from error


def _numbers(words: Sequence[str]) -> list[float]:
    try:
        return [float(word) for word in words if word]
    except ValueError as error:
        raise UserError(f"The camera poses should be numbers, {POSE} for each frame: {error}.") from error


def _checked(poses: list[list[float]]) -> Tensor:
    wrong = [len(pose) for pose in poses if len(pose) != POSE]
    if wrong or not poses:
        given = f"one has {wrong[0]}" if wrong else "there are none"
        raise UserError(f"Camera poses should have {POSE} numbers each, the rows of a 3x4 matrix, but {given}.")
    found = torch.tensor(poses)
    if not bool(found.isfinite().all()):
        raise UserError("The camera poses hold NaN or infinite values.")
    return found


def _sum(a: tuple[float, float, float], b: tuple[float, float, float]) -> tuple[float, float, float]:
    return a[0] + b[0], a[1] + b[1], a[2] + b[2]


def _times(a: tuple[float, float, float], factor: float) -> tuple[float, float, float]:
    return a[0] * factor, a[1] * factor, a[2] * factor
