"""FRAMES -> FILE: the node that writes a video."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..vc_core.errors import UserError
from ..vc_core.video import (
    DITHERS,
    LENGTHS,
    ODD_SIZES,
    Audio,
    Format,
    Options,
    Written,
    arranged,
    available_formats,
    find_format,
    quality_table,
    write,
)
from .host import output
from .host.compat import advanced, aliases

CATEGORY = "VideoCrafter/video"
PREVIEW_SIDE = 512
PREVIEW_QUALITY = 60
PREVIEW_FORMATS = ("mp4 h264", "webm vp9", "webp")

log = logging.getLogger(__name__)

Filenames = io.Custom("VHS_FILENAMES")
"""VideoHelperSuite's file list: (whether the files were saved, [paths])."""


class VideoCrafterVideoCombine(io.ComfyNode):
    """Saves any batch of images as a video, an animated image or a folder of images."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VideoCrafterVideoCombine",
            display_name="VideoCrafter Video Combine",
            category=CATEGORY,
            description="Saves a batch of images as a video with audio, an animated image or numbered image files. The "
            "workflow is saved in the file: drop the file on the page to restore it. A file appears only once it is "
            "complete, and existing files are never overwritten.",
            inputs=[*_main_inputs(), *_further_inputs()],
            outputs=[
                io.Video.Output(tooltip="The video as written, for Save Video and other video nodes."),
                io.Image.Output(display_name="images", tooltip="The input images, unchanged."),
                io.String.Output(display_name="path", tooltip="Path of the file, or of the folder for png."),
                io.Float.Output(display_name="fps", tooltip="Frames per second of the file, including the multiplier."),
                io.Int.Output(display_name="frame_count", tooltip="Number of frames in the file."),
                Filenames.Output(display_name="filenames", tooltip="The files, for VideoHelperSuite's nodes."),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo, io.Hidden.unique_id],
            is_output_node=True,
            **aliases(
                "video combine", "save video", "save mp4", "export video", "mp4", "webm", "gif", "webp", "prores", "vhs"
            ),
        )

    @classmethod
    def execute(
        cls,
        images: Tensor,
        fps: float,
        format: str,  # noqa: A002 - the widget's name
        quality: int,
        filename_prefix: str,
        save_output: bool,
        ping_pong: bool = False,
        loop_count: int = 0,
        fade_frames: int = 0,
        rate_multiplier: int = 1,
        odd_size: Any = "pad",
        dither: Any = "sierra2_4a",
        audio_length: Any = "trim and pad",
        audio: Mapping[str, Any] | None = None,
    ) -> io.NodeOutput:
        options = Options(
            format=format,
            quality=quality,
            multiplier=rate_multiplier,
            ping_pong=ping_pong,
            fade=fade_frames,
            plays=loop_count,
            odd_size=odd_size,
            dither=dither,
            audio_length=audio_length,
        )
        return _Combine(images, fps, options, audio, cls.hidden).run(filename_prefix, temporary=not save_output)


class _Combine:
    """One run of the node."""

    def __init__(self, images: Tensor, fps: float, options: Options, audio: Any | None, hidden: Any) -> None:
        if images.ndim != 4 or images.shape[0] == 0:
            raise UserError(
                f"images has the shape {tuple(images.shape)}; a video needs at least one image (frames, height, width, "
                "channels)."
            )
        self.images, self.fps, self.options, self.hidden = images, fps, options, hidden
        self.format = find_format(str(options.format))
        self.audio, self.audio_message = _read(audio)
        self.track = None if self.audio is None else Audio(self.audio["waveform"][0], self.audio["sample_rate"])

    def run(self, prefix: str, *, temporary: bool) -> io.NodeOutput:
        _, height, width, _ = self.images.shape
        place = output.target(prefix, self.format.suffix, width=width, height=height, temporary=temporary)
        written = write(
            place.path,
            self.images,
            fps=self.fps,
            options=self.options,
            audio=self.track,
            metadata=output.metadata(self.hidden),
            on_frame=output.progress(),
        )
        files = _files(written.path)
        seconds = float(written.frames / written.fps)
        summary = (
            f"{self.format.describe(self.options.quality)}: {written.frames} frames of "
            f"{written.width}x{written.height}, "
            f"{float(written.fps):g} per second, {seconds:.2f} s"
        )
        lines = [line for line in (summary, place.message, self.audio_message, *written.messages) if line]
        for line in lines:
            log.info("%s", line)
        shown = [place.shown(file) for file in files]
        if not self.format.page:
            ui = {"images": [self._preview(width, height)], "animated": (True,), "text": lines, "files": shown}
        else:
            ui = {"images": shown, "animated": (True,), "text": lines}
        return io.NodeOutput(
            self._video(written),
            self.images,
            str(written.path),
            float(written.fps),
            written.frames,
            (not temporary, [str(file) for file in files]),
            ui=ui,
        )

    def _arranged(self, plays: int = 1) -> Iterator[Tensor]:
        options = self.options
        return arranged(self.images, ping_pong=options.ping_pong, fade=options.fade, plays=plays)[0]

    def _preview(self, width: int, height: int) -> dict[str, str]:
        """Writes a small file that the page can play into the temporary folder."""
        formats = available_formats()
        name = next(name for name in PREVIEW_FORMATS if name in formats)
        place = output.target("VideoCrafter_preview", formats[name].suffix, width=width, height=height, temporary=True)
        written = write(
            place.path,
            (_small(frame) for frame in self._arranged()),
            fps=self.fps,
            options=Options(
                format=name,
                quality=PREVIEW_QUALITY,
                multiplier=self.options.multiplier,
                audio_length=self.options.audio_length,
            ),
            audio=self.track if self.format.audio else None,
            on_frame=lambda *_: output.check_cancelled(),
        )
        return place.shown(written.path)

    def _video(self, written: Written) -> Any:
        """The file if core can read it, otherwise the frames, which are arranged when a node asks for them."""
        if written.format.kind == "stream":
            return output.video_from_file(written.path)
        if written.frames == self.images.shape[0]:
            return output.video_from_frames(lambda: self.images, written.fps, self.audio)
        plays = max(1, self.options.plays) if written.format.kind == "png" else 1
        return output.video_from_frames(
            lambda: torch.stack([frame.float() for frame in self._arranged(plays)]), written.fps, self.audio
        )


def _small(frame: Tensor) -> Tensor:
    """The frame (h w 3), subsampled to at most PREVIEW_SIDE pixels per side."""
    step = math.ceil(max(frame.shape[:2]) / PREVIEW_SIDE)
    return frame[::step, ::step, :3]


def _read(audio: Mapping[str, Any] | None) -> tuple[dict[str, Any] | None, str]:
    """The first clip of ComfyUI's AUDIO, or None and, if there is one, the reason.

    Some loaders read the audio lazily, and fail only here if their video has none.
    """
    if audio is None:
        return None, ""
    try:
        waveform, rate = audio["waveform"][:1], int(audio["sample_rate"])
    except Exception as error:  # whatever the loader raises
        log.info("The audio could not be read", exc_info=True)
        why = str(error).strip().partition("\n")[0]
        return None, f"The video has no audio: it could not be read ({why})."
    return (
        ({"waveform": waveform, "sample_rate": rate}, "")
        if waveform.numel()
        else (None, "The video has no audio: the input is empty.")
    )


def _files(path: Path) -> list[Path]:
    return sorted(path.iterdir()) if path.is_dir() else [path]


def _default(names: list[str]) -> str:
    return "mp4 h264" if "mp4 h264" in names else names[0]


def _describe(video_format: Format) -> str:
    loss = "lossless" if video_format.lossless else "lossy"
    return f"{video_format.name}: {loss}, {video_format.bits} bits" + (", alpha" if video_format.alpha else "")


def _main_inputs() -> list[io.Input]:
    formats = available_formats()
    names = list(formats)
    return [
        io.Image.Input(
            "images", tooltip="The frames; one batch becomes one video. Alpha is kept if the format supports it."
        ),
        io.Float.Input(
            "fps",
            display_name="frame_rate",
            default=8.0,
            min=0.01,
            max=1000.0,
            step=0.001,
            tooltip="Frames per second of the file. 23.976, 29.97 and 59.94 are written as exactly 24000/1001, "
            "30000/1001 and 60000/1001.",
        ),
        io.Combo.Input(
            "format",
            options=names,
            default=_default(names),
            tooltip="Container, codec and bit depth. mp4 h264 plays everywhere. Only formats that the installed PyAV "
            "and Pillow can write are listed.\n" + "\n".join(_describe(each) for each in formats.values()),
        ),
        io.Int.Input(
            "quality",
            default=80,
            min=0,
            max=100,
            tooltip="0 gives the smallest file, 100 keeps every detail, 80 looks good. Lossless formats ignore it. The "
            "corresponding codec settings:\n" + quality_table(),
        ),
        io.String.Input(
            "filename_prefix",
            default="video/VideoCrafter",
            tooltip="File name, optionally with folders, inside ComfyUI's output folder; a number is appended. "
            "%width%, %height%, %year%, %month%, %day% and %date:yyyy-MM-dd hh-mm-ss% are replaced.",
        ),
        io.Boolean.Input(
            "save_output",
            default=True,
            tooltip="Off: only writes a preview to the temporary folder, which ComfyUI empties when it starts.",
        ),
    ]


def _further_inputs() -> list[io.Input]:
    return [
        io.Boolean.Input(
            "ping_pong",
            default=False,
            tooltip="Plays forwards, then backwards. The first and last frames are not repeated, so the loop does not "
            "pause.",
        ),
        io.Int.Input(
            "loop_count",
            default=0,
            min=0,
            max=1000,
            tooltip="How many times it plays. gif, webp, apng: 0 loops forever. Videos and png: the frames are written "
            "this many times; 0 and 1 mean once.",
        ),
        io.Int.Input(
            "fade_frames",
            default=0,
            min=0,
            max=1000,
            tooltip="For a seamless loop: this many frames at the end fade into the beginning, and the video becomes "
            "shorter by as many. 0 is off.",
        ),
        io.Int.Input(
            "rate_multiplier",
            default=1,
            min=1,
            max=64,
            tooltip="Multiplies the frame rate. After an interpolator that doubles the number of frames, set 2 to keep "
            "the speed of the motion.",
            **advanced(io.Int.Input),
        ),
        io.Combo.Input(
            "odd_size",
            options=list(ODD_SIZES),
            default="pad",
            tooltip="What to do with an odd width or height if the codec needs an even one: pad repeats the last "
            "column or row, crop removes it.",
            **advanced(io.Combo.Input),
        ),
        io.Combo.Input(
            "dither",
            options=list(DITHERS),
            default=DITHERS[0],
            tooltip="For gif only. sierra2_4a: fine; floyd_steinberg: finer but noisier; bayer: a regular, stable "
            "pattern that compresses well; none: flat areas with visible banding.",
            **advanced(io.Combo.Input),
        ),
        io.Combo.Input(
            "audio_length",
            options=list(LENGTHS),
            default=LENGTHS[0],
            tooltip="If audio and video differ in length: trim cuts longer audio, pad fills shorter audio with "
            "silence, keep leaves the audio as it is, trim video ends the video with the audio.",
            **advanced(io.Combo.Input),
        ),
        io.Audio.Input("audio", optional=True, tooltip="Audio for mp4, mov, mkv and webm."),
    ]


NODES: list[type[io.ComfyNode]] = [VideoCrafterVideoCombine]
