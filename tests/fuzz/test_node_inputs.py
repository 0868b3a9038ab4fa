"""Any inputs that sockets and widgets allow, and some that they do not, give a result or our error."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import small_models as small
import torch
from fuzz.fuzzing import fuzzed
from fuzz.guards import Folder
from fuzz.node_inputs import KINDS, SCHEMAS, calls
from safetensors.torch import save_file

from comfyui.base import Base
from comfyui.inprocess import Comfy

SPECS = {**small.MODELS, "style": small.STYLE_MODEL}
WIDTH = small.TEXT_MODEL.text_encoder.width
FOLDERS = ("checkpoints", "clip_vision", "diffusion_models", "loras", "text_encoders", "vae")
"""Where a file of each loader lies; one in a wrong folder is chosen as well."""


class Inputs:
    """Makes the inputs of a call from what was drawn."""

    def __init__(self, comfy: Comfy) -> None:
        self.comfy = comfy
        self.loaded, self.text = functools.cache(self._loaded), functools.cache(self._text)

    def _loaded(self, kind: str) -> tuple[Any, ...]:
        """MODEL, CLIP, VAE and CLIP_VISION of a small model."""
        name = f"fuzz_{kind}.safetensors"
        return self.comfy.call("VideoCrafterCheckpointLoader", ckpt_name=name, weight_dtype="fp32").values

    def _text(self, kind: str) -> torch.Tensor:
        text: torch.Tensor = self.comfy.call("CLIPTextEncode", clip=self.loaded(kind)[1], text="a red square").values[
            0
        ][0][0]
        return text

    def model(self, drawn: str, kind: str, socket: str) -> Any:
        place = {"MODEL": 0, "VAE": 2, "CLIP_VISION": 3}[socket]
        if drawn == "other":
            return self.loaded("image")[place]
        return self.loaded("image" if socket == "CLIP_VISION" and kind == "style" else drawn or kind)[place]

    def conditioning(self, drawn: str, kind: str) -> Any:
        text, more = self.text(kind), {}
        if drawn == "extra":
            more = {"pooled_output": torch.zeros(1, 9), "start_percent": 0.5, "end_percent": 0.2, "strength": 0.0}
        shapes = {
            "frames": text.expand(3, -1, -1),
            "wide": torch.zeros(1, 77, 768),
            "short": text[:, :5],
            "half": text.half(),
            "none": text[:0],
        }
        if drawn == "empty":
            return []
        entry = [shapes.get(drawn, text), more]
        return [entry, entry] if drawn == "two" else [entry]

    def latent(self, shape: tuple[int, ...], dtype: str, content: str, more: str) -> dict[str, Any]:
        samples = tensor(shape, dtype, content)
        added: dict[str, Any] = {}
        if more == "mask":
            added = {"noise_mask": torch.ones(shape[0], 1, *shape[2:4])}
        if more == "wide mask":
            added = {"noise_mask": torch.rand(1, 24, 16)}
        if more == "empty mask":
            added = {"noise_mask": torch.zeros(1, 1, 8, 8)}
        if more == "batch_index":
            added = {"batch_index": list(range(shape[0]))}
        return {"samples": samples, **added}

    def made(self, drawn: Any, item: Any, name: str, kind: str, node: str) -> Any:
        """One input."""
        if not isinstance(drawn, tuple):
            return (
                {name: drawn["method"], **{key: each for key, each in drawn.items() if key != "method"}}
                if isinstance(drawn, dict)
                else drawn
            )
        what, *values = drawn
        if what in ("file", "host"):
            return self.choice(node, name, values[0])
        if what == "model":
            return self.model(values[0], kind, item[0])
        if what == "conditioning":
            return self.conditioning(values[0], kind)
        if what == "latent":
            return self.latent(*values)
        if what == "audio":
            shape, rate, content = values
            return {"waveform": tensor(shape, "float32", content), "sample_rate": rate}
        if what == "encoded":
            return self.encoded(values[0])
        if what == "long":
            return self.comfy.call("VideoCrafterLongVideo", method=values[0]).values[0]
        return tensor(*values)

    def encoded(self, drawn: str) -> Any:
        import comfy.clip_vision

        width = 64 if drawn != "wide" else 1280
        output = comfy.clip_vision.Output()
        output["last_hidden_state"] = output["penultimate_hidden_states"] = torch.zeros(
            3 if drawn == "several" else 1, 17, width
        )
        output["image_embeds"] = torch.zeros(1, 48)
        return output

    def choice(self, node: str, name: str, number: int) -> Any:
        """One of the choices that the host has."""
        inputs = self.comfy.classes[node].INPUT_TYPES()
        kind, *spec = {**inputs["required"], **inputs.get("optional", {})}[name]
        options = kind if isinstance(kind, list) else spec[0]["options"]
        return options[number % len(options)] if options else "nothing.safetensors"


def tensor(shape: tuple[int, ...], dtype: str, content: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    values = torch.rand(shape, generator=generator)
    if content in ("nan", "inf") and values.numel():
        values.view(-1)[0] = float(content)
    if content == "large":
        values = values * 1e4 - 5e3
    if content == "zeros":
        values = values * 0
    kind: torch.dtype = getattr(torch, dtype)
    return (values.nan_to_num() * 255 if kind == torch.uint8 else values).to(kind)


@pytest.fixture(scope="module")
def inputs(comfy: Comfy, base: Base) -> Inputs:
    """Small models, and small weights of controls."""
    assert SPECS.keys() == set(KINDS)
    for kind, spec in SPECS.items():
        small.save(spec, base.model("checkpoints", f"fuzz_{kind}.safetensors"))
    save_file(
        small.motionctrl_weights(small.TEXT_MODEL, levels=(32, 64, 128)),
        base.model("checkpoints", "fuzz_motion.safetensors"),
    )
    save_file(
        small.motionctrl_weights(small.CONTINUING_MODEL), base.model("checkpoints", "fuzz_motion_i2v.safetensors")
    )
    save_file(small.camera_weights(small.CONTINUING_MODEL), base.model("checkpoints", "fuzz_camera.safetensors"))
    for folder in FOLDERS[1:]:
        small.save(small.IMAGE_MODEL, base.model(folder, "fuzz_whole.safetensors"))
    torch.save({"state_dict": small.sketch_encoder()}, base.model("controlnet", "fuzz_sketch.ckpt"))
    torch.save(small.style_adapter(), base.model("checkpoints", "fuzz_style.pth"))
    return Inputs(comfy)


@pytest.fixture
def _placed(comfy: Comfy, folder: Folder) -> Iterator[None]:
    """Makes ComfyUI write into the folder of the example."""
    import folder_paths

    before = folder_paths.get_output_directory(), folder_paths.get_temp_directory()
    folder_paths.set_output_directory(str(folder.outputs))
    folder_paths.set_temp_directory(str(folder.root / "temporary"))
    yield
    folder_paths.set_output_directory(before[0])
    folder_paths.set_temp_directory(before[1])


def check_sampling(inputs: Inputs, model: Any, kind: str) -> None:
    """A short run with a model that a node gave."""
    latent = {"samples": torch.zeros(3, 4, 3, 2)}
    text = inputs.conditioning("own", kind)
    given = {"positive": text, "negative": text, "latent_image": latent, "steps": 1, "seed": 1, "cfg": 2.0}
    (made,) = inputs.comfy.call("VideoCrafterKSampler", model=model, **given).values
    assert made["samples"].shape == latent["samples"].shape


def forget_folders(place: Path) -> None:
    """Removes empty folders: ComfyUI makes that of a file's name before anything is checked."""
    for path in sorted(place.rglob("*"), reverse=True):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()


@pytest.mark.usefixtures("_placed")
@fuzzed(calls(), examples=30, seconds=20, memory=1024)
def test_nodes_give_a_result_or_our_error(case: dict[str, Any], comfy: Comfy, inputs: Inputs, folder: Folder) -> None:
    node, kind = case["node"], case["kind"]
    groups = SCHEMAS[node]["input"]
    items = {**groups.get("required", {}), **groups.get("optional", {})}
    given = {name: inputs.made(drawn, items[name], name, kind, node) for name, drawn in case["inputs"].items()}
    try:
        outcome = comfy.call(node, **given)
    except ValueError:
        forget_folders(folder.outputs)
        raise
    assert len(outcome.values) == len(SCHEMAS[node]["output"])
    if case["sampled"] and SCHEMAS[node]["output"][:1] == ["MODEL"]:
        check_sampling(inputs, outcome.values[0], kind)
