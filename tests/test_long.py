"""Long videos by every method, from a prompt to frames and to a file."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import av
import pytest
import small_models
import torch
from PIL import Image
from torch import Tensor

from vc_core import cli
from vc_core.denoising import Sampling, Source, sampling
from vc_core.errors import UserError
from vc_core.long import METHODS, Method, frames, rounds
from vc_core.long.continuing import Continue
from vc_core.long.freenoise import FreeNoise
from vc_core.long.loop import Loop
from vc_core.long.off import Off
from vc_core.long.video import applied, check_method
from vc_core.long.windows import OverlappingWindows
from vc_core.long.windows_fast import ShiftedWindows
from vc_core.options import add_video_options, long_of
from vc_core.pipeline import Request, VideoCrafter

WINDOW = 4
REQUEST = Request(seed=5, width=16, height=24, frames=11, cfg=3.0, sampling=Sampling(steps=2))
PICTURE = torch.rand(20, 30, 3, generator=torch.Generator().manual_seed(1))
NAMES = [name for name in METHODS if name != "off"]


def long(name: str, **settings: object) -> Method:
    """A method with small windows."""
    small = {"window": WINDOW, "stride": 2, "overlap": 2, "partitions": 1}
    own = {item.name for item in METHODS[name].parameters()}
    return METHODS[name](**{key: value for key, value in small.items() if key in own}, **settings)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("long")
    Image.new("RGB", (30, 20), (200, 10, 10)).save(folder / "red.png")
    kinds = {
        "text": small_models.TEXT_MODEL,
        "image": small_models.IMAGE_MODEL,
        "continuing": small_models.CONTINUING_MODEL,
    }
    saved = {kind: small_models.save(spec, folder / f"{kind}.safetensors") for kind, spec in kinds.items()}
    return {**saved, "picture": folder / "red.png"}


@pytest.fixture(scope="module")
def crafter(files: dict[str, Path]) -> VideoCrafter:
    return VideoCrafter.load(files["text"])


@pytest.fixture(scope="module")
def pictured(files: dict[str, Path]) -> VideoCrafter:
    return VideoCrafter.load(files["image"])


@pytest.fixture(scope="module")
def continuing(files: dict[str, Path]) -> VideoCrafter:
    return VideoCrafter.load(files["continuing"])


@pytest.mark.parametrize("method", NAMES)
def test_every_method_makes_the_frames_that_were_asked_for(crafter: VideoCrafter, method: str) -> None:
    made = torch.stack(list(frames(crafter, "a boat", request=REQUEST, method=long(method))))
    assert made.shape == (11, 24, 16, 3)
    assert float(made.min()) >= 0
    assert float(made.max()) <= 1
    again = torch.stack(list(frames(crafter, "a boat", request=REQUEST, method=long(method))))
    assert torch.equal(made, again)
    moved = made.diff(dim=0).abs().mean((1, 2, 3))
    assert float(moved.min()) > 0, "no doubled frames"


@pytest.mark.parametrize("method", NAMES)
def test_a_clip_of_one_window_is_the_plain_clip(crafter: VideoCrafter, method: str) -> None:
    """Exactly, at the eta that was asked for."""
    short = replace(REQUEST, frames=WINDOW)
    plain = crafter.generate("a boat", request=short)
    assert torch.equal(torch.stack(list(frames(crafter, "a boat", request=short, method=long(method)))), plain)


def test_fifo_supports_no_cache(crafter: VideoCrafter) -> None:
    with pytest.raises(UserError, match="Leave the cache off"):
        next(frames(crafter, "a boat", request=replace(REQUEST, step_cache="high"), method=long("fifo")))
    short = replace(REQUEST, guidance_cache="high", frames=WINDOW)
    assert len(list(frames(crafter, "a boat", request=short, method=long("fifo")))) == WINDOW


@pytest.mark.parametrize("method", NAMES)
def test_images_and_several_prompts_work_with_every_method(pictured: VideoCrafter, method: str) -> None:
    request = replace(REQUEST, then=("a storm", "a harbour"))
    made = list(frames(pictured, "a boat", PICTURE, request=request, method=long(method)))
    assert len(made) == 11
    other = list(frames(pictured, "a boat", PICTURE, request=REQUEST, method=long(method)))
    assert not torch.equal(made[-1], other[-1]), "the later prompts count"


@pytest.mark.parametrize(
    ("kind", "count", "most"), [("text", 11, 5), ("text", 10, 4), ("text", 5, 2), ("continuing", 11, 4)]
)
def test_more_prompts_than_segments_are_refused(
    request: pytest.FixtureRequest, kind: str, count: int, most: int
) -> None:
    """Also before anything is loaded, by `check_method`. Models that continue images share one frame, others two."""
    crafter = request.getfixturevalue({"text": "crafter", "continuing": "continuing"}[kind])
    asked = replace(REQUEST, frames=count, then=("then",) * (most - 1))
    check_method(long("continue"), asked, crafter.parts.spec, {})
    too_many = replace(asked, then=("then",) * most)
    says = f"{most + 1} prompts were given, but {count} frames are made as {most} clips of 4 frames"
    for refuse in (
        lambda: check_method(long("continue"), too_many, crafter.parts.spec, {}),
        lambda: next(frames(crafter, "a", PICTURE, request=too_many, method=long("continue"))),
    ):
        with pytest.raises(UserError, match=says) as caught:
            refuse()
    enough = int(str(caught.value).split("ask for at least ")[1].split()[0])
    check_method(long("continue"), replace(too_many, frames=enough), crafter.parts.spec, {})
    with pytest.raises(UserError):
        check_method(long("continue"), replace(too_many, frames=enough - 1), crafter.parts.spec, {})


@pytest.mark.parametrize("sharp", [False, True], ids=["sampled", "sharp"])
@pytest.mark.parametrize(("method", "free_init"), [("continue", 0), ("windows", 0), ("freenoise", 1)])
def test_models_that_continue_images_make_long_videos(
    continuing: VideoCrafter, method: str, free_init: int, sharp: bool
) -> None:
    """Also where the picture's latent is drawn from the seed."""
    request = replace(REQUEST, sharp=sharp)
    way = long(method, free_init=free_init) if free_init else long(method)
    made = torch.stack(list(frames(continuing, "a", PICTURE, request=request, method=way)))
    assert made.shape == (11, 24, 16, 3)
    assert float(made.diff(dim=0).abs().mean((1, 2, 3)).min()) > 0, "no doubled frames"


@pytest.fixture
def noises(monkeypatch: pytest.MonkeyPatch) -> tuple[list[Tensor], list[Tensor]]:
    """The noise that each run begins with, and the noise that each round of FreeInit is given."""
    began: list[Tensor] = []
    taken: list[Tensor] = []
    start, next_start = sampling.start, rounds.next_start
    monkeypatch.setattr(sampling, "start", lambda levels, x, source: (began.append(x), start(levels, x, source))[1])
    monkeypatch.setattr(
        rounds, "next_start", lambda result, x, *more: (taken.append(x), next_start(result, x, *more))[1]
    )
    return began, taken


def test_freeinit_goes_back_to_the_noise_that_a_picture_left(
    continuing: VideoCrafter, noises: tuple[list[Tensor], list[Tensor]]
) -> None:
    """In every round the noise that the first began from, behind what the picture's latent took of the seed."""
    began, taken = noises
    list(frames(continuing, "a", PICTURE, request=replace(REQUEST, frames=3), method=long("off", free_init=2)))
    assert len(taken) == 2
    assert all(torch.equal(noise, began[0]) for noise in taken)
    assert not torch.equal(began[0], began[1])


def test_freeinit_is_refused_where_a_run_begins_from_noise_alone(continuing: VideoCrafter) -> None:
    request = replace(REQUEST, frames=3, sampling=Sampling(steps=2, spacing="trailing"))
    with pytest.raises(UserError, match="begins from noise alone"):
        next(frames(continuing, "a", PICTURE, request=request, method=long("off", free_init=1)))
    lower = replace(request, start=900)
    assert len(list(frames(continuing, "a", PICTURE, request=lower, method=long("off", free_init=1)))) == 3


def test_fifo_says_what_it_does_not_support_before_work_starts(
    files: dict[str, Path],
    continuing: VideoCrafter,
    pictured: VideoCrafter,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    steps: list[object] = []
    with pytest.raises(
        UserError,
        match=r"small_dynamicrafter.* continues an image, is not supported with the method fifo: the frames of",
    ):
        next(frames(continuing, "a", PICTURE, request=REQUEST, method=long("fifo"), on_step=steps.append))
    asked = replace(REQUEST, image_cfg=1.5)
    with pytest.raises(UserError, match=r"scale for the image \(1.5\) is not supported"):
        next(frames(pictured, "a", PICTURE, request=asked, method=long("fifo"), on_step=steps.append))
    assert not steps
    given = [
        "--picture",
        str(files["picture"]),
        "--model",
        str(files["continuing"]),
        "--long",
        "fifo",
        "--frames",
        "20",
    ]
    assert cli.main(["image-to-video", "a", *given, "--output", str(tmp_path / "a.mp4")]) == cli.UNUSABLE
    assert "not supported with --long fifo" in capsys.readouterr().err


def test_freenoise_is_what_the_request_makes_of_it(crafter: VideoCrafter) -> None:
    way = long("freenoise")
    made = torch.stack(list(frames(crafter, "a boat", request=REQUEST, method=way)))
    assert torch.equal(made, crafter.generate("a boat", request=applied(way, REQUEST, crafter.parts.spec)))


@pytest.mark.parametrize("method", ["fifo", "continue"])
def test_frames_come_while_the_video_is_made(crafter: VideoCrafter, method: str) -> None:
    """From an endless video; with the queue one at a time, with segments after each."""
    steps: list[int] = []
    endless = replace(REQUEST, frames=10**6)
    made = frames(crafter, "a boat", request=endless, method=long(method), on_step=lambda s: steps.append(s.index))
    next(made)
    first = len(steps)
    for _ in range(6):
        next(made)
    assert first <= 4
    assert first < len(steps) <= 12


@pytest.mark.parametrize("method", ["off", "freenoise", "windows"])
def test_freeinit_works_with_windows_and_changes_the_clip(crafter: VideoCrafter, method: str) -> None:
    calls: list[int] = []
    way = long(method, free_init=2)
    made = list(frames(crafter, "a boat", request=REQUEST, method=way, on_step=lambda s: calls.append(s.index)))
    plain = list(frames(crafter, "a boat", request=REQUEST, method=long(method)))
    assert calls == [0, 1] * 3
    assert not torch.equal(made[0], plain[0])


def test_what_is_not_supported_is_refused(crafter: VideoCrafter) -> None:
    for wrong in ({"window": 4, "overlap": 4}, {"correct": 2.0}, {"overlap": 0}):
        with pytest.raises(UserError):
            next(frames(crafter, "a", request=REQUEST, method=Continue(**wrong)))  # type: ignore[arg-type]
    spec = crafter.parts.spec
    both = replace(applied(long("windows"), REQUEST, spec), windows=applied(long("freenoise"), REQUEST, spec).windows)
    with pytest.raises(UserError, match="choose one"):
        crafter.generate("a boat", request=both)


@pytest.mark.parametrize(
    "extra",
    [
        ["--long", "loop"],
        ["--long", "fifo"],
        ["--long", "continue"],
        ["--long", "freenoise", "--free-init", "1"],
    ],
    ids=lambda extra: extra[1],
)
def test_the_command_line_writes_long_videos(files: dict[str, Path], tmp_path: Path, extra: list[str]) -> None:
    target = tmp_path / "long.mp4"
    size = ["--width", "16", "--height", "24", "--frames", "18", "--steps", "2", "--seed", "3"]
    common = ["--model", str(files["text"]), "--output", str(target), "--quiet", "--device", "cpu"]
    assert cli.main(["text-to-video", "a boat", *common, *size, *extra]) == 0
    with av.open(str(target)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 18


def test_the_command_line_says_what_is_not_supported(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "long.mp4"
    common = ["--model", str(files["text"]), "--output", str(target), "--video", str(files["picture"])]
    given = ["--long", "fifo", "--frames", "20"]
    assert cli.main(["text-to-video", "a boat", *common, *given]) == cli.UNUSABLE
    assert "--video is not supported with --long fifo: every frame" in capsys.readouterr().err
    common = common[:-2]
    assert cli.main(["text-to-video", "a boat", *common, "--long", "fifo", "--stride", "8"]) == cli.UNUSABLE
    assert "--stride works with --long freenoise, freelong, windows, loop" in capsys.readouterr().err
    assert cli.main(["text-to-video", "a boat", *common, "--long", "windows", "--stride", "0"]) == cli.UNUSABLE
    assert "The stride of windows is 0; it should be 1 to 256" in capsys.readouterr().err
    assert not target.exists()


def frames_of(path: Path) -> list[bytes]:
    """The pixels of a file's frames."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24").tobytes() for frame in container.decode(video=0)]


def test_the_command_line_recommends_a_method(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where many frames are asked for without one; a stride makes other windows."""
    size = ["--width", "16", "--height", "24", "--frames", "18", "--steps", "1", "--seed", "3", "--quiet"]
    common = ["text-to-video", "a boat", "--model", str(files["text"]), "--device", "cpu", *size]
    assert cli.main([*common, "--output", str(tmp_path / "off.mp4")]) == 0
    assert "All 18 frames are made as one clip" in capsys.readouterr().err
    for stride in ("8", "1"):
        given = ["--long", "windows", "--stride", stride]
        assert cli.main([*common, "--output", str(tmp_path / f"{stride}.mp4"), *given]) == 0
        assert "one clip" not in capsys.readouterr().err
    assert frames_of(tmp_path / "8.mp4") != frames_of(tmp_path / "1.mp4")


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("off", Off()),
        ("freenoise", FreeNoise(stride=4)),
        ("freenoise --stride 8 --free-init 2", FreeNoise(stride=8, free_init=2)),
        ("windows", OverlappingWindows(stride=8)),
        ("windows --stride 12 --fuse flat", OverlappingWindows(stride=12, fuse="flat")),
        ("loop", Loop(stride=8)),
        ("windows_fast --window 12", ShiftedWindows(window=12)),
        ("continue", Continue(overlap=8)),
        ("continue --overlap 3", Continue(overlap=3)),
    ],
)
def test_the_command_line_chooses_a_method_and_its_parameters(given: str, meant: Method) -> None:
    parser = argparse.ArgumentParser()
    add_video_options(parser)
    assert long_of(parser.parse_args(["a boat", "--model", "x", "--long", *given.split()])) == meant


def test_methods_of_one_clip_start_from_a_video(crafter: VideoCrafter) -> None:
    """So do clips in windows; a method of several clips says that it does not."""
    video = torch.rand(11, 24, 16, 3, generator=torch.Generator().manual_seed(2))
    source = Source(crafter.encode(video), 0.5)
    for name in ("freenoise", "windows", "loop"):
        made = torch.stack(list(frames(crafter, "a boat", request=REQUEST, method=long(name), source=source)))
        plain = applied(long(name), REQUEST, crafter.parts.spec)
        assert torch.equal(made, crafter.generate("a boat", request=plain, source=source))
    with pytest.raises(UserError, match="A video to start from is not supported with the method continue"):
        next(frames(crafter, "a boat", request=REQUEST, method=long("continue"), source=source))


def test_windows_come_to_an_end_image_and_close_a_loop(continuing: VideoCrafter) -> None:
    other = PICTURE.flip(0)
    for request in (replace(REQUEST, loop=True), REQUEST):
        end = None if request.loop else other
        made = list(frames(continuing, "a", PICTURE, request=request, method=long("windows"), end_image=end))
        assert len(made) == 11 - request.loop
        wanted = applied(long("windows"), request, continuing.parts.spec)
        assert torch.equal(torch.stack(made), continuing.generate("a", PICTURE, request=wanted, end_image=end))


def test_the_first_noise_of_a_video_with_an_end_image_is_that_of_its_rounds(
    continuing: VideoCrafter, noises: tuple[list[Tensor], list[Tensor]]
) -> None:
    began, taken = noises
    request = replace(REQUEST, frames=3)
    way = long("off", free_init=1)
    assert len(list(frames(continuing, "a", PICTURE, request=request, method=way, end_image=PICTURE.flip(0)))) == 3
    assert torch.equal(taken[0], began[0])


def test_co_denoised_windows_have_their_own_noise(crafter: VideoCrafter, monkeypatch: pytest.MonkeyPatch) -> None:
    """So later frames do not begin like earlier ones, as they do with all other windows."""
    began = []
    start = sampling.start
    monkeypatch.setattr(sampling, "start", lambda levels, x, source: (began.append(x), start(levels, x, source))[1])
    for name in ("co_denoise", "windows"):
        list(frames(crafter, "a boat", request=REQUEST, method=long(name)))
    repeated = [
        [
            any(torch.equal(noise[:, :, late], noise[:, :, early]) for early in range(WINDOW))
            for late in range(WINDOW, 11)
        ]
        for noise in began
    ]
    assert not any(repeated[0])
    assert all(repeated[1][:WINDOW])
