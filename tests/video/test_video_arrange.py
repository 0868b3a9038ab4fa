"""How frames are prepared before they are encoded: their order, number and size."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from video.clips import ramps
from video.reading import look, pixels, sound

from vc_core.errors import UserError
from vc_core.video import Audio, Options, arranged, available_formats, frame_rate, write, write_video


def numbered(count: int) -> torch.Tensor:
    """Frames 4 x 6 whose every value is the frame's number, in hundredths."""
    return (torch.arange(count) / 100)[:, None, None, None].expand(count, 4, 6, 3)


def order(frames, **options) -> list[float]:
    given = {"ping_pong": False, "fade": 0, "plays": 1, **options}
    result, count = arranged(frames, **given)
    values = [round(float(frame[0, 0, 0]) * 100, 3) for frame in result]
    assert count in (None, len(values))
    return values


def test_ping_pong_repeats_neither_end():
    assert order(numbered(4), ping_pong=True) == [0, 1, 2, 3, 2, 1]
    assert order(numbered(2), ping_pong=True) == [0, 1]
    assert order(numbered(1), ping_pong=True) == [0]
    assert order(numbered(3), ping_pong=True, plays=2) == [0, 1, 2, 1, 0, 1, 2, 1]


def test_a_faded_loop_ends_where_it_began():
    values = order(numbered(9), fade=2)
    assert len(values) == 7
    assert values[:5] == [2, 3, 4, 5, 6]
    assert values[5:] == pytest.approx([7 * 2 / 3, 8 / 3 + 2 / 3], abs=1e-3)  # 7 fades into 0, 8 into 1, then 2 follows
    assert order(iter(numbered(9)), fade=2) == values
    assert order(numbered(9), fade=2, plays=2) == values * 2


def test_a_fade_that_does_not_fit_is_refused():
    for frames in (numbered(5), iter(numbered(5))):
        with pytest.raises(UserError, match=r"needs a clip of at least 6; this one has 5\. Choose at most 2"):
            order(frames, fade=3)
    assert order(numbered(4), fade=2) == pytest.approx([2 * 2 / 3, 3 / 3 + 2 / 3], abs=1e-3)


def test_impossible_orders_say_why():
    with pytest.raises(UserError, match="choose only one of them"):
        order(numbered(9), fade=2, ping_pong=True)
    with pytest.raises(UserError, match="use a tensor or a list"):
        order(iter(numbered(9)), ping_pong=True)
    with pytest.raises(UserError, match="use a tensor or a list"):
        order(iter(numbered(9)), plays=2)


def test_no_arrangement_copies_the_clip():
    clip = ramps(5)
    whole = clip.untyped_storage().data_ptr()
    frames, _ = arranged(clip, ping_pong=True, fade=0, plays=3)
    assert {frame.untyped_storage().data_ptr() for frame in frames} == {whole}


def test_videos_contain_all_plays(tmp_path):
    clip = ramps(5)
    written = write(tmp_path / "clip.mkv", clip, fps=8, options=Options(format="mkv ffv1", plays=3, ping_pong=True))
    seen = pixels(written.path)
    one = np.concatenate([clip.numpy(), clip.numpy()[3:0:-1]])
    assert np.array_equal(seen, np.floor(np.concatenate([one] * 3) * np.float32(255) + np.float32(0.5)))


@pytest.mark.parametrize("given", ["tensor", "array", "list", "generator", "bytes"])
def test_frames_come_in_any_form(tmp_path, given):
    clip = (ramps(4) * 255).round() / 255
    frames = {
        "tensor": clip,
        "array": clip.numpy().astype(np.float64),
        "list": list(clip),
        "generator": (frame for frame in clip),
        "bytes": (clip * 255).round().byte(),
    }[given]
    path = write_video(tmp_path / "clip.mkv", frames, fps=8, options=Options(format="mkv ffv1"))
    assert np.array_equal(pixels(path), (clip * 255).round().byte().numpy())


@pytest.mark.parametrize(
    ("given", "rate"),
    [
        (8, Fraction(8)),
        (23.976, Fraction(24000, 1001)),
        ("23.98", Fraction(24000, 1001)),
        (29.97, Fraction(30000, 1001)),
        ("24000/1001", Fraction(24000, 1001)),
        (Fraction(1, 3), Fraction(1, 3)),
        (12.5, Fraction(25, 2)),
        (24.0, Fraction(24)),
        (0.01, Fraction(1, 100)),
    ],
)
def test_rates_are_exact_fractions(given, rate):
    assert frame_rate(given) == rate


@pytest.mark.parametrize("given", [0, -8, "fast", "1/0", float("nan"), float("inf"), 2000])
def test_invalid_rates_are_refused(given):
    with pytest.raises(UserError, match="rate"):
        frame_rate(given)


def test_the_multiplier_speeds_up_an_interpolated_clip(tmp_path):
    written = write(tmp_path / "clip.mp4", ramps(9), fps="24000/1001", options=Options(multiplier=2))
    assert written.fps == Fraction(48000, 1001)
    assert look(written.path).duration == 9 * Fraction(1001, 48000)


@pytest.mark.parametrize(
    ("name", "size"), [("mkv h264", (67, 93)), ("mov prores 422", (67, 93)), ("mkv ffv1", (67, 93))]
)
def test_odd_sizes_are_padded_or_cropped_with_a_message(tmp_path, name, size):
    clip = ramps(2, *size)
    even = {"mkv h264": (True, True), "mov prores 422": (False, True), "mkv ffv1": (False, False)}[name]
    for odd, step in (("pad", 1), ("crop", -1)):
        path = tmp_path / f"{odd}.{name[:3]}"
        written = write(path, clip, fps=8, options=Options(format=name, odd_size=odd))
        assert (written.height, written.width) == (67 + step * even[0], 93 + step * even[1])
        seen = pixels(path) / 255
        assert seen.shape[1:3] == (written.height, written.width)
        same = seen[:, :66, :92] - clip[:, :66, :92].numpy()
        assert np.abs(same).mean() < 2 / 255
        if even[1] and odd == "pad":
            assert np.abs(seen[:, :66, -1] - clip[:, :66, -1].numpy()).mean() < 3 / 255
        assert bool(written.messages) == any(even)
        assert all(f"{odd}ped" in message or f"{odd}ded" in message for message in written.messages)


def test_invalid_frames_are_refused(tmp_path):
    target = tmp_path / "clip.mp4"
    for frames in (ramps(2)[0], torch.zeros(2, 8, 8, 2), torch.zeros(2, 8, 8, 3, dtype=torch.int64), ["a"], []):
        with pytest.raises(UserError):
            write(target, frames, fps=8)
    with pytest.raises(UserError, match="must be the same size"):
        write(target, [*ramps(2), ramps(1, 64, 64)[0]], fps=8)
    assert list(tmp_path.iterdir()) == []


def test_grey_frames_become_rgb_and_nan_values_are_reported(tmp_path):
    clip = ramps(3)[..., :1].clone()
    clip[1] = float("nan")
    written = write(tmp_path / "clip.mkv", clip, fps=8, options=Options(format="mkv ffv1"))
    assert pixels(written.path)[1].max() == 0
    assert written.messages == ("1 frames contain NaN values, which were written as black.",)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (Options(quality=101), "between 0 and 100"),
        (Options(multiplier=0), "at least 1"),
        (Options(plays=-1), "between 0 and 65535"),
        (Options(plays=10**30), "between 0 and 65535"),
        (Options(fade=-1), "at least 0"),
        (Options(audio_length="long"), "trim and pad"),
        (Options(odd_size="stretch"), "pad, crop"),
        (Options(format="gif"), "ends in .gif"),
    ],
)
def test_invalid_options_are_refused_before_anything_is_written(tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        write(tmp_path / "clip.mp4", ramps(2), fps=8, options=options)
    assert list(tmp_path.iterdir()) == []


def test_formats_have_their_limits(tmp_path):
    with pytest.raises(UserError, match="at most 50 frames per second"):
        write(tmp_path / "clip.gif", ramps(2), fps=60)
    with pytest.raises(UserError, match="supports 1 to 16383 pixels"):
        write(tmp_path / "clip.webp", torch.zeros(1, 1, 16384, 3), fps=8)
    if "mp4 h265" in available_formats():
        with pytest.raises(UserError, match="supports 64 to"):
            write(tmp_path / "clip.mp4", ramps(1, 32, 32), fps=8, options=Options(format="mp4 h265"))


def tone(seconds: float, rate: int, channels: int = 2) -> Audio:
    wave = 0.5 * torch.sin(torch.arange(round(seconds * rate)) * (2 * torch.pi * 440 / rate))
    return Audio(wave.expand(channels, -1), rate)


@pytest.mark.parametrize(
    ("length", "seconds", "wanted"),
    [
        ("trim and pad", 3.0, 1.0),
        ("trim and pad", 0.5, 1.0),
        ("trim", 3.0, 1.0),
        ("trim", 0.5, 0.5),
        ("pad", 3.0, 3.0),
        ("pad", 0.5, 1.0),
        ("keep", 3.0, 3.0),
        ("keep", 0.5, 0.5),
    ],
)
def test_audio_has_the_requested_length(tmp_path, length, seconds, wanted):
    options = Options(format="mov prores 422", audio_length=length)
    path = write(tmp_path / "clip.mov", ramps(8), fps=8, options=options, audio=tone(seconds, 44100)).path
    samples, rate = sound(path)
    assert rate == 44100
    assert len(samples) == round(wanted * 44100)
    there = min(seconds, wanted)
    assert samples[: int(there * rate)].std() == pytest.approx(0.5 / 2**0.5, rel=0.01)
    assert wanted <= seconds or np.abs(samples[int(there * rate) + 10 :]).max() == 0


@pytest.mark.parametrize(
    ("name", "rate", "stored"),
    [("mp4 h264", 44100, 44100), ("mp4 h264", 50000, 64000), ("webm vp9", 44100, 48000), ("mkv ffv1", 22050, 22050)],
)
@pytest.mark.parametrize("channels", [1, 2])
def test_every_container_supports_audio(tmp_path, name, rate, stored, channels):
    path = tmp_path / f"clip.{name.split()[0]}"
    write(path, ramps(8), fps=8, options=Options(format=name), audio=tone(2, rate, channels))
    samples, seen = sound(path)
    assert seen == stored
    assert samples.shape[1] == channels
    assert abs(len(samples) / seen - 1) < 0.03  # AAC and Opus end on a block of their own
    spectrum = np.abs(np.fft.rfft(samples[: seen * 9 // 10, 0]))
    assert np.argmax(spectrum) / 0.9 == pytest.approx(440, abs=3)
    assert look(path).count == 8


@pytest.mark.parametrize(("seconds", "frames"), [(0.3, 3), (0.5, 4), (3.0, 8), (0.01, 1)])
def test_the_video_can_end_with_the_audio(tmp_path, seconds, frames):
    counts = set()
    options = Options(format="mov prores 422", audio_length="trim video")
    path = tmp_path / "clip.mov"
    written = write(
        path, ramps(8), fps=8, options=options, audio=tone(seconds, 8000), on_frame=lambda *seen: counts.add(seen[1])
    )
    assert (written.frames, look(path).count, counts) == (frames, frames, {frames})
    assert len(sound(path)[0]) == frames * 1000
    endless = (frame for _ in range(10**9) for frame in ramps(1))
    assert write(tmp_path / "b.mov", endless, fps=8, options=options, audio=tone(seconds, 8000)).frames <= 24


def test_a_gif_reports_progress_while_its_palette_is_computed(tmp_path):
    reported = []
    write(tmp_path / "clip.gif", ramps(4), fps=8, on_frame=lambda *seen: reported.append(seen))
    assert reported == [(0, 4)] * 4 + [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_audio_for_a_format_without_audio_is_reported(tmp_path):
    written = write(tmp_path / "clip.gif", ramps(2), fps=8, audio=tone(1, 8000))
    assert any("does not support audio" in message for message in written.messages)


@pytest.mark.parametrize("channels", [6, 8])
@pytest.mark.parametrize("name", ["mov prores 422", "mkv ffv1"])
def test_surround_audio_keeps_its_channels_separate(tmp_path, name, channels):
    levels = torch.arange(1, channels + 1)[:, None] / 10
    path = tmp_path / f"clip.{name[:3]}"
    write(path, ramps(2), fps=8, options=Options(format=name), audio=Audio(levels.expand(-1, 12000), 48000))
    samples, rate = sound(path)
    assert (samples.shape, rate) == ((12000, channels), 48000)
    assert np.allclose(samples, levels[:, 0].numpy(), atol=1e-4)


def test_audio_with_other_channels_reports_dropped_channels(tmp_path):
    written = write(tmp_path / "clip.mp4", ramps(2), fps=8, audio=tone(1, 48000, 3))
    assert written.messages == ("1 of 3 audio channels were dropped.",)
    with pytest.raises(UserError, match="channels, samples"):
        Audio(torch.zeros(8), 8000)
