"""What README, docs and the nodes' help point at is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from vc_core.specs import PRESETS

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "web" / "docs").glob("*.md"))]
LINK = re.compile(r"\]\((?!\w+:|#)([^)#\s]+)")
NAMED = re.compile(r"`((?:docs|benchmarks|tests|evaluation|workflows|web|vc_core|nodes)/[\w./*-]*)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_named_files_are_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    missing = [link for link in LINK.findall(text) if not (page.parent / link).exists()]
    missing += [name for name in NAMED.findall(text) if not any(ROOT.glob(name.rstrip("/.")))]
    assert not missing


def test_pages_and_links_were_found() -> None:
    texts = {page: page.read_text(encoding="utf-8") for page in PAGES}
    assert len(texts) > 20
    assert sum(len(LINK.findall(text)) for text in texts.values()) > 20
    assert sum(len(NAMED.findall(text)) for text in texts.values()) > 20


ROWS = {
    "VideoCrafter2": "videocrafter2_512",
    "VideoCrafter1 T2V-1024": "videocrafter1_t2v_1024",
    "VideoCrafter1 T2V-512": "videocrafter1_t2v_512",
    "T2V-Turbo v1": "t2v_turbo_vc2",
    "T2V-Turbo v2": "t2v_turbo_v2",
    "VideoCrafter1 I2V-512": "videocrafter1_i2v_512",
    "DynamiCrafter 512": "dynamicrafter_512",
    "DynamiCrafter 1024": "dynamicrafter_1024",
    "DynamiCrafter 256": "dynamicrafter_256",
    "DynamiCrafter interpolation": "dynamicrafter_512_interp",
    "ToonCrafter": "tooncrafter_512",
}
"""A model in the README's table -> its preset."""


def described(preset: str) -> str:
    """The settings of a preset as the README writes them."""
    values = PRESETS[preset].defaults
    words = {"lcm": ["lcm_exact", "lcm"], "trailing": ["trailing"], "uniform": []}[values.spacing]
    words += [f"{values.steps} steps", f"cfg {values.cfg:g}"]
    words += [f"guidance_rescale {values.guidance_rescale:g}"] if values.guidance_rescale else []
    return ", ".join(words + ([f"motion_fps {values.fps:g}"] if values.sampler == "ddim" else []))


@pytest.mark.parametrize(("model", "preset"), ROWS.items())
def test_the_table_of_models_gives_the_settings_of_the_presets(model: str, preset: str) -> None:
    (row,) = re.findall(rf"^\| {re.escape(model)} \|.*$", PAGES[0].read_text(encoding="utf-8"), re.MULTILINE)
    _, _, size, _, settings, _ = (cell.strip() for cell in row.strip("|").split("|"))
    values = PRESETS[preset].defaults
    assert size == f"{values.width}x{values.height}"
    assert settings.removeprefix("its preset, ") == described(preset)
