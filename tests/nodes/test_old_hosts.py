"""An older ComfyUI, from 0.3.64 on: what it lacks is used behind a question only.

What is known to be newer is written down here and taken away from the ComfyUI at hand: an argument that an older class
refuses is refused, as there, with a TypeError. `COMFYUI_PATH` runs all tests on an older one itself.
"""

from __future__ import annotations

import ast
import inspect

import pytest
import torch

from comfyui.base import ROOT

SCHEMA = (
    "node_id", "display_name", "category", "inputs", "outputs", "hidden", "description", "is_input_list",
    "is_output_node", "is_deprecated", "is_experimental", "is_api_node", "not_idempotent", "enable_expand",
)  # fmt: skip
"""The fields of a schema in 0.3.64."""
INPUT = ("id", "display_name", "optional", "tooltip", "lazy", "default", "socketless")
INPUTS = {
    "Int": ("min", "max", "step", "control_after_generate", "display_mode"),
    "Float": ("min", "max", "step", "round", "display_mode"),
    "Boolean": ("label_on", "label_off"),
    "String": ("multiline", "placeholder", "dynamic_prompts"),
    "Combo": ("options", "control_after_generate", "upload", "image_folder", "remote"),
}
"""What the inputs of 0.3.64 take beyond `INPUT`."""
WINDOWS = (
    "context_schedule",
    "fuse_method",
    "context_length",
    "context_overlap",
    "context_stride",
    "closed_loop",
    "dim",
)
"""What the context windows of 0.3.64 take."""
NEWER = {
    "CoreModelPatcher",
    "cached_patcher_init",
    "archive_model_dtypes",
    "model_size",
    "is_dynamic",
    "deepclone_multigpu",
    "get_dtype_inference",
    "DynamicCombo",
    "Autogrow",
    "search_aliases",
    "execution",
    "create_sampler_sample_wrapper",
    "resize_cond_for_context_window",
}
"""Names that ComfyUI got later, or may have got later."""
NEWER_MODULES = {"comfy.memory_management", "comfy.model_prefetch"}
"""Modules that ComfyUI got later."""


def older(kind, kept):
    """The class as it was when it took these arguments only."""
    signature = inspect.signature(kind)
    missing = set(kept) - set(signature.parameters)
    assert not missing, f"{kind.__qualname__} no longer takes {missing}"
    parameters = [parameter for name, parameter in signature.parameters.items() if name in kept]

    class Older(kind):
        __signature__ = signature.replace(parameters=parameters)

        def __init__(self, *arguments, **keywords):
            self.__signature__.bind(*arguments, **keywords)
            super().__init__(*arguments, **keywords)

    return Older


def test_every_node_is_defined_without_newer_keywords(comfy, monkeypatch):
    from comfy_api.latest import io

    monkeypatch.setattr(io, "Schema", older(io.Schema, SCHEMA))
    for name, more in INPUTS.items():
        kind = getattr(io, name)
        monkeypatch.setattr(kind, "Input", older(kind.Input, (*INPUT, *more)))
    with pytest.raises(TypeError):
        io.Int.Input("width", advanced=True)
    for name, node in comfy.ours.items():
        schema = node.define_schema()
        assert type(schema).__name__ == "Older"
        assert schema.node_id == name


def test_context_windows_are_made_without_newer_keywords(comfy, text_model, monkeypatch):
    windows = comfy.module("nodes.host.windows")
    monkeypatch.setattr(windows, "WindowsOfFrames", older(windows.WindowsOfFrames, WINDOWS))
    (model,) = comfy.call("VideoCrafterContextWindows", model=text_model.model).values
    handler = model.model_options["context_handler"]
    assert (handler.context_length, handler.context_overlap, handler.dim) == (16, 4, 0)


def test_context_windows_find_their_step_by_one_sigma(comfy, text_model):
    """Older hosts compare all sigmas of a run with the one of the step, of which we have as many as frames."""
    (model,) = comfy.call("VideoCrafterContextWindows", model=text_model.model).values
    handler, sigmas = model.model_options["context_handler"], torch.tensor([9.0, 4.0, 1.0, 0.0])
    seen = []

    class Older(comfy_windows().IndexListContextHandler):
        def set_step(self, timestep, model_options):
            run = model_options["transformer_options"]["sample_sigmas"]
            seen.append(int(torch.isclose(run, timestep, rtol=1e-4).nonzero()[0]))

    kind = type("Ours", (type(handler), Older), {})
    handler.__class__ = kind
    handler.set_step(torch.full((20,), 4.0), {"transformer_options": {"sample_sigmas": sigmas}})
    assert seen == [1]


def comfy_windows():
    import comfy.context_windows

    return comfy.context_windows


def test_models_are_made_with_the_older_patcher(comfy, base, text_model, monkeypatch):
    from comfy import model_patcher

    monkeypatch.delattr(model_patcher, "CoreModelPatcher", raising=False)
    (model,) = comfy.call("VideoCrafterUNETLoader", unet_name=_unet(base), weight_dtype="fp32").values
    assert type(model) is model_patcher.ModelPatcher
    monkeypatch.undo()
    assert float((text_model.sample(model) - text_model.sample()).abs().max()) == 0


def _unet(base):
    import small_models

    small_models.save(small_models.TEXT_MODEL, base.model("diffusion_models", "older_host.safetensors"))
    return "older_host.safetensors"


def test_newer_names_are_used_where_they_were_asked_for():
    """In a function that asks with hasattr or getattr whether they are there."""
    found = set()
    for path in sorted((ROOT / "nodes").rglob("*.py")):
        for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(function, ast.FunctionDef):
                continue
            asked = {
                node.args[1].value
                for node in ast.walk(function)
                if isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id in ("hasattr", "getattr")
                and isinstance(node.args[1], ast.Constant)
            }
            used = {node.attr for node in ast.walk(function) if isinstance(node, ast.Attribute)} & NEWER
            assert used <= asked, f"{path.name}: {function.name} uses {used - asked} without asking"
            found |= used | (asked & NEWER)
    assert {"cached_patcher_init", "CoreModelPatcher", "archive_model_dtypes"} <= found


def test_newer_modules_are_imported_where_they_may_be_missing():
    found = set()
    for path in sorted((ROOT / "nodes").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        tried = {
            node
            for block in ast.walk(tree)
            if isinstance(block, ast.Try) and "ImportError" in "".join(map(ast.unparse, block.handlers))
            for node in block.body
        }
        for node in ast.walk(tree):
            newer = {name for name in imported(node) for module in NEWER_MODULES if f"{name}.".startswith(f"{module}.")}
            assert not newer or node in tried, f"{path.name} imports {newer} without a fallback"
            found |= newer
    assert found == NEWER_MODULES


def imported(node):
    """The modules that a statement imports, also as `from package import module`."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
    return []
