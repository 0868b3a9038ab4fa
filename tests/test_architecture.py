"""The rules that hold the code together, read off its syntax trees, so that a broken one names file and line."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from syntax import code, files, tree

from comfyui.base import comfy_path, make_base
from run import ROOT

# Every part of vc_core, and the parts it may import. `errors` and the package itself are open to all.
ARROWS = {
    "errors": set(),
    "json_text": set(),
    "specs": {"json_text"},
    "checks": {"specs"},
    "bundled": set(),
    "conditions": set(),
    "network": {"specs", "conditions"},
    "conditioning": {"specs", "network", "conditions"},
    "files": set(),
    "parameters": set(),
    "frames": {"specs", "files"},
    "autoencoder": {"specs", "network", "frames"},
    "video": {"frames", "files"},
    "denoising": {"specs", "conditions"},
    "judging": {"frames", "parameters"},
    "checkpoint": {"json_text", "specs", "network", "conditioning", "autoencoder", "frames", "files", "denoising"},
}
EVERYTHING = {
    "batch",
    "commands",
    "making",
    "image_latents",
    "pipeline",
    "long",
    "cli",
    "control",
    "demo",
    "dragging",
    "evaluating",
    "features",
    "job",
    "options",
    "recipe",
    "request",
    "submit",
    "machine",
    "terminal",
    "__main__",
    "__init__",
}

COMFYUI = {"comfy", "comfy_api", "comfy_execution", "comfy_extras", "folder_paths", "latent_preview", "node_helpers"}
COMFYUI |= {"execution", "nodes", "server"}
WHEN_USED = {"av", "cv2", "lpips", "open_clip", "skimage", "torchvision", "transformers", "xformers"}
GLOBAL_SETTINGS = {
    "manual_seed",
    "seed",
    "set_default_device",
    "set_default_dtype",
    "set_float32_matmul_precision",
    "set_num_interop_threads",
    "set_num_threads",
    "set_printoptions",
    "use_deterministic_algorithms",
}
OWNS_ITS_PROCESS = {("vc_core/making.py", "torch.set_num_threads")}
"""The command line sets the number of threads for a run, and back."""
UNSAFE = {"eval", "exec", "compile", "__import__", "print", "breakpoint"}


@dataclass(frozen=True)
class Import:
    """One imported module, as the name that a reader would write from the repository's root."""

    file: Path
    line: int
    module: str
    relative: bool
    when_used: bool

    @property
    def top(self) -> str:
        return self.module.split(".")[0]

    def __str__(self) -> str:
        return f"{self.file.as_posix()}:{self.line} imports {self.module}"


def _deferred(file: Path) -> set[ast.AST]:
    """Everything that does not run when the file is imported."""
    found: set[ast.AST] = set()
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            found.update(ast.walk(node))
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            found.update(inner for statement in node.body for inner in ast.walk(statement))
    return found


def _imports(file: Path) -> Iterator[Import]:
    deferred = _deferred(file)
    package = file.parent.parts
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(file, node.lineno, alias.name, False, node in deferred)
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*start, *([node.module] if node.module else [])])
            names = [f"{module}.{alias.name}".lstrip(".") for alias in node.names] if not node.module else [module]
            for name in names:
                yield Import(file, node.lineno, name, node.level > 0, node in deferred)


def _part(file: Path) -> str:
    return file.parts[1].removesuffix(".py")


@pytest.mark.parametrize("file", files("vc_core"), ids=str)
def test_arrows_inside_the_core(file: Path):
    part = _part(file)
    assert part in ARROWS or part in EVERYTHING, f"{file}: say in ARROWS what {part!r} may import"
    for item in _imports(file):
        if not item.relative:
            continue
        target = [*item.module.split("."), "errors"][1]
        assert item.top == "vc_core", f"{item}: the core stands alone"
        allowed = part in EVERYTHING or target in {part, "errors"} | ARROWS[part]
        assert allowed, f"{item}, but {part} may import {sorted(ARROWS.get(part, ()))} only"


@pytest.mark.parametrize("file", files("vc_core", "nodes"), ids=str)
def test_the_pack_imports_itself_relatively(file: Path):
    """ComfyUI names the package after its path, so an absolute name of ours would be another module, or none."""
    in_host = file.parts[:2] == ("nodes", "host")
    for item in _imports(file):
        ours = item.top in {"vc_core", "worlds", "training", "evaluation"} or (item.top == "nodes" and not in_host)
        assert item.relative or not ours, f"{item}: write it relatively"
        assert not item.relative or item.top in {"vc_core", "nodes"}, f"{item}: not part of what ComfyUI loads"


@pytest.mark.parametrize("file", files("vc_core", "worlds", "training", "evaluation"), ids=str)
def test_only_nodes_know_comfyui(file: Path):
    for item in _imports(file):
        assert item.relative or item.top not in COMFYUI, f"{item}: only nodes may"


@pytest.mark.parametrize("file", files("nodes"), ids=str)
def test_only_the_host_touches_comfyui_internals(file: Path):
    for item in _imports(file):
        if item.relative or item.top not in COMFYUI or file.parts[:2] == ("nodes", "host"):
            continue
        assert item.module.startswith("comfy_api.latest"), f"{item}: ask nodes/host for it"


@pytest.mark.parametrize("file", files("vc_core", "nodes"), ids=str)
def test_heavy_packages_are_imported_when_used(file: Path):
    for item in _imports(file):
        assert item.when_used or item.top not in WHEN_USED, f"{item} at import: move it into the function that uses it"


@pytest.mark.parametrize("file", code(), ids=str)
def test_no_unsafe_calls(file: Path):
    for node in ast.walk(tree(file)):
        where = f"{file}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in UNSAFE, f"{where}: {node.func.id}()"
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "pickle":
            assert node.attr.endswith("Error"), f"{where}: pickle.{node.attr} can execute what a file says"
        if isinstance(node, ast.ImportFrom) and node.module == "pickle":
            assert all(alias.name.endswith("Error") for alias in node.names), f"{where}: pickle can execute code"
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"{where}: a bare except"
        if isinstance(node, ast.Raise) and node.exc is not None:
            assert "NotImplementedError" not in ast.unparse(node.exc), f"{where}: a stub"


@pytest.mark.parametrize("file", files("vc_core", "nodes"), ids=str)
def test_no_global_settings(file: Path):
    for node in ast.walk(tree(file)):
        where = f"{file}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            name = ast.unparse(node.func)
            is_global = node.func.attr in GLOBAL_SETTINGS and re.fullmatch(r"torch(\.\w+)+", name)
            is_own = (file.as_posix(), name) in OWNS_ITS_PROCESS
            assert not is_global or is_own, f"{where}: {name}"
            assert node.func.attr != "cuda", f"{where}: the device is the caller's choice"
        if isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in map(ast.unparse, targets):
                assert not target.startswith(("torch.", "os.environ", "sys.path")), f"{where}: sets {target}"


def test_node_ids_are_literal_prefixed_and_unique():
    """The registry's scanner reads them without running anything."""
    ids = []
    for file in files("nodes"):
        for node in ast.walk(tree(file)):
            if file.name == "controls.py":  # whose ids follow from the records
                continue
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("io.Schema", "Schema"):
                given = {word.arg: word.value for word in node.keywords}["node_id"]
                assert isinstance(given, ast.Constant), f"{file}:{node.lineno}: node_id is not a plain string"
                ids.append(str(given.value))
    assert ids
    assert all(name.startswith("VideoCrafter") for name in ids), ids
    assert len(set(ids)) == len(ids), sorted(ids)


def test_requirements_and_project_file_agree():
    written = (ROOT / "requirements.txt").read_text(encoding="utf-8").split()
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    line = next(line for line in project.splitlines() if line.startswith("dependencies = "))
    assert json.loads(line.removeprefix("dependencies = ")) == written
    assert not any(name.startswith("torch") for name in written), "ComfyUI brings PyTorch; a pack must not replace it"
    sources = "".join((ROOT / file).read_text(encoding="utf-8") for file in files("vc_core", "nodes"))
    for line in written:
        name = re.split(r"[>=]", line)[0]
        module = {"pillow": "PIL", "open_clip_torch": "open_clip"}.get(name, name)
        used = re.search(rf'^ *(import|from) {module}\b|"{module}[".]', sources, re.MULTILINE)
        assert used, f"{name} is asked for and never imported"


_CORE_ALONE = """
import importlib, pkgutil, sys
sys.path.insert(0, {root!r})

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {refused!r}:
            raise ModuleNotFoundError(f"{{name}} was imported before it was used", name=name)

sys.meta_path.insert(0, Refuse())
import vc_core
names = [item.name for item in pkgutil.walk_packages(vc_core.__path__, "vc_core.")]
assert len(names) > 10
for name in names:
    if not name.endswith("__main__"):
        importlib.import_module(name)
"""

_PACK_IN_COMFYUI = """
import asyncio, os, sys
sys.path.insert(0, {comfyui!r})
from comfy.cli_args import args
args.cpu, args.base_directory = True, {base!r}
import folder_paths, nodes, torch
import comfy.sd, comfy_api.latest

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {refused!r}:
            raise ModuleNotFoundError(f"{{name}} was imported before it was used", name=name)

def settings():
    backends = torch.backends
    return [
        torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled(), torch.get_rng_state().tolist(),
        torch.get_float32_matmul_precision(), torch.are_deterministic_algorithms_enabled(),
        backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32, backends.cudnn.benchmark,
        {{name: list(paths[0]) for name, paths in folder_paths.folder_names_and_paths.items()}},
        dict(os.environ), list(sys.path),
    ]

sys.meta_path.insert(0, Refuse())
before = settings()
assert asyncio.run(nodes.load_custom_node({pack!r})), "the pack did not load"
for was, now in zip(before, settings()):
    assert was == now, f"importing the pack changed {{was}} to {{now}}"
ours = [name for name in nodes.NODE_CLASS_MAPPINGS if name.startswith("VideoCrafter")]
assert ours
missing = [name for name in ours if not nodes.NODE_CLASS_MAPPINGS[name].INPUT_TYPES()]
assert not missing, missing
"""


def _python(program: str, **values: object) -> None:
    code = textwrap.dedent(program).format(**values)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-4000:] + done.stdout[-1000:]


def test_the_core_is_imported_without_comfyui_and_heavy_packages():
    _python(_CORE_ALONE, root=str(ROOT), refused=WHEN_USED | COMFYUI - {"nodes"})


def test_the_pack_is_imported_on_a_machine_with_its_dependencies_alone(tmp_path: Path):
    """As the registry does it. Nothing global may change by it, and what is heavy waits until it is used."""
    base = make_base(tmp_path / "base")
    refused = {"cv2", "lpips", "open_clip", "skimage", "xformers", "pytest"}
    _python(_PACK_IN_COMFYUI, comfyui=str(comfy_path()), base=str(base.root), pack=str(base.pack), refused=refused)
