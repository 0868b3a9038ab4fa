"""How the storybook's training computes its networks: against `VideoUNet`, with kernels, and with compiled blocks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from small_storybook import SMALL
from torch import Tensor

from run import ROOT
from training.storybook.compiling import KINDS, check_kernels, drawn, kernels_of, try_compiled
from training.storybook.forward import Blocks, Forward, activated
from training.storybook.gallery import Gallery
from training.storybook.lessons import VideoBatches, VideoLesson
from training.storybook.networks import ImageBranch, Network
from training.storybook.running import Recipe, Run, Switch
from vc_core.conditions import Conditioning
from vc_core.specs import ModelSpec

HERE = Path(__file__).parent
needs_triton = pytest.mark.skipif(sys.platform != "linux", reason="Triton has builds for Linux only")
SPECS = {"text": SMALL.text_to_video, "image": SMALL.image_to_video, "continuing": SMALL.continuing}


@pytest.fixture(scope="module")
def gallery() -> Gallery:
    torch.manual_seed(0)
    return drawn(SMALL, "cpu")


def lesson_of(spec: ModelSpec, gallery: Gallery) -> VideoLesson:
    """A lesson of which no layer is zero."""
    torch.manual_seed(0)
    lesson = VideoLesson(Network(spec, gallery.words.size), ImageBranch(spec) if spec.image_encoder else None)
    with torch.no_grad():
        for p in lesson.parameters():
            if not p.any():
                p.normal_(std=0.05)
    return lesson


@pytest.mark.parametrize("kind", SPECS)
def test_a_lesson_is_the_error_of_the_unet(kind: str, gallery: Gallery) -> None:
    lesson = lesson_of(SPECS[kind], gallery)
    batch = VideoBatches(gallery, lesson, 2)(0.1)
    x, velocity, weights, timesteps, fps, rows, *rest = batch
    image = None if lesson.branch is None else lesson.branch(rest[0])
    concat = rest[-1] if lesson.beside else None
    unet = lesson.network.unet
    given = Conditioning(lesson.network.read(rows), image, fps, concat)
    expected = ((unet(x, timesteps, given) - velocity).square() * weights).mean()
    found = lesson(*batch)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)
    parameters = dict(lesson.named_parameters())
    pairs = zip(
        torch.autograd.grad(found, list(parameters.values()), allow_unused=True),
        torch.autograd.grad(expected, list(parameters.values()), allow_unused=True),
        strict=True,
    )
    for name, (mine, right) in zip(parameters, pairs, strict=True):
        assert (mine is None) == (right is None), name
        if mine is not None and right is not None:
            # sums of many terms in another order: the smallest gradients differ by parts of the largest
            torch.testing.assert_close(mine, right, rtol=1e-3, atol=1e-4 * float(right.abs().max()) + 1e-8, msg=name)


def test_stills_are_computed_one_by_one(gallery: Gallery) -> None:
    network = lesson_of(SMALL.text_to_video, gallery).network
    unet, frames = network.unet, 3
    with torch.no_grad():
        text, fps = torch.randn(2, 77, SMALL.text_to_video.unet.context_dim), torch.tensor([8, 10])
        x, timesteps = torch.randn(2, 4, frames, 4, 4), torch.tensor([[5, 500, 999], [0, 30, 700]])
        found, _ = Forward(unet, over_time=False)(x, timesteps, Conditioning(text, None, fps, None))
        for clip in range(2):
            for frame in range(frames):
                one = slice(clip, clip + 1)
                alone, _ = Forward(unet, over_time=False)(
                    x[one, :, [frame]], timesteps[one, frame], Conditioning(text[one], None, fps[one], None)
                )
                assert torch.allclose(found[one, :, [frame]], alone, atol=1e-5)


@needs_triton
def test_the_kernels_equal_plain_pytorch() -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    command = ["-m", "pytest", "-q", "-p", "no:cacheprovider", str(HERE / "interpreted_storybook.py")]
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@needs_triton
def test_kernels_that_cannot_start_are_found_wrong() -> None:
    found = check_kernels("cpu")
    assert not found["norms"]
    assert not found["frames"]


@needs_triton
def test_a_run_takes_the_kernels_that_are_right(tmp_path: Path) -> None:
    assert kernels_of(tmp_path) == Blocks()
    for norms, frames in ((True, False), (False, True), (False, False)):
        (tmp_path / "kernels.json").write_text(json.dumps({"norms": norms, "frames": frames}), encoding="utf-8")
        blocks = kernels_of(tmp_path)
        if not norms and not frames:
            assert blocks == Blocks()
            continue
        ops = blocks.temporal.keywords["ops"]  # type: ignore[attr-defined]
        assert ops.fused == norms
        assert (ops.attend is not None) == frames


@pytest.mark.parametrize("kind", ["stills", "continuing"])
def test_what_is_found_of_compiled_blocks(kind: str, gallery: Gallery, tmp_path: Path) -> None:
    assert kind in KINDS
    sizes = {"still_clips_at_once": 2, "stills_of_clip": 2, "clips_at_once": 1}
    found = try_compiled(kind, SMALL, gallery, sizes, tmp_path)
    assert found["right"]
    assert found["difference"] < 1e-5  # on a CPU blocks are not compiled
    assert found["loss"] == found["loss_compiled"]
    assert found["ratio"] > 0


class Switching:
    """A run at a stage that could take the blocks `other`, of which `found` was written."""

    def __init__(self, gallery: Gallery, folder: Path, other: Blocks, **found: Any) -> None:
        self.run = Run(
            folder=folder, models=folder / "models", device="cpu", seconds=3600, recipe=Recipe(), specs=SMALL
        )
        self.run.compiling, self.run.compiled = True, other
        self.run.gallery = gallery
        self.run.feed = lambda: None  # type: ignore[method-assign]
        self.lesson = lesson_of(SMALL.text_to_video, gallery)
        self.trainer = self.run.trainer(self.lesson, "text_to_video")
        self.draw = VideoBatches(gallery, self.lesson, 2)
        self.trainer._step(self.draw(0.1), 0.1)
        self.switch = Switch(self.run, self.lesson, self.trainer)
        self.switch()
        assert self.switch.open
        said = {"right": True, "ratio": 0.5, "warm": 1.0, **found}
        (folder / "compiled_text_to_video.json").write_text(json.dumps(said), encoding="utf-8")

    def go_on(self) -> Blocks:
        """Looks at the file and makes another step; returns the blocks in use."""
        self.switch()
        assert not self.switch.open
        before = self.trainer.master.detach().clone()
        assert torch.isfinite(self.trainer._step(self.draw(0.1), 0.1))
        assert not torch.equal(self.trainer.master, before)
        return self.lesson.network.blocks


def _same(*given: Any, **more: Any) -> Tensor:
    return activated(*given, **more)


def _wrong(*given: Any, **more: Any) -> Tensor:
    return activated(*given, **more) + 100


def _raises(*given: Any, **more: Any) -> Tensor:
    raise RuntimeError("The compiler has failed")


def test_blocks_that_are_right_and_fast_are_taken(gallery: Gallery, tmp_path: Path) -> None:
    other = Blocks(activated=_same)
    case = Switching(gallery, tmp_path, other)
    assert case.go_on() is other
    assert case.lesson.retreat()
    assert case.lesson.network.blocks == Blocks()


@pytest.mark.parametrize(
    "found", [{"right": False}, {"ratio": 0.9}, {"warm": 3600.0}], ids=["wrong", "not faster", "too late"]
)
def test_other_blocks_are_left(found: dict[str, Any], gallery: Gallery, tmp_path: Path) -> None:
    assert Switching(gallery, tmp_path, Blocks(activated=_same), **found).go_on() == Blocks()


@pytest.mark.parametrize("function", [_wrong, _raises])
def test_blocks_that_fail_are_given_back(function: Any, gallery: Gallery, tmp_path: Path) -> None:
    case = Switching(gallery, tmp_path, Blocks(activated=function))
    assert case.go_on() == Blocks()
    assert not case.lesson.retreat()
