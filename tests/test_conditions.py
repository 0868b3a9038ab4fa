"""What each field of a conditioning is, and what is derived from that."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace

import pytest
import torch
from torch import Tensor

from vc_core.conditions import ROLE, Branch, Conditioning, Evaluation, Role, roles

FRAMES = 5


@dataclass(frozen=True, eq=False)
class Posed(Conditioning):
    """With a field that vc_core does not know: a camera pose for each frame, b f 12, which passes may differ in."""

    pose: Tensor | None = field(
        default=None,
        metadata={ROLE: Role(label="camera pose", joined=True, cast=False, frame_axis=1, ndim=3)},
    )


def posed(value: float, clips: int = 2) -> Posed:
    frames = torch.arange(FRAMES, dtype=torch.float32)
    return Posed(
        text=torch.full((clips, 3, 4), value),
        image=value + frames.view(1, FRAMES, 1, 1).expand(clips, FRAMES, 2, 4),
        fps=torch.full((clips,), 8.0),
        concat=frames.view(1, 1, FRAMES, 1, 1).expand(clips, 4, FRAMES, 2, 3),
        pose=value + frames.view(1, FRAMES, 1).expand(clips, FRAMES, 12),
    )


def test_every_field_states_its_role() -> None:
    assert set(roles(Conditioning)) == {one.name for one in fields(Conditioning)}
    assert len({role.label for role in roles(Conditioning).values()}) == len(fields(Conditioning))


def test_a_field_without_a_role_is_an_error() -> None:
    @dataclass(frozen=True, eq=False)
    class Silent(Conditioning):
        depth: Tensor | None = None

    with pytest.raises(TypeError, match="Silent does not state how depth should be joined"):
        Silent(text=torch.zeros(1, 2, 3)).tensors()


def test_a_new_field_is_cut_to_a_window_with_the_others() -> None:
    part = posed(0.0).of_frames([4, 1], FRAMES)
    assert isinstance(part, Posed)
    assert part.pose is not None
    assert part.image is not None
    assert part.concat is not None
    assert (
        part.pose[0, :, 0].tolist() == part.image[0, :, 0, 0].tolist() == part.concat[0, 0, :, 0, 0].tolist() == [4, 1]
    )
    whole = posed(0.0)
    assert whole.of_frames([0], FRAMES).text.shape == whole.text.shape


def test_tokens_for_all_frames_are_not_cut_even_where_there_are_as_many_as_frames() -> None:
    text = torch.randn(1, FRAMES, 4)
    assert Conditioning(text=text).of_frames([0, 1], FRAMES).text is text
    per_frame = torch.randn(1, FRAMES + 1, 3, 4)
    assert Conditioning(text=per_frame).of_frames([0, 1], FRAMES).text is per_frame


def test_a_new_field_is_joined_with_the_others() -> None:
    first, second = posed(1.0), posed(2.0)
    both = Conditioning.joined([first, second])
    assert isinstance(both, Posed)
    for name in ("text", "image", "pose"):
        assert torch.equal(getattr(both, name), torch.cat([getattr(first, name), getattr(second, name)])), name
    assert both.concat is first.concat
    assert both.fps is first.fps


@pytest.mark.parametrize(
    "other",
    [
        {"fps": torch.full((2,), 9.0)},
        {"fps": None},
        {"concat": torch.zeros(2, 4, FRAMES, 2, 3)},
        {"pose": None},
        {"image": torch.zeros(2, 7, 4)},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_conditionings_that_differ_otherwise_are_not_joined(other: dict[str, Tensor | None]) -> None:
    assert Conditioning.joined([posed(1.0), replace(posed(2.0), **other)]) is None


def test_a_new_field_takes_the_type_that_its_role_says() -> None:
    half = posed(1.0).to(dtype=torch.float16)
    assert isinstance(half, Posed)
    found = {name: tensor.dtype for name, tensor in half.tensors().items()}
    assert found == {
        "text": torch.float16,
        "image": torch.float16,
        "fps": torch.float32,
        "concat": torch.float16,
        "pose": torch.float32,
    }
    same = posed(1.0)
    assert same.to(dtype=torch.float32).text is same.text, "nothing is copied that need not be"
    assert posed(1.0).to(device="meta").text.device.type == "meta"


def test_clips_of_their_own_become_a_batch() -> None:
    batch = Conditioning.batched([posed(1.0, clips=1), replace(posed(2.0, clips=1), fps=torch.tensor([9.0]))])
    assert isinstance(batch, Posed)
    assert batch.fps is not None
    assert batch.pose is not None
    assert batch.fps.tolist() == [8.0, 9.0]
    assert batch.text[:, 0, 0].tolist() == batch.pose[:, 0, 0].tolist() == [1.0, 2.0]
    assert batch.motion is None


def test_an_evaluation_is_recognized_in_the_next_step() -> None:
    here = Evaluation(step=3, steps=10, window=(0, 1))
    assert here.left == 6
    assert here.key == replace(here, step=4).key
    assert here.key != replace(here, window=(1, 2)).key
    assert here.key != replace(here, branches=(Branch("positive", temporal=False),)).key
    assert Evaluation().left is None
