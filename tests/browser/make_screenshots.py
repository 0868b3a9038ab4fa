"""Takes the screenshots of ComfyUI's page that the docs show: `docs/images/page-*.jpg`.

    PYTHONPATH=.:tests .venv/bin/python tests/browser/make_screenshots.py

Needs a browser, as the tests beside it do. Look at them afterwards.
"""

from __future__ import annotations

import io
import sys
import tempfile
from pathlib import Path

import stand_ins
from PIL import Image

from browser.canvas import MADE, Canvas, opened
from comfyui.base import PACK, ROOT, make_base
from comfyui.server import Server

DOCS = ROOT / "docs" / "images"
WIDE, NARROW = {"width": 1900, "height": 950}, {"width": 1150, "height": 760}
WIDTH, QUALITY = 1500, 82
IMAGE, TEXT = (stand_ins.FOLDER / f"{name}.json" for name in (stand_ins.FIRST_IMAGE, stand_ins.START))
HALF_WAY = f"() => {{ for (const video of {MADE}) video.currentTime = 0.6 * video.duration; }}"
ACTUAL_SIZE = "() => { app.canvas.ds.scale = 1; app.canvas.ds.offset = [180, 60]; app.canvas.setDirty(true, true); }"
HELP = "() => document.querySelector('[data-testid=\"info-button\"]').click()"
NOTHING_PASSES = "() => !/Job (queued|completed)/.test(document.body.innerText)"
SHORTEN = """() => {
    const all = [...document.querySelectorAll('*')].filter(item => !item.children.length);
    for (const item of all.filter(item => item.textContent.includes('## Stack Trace')))
        item.textContent = item.textContent.split('## Stack Trace')[0];
}"""
"""Leaves out what follows the message: it names folders of this machine."""


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        base = make_base(Path(folder))
        stand_ins.put(base)
        with Server(base) as server:
            for take in (workflow, templates, nodes, error):
                with opened(server.url) as canvas:
                    canvas.command("Comfy.NewBlankWorkflow")
                    take(canvas)
    return 0


def workflow(canvas: Canvas) -> None:
    """A workflow after its run, with the last preview and the video."""
    canvas.page.set_viewport_size(WIDE)
    canvas.drop(IMAGE)
    canvas.fit()
    canvas.run()
    canvas.play()
    canvas.page.evaluate(HALF_WAY)
    save("page-workflow", look(canvas))


def templates(canvas: Canvas) -> None:
    """The template browser."""
    canvas.page.set_viewport_size({**NARROW, "width": 1500})
    canvas.page.evaluate("() => app.extensionManager.setting.set('Comfy.Templates.SortBy', 'alphabetical')")
    canvas.command("Comfy.BrowseTemplates")
    canvas.page.get_by_text(PACK, exact=True).first.click()
    canvas.reads(TEXT.stem)
    save("page-templates", look(canvas))


def nodes(canvas: Canvas) -> None:
    """The node search, and beside it the help of a node."""
    canvas.page.set_viewport_size(NARROW)
    canvas.search("long video")
    canvas.reads("VideoCrafter FreeNoise")
    search = look(canvas)
    canvas.close()
    canvas.add("VideoCrafterFreeNoise")
    canvas.page.evaluate(ACTUAL_SIZE)
    canvas.page.evaluate(HELP)
    canvas.reads("Troubleshooting")
    right = look(canvas).crop((460, 0, NARROW["width"], NARROW["height"]))
    both = Image.new("RGB", (search.width + 8 + right.width, search.height), "white")
    both.paste(search, (0, 0))
    both.paste(right, (search.width + 8, 0))
    save("page-nodes", both)


def error(canvas: Canvas) -> None:
    """What a run with impossible settings says."""
    canvas.page.set_viewport_size(WIDE)
    canvas.drop(TEXT)
    canvas.set("VideoCrafterKSampler", "steps", 27)
    canvas.run()
    canvas.page.get_by_text("View details").first.click()
    canvas.reads("27 steps cannot be spaced uniformly")
    canvas.page.evaluate(SHORTEN)
    canvas.fit()
    save("page-error", look(canvas).crop((450, 0, WIDE["width"], 720)))


def look(canvas: Canvas) -> Image.Image:
    """The page as it is, when its passing notices are gone."""
    canvas.page.wait_for_function(NOTHING_PASSES)
    canvas.settle()
    return Image.open(io.BytesIO(canvas.page.screenshot())).convert("RGB")


def save(name: str, picture: Image.Image) -> None:
    height = round(picture.height * WIDTH / picture.width)
    shrunk = picture.resize((WIDTH, height), Image.Resampling.LANCZOS)
    shrunk.save(DOCS / f"{name}.jpg", quality=QUALITY, optimize=True)


if __name__ == "__main__":
    sys.exit(main())
