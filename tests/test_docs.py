"""What README, docs and the nodes' help refer to exists, and their figures are those of the code."""

from __future__ import annotations

import ast
import importlib
import math
import re
import shlex
from pathlib import Path

import pytest

from benchmarks.memory import plan
from vc_core.cli import UNUSABLE
from vc_core.cli import main as vc_core
from vc_core.specs import PRESETS

ROOT = Path(__file__).resolve().parent.parent
README, MODELS, GPU = ROOT / "README.md", ROOT / "docs" / "models.md", ROOT / "docs" / "gpu.md"
PAGES = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "web" / "docs").glob("*.md")),
]
LINK = re.compile(r"\]\((?!\w+:)([^)\s]*)")
NAMED = re.compile(r"`((?:docs|benchmarks|tests|evaluation|training|worlds|workflows|web|vc_core|nodes)/[\w./*-]*)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def anchors(page: Path) -> set[str]:
    """The headings of a page as GitHub links to them."""
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in HEADING.findall(text_of(page))}


def rows_of(page: Path, model: str) -> list[list[str]]:
    """The cells of the rows of a page that begin with `model`, in the order of its tables."""
    found = re.findall(rf"^\| {re.escape(model)} \|.*$", text_of(page), re.MULTILINE)
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in found]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_named_files_exist(page: Path) -> None:
    text, missing = text_of(page), []
    for link in LINK.findall(text):
        file, _, anchor = link.partition("#")
        target = page.parent / file if file else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            missing.append(link)
    missing += [name for name in NAMED.findall(text) if not any(ROOT.glob(name.rstrip("/.")))]
    assert not missing


def test_pages_and_links_were_found() -> None:
    texts = {page: text_of(page) for page in PAGES}
    assert len(texts) > 20
    assert sum(len(LINK.findall(text)) for text in texts.values()) > 40
    assert sum(len(NAMED.findall(text)) for text in texts.values()) > 20


def test_every_image_is_shown_and_every_guide_and_note_is_linked() -> None:
    texts = {page: text_of(page) for page in PAGES}
    linked = {
        (page.parent / link.partition("#")[0]).resolve() for page, text in texts.items() for link in LINK.findall(text)
    }
    wanted = {*(ROOT / "docs" / "images").iterdir(), *(ROOT / "docs").rglob("*.md")}
    assert wanted <= linked, wanted - linked


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
"""A model in the tables -> its preset."""


def described(preset: str) -> str:
    """The settings of a preset as the table writes them."""
    values = PRESETS[preset].defaults
    words = {"lcm": ["lcm_exact", "lcm"], "trailing": ["trailing"], "uniform": []}[values.spacing]
    words += [f"{values.steps} steps", f"cfg {values.cfg:g}"]
    words += [f"guidance_rescale {values.guidance_rescale:g}"] if values.guidance_rescale else []
    return ", ".join(words + ([f"motion_fps {values.fps:g}"] if values.sampler == "ddim" else []))


@pytest.mark.parametrize(("model", "preset"), ROWS.items())
def test_the_tables_of_models_give_the_sizes_and_settings_of_the_presets(model: str, preset: str) -> None:
    values = PRESETS[preset].defaults
    size = f"{values.width}x{values.height}"
    (readme, *_), (settings, *_), (memory, *_) = rows_of(README, model), rows_of(MODELS, model), rows_of(GPU, model)
    assert readme[2] == settings[1] == memory[1] == size
    assert settings[2] == described(preset)


def planned(model: str) -> tuple[float, ...]:
    """GiB in the table of planned memory: UNet weights, a pass, both, streamed, decoding."""
    cells = rows_of(GPU, model)[0][2:]
    return tuple(float(cell.partition(",")[0]) for cell in cells)


@pytest.mark.parametrize(
    "model",
    ["VideoCrafter2", "VideoCrafter1 T2V-1024", "VideoCrafter1 T2V-512", "DynamiCrafter 256", "DynamiCrafter 1024"],
)
def test_the_table_of_planned_memory_is_what_the_tools_count(model: str) -> None:
    """No more than the table says; how a pass is split into parts may change a little, so it may be less."""
    spec = PRESETS[ROWS[model]]
    counted = plan(spec, (16, spec.defaults.height // spec.size_multiple, spec.defaults.width // spec.size_multiple))
    names = ("weight_bytes", "pass_bytes", "peak_bytes", "peak_bytes_streamed", "decode_bytes_per_frame")
    for stated, name in zip(planned(model), names, strict=True):
        assert 0.75 * stated < counted[name] / 2**30 < 1.01 * stated + 0.01, name


@pytest.mark.parametrize("model", ROWS)
def test_the_readme_rounds_the_planned_memory_up(model: str) -> None:
    weights, of_pass, *_, decoding = planned(model)
    needed = 1.8 * decoding if model == "ToonCrafter" else weights + 1.5 * of_pass
    assert rows_of(README, model)[0][3] == f"{math.ceil(2 * (needed + 0.5)) / 2:g} GiB"


COMMAND = re.compile(r"python -m ((?:vc_core|benchmarks|evaluation|training)\b[^`\n]*)")


def commands() -> list[list[str]]:
    """The words of every command in README and docs, without those that only name a command of `vc_core`."""
    texts = (text_of(page) for page in (README, *(ROOT / "docs").rglob("*.md")))
    found = [shlex.split(line, comments=True) for text in texts for line in COMMAND.findall(text)]
    return [words for words in found if words[0] != "vc_core" or len(words) > 2]


def test_the_commands_in_readme_and_docs_are_accepted(capsys: pytest.CaptureFixture[str]) -> None:
    """Those of `vc_core` get as far as the files, which do not exist."""
    assert len(commands()) > 20
    for module, *words in commands():
        if module == "vc_core":
            words = [{"small": "model.ckpt", "cuda": "cpu"}.get(word, word) for word in words]
            assert vc_core(words) == UNUSABLE
            error = capsys.readouterr().err
            assert any(
                word in error for word in words if word.endswith((".ckpt", ".pth", ".png", ".csv", ".mp4", "FILE"))
            ), error
        else:
            package = (ROOT / module.replace(".", "/")).is_dir()
            importlib.import_module(f"{module}.__main__" if package else module).parser().parse_args(words)


MESSAGE = re.compile(r"^(?:\| |- )`([^`]{20,})`", re.MULTILINE)
"""An error message at the head of a row or of an item."""


def said() -> str:
    """All texts in the code, without what is filled in."""
    parts = []
    for file in (*(ROOT / "vc_core").rglob("*.py"), *(ROOT / "nodes").rglob("*.py")):
        for node in ast.walk(ast.parse(text_of(file))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                parts.append(node.value)
    return "\n".join(parts)


def test_the_messages_that_readme_and_help_explain_are_those_of_the_code() -> None:
    """Names and numbers are filled in, so three words in a row are enough; of a short message two."""
    code, missing = said(), []
    pages = [README, *(ROOT / "web" / "docs").glob("*.md")]
    messages = [(page.name, message) for page in pages for message in MESSAGE.findall(text_of(page))]
    for page, message in messages:
        words = [word for word in message.replace("...", "").split() if not word.isdigit()]
        length = 3 if len(words) > 4 else 2
        runs = [" ".join(words[start : start + length]) for start in range(len(words) - length + 1)]
        if not any(run in code for run in runs):
            missing.append(f"{page}: {message}")
    assert len(messages) > 20
    assert not missing
