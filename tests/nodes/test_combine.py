"""The node that writes videos, in a real ComfyUI: what lands in the folders, on the outputs and in the page."""

from __future__ import annotations

import json
import re
import sys
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from video.reading import look, page_metadata, pixels, sound

from comfyui.inprocess import Comfy
from vc_core.errors import UserError
from vc_core.video import available_formats

pytestmark = pytest.mark.weightless

NODE = "VideoCrafterVideoCombine"
PROMPT = {"3": {"class_type": NODE, "inputs": {"text": 'a {b|c} "d" \\ ä } 漢', "is_changed": [float("nan")]}}}
WORKFLOW = {"nodes": [{"id": 3, "type": NODE}], "extra": {"note": "} {{ ü"}}


@pytest.fixture
def images() -> torch.Tensor:
    """7 frames of 70 x 94: smooth, and each different."""
    y, x = torch.meshgrid(torch.linspace(0, 1, 70), torch.linspace(0, 1, 94), indexing="ij")
    return torch.stack([torch.stack([x, y, torch.full_like(x, i / 6)], dim=-1) for i in range(7)])


def run(comfy: Comfy, images: torch.Tensor, **inputs):
    hidden = {"prompt": PROMPT, "extra_pnginfo": {"workflow": WORKFLOW}, "unique_id": "3"}
    return comfy.call(NODE, images=images, hidden=hidden, **inputs)


def shown(comfy: Comfy, outcome) -> Path:
    item = outcome.ui["images"][0]
    folder = comfy.base.output if item["type"] == "output" else comfy.base.root / "temp"
    return folder / item["subfolder"] / item["filename"]


@pytest.mark.parametrize("name", list(available_formats()))
def test_every_format_is_written_shown_and_carries_the_workflow(comfy: Comfy, images, name):
    outcome = run(comfy, images, format=name, fps=8.0, filename_prefix="all/clip")
    video, passed, path, fps, count, (kept, files) = outcome.values
    assert passed is images
    assert (fps, count, kept) == (8.0, 7, True)
    assert Path(path).parent == comfy.base.output / "all"
    assert all(Path(file).is_file() for file in files)
    assert len(files) == (7 if name.startswith("png") else 1)
    assert look(Path(path)).count == 7
    found = page_metadata(Path(path))
    assert found["workflow"] == WORKFLOW
    assert found["prompt"]["3"]["inputs"] == {"text": PROMPT["3"]["inputs"]["text"], "is_changed": [None]}
    assert video.get_dimensions() == (94, 70)
    assert video.get_components().images.shape == (7, 70, 94, 3)
    assert video.get_components().frame_rate == 8
    assert outcome.ui["animated"] == (True,)
    listed = outcome.ui["images"] if available_formats()[name].page else outcome.ui["files"]
    assert [str(comfy.base.output / item["subfolder"] / item["filename"]) for item in listed] == files
    _check_the_page_can_play_it(shown(comfy, outcome))


def _check_the_page_can_play_it(file: Path) -> None:
    """What the node shows in the page: the file, or a small preview of it where browsers cannot play it."""
    seen = look(file)
    assert seen.count == 7
    assert file.suffix in (".mp4", ".webm", ".webp", ".png")
    assert not (file.suffix == ".mp4" and "hevc" in seen.line)
    assert not ("h264" in seen.line and "10le" in seen.line)


def test_nothing_is_written_into_the_file_under_disable_metadata(comfy: Comfy, images, monkeypatch):
    from comfy.cli_args import args

    monkeypatch.setattr(args, "disable_metadata", True)
    for name in ("mp4 h264", "webm vp9", "gif", "webp", "apng", "mkv ffv1"):
        if name in available_formats():
            data = Path(run(comfy, images, format=name, filename_prefix="plain").values[2]).read_bytes()
            assert b"class_type" not in data
            assert b"workflow" not in data.lower()


def test_preview_only_goes_to_the_temporary_folder(comfy: Comfy, images):
    outcome = run(comfy, images, save_output=False, filename_prefix="only_a_look")
    assert outcome.ui["images"][0]["type"] == "temp"
    assert shown(comfy, outcome).is_file()
    assert outcome.values[5][0] is False
    assert not list(comfy.base.output.rglob("only_a_look*"))


def test_names_are_counted_and_files_kept(comfy: Comfy, images):
    paths = [Path(run(comfy, images, filename_prefix="count/me").values[2]) for _ in range(3)]
    assert len(set(paths)) == 3
    assert all(path.is_file() for path in paths)


def test_cancel_leaves_no_file(comfy: Comfy, images):
    import comfy.model_management as management

    before = set(comfy.base.output.rglob("*"))

    def tell(value: int, total: int) -> None:
        if value == 1:  # ComfyUI passes on a few reports a second, and the first at once
            management.interrupt_current_processing()

    with comfy.progress(tell) as seen, pytest.raises(management.InterruptProcessingException):
        run(comfy, images, filename_prefix="cancelled")
    assert seen.steps[-1][1] == 7
    assert len(seen.steps) < 7
    assert set(comfy.base.output.rglob("*")) == before


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on the size of files")
@pytest.mark.parametrize("name", ["mp4 h264", "gif"])
def test_a_full_disk_leaves_no_file_and_says_so(comfy: Comfy, images, name):
    """A limit on the size of files stands for the disk: the system itself refuses to write on."""
    import resource

    before = set(comfy.base.output.rglob("*"))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(UserError, match=r"There is not enough space for the file.*Free some space"):
            run(comfy, images, format=name, filename_prefix="full")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert set(comfy.base.output.rglob("*")) == before


def test_progress_counts_the_frames_of_the_file(comfy: Comfy, images):
    with comfy.progress() as seen:
        run(comfy, images, ping_pong=True, loop_count=2, filename_prefix="progress")
    assert seen.steps[0] == (1, 24)
    assert seen.steps[-1] == (24, 24)


@pytest.mark.parametrize(
    "name",
    [
        "../../x",
        "/etc/passwd",
        "C:\\Windows\\x",
        "a\0b\nc",
        "n" * 300,
        "con",
        "sub/../../../x",
        "",
        "  ",
        "...",
        "LPT1.x",
        "~/x",
    ],
)
def test_hostile_names_stay_inside_the_output_folder(comfy: Comfy, images, name, caplog):
    with caplog.at_level("INFO"):
        path = Path(run(comfy, images, filename_prefix=name).values[2])
    assert path.is_file()
    assert path.resolve().is_relative_to(comfy.base.output.resolve())
    assert name == "~/x" or "was changed to" in caplog.text


def test_sound_goes_into_the_file_and_has_its_length(comfy: Comfy, images):
    wave = torch.sin(torch.arange(48000) * 0.06)[None, None].repeat(1, 2, 1)
    path = Path(run(comfy, images, audio={"waveform": wave, "sample_rate": 48000}, filename_prefix="loud").values[2])
    samples, rate = sound(path)
    assert abs(len(samples) / rate - 7 / 8) < 0.03
    assert samples[1000:-4000].std() == pytest.approx(0.707, abs=0.06)  # what AAC leaves of a pure tone


def test_a_fractional_rate_and_a_multiplier(comfy: Comfy, images):
    outcome = run(comfy, images, fps=11.988, rate_multiplier=2, filename_prefix="rate")
    assert outcome.values[3] == pytest.approx(24000 / 1001)
    assert look(Path(outcome.values[2])).duration == 7 * Fraction(1001, 24000)


def test_core_saves_and_splits_the_video(comfy: Comfy, images):
    video = run(comfy, images, filename_prefix="chain").values[0]
    parts = comfy.call("GetVideoComponents", video=video).values
    assert parts[0].shape == images.shape
    assert (parts[0] - images).abs().mean() < 2 / 255
    comfy.call("SaveVideo", video=video, filename_prefix="chained")
    assert look(next(comfy.base.output.glob("chained*"))).count == 7


def test_a_video_of_pictures_has_the_order_of_the_file(comfy: Comfy, images):
    for name, count in (("gif", 12), ("png", 24)):
        outcome = run(comfy, images, format=name, ping_pong=True, loop_count=2, filename_prefix="order")
        frames = comfy.call("GetVideoComponents", video=outcome.values[0]).values[0]
        assert frames.shape[0] == count
        assert torch.equal(frames[:12], torch.cat([images, images[1:-1].flip(0)]))
        assert outcome.values[4] == count


class Unreadable(dict):
    """AUDIO as some loaders give it for a video that has none: what is asked for it raises."""

    def __getitem__(self, key):
        raise Exception(f"no {key} here\nand a long explanation")  # noqa: TRY002 - what such a loader raises


def test_sound_that_is_none_does_not_stop_the_video(comfy: Comfy, images, caplog):
    with caplog.at_level("INFO"):
        path = Path(run(comfy, images, audio=Unreadable(), filename_prefix="mute").values[2])
    assert look(path).count == 7
    assert "The video has no audio: it could not be read (no waveform here)." in caplog.text
    path = Path(run(comfy, images, audio={"waveform": torch.zeros(1, 2, 0), "sample_rate": 8000}).values[2])
    assert look(path).count == 7


def test_transparency_is_kept(comfy: Comfy, images):
    alpha = torch.linspace(0, 1, 94).expand(7, 70, 94)[..., None]
    path = Path(run(comfy, torch.cat([images, alpha], -1), format="apng", filename_prefix="alpha").values[2])
    assert abs(pixels(path, alpha=True)[..., 3] / 255 - alpha[..., 0].numpy()).max() < 1 / 255


def test_wrong_input_is_refused(comfy: Comfy, images):
    with pytest.raises(UserError, match="at least one image"):
        run(comfy, images[:0])
    with pytest.raises(UserError, match=r"this one has 7\. Choose at most 3"):
        run(comfy, images, fade_frames=5)


def test_the_quality_tooltip_names_the_codecs_numbers(comfy: Comfy):
    tooltip = comfy.classes[NODE].INPUT_TYPES()["required"]["quality"][1]["tooltip"]
    assert "h264 crf: 100 = 8, 80 = 18" in tooltip
    assert json.dumps(tooltip)


@pytest.mark.parametrize(
    ("given", "filled"),
    [
        ("%date:yyyy-MM-dd%/clip", "2026-03-04/clip"),
        ("%date:yy/M/d%_%date:hh.mm.ss%", "26/3/4_05.06.07"),
        ("%date:h-m-s%", "5-6-7"),
        ("100% of %width% %date:%", "100% of %width% "),
    ],
)
def test_dates_are_those_of_the_page(comfy: Comfy, given, filled):
    dated = comfy.module("nodes.host.output").dated
    assert dated(given, datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)) == filled


def test_a_date_in_the_name_is_filled_in(comfy: Comfy, images):
    outcome = run(comfy, images, filename_prefix="dated/%date:yyyy-MM-dd%/%width%")
    path = Path(outcome.values[2])
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", path.parent.name)
    assert path.name.startswith("94_")
    assert outcome.ui["images"][0]["subfolder"] == f"dated/{path.parent.name}"


def test_the_text_is_part_of_the_output_and_goes_nowhere_else(comfy: Comfy, images, monkeypatch):
    """ComfyUI sends a node's output to the page that queued it alone; progress texts go to every page."""
    from server import PromptServer

    class Server:
        client_id = None

        def __getattr__(self, name):
            raise AssertionError(f"the node asked the server for {name}")

    monkeypatch.setattr(PromptServer, "instance", Server(), raising=False)
    for name in ("mp4 h264", "mkv ffv1"):
        line, *_ = run(comfy, images, format=name, filename_prefix="said").ui["text"]
        assert "7 frames of 94x70, 8 per second" in line
