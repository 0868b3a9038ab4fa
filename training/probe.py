"""Evaluation of the video networks during training: a few clips of held-out combinations, with scores and contact
sheets."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evaluation.experiments import judge, watch
from evaluation.generate import Settings, draw_cases
from evaluation.report import contact_sheet
from vc_core.autoencoder.autoencoder import Autoencoder
from vc_core.pipeline import VideoCrafter

from .files import save_both
from .network import PictureNetwork

CLIPS = 16
SETTINGS = Settings()


class VideoProbe:
    """Saves the networks as for release, loads them as a user would, and evaluates their clips."""

    def __init__(
        self, autoencoder: Autoencoder, folder: Path, clips: int = CLIPS, settings: Settings = SETTINGS
    ) -> None:
        self.autoencoder, self.folder, self.settings = autoencoder, folder, settings
        self.cases = draw_cases(clips, unseen=True)

    def __call__(self, module: PictureNetwork, step: int) -> Mapping[str, Any]:
        """The detector's percentages for both networks; also saves a contact sheet for each."""
        found = {}
        with tempfile.TemporaryDirectory() as folder:
            for path in save_both(Path(folder), self.autoencoder, module):
                seen, made = watch(VideoCrafter.load(path), self.cases, self.settings, f"{path.stem}, step {step}")
                sheet = contact_sheet([(case.prompt, clip) for case, clip in zip(self.cases, made, strict=True)])
                sheet.save(self.folder / f"{path.stem}_{step}.png")
                found[path.stem] = judge(self.cases, seen)
        return found
