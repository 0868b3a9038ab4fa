"""The golden tests of this folder again, with the oldest open_clip that is supported.

`VC_OPEN_CLIP_OLD` names a folder into which it was installed; `run.py test` makes one and sets the variable.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

OLDEST = "2.24.0"
VARIABLE = "VC_OPEN_CLIP_OLD"
HERE = Path(__file__).parent
ROOT = HERE.parents[1]
TESTS = [str(HERE / name) for name in ("test_tokenizer.py", "test_text_encoder.py", "test_image_encoder.py")]


@pytest.fixture
def folder() -> Path:
    """The folder with the old release, or a failure that says what is wrong with it."""
    given = os.environ.get(VARIABLE)
    if not given:
        pytest.skip(f"{VARIABLE} names no folder with open_clip_torch {OLDEST}; `python run.py test` makes one")
    found = [release.version for release in importlib.metadata.distributions(name="open_clip_torch", path=[given])]
    assert found == [OLDEST], f"{VARIABLE} is {given}, which should hold open_clip_torch {OLDEST} but holds {found}"
    return Path(given).resolve()


def environment(folder: Path) -> dict[str, str]:
    """Golden cases are those kept with the tests: another folder may hold none for the encoders."""
    kept = {name: value for name, value in os.environ.items() if name not in (VARIABLE, "VC_GOLDEN_DIR")}
    return {**kept, "PYTHONPATH": str(folder), "PYTHONWARNINGS": "ignore"}


def test_the_old_release_is_the_one_imported(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import open_clip, sys; sys.stdout.write(open_clip.__file__)"],
        cwd=ROOT,
        env=environment(folder),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert folder in Path(done.stdout).resolve().parents


def test_golden_numbers_hold_with_the_old_release(folder: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "golden", *TESTS]
    done = subprocess.run(command, cwd=ROOT, env=environment(folder), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed, done.stdout
    assert int(passed[1]) >= len(TESTS)
    assert "skipped" not in done.stdout
