"""The command line, `python -m vc_core COMMAND`: make and measure videos, look into model files, convert them.

It ends with 0 when all went well, with 2 when something given cannot be used (one line on stderr says why), and
with 130 when it was interrupted. Whatever happens, a file appears complete or not at all.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import torch
from tqdm import tqdm

from .batch import add_batch_options, run_batch
from .checkpoint import DTYPES, convert, inspect_checkpoint
from .checkpoint.report import describe, size_of, table
from .commands import IMAGE, TEXT, add_image_to_video, add_text_to_video
from .demo import run_demo
from .denoising import Step
from .errors import UserError
from .evaluating import add_evaluate_options, evaluate
from .job import check_output, checked, resolve_names
from .machine import choose_device
from .making import load_model, made, out_of_memory, threads_for
from .network.memory import is_out_of_memory
from .options import add_preset
from .submit import add_submit_options, run_submit
from .terminal import log_to_terminal, one_line, say

log = logging.getLogger(__name__)

NO_VALUE = re.compile(r"(--[\w-]+=|-\w)--")
INTERRUPTED = 130
UNUSABLE = 2

EXAMPLES = """examples:
  python -m vc_core text-to-video "a boat on the sea, sunset" --model model.ckpt --output boat.mp4
  python -m vc_core image-to-video "the boat sails away" --picture boat.png --model i2v.ckpt --seed 7
  python -m vc_core batch lines.csv --output videos --set model=model.ckpt
  python -m vc_core evaluate boat.mp4 --image boat.png
  python -m vc_core inspect model.ckpt
  python -m vc_core convert model.ckpt --dtype fp16 --split --output models/
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    parser = _parser()
    words = sys.argv[1:] if arguments is None else arguments
    _check_values(parser, words)
    options = parser.parse_args(words)
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
        if not is_out_of_memory(error):
            raise
        return _complain(out_of_memory(error), UNUSABLE)
    return 0


def _check_values(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    """Raises SystemExit for `--option=--`, of which older releases of Python make an empty list."""
    for word in words:
        if NO_VALUE.fullmatch(word):
            parser.error(f"argument {word.removesuffix('--').removesuffix('=')}: '--' is not a value")


def _complain(text: str, status: int) -> int:
    sys.stderr.write("error: " + one_line(text) + "\n")
    return status


class _Parser(argparse.ArgumentParser):
    """Its errors are one line below the usage, whatever characters an argument has."""

    def error(self, message: str) -> NoReturn:
        super().error(one_line(message))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m vc_core",
        description="Make videos with VideoCrafter and its relatives, measure them, look into files, convert them.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    add_text_to_video(_command(commands, TEXT, "make a video from a prompt", _make_video))
    add_image_to_video(_command(commands, IMAGE, "make a video from an image and a prompt", _make_video))
    add_batch_options(_command(commands, "batch", "make many videos from the lines of a file", run_batch))
    add_submit_options(_command(commands, "submit", "make many videos on a running ComfyUI", run_submit))
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
    commands: argparse._SubParsersAction[_Parser],
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
    check_output(options)
    resolve_names(options)
    device = choose_device(options.device)
    job = checked(options)
    for words in job.warnings:
        log.warning("%s", words)
    with threads_for(device, job.parameters):
        crafter = load_model(options)
        with tqdm(desc="sampling", unit="step", disable=True if options.quiet else None) as bar:

            def on_step(step: Step) -> None:
                if step.index == 0:
                    bar.reset(total=step.total)
                bar.update()

            with made(crafter, options, job, on_step) as written:
                pass
    for message in written.messages:
        log.warning("%s", message)
    say(
        f"{written.path}: {written.frames} frames of {written.width}x{written.height} at {float(written.fps):g} per "
        f"second, seed {job.request.seed}"
    )


def _evaluate(options: argparse.Namespace) -> None:
    with threads_for(torch.device("cpu"), 0):  # of many small steps, which gain nothing from more
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

        with threads_for(torch.device("cpu"), 0):
            paths = run_demo(options.output, on_step)
    say("Made with the bundled small models:")
    for path in paths:
        say(f"  {path.resolve()}")
