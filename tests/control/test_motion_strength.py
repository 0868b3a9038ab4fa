"""Motion Strength: its record, and whole runs in the pipeline."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from small_models import CONTINUING_MODEL, RELATIVE_MODEL, TEXT_MODEL, save
from torch import Tensor

from vc_core.control import MotionStrength, Scene
from vc_core.control.table import check
from vc_core.denoising import Sampling
from vc_core.denoising.windows import ContextWindows
from vc_core.errors import UserError
from vc_core.features import Feature, uses_of_controls
from vc_core.network.adapters.motion import CrossFrameEnhancement, TemporalStrength
from vc_core.pipeline import VideoCrafter
from vc_core.request import Request
from vc_core.specs import ModelSpec, Windows

REQUEST = Request(width=32, height=24, frames=4, seed=3, sampling=Sampling(steps=2, eta=0.0), cfg=5.0)
SCENE = Scene(spec=TEXT_MODEL, frames=4, width=32, height=24, steps=4, cfg=5.0)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, VideoCrafter]:
    folder = tmp_path_factory.mktemp("models")
    specs: dict[str, ModelSpec] = {"text": TEXT_MODEL, "relative": RELATIVE_MODEL, "continuing": CONTINUING_MODEL}
    return {name: VideoCrafter.load(save(spec, folder / f"{name}.safetensors")) for name, spec in specs.items()}


def made(model: VideoCrafter, control: MotionStrength | None = None, **changes: Any) -> Tensor:
    image = torch.rand(24, 32, 3, generator=torch.Generator().manual_seed(1))
    given = image if model.parts.spec.needs_image else None
    return model.generate(
        "a boat", given, request=replace(REQUEST, **changes), controls=() if control is None else (control,)
    )


@pytest.mark.parametrize("kind", ["text", "relative", "continuing"])
def test_a_strength_of_one_is_bit_equal_and_others_change_the_video(models: dict[str, VideoCrafter], kind: str) -> None:
    model = models[kind]
    plain = made(model)
    for nothing in (
        MotionStrength(),
        MotionStrength(levels="1, 1", over_time="1, 1"),
        MotionStrength(strength=0.0, mask=torch.zeros(1, 8, 8)),
        MotionStrength(strength=1.0, mask=torch.rand(1, 8, 8)),
    ):
        assert torch.equal(made(model, nothing), plain)
    found = [
        made(model, control)
        for control in (
            MotionStrength(strength=0.0),
            MotionStrength(temperature=8.0),
            MotionStrength(decoder=0.5),
            MotionStrength(levels="1, 0.5"),
            MotionStrength(over_time="0, 2"),
            MotionStrength(strength=0.0, mask=torch.eye(8)[None]),
        )
    ]
    assert all(not torch.equal(one, other) for i, one in enumerate(found) for other in (plain, *found[:i]))
    assert torch.equal(made(model), plain)


@pytest.mark.parametrize(
    "long",
    [{"windows": Windows(size=4, stride=2)}, {"context": ContextWindows(size=4, stride=2)}],
    ids=["inside", "whole"],
)
def test_factors_over_time_are_those_of_the_whole_clip(models: dict[str, VideoCrafter], long: dict[str, Any]) -> None:
    """A factor of 1 in all frames but the last changes what the windows around it make, and bit for bit no other."""
    model = models["text"]
    latents = []
    for over_time in ("", "1,1,1,1,1,1,1,0.2"):
        request = replace(REQUEST, frames=8, sampling=Sampling(steps=1, eta=0.0), cfg=1.0, **long)
        *_, last = model.steps("a boat", request=replace(request, controls=(MotionStrength(over_time=over_time),)))
        latents.append(last.x)
    changed = (latents[0] != latents[1]).any(dim=1)[0].flatten(1).any(1)
    assert changed[-1]
    if "context" in long:
        assert not changed[:4].any()


def test_the_record_says_what_it_adds() -> None:
    kinds = [type(adapter) for adapter in MotionStrength(strength=0.5, temperature=2.0).attach(SCENE, None).adapters]
    assert kinds == [TemporalStrength, CrossFrameEnhancement]
    assert MotionStrength(mask=torch.rand(1, 8, 8)).attach(SCENE, None).adapters == ()
    strengths = MotionStrength(over_time="0, 1, 0", levels="2,0.5").strengths(SCENE)
    assert strengths.frames is not None
    assert torch.allclose(strengths.frames, torch.tensor([0, 2 / 3, 2 / 3, 0]))
    assert tuple(strengths.levels) == (2, 0.5)
    half = MotionStrength(over_time="0.5").strengths(SCENE).frames
    assert half is not None
    assert half.tolist() == [0.5] * 4


def test_only_values_for_frames_make_it_one_with_values_for_frames() -> None:
    still = (MotionStrength(strength=0.5, mask=torch.ones(1, 8, 8)), MotionStrength(temperature=2))
    timed = (MotionStrength(over_time="0, 1"), MotionStrength(mask=torch.ones(4, 8, 8)))
    assert not uses_of_controls(still)
    for control in timed:
        assert Feature.TIMED_CONTROL in uses_of_controls([control])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"levels": "1, a"}, "levels of Motion Strength are '1, a'; give numbers separated by commas"),
        ({"levels": "1, 1, 1, 1, 1"}, "levels of Motion Strength are 5, but .* has"),
        ({"over_time": "1, 9"}, "over_time of Motion Strength have 9; each should be 0 to 4"),
        ({"over_time": "nan"}, "have nan"),
        ({"mask": torch.ones(3, 8, 8)}, "has 3 frames, but the clip has 4"),
        ({"strength": 5.0}, "strength of Motion Strength is 5; it should be 0 to 4"),
        ({"temperature": -1.0}, "temperature of Motion Strength is -1"),
    ],
    ids=lambda value: str(next(iter(value))) if isinstance(value, dict) else "",
)
def test_what_does_not_fit_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check([MotionStrength(**given)], SCENE, {})
