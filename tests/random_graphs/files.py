"""The files that random graphs name, and what graphs are drawn from once they are there."""

from __future__ import annotations

import wave

import small_models as small
import stand_ins

from comfyui.base import ROOT, Base
from comfyui.server import Server

from .grammar import Grammar, working
from .making import Prompt, make
from .values import Values, examples

PARTS = {
    "diffusion_models": "model.diffusion_model.",
    "text_encoders": "cond_stage_model.",
    "vae": "first_stage_model.",
}
"""Folder -> what the names of its part's tensors begin with."""


def put(base: Base) -> None:
    """Writes everything that workflows ask for, a model in parts, and half a second of sound."""
    stand_ins.put(base)
    for folder, prefix in PARTS.items():
        small.save(small.TEXT_MODEL, base.model(folder, "part.safetensors"), prefixes=(prefix,))
    with wave.open(str(base.input / "tone.wav"), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(b"\0\x10\0\xf0" * 2000)


class Graphs:
    """The random graphs of a server."""

    def __init__(self, server: Server) -> None:
        document = (ROOT / "docs" / "compatibility.md").read_text(encoding="utf-8")
        self.info = server.get("/object_info")
        self.grammar = Grammar(self.info, working(document))
        self.values = Values(examples(stand_ins.FOLDER / "api"))

    def __getitem__(self, seed: int) -> Prompt:
        """The graph of a seed."""
        return make(self.grammar, self.values, seed)
