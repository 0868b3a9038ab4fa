"""Every available container, codec and bit depth, read back by another program."""

from __future__ import annotations

import json
import shutil
import subprocess
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from video.clips import bars, disc, noise, ramps
from video.reading import ffmpeg, look, page_metadata, pixels
from video.table import facts, measure, rows, stored

from vc_core.errors import UserError
from vc_core.video import FORMATS, Options, available_formats, find_format, format_of, quality_table, write

ALL = list(available_formats())
STREAMS = [name for name in ALL if available_formats()[name].kind == "stream"]
LOSSLESS = [name for name in ALL if available_formats()[name].lossless]
ALPHA = [name for name in ALL if available_formats()[name].alpha]
TICK = {"matroska": Fraction(1, 1000), "webm": Fraction(1, 1000), "gif": Fraction(1, 100), "apng": Fraction(1, 50000)}
"""The coarsest step of time that a container can tell, where it is not the frame; apng: of the reader."""


def path_for(folder: Path, name: str) -> Path:
    return folder / f"clip{find_format(name).suffix}"


@pytest.mark.parametrize("rate", ["8", "24000/1001"])
@pytest.mark.parametrize("name", ALL)
def test_count_rate_size_and_duration_are_exact(tmp_path, name, rate):
    form = find_format(name)
    written = write(path_for(tmp_path, name), ramps(11), fps=rate, options=Options(format=name))
    seen = look(written.path, Fraction(rate) if form.kind == "png" else None)
    assert (written.frames, written.fps, seen.count) == (11, Fraction(rate), 11)
    assert (written.width, written.height) == (94, 66)
    assert ", 94x66" in seen.line
    tick = TICK.get(form.muxer or form.kind, Fraction(1, 1000) if form.kind == "webp" else Fraction(0))
    assert abs(seen.duration - 11 / Fraction(rate)) <= tick
    for i, (time, _) in enumerate(seen.times):
        assert abs(time - seen.times[0][0] - i / Fraction(rate)) <= tick
    if form.kind == "stream":
        assert f" {float(Fraction(rate)):.4g} fps" in seen.line


@pytest.mark.skipif("mp4 h264" not in ALL, reason="no h264 here")
@pytest.mark.parametrize("size", [(64, 64), (128, 64), (112, 112)], ids=str)
def test_the_same_small_frames_make_the_same_file(tmp_path, size):
    """With x264's mbtree, the pixels would differ if other videos were written in between."""
    clip, files = disc(16, *size), set()
    for i in range(8):
        side = (80, 96, 144, 176)[i % 4]
        write(tmp_path / f"other{i}.mp4", noise(6, side, side + 16 * (i % 3)), fps=8)
        files.add(write(tmp_path / f"{i}.mp4", clip, fps=8).path.read_bytes())
    assert len(files) == 1


@pytest.mark.parametrize("name", STREAMS)
def test_bits_and_colours_are_tagged(tmp_path, name):
    form = find_format(name)
    line = look(write(path_for(tmp_path, name), ramps(3), fps=8, options=Options(format=name)).path).line
    depth = line.split("Video:")[1].split("(tv" if "(tv" in line else "(pc")[0]
    assert any(bits in depth for bits in (f"{form.bits}le", "12le" if "4444" in name else "none")) == (form.bits > 8)
    tags = line[line.index("(pc" if form.rgb else "(tv") :].split(")")[0]
    assert tags.startswith("(pc, gbr/bt709/iec61966-2-1" if form.rgb else "(tv, bt709")
    assert "unknown" not in tags


@pytest.mark.skipif(shutil.which("ffprobe") is None, reason="the system has no ffprobe")
@pytest.mark.parametrize("name", STREAMS)
def test_the_systems_ffprobe_agrees(tmp_path, name):
    form = find_format(name)
    path = write(path_for(tmp_path, name), ramps(11), fps="24000/1001", options=Options(format=name)).path
    words = ["ffprobe", "-v", "error", "-count_frames", "-show_streams", "-of", "json", str(path)]
    stream = json.loads(subprocess.run(words, capture_output=True, check=True).stdout)["streams"][0]
    assert stream["nb_read_frames"] == "11"
    assert stream["r_frame_rate"] == "24000/1001"
    assert (stream["width"], stream["height"]) == (94, 66)
    assert stream["color_range"] == ("pc" if form.rgb else "tv")
    assert stream["color_space"] == ("gbr" if form.rgb else "bt709")
    assert stream["color_primaries"] == "bt709"
    assert stream["color_transfer"] == ("iec61966-2-1" if form.rgb else "bt709")


@pytest.mark.parametrize("name", ALL)
def test_colour_bars_and_ramps_come_back_without_a_tint(tmp_path, name):
    """Within what is asked for, and what the document says; the encoders of other builds differ by a little."""
    form, seen = find_format(name), measure(name, tmp_path)
    if name in rows():
        error, tint = map(float, rows()[name][-2:])
        assert abs(seen.error - error) <= 0.2
        assert abs(seen.tint - tint) <= 0.5
    assert seen.error <= (1 if form.lossless else 2)
    assert seen.tint <= (0.6 if form.lossless else 1.6)  # 219 steps of bt709 for 255


def test_the_document_lists_every_format():
    known = list(dict.fromkeys(form.name for form in FORMATS))
    assert list(rows()) == [name for name in known if name != "webm vp9 10-bit"], "few builds can write that one"
    for name in set(rows()) & set(available_formats()):
        assert rows()[name][:-2] == facts(find_format(name))


def test_a_frame_read_with_the_wrong_matrix_would_fail(tmp_path):
    """The same file read as BT.601, to show that the test above would notice."""
    clip = bars(1)
    path = write(tmp_path / "clip.mp4", clip, fps=8).path
    wrong = tmp_path / "wrong.mp4"
    retag = ["-bsf:v", "h264_metadata=matrix_coefficients=6:colour_primaries=6", "-c", "copy"]
    subprocess.run([ffmpeg(), "-v", "error", "-i", str(path), *retag, str(wrong)], check=True)
    words = [ffmpeg(), "-v", "error", "-i", str(wrong), "-vf", "scale=in_color_matrix=bt601", "-pix_fmt", "rgb24"]
    raw = subprocess.run([*words, "-f", "rawvideo", "-"], capture_output=True, check=True).stdout
    error = np.frombuffer(raw, np.uint8).reshape(288, 512, 3) - clip[0].numpy() * 255
    assert np.abs(error[8:136].reshape(128, 8, 64, 3)[:, :, 8:56].mean(axis=(0, 2))).max() > 5


@pytest.mark.parametrize("name", LOSSLESS)
def test_lossless_formats_are_equal_in_every_bit(tmp_path, name):
    clip = noise(3, 37, 53)
    path = write(path_for(tmp_path, name), clip, fps=8, options=Options(format=name)).path
    top = 2 ** find_format(name).bits - 1
    assert np.array_equal(stored(path, name), (clip * top + 0.5).numpy().astype(np.uint16))


@pytest.mark.parametrize("name", LOSSLESS)
def test_bytes_go_through_unchanged(tmp_path, name):
    clip = (noise(2, 37, 53) * 255).byte().numpy()
    path = write(path_for(tmp_path, name), clip, fps=8, options=Options(format=name)).path
    top = 2 ** find_format(name).bits - 1
    assert np.array_equal(stored(path, name), np.round(clip * (top / 255)))


@pytest.mark.parametrize("name", ALPHA)
def test_transparency_is_kept(tmp_path, name):
    """Also where a place is opaque first, and clear in a later frame."""
    form = find_format(name)
    clip = ramps(4, channels=4)
    for i in range(1, 4):
        clip[i, :, :, 3] = clip[i, :, :, 3].roll(23 * i, dims=1)
    path = write(path_for(tmp_path, name), clip, fps=8, options=Options(format=name)).path
    seen = pixels(path, alpha=True, decoder="libvpx-vp9" if "vp9" in name else "")[..., 3] / 255
    wanted = (clip[..., 3] >= 0.5).float() if name == "gif" else clip[..., 3]
    assert np.abs(seen - wanted.numpy()).mean() < (1 / 255 if form.lossless or "4444" in name else 3 / 255)


@pytest.mark.parametrize("name", [name for name in ALL if name not in ALPHA])
def test_other_formats_report_that_they_drop_it(tmp_path, name):
    written = write(path_for(tmp_path, name), ramps(2, channels=4), fps=8, options=Options(format=name))
    assert any("does not support transparency" in message for message in written.messages)


def test_gif_shows_the_clip_with_every_dithering(tmp_path):
    for dither in ("sierra2_4a", "floyd_steinberg", "bayer", "none"):
        options = Options(format="gif", dither=dither)
        for frames in (bars(3), iter(bars(3))):  # one palette for the clip, or one for each frame
            seen = pixels(write(tmp_path / "clip.gif", frames, fps=10, options=options, overwrite=True).path)
            assert np.abs(seen - bars(3).numpy() * 255).mean() < 6
            assert seen.shape[0] == 3


def test_a_still_gif_keeps_its_frames(tmp_path):
    path = write(tmp_path / "clip.gif", bars(1).expand(9, -1, -1, -1), fps=10).path
    assert look(path).duration == Fraction(9, 10)


@pytest.mark.parametrize("name", ["webp", "webp lossless", "apng", "gif"])
@pytest.mark.parametrize("plays", [0, 1, 3])
def test_animations_play_as_often_as_asked(tmp_path, name, plays):
    from PIL import Image

    path = write(path_for(tmp_path, name), ramps(3), fps=8, options=Options(format=name, plays=plays)).path
    with Image.open(path) as opened:
        assert opened.n_frames == 3
        repeats = opened.info.get("loop")
    wanted = {0: 0, 1: None, 3: 2} if name == "gif" else {0: 0, 1: 1, 3: 3}  # GIF counts what follows the first
    assert repeats == wanted[plays]


@pytest.mark.parametrize("name", ALL)
def test_metadata_is_json_encoded_once_where_the_page_looks(tmp_path, name):
    prompt = {"1": {"inputs": {"text": 'unbalanced } and {{ "quoted" \\ ä 漢 🎬', "seed": 2**63}}}
    workflow = {"nodes": list(range(3000)), "name": "x" * 300}
    metadata = {"prompt": prompt, "workflow": workflow, "odd: key\0": "text"}
    path = write(path_for(tmp_path, name), ramps(3), fps=8, options=Options(format=name), metadata=metadata).path
    assert page_metadata(path) == {"prompt": prompt, "workflow": workflow}


def test_quality_goes_up_with_its_number(tmp_path):
    clip = noise(3, 64, 64)
    for name in ALL:
        if not find_format(name).lossless and find_format(name).kind in ("stream", "webp") and "4444" not in name:
            sizes = []
            for quality in (0, 80, 100):
                file = path_for(tmp_path, name)
                write(file, clip, fps=8, options=Options(format=name, quality=quality), overwrite=True)
                sizes.append(file.stat().st_size)
            assert sizes[0] < sizes[1] <= sizes[2], name


def test_the_default_format_of_each_suffix():
    assert format_of("x.mp4").name == "mp4 h264"
    assert format_of("x.WEBM").suffix == ".webm"
    assert format_of("x.png").kind == "apng"
    with pytest.raises(UserError, match=r"Use one of .mp4"):
        format_of("x.avi")


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("frames", [1, 2])
def test_one_or_two_images_make_a_video(tmp_path, name, frames):
    for size in ((66, 94), (64, 64)):
        options = Options(format=name)
        path = write(path_for(tmp_path, name), ramps(frames, *size), fps=8, options=options, overwrite=True).path
        assert abs(look(path).duration - Fraction(frames, 8)) < Fraction(1, 500)


def test_unknown_and_unavailable_formats_have_different_messages():
    with pytest.raises(UserError, match="is unknown"):
        find_format("mp4 h999")
    for form in FORMATS:
        if form.name not in available_formats():
            with pytest.raises(UserError, match="cannot be written by the installed PyAV"):
                find_format(form.name)


def test_the_scale_has_h264_at_18_by_default():
    assert find_format("mp4 h264").scale.at(80) == 18
    assert "h264 crf: 100 = 8, 80 = 18" in quality_table()
