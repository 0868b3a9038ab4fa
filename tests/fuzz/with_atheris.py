"""Fuzzing that follows the code's branches, by atheris (libFuzzer for Python), with the tests' own inputs and guards:

    python tests/fuzz/with_atheris.py test_texts.test_tracks -max_total_time=600

The first argument names a test of `tests/fuzz` whose only fixture is `folder`; libFuzzer gets the others. An
input that fails is written to `tests/fuzz/corpus`. Needs `pip install atheris` (Linux and macOS), which no other test
does.
"""

from __future__ import annotations

import importlib
import inspect
import sys
import tempfile
from pathlib import Path
from typing import Any

import atheris
import torch  # before the instrumentation, which would slow it down

ROOT = Path(__file__).resolve().parents[2]
INSTRUMENTED = ["vc_core", "PIL", "zipfile", "csv", "json"]


def main(words: list[str]) -> int:
    """Runs until libFuzzer ends, or an input fails."""
    if len(words) < 2 or "." not in words[1]:
        sys.stderr.write(f"{__doc__}\n")
        return 2
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    module, name = words[1].split(".")
    with atheris.instrument_imports(include=INSTRUMENTED):
        tested = getattr(importlib.import_module(f"fuzz.{module}"), name).fuzzed
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        atheris.Setup([words[0], *words[2:]], _entry(name, tested, Path(place)))
        atheris.Fuzz()
    return 0


def _entry(name: str, tested: Any, place: Path) -> Any:
    """A function of bytes, from which hypothesis draws an input of the test."""
    from fuzz import corpus
    from fuzz.fuzzing import Counted, Fuzz
    from fuzz.guards import Folder

    folder = Folder(place / "example")
    folder.refresh()
    wants = {"folder": folder} if "folder" in inspect.signature(tested.test).parameters else {}
    fuzz = Fuzz(name, folder, Counted())

    def examine(case: Any) -> None:
        try:
            fuzz.one(lambda case: tested.test(case=case, **wants), case, tested.bounds)
        except Exception:
            corpus.keep(name, case)
            raise

    return tested.drawn(examine).hypothesis.fuzz_one_input


if __name__ == "__main__":
    sys.exit(main(sys.argv))
