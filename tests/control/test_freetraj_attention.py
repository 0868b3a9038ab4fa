"""FreeTraj's attention guidance against the definition with maps: several objects, parts, windows, shared passes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from network.test_adapters import FRAMES, HEIGHT, WIDTH, network
from network.tiny import TINY
from torch import Tensor

from golden_cases import relative_error
from vc_core.conditions import SINGLE, Conditioning, Evaluation
from vc_core.control.freetraj_attention import BoxAttention, Subject
from vc_core.control.freetraj_path import Path, object_map
from vc_core.errors import UserError
from vc_core.network.adapter import Adapter, Attend, Place
from vc_core.network.attention import join_heads, split_heads
from vc_core.network.call import Pass
from vc_core.network.unet import VideoUNet
from vc_core.specs import Windows

EXACT = 1e-5
GUIDED = Evaluation(step=0, steps=4)
PATHS = (
    Path(tuple((0.1 * frame, 0.05 * frame) for frame in range(FRAMES)), 0.5, 0.4),
    Path(tuple((0.5, 0.8 - 0.3 * frame) for frame in range(FRAMES)), 0.4, 0.5),  # leaves the image
)
SUBJECTS = [Subject(PATHS[0], (1,)), Subject(PATHS[1], (2, 4))]
TOKENS = 6


def inputs(clips: int = 2, conditionings: int = 1) -> tuple[Tensor, Tensor, Conditioning]:
    generator = torch.Generator().manual_seed(3)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    rows = clips * conditionings
    text = Conditioning(drawn(rows, TOKENS, 11), drawn(rows, FRAMES, 2, 11))
    return drawn(clips, 4, FRAMES, HEIGHT, WIDTH), torch.arange(1, clips + 1) * 300.0, text


class Defined(Adapter):
    """The same by its definition, from maps of probabilities; for whole clips without windows."""

    whole_frames = whole_pixels = True

    def attention(
        self, at: Place, attend: Attend, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        if at.attention == "image":
            return attend(q, k, v, mask)
        objects = object_map(PATHS, *at.grid)  # f h w
        over_time = at.attention != "spatial_self" and at.attention != "text"
        tokens = objects.flatten(1).T if over_time else objects.flatten(1)
        tokens = tokens.repeat(len(q) // len(tokens), 1)
        queries, keys, values = (split_heads(one, at.heads) for one in (q, k, v))
        logits = queries @ keys.transpose(-2, -1) * queries.shape[-1] ** -0.5
        if at.attention != "text":
            factor = torch.where(tokens[:, :, None] == tokens[:, None], 1.0, 0.01)
            return join_heads((logits * factor[:, None]).softmax(-1) @ values)
        logits[..., [1, 2, 4]] = float("-inf")
        logits = torch.where((tokens > 0)[:, None, :, None], 0.0, logits)
        weights = BoxAttention(SUBJECTS, steps=1).maps.weights(at, q)[:, None]  # rows 1 n 1
        probabilities = logits.softmax(-1).clone()
        for number, subject in enumerate(SUBJECTS, start=1):
            added = torch.zeros(TOKENS)
            added[list(subject.tokens)] = 1.0
            probabilities += torch.where((tokens == number)[:, None, :, None], weights * added, 0.0)
        return join_heads(probabilities @ values)


def guided(model: VideoUNet, given: Any, evaluation: Evaluation = GUIDED, **options: Any) -> Tensor:
    with torch.no_grad():
        return model(*given, Pass(evaluation, adapters=(BoxAttention(SUBJECTS, steps=2),), **options))


def defined(model: VideoUNet, given: Any) -> Tensor:
    with torch.no_grad():
        return model(*given, Pass(GUIDED, adapters=(Defined(),)))


def test_several_objects_are_those_of_the_definition_in_batches_and_in_parts() -> None:
    model, given = network(), inputs()
    expected = defined(model, given)
    assert relative_error(guided(model, given), expected) < EXACT
    model.budget.values = 1000
    assert relative_error(guided(model, given), expected) < EXACT


def test_conditionings_that_share_a_pass_are_guided_alike() -> None:
    model = network()
    x, when, both = inputs(1, conditionings=2)
    assert both.image is not None
    apart = [Conditioning(both.text[i : i + 1], both.image[i : i + 1]) for i in range(2)]
    expected = torch.cat([guided(model, (x, when, one)) for one in apart])
    assert relative_error(guided(model, (x, when, both)), expected) < EXACT


def test_relative_positions_are_part_of_the_logits() -> None:
    """With a table of zeros they are nothing, and the network is the one without."""
    torch.manual_seed(2)
    model = network(relative_position=True)
    for name, one in model.named_parameters():
        if "embeddings_table" in name:
            one.data.zero_()
    plain = VideoUNet(replace(TINY, image_attention=True)).eval().requires_grad_(False)
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if "relative_position" not in k})
    assert relative_error(guided(model, inputs()), guided(plain, inputs())) < EXACT
    model.budget.values = 1000
    assert relative_error(guided(model, inputs()), guided(plain, inputs())) < EXACT


@pytest.mark.parametrize("relative", [False, True], ids=["plain", "relative"])
def test_windows_of_frames_are_guided_by_their_own_boxes(relative: bool) -> None:
    """A window as long as the clip is the clip; a pass of some frames has their boxes."""
    model, given = network(relative_position=relative), inputs(1)
    whole = guided(model, given)
    x, when, text = given
    window = (1, 2, 3)
    assert text.image is not None
    cut = (x[:, :, 1:4], when, Conditioning(text.text, text.image[:, 1:4]))
    shorter = [Subject(replace(one.path, corners=one.path.corners[1:4]), one.tokens) for one in SUBJECTS]
    with torch.no_grad():
        expected = model(*cut, Pass(GUIDED, adapters=(BoxAttention(shorter, steps=2),)))
    assert torch.equal(guided(model, cut, replace(GUIDED, window=window)), expected)
    windows = Windows(size=3, stride=1)
    spans: set[Any] = set()

    class Spans(Adapter):
        def attention(
            self, at: Place, attend: Attend, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None
        ) -> Tensor:
            spans.add(None if at.span is None else (at.span.start, at.span.stop))
            return attend(q, k, v, mask)

    with torch.no_grad():
        model(*given, Pass(GUIDED, windows, (Spans(), BoxAttention(SUBJECTS, steps=2))))
    assert spans == {None, *windows.spans(FRAMES)}
    assert relative_error(guided(model, given, windows=windows), whole) > 1e-3


@pytest.mark.parametrize("evaluation", [SINGLE, Evaluation(step=2, steps=4)], ids=["no step", "later step"])
def test_other_steps_are_bit_equal_to_the_base(evaluation: Evaluation) -> None:
    model, given = network(), inputs()
    with torch.no_grad():
        plain = model(*given, Pass(evaluation))
    assert torch.equal(guided(model, given, evaluation), plain)
    assert not torch.equal(guided(model, given), plain)


def test_a_path_or_words_that_do_not_fit_are_refused() -> None:
    model = network()
    x, when, text = inputs(1)
    shorter = (x[:, :, :3], when, Conditioning(text.text, None))
    with pytest.raises(UserError, match=r"a path for 5 frames, but the clip has 3. Make the path for"):
        guided(model, shorter)
    few = Conditioning(text.text[:, :3], None)
    with pytest.raises(UserError, match=r"words up to token 4 of the prompt, but the text has 3 tokens. Name words"):
        guided(model, (x, when, few))
