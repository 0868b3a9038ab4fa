"""What is particular to a part of a checkpoint is in its record, and nowhere else."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from vc_core.checkpoint import PARTS

ROOT = Path(__file__).parent.parent.parent
FOLDER = Path("vc_core/checkpoint/parts")
CODE = [path.relative_to(ROOT) for folder in ("vc_core", "nodes") for path in sorted((ROOT / folder).rglob("*.py"))]


@pytest.mark.parametrize("name", PARTS)
def test_a_part_is_one_file(name: str) -> None:
    assert (ROOT / FOLDER / f"{name}.py").is_file()
    assert PARTS[name].name == name


@pytest.mark.parametrize("name", PARTS)
def test_a_part_is_built_or_its_shapes_are_known(name: str) -> None:
    assert (PARTS[name].build is None) != (PARTS[name].shapes is None)


@pytest.mark.parametrize("file", [path for path in CODE if path.parent != FOLDER], ids=str)
def test_published_prefixes_are_written_in_the_records_alone(file: Path) -> None:
    prefixes = tuple(part.prefix for part in PARTS.values() if part.prefix)
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    assert not [text for text in texts if text.startswith(prefixes)]


FILES = {
    "unet": "unet",
    "autoencoder": "vae",
    "text_encoder": "clip",
    "image_encoder": "image",
    "image_tokens": "image",
}


@pytest.mark.parametrize(("name", "file"), FILES.items())
def test_files_of_a_split_model_keep_the_names_that_they_had(name: str, file: str) -> None:
    assert PARTS[name].file == file
