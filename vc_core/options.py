"""The options of the commands that make videos, and what they ask for."""

from __future__ import annotations

import argparse
import secrets
from pathlib import Path

from .checkpoint import AUTO, DTYPES
from .control.options import add_control_options
from .denoising import SAMPLERS, Sampling
from .denoising.caching import QUALITIES
from .errors import UserError
from .frames.fitting import FITS
from .long import METHODS, Method, method_named
from .long.keyframes import KeyFrames
from .long.method import Parameter
from .long.table import options as long_options
from .pipeline import Request
from .specs import PRESETS, ModelSpec

SEEDS = 2**64


def add_preset(parser: argparse.ArgumentParser) -> None:
    """The choice of a published model's numbers."""
    parser.add_argument(
        "--preset",
        default=AUTO,
        choices=(AUTO, *PRESETS),
        metavar="NAME",
        help=f"whose noise schedule and defaults to use: {AUTO} (detected from the file), {', '.join(PRESETS)}",
    )


def add_video_options(parser: argparse.ArgumentParser) -> None:
    """The options of both commands that make videos."""
    parser.add_argument(
        "prompt",
        nargs="?",
        default=None,
        help="what the video shows; about 70 words are read. ViewCrafter, which always has the same prompt, needs none",
    )
    files = parser.add_argument_group("files")
    files.add_argument(
        "--model",
        "-m",
        action="append",
        type=Path,
        required=True,
        metavar="FILE",
        help="the checkpoint, once for each file of a split one; or 'small' for the bundled small model that the "
        "command needs",
    )
    files.add_argument(
        "--output",
        "-o",
        type=output,
        default=Path("video.mp4"),
        help="the video, in the format of its ending (default: %(default)s)",
    )
    files.add_argument(
        "--lora",
        action="append",
        type=lora,
        default=[],
        metavar="FILE[:STRENGTH]",
        help="a LoRA file, with a strength other than 1 after a colon; may be given several times; 'small' is the "
        "bundled T2V-Turbo LoRA of the small model",
    )
    files.add_argument("--overwrite", action="store_true", help="replace the output if it exists")
    add_preset(parser)
    _add_what(parser.add_argument_group("what to make (the model's own default where none is given)"))
    _add_long(parser.add_argument_group("long videos"))
    _add_how(parser.add_argument_group("how to sample (the model's own default where none is given)"))
    add_control_options(parser)
    machine = parser.add_argument_group("where to compute")
    machine.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    machine.add_argument(
        "--dtype", choices=("auto", *DTYPES), default="auto", help="auto: fp16 on a GPU, fp32 on a CPU"
    )
    machine.add_argument(
        "--compile",
        action="store_true",
        help="compile the network first (torch.compile), which takes minutes for each size",
    )
    machine.add_argument(
        "--no-cuda-graphs",
        action="store_true",
        help="on an NVIDIA GPU, launch every operation of a step separately: slower, with less memory",
    )


def _add_what(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--negative", default="", metavar="PROMPT", help="what the video should not show")
    group.add_argument("--seed", type=seed, default=None, help="0 .. 2^64-1; the same seed gives the same frames")
    group.add_argument("--width", type=int, default=None, help="pixels, a multiple of 8")
    group.add_argument("--height", type=int, default=None, help="pixels, a multiple of 8")
    group.add_argument("--frames", type=int, default=None, help="how many; the models were trained on 16")
    group.add_argument(
        "--then",
        action="append",
        default=[],
        metavar="PROMPT",
        help="what the video shows afterwards: one prompt blends into the next; may be given several times (with "
        "--long continue each clip has one prompt, so give at most as many as there are clips)",
    )
    group.add_argument(
        "--fps",
        type=float,
        default=None,
        help="frames per second of the motion, a condition of the model (DynamiCrafter 256: frame stride)",
    )
    group.add_argument("--save-fps", type=float, default=None, help="frames per second at which the file plays")


def _add_long(group: argparse._ArgumentGroup) -> None:
    """The choice of a method, and every parameter of every method once, from their records."""
    summaries = ". ".join(f"{name}: {method.summary}" for name, method in METHODS.items())
    group.add_argument(
        "--long",
        choices=tuple(METHODS),
        default="off",
        help=f"the method for videos longer than the model was trained on. {summaries}. (default: %(default)s)",
    )
    for name, found in long_options().items():
        first = next(iter(found.values()))
        group.add_argument(
            f"--{name.replace('_', '-')}",
            type=first.kind,
            choices=sorted({choice for item in found.values() for choice in item.choices}) or None,
            default=None,
            metavar=None if first.choices else "N",
            help=_help_of(found),
        )


def _help_of(found: dict[str, Parameter]) -> str:
    """What a parameter means to the methods that have it, with its defaults."""
    meanings: dict[str, list[str]] = {}
    for method, item in found.items():
        meanings.setdefault(item.help, []).append(f"{item.default} with {method}")
    if len({item.default for item in found.values()}) == len(meanings) == 1:
        return f"{next(iter(meanings))} (default: {next(iter(found.values())).default})"
    return "; ".join(f"{meaning} (default: {', '.join(defaults)})" for meaning, defaults in meanings.items())


def _add_how(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--steps", type=int, default=None, help="denoising steps; more is slower and finer")
    group.add_argument(
        "--cfg", type=float, default=None, help="how closely the prompt is followed; 1 switches guidance off"
    )
    group.add_argument(
        "--sampler",
        choices=tuple(SAMPLERS),
        default=None,
        help="ddim is that of VideoCrafter's authors, lcm that of T2V-Turbo",
    )
    group.add_argument(
        "--spacing", choices=("uniform", "trailing", "lcm"), default=None, help="of the steps over the noise levels"
    )
    group.add_argument("--eta", type=float, default=None, help="0..1, fresh noise in each step")
    group.add_argument("--guidance-rescale", type=float, default=None, help="0..1, against oversaturation at high cfg")
    group.add_argument(
        "--temporal-guidance",
        type=float,
        default=0.0,
        help="0 is off; higher values give steadier motion, for one more pass in each step",
    )
    for name, what in (("step", "deep layers reused from step to step"), ("guidance", "fewer negative passes")):
        group.add_argument(
            f"--{name}-cache", choices=QUALITIES, default=None, help=f"{what}: nearly the same video, faster"
        )
    group.add_argument("--motion", type=float, default=None, help="motion guidance of T2V-Turbo v2, about 0 to 0.5")


def add_picture_options(parser: argparse.ArgumentParser) -> None:
    """The options of image-to-video alone."""
    group = parser.add_argument_group("models that continue an image (DynamiCrafter, ToonCrafter)")
    group.add_argument(
        "--end-picture",
        action="append",
        type=Path,
        default=[],
        metavar="FILE",
        help="what the last frame shows; given several times, a row of key frames: --frames counts those from one to "
        "the next, both included, and each --then is the prompt of the next section",
    )
    group.add_argument(
        "--loop",
        action="store_true",
        help="the video ends where it begins, after passing through the end images if there are any",
    )
    group.add_argument(
        "--fit",
        choices=FITS,
        default=None,
        help="how an image of another shape is fitted: cropped (the default), padded with black, or as the authors do",
    )
    group.add_argument(
        "--image-cfg",
        type=float,
        default=None,
        help="how closely the image is followed; --cfg then counts for the prompt alone",
    )
    views = parser.add_argument_group("models that follow rendered views (ViewCrafter)")
    views.add_argument(
        "--views",
        action="append",
        type=Path,
        default=[],
        metavar="FILE",
        help="a view for each frame, rendered along the path of the camera: a video, a folder of images, or image "
        "files, one after the other. --picture takes the place of the first view, and --end-picture, or --picture with "
        "--loop, that of the last",
    )
    begin = parser.add_argument_group("the start of DynamiCrafter-CIL, for more motion")
    begin.add_argument(
        "--start-timestep",
        type=int,
        default=None,
        metavar="M",
        help="begin with less noise, 1 to 1000 (the authors: 900; 1000 is all of it); with --spacing trailing",
    )
    begin.add_argument(
        "--analytic-init",
        type=Path,
        default=None,
        metavar="FILE",
        help="give the first noise the mean and the variance of videos, from the authors' file for this size",
    )


def seed(text: str) -> int:
    """A seed, or the parser's error."""
    try:
        value = int(text)
    except ValueError:
        value = -1
    if not 0 <= value < SEEDS:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 0 to {SEEDS - 1}")
    return value


def output(text: str) -> Path:
    """The name of a file to write, or the parser's error."""
    if not text:
        raise argparse.ArgumentTypeError("the name of the output is empty; give one such as video.mp4")
    return Path(text)


def strength(text: str) -> float:
    """A number above 0 and at most 1, or the parser's error."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0 and at most 1")
    return value


def lora(text: str) -> tuple[Path, float]:
    """FILE or FILE:STRENGTH; a colon that no number follows is part of the name."""
    name, colon, behind = text.rpartition(":")
    try:
        value = float(behind) if colon and name else None
    except ValueError:
        value = None
    return (Path(text), 1.0) if value is None else (Path(name), value)


def request_of(options: argparse.Namespace, spec: ModelSpec) -> Request:
    """The request that the options make of a model, with a seed drawn where none is given."""
    defaults, eta = spec.defaults, method_named(options.long).eta
    sampler = options.sampler or defaults.sampler
    own_spacing = None if "lcm" in (sampler, defaults.spacing) and sampler != defaults.sampler else defaults.spacing
    return Request(
        negative=options.negative,
        seed=secrets.randbelow(SEEDS) if options.seed is None else options.seed,
        width=options.width,
        height=options.height,
        frames=options.frames,
        fps=options.fps,
        cfg=options.cfg,
        guidance_rescale=options.guidance_rescale,
        temporal_guidance=options.temporal_guidance,
        image_cfg=options.image_cfg,
        motion=options.motion,
        step_cache=options.step_cache,
        guidance_cache=options.guidance_cache,
        sampling=Sampling(
            steps=defaults.steps if options.steps is None else options.steps,
            sampler=sampler,
            spacing=options.spacing or own_spacing,
            eta=next(value for value in (options.eta, eta, defaults.eta) if value is not None),
        ),
        start=options.start_timestep,
        fit=options.fit or "crop",
        loop=options.loop,
        then=tuple(options.then),
    )


def check_used(options: argparse.Namespace, spec: ModelSpec) -> None:
    """Raises UserError for an option that would have no effect."""
    if options.strength is not None and options.video is None and not options.drag_mask:
        start = "--video to start from" if options.picture is None else "--drag-mask"
        raise UserError(f"--strength {options.strength:g} needs a {start}. Leave it out, or give one.")
    if options.fit is not None and not spec.continues_images:
        raise UserError(
            f"--fit {options.fit} is for models that continue an image (DynamiCrafter, ToonCrafter); {spec.name} sees "
            "images of every shape whole. Leave it out."
        )
    if options.views:
        _check_views(options)
    if is_row(options):
        sections = len(options.end_picture) + options.loop
        frames = spec.defaults.frames if options.frames is None else options.frames
        KeyFrames(sections=sections, frames=frames, closed=options.loop).check_prompts(1 + len(options.then))


def prompt_of(given: str | None, spec: ModelSpec) -> str:
    """The prompt, or that of a model that always has the same. Raises UserError where there is neither."""
    if given is None and not spec.defaults.prompt:
        raise UserError(f"There is no prompt, and {spec.name} needs one. Say what the video shows, in quotes.")
    return spec.defaults.prompt if given is None else given


def _check_views(options: argparse.Namespace) -> None:
    """Raises UserError for options that are not supported with rendered views."""
    if is_row(options):
        raise UserError("--views is not supported with several key frames. Make a clip from each to the next.")
    if options.long != "off" or options.free_init:
        name = f"--long {options.long}" if options.long != "off" else "--free-init"
        raise UserError(f"--views is not supported with {name}: each clip has views of its own. Leave {name} out.")


def is_row(options: argparse.Namespace) -> bool:
    """Whether the video runs through key frames: through more images than two, or back to the first."""
    return len(options.end_picture) > (0 if options.loop else 1)


def long_of(options: argparse.Namespace) -> Method:
    """The long-video method that the options choose. Raises UserError for a parameter that it does not have."""
    values = {}
    for name, found in long_options().items():
        value = getattr(options, name)
        if value is None:
            continue
        if options.long not in found:
            flag = name.replace("_", "-")
            raise UserError(
                f"--{flag} works with --long {', '.join(found)} only. Leave it out, or choose one of these."
            )
        values[name] = value
    return method_named(options.long)(**values)
