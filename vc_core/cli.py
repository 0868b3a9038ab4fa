"""The command line, `python -m vc_core COMMAND`: make videos, look into model files, convert them.

It ends with 0 when all went well, with 2 when something given cannot be used (one line on stderr says why), and
with 130 when it was interrupted. Whatever happens, a file appears complete or not at all.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from .checkpoint import AUTO, DTYPES, Part, convert, inspect_checkpoint, open_checkpoint
from .checkpoint.lora import lora_spec
from .checkpoint.report import describe, size_of, table
from .checkpoint.statistics import read_statistics
from .checks import check_ends, check_picture
from .demo import run_demo
from .denoising import AnalyticInit, NoiseSchedule, Source, Step
from .errors import UserError
from .frames.clips import load_clip
from .frames.pixels import load_picture
from .frames.video import check_target, format_of, frame_rate, write
from .keyframes import frames as key_frames
from .longer import Long, check_way
from .longer import frames as long_frames
from .options import add_picture_options, add_preset, add_video_options, long_of, request_of, strength
from .pipeline import Request, VideoCrafter
from .specs import ModelSpec

log = logging.getLogger(__name__)

INTERRUPTED = 130
UNUSABLE = 2
NO_MEMORY = ("out of memory", "allocate memory", "not enough memory")
"""What torch says of a GPU, of the CPU on Linux and macOS, and of the CPU on Windows."""
WHOLE = ("off", "freenoise", "freelong")
"""Ways to long videos that take everything a short one takes."""
NEEDED: tuple[Part, ...] = ("unet", "autoencoder", "text_encoder")

EXAMPLES = """examples:
  python -m vc_core text-to-video "a boat on the sea, sunset" --model model.ckpt --output boat.mp4
  python -m vc_core image-to-video "the boat sails away" --picture boat.png --model i2v.ckpt --seed 7
  python -m vc_core inspect model.ckpt
  python -m vc_core convert model.ckpt --dtype fp16 --split --output models/
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(
        level=logging.INFO if options.verbose else logging.WARNING, format="%(levelname)s: %(message)s", force=True
    )
    try:
        options.run(options)
    except UserError as error:
        return _complain(str(error), UNUSABLE)
    except KeyboardInterrupt:
        return _complain("Interrupted. No partial file was left.", INTERRUPTED)
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        return _complain(f"{error.strerror or error}{where}. No partial file was left.", UNUSABLE)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not any(words in str(error) for words in NO_MEMORY):
            raise
        first = str(error).partition("\n")[0] or "out of memory"
        return _complain(
            f"The memory is not enough ({first}). Try --dtype fp16, a smaller --width and --height, or fewer --frames.",
            UNUSABLE,
        )
    return 0


def say(text: str) -> None:
    """One line to the user."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _complain(text: str, status: int) -> int:
    sys.stderr.write("error: " + " ".join(text.split()) + "\n")
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m vc_core",
        description="Make videos with VideoCrafter and its relatives, look into their files, convert them.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    text = _command(commands, "text-to-video", "make a video from a prompt", _make_video)
    add_video_options(text)
    start = text.add_argument_group("to start from a video instead of noise")
    start.add_argument("--video", type=Path, default=None, help="its first frames are used, cropped to the size")
    start.add_argument(
        "--strength", type=strength, default=0.6, help="above 0 (changes little) to 1 (anew); default: %(default)s"
    )
    text.set_defaults(
        picture=None, end_picture=[], loop=False, fit="crop", image_cfg=None, start_timestep=None, analytic_init=None
    )
    image = _command(commands, "image-to-video", "make a video from a picture and a prompt", _make_video)
    image.set_defaults(video=None)
    image.add_argument("--picture", "-i", type=Path, required=True, help="the picture that the video shows, any size")
    add_video_options(image)
    add_picture_options(image)
    inspect = _command(commands, "inspect", "say what a model file holds, without loading it", _inspect)
    inspect.add_argument("model", nargs="+", type=Path, metavar="FILE", help="a .ckpt or .safetensors file")
    add_preset(inspect)
    inspect.add_argument("--json", action="store_true", help="everything that is known, as JSON")
    change = _command(commands, "convert", "write a model as safetensors, whole or split", _convert)
    _add_convert_options(change)
    demo = _command(commands, "demo", "make two short videos with the small models in the box", _demo)
    demo.add_argument("--output", "-o", type=Path, default=Path("output"), help="the folder to write to (%(default)s)")
    return parser


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    text: str,
    run: Callable[[argparse.Namespace], None],
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    parser.set_defaults(run=run)
    parser.add_argument("--verbose", "-v", action="store_true", help="tell what is assumed about the file")
    parser.add_argument("--quiet", "-q", action="store_true", help="no progress bar")
    return parser


def _add_convert_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="+", type=Path, metavar="FILE", help="a .ckpt or .safetensors file, or several")
    parser.add_argument("--output", "-o", type=Path, required=True, help="a name ending in .safetensors, or a folder")
    parser.add_argument(
        "--dtype", choices=tuple(DTYPES), default=None, help="the type of the weights; as it is if not given"
    )
    parser.add_argument("--split", action="store_true", help="one file each: _unet, _vae, _clip, _image")
    parser.add_argument("--overwrite", action="store_true", help="replace files that exist")
    add_preset(parser)


def _make_video(options: argparse.Namespace) -> None:
    """Check everything that can be checked without the weights; then load, sample, decode, write."""
    check_target(options.output, overwrite=options.overwrite)
    format_of(options.output)
    picture = None if options.picture is None else load_picture(options.picture)
    device = choose_device(options.device)
    dtype = choose_dtype(options.dtype, device)
    checkpoint = open_checkpoint(options.model, preset=options.preset)
    for part in NEEDED:
        checkpoint.require(part)
    check_picture(given=picture is not None, wanted="image_encoder" in checkpoint.parts)
    spec = lora_spec(checkpoint.spec, options.lora)
    check_ends(spec, wanted=bool(options.end_picture), loop=options.loop and not options.end_picture)
    ends = [load_picture(path) for path in options.end_picture]
    long = long_of(options)
    _check_long(options, long)
    request = long.applied(request_of(options, spec))
    settings = request.settle(spec)
    check_way(spec, request, long)
    if long.method == "off" and not ends:
        _tell_long(settings.frames, spec.defaults.frames)
    unchanged = spec is checkpoint.spec
    schedule = checkpoint.schedule() if unchanged else NoiseSchedule.from_spec(spec.diffusion)
    settings.sampling.levels(schedule.until(request.start))
    clip = None
    source: Source | AnalyticInit | None = None
    if options.video is not None:
        clip = load_clip(options.video, frames=settings.frames, width=settings.width, height=settings.height)
    if options.analytic_init is not None:
        source = read_statistics(options.analytic_init)
        source.check(settings.shape(spec))
    save_fps = frame_rate(spec.defaults.save_fps if options.save_fps is None else options.save_fps)
    crafter = VideoCrafter.load(options.model, preset=options.preset, device=device, dtype=dtype, loras=options.lora)
    if options.compile:
        crafter.compile()
    if clip is not None:
        source = Source(crafter.encode(clip), options.strength)
    frames = _sampled(crafter, options, (request, long), (picture, ends), source)
    made = write(
        options.output,
        frames,
        fps=save_fps,
        metadata={"videocrafter": {**_recipe(options, request, spec), "long": asdict(long)}},
        overwrite=options.overwrite,
    )
    for message in made.messages:
        log.warning("%s", message)
    say(
        f"{made.path}: {made.frames} frames of {made.width}x{made.height} at {float(made.fps):g} per second, "
        f"seed {request.seed}"
    )


def _recipe(options: argparse.Namespace, request: Request, spec: ModelSpec) -> dict[str, Any]:
    """How the video was made, kept in its file: what was asked for, and the names of the files that went in."""
    given = {"picture": options.picture, "video": options.video, "analytic_init": options.analytic_init}
    return {
        "model": spec.name,
        "files": [file.name for file in options.model],
        "loras": [[file.name, strength] for file, strength in options.lora],
        "prompt": options.prompt,
        **{name: file.name for name, file in given.items() if file is not None},
        **({} if options.video is None else {"strength": options.strength}),
        **({"end_pictures": [file.name for file in options.end_picture]} if options.end_picture else {}),
        **asdict(request),
    }


def _check_long(options: argparse.Namespace, long: Long) -> None:
    """Raises UserError where a way to long videos does not go together with what else is asked for."""
    if _is_row(options) and options.analytic_init is not None:
        raise UserError("--analytic-init does not go together with a row of key frames: give one --end-picture.")
    if long.method in WHOLE and not long.free_init:
        return
    given = {
        "--video": options.video,
        "--end-picture": options.end_picture or None,
        "--loop": options.loop or None,
        "--analytic-init": options.analytic_init,
    }
    for name in (name for name, value in given.items() if value is not None):
        what = "--free-init" if long.free_init else f"--long {long.method}"
        raise UserError(f"{name} does not go together with {what}. Leave one of them out, or use --long freenoise.")


def _is_row(options: argparse.Namespace) -> bool:
    """Whether the video is made way by way: through more pictures than two, or back to the first."""
    return len(options.end_picture) > (0 if options.loop else 1)


def _tell_long(frames: int, learnt: int) -> None:
    """Names the way to long videos to who asks for many frames and for none of the ways."""
    if frames > learnt:
        way = "--long freenoise keeps them one scene"
        log.warning("All %d frames are made as one clip, though the model learnt with %d; %s.", frames, learnt, way)


def _sampled(
    crafter: VideoCrafter,
    options: argparse.Namespace,
    request: tuple[Request, Long],
    pictures: tuple[Tensor | None, Sequence[Tensor]],
    source: Source | AnalyticInit | None,
) -> Tensor | Iterator[Tensor]:
    """The frames; of some videos one after the other, while the rest is being made. `pictures` are that of the first
    frame, and those that the video then comes to."""
    (wanted, long), (picture, ends) = request, pictures
    log.info("Sampling starts on %s in %s.", crafter.parts.device, crafter.parts.dtype)
    bar = tqdm(desc="sampling", unit="step", disable=True if options.quiet else None)

    def on_step(step: Step) -> None:
        if step.index == 0:
            bar.reset(total=step.total)
        bar.update()

    if long.method not in WHOLE or long.free_init:
        return _closing(bar, long_frames(crafter, options.prompt, picture, request=wanted, long=long, on_step=on_step))
    if picture is not None and _is_row(options):
        row, prompts = (picture, *ends), (options.prompt, *options.then)
        made = key_frames(crafter, prompts, row, request=wanted, closed=options.loop, on_step=on_step)
        return _closing(bar, made)
    with bar:
        end = ends[0] if ends else None
        return crafter.generate(
            options.prompt, picture, request=wanted, source=source, on_step=on_step, end_picture=end
        )


def _closing(bar: Any, frames: Iterator[Tensor]) -> Iterator[Tensor]:
    with bar:
        yield from frames


def _inspect(options: argparse.Namespace) -> None:
    report = describe(inspect_checkpoint(options.model, preset=options.preset))
    say(json.dumps(report, indent=2) if options.json else table(report))


def _convert(options: argparse.Namespace) -> None:
    with tqdm(desc="writing", unit="B", unit_scale=True, disable=True if options.quiet else None) as bar:

        def on_bytes(written: int, total: int) -> None:
            bar.total = total
            bar.update(written - bar.n)

        paths = convert(
            options.model,
            options.output,
            split=options.split,
            dtype=options.dtype,
            preset=options.preset,
            overwrite=options.overwrite,
            on_bytes=on_bytes,
        )
    for path in paths:
        say(f"{path} ({size_of(path.stat().st_size)})")


def _demo(options: argparse.Namespace) -> None:
    """Both clips and a contact sheet, each named when all are done."""
    with tqdm(unit="step", disable=True if options.quiet else None) as bar:

        def on_step(name: str, step: Step) -> None:
            bar.set_description(name)
            bar.total = step.total
            bar.n = step.index + 1
            bar.refresh()

        paths = run_demo(options.output, on_step)
    say("Made with the small models in the box:")
    for path in paths:
        say(f"  {path.resolve()}")


def choose_device(name: str) -> torch.device:
    """The device of that name; "auto" takes a GPU if there is one. Raises UserError when it is not there."""
    there = [kind for kind, found in (("cuda", torch.cuda.is_available()), ("mps", _has_mps())) if found] + ["cpu"]
    if name == AUTO:
        return torch.device(there[0])
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"There is no device {name!r}. Allowed here: auto, {', '.join(there)}.") from error
    if device.type not in there:
        raise UserError(f"The device {name!r} cannot be used on this machine. Allowed here: auto, {', '.join(there)}.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"There is no device {name!r}: this machine has {torch.cuda.device_count()} CUDA devices.")
    return device


def _has_mps() -> bool:
    return torch.backends.mps.is_available()


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """The type of the UNet's weights: "auto" halves them on a GPU and keeps fp32 on a CPU, which is slow in halves."""
    if name == AUTO:
        return torch.float32 if device.type == "cpu" else torch.float16
    return DTYPES[name]
