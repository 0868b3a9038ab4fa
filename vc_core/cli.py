"""The command line, `python -m vc_core COMMAND`: make and measure videos, look into model files, convert them.

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
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from .checkpoint import DTYPES, convert, inspect_checkpoint
from .checkpoint.report import describe, size_of, table
from .demo import run_demo
from .denoising import AnalyticInit, Source, Step
from .dragging import add_drag_options
from .errors import UserError
from .evaluating import add_evaluate_options, evaluate
from .job import STRENGTH, Job, check_output, checked, recipe_of, resolve_names
from .long import frames, key_frames
from .long.off import Off
from .long.video import applied
from .machine import choose_device, choose_dtype
from .options import (
    add_picture_options,
    add_preset,
    add_video_options,
    is_row,
    strength,
)
from .pipeline import VideoCrafter
from .recipe import tags
from .terminal import log_to_terminal, printable, say
from .video import write

log = logging.getLogger(__name__)

INTERRUPTED = 130
UNUSABLE = 2
NO_MEMORY = ("out of memory", "allocate memory", "not enough memory")
"""What torch says of a GPU, of the CPU on Linux and macOS, and of the CPU on Windows."""
SMALL = 10**7
"""Parameters of a UNet up to which a second thread costs more on a CPU than it gains."""

EXAMPLES = """examples:
  python -m vc_core text-to-video "a boat on the sea, sunset" --model model.ckpt --output boat.mp4
  python -m vc_core image-to-video "the boat sails away" --picture boat.png --model i2v.ckpt --seed 7
  python -m vc_core evaluate boat.mp4 --image boat.png
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
        if not _is_out_of_memory(error):
            raise
        first = str(error).partition("\n")[0] or "out of memory"
        return _complain(
            f"There is not enough memory ({first}). Try --dtype fp16, smaller --width and --height, or fewer --frames.",
            UNUSABLE,
        )
    return 0


def _is_out_of_memory(error: MemoryError | RuntimeError) -> bool:
    return isinstance(error, MemoryError) or any(words in str(error) for words in NO_MEMORY)


def _complain(text: str, status: int) -> int:
    sys.stderr.write("error: " + printable(" ".join(text.split())) + "\n")
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m vc_core",
        description="Make videos with VideoCrafter and its relatives, measure them, look into files, convert them.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    text = _command(commands, "text-to-video", "make a video from a prompt", _make_video)
    add_video_options(text)
    start = text.add_argument_group("to start from a video instead of noise")
    start.add_argument("--video", type=Path, default=None, help="its first frames are used, cropped to the size")
    _add_strength(start)
    add_drag_options(text)
    text.set_defaults(
        picture=None,
        end_picture=[],
        views=[],
        loop=False,
        fit=None,
        image_cfg=None,
        start_timestep=None,
        analytic_init=None,
    )
    image = _command(commands, "image-to-video", "make a video from an image and a prompt", _make_video)
    image.set_defaults(video=None)
    image.add_argument("--picture", "-i", type=Path, required=True, help="the image that the video shows, of any size")
    add_video_options(image)
    add_picture_options(image)
    _add_strength(add_drag_options(image))
    inspect = _command(commands, "inspect", "say what a model file holds, without loading it", _inspect)
    inspect.add_argument("model", nargs="+", type=Path, metavar="FILE", help="a .ckpt or .safetensors file")
    add_preset(inspect)
    inspect.add_argument("--json", action="store_true", help="everything that is known, as JSON")
    change = _command(commands, "convert", "write a model as safetensors, whole or split", _convert)
    _add_convert_options(change)
    add_evaluate_options(
        _command(
            commands, "evaluate", "measure what videos show: flicker, motion, consistency, drift, seams", _evaluate
        )
    )
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


def _add_strength(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--strength",
        type=strength,
        default=None,
        help=f"above 0 (changes little) to 1 (keeps nothing); default: {STRENGTH}",
    )


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
    check_output(options)
    resolve_names(options)
    device = choose_device(options.device)
    dtype = choose_dtype(options.dtype, device)
    job = checked(options)
    source: Source | AnalyticInit | None = job.source
    with _threads(device, job.parameters):
        crafter = VideoCrafter.load(
            options.model, preset=options.preset, device=device, dtype=dtype, loras=options.lora
        )
        crafter.graphs = not options.no_cuda_graphs
        if options.compile:
            crafter.compile()
        if job.start.clip is not None:
            mask = None if job.start.mask is None else job.start.mask[None, None]
            latents = crafter.encode(job.start.clip)
            source = Source(latents, options.strength or STRENGTH, mask, job.start.kept_until)
        sampled = _sampled(crafter, options, job, source)
        made = write(
            options.output,
            sampled,
            fps=job.save_fps,
            metadata=tags(recipe_of(options, job, save_fps=float(job.save_fps), dtype=str(dtype))),
            overwrite=options.overwrite,
        )
    for message in made.messages:
        log.warning("%s", message)
    say(
        f"{made.path}: {made.frames} frames of {made.width}x{made.height} at {float(made.fps):g} per second, "
        f"seed {job.request.seed}"
    )


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


def _sampled(
    crafter: VideoCrafter, options: argparse.Namespace, job: Job, source: Source | AnalyticInit | None
) -> Tensor | Iterator[Tensor]:
    """The frames, of long videos one after the other while the rest is sampled."""
    picture, *ends = job.images
    request, long = job.given, job.method
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
                options.prompt,
                picture,
                request=request,
                source=source,
                on_step=on_step,
                end_image=end,
                views=job.views,
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


def _evaluate(options: argparse.Namespace) -> None:
    with _threads(torch.device("cpu"), 0):  # of many small steps, which gain nothing from more
        evaluate(options)


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
