"""Small models that the command line makes videos with."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from checkpoint.synthetic import IMAGE_MODEL, TEXT_MODEL, published
from command_line.running import runnable
from PIL import Image
from safetensors.torch import save_file

from vc_core.checkpoint import METADATA_KEY
from vc_core.specs import to_json


@pytest.fixture(scope="module")
def text_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    spec = runnable(TEXT_MODEL)
    path = tmp_path_factory.mktemp("models") / "text.safetensors"
    save_file(published(spec), str(path), {METADATA_KEY: to_json(spec)})
    return path


@pytest.fixture(scope="module")
def image_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    spec = runnable(IMAGE_MODEL)
    path = tmp_path_factory.mktemp("models") / "image.safetensors"
    save_file(published(spec), str(path), {METADATA_KEY: to_json(spec)})
    return path


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    Image.fromarray(np.arange(7 * 11 * 3, dtype=np.uint8).reshape(7, 11, 3)).save(path)
    return path


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """The command line sets the root logger up; each test gets it back."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
