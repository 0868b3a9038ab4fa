"""The supported file formats as data, and which of them the installed PyAV and Pillow can write."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..errors import UserError

Kind = Literal["stream", "gif", "webp", "apng", "png"]

DEFAULT_QUALITY = 80
"""On the scale from 0 (small file) to 100 (every detail) shared by all lossy formats."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """A codec's own setting at quality 0, 80 (the default) and 100, with linear interpolation in between."""

    name: str
    worst: int
    default: int
    best: int

    def at(self, quality: int) -> int:
        if quality <= DEFAULT_QUALITY:
            start, end, part = self.worst, self.default, quality / DEFAULT_QUALITY
        else:
            start, end = self.default, self.best
            part = (quality - DEFAULT_QUALITY) / (100 - DEFAULT_QUALITY)
        return round(start + (end - start) * part)


@dataclass(frozen=True, kw_only=True)
class Format:
    """A container with a codec and a bit depth."""

    name: str
    """The name that users select: container, codec, and the bit depth if it is not 8. Saved workflows refer to it, so
    it must not change."""
    kind: Kind = "stream"
    suffix: str
    muxer: str = ""
    encoder: str = ""
    pixels: str
    """PyAV's name of the encoded pixel format."""
    alpha: str | None = None
    """The pixel format for frames with transparency; None if the format does not support it."""
    bits: int = 8
    scale: Scale | None = None
    """None for lossless formats."""
    options: Mapping[str, str] = field(default_factory=dict)
    audio: str = ""
    """PyAV's name of the audio encoder; empty if the format does not support audio."""
    tag: str = ""
    max_fps: int = 1000
    min_side: int = 1
    max_side: int = 65535
    page: bool = False
    """Whether browsers can play it."""

    @property
    def lossless(self) -> bool:
        return self.scale is None

    @property
    def rgb(self) -> bool:
        """Whether pixels are stored as RGB instead of being converted to BT.709."""
        return not self.pixels.startswith("yuv")

    @property
    def even(self) -> tuple[bool, bool]:
        """Whether width and height must be even."""
        return "420" in self.pixels or "422" in self.pixels, "420" in self.pixels

    def describe(self, quality: int) -> str:
        """The name with the codec's own setting, such as "mp4 h264, crf 18"."""
        return (
            f"{self.name}, lossless"
            if self.scale is None
            else f"{self.name}, {self.scale.name} {self.scale.at(quality)}"
        )


H264 = Scale(name="crf", worst=40, default=18, best=8)
H265 = Scale(name="crf", worst=45, default=20, best=8)
VP9 = Scale(name="crf", worst=56, default=24, best=6)
AV1 = Scale(name="crf", worst=60, default=26, best=8)
PRORES = Scale(name="profile", worst=0, default=3, best=3)
PRORES_4444 = Scale(name="profile", worst=4, default=4, best=5)
WEBP = Scale(name="quality", worst=20, default=90, best=100)
GIF = Scale(name="colours", worst=16, default=256, best=256)

MIN_SIDES = {"h265": 64, "av1": 16}
"""Smaller frames make x265 write out of bounds when 8-bit and 10-bit videos are encoded in turn."""

_X264 = {"preset": "medium"}
_X265 = {"preset": "medium", "x265-params": "log-level=error"}
_SVT = {"preset": "7"}
_AOM = {"cpu-used": "6", "row-mt": "1"}
_VPX = {"deadline": "good", "cpu-used": "3", "row-mt": "1"}
_FFV1 = {"level": "3", "coder": "1", "context": "1", "slicecrc": "1"}


def _streams(
    codec: str,
    encoder: str,
    pixels: str,
    scale: Scale,
    options: Mapping[str, str],
    *,
    page: bool,
    containers: tuple[str, ...] = ("mp4", "mov", "mkv"),
) -> list[Format]:
    """One codec in several containers."""
    bits = 10 if "10" in pixels else 8
    ending = f" {bits}-bit" if bits > 8 else ""
    return [
        Format(
            name=f"{container} {codec}{ending}",
            suffix=f".{container}",
            muxer="matroska" if container == "mkv" else container,
            encoder=encoder,
            pixels=pixels,
            bits=bits,
            scale=scale,
            min_side=MIN_SIDES.get(codec, 1),
            options=options,
            audio="aac",
            tag="hvc1" if codec == "h265" and container != "mkv" else "",
            page=page and container == "mp4",
        )
        for container in containers
    ]


def _webm(
    codec: str, encoder: str, pixels: str, scale: Scale, options: Mapping[str, str], *, alpha: str | None
) -> Format:
    bits = 10 if "10" in pixels else 8
    return Format(
        name=f"webm {codec}" + (f" {bits}-bit" if bits > 8 else ""),
        suffix=".webm",
        muxer="webm",
        encoder=encoder,
        pixels=pixels,
        alpha=alpha,
        bits=bits,
        scale=scale,
        min_side=MIN_SIDES.get(codec, 1),
        options=options,
        audio="libopus",
        page=True,
    )


def _prores(name: str, pixels: str, alpha: str | None, scale: Scale) -> Format:
    return Format(
        name=name,
        suffix=".mov",
        muxer="mov",
        encoder="prores_ks",
        pixels=pixels,
        alpha=alpha,
        bits=10,
        scale=scale,
        options={"vendor": "apl0", "alpha_bits": "16"},
        audio="pcm_s16le",
    )


def _ffv1(pixels: str, alpha: str, bits: int) -> Format:
    return Format(
        name="mkv ffv1" + (f" {bits}-bit" if bits > 8 else ""),
        suffix=".mkv",
        muxer="matroska",
        encoder="ffv1",
        pixels=pixels,
        alpha=alpha,
        bits=bits,
        options=_FFV1,
        audio="flac",
    )


def _png(kind: Kind, suffix: str, bits: int) -> Format:
    return Format(
        name=kind + (f" {bits}-bit" if bits > 8 else ""),
        kind=kind,
        suffix=suffix,
        encoder="png",
        pixels="rgb24" if bits == 8 else "rgb48be",
        alpha="rgba" if bits == 8 else "rgba64be",
        bits=bits,
        page=kind == "apng",
    )


FORMATS: tuple[Format, ...] = (
    *_streams("h264", "libx264", "yuv420p", H264, _X264, page=True),
    *_streams("h264", "libx264", "yuv420p10le", H264, _X264, page=False),
    *_streams("h265", "libx265", "yuv420p", H265, _X265, page=False),
    *_streams("h265", "libx265", "yuv420p10le", H265, _X265, page=False),
    *_streams("av1", "libsvtav1", "yuv420p", AV1, _SVT, page=True, containers=("mp4", "mkv")),
    *_streams("av1", "libaom-av1", "yuv420p", AV1, _AOM, page=True, containers=("mp4", "mkv")),
    *_streams("av1", "libsvtav1", "yuv420p10le", AV1, _SVT, page=True, containers=("mp4", "mkv")),
    *_streams("av1", "libaom-av1", "yuv420p10le", AV1, _AOM, page=True, containers=("mp4", "mkv")),
    _prores("mov prores 422", "yuv422p10le", None, PRORES),
    _prores("mov prores 4444", "yuv444p10le", "yuva444p10le", PRORES_4444),
    _ffv1("bgr0", "bgra", 8),
    _ffv1("gbrp10le", "gbrap10le", 10),
    _ffv1("rgb48le", "rgba64le", 16),
    _webm("vp9", "libvpx-vp9", "yuv420p", VP9, _VPX, alpha="yuva420p"),
    _webm("vp9", "libvpx-vp9", "yuv420p10le", VP9, {**_VPX, "profile": "2"}, alpha=None),
    _webm("av1", "libsvtav1", "yuv420p", AV1, _SVT, alpha=None),
    _webm("av1", "libaom-av1", "yuv420p", AV1, _AOM, alpha=None),
    _webm("av1", "libsvtav1", "yuv420p10le", AV1, _SVT, alpha=None),
    _webm("av1", "libaom-av1", "yuv420p10le", AV1, _AOM, alpha=None),
    Format(
        name="webp", kind="webp", suffix=".webp", pixels="rgb24", alpha="rgba", scale=WEBP, max_side=16383, page=True
    ),
    Format(name="webp lossless", kind="webp", suffix=".webp", pixels="rgb24", alpha="rgba", max_side=16383, page=True),
    Format(
        name="gif",
        kind="gif",
        suffix=".gif",
        muxer="gif",
        encoder="gif",
        pixels="rgb24",
        alpha="rgba",
        scale=GIF,
        max_fps=50,
    ),
    _png("apng", ".png", 8),
    _png("apng", ".png", 16),
    _png("png", "", 8),
    _png("png", "", 16),
)
"""All supported formats, the best choice for most users first. Of several entries with the same name, the first that
can be written is available. apng files end in .png, like ComfyUI's own, since its page reads workflows only from that
suffix."""


def available_formats() -> dict[str, Format]:
    """The formats that the installed PyAV and Pillow can write, by name; only webp without PyAV."""
    available: dict[str, Format] = {}
    for candidate in FORMATS:
        if candidate.name not in available and _can_write(candidate):
            available[candidate.name] = candidate
    return available


def find_format(name: str) -> Format:
    """The format with that name. Raises UserError, listing the available ones, if it is unknown or not available."""
    available = available_formats()
    if name not in available:
        require_av()
        known = any(each.name == name for each in FORMATS)
        problem = "cannot be written by the installed PyAV" if known else "is unknown"
        raise UserError(f"The video format {name!r} {problem}. Choose one of {', '.join(available)}.")
    return available[name]


_BY_SUFFIX = {
    ".mp4": "mp4 h264",
    ".m4v": "mp4 h264",
    ".mov": "mov h264",
    ".mkv": "mkv h264",
    ".webm": "webm vp9",
    ".webp": "webp",
    ".gif": "gif",
    ".png": "apng",
    ".apng": "apng",
    "": "png",
}


def format_of(path: str | Path) -> Format:
    """The default format for a path, by its suffix; without a suffix it is a folder of PNG images."""
    suffix = Path(path).suffix.lower()
    if Path(path).name.lower() in set(_BY_SUFFIX) - {""}:
        raise UserError(f"{str(path)!r} is a suffix without a name. Add a name, for example 'video{Path(path).name}'.")
    if suffix not in _BY_SUFFIX:
        endings = ", ".join(ending for ending in _BY_SUFFIX if ending)
        raise UserError(f"{str(path)!r} does not end with the suffix of a video format. Use one of {endings}.")
    return find_format(_BY_SUFFIX[suffix])


def quality_table() -> str:
    """Each codec's own setting at quality 100, 80, 60, 40 and 20, one line per codec."""
    rows: dict[str, str] = {}
    for each in available_formats().values():
        if each.scale is not None:
            codec = each.name.removesuffix(f" {each.bits}-bit").split(" ", 1)[-1]
            settings = ", ".join(f"{quality} = {each.scale.at(quality)}" for quality in (100, 80, 60, 40, 20))
            rows.setdefault(codec, f"{codec} {each.scale.name}: {settings}")
    return "\n".join(rows.values())


def _can_write(candidate: Format) -> bool:
    if candidate.kind == "webp":
        from PIL import features

        return bool(features.check("webp"))
    try:
        av = require_av()
    except UserError:
        return False
    if candidate.muxer and candidate.muxer not in av.formats_available:
        return False
    try:
        codec = av.Codec(candidate.encoder, "w")
    except ValueError:  # PyAV does not know the codec
        return False
    if candidate.kind != "stream":
        return True
    return candidate.pixels in {pixels.name for pixels in codec.video_formats or ()}


def require_av() -> Any:
    """PyAV, imported on demand. Raises UserError if it is not installed."""
    try:
        import av
    except ImportError as error:
        raise UserError(
            f"Writing videos requires PyAV, which cannot be imported ({error}). Install it: pip install av"
        ) from error
    return av
