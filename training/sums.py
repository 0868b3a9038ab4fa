"""The SHA-256 of the bundled models and of the other files of weights in the repository, in `SHA256SUMS`.

`python -m training.sums` writes the table. `sha256sum --check --ignore-missing SHA256SUMS` compares it with the files.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TABLE = "SHA256SUMS"
ENDINGS = (".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".npy", ".npz", ".gz")
FUZZED = Path("tests", "fuzz")
"""Its files are damaged on purpose, and new ones are found all the time."""


def covered(root: Path = ROOT) -> Iterator[Path]:
    """The files in the table, relative to `root`: everything in models, and the weights and archives of the tests."""
    for path in sorted((root / "models").rglob("*")):
        if path.is_file():
            yield path.relative_to(root)
    for path in sorted((root / "tests").rglob("*")):
        inside = path.relative_to(root)
        if path.suffix in ENDINGS and path.is_file() and not inside.is_relative_to(FUZZED):
            yield inside


def measured(root: Path = ROOT) -> dict[str, str]:
    """The SHA-256 of each covered file, by its name with forward slashes."""
    return {path.as_posix(): hashlib.sha256((root / path).read_bytes()).hexdigest() for path in covered(root)}


def read(root: Path = ROOT) -> dict[str, str]:
    """The table. Raises ValueError for a line that is not one of sha256sum's."""
    lines = (root / TABLE).read_text(encoding="utf-8").splitlines()
    return {name: digest for digest, name in (line.split("  ", maxsplit=1) for line in lines)}


def write(root: Path = ROOT) -> Mapping[str, str]:
    """Writes the table and returns it."""
    table = measured(root)
    text = "".join(f"{digest}  {name}\n" for name, digest in table.items())
    (root / TABLE).write_text(text, encoding="utf-8", newline="\n")
    return table


if __name__ == "__main__":
    sys.stdout.write(f"{TABLE}: {len(write())} files\n")
