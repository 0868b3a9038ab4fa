"""What README, docs and the nodes' help point at is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

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
