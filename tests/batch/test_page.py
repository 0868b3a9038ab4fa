"""The page and the contact sheet of a batch."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from vc_core.batch.manifest import DONE, FAILED, Entry
from vc_core.batch.page import page, save_page
from vc_core.batch.sheet import save_sheet
from vc_core.video import write

EVIL = '"><script>alert(1)</script>&amp;'


def entry(file: str, **more: Any) -> Entry:
    given = {"prompt": EVIL, "seed": 1, EVIL: [EVIL]}
    values = {"status": DONE, "settings": {"prompt": EVIL}, "frames": 2, "seconds": 1.5, **more}
    return Entry(key=file, line=3, finished="", given=given, file=file, **values)


class Seen(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_texts_are_escaped_and_links_are_relative() -> None:
    entries = [
        entry("a b#?%.mp4"),
        entry("javascript:alert(1).gif"),
        entry("sub/folder"),
        entry("", status=FAILED, error=EVIL),
    ]
    seen = Seen()
    text = page(EVIL, entries, sheet=True)
    seen.feed(text)
    assert not [tag for tag, _ in seen.tags if tag == "script"]
    addresses = [value for _, given in seen.tags for name, value in given.items() if name in ("src", "href")]
    assert set(addresses) == {
        "./contact-sheet.jpg",
        "./manifest.jsonl",
        "./a%20b%23%3F%25.mp4",
        "./javascript%3Aalert%281%29.gif",
        "./sub/folder",
    }
    assert [tag for tag, _ in seen.tags if tag in ("video", "img")] == ["video", "img"]
    assert seen.texts.count(EVIL) > len(entries)
    assert not re.search(r"https?:|//", text)
    assert "3 videos, 1 failed" in text


def test_names_that_are_no_text_are_linked(tmp_path: Path) -> None:
    """A shell passes bytes that are not UTF-8 as single surrogates."""
    save_page(tmp_path / "index.html", "\udcff", [entry("\udcff.mp4"), entry("\ud83d.mp4")], sheet=False)
    written = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert 'src="./%FF.mp4"' in written
    assert "<h1>\\udcff</h1>" in written


@pytest.mark.parametrize("name", ["clip.mp4", "clip.gif", "clip.webp", "clip.png", "folder"])
def test_the_sheet_shows_the_middle_frame_of_every_format(name: str, tmp_path: Path) -> None:
    frames = torch.zeros(3, 24, 32, 3)
    frames[1, ..., 0] = 1  # red
    write(tmp_path / name, frames, fps=5)
    assert save_sheet(tmp_path / "sheet.jpg", tmp_path, [entry(name), entry("gone.mp4"), entry("", status=FAILED)])
    with Image.open(tmp_path / "sheet.jpg") as sheet:
        red, grey = sheet.getpixel((100, 75)), sheet.getpixel((300, 75))
    assert red[0] > 200
    assert max(red[1:]) < 60
    assert max(grey) - min(grey) < 8
    assert not save_sheet(tmp_path / "none.jpg", tmp_path, [entry("", status=FAILED)])
