"""ToonCrafter from files and pictures to frames: the decoder sees the pictures that a clip begins and ends with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from test_family_cli import PICTURED, count, run, save
from torch import Tensor

from vc_core import cli
from vc_core.checkpoint import inspect_checkpoint
from vc_core.frames.pixels import load_image
from vc_core.long import frames, key_frames
from vc_core.long.video import applied
from vc_core.long.windows import OverlappingWindows
from vc_core.pipeline import Request, VideoCrafter

TOON = replace(PICTURED, name="tiny_tooncrafter", autoencoder=replace(PICTURED.autoencoder, reference_levels=(2, 3)))
REQUEST = Request(seed=3, frames=6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toon")
    Image.new("RGB", (50, 40), (200, 10, 10)).save(folder / "first.png")
    Image.new("RGB", (20, 60), (10, 10, 200)).save(folder / "last.png")
    save(TOON, folder)
    return folder


@pytest.fixture(scope="module")
def model(folder: Path) -> Path:
    return folder / "tiny_tooncrafter.safetensors"


@pytest.fixture(scope="module")
def crafter(model: Path) -> VideoCrafter:
    return VideoCrafter.load(model)


@pytest.fixture(scope="module")
def pictures(folder: Path) -> tuple[Tensor, Tensor]:
    return load_image(folder / "first.png"), load_image(folder / "last.png")


def last(steps: object) -> Tensor:
    return list(steps)[-1].x  # type: ignore[call-overload]


@pytest.mark.parametrize("case", ["two pictures", "one picture", "a loop"])
def test_generate_shows_the_decoder_both_ends(
    crafter: VideoCrafter, pictures: tuple[Tensor, Tensor], case: str
) -> None:
    first, end = pictures
    end_picture = end if case == "two pictures" else None
    request = replace(REQUEST, loop=case == "a loop")
    frames = crafter.generate("a boat", first, request=request, end_image=end_picture)
    latents = last(crafter.steps("a boat", first, request=request, end_image=end_picture))
    shown = pictures if end_picture is not None else (first, first)
    wanted = crafter.decode(latents, shown)
    assert torch.equal(frames, wanted[:-1] if request.loop else wanted)
    assert float((wanted - crafter.decode(latents)).abs().max()) > 0.01


def test_every_section_of_a_row_is_decoded_between_its_own_images(
    crafter: VideoCrafter, pictures: tuple[Tensor, Tensor]
) -> None:
    first, end = pictures
    made = list(key_frames(crafter, ["a"], [first, end, first], request=REQUEST))
    assert len(made) == 11
    sections = [
        crafter.generate("a", start, request=replace(REQUEST, seed=seed), end_image=stop)
        for seed, start, stop in ((3, first, end), (4, end, first))
    ]
    torch.testing.assert_close(torch.stack(made), torch.cat([sections[0][:-1], sections[1]]), atol=1e-4, rtol=0)


def test_a_long_clip_is_decoded_at_once(crafter: VideoCrafter, pictures: tuple[Tensor, Tensor]) -> None:
    request = replace(REQUEST, frames=9)
    method = OverlappingWindows(window=5, stride=2)
    made = torch.stack(list(frames(crafter, "a", pictures[0], request=request, method=method)))
    latents = last(crafter.steps("a", pictures[0], request=applied(method, request, crafter.parts.spec)))
    torch.testing.assert_close(made, crafter.decode(latents, pictures[:1]), atol=1e-5, rtol=0)


def test_the_command_line_makes_inspects_and_converts_it(
    folder: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.mp4"
    ends = ("--picture", folder / "first.png", "--end-picture", folder / "last.png")
    assert run("image-to-video", "a boat", *ends, "--model", model, "--output", out, "--frames", 6) == 0
    assert count(out) == 6
    assert cli.main(["convert", str(model), "--output", str(tmp_path / "split"), "--split", "--quiet"]) == 0
    (vae,) = (tmp_path / "split").glob("*_vae.safetensors")
    capsys.readouterr()
    assert cli.main(["inspect", str(vae)]) == 0
    assert "with ToonCrafter's decoder" in capsys.readouterr().out
    before, after = (inspect_checkpoint(path).weights("autoencoder") for path in (model, vae))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
