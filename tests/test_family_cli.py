"""The command line with models that continue pictures, with few-step models and with long clips."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import pytest
import small_models
import torch
from PIL import Image

from vc_core import cli
from vc_core.checkpoint.building import build_empty
from vc_core.checkpoint.lora import GUIDANCE, _in_order
from vc_core.checkpoint.statistics import read_statistics
from vc_core.denoising import NoiseSchedule, Sampling
from vc_core.options import add_picture_options, add_video_options, lora, request_of
from vc_core.pipeline import Request, VideoCrafter
from vc_core.specs import (
    PRESETS,
    AutoencoderSpec,
    DiffusionSpec,
    ImageEncoderSpec,
    ModelSpec,
    ResamplerSpec,
    SamplingDefaults,
    TextEncoderSpec,
    UNetSpec,
    Windows,
)

DEFAULTS = SamplingDefaults(width=32, height=16, frames=4, steps=2, fps=8, cfg=3.0, save_fps=5.0)
TEXT = ModelSpec(
    name="tiny_text",
    unet=UNetSpec(
        model_channels=16,
        channel_mult=(1, 2),
        num_res_blocks=1,
        attention_levels=(0,),
        head_channels=8,
        context_dim=16,
        norm_groups=4,
    ),
    autoencoder=AutoencoderSpec(channels=8, channel_mult=(1, 1, 2, 2), num_res_blocks=1, norm_groups=4),
    text_encoder=TextEncoderSpec(width=16, heads=2, layers=2, embed_dim=16),
    defaults=DEFAULTS,
)
PICTURED = replace(
    TEXT,
    name="tiny_dynamicrafter",
    unet=replace(TEXT.unet, image_attention=True, in_channels=8, concat_channels=4),
    diffusion=DiffusionSpec(prediction="v", zero_terminal_snr=True, keep_last_rescale=True),
    image_encoder=ImageEncoderSpec(
        image_size=28, patch_size=14, width=16, head_width=8, layers=1, embed_dim=16, text_width=16
    ),
    image_tokens=ResamplerSpec(
        dim=16, depth=1, head_channels=8, heads=2, queries=4, embedding_dim=16, output_dim=16, frames=16
    ),
    defaults=replace(DEFAULTS, spacing="trailing", guidance_rescale=0.7),
)


def save(spec: ModelSpec, folder: Path) -> Path:
    return small_models.save(spec, folder / f"{spec.name}.safetensors")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("family")
    red, tall = folder / "red.png", folder / "tall.png"
    Image.new("RGB", (50, 40), (200, 10, 10)).save(red)
    Image.new("RGB", (20, 60), (10, 10, 200)).save(tall)
    start, other = folder / "initial_noise.pt", folder / "other_noise.pt"
    torch.save({"Expectation_X0": torch.full((1, 4, 4, 2, 4), 0.5), "Tr_Cov_d": torch.tensor(0.3)}, start)
    torch.save({"Expectation_X0": torch.zeros(1, 4, 4, 4, 4), "Tr_Cov_d": torch.tensor(0.3)}, other)
    models = {"text": save(TEXT, folder), "pictured": save(PICTURED, folder)}
    return {**models, "red": red, "tall": tall, "start": start, "other": other}


@pytest.fixture(scope="module")
def pictured(files: dict[str, Path]) -> VideoCrafter:
    return VideoCrafter.load(files["pictured"])


def count(path: Path) -> int:
    with av.open(str(path)) as video:
        return sum(1 for _ in video.decode(video=0))


def recipe(path: Path) -> dict[str, Any]:
    with av.open(str(path)) as video:
        kept: dict[str, Any] = json.loads(video.metadata["videocrafter"])
    return kept


def run(*arguments: Any) -> int:
    return cli.main([*map(str, arguments), "--device", "cpu", "--quiet"])


@pytest.mark.parametrize(
    ("preset", "given", "spacing"),
    [
        ("dynamicrafter_512", [], "trailing"),
        ("dynamicrafter_512", ["--sampler", "euler"], "trailing"),
        ("dynamicrafter_512", ["--sampler", "euler", "--spacing", "uniform"], "uniform"),
        ("videocrafter2_512", ["--sampler", "euler"], "uniform"),
        ("videocrafter2_512", ["--sampler", "lcm"], "lcm"),
        ("t2v_turbo_vc2", [], "lcm"),
        ("t2v_turbo_vc2", ["--sampler", "euler"], "uniform"),
    ],
)
def test_another_sampler_keeps_the_spacing_that_the_model_wants(preset: str, given: list[str], spacing: str) -> None:
    """DynamiCrafter's noise schedule ends without signal, so every sampler begins at its very last timestep."""
    parser = argparse.ArgumentParser()
    add_video_options(parser)
    add_picture_options(parser)
    options = parser.parse_args(["a boat", "--model", "model.ckpt", *given])
    spec = PRESETS[preset]
    sampling = request_of(options, spec).sampling
    assert sampling is not None
    schedule = NoiseSchedule.from_spec(spec.diffusion)
    wanted = schedule.timesteps(sampling.steps, spacing)  # type: ignore[arg-type]
    assert [level.timestep for level in sampling.levels(schedule)[:-1]] == wanted


@pytest.mark.parametrize(
    ("extra", "frames"),
    [
        ((), 4),
        (("--end-picture", "tall"), 4),
        (("--loop",), 3),
        (("--fit", "pad", "--image-cfg", "2"), 4),
        (("--end-picture", "tall", "--end-picture", "red", "--then", "b"), 7),
        (("--end-picture", "tall", "--loop"), 6),
        (("--start-timestep", "900", "--analytic-init", "start"), 4),
    ],
    ids=["one picture", "two pictures", "loop", "two scales", "key frames", "a ring of two", "less noise"],
)
def test_image_to_video(extra: tuple[str, ...], frames: int, files: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "out.mp4"
    given = [str(files.get(word, word)) for word in extra]
    status = run("image-to-video", "a", "-i", files["red"], "-m", files["pictured"], "-o", out, "--seed", 1, *given)
    assert status == 0
    assert count(out) == frames
    kept = recipe(out)
    assert kept["picture"] == "red.png"
    assert kept.get("end_pictures", []) == [f"{word}.png" for word in extra if word in ("red", "tall")]
    assert kept.get("analytic_init") == ("initial_noise.pt" if "start" in extra else None)


def test_the_start_reaches_the_sampler(files: dict[str, Path], pictured: VideoCrafter) -> None:
    request = Request(seed=1, start=900, sampling=Sampling(steps=2, spacing="trailing"))
    source = read_statistics(files["start"])
    picture = torch.rand(16, 32, 3, generator=torch.Generator().manual_seed(1))
    begun = list(pictured.steps("a", picture, request=request, source=source))
    plain = list(pictured.steps("a", picture, request=replace(request, start=None)))
    assert [step.total for step in (*begun, *plain)] == [2] * 4
    late = list(pictured.steps("a", picture, request=request))
    results = [steps[-1].x for steps in (begun, late, plain)]
    assert not any(torch.equal(results[i], results[j]) for i, j in ((0, 1), (0, 2), (1, 2)))
    top = list(pictured.steps("a", picture, request=replace(request, start=1000)))
    assert torch.equal(top[-1].x, plain[-1].x)


def test_long_clips_and_prompts_over_time(files: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "out.mp4"
    long = ("--frames", 21, "--long", "freenoise", "--then", "b")
    assert run("text-to-video", "a", "-m", files["text"], "-o", out, "--seed", 1, *long) == 0
    assert count(out) == 21


def test_a_lora_makes_a_few_step_model(files: dict[str, Path], tmp_path: Path) -> None:
    shapes = {name: tuple(value.shape) for name, value in build_empty(TEXT, "unet").state_dict().items()}
    items = []
    for name, shape in _in_order(shapes, TEXT.unet).items():
        size = (shape[0], 256) if name == GUIDANCE else shape
        items += [torch.randn(size[0], 1) * 0.01, torch.randn(1, *size[1:]) * 0.01]
    torch.save(items, tmp_path / "turbo.pt")
    crafter = VideoCrafter.load(files["text"], loras=[(tmp_path / "turbo.pt", 1.0)])
    assert crafter.parts.spec.defaults.sampler == "lcm"
    assert bool((crafter.parts.schedule.scale == 1).all())
    request = Request(frames=2, width=16, height=16, seed=2)
    steps = list(crafter.steps("a", request=request))
    assert len(steps) == 4
    other = list(crafter.steps("a", request=replace(request, cfg=2.0)))[-1].x
    assert not torch.equal(steps[-1].x, other)  # the network reads cfg itself
    negative = list(crafter.steps("a", request=replace(request, negative="fog")))[-1].x
    assert torch.equal(steps[-1].x, negative)
    out = tmp_path / "out.mp4"
    assert run("text-to-video", "a", "-m", files["text"], "-o", out, "--lora", f"{tmp_path / 'turbo.pt'}:0.5") == 0
    assert recipe(out)["loras"] == [["turbo.pt", 0.5]]
    assert count(out) == 16  # the frames of T2V-Turbo


@pytest.mark.parametrize(
    ("command", "extra", "message"),
    [
        ("text", ("--lora", "red"), "not a model file"),
        ("image", ("--loop", "--end-picture", "tall", "--frames", "1"), "2 key frames with 1 frames"),
        ("image", ("--end-picture", "nowhere.png"), "not found"),
        ("image", ("--start-timestep", "1001"), "whole number from 1 to 1000"),
        ("image", ("--analytic-init", "other"), "clip of 32x32 pixels and 4 frames"),
        ("image", ("--analytic-init", "pictured"), "holds no Expectation_X0"),
        (
            "image",
            ("--analytic-init", "start", "--free-init", "2"),
            "--analytic-init is not supported with --free-init",
        ),
        ("image", ("--end-picture", "tall", "--loop", "--then", "b", "--then", "c"), "3 prompts were given for 2"),
        ("image", ("--analytic-init", "start", "--loop", "--end-picture", "tall"), "row of key frames"),
    ],
)
def test_bad_input_is_refused(
    command: str, extra: tuple[str, ...], message: str, files: dict[str, Path], tmp_path: Path, capsys: Any
) -> None:
    given = [str(files.get(word, word)) for word in extra]
    model = ("-m", files["pictured"], "-i", files["red"]) if command == "image" else ("-m", files["text"])
    assert run(f"{command}-to-video", "a", *model, "-o", tmp_path / "o.mp4", *given) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "file", "strength"), [("a.pt", "a.pt", 1), ("a.pt:0.5", "a.pt", 0.5), ("C:a.pt", "C:a.pt", 1)]
)
def test_a_lora_option(text: str, file: str, strength: float) -> None:
    assert lora(text) == (Path(file), strength)


def test_pictures_reach_the_network_as_asked(pictured: VideoCrafter) -> None:
    red, blue = torch.zeros(9, 13, 3), torch.zeros(20, 8, 3)
    red[..., 0], blue[..., 2] = 1, 1
    quick = Request(sampling=Sampling(steps=2, spacing="trailing"), seed=3)
    base = pictured.generate("a", red, request=quick)
    assert base.shape == (4, 16, 32, 3)
    assert torch.equal(base, pictured.generate("a", red, request=quick))
    changed = {
        "end": pictured.generate("a", red, request=quick, end_image=blue),
        "other end": pictured.generate("a", red, request=quick, end_image=red),
        "mean": pictured.generate("a", red, request=replace(quick, sharp=True)),
        "pad": pictured.generate("a", red, request=replace(quick, fit="pad")),
        "picture scale": pictured.generate("a", red, request=replace(quick, image_cfg=1.0)),
        "seed": pictured.generate("a", red, request=replace(quick, seed=4)),
    }
    results = [base, *changed.values()]
    for i, one in enumerate(results):
        assert one.isfinite().all()
        assert not any(torch.equal(one, other) for other in results[:i]), i


def test_a_loop_has_the_same_latent_at_both_ends(pictured: VideoCrafter) -> None:
    from vc_core.denoising import Noise

    latent = pictured.ends(torch.rand(16, 32, 3), 5, loop=True, noise=Noise(1))
    assert torch.equal(latent[:, :, 0], latent[:, :, -1])
    assert not latent[:, :, 1:-1].any()


def test_windows_change_nothing_up_to_their_size(files: dict[str, Path]) -> None:
    crafter = VideoCrafter.load(files["text"])
    request = Request(frames=5, sampling=Sampling(steps=2, eta=0.0))
    plain = list(crafter.steps("a", request=request))[-1].x
    windows = list(crafter.steps("a", request=replace(request, windows=Windows())))[-1].x
    narrow = list(crafter.steps("a", request=replace(request, windows=Windows(size=4, stride=2))))[-1].x
    assert torch.equal(plain, windows)
    assert not torch.equal(plain, narrow)
