"""ViewCrafter: chosen by its preset, every frame made from a rendered view of its own, from Python and from the command
line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import small_models
import torch
from checkpoint.test_manifests import manifest
from PIL import Image
from test_family_cli import DEFAULTS, PICTURED, count, recipe, run
from torch import Tensor

from vc_core.checkpoint import convert, detect, inspect_checkpoint
from vc_core.conditioning import tokens_for_clip
from vc_core.denoising import Noise, Sampling
from vc_core.errors import UserError
from vc_core.frames.fitting import fit
from vc_core.image_latents import latent_of_views
from vc_core.pipeline import Request, VideoCrafter
from vc_core.specs import PRESETS, DiffusionSpec

FRAMES = 5
VIEWED = replace(
    PICTURED,
    name="tiny_viewcrafter",
    unet=replace(PICTURED.unet, default_fps=10, temporal_length=FRAMES),
    diffusion=DiffusionSpec(prediction="v", zero_terminal_snr=True, rescale=0.3),
    defaults=replace(PICTURED.defaults, frames=FRAMES, fps=10, prompt="Rotating view of a scene"),
    views=True,
)
VIEWCRAFTERS = [name for name, spec in PRESETS.items() if spec.follows_views]
QUICK = Request(sampling=Sampling(steps=2, spacing="trailing"), seed=3)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("views")
    (folder / "renders").mkdir()
    (folder / "few").mkdir()
    for number in range(FRAMES):
        Image.new("RGB", (64, 32), (40 * number, 10, 200)).save(folder / "renders" / f"{number:02}.png")
    for number, size in enumerate(((64, 32), (32, 32))):
        Image.new("RGB", size).save(folder / "few" / f"{number}.png")
    Image.new("RGB", (50, 40), (200, 10, 10)).save(folder / "red.png")
    named = {name: folder / name for name in ("renders", "few", "red.png")}
    models = {spec.name: small_models.save(spec, folder / f"{spec.name}.safetensors") for spec in (VIEWED, PICTURED)}
    return {**named, **models}


@pytest.fixture(scope="module")
def viewed(files: dict[str, Path]) -> VideoCrafter:
    return VideoCrafter.load(files["tiny_viewcrafter"])


@pytest.fixture(scope="module")
def views() -> Tensor:
    return torch.rand(FRAMES, 16, 32, 3, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def image() -> Tensor:
    return torch.randint(0, 256, (16, 32, 3), generator=torch.Generator().manual_seed(2)) / 255


@pytest.mark.parametrize(("name", "frames", "rescale"), [("25", 25, 0.3), ("16", 16, 0.3), ("25_512", 25, 0.7)])
def test_a_preset_makes_viewcrafter_of_the_tensors_of_dynamicrafter(name: str, frames: int, rescale: float) -> None:
    tensors = manifest("dynamicrafter_512_v1")
    spec = detect(tensors, preset=f"viewcrafter_{name}").spec
    assert spec.follows_views
    assert spec.defaults.frames == spec.unet.temporal_length == frames
    assert spec.diffusion == DiffusionSpec(prediction="v", zero_terminal_snr=True, rescale=rescale)
    assert spec.defaults.prompt == "Rotating view of a scene"
    assert not detect(tensors).spec.follows_views


def test_the_preset_is_named_where_the_tensors_could_be_either() -> None:
    tensors = manifest("dynamicrafter_512_v1")
    assert any("ViewCrafter 25 512" in note for note in detect(tensors).notes)


@pytest.mark.parametrize("name", VIEWCRAFTERS)
def test_frames_share_tokens_as_published(name: str) -> None:
    """77 + 256 tokens are 16 for each frame of 16, and all for each of 25."""
    spec, tokens = PRESETS[name], torch.rand(1, 16, 16, 8)
    made = tokens_for_clip(spec, tokens, spec.defaults.frames)
    shared = spec.defaults.frames == 25
    assert torch.equal(made, tokens.flatten(1, 2) if shared else tokens)
    assert tokens_for_clip(spec, tokens, 20).ndim == (3 if shared else 4)


def test_a_converted_file_keeps_its_preset_and_takes_another(files: dict[str, Path], tmp_path: Path) -> None:
    kept = convert(files["tiny_viewcrafter"], tmp_path / "kept.safetensors")[0]
    assert inspect_checkpoint(kept).spec.follows_views
    plain = convert(files["tiny_dynamicrafter"], tmp_path / "plain.safetensors")[0]
    assert not inspect_checkpoint(plain).spec.follows_views
    chosen = inspect_checkpoint(plain, preset="viewcrafter_25").spec
    assert chosen.follows_views
    assert chosen.shares_tokens


def test_every_frame_has_the_latent_of_its_own_view(viewed: VideoCrafter, views: Tensor) -> None:
    """Drawn frame by frame from the noise, as the authors do."""
    latent = latent_of_views(viewed.parts, views, Noise(4))
    noise = Noise(4)
    each = [viewed.ends(view, 1, noise=noise)[:, :, 0] for view in views]
    assert torch.equal(latent, torch.stack(each, dim=2))


def test_the_image_takes_the_place_of_the_first_view_and_of_the_last_in_a_loop(
    viewed: VideoCrafter, views: Tensor, image: Tensor
) -> None:
    def made(**given: Any) -> Tensor:
        options = {"request": QUICK, "views": views, **given}
        return viewed.generate("", options.pop("image", image), **options)

    base = made()
    assert base.shape == (FRAMES, 16, 32, 3)
    assert torch.equal(base, made(views=torch.cat([image[None], views[1:]])))
    last = made(end_image=image)
    assert torch.equal(last, made(views=torch.cat([views[:-1], image[None]])))
    looped = made(request=replace(QUICK, loop=True))
    assert torch.equal(looped, last[:-1])
    changed = views.clone()
    changed[2] = 0
    assert not torch.equal(base, made(views=changed))


def test_sampling_ends_without_rescale_but_with_a_scale_of_the_image(viewed: VideoCrafter) -> None:
    def last(request: Request) -> float:
        return request.settle(viewed.parts.spec).sampling.levels(viewed.schedule(request))[-1].scale

    assert last(QUICK) == 1
    assert last(replace(QUICK, image_cfg=2.0)) < 1


def test_what_does_not_fit_is_refused(
    viewed: VideoCrafter, files: dict[str, Path], views: Tensor, image: Tensor
) -> None:
    with pytest.raises(UserError, match=r"tiny_viewcrafter follows rendered views, one for each of 5 frames: give"):
        viewed.steps("", image)
    with pytest.raises(UserError, match=r"4 rendered views were given for a clip of 5 frames: give one for each frame"):
        viewed.steps("", image, views=views[:4])
    with pytest.raises(UserError, match="image-to-video model: give it an image"):
        viewed.steps("", views=views)
    other = VideoCrafter.load(files["tiny_dynamicrafter"])
    with pytest.raises(UserError, match=r"does not follow views.*choose its preset \(viewcrafter_25, viewcrafter_25_s"):
        other.steps("", image, views=views)


@pytest.mark.parametrize("kind", ["folder", "video", "images"])
def test_views_on_the_command_line(kind: str, files: dict[str, Path], tmp_path: Path) -> None:
    """Without a prompt: the authors' own is taken."""
    out, given = tmp_path / "out.mp4", ["--views", files["renders"]]
    if kind == "images":
        given = [word for path in sorted(files["renders"].iterdir()) for word in ("--views", path)]
    if kind == "video":
        from vc_core.video import write

        frames = torch.rand(FRAMES, 32, 64, 3)
        given = ["--views", write(tmp_path / "views.mp4", frames, fps=8).path]
    model = ("-i", files["red.png"], "-m", files["tiny_viewcrafter"])
    assert run("image-to-video", *model, "-o", out, "--seed", 1, "--steps", 2, *given) == 0
    assert count(out) == FRAMES
    kept = recipe(out)
    assert kept["prompt"] == "Rotating view of a scene"
    assert kept["views"] == [Path(path).name for path in given[1::2]]


@pytest.mark.parametrize(
    ("model", "extra", "message"),
    [
        ("tiny_viewcrafter", (), "follows rendered views, one for each of 5 frames"),
        ("tiny_viewcrafter", ("--views", "renders", "--frames", "4"), "5 rendered views were given for a clip of 4"),
        ("tiny_viewcrafter", ("--views", "few"), "The views have different sizes (32x32, 64x32)"),
        ("tiny_viewcrafter", ("--views", "nowhere.mp4"), "'nowhere.mp4' not found"),
        ("tiny_viewcrafter", ("--views", "renders", "--long", "freenoise"), "--views is not supported with --long fre"),
        ("tiny_viewcrafter", ("--views", "renders", "--free-init", "1"), "--views is not supported with --free-init"),
        (
            "tiny_viewcrafter",
            ("--views", "renders", "--end-picture", "red.png", "--loop"),
            "--views is not supported with several key frames",
        ),
        ("tiny_dynamicrafter", ("--views", "renders"), "There is no prompt, and tiny_dynamicrafter needs one"),
        ("tiny_dynamicrafter", ("a", "--views", "renders"), "tiny_dynamicrafter does not follow views"),
    ],
)
def test_bad_views_are_refused(
    model: str, extra: tuple[str, ...], message: str, files: dict[str, Path], tmp_path: Path, capsys: Any
) -> None:
    given = [str(files.get(word, word)) for word in extra]
    status = run("image-to-video", *given, "-i", files["red.png"], "-m", files[model], "-o", tmp_path / "o.mp4")
    assert status == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_original_image_is_fitted_as_the_authors_do(viewed: VideoCrafter, views: Tensor) -> None:
    image = torch.rand(33, 47, 3, generator=torch.Generator().manual_seed(5))
    published = viewed.generate("", image, request=replace(QUICK, fit="published"), views=views)
    cropped = viewed.generate("", fit(image, 16, 32), request=QUICK, views=views)
    assert published.shape == cropped.shape
    assert not torch.equal(published, cropped)
    assert DEFAULTS.prompt == ""
