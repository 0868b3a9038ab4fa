"""Long videos by every way, from a prompt to frames and to a file."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import av
import pytest
import small_models
import torch
from PIL import Image

from vc_core import cli, longer
from vc_core.denoising import Sampling, sampling
from vc_core.errors import UserError
from vc_core.longer import METHODS, Long, frames
from vc_core.options import add_video_options, long_of
from vc_core.pipeline import Request, VideoCrafter

WINDOW = 4
REQUEST = Request(seed=5, width=16, height=24, frames=11, cfg=3.0, sampling=Sampling(steps=2))
PICTURE = torch.rand(20, 30, 3, generator=torch.Generator().manual_seed(1))
WAYS = [method for method in METHODS if method != "off"]


def long(method: str, **settings: object) -> Long:
    given: dict[str, object] = {"window": WINDOW, "stride": 2, "overlap": 2, "partitions": 1, **settings}
    return Long(method=method, **given)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("longer")
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


@pytest.mark.parametrize("method", WAYS)
def test_every_way_makes_the_frames_that_were_asked_for(crafter: VideoCrafter, method: str) -> None:
    made = torch.stack(list(frames(crafter, "a boat", request=REQUEST, long=long(method))))
    assert made.shape == (11, 24, 16, 3)
    assert float(made.min()) >= 0
    assert float(made.max()) <= 1
    again = torch.stack(list(frames(crafter, "a boat", request=REQUEST, long=long(method))))
    assert torch.equal(made, again)
    moved = made.diff(dim=0).abs().mean((1, 2, 3))
    assert float(moved.min()) > 0, "no doubled frames"


@pytest.mark.parametrize("method", WAYS)
def test_a_clip_of_one_window_is_the_plain_clip(crafter: VideoCrafter, method: str) -> None:
    """Exactly, at the eta that was asked for."""
    short = replace(REQUEST, frames=WINDOW)
    plain = crafter.generate("a boat", request=short)
    assert torch.equal(torch.stack(list(frames(crafter, "a boat", request=short, long=long(method)))), plain)


def test_fifo_has_no_use_for_a_cache(crafter: VideoCrafter) -> None:
    with pytest.raises(UserError, match="Leave the cache off"):
        next(frames(crafter, "a boat", request=replace(REQUEST, step_cache="high"), long=long("fifo")))
    short = replace(REQUEST, guidance_cache="high", frames=WINDOW)
    assert len(list(frames(crafter, "a boat", request=short, long=long("fifo")))) == WINDOW


@pytest.mark.parametrize("method", WAYS)
def test_pictures_and_several_prompts_go_with_every_way(pictured: VideoCrafter, method: str) -> None:
    request = replace(REQUEST, then=("a storm", "a harbour"))
    made = list(frames(pictured, "a boat", PICTURE, request=request, long=long(method)))
    assert len(made) == 11
    other = list(frames(pictured, "a boat", PICTURE, request=REQUEST, long=long(method)))
    assert not torch.equal(made[-1], other[-1]), "the later prompts count"


@pytest.mark.parametrize(
    ("kind", "frames", "most"), [("text", 11, 5), ("text", 10, 4), ("text", 5, 2), ("continuing", 11, 4)]
)
def test_more_prompts_than_segments_are_refused(
    request: pytest.FixtureRequest, kind: str, frames: int, most: int
) -> None:
    """Also before anything is loaded, by `check_way`. Models that continue pictures share one frame, others two."""
    crafter = request.getfixturevalue({"text": "crafter", "continuing": "continuing"}[kind])
    asked = replace(REQUEST, frames=frames, then=("then",) * (most - 1))
    longer.check_way(crafter.parts.spec, asked, long("continue"))
    too_many = replace(asked, then=("then",) * most)
    says = f"{most + 1} prompts were given, but {frames} frames are made as {most} segments of 4 frames"
    for refuse in (
        lambda: longer.check_way(crafter.parts.spec, too_many, long("continue")),
        lambda: next(longer.frames(crafter, "a", PICTURE, request=too_many, long=long("continue"))),
    ):
        with pytest.raises(UserError, match=says) as caught:
            refuse()
    enough = int(str(caught.value).split("ask for at least ")[1].split()[0])
    longer.check_way(crafter.parts.spec, replace(too_many, frames=enough), long("continue"))
    with pytest.raises(UserError):
        longer.check_way(crafter.parts.spec, replace(too_many, frames=enough - 1), long("continue"))


@pytest.mark.parametrize("sharp", [False, True], ids=["sampled", "sharp"])
@pytest.mark.parametrize(("method", "rounds"), [("continue", 0), ("windows", 0), ("freenoise", 1)])
def test_models_that_continue_pictures_go_with_long_videos(
    continuing: VideoCrafter, method: str, rounds: int, sharp: bool
) -> None:
    """Also where the picture's latent is drawn from the seed."""
    request = replace(REQUEST, sharp=sharp)
    made = torch.stack(list(frames(continuing, "a", PICTURE, request=request, long=long(method, free_init=rounds))))
    assert made.shape == (11, 24, 16, 3)
    assert float(made.diff(dim=0).abs().mean((1, 2, 3)).min()) > 0, "no doubled frames"


def test_freeinit_goes_back_to_the_noise_that_a_picture_left(
    continuing: VideoCrafter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In every round the noise that the first began from, behind what the picture's latent took of the seed."""
    began, taken = [], []
    start, next_start = sampling.start, longer.next_start
    monkeypatch.setattr(sampling, "start", lambda levels, x, source: (began.append(x), start(levels, x, source))[1])
    monkeypatch.setattr(
        longer, "next_start", lambda result, x, *more: (taken.append(x), next_start(result, x, *more))[1]
    )
    list(frames(continuing, "a", PICTURE, request=replace(REQUEST, frames=3), long=long("off", free_init=2)))
    assert len(taken) == 2
    assert all(torch.equal(noise, began[0]) for noise in taken)
    assert not torch.equal(began[0], began[1])


def test_freeinit_is_refused_where_a_run_begins_from_noise_alone(continuing: VideoCrafter) -> None:
    request = replace(REQUEST, frames=3, sampling=Sampling(steps=2, spacing="trailing"))
    with pytest.raises(UserError, match="begins from noise alone"):
        next(frames(continuing, "a", PICTURE, request=request, long=long("off", free_init=1)))
    lower = replace(request, start=900)
    assert len(list(frames(continuing, "a", PICTURE, request=lower, long=long("off", free_init=1)))) == 3


def test_fifo_says_what_it_cannot_drive_before_work_starts(
    files: dict[str, Path],
    continuing: VideoCrafter,
    pictured: VideoCrafter,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    steps: list[object] = []
    with pytest.raises(UserError, match=r"cannot drive models that continue a picture.*small_dynamicrafter"):
        next(frames(continuing, "a", PICTURE, request=REQUEST, long=long("fifo"), on_step=steps.append))
    asked = replace(REQUEST, image_cfg=1.5)
    with pytest.raises(UserError, match=r"scale for the picture \(1.5\)"):
        next(frames(pictured, "a", PICTURE, request=asked, long=long("fifo"), on_step=steps.append))
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
    assert "cannot drive" in capsys.readouterr().err


def test_freenoise_is_what_the_request_makes_of_it(crafter: VideoCrafter) -> None:
    way = long("freenoise")
    made = torch.stack(list(frames(crafter, "a boat", request=REQUEST, long=way)))
    assert torch.equal(made, crafter.generate("a boat", request=way.applied(REQUEST)))


@pytest.mark.parametrize("method", ["fifo", "continue"])
def test_frames_come_while_the_video_is_made(crafter: VideoCrafter, method: str) -> None:
    """From an endless video; with the queue one at a time, with segments after each."""
    steps: list[int] = []
    endless = replace(REQUEST, frames=10**6)
    made = frames(crafter, "a boat", request=endless, long=long(method), on_step=lambda s: steps.append(s.index))
    next(made)
    first = len(steps)
    for _ in range(6):
        next(made)
    assert first <= 4
    assert first < len(steps) <= 12


@pytest.mark.parametrize("method", ["off", "freenoise", "windows"])
def test_freeinit_goes_with_windows_and_changes_the_clip(crafter: VideoCrafter, method: str) -> None:
    calls: list[int] = []
    way = long(method, free_init=2)
    made = list(frames(crafter, "a boat", request=REQUEST, long=way, on_step=lambda s: calls.append(s.index)))
    plain = list(frames(crafter, "a boat", request=REQUEST, long=replace(way, free_init=0)))
    assert calls == [0, 1] * 3
    assert not torch.equal(made[0], plain[0])


def test_what_does_not_go_together_is_refused(crafter: VideoCrafter) -> None:
    for wrong in ({"method": "stretch"}, {"overlap": 4}, {"correct": 2.0}, {"method": "fifo", "free_init": 1}):
        with pytest.raises(UserError):
            long(**{"method": "continue", **wrong})  # type: ignore[arg-type]
    both = replace(long("windows").applied(REQUEST), windows=long("freenoise").applied(REQUEST).windows)
    with pytest.raises(UserError, match="take one"):
        crafter.generate("a boat", request=both)


@pytest.mark.parametrize(
    "extra",
    [
        ["--long", "windows", "--window-order", "looped"],
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


def test_the_command_line_says_what_does_not_go_together(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "long.mp4"
    common = ["--model", str(files["text"]), "--output", str(target), "--video", str(files["picture"])]
    assert cli.main(["text-to-video", "a boat", *common, "--long", "fifo"]) == cli.UNUSABLE
    assert "--video does not go together with --long fifo" in capsys.readouterr().err
    common = common[:-2]
    assert cli.main(["text-to-video", "a boat", *common, "--long", "fifo", "--window-stride", "8"]) == cli.UNUSABLE
    assert "works with --long freenoise, windows, continue" in capsys.readouterr().err
    assert cli.main(["text-to-video", "a boat", *common, "--long", "windows", "--window-stride", "0"]) == cli.UNUSABLE
    assert "Windows of 16 frames every 0 were asked for" in capsys.readouterr().err
    assert not target.exists()


def frames_of(path: Path) -> list[bytes]:
    """The pixels of a file's frames."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24").tobytes() for frame in container.decode(video=0)]


def test_the_command_line_tells_of_the_ways_to_long_videos(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where many frames are asked for and none of the ways; a stride makes other windows."""
    size = ["--width", "16", "--height", "24", "--frames", "18", "--steps", "1", "--seed", "3", "--quiet"]
    common = ["text-to-video", "a boat", "--model", str(files["text"]), "--device", "cpu", *size]
    assert cli.main([*common, "--output", str(tmp_path / "off.mp4")]) == 0
    assert "All 18 frames are made as one clip" in capsys.readouterr().err
    for stride in ("8", "1"):
        given = ["--long", "windows", "--window-stride", stride]
        assert cli.main([*common, "--output", str(tmp_path / f"{stride}.mp4"), *given]) == 0
        assert "one clip" not in capsys.readouterr().err
    assert frames_of(tmp_path / "8.mp4") != frames_of(tmp_path / "1.mp4")


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("freenoise", Long(stride=4)),
        ("freenoise --window-stride 8", Long(stride=8)),
        ("windows", Long(method="windows", order="shifted", stride=16)),
        ("windows --window-stride 12", Long(method="windows", order="uniform", stride=12)),
        ("windows --window-order looped", Long(method="windows", order="looped", stride=8)),
        ("windows --window-order shifted --window-stride 12", Long(method="windows", order="shifted", stride=12)),
        ("continue", Long(method="continue", overlap=8)),
        ("continue --window-stride 13", Long(method="continue", overlap=3)),
    ],
)
def test_the_command_line_asks_for_the_windows_that_suit_each_way(given: str, meant: Long) -> None:
    parser = argparse.ArgumentParser()
    add_video_options(parser)
    assert long_of(parser.parse_args(["a boat", "--model", "x", "--long", *given.split()])) == meant
