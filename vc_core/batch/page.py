"""The page of the results: one HTML file that opens from the disk, with relative links and without scripts."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

from ..files import placed
from .given import counted
from .manifest import DONE, NAME, SHEET, Entry

PLAYED = (".mp4", ".m4v", ".webm")
SHOWN = (".gif", ".webp", ".png", ".apng")

STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 100rem; padding: 0 1.5rem; }
h1 { font-size: 1.4rem; margin: 0 0 .3rem; }
main { display: grid; gap: 1.2rem; grid-template-columns: repeat(auto-fill, minmax(18rem, 1fr)); margin-top: 1.2rem; }
article { border: 1px solid #8885; border-radius: .5rem; overflow: hidden; }
article > div { padding: .6rem .8rem .8rem; }
video, img { background: #8882; display: block; height: 12rem; object-fit: contain; width: 100%; }
h2 { font-size: .95rem; margin: 0 0 .3rem; overflow-wrap: anywhere; }
p { margin: .2rem 0; }
.about { color: #777; font-size: .85rem; overflow-wrap: anywhere; }
.error { color: #c33; overflow-wrap: anywhere; }
table { border-collapse: collapse; font-size: .8rem; width: 100%; }
td { border-top: 1px solid #8883; overflow-wrap: anywhere; padding: .1rem .3rem; vertical-align: top; }
summary { cursor: pointer; font-size: .85rem; }
"""


def save_page(path: Path, title: str, entries: Sequence[Entry], *, sheet: bool) -> None:
    """Writes the page in place of an earlier one. sheet: whether there is a contact sheet to link to."""
    with placed(path, overwrite=True) as place:
        text = page(title, entries, sheet=sheet)
        place.part.write_text(text, encoding="utf-8", errors="backslashreplace")  # names of files can be any bytes


def page(title: str, entries: Sequence[Entry], *, sheet: bool = False) -> str:
    """The page as HTML. All texts of the entries are escaped."""
    done = sum(entry.status == DONE for entry in entries)
    seconds = sum(entry.seconds for entry in entries)
    links = [_link(SHEET, "Contact sheet")] if sheet else []
    links.append(_link(NAME, "Manifest"))
    failed = f", {len(entries) - done} failed" if done < len(entries) else ""
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(title)}</title>'
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>{head}<style>{STYLE}</style></head>\n<body>\n'
        f"<h1>{escape(title)}</h1>\n"
        f'<p class="about">{counted(done, "video")}{failed}, made in {seconds:.0f} seconds. {" · ".join(links)}</p>\n'
        f"<main>\n{''.join(map(_card, entries))}</main>\n</body>\n</html>\n"
    )


def _card(entry: Entry) -> str:
    prompt = str(entry.settings.get("prompt", entry.given.get("prompt", "")))
    body = [f"<h2>{escape(prompt) or '&nbsp;'}</h2>"]
    if entry.status == DONE:
        size = f"{entry.frames} frames of {entry.width}x{entry.height}, " if entry.frames else ""
        about = f"{size}seed {entry.seed}, {entry.seconds:.1f} s"
        body.append(f'<p class="about">Line {entry.line}: {_link(entry.file, entry.file)}<br>{about}</p>')
    else:
        body.append(f'<p class="error">Line {entry.line} failed: {escape(entry.error)}</p>')
    body.append(_details("The line", entry.given))
    if entry.settings:
        body.append(_details("All settings", entry.settings))
    media = _media(entry) if entry.status == DONE else ""
    return f"<article>{media}<div>{''.join(body)}</div></article>\n"


def _media(entry: Entry) -> str:
    suffix = PurePosixPath(entry.file).suffix.lower()
    if suffix in PLAYED:
        return f'<video controls loop muted playsinline preload="metadata" src="{_address(entry.file)}"></video>'
    if suffix in SHOWN:
        return f'<img loading="lazy" alt="" src="{_address(entry.file)}">'
    return ""


def _details(title: str, values: Mapping[str, Any]) -> str:
    rows = "".join(f"<tr><td>{escape(str(k))}</td><td>{escape(_shown(v))}</td></tr>" for k, v in values.items())
    return f"<details><summary>{title}</summary><table>{rows}</table></details>"


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _link(file: str, text: str) -> str:
    return f'<a href="{_address(file)}">{escape(text)}</a>'


def _address(file: str) -> str:
    """A relative address; the dot keeps a name with a colon from being read as one with a scheme."""
    try:
        return "./" + quote(os.fsencode(file))
    except UnicodeEncodeError:  # no file can have this name
        return "./" + quote(file, errors="replace")
