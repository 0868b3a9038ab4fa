"""The nodes need no package beyond ComfyUI's own, and installing `requirements.txt` changes none of ComfyUI's."""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from importlib import metadata
from pathlib import Path

import pytest
import small_models
import torch
from installing import environment
from installing.plain_host import KINDS
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from safetensors.torch import save_file

from comfyui.base import ROOT, Base, make_base
from vc_core.checkpoint import PARTS

OLDEST_HOST = {
    "aiohttp": ">=3.11.8", "alembic": "", "av": ">=14.2.0", "einops": "", "kornia": ">=0.7.1", "numpy": ">=1.25.0",
    "pillow": "", "psutil": "", "pydantic": "~=2.0", "pyyaml": "", "safetensors": ">=0.4.2", "scipy": "",
    "sentencepiece": "", "spandrel": "", "sqlalchemy": "", "tokenizers": ">=0.13.3", "torch": "", "torchaudio": "",
    "torchsde": "", "torchvision": "", "tqdm": "", "transformers": ">=4.37.2", "yarl": ">=1.18.0",
}  # fmt: skip
"""What the requirements.txt of ComfyUI 0.3.64 names, the oldest version that this pack supports."""
OURS_ALONE = {"open-clip-torch"}
"""The requirements of `vc_core` that ComfyUI does not bring."""
UNREACHABLE = ("from versions: none", "NewConnectionError", "ProxyError", "Temporary failure", "Connection refused")


def ours() -> list[Requirement]:
    return environment.read(ROOT / "requirements.txt")


def put_controls(base: Base) -> None:
    """Files of all controls with weights of their own, and MotionCtrl's model with its layers in it."""
    text, image = small_models.TEXT_MODEL, small_models.CONTINUING_MODEL
    layers = small_models.motionctrl_weights(text, levels=(32, 64, 128))
    torch.save({**small_models.state_dict(text), **layers}, base.model("checkpoints", "motionctrl.pth"))
    torch.save(small_models.style_adapter(), base.model("checkpoints", "style_adapter.pth"))
    torch.save(small_models.style_temporal(), base.model("checkpoints", "style_temporal.pth"))
    torch.save(small_models.sketch_encoder(), base.model("controlnet", "sketch_encoder.ckpt"))
    cameras = {"cami2v": small_models.camera_weights(image), "motion": small_models.motionctrl_weights(image)}
    for name, tensors in cameras.items():
        part = PARTS["motionctrl" if name == "motion" else name]
        named = {part.in_file(key): tensor for key, tensor in tensors.items()}
        save_file(named, base.model("checkpoints", f"{name}.safetensors"))


def test_every_node_runs_with_nothing_but_the_packages_of_comfyui(tmp_path: Path):
    base = make_base(tmp_path / "base")
    specs = {
        "text": small_models.TEXT_MODEL,
        "relative": small_models.RELATIVE_MODEL,
        "image": small_models.IMAGE_MODEL,
        "continuing": small_models.CONTINUING_MODEL,
        "toon": small_models.TOON_MODEL,
        "turbo": small_models.TURBO_MODEL,
        "viewed": small_models.VIEWED_MODEL,
        "style": small_models.STYLE_MODEL,
    }
    assert set(specs) == set(KINDS)
    for kind, spec in specs.items():
        small_models.save(spec, base.model("checkpoints", f"{kind}.safetensors"))
    for folder in ("diffusion_models", "vae", "text_encoders", "clip_vision"):
        small_models.save(specs["image"], base.model(folder, "image_part.safetensors"))
    put_controls(base)
    pairs = [torch.nn.Parameter(item) for item in small_models.turbo_list(specs["text"].unet)]
    torch.save(pairs, base.model("loras", "turbo_list.pt"))
    program = Path(__file__).with_name("plain_host.py")
    done = subprocess.run(
        [sys.executable, str(program), str(base.root)], capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    report = json.loads(done.stdout.splitlines()[-1])
    assert {"open-clip-torch", "ftfy", "timm", "scikit-image", "pytest"} <= set(report["left_out"])
    assert set(report["ours"]) <= set(report["ran"])
    for model, files in report["files"].items():
        assert files, model
        assert all(any(base.output.rglob(file)) for file in files), model


def test_a_package_that_is_left_out_cannot_be_found(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    with pytest.raises(RuntimeError, match="pytest"):
        environment.leave_out({"pytest"})
    monkeypatch.delitem(sys.modules, "wcwidth", raising=False)
    environment.leave_out({"wcwidth"})
    with pytest.raises(ModuleNotFoundError):
        __import__("wcwidth")
    with pytest.raises(metadata.PackageNotFoundError):
        metadata.version("wcwidth")
    assert metadata.version("pytest")


# --- installing ------------------------------------------------------------------------------------------------------


def test_requirements_hold_in_every_environment_of_a_supported_comfyui():
    """A lower bound of ours is never above the one that the oldest supported ComfyUI has."""
    for item in ours():
        name = canonicalize_name(item.name)
        if name in OURS_ALONE:
            continue
        assert name in OLDEST_HOST, f"{name} is not in the requirements of ComfyUI 0.3.64"
        for bound in item.specifier:
            assert bound.operator == ">=", f"{item}: this could make pip replace a newer version"
            lowest = [one.version for one in Requirement(f"x{OLDEST_HOST[name]}").specifier]
            assert lowest, f"{item}: ComfyUI 0.3.64 takes any version of {name}"
            assert bound.contains(lowest[0]), f"{item}: ComfyUI 0.3.64 takes {name} {lowest[0]}"


def test_what_they_bring_asks_for_no_other_version_of_a_package_of_comfyui():
    """The same question as the next test's, asked of the packages that are installed here: needs no network."""
    host = environment.host_packages()
    wanted = environment.closure(ours())
    brought = set(wanted) - host
    assert OURS_ALONE <= brought <= {"open-clip-torch", "ftfy", "timm", "wcwidth", "regex"}
    asked = {"requirements.txt": ours(), **{name: environment.requirements_of(name) for name in brought}}
    for asker, requirements in asked.items():
        for item in requirements:
            if canonicalize_name(item.name) in host:
                installed = metadata.version(item.name)
                assert item.specifier.contains(installed, prereleases=True), f"{asker} asks for {item}: {installed}"


def environment_of_comfyui(folder: Path) -> Path:
    """A Python environment in which pip finds the packages of ComfyUI and no others; only their metadata is there."""
    venv.create(folder, with_pip=False)
    python = next(path for path in (folder / "bin" / "python", folder / "Scripts" / "python.exe") if path.exists())
    asked = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    packages = Path(subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip())
    host = environment.host_packages() - {"pip"}
    for found in metadata.distributions():
        if canonicalize_name(found.name) in host:
            place = packages / f"{found.name.replace('-', '_')}-{found.version}.dist-info"
            place.mkdir(exist_ok=True)
            (place / "METADATA").write_text(found.read_text("METADATA") or "", encoding="utf-8")
            (place / "INSTALLER").write_text("pip\n", encoding="utf-8")
    return python


def test_pip_changes_no_package_of_comfyui(tmp_path: Path):
    """A dry run of the command in the README, with a real index."""
    python = environment_of_comfyui(tmp_path / "venv")
    report = tmp_path / "report.json"
    words = [sys.executable, "-m", "pip", "--python", str(python), "install", "--dry-run", "--report", str(report)]
    words += ["--disable-pip-version-check", "--retries", "1", "-r", str(ROOT / "requirements.txt")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode != 0 and any(sign in done.stderr for sign in UNREACHABLE):
        pytest.skip("pip reaches no package index")
    assert done.returncode == 0, done.stderr[-4000:]
    installs = {
        canonicalize_name(item["metadata"]["name"])
        for item in json.loads(report.read_text(encoding="utf-8"))["install"]
    }
    found = {canonicalize_name(item.name) for item in metadata.distributions()}
    there = found & environment.host_packages() - {"pip"}
    assert installs & there == set(), "packages that pip would replace"
    assert installs >= OURS_ALONE, "the dry run did not start from ComfyUI's packages"
    assert {"torch", "torchvision", "av", "safetensors"} <= there
