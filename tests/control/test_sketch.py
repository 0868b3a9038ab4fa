"""Sketches as a control: which frames they guide, how much, and what they look like to the encoder."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import pytest
import torch
from PIL import Image
from small_models import CONTINUING_MODEL, TEXT_MODEL, save, sketch_encoder
from torch import Tensor

from vc_core.cli import main
from vc_core.control import CONTROLS, Scene, Sketch
from vc_core.control.sketch import DARK, LIGHT, line_art
from vc_core.denoising import Sampling
from vc_core.errors import UserError
from vc_core.frames.fitting import fit
from vc_core.network.adapters.sketch import SketchEncoder, SketchResiduals
from vc_core.pipeline import VideoCrafter
from vc_core.request import Request

FRAMES, WIDTH, HEIGHT = 4, 32, 24
REQUEST = Request(
    width=WIDTH, height=HEIGHT, frames=FRAMES, seed=3, cfg=3.0, sampling=Sampling(steps=2, spacing="trailing")
)
SCENE = Scene(spec=CONTINUING_MODEL, frames=FRAMES, width=WIDTH, height=HEIGHT, steps=2, cfg=3.0)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> VideoCrafter:
    return VideoCrafter.load(save(CONTINUING_MODEL, tmp_path_factory.mktemp("model") / "model.safetensors"))


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sketch") / "sketch_encoder.ckpt"
    torch.save({"state_dict": sketch_encoder()}, path)
    return path


@pytest.fixture(scope="module")
def sketches() -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    return tuple((torch.rand(HEIGHT, WIDTH, 1, generator=generator) > 0.2).float().expand(-1, -1, 3) for _ in range(4))


@pytest.fixture(scope="module")
def ends() -> Tensor:
    return torch.rand(2, HEIGHT, WIDTH, 3, generator=torch.Generator().manual_seed(2))


def made(model: VideoCrafter, ends: Tensor, *controls: Any, **changes: Any) -> Tensor:
    return model.generate("a boat", ends[0], end_image=ends[1], request=replace(REQUEST, **changes), controls=controls)


def test_sketches_that_do_nothing_are_bit_equal_and_so_is_the_model_afterwards(
    model: VideoCrafter, file: Path, sketches: tuple[Tensor, ...], ends: Tensor
) -> None:
    plain = made(model, ends)
    nothing = [
        Sketch(file=file),
        Sketch(file=file, images=sketches, strength=0.0),
        Sketch(file=file, images=sketches, strengths="0:0"),
    ]
    for control in nothing:
        assert torch.equal(made(model, ends, control), plain)
    guided = made(model, ends, Sketch(file=file, images=sketches))
    assert not torch.equal(guided, plain)
    assert torch.equal(made(model, ends, Sketch(file=file, images=sketches)), guided)
    assert torch.equal(made(model, ends), plain)


def test_the_adapter_gets_each_sketch_at_its_frame(
    model: VideoCrafter, file: Path, sketches: tuple[Tensor, ...], ends: Tensor
) -> None:
    control = Sketch(file=file, images=sketches[:2], frames="2 -1", strength=0.8, strengths="0:1 3:0.5")
    guided = made(model, ends, control)
    lines = torch.zeros(FRAMES, 1, HEIGHT, WIDTH)
    lines[2, 0], lines[3, 0] = (1 - sketch[..., 0] for sketch in sketches[:2])
    encoder = model.networks(control)
    assert isinstance(encoder, SketchEncoder)
    model.adapters = (SketchResiduals(encoder, lines, (0.0, 0.0, 0.8 * (1 - 1 / 3), 0.4)),)
    try:
        torch.testing.assert_close(made(model, ends), guided, atol=1e-5, rtol=1e-5)
    finally:
        model.adapters = ()


def test_every_setting_counts(model: VideoCrafter, file: Path, sketches: tuple[Tensor, ...], ends: Tensor) -> None:
    base = {"file": file, "images": sketches}
    changes: list[dict[str, Any]] = [
        {},
        {"strength": 1.0},
        {"strengths": "0:0.5"},
        {"lines": LIGHT},
        {"images": sketches[::-1]},
        {"images": sketches[:1], "frames": "1"},
        {"images": sketches[:1], "frames": "2"},
    ]
    results = [made(model, ends, Sketch(**{**base, **change})) for change in changes]
    for index, one in enumerate(results):
        assert one.isfinite().all()
        assert not any(torch.equal(one, other) for other in results[:index]), changes[index]


def test_sketches_work_with_caches_and_windows(
    model: VideoCrafter, file: Path, sketches: tuple[Tensor, ...], ends: Tensor
) -> None:
    control = Sketch(file=file, images=sketches)
    steps = {"sampling": Sampling(steps=4, spacing="trailing")}
    for changes in ({**steps, "step_cache": "fast"}, {**steps, "guidance_cache": "fast"}, {"together": False}):
        plain, guided = made(model, ends, **changes), made(model, ends, control, **changes)
        assert guided.isfinite().all()
        assert not torch.equal(plain, guided)


def test_guided_passes_are_the_same_apart_and_together(
    model: VideoCrafter, file: Path, sketches: tuple[Tensor, ...], ends: Tensor
) -> None:
    control = Sketch(file=file, images=sketches)
    apart, together = (made(model, ends, control, together=shared) for shared in (False, True))
    torch.testing.assert_close(apart, together, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    ("text", "factors"),
    [("", [1, 1, 1, 1]), ("0:0.5", [0.5] * 4), ("0:1 3:0.4", [1, 0.8, 0.6, 0.4]), ("1:0, -1:1", [0, 0, 0.5, 1])],
)
def test_strength_over_time(text: str, factors: list[float]) -> None:
    assert Sketch(strengths=text).factors(4) == pytest.approx(factors)


def test_frames_of_sketches(sketches: tuple[Tensor, ...]) -> None:
    assert Sketch(images=sketches).sketched(4) == [0, 1, 2, 3]
    assert Sketch(images=sketches[:2], frames="3, -4").sketched(4) == [3, 0]


def test_what_the_encoder_sees() -> None:
    """Light lines on black, 0 to 1, also where an image is padded."""
    paper = torch.ones(8, 8, 3)
    paper[3] = 0.0
    lines = line_art(paper, 8, 8, invert=True)
    assert lines[3].eq(1).all()
    assert lines.sum() == 8
    torch.testing.assert_close(line_art(1 - paper, 8, 8, invert=False), lines)
    padded = line_art(paper, 8, 16, invert=True, how="pad")
    torch.testing.assert_close(padded[:, 4:12], lines)
    assert not padded[:, :4].any()
    colored = torch.tensor([0.2, 0.4, 0.6]).expand(8, 8, 3)
    grey = 0.299 * 0.2 + 0.587 * 0.4 + 0.114 * 0.6
    assert line_art(colored, 8, 8, invert=False)[0, 0] == pytest.approx(grey)
    large = torch.rand(16, 32, 3, generator=torch.Generator().manual_seed(1))
    smaller = fit(1 - large.mean(-1, keepdim=True).expand(-1, -1, 3), 8, 16, scaling="smooth")
    assert line_art(large.mean(-1, keepdim=True).expand(-1, -1, 3), 8, 16, invert=True).allclose(smaller[..., 0])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"frames": ""}, "There are 2 sketches for a clip of 4 frames. Give one for each frame, or say in frames"),
        ({"frames": "1"}, "frames names 1 frames, but there are 2 sketches"),
        ({"frames": "1 x"}, "'x' is not the number of a frame"),
        ({"frames": "1 4"}, "There is no frame 4 in a clip of 4 frames; they are numbered from 0 to 3"),
        ({"frames": "3 -1"}, "which names a frame twice"),
        ({"frames": "0 1", "strengths": "0.5"}, "strengths has '0.5', which is not a frame and a factor"),
        ({"frames": "0 1", "strengths": "0:a"}, "strengths has '0:a', which is not a frame and a factor"),
        ({"frames": "0 1", "strengths": "0:11"}, "factor 11; it should be from 0 to 10"),
        ({"frames": "0 1", "strengths": "9:1"}, "There is no frame 9"),
    ],
)
def test_what_does_not_fit_the_clip_is_refused(
    given: dict[str, Any], message: str, sketches: tuple[Tensor, ...]
) -> None:
    with pytest.raises(UserError) as error:
        Sketch(images=sketches[:2], **given).check(SCENE)
    assert message in str(error.value)


def test_settings_out_of_range_are_refused() -> None:
    assert CONTROLS["sketch"] is Sketch
    with pytest.raises(UserError, match="The strength of Sketch is 3; it should be 0 to 2"):
        Sketch(strength=3.0)
    with pytest.raises(UserError, match=f"The lines of Sketch is 'red'; it should be one of {DARK}, {LIGHT}"):
        Sketch(lines="red")


def test_other_models_and_files_are_refused(
    model: VideoCrafter, sketches: tuple[Tensor, ...], ends: Tensor, file: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="Sketches guide ToonCrafter, and small_t2v is another kind of model"):
        Sketch(images=sketches, file=file).check(replace(SCENE, spec=TEXT_MODEL))
    with pytest.raises(UserError, match="Sketch needs weights of its own, and the model's file has none"):
        made(model, ends, Sketch(images=sketches))
    weights = {name: torch.zeros(shape) for name, shape in narrower().items()}
    torch.save(weights, tmp_path / "other.ckpt")
    with pytest.raises(UserError, match=r"does not fit this model: model_channels is 16 in the file and 32 in the mod"):
        made(model, ends, Sketch(images=sketches, file=tmp_path / "other.ckpt"))


def narrower() -> dict[str, tuple[int, ...]]:
    from small_models import SKETCHES

    network = SketchEncoder(replace(SKETCHES, model_channels=16), device="meta")
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


@pytest.mark.parametrize("kind", ["folder", "images"])
def test_sketches_on_the_command_line(kind: str, model: VideoCrafter, file: Path, tmp_path: Path) -> None:
    drawn = tmp_path / "drawn"
    drawn.mkdir()
    for number in range(FRAMES):
        Image.new("L", (40, 30), 60 * number).save(drawn / f"{number}.png")
    save(CONTINUING_MODEL, tmp_path / "model.safetensors")
    each = [word for path in sorted(drawn.iterdir()) for word in ("--sketch-images", str(path))]
    given = ["--sketch-images", str(drawn)] if kind == "folder" else each
    size = ["--width", str(WIDTH), "--height", str(HEIGHT), "--frames", str(FRAMES), "--steps", "2"]
    made = tmp_path / "made.mp4"
    command = ["image-to-video", "a boat", "-i", str(drawn / "0.png"), "-m", str(tmp_path / "model.safetensors")]
    status = main([*command, "--sketch", str(file), *given, *size, "-o", str(made), "--device", "cpu", "--quiet"])
    assert status == 0
    with av.open(str(made)) as video:
        (kept,) = json.loads(video.metadata["videocrafter"])["controls"]
        assert sum(1 for _ in video.decode(video=0)) == FRAMES
    assert kept["control"] == "sketch"
    assert kept["images"] == [[30, 40, 3]] * FRAMES
