"""ComfyUI and our pack in this very process, loaded as ComfyUI itself loads them.

ComfyUI's own loader imports the pack, so it gets a package name made of its path, as at a user's. The one difference:
`<that name>.vc_core` and `vc_core` are the same modules here (`SharedCore`), so that a class met through a node and the
same class imported by a test are one class.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import importlib.abc
import importlib.machinery
import inspect
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from . import dynamic_vram as dynamic
from .base import ROOT, Base, comfy_path


class SharedCore(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Answers `<pack>.vc_core...` with the module `vc_core...`, for any package whose folder is this repository."""

    def __init__(self) -> None:
        self._specs: dict[str, importlib.machinery.ModuleSpec | None] = {}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        pack, found, _ = fullname.partition(".vc_core")
        if not found or not self._is_this_repository(pack):
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        module = importlib.import_module(spec.name[spec.name.index(".vc_core") + 1 :])
        self._specs[spec.name] = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """The module has run already; it only gets its own spec and loader back."""
        alias = module.__spec__
        if alias is not None and alias.loader is self:
            module.__spec__ = self._specs.pop(alias.name)

    @staticmethod
    def _is_this_repository(pack: str) -> bool:
        folders = getattr(sys.modules.get(pack), "__path__", ())
        return any(Path(folder).resolve() == ROOT for folder in folders)


@dataclass(frozen=True)
class Outcome:
    """What a node gave: its outputs in order, and what it shows in the page (None when nothing)."""

    values: tuple[Any, ...]
    ui: Mapping[str, Any] | None = None


@dataclass
class Progress:
    """What ComfyUI's progress bar received: (value, total) pairs and the previews among them."""

    steps: list[tuple[int, int]] = field(default_factory=list)
    previews: list[Any] = field(default_factory=list)


class Comfy:
    """The running ComfyUI: its nodes and ours by id, called as a prompt would call them."""

    def __init__(self, base: Base, pack: ModuleType, classes: Mapping[str, type]) -> None:
        self.base = base
        self.pack = pack
        self.classes = classes

    @property
    def ours(self) -> dict[str, type]:
        """The nodes of this pack."""
        return {name: node for name, node in self.classes.items() if name.startswith("VideoCrafter")}

    def module(self, name: str) -> ModuleType:
        """A module of the pack by its name below the pack's root: `comfy.module("nodes.host")`."""
        return importlib.import_module(f"{self.pack.__name__}.{name}")

    def call(self, node_id: str, /, *, hidden: Mapping[str, Any] | None = None, **inputs: Any) -> Outcome:
        """Runs one node, ours or core's. A widget that is left out takes its default; `hidden` is what ComfyUI would
        fill in by itself (`prompt`, `extra_pnginfo`, `unique_id`).

        Raises whatever the node raises.
        """
        import torch

        node = self.classes[node_id]
        values = {**_defaults(node), **inputs}
        with torch.inference_mode():
            if hasattr(node, "PREPARE_CLASS_CLONE"):
                return self._call_v3(node, values, hidden or {})
            return self._call_v1(node, {**values, **(hidden or {})})

    @contextlib.contextmanager
    def progress(self, tell: Callable[[int, int], None] | None = None) -> Iterator[Progress]:
        """Collects what nodes report meanwhile. `tell(value, total)` is called each time and may interrupt the run with
        `comfy.model_management.interrupt_current_processing()`; as in a server, the next report then raises."""
        import comfy.model_management
        import comfy.utils

        seen = Progress()

        def hook(value: int, total: int, preview: Any, **_: Any) -> None:
            comfy.model_management.throw_exception_if_processing_interrupted()
            seen.steps.append((value, total))
            if preview is not None:
                seen.previews.append(preview)
            if tell is not None:
                tell(value, total)

        comfy.utils.set_progress_bar_global_hook(hook)
        try:
            yield seen
        finally:
            comfy.utils.set_progress_bar_global_hook(None)
            comfy.model_management.interrupt_current_processing(False)

    @staticmethod
    def _call_v3(node: Any, values: Mapping[str, Any], hidden: Mapping[str, Any]) -> Outcome:
        from comfy_api.latest import io

        node.GET_SCHEMA()
        given = {getattr(io.Hidden, key): item for key, item in hidden.items()}
        older = "hidden_inputs" in inspect.signature(node.PREPARE_CLASS_CLONE).parameters
        clone = node.PREPARE_CLASS_CLONE(given if older else {"hidden_inputs": given})
        result = getattr(clone, node.FUNCTION)(**values)
        if inspect.isawaitable(result):
            result = asyncio.run(_wait(result))
        ui = result.ui.as_dict() if hasattr(result.ui, "as_dict") else result.ui
        return Outcome(tuple(result.args), ui)

    @staticmethod
    def _call_v1(node: Any, values: Mapping[str, Any]) -> Outcome:
        result = getattr(node(), node.FUNCTION)(**values)
        if isinstance(result, dict):
            return Outcome(tuple(result.get("result", ())), result.get("ui"))
        return Outcome(tuple(result))


def start(base: Base, *, dynamic_vram: bool = False) -> Comfy:
    """Imports ComfyUI in CPU mode with `base` as its base directory, all core nodes, and the pack; with its dynamic
    VRAM emulated where asked for.

    Raises:
        RuntimeError: the pack did not load; the message carries what ComfyUI logged.
    """
    sys.meta_path.insert(0, SharedCore())
    sys.path.insert(0, str(comfy_path()))  # first: its `nodes` must win over this repository's folder of that name
    from comfy.cli_args import args

    args.cpu = True
    args.base_directory = str(base.root)
    args.disable_api_nodes = True
    if dynamic_vram:
        dynamic.emulate()
    importlib.import_module(
        "utils.extra_config"
    )  # as main.py does: an older `nodes` hides this package by `comfy.utils`
    nodes: Any = importlib.import_module("nodes")

    asyncio.run(nodes.init_builtin_extra_nodes())
    with _logged() as lines:
        loaded = asyncio.run(nodes.load_custom_node(str(base.pack)))
    entry = str(base.pack / "__init__.py")
    pack = next((module for module in list(sys.modules.values()) if getattr(module, "__file__", None) == entry), None)
    if not loaded or pack is None:
        raise RuntimeError("ComfyUI could not load the pack:\n" + "\n".join(lines))
    return Comfy(base, pack, nodes.NODE_CLASS_MAPPINGS)


def _defaults(node: Any) -> dict[str, Any]:
    types = node.INPUT_TYPES()
    defaults: dict[str, Any] = {}
    for name, (kind, *options) in {**types.get("required", {}), **types.get("optional", {})}.items():
        given = options[0] if options else {}
        choices = kind if isinstance(kind, list) else given.get("options")
        if "default" in given:
            defaults[name] = given["default"]
        elif choices and isinstance(choices[0], dict):
            defaults[name] = {name: choices[0]["key"]}
        elif choices:
            defaults[name] = choices[0]
    return defaults


@contextlib.contextmanager
def _logged() -> Iterator[list[str]]:
    lines: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    handler = Keep(logging.WARNING)
    logging.getLogger().addHandler(handler)
    try:
        yield lines
    finally:
        logging.getLogger().removeHandler(handler)


async def _wait(result: Any) -> Any:
    return await result
