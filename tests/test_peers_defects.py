"""Sixteen mistakes that other packs for models of this kind have made, and a test for each."""

from __future__ import annotations

import ast
import importlib
import json
import os
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import small_models
import torch
from torch import Tensor
from video.reading import page_metadata

from comfyui.base import ROOT
from comfyui.inprocess import Comfy
from vc_core import bundled
from vc_core.errors import UserError

PARTS = ("nodes", "vc_core")


class Bench:
    """A model that continues pictures, in the nodes, and shorthands."""

    def __init__(self, comfy: Comfy) -> None:
        self.comfy = comfy
        small_models.save(small_models.CONTINUING_MODEL, comfy.base.model("checkpoints", "defects.safetensors"))
        loaded = self.call("VideoCrafterCheckpointLoader", ckpt_name="defects.safetensors", weight_dtype="fp32")
        self.model, self.clip, self.vae, self.vision = loaded

    def call(self, node: str, **inputs: Any) -> tuple[Any, ...]:
        return self.comfy.call(node, **inputs).values

    def text(self, prompt: str) -> Any:
        return self.call("CLIPTextEncode", clip=self.clip, text=prompt)[0]

    def conditioned(self, image: Tensor, **options: Any) -> tuple[Any, ...]:
        """Positive, negative, picture only, latent: clips of 3 frames of 24 x 16 pixels."""
        given = {"positive": self.text("a boat"), "negative": self.text(""), "width": 24, "height": 16, "frames": 3}
        given |= {"model": self.model, "clip_vision": self.vision, "vae": self.vae, "image": image, **options}
        return self.call("VideoCrafterPictureToVideo", **given)

    def sample(self, conditioned: tuple[Any, ...], model: Any = None, **options: Any) -> Tensor:
        given = {
            "positive": conditioned[0],
            "negative": conditioned[1],
            "latent_image": conditioned[3],
            "seed": 1,
            "steps": 2,
            "cfg": 2.0,
        }
        (latent,) = self.call("VideoCrafterKSampler", model=model or self.model, **{**given, **options})
        samples: Tensor = latent["samples"]
        return samples


@pytest.fixture(scope="module")
def bench(comfy: Comfy) -> Bench:
    return Bench(comfy)


@pytest.fixture(scope="module")
def conditioned(bench: Bench) -> tuple[Any, ...]:
    return bench.conditioned(picture(1))


def picture(seed: int, height: int = 16, width: int = 24) -> Tensor:
    return torch.rand(1, height, width, 3, generator=torch.Generator().manual_seed(seed))


def sources() -> Iterator[tuple[str, ast.Module]]:
    """The name and the tree of every file of the pack that a user runs."""
    for path in (ROOT / "__init__.py", *(file for part in PARTS for file in sorted((ROOT / part).rglob("*.py")))):
        yield str(path.relative_to(ROOT)), ast.parse(path.read_text(encoding="utf-8"))


def test_1_the_end_picture_is_never_replaced_by_the_start_picture(bench: Bench) -> None:
    for size in ((16, 24), (33, 70)):
        end = picture(2, *size)
        start, last = bench.conditioned(picture(1), end_image=end)[0][0][1]["videocrafter_pictures"]
        (alone,) = bench.conditioned(end)[0][0][1]["videocrafter_pictures"]
        assert torch.equal(last, alone)
        assert not torch.equal(last, start)


def test_2_the_unconditional_picture_is_grey_and_draws_nothing(bench: Bench) -> None:
    made = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        made.append(bench.conditioned(picture(1))[1][0][1]["videocrafter_image_tokens"])
        assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(*made)
    grey = bench.conditioned(torch.full((1, 16, 24, 3), 0.5))[0][0][1]["videocrafter_image_tokens"]
    assert float((made[0] - grey).norm() / grey.norm()) < 0.05, "but for the eight bits of a picture"


def test_3_rows_of_key_frames_have_the_frames_that_were_asked_for(bench: Bench) -> None:
    row = torch.cat([picture(seed) for seed in (1, 2, 3)])
    assert [bench.sample(bench.conditioned(row, loop=loop)).shape[0] for loop in (False, True)] == [5, 7]
    assert bench.sample(bench.conditioned(picture(1), loop=True)).shape[0] == 4


def test_4_numbers_that_are_none_are_answered_with_a_cure(bench: Bench, conditioned: tuple[Any, ...]) -> None:
    model = bench.model.clone()
    model.set_model_unet_function_wrapper(lambda apply, call: torch.full_like(call["input"], float("nan")))
    for sampler in ("ddim_exact", "euler"):
        with pytest.raises(UserError, match=r"NaN or infinite at step 1 of \d.*weight_dtype"):
            bench.sample(conditioned, model, sampler_name=sampler)


def test_5_imports_depend_neither_on_the_folders_name_nor_on_the_path(comfy: Comfy) -> None:
    own = {path.stem for path in ROOT.iterdir() if path.is_dir() or path.suffix == ".py"} | {"utils", "scripts", "lvdm"}
    for name, tree in sources():
        for node in ast.walk(tree):
            assert not (isinstance(node, ast.Attribute) and ast.unparse(node) == "sys.path"), name
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                assert (node.module or "").split(".")[0] not in own, f"{name}: {node.module}"
            if isinstance(node, ast.Import):
                assert not {alias.name.split(".")[0] for alias in node.names} & own, name
    assert str(comfy.base.pack).replace(".", "_x_") in comfy.pack.__name__, (
        "loaded under the name of its folder, as ComfyUI does"
    )


def test_6_what_the_pack_imports_of_comfyui_is_there(comfy: Comfy) -> None:
    """`tests/nodes/test_old_hosts.py` asks the same of an older ComfyUI."""
    assert comfy
    imported = set()
    for _, tree in sources():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                imported |= {(alias.name, None) for alias in node.names if alias.name.startswith("comfy")}
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and (node.module or "").startswith("comfy"):
                imported |= {(node.module, alias.name) for alias in node.names}
    assert len(imported) > 15
    for module, name in imported:
        assert name is None or hasattr(importlib.import_module(module), name), (module, name)


def test_7_equal_prompts_are_no_error(bench: Bench, conditioned: tuple[Any, ...]) -> None:
    same = (conditioned[0], conditioned[0], conditioned[2], conditioned[3])
    guided, plain = bench.sample(same, cfg=5.0), bench.sample(same, cfg=1.0)
    assert float((guided - plain).norm() / plain.norm()) < 1e-4


def test_8_node_ids_have_a_prefix_of_our_own(comfy: Comfy) -> None:
    ids = {node["node_id"] for node in _schemas(comfy)}
    assert ids == set(comfy.ours)
    assert all(name.startswith("VideoCrafter") for name in ids)
    assert len(ids) > 15


def _schemas(comfy: Comfy) -> Iterator[dict[str, str]]:
    for node in importlib.import_module(f"{comfy.pack.__name__}.nodes").__dict__.values():
        for ours in getattr(node, "NODES", ()):
            yield {"node_id": ours.GET_SCHEMA().node_id}


def test_9_nothing_is_printed_and_batches_are_taken_or_refused_by_name(
    bench: Bench, conditioned: tuple[Any, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    bench.sample(conditioned)
    assert capsys.readouterr().out == ""
    for name, tree in sources():
        calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
        assert not [call for call in calls if isinstance(call, ast.Name) and call.id == "print"], name
    both = [*conditioned[0], *bench.conditioned(picture(3))[0]]
    assert torch.isfinite(bench.sample((both, conditioned[1], None, conditioned[3]))).all()
    with pytest.raises(UserError, match="2 images"):
        bench.conditioned(picture(1), end_image=torch.cat([picture(1), picture(2)]))


def test_10_the_model_is_read_once_and_the_environment_left_alone(
    bench: Bench, conditioned: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    loader, environment = bench.comfy.classes["VideoCrafterCheckpointLoader"], dict(os.environ)
    prints = [loader.fingerprint_inputs(ckpt_name="defects.safetensors", weight_dtype="fp32") for _ in range(2)]
    assert prints[0] == prints[1]
    monkeypatch.setattr(bench.comfy.module("vc_core.checkpoint.reading"), "read", None)
    monkeypatch.setattr(bench.comfy.module("nodes.checkpoint"), "open_file", None)
    assert torch.equal(bench.sample(conditioned), bench.sample(conditioned))
    assert dict(os.environ) == environment
    for name, tree in sources():
        stored = [
            node for node in ast.walk(tree) if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store)
        ]
        assert not [node for node in stored if ast.unparse(node.value) == "os.environ"], name


def test_11_metadata_is_json_once_and_every_file_has_its_own(comfy: Comfy) -> None:
    def make(number: int) -> dict[str, Any]:
        prompt, workflow = {"1": {"inputs": {"text": f'"{number}" {{'}}}, {"nodes": [number]}
        outcome = comfy.call(
            "VideoCrafterVideoCombine", images=torch.rand(3, 16, 16, 3), filename_prefix=f"defects{number}",
            hidden={"prompt": prompt, "extra_pnginfo": {"workflow": workflow}, "unique_id": "1"},
        )  # fmt: skip
        (item,) = outcome.ui["images"] if outcome.ui else ()
        found = page_metadata(comfy.base.output / item["subfolder"] / item["filename"])
        assert (found["prompt"], found["workflow"]) == (prompt, workflow)
        return found

    with ThreadPoolExecutor(3) as pool:
        made = list(pool.map(make, range(3)))
    assert len({json.dumps(found, sort_keys=True) for found in made}) == 3


def test_12_folders_that_do_not_exist_are_empty_lists(comfy: Comfy, monkeypatch: pytest.MonkeyPatch) -> None:
    import folder_paths

    nowhere = str(comfy.base.root / "nowhere")
    for kind in ("checkpoints", "diffusion_models", "vae", "text_encoders", "clip_vision", "loras"):
        monkeypatch.setitem(folder_paths.folder_names_and_paths, kind, ([nowhere], {".safetensors"}))
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    for node in comfy.ours.values():
        assert node.define_schema().node_id in comfy.ours
    choices = comfy.module("nodes.host.files").choices
    assert choices("vae") == []
    boxed = [*choices("checkpoints"), *choices("loras")]
    models = {path.name for path in (ROOT / "models").glob("*.safetensors")}
    assert sorted(boxed) == sorted(models - {bundled.CAMERA.name}), "the camera layers are a file of their control"


def test_13_a_model_is_comfyuis_own_kind_of_model(bench: Bench) -> None:
    import comfy.model_base
    import comfy.model_patcher
    import comfy.sd

    assert isinstance(bench.model, comfy.model_patcher.ModelPatcher)
    assert isinstance(bench.model.model, comfy.model_base.BaseModel)
    assert isinstance(bench.clip, comfy.sd.CLIP)
    assert isinstance(bench.vae, comfy.sd.VAE)


def test_14_no_node_changes_the_model_that_it_is_given(bench: Bench) -> None:
    def state() -> str:
        model = bench.model
        return repr((model.model_options, list(model.patches), model.object_patches, model.wrappers, model.callbacks))

    from safetensors.torch import save_file

    name = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q"
    rank = {f"{name}.lora_up.weight": torch.ones(32, 1), f"{name}.lora_down.weight": torch.ones(1, 32)}
    save_file(rank, bench.comfy.base.model("loras", "defects.safetensors"))
    before, patched = state(), []
    for name, node in bench.comfy.ours.items():
        schema = node.GET_SCHEMA()
        if [output.io_type for output in schema.outputs] == ["MODEL"] and "model" in {
            each.id for each in schema.inputs
        }:
            if "file" in {each.id for each in schema.inputs}:
                continue  # a control with weights of its own, see tests/nodes/test_controls.py
            options = {"lora_name": "defects.safetensors"} if "Lora" in name else {}
            (out,) = bench.call(name, model=bench.model, **options)
            assert out is not bench.model, name
            assert state() == before, name
            patched.append(name)
    assert len(patched) >= 3


def test_15_all_bits_of_a_seed_count_and_noise_is_the_cpus(bench: Bench, conditioned: tuple[Any, ...]) -> None:
    clips = [bench.sample(conditioned, seed=seed) for seed in (7, 7 + 2**32, 7 + 2**63, 2**64 - 1)]
    assert all(not torch.equal(a, b) for index, a in enumerate(clips) for b in clips[:index])
    random.seed(1)
    torch.manual_seed(1)
    assert torch.equal(bench.sample(conditioned, seed=7), clips[0])
    for name, tree in sources():
        if "conditioning" in name:  # weights that a file replaces
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in (
                "torch.randn",
                "torch.rand",
                "torch.randn_like",
            ):
                keywords = {keyword.arg for keyword in node.keywords}
                assert "generator" in keywords, f"{name}:{node.lineno} draws from the global generator"
                assert "device" not in keywords, f"{name}:{node.lineno} draws on a device"


def test_16_every_loop_asks_whether_it_is_cancelled(bench: Bench, conditioned: tuple[Any, ...]) -> None:
    import comfy.model_management as management

    latents = {"samples": torch.zeros(6, 4, 2, 3)}
    loops: dict[str, Callable[[], object]] = {
        "our sampler": lambda: bench.sample(conditioned, steps=4),
        "core's sampler": lambda: bench.sample(conditioned, steps=4, sampler_name="euler", scheduler="normal"),
        "rows of key frames": lambda: bench.sample(bench.conditioned(torch.cat([picture(1), picture(2)])), steps=4),
        "decoding": lambda: bench.call("VideoCrafterDecode", samples=latents, vae=bench.vae, frames_per_chunk=1),
        "writing": lambda: bench.call("VideoCrafterVideoCombine", images=torch.rand(9, 16, 16, 3)),
    }
    for name, loop in loops.items():
        with bench.comfy.progress(lambda value, total: management.interrupt_current_processing()) as seen:
            with pytest.raises(management.InterruptProcessingException):
                loop()
            assert seen.steps[-1][0] < seen.steps[-1][1], f"{name} went on to its end"
