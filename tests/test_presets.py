"""The published models as `docs/presets.md` lists them.

The page is made from the records in `vc_core/specs/family.py`. After a change of theirs write it again with

    VC_WRITE_PRESETS=1 python run.py test tests/test_presets.py
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vc_core.specs import FAMILY, PRESETS, TITLES, Member

PAGE = Path(__file__).resolve().parent.parent / "docs" / "presets.md"

HEAD = """# Published models and their presets

Made from `vc_core/specs/family.py`. The preset is the choice of the loaders and of `--preset`; `auto` finds it from the
tensors of the file, except where two models have the same tensors. Files are on the Hugging Face Hub. The *fps* is the
condition of the network as the authors set it, *stride* where it counts the frames of the film from one frame of the
clip to the next. Sampling settings are the authors' own.

| model | preset | published file | input | size, frames | fps | sampler, spacing | steps | cfg | predicts | rescale |
|---|---|---|---|---|---|---|---|---|---|---|
"""


def row(member: Member) -> str:
    """A model as one line of the table."""
    spec, values = member.spec, member.spec.defaults
    wanted = "text" if not spec.needs_image else "text, image"
    cells = (
        member.title,
        f"`{spec.name}`",
        member.file,
        wanted + (", views" if spec.follows_views else "") + (", last image" if spec.continues_images else ""),
        f"{values.width}x{values.height}, {values.frames}",
        f"{'stride ' if values.fps_is_stride else ''}{values.fps}" if spec.unet.fps_condition else "none",
        f"{values.sampler}, {values.spacing}",
        str(values.steps),
        f"{values.cfg:g}" + (f", rescaled {values.guidance_rescale:g}" if values.guidance_rescale else ""),
        spec.diffusion.prediction + (", zero terminal SNR" if spec.diffusion.zero_terminal_snr else ""),
        "none" if spec.diffusion.rescale is None else f"{spec.diffusion.rescale:g}",
    )
    return f"| {' | '.join(cells)} |"


def test_the_page_lists_the_records() -> None:
    made = HEAD + "\n".join(map(row, FAMILY)) + "\n"
    if os.environ.get("VC_WRITE_PRESETS"):
        PAGE.write_text(made, encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == made


@pytest.mark.parametrize("names", [PRESETS, TITLES], ids=["presets", "titles"])
def test_every_record_is_listed_once(names: dict[str, object]) -> None:
    assert list(names) == [member.spec.name for member in FAMILY]
    assert len({member.title for member in FAMILY}) == len(FAMILY)
