"""Every control with what else a video may use, and with the other controls: it works, or is refused with the reason.

Where it works, both act, and a control without effect leaves the run bit-equal. The table of what works with what is in
`combining`; `docs/control.md` shows it.
"""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from control.combining import (
    BASES,
    COMPANIONS,
    EXAMPLES,
    FRAMES,
    IMAGE,
    PROMPT,
    Companion,
    bases_of,
    control_of,
    lacks,
    markdown,
    pairs,
    reason_against,
    reason_against_both,
    shared_bases,
)
from control.running import REQUEST, Bench, Chosen
from torch import Tensor

from vc_core.conditions import POSITIVE, Conditioning, Evaluation
from vc_core.control import CONTROLS
from vc_core.denoising.denoiser import Estimate
from vc_core.denoising.draft import Opening
from vc_core.errors import UserError
from vc_core.pipeline import VideoCrafter
from vc_core.specs import Windows

DOCS = Path(__file__).parents[2] / "docs" / "control.md"
ROUNDING = 1e-5
CONCAT = torch.randn(1, 4, FRAMES, 8, 8, generator=torch.Generator().manual_seed(7))


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("combinations"))


def differs(one: Tensor, other: Tensor) -> bool:
    """By more than float32 rounds."""
    assert bool(one.isfinite().all())
    return one.shape != other.shape or float((one - other).norm() / other.norm()) > ROUNDING


def test_every_control_says_what_it_is_tried_with() -> None:
    """A new control needs an entry in the table of examples, and appears in the matrix by it."""
    assert set(EXAMPLES) == set(CONTROLS)
    for name in CONTROLS:
        assert bases_of(name), f"{name} works on no small model of combining.BASES"


CELLS = [(name, companion) for name in EXAMPLES for companion in COMPANIONS if not lacks(name, companion)]


@pytest.mark.parametrize(("name", "companion"), CELLS, ids=lambda each: each.replace(" ", "_"))
def test_a_control_works_with_a_companion_or_is_refused(bench: Bench, name: str, companion: str) -> None:
    wanted = replace(COMPANIONS[companion], always=EXAMPLES[name].given)
    base = next(each for each in bases_of(name) if each in wanted.bases)
    for how in ("active", "timed") if EXAMPLES[name].timed else ("active",):
        reason = reason_against(name, companion, timed=how == "timed")
        if how == "timed" and reason is None:
            continue
        if reason is not None:
            setting = {**wanted.setting, **EXAMPLES[name].refused.get(companion, ({}, ""))[0]}
            with pytest.raises(UserError, match=re.escape(reason)):
                bench.made(base, (bench.control(base, name, how),), replace(wanted, setting=setting))
            continue
        both = bench.run(base, ((name, how),), wanted)
        assert differs(both, bench.run(base, (), wanted)), "the control has no effect"
        if "strength" not in wanted.always or "strength" not in wanted.given:  # otherwise it has a video in any case
            assert differs(both, bench.run(base, ((name, how),), wanted, on=False)), "the companion has no effect"
    if reason_against(name, companion) is None and not (wanted.method or wanted.setting):
        assert torch.equal(bench.run(base, ((name, "neutral"),), wanted), bench.run(base, (), wanted))


@pytest.mark.parametrize(("one", "other"), pairs(), ids=lambda each: each)
def test_two_controls_work_together_or_are_refused(bench: Bench, one: str, other: str) -> None:
    reason, bases = reason_against_both(one, other), shared_bases(one, other)
    if not bases:
        return check_other_models(one, other)
    both: Chosen = ((one, "active"), (other, "active"))
    alone = Companion(always={**EXAMPLES[one].given, **EXAMPLES[other].given})
    if reason is not None:
        with pytest.raises(UserError, match=re.escape(reason)):
            bench.run(bases[0], both, alone)
        return None
    made = bench.run(bases[0], both, alone)
    assert differs(made, bench.run(bases[0], both[:1], alone))
    if one != other:
        assert differs(made, bench.run(bases[0], both[1:], alone))
        assert torch.equal(
            bench.run(bases[0], (both[0], (other, "neutral")), alone), bench.run(bases[0], both[:1], alone)
        )
        assert torch.equal(
            bench.run(bases[0], ((one, "neutral"), both[1]), alone), bench.run(bases[0], both[1:], alone)
        )
    return None


def check_other_models(one: str, other: str) -> None:
    """Whatever model is loaded, one of the two says that it is for another."""
    for key, base in BASES.items():
        strangers = [name for name in (one, other) if key not in bases_of(name)]
        with pytest.raises(UserError, match=base.spec.name):
            control_of(strangers[0]).check(base.scene)


def opening(crafter: VideoCrafter, clips: Tensor) -> Opening:
    """A run that begins in the middle of the schedule, from a video."""
    schedule = crafter.parts.schedule
    estimated = {"denoise": lambda x, level: Estimate(x0=x / 2, eps=x / 3), "schedule": schedule}
    return Opening(**estimated, first=schedule.level(900), video=clips.flip(0))


@pytest.mark.parametrize("name", EXAMPLES)
def test_several_clips_at_once_are_those_of_each_alone(bench: Bench, name: str) -> None:
    base = bases_of(name)[0]
    crafter, size = bench.crafter(base), BASES[base].size
    request = replace(REQUEST, width=size, height=size, controls=(bench.control(base, name),))
    settings, image = request.settle(BASES[base].spec), IMAGE if base == "continuing" else None
    given = crafter.conditionings((PROMPT,), image, request, settings, CONCAT if image is not None else None)
    steered, attachment = crafter.controlled((PROMPT,), request, settings, given)
    clips = torch.randn(2, 4, FRAMES, size // 8, size // 8, generator=torch.Generator().manual_seed(8))

    def predicted(x: Tensor) -> Tensor:
        conditioning = Conditioning.batched([given["positive"]] * len(x))
        evaluation = Evaluation(branches=(POSITIVE,), step=0)
        timesteps = torch.full((len(x),), 900.0)
        return steered.predict(x, timesteps, conditioning, evaluation, adapters=steered.adapters)

    with torch.inference_mode():
        alone = torch.cat([predicted(clip[None]) for clip in clips])
        torch.testing.assert_close(predicted(clips), alone, atol=1e-4, rtol=1e-4)
        acts = any(adapter.acts(Evaluation(branches=(POSITIVE,), step=0)) for adapter in attachment.adapters)
        assert differs(alone[:1], crafter.predict(clips[:1], torch.tensor([900.0]), given["positive"])) == acts
        begin = attachment.begin(seed=3)
        assert acts or attachment.terms or begin is not None
        if begin is not None:
            changed = begin(clips, lambda: opening(crafter, clips))
            assert changed.shape == clips.shape
            assert differs(changed, clips)


def test_a_lora_with_freetraj_and_freenoise(bench: Bench) -> None:
    """Each of the three counts."""
    windows = {"frames": 5, "windows": Windows(size=3, stride=2)}
    whole = Companion(change=windows, given={"lora": True})
    made = bench.run("text", (("freetraj", "active"),), whole)
    without = (
        bench.run("text", (), whole),
        bench.run("text", (("freetraj", "active"),), Companion(change=windows)),
        bench.run("text", (("freetraj", "active"),), Companion(change={"frames": 5}, given={"lora": True})),
    )
    assert all(differs(made, each) for each in without)
    assert torch.equal(bench.run("text", (("freetraj", "neutral"),), whole), without[0])


def test_the_documentation_has_the_matrix() -> None:
    text = DOCS.read_text(encoding="utf-8")
    start, end = "<!-- combinations -->\n", "\n<!-- end of combinations -->"
    before, _, rest = text.partition(start)
    found, ended, after = rest.partition(end)
    assert ended
    if os.environ.get("VC_WRITE_COMBINATIONS"):
        DOCS.write_text(f"{before}{start}{markdown()}{end}{after}", encoding="utf-8")
    else:
        assert found == markdown(), "write it with VC_WRITE_COMBINATIONS=1"
