"""Where ComfyUI lies, and the folders that it works in during the tests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from run import COMFYUI, PACK, ROOT, link, own_comfyui

_MODEL_FOLDERS = (
    "checkpoints",
    "clip_vision",
    "controlnet",
    "diffusion_models",
    "embeddings",
    "frame_interpolation",
    "loras",
    "text_encoders",
    "upscale_models",
    "vae",
)


def comfy_path() -> Path:
    """The folder of the ComfyUI to test with: `COMFYUI_PATH`, the one around this pack, or what run.py fetched.

    Raises:
        FileNotFoundError: there is none; the message says how to get one.
        run.SetupError: `COMFYUI_PATH` is not a ComfyUI.
    """
    found = own_comfyui() or COMFYUI
    if not (found / "main.py").is_file():
        raise FileNotFoundError(
            "no ComfyUI to test with; start the tests with `python run.py test`, or set COMFYUI_PATH"
        )
    return found


@dataclass(frozen=True)
class Base:
    """One base directory of ComfyUI, with this repository linked into its `custom_nodes`."""

    root: Path

    @property
    def pack(self) -> Path:
        """The link to this repository, as a user's `custom_nodes` would hold it."""
        return self.root / "custom_nodes" / PACK

    @property
    def input(self) -> Path:
        """Where uploads and pictures for `LoadImage` lie."""
        return self.root / "input"

    @property
    def output(self) -> Path:
        """Where saving nodes write."""
        return self.root / "output"

    @property
    def temp(self) -> Path:
        """Where previewing nodes write."""
        return self.root / "temp"

    def model(self, folder: str, name: str) -> Path:
        """The path at which ComfyUI finds the model file `name`; `folder` is one of its own, such as `checkpoints`."""
        place = self.root / "models" / folder
        if not place.is_dir():
            raise ValueError(f"{folder!r} is not a model folder of the tests; there are {', '.join(_MODEL_FOLDERS)}")
        return place / name


def make_base(root: Path) -> Base:
    """Makes the folders below `root` and links the pack."""
    for name in ("custom_nodes", "input", "output", "temp", "user"):
        (root / name).mkdir(parents=True, exist_ok=True)
    for name in _MODEL_FOLDERS:
        (root / "models" / name).mkdir(parents=True, exist_ok=True)
    base = Base(root)
    link(ROOT, base.pack)
    return base
