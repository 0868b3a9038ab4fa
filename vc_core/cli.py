"""The command line, `python -m vc_core COMMAND`: make videos, look into model files, convert them.

It ends with 0 when all went well, with 2 when something given cannot be used (one line on stderr says why), and
with 130 when it was interrupted. Whatever happens, a file appears complete or not at all.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from . import bundled
from .checkpoint import DTYPES, convert, inspect_checkpoint, open_checkpoint
from .checkpoint.lora import lora_spec
from .checkpoint.report import describe, size_of, table
from .checkpoint.statistics import read_statistics
from .checks import check_ends, check_picture
from .demo import run_demo
from .denoising import AnalyticInit, NoiseSchedule, Source, Step
from .errors import UserError
from .frames.pixels import load_image
from .long import Method, frames, key_frames
from .long.method import Feature, Use
from .long.off import Off
from .long.video import applied, check_method
from .machine import choose_device, choose_dtype
from .options import (
    add_picture_options,
    add_preset,
    add_video_options,
    check_used,
    is_row,
    long_of,
    request_of,
    strength,
)
from .pipeline import Request, VideoCrafter
from .recipe import recipe, tags
from .specs import ModelSpec
from .terminal import log_to_terminal, printable, say
from .video import check_target, format_of, frame_rate, write
from .video.clips import load_clip

log = logging.getLogger(__name__)

INTERRUPTED = 130
UNUSABLE = 2
NO_MEMORY = ("out of memory", "allocate memory", "not enough memory")
"""What torch says of a GPU, of the CPU on Linux and macOS, and of the CPU on Windows."""
STRENGTH = 0.6
SMALL = 10**7
"""Parameters of a UNet up to which a second thread costs more on a CPU than it gains."""
NEEDED: tuple[str, ...] = ("unet", "autoencoder", "text_encoder")

EXAMPLES = """examples:
  python -m vc_core text-to-video "a boat on the sea, sunset" --model model.ckpt --output boat.mp4
  python -m vc_core image-to-video "the boat sails away" --picture boat.png --model i2v.ckpt --seed 7
  python -m vc_core inspect model.ckpt
  python -m vc_core convert model.ckpt --dtype fp16 --split --output models/
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    options = _parser().parse_args(arguments)
    log_to_terminal(logging.INFO if options.verbose else logging.WARNING)
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
            f"There is not enough memory ({first}). Try --dtype fp16, smaller --width and --height, or fewer --frames.",
            UNUSABLE,
        )
    return 0


def _complain(text: str, status: int) -> int:
    sys.stderr.write("error: " + printable(" ".join(text.split())) + "\n")
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
        "--strength",
        type=strength,
        default=None,
        help=f"above 0 (changes little) to 1 (keeps nothing); default: {STRENGTH}",
    )
    text.set_defaults(
        picture=None, end_picture=[], loop=False, fit=None, image_cfg=None, start_timestep=None, analytic_init=None
    )
    image = _command(commands, "image-to-video", "make a video from an image and a prompt", _make_video)
    image.set_defaults(video=None, strength=None)
    image.add_argument("--picture", "-i", type=Path, required=True, help="the image that the video shows, of any size")
    add_video_options(image)
    add_picture_options(image)
    inspect = _command(commands, "inspect", "say what a model file holds, without loading it", _inspect)
    inspect.add_argument("model", nargs="+", type=Path, metavar="FILE", help="a .ckpt or .safetensors file")
    add_preset(inspect)
    inspect.add_argument("--json", action="store_true", help="everything that is known, as JSON")
    change = _command(commands, "convert", "write a model as safetensors, whole or split", _convert)
    _add_convert_options(change)
    demo = _command(commands, "demo", "make two short videos with the bundled small models", _demo)
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
    parser.add_argument("--verbose", "-v", action="store_true", help="report what is assumed about the file")
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
    _check_output(options)
    _resolve_names(options)
    picture = None if options.picture is None else load_image(options.picture)
    device = choose_device(options.device)
    dtype = choose_dtype(options.dtype, device)
    checkpoint = open_checkpoint(options.model, preset=options.preset)
    for part in NEEDED:
        checkpoint.require(part)
    spec = lora_spec(checkpoint.spec, options.lora)
    encoder = {"image_encoder", "image_tokens"} <= set(checkpoint.parts)
    check_picture(spec, given=picture is not None, encoder=encoder)
    check_ends(spec, wanted=bool(options.end_picture), loop=options.loop and not options.end_picture)
    check_used(options, spec)
    ends = [load_image(path) for path in options.end_picture]
    long, given = _chosen(options, spec)
    request = applied(long, given, spec)
    settings = request.settle(spec)
    unchanged = spec is checkpoint.spec
    schedule = checkpoint.schedule() if unchanged else NoiseSchedule.from_spec(spec.diffusion)
    settings.sampling.levels(schedule.until(request.start))
    source: Source | AnalyticInit | None = _source(options, settings.shape(spec))
    clip = None
    if options.video is not None:
        clip = load_clip(options.video, frames=settings.frames, width=settings.width, height=settings.height)
    save_fps = frame_rate(spec.defaults.save_fps if options.save_fps is None else options.save_fps)
    _warn(options, spec, None if long.name != "off" or ends else settings.frames)
    with _threads(device, sum(tensor.numel() for tensor in checkpoint.detection.contents.parts["unet"].values())):
        crafter = VideoCrafter.load(
            options.model, preset=options.preset, device=device, dtype=dtype, loras=options.lora
        )
        crafter.graphs = not options.no_cuda_graphs
        if options.compile:
            crafter.compile()
        if clip is not None:
            source = Source(crafter.encode(clip), options.strength or STRENGTH)
        sampled = _sampled(crafter, options, given, long, (picture, *ends), source)
        made = write(
            options.output,
            sampled,
            fps=save_fps,
            metadata=tags(_recipe(options, spec, request, long=long, save_fps=float(save_fps), dtype=str(dtype))),
            overwrite=options.overwrite,
        )
    for message in made.messages:
        log.warning("%s", message)
    say(
        f"{made.path}: {made.frames} frames of {made.width}x{made.height} at {float(made.fps):g} per second, "
        f"seed {request.seed}"
    )


def _check_output(options: argparse.Namespace) -> None:
    form = format_of(options.output)
    check_target(options.output, overwrite=options.overwrite, folder=form.kind == "png")


def _resolve_names(options: argparse.Namespace) -> None:
    """Puts the bundled files in the place of their short name."""
    continues = bool(options.end_picture) or options.loop or options.fit is not None
    small = bundled.model_for(picture=options.picture is not None, continues=continues)
    options.model = [bundled.resolved(path, small) for path in options.model]
    options.lora = [(bundled.resolved(path, bundled.TURBO_LORA), share) for path, share in options.lora]


def _source(options: argparse.Namespace, shape: tuple[int, ...]) -> AnalyticInit | None:
    if options.analytic_init is None:
        return None
    source = read_statistics(options.analytic_init)
    source.check(shape)
    return source


@contextmanager
def _threads(device: torch.device, parameters: int) -> Iterator[None]:
    """One thread for a small network on a CPU, unless OMP_NUM_THREADS asks for another number; then as before."""
    before = torch.get_num_threads()
    if device.type == "cpu" and parameters <= SMALL and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _chosen(options: argparse.Namespace, spec: ModelSpec) -> tuple[Method, Request]:
    """The long-video method and the request. Raises UserError where the method does not support the other options."""
    method, request = long_of(options), request_of(options, spec)
    if is_row(options) and options.analytic_init is not None:
        raise UserError("--analytic-init is not supported with a row of key frames. Give one --end-picture.")
    check_method(method, request, spec, _uses(options), "--long")
    return method, request


def _recipe(
    options: argparse.Namespace, spec: ModelSpec, request: Request, *, long: Method, **more: Any
) -> dict[str, Any]:
    """How the video was made, kept in its file: all settings, and the names of the files that went in."""
    given = {"picture": options.picture, "video": options.video, "analytic_init": options.analytic_init}
    return recipe(
        spec,
        options.prompt,
        request,
        files=[file.name for file in options.model],
        preset=options.preset,
        loras=[[file.name, share] for file, share in options.lora],
        **{name: file.name for name, file in given.items() if file is not None},
        **({} if options.video is None else {"strength": options.strength or STRENGTH}),
        long={"method": long.name, **asdict(long)},
        **({"end_pictures": [file.name for file in options.end_picture]} if options.end_picture else {}),
        **more,
    )


def _warn(options: argparse.Namespace, spec: ModelSpec, whole: int | None) -> None:
    """Warns, before work starts, of what will probably not turn out as wished. whole: frames of a video that is sampled
    as one clip."""
    for prompt in (options.prompt, *options.then):
        words = bundled.warning(spec.name, prompt)
        if words:
            log.warning("%s", words)
    if whole is not None and whole > spec.defaults.frames:
        log.warning(
            "All %d frames are made as one clip, though the model was trained on %d; --long freenoise keeps them one "
            "scene.",
            whole,
            spec.defaults.frames,
        )


def _uses(options: argparse.Namespace) -> dict[Feature, Use]:
    """What a long-video method may not support, by its option."""
    row = is_row(options)
    given = {
        Feature.SOURCE: ("--video", options.video is not None),
        Feature.KEY_FRAMES: ("--end-picture", row),
        Feature.END_IMAGE: ("--end-picture", bool(options.end_picture) and not row),
        Feature.LOOP: ("--loop", options.loop and not row),
        Feature.ANALYTIC_INIT: ("--analytic-init", options.analytic_init is not None),
        Feature.IMAGE_SCALE: ("--image-cfg", options.image_cfg is not None),
    }
    return {feature: Use(given=name, cure=f"Leave {name} out") for feature, (name, used) in given.items() if used}


def _sampled(
    crafter: VideoCrafter,
    options: argparse.Namespace,
    request: Request,
    long: Method,
    pictures: Sequence[Tensor | None],
    source: Source | AnalyticInit | None,
) -> Tensor | Iterator[Tensor]:
    """The frames, of long videos one after the other while the rest is sampled. pictures: the first frame's, then those
    that the video comes to."""
    picture, *ends = pictures
    log.info("Sampling starts on %s in %s.", crafter.parts.device, crafter.parts.dtype)
    bar = tqdm(desc="sampling", unit="step", disable=True if options.quiet else None)

    def on_step(step: Step) -> None:
        if step.index == 0:
            bar.reset(total=step.total)
        bar.update()

    if picture is not None and is_row(options):
        row, prompts = [picture, *(end for end in ends if end is not None)], (options.prompt, *options.then)
        request = applied(long, request, crafter.parts.spec)
        made = key_frames(crafter, prompts, row, request=request, closed=options.loop, on_step=on_step)
        return _closing(bar, made)
    end = ends[0] if ends else None
    if long == Off():
        with bar:
            return crafter.generate(
                options.prompt, picture, request=request, source=source, on_step=on_step, end_image=end
            )
    made = frames(
        crafter,
        options.prompt,
        picture,
        request=request,
        method=long,
        source=source,
        end_image=end,
        on_step=on_step,
    )
    return _closing(bar, made)


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

        with _threads(torch.device("cpu"), 0):
            paths = run_demo(options.output, on_step)
    say("Made with the bundled small models:")
    for path in paths:
        say(f"  {path.resolve()}")
