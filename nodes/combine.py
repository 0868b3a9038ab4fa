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
    find_format,
    offered,
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
"""VideoHelperSuite's list of files: (whether they were kept, [paths])."""


class VideoCrafterVideoCombine(io.ComfyNode):
    """Any batch of images as a video, an animated picture or a folder of pictures."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VideoCrafterVideoCombine",
            display_name="VideoCrafter Video Combine",
            category=CATEGORY,
            description="Writes a batch of images as a video with sound, an animated picture or numbered pictures. The "
            "workflow goes into the file: drop it on the page to get it back. A file appears only when it is complete, "
            "and none is ever overwritten.",
            inputs=[*_main_inputs(), *_further_inputs()],
            outputs=[
                io.Video.Output(tooltip="The video as written, for Save Video and the other video nodes."),
                io.Image.Output(display_name="images", tooltip="The images that came in, unchanged."),
                io.String.Output(display_name="path", tooltip="Where the file lies; a folder for png."),
                io.Float.Output(display_name="fps", tooltip="Frames per second in the file, the multiplier included."),
                io.Int.Output(display_name="frame_count", tooltip="Frames in the file."),
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
            raise UserError(f"A video is made of at least one image; these have the shape {tuple(images.shape)}.")
        self.images, self.fps, self.options, self.hidden = images, fps, options, hidden
        self.format = find_format(str(options.format))
        self.audio, self.lost = _read(audio)
        self.sound = None if self.audio is None else Audio(self.audio["waveform"][0], self.audio["sample_rate"])

    def run(self, prefix: str, *, temporary: bool) -> io.NodeOutput:
        _, height, width, _ = self.images.shape
        place = output.target(prefix, self.format.suffix, width=width, height=height, temporary=temporary)
        written = write(
            place.path,
            self.images,
            fps=self.fps,
            options=self.options,
            audio=self.sound,
            metadata=output.metadata(self.hidden),
            on_frame=output.progress(),
        )
        files = _files(written.path)
        seconds = float(written.frames / written.fps)
        summary = (
            f"{self.format.plain(self.options.quality)}: {written.frames} frames of {written.width}x{written.height}, "
            f"{float(written.fps):g} per second, {seconds:.2f} s"
        )
        lines = [line for line in (summary, place.message, self.lost, *written.messages) if line]
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
        """A small file in a format that the page can play, in the temporary folder."""
        there = offered()
        name = next(name for name in PREVIEW_FORMATS if name in there)
        place = output.target("VideoCrafter_preview", there[name].suffix, width=width, height=height, temporary=True)
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
            audio=self.sound if self.format.audio else None,
            on_frame=lambda *_: output.check_cancelled(),
        )
        return place.shown(written.path)

    def _video(self, written: Written) -> Any:
        """The file where core can read it, else the frames, which are put in their order when a node asks for them."""
        if written.format.kind == "stream":
            return output.video_from_file(written.path)
        if written.frames == self.images.shape[0]:
            return output.video_from_frames(lambda: self.images, written.fps, self.audio)
        plays = max(1, self.options.plays) if written.format.kind == "png" else 1
        return output.video_from_frames(
            lambda: torch.stack([frame.float() for frame in self._arranged(plays)]), written.fps, self.audio
        )


def _small(frame: Tensor) -> Tensor:
    """h w 3 of at most PREVIEW_SIDE pixels a side, by leaving pixels out."""
    step = math.ceil(max(frame.shape[:2]) / PREVIEW_SIDE)
    return frame[::step, ::step, :3]


def _read(audio: Mapping[str, Any] | None) -> tuple[dict[str, Any] | None, str]:
    """ComfyUI's AUDIO with its first clip, or None and perhaps the reason: there are loaders that read the sound only
    when it is asked for, and fail then if their video has none."""
    if audio is None:
        return None, ""
    try:
        waveform, rate = audio["waveform"][:1], int(audio["sample_rate"])
    except Exception as error:  # whatever the loader raises
        log.info("The sound could not be read", exc_info=True)
        why = str(error).strip().partition("\n")[0]
        return None, f"There is no sound: it could not be read ({why})."
    return ({"waveform": waveform, "sample_rate": rate}, "") if waveform.numel() else (None, "The sound is empty.")


def _files(path: Path) -> list[Path]:
    return sorted(path.iterdir()) if path.is_dir() else [path]


def _default(names: list[str]) -> str:
    return "mp4 h264" if "mp4 h264" in names else names[0]


def _describe(form: Format) -> str:
    what = "lossless" if form.lossless else "lossy"
    return f"{form.name}: {what}, {form.bits} bits" + (", transparency" if form.alpha else "")


def _main_inputs() -> list[io.Input]:
    forms = offered()
    names = list(forms)
    return [
        io.Image.Input(
            "images", tooltip="The frames, one batch for one video. Images with alpha keep it where the format can."
        ),
        io.Float.Input(
            "fps",
            display_name="frame_rate",
            default=8.0,
            min=0.01,
            max=1000.0,
            step=0.001,
            tooltip="Frames per second of the file. 23.976, 29.97 and 59.94 are written as the exact 24000/1001, "
            "30000/1001 and 60000/1001.",
        ),
        io.Combo.Input(
            "format",
            options=names,
            default=_default(names),
            tooltip="Container, codec and bits. mp4 h264 plays everywhere. Only what the installed PyAV and Pillow can "
            "write is listed.\n" + "\n".join(_describe(form) for form in forms.values()),
        ),
        io.Int.Input(
            "quality",
            default=80,
            min=0,
            max=100,
            tooltip="0 is the smallest file, 100 every detail, 80 is good for the eye. Lossless formats ignore it. In "
            "the codecs' own numbers:\n" + quality_table(),
        ),
        io.String.Input(
            "filename_prefix",
            default="video/VideoCrafter",
            tooltip="The file's name, with folders, inside ComfyUI's output folder; a number is added. %width%, "
            "%height%, %year%, %month%, %day% and %date:yyyy-MM-dd hh-mm-ss% are filled in.",
        ),
        io.Boolean.Input(
            "save_output",
            default=True,
            tooltip="Off: only a preview in the temporary folder, which ComfyUI empties when it starts.",
        ),
    ]


def _further_inputs() -> list[io.Input]:
    return [
        io.Boolean.Input(
            "ping_pong",
            default=False,
            tooltip="Forwards, then backwards; the two end frames are not repeated, so it loops without a stop.",
        ),
        io.Int.Input(
            "loop_count",
            default=0,
            min=0,
            max=1000,
            tooltip="How often it plays. gif, webp, apng: 0 is for ever. Videos and png hold the frames so many times; "
            "0 and 1 are once.",
        ),
        io.Int.Input(
            "fade_frames",
            default=0,
            min=0,
            max=1000,
            tooltip="For a seamless loop: the last so many frames fade into the first. The video gets that much "
            "shorter. 0 is off.",
        ),
        io.Int.Input(
            "rate_multiplier",
            default=1,
            min=1,
            max=64,
            tooltip="Multiplies fps. After an interpolator that made two frames of each, set 2: the motion keeps its "
            "speed.",
            **advanced(io.Int.Input),
        ),
        io.Combo.Input(
            "odd_size",
            options=list(ODD_SIZES),
            default="pad",
            tooltip="What happens to an odd width or height where the codec needs an even one: repeat the last column "
            "or row, or cut it off.",
            **advanced(io.Combo.Input),
        ),
        io.Combo.Input(
            "dither",
            options=list(DITHERS),
            default=DITHERS[0],
            tooltip="gif only. sierra2_4a: fine; floyd_steinberg: finer, noisier; bayer: a regular pattern that does "
            "not move and compresses well; none: flat areas with edges.",
            **advanced(io.Combo.Input),
        ),
        io.Combo.Input(
            "audio_length",
            options=list(LENGTHS),
            default=LENGTHS[0],
            tooltip="Sound that is longer than the video is cut (trim), shorter is filled with silence (pad); keep "
            "leaves it as it is; trim video ends the video where the sound ends.",
            **advanced(io.Combo.Input),
        ),
        io.Audio.Input("audio", optional=True, tooltip="Sound for mp4, mov, mkv and webm."),
    ]


NODES: list[type[io.ComfyNode]] = [VideoCrafterVideoCombine]
