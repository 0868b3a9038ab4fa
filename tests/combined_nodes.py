"""The small models of `control/combining.py` in ComfyUI, and runs of them with controls and other nodes."""

from __future__ import annotations

from typing import Any

import small_models as small
import torch
from control.combining import BASES, EXAMPLES, FRAMES, IMAGE, PROMPT, control_of, lora_of
from loaded_models import Loaded
from safetensors.torch import save_file

from vc_core.control.control import WeightedControl
from vc_core.parameters import Kind

LONG = 6
CACHED = {"steps": 13, "scheduler": "trailing"}
"""As many steps as the caches need to save something."""


class Host:
    """The small models of the matrix in ComfyUI, their controls as nodes, and runs, each made once."""

    def __init__(self, comfy, base):
        self.comfy, self.base = comfy, base
        self.models, self.results = {}, {}

    def model(self, name):
        if name not in self.models:
            spec, file = BASES[name].spec, f"combined_{name}.safetensors"
            small.save(spec, self.base.model("checkpoints", file))
            save_file(lora_of(spec), self.base.model("loras", file))
            self.models[name] = Loaded(self.comfy, file, weight_dtype="fp32")
        return self.models[name]

    def file(self, base, name):
        example = EXAMPLES[name]
        if example.weights is None:
            return None
        folder = control_of(name).folder
        path = self.base.model(folder, f"combined_{name}_{base}.pt")
        if not path.exists():
            torch.save(example.weights(BASES[base].spec), path)
        return path

    def clip_vision(self):
        if "vision" not in self.models:
            small.save(
                small.IMAGE_MODEL, self.base.model("clip_vision", "combined.safetensors"), prefixes=("embedder.",)
            )
            (found,) = self.comfy.call("VideoCrafterCLIPVisionLoader", clip_name="combined.safetensors").values
            self.models["vision"] = found
        return self.models["vision"]

    def with_control(self, base, name, model, **changes):
        """The control's node behind a MODEL, with the values of its example."""
        control, file = control_of(name, **changes), self.file(base, name)
        given = {item.name: _input(item, getattr(control, item.name)) for item in control.parameters()}
        given = {item: value for item, value in given.items() if value is not None}
        if isinstance(control, WeightedControl):
            given["file"] = file.name
        if "image" in control.encoders:
            given["clip_vision"] = self.clip_vision()
        node = f"VideoCrafter{control.title.replace(' ', '').replace('-', '')}Control"
        return self.comfy.call(node, model=model, **given).values[0]

    def conditionings(self, base, frames, side):
        """positive, negative and the latent of a clip."""
        loaded, size = self.model(base), side or BASES[base].size
        if base == "continuing":
            size = {"width": size, "height": size, "frames": frames}
            positive, negative, _, latent = loaded.continued(IMAGE[None], **size)
            return positive, negative, latent
        return loaded.text(PROMPT), loaded.text(""), loaded.latent(size, size, frames)

    def sampled(self, base, model, *, sampler="VideoCrafterKSampler", frames=FRAMES, side=0, change=None, **settings):
        """The latents of a run. change: of the positive conditioning."""
        positive, negative, latent = self.conditionings(base, frames, side)
        if change is not None:
            positive = change(positive)
        if settings.get("denoise", 1.0) < 1.0:
            latent = {**latent, "samples": torch.randn(latent["samples"].shape, generator=torch.manual_seed(6))}
        given = {"positive": positive, "negative": negative, "latent_image": latent, "seed": 7, "cfg": 3.0}
        own = {"eta": 0.0} if sampler == "VideoCrafterKSampler" else {"scheduler": "normal", "denoise": 1.0}
        return self.comfy.call(sampler, model=model, **{**given, **own, "steps": 1, **settings}).values[0]["samples"]

    def once(self, base, name="", node="", **settings):
        """The latents of a run with a control, a node of `COMPANIONS`, both or neither, made once."""
        key = (base, name, node, str(sorted(settings.items())))
        if key not in self.results:
            model = self.model(base).model
            model = self.with_control(base, name, model) if name else model
            self.results[key] = self.sampled(base, self.through(base, node, model) if node else model, **settings)
        return self.results[key]

    def through(self, base, node, model):
        """A MODEL behind a node of `COMPANIONS`."""
        kind, inputs, _ = COMPANIONS[node]
        if node == "caches":
            model = self.comfy.call("VideoCrafterGuidanceCache", model=model, **inputs).values[0]
        if node == "LoRA":
            inputs = {**inputs, "lora_name": f"combined_{base}.safetensors"}
        return self.comfy.call(kind, model=model, **inputs).values[0]


def _input(item, value):
    """A value as the node takes it; None for what is not connected."""
    if item.kind is Kind.IMAGES:
        return torch.stack(value) if value else None
    return "none" if item.kind is Kind.FILE and not value else value


COMPANIONS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "LoRA": ("LoraLoaderModelOnly", {"strength_model": 1.0}, {}),
    "caches": ("VideoCrafterStepCache", {"quality": "fast"}, CACHED),
    "FreeNoise": ("VideoCrafterFreeNoise", {"window": 4, "stride": 2}, {"frames": LONG}),
    "context windows": ("VideoCrafterContextWindows", {"context_length": 4, "context_overlap": 2}, {"frames": LONG}),
    "RescaleCFG": ("RescaleCFG", {"multiplier": 0.7}, {}),
    "FreeU": ("FreeU", {"b1": 1.5, "b2": 1.5, "s1": 0.5, "s2": 0.5}, {}),
    "HyperTile": ("HyperTile", {"tile_size": 1, "swap_size": 1, "max_depth": 0, "scale_depth": False}, {"side": 64}),
}
"""By name: the node, its inputs, and the settings of a run in which it acts."""


def started(name):
    """The settings of runs with a control that needs a video to start from."""
    strength = EXAMPLES[name].given.get("strength")
    return {} if strength is None else {"denoise": strength}
