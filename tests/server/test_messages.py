"""Bad input by the page's own way: the error names the node, what was given, what is allowed, and the cure."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import small_models as small
import torch
from PIL import Image
from safetensors.torch import save_file

from comfyui.base import Base
from comfyui.limits import skip_without
from comfyui.server import Server


class Danger:
    """What a hostile .ckpt does when it is unpickled carelessly."""

    def __reduce__(self):
        return exec, ("raise SystemError('code of the file ran')",)


@pytest.fixture(scope="module")
def bad_files(base: Base, models: None) -> None:
    """Files that are no model, or a damaged one."""
    whole = base.model("checkpoints", "server_text.safetensors").read_bytes()
    base.model("checkpoints", "truncated.safetensors").write_bytes(whole[: len(whole) // 2])
    base.model("checkpoints", "empty.ckpt").write_bytes(b"")
    base.model("checkpoints", "page.safetensors").write_text("<!DOCTYPE html><html>Not found</html>")
    torch.save({"state_dict": {"weight": Danger()}}, base.model("checkpoints", "danger.ckpt"))
    save_file(image_model(), base.model("checkpoints", "sd15.safetensors"))
    lora = {f"lora_unet_down_blocks_0.lora_{side}.weight": torch.zeros(4, 4) for side in ("up", "down")}
    save_file(lora, base.model("checkpoints", "lora.safetensors"))
    save_file({"anything": torch.zeros(3)}, base.model("checkpoints", "unrelated.safetensors"))
    tensors = small.state_dict(small.TEXT_MODEL)
    name = "model.diffusion_model.out.2.weight"
    save_file({**tensors, name: tensors[name] * float("nan")}, base.model("checkpoints", "nan.safetensors"))


def image_model():
    """A few tensors as Stable Diffusion 1.5 names and shapes them."""
    shapes = {
        "input_blocks.0.0.weight": (320, 4, 3, 3),
        "input_blocks.1.0.in_layers.0.weight": (320,),
        "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (320, 768),
        "out.2.weight": (4, 320, 3, 3),
    }
    return {f"model.diffusion_model.{name}": torch.zeros(shape) for name, shape in shapes.items()}


def edited(prompt, **changes):
    """The prompt with inputs replaced: `_4=dict(width=500)` is about node 4."""
    for key, inputs in changes.items():
        prompt[key[1:]]["inputs"] |= inputs
    return prompt


FILES = {
    "truncated.safetensors": r"not complete",
    "empty.ckpt": r"empty",
    "page.safetensors": r"web page|HTML|download",
    "danger.ckpt": r"code",
    "sd15.safetensors": r"Stable Diffusion 1",
    "lora.safetensors": r"LoRA",
    "unrelated.safetensors": r"VideoCrafter",
}


@pytest.mark.parametrize(("file", "says"), FILES.items(), ids=FILES)
def test_files_that_are_no_model(server: Server, bad_files, text_prompt, file, says):
    error = failed(server, edited(text_prompt(), _1={"ckpt_name": file}), "1")
    assert_says(error, "VideoCrafterCheckpointLoader", rf"{file}[\s\S]*({says})|({says})[\s\S]*{file}")


def test_sizes_that_are_no_multiple_of_eight(server: Server, text_prompt):
    error = failed(server, edited(text_prompt(), _4={"width": 500, "height": 320}), "4")
    assert_says(error, "VideoCrafterEmptyLatent", "width is 500 pixels.*496 and 504")
    error = failed(server, edited(text_prompt(), _4={"width": 512, "height": 321}), "4")
    assert_says(error, "VideoCrafterEmptyLatent", "height is 321 pixels.*320 and 328")


def test_steps_that_the_spacing_does_not_have(server: Server, text_prompt):
    error = failed(server, text_prompt(steps=27), "5")
    assert_says(error, "VideoCrafterKSampler", r"27 steps.*\d+.*trailing")


OUT_OF_RANGE = {
    "frames": ("4", {"frames": 0}),
    "width": ("4", {"width": 0}),
    "steps": ("5", {"steps": 0}),
    "eta": ("5", {"eta": 1.5}),
    "denoise": ("5", {"denoise": 0.0}),
    "sampler_name": ("5", {"sampler_name": "no_such_sampler"}),
    "scheduler": ("5", {"scheduler": "no_such_scheduler"}),
    "seed": ("5", {"seed": -1}),
    "frames_per_chunk": ("6", {"frames_per_chunk": 0}),
}


@pytest.mark.parametrize("name", OUT_OF_RANGE)
def test_values_out_of_range_are_refused_by_name_before_the_run(server: Server, text_prompt, name):
    node, change = OUT_OF_RANGE[name]
    if isinstance(next(iter(change.values())), str):
        skip_without("choices checked before the run")
    run = server.run(edited(text_prompt(), **{f"_{node}": change}))
    assert run.status == "refused"
    (error,) = run.error["node_errors"][node]["errors"]
    assert error["extra_info"]["input_name"] == name
    assert error["extra_info"]["received_value"] == change[name]


def test_a_file_that_is_not_there_is_refused_before_the_run(server: Server, text_prompt):
    run = server.run(edited(text_prompt(), _1={"ckpt_name": "no_such_file.ckpt"}))
    assert run.status == "refused"
    (error,) = run.error["node_errors"]["1"]["errors"]
    assert error["extra_info"]["input_name"] == "ckpt_name"
    assert "no_such_file.ckpt" in error["details"]


def test_latents_of_other_models(server: Server, text_prompt):
    others = {
        r"16 channels": ("EmptySD3LatentImage", {"width": 64, "height": 64, "batch_size": 2}),
        r"5 axes": ("EmptyHunyuanLatentVideo", {"width": 64, "height": 64, "length": 5, "batch_size": 1}),
    }
    for says, (kind, inputs) in others.items():
        prompt = edited(text_prompt(), _5={"latent_image": ["8", 0]})
        prompt["8"] = {"class_type": kind, "inputs": inputs}
        assert_says(failed(server, prompt, "5"), "VideoCrafterKSampler", f"latent.*{says}.*VideoCrafter Empty Latent")


def test_weights_that_are_no_numbers_are_named(server: Server, bad_files, text_prompt):
    error = failed(server, edited(text_prompt(), _1={"ckpt_name": "nan.safetensors"}), None)
    assert_says(error, "VideoCrafterCheckpointLoader", r"not a finite number.*out\.2\.weight.*download")


def test_pictures_for_a_text_model(server: Server, image_prompt, picture):
    prompt = edited(image_prompt(picture), _1={"ckpt_name": "server_text.safetensors"})
    assert_says(
        failed(server, prompt, "8"), "VideoCrafterImageConditioning", "text-to-video model.*does not support image"
    )


def test_an_image_encoder_that_the_file_does_not_have(server: Server, image_prompt, picture):
    prompt = image_prompt(picture)
    prompt["10"] = {**prompt["1"], "inputs": {**prompt["1"]["inputs"], "ckpt_name": "server_text.safetensors"}}
    prompt["8"]["inputs"]["clip_vision"] = ["10", 3]
    assert_says(failed(server, prompt, "8"), "VideoCrafterImageConditioning", "image encoder")


def test_a_batch_of_images(server: Server, image_prompt, picture):
    prompt = image_prompt(picture)
    prompt["10"] = {"class_type": "RepeatImageBatch", "inputs": {"image": ["9", 0], "amount": 3}}
    prompt["8"]["inputs"]["image"] = ["10", 0]
    assert_says(failed(server, prompt, "8"), "VideoCrafterImageConditioning", "image input contains 3 images")


def test_a_clip_of_the_wrong_width(server: Server, text_prompt, base: Base):
    wide = replace(
        small.TEXT_MODEL, text_encoder=replace(small.TEXT_MODEL.text_encoder, width=64, embed_dim=64, heads=4)
    )
    small.save(wide, base.model("text_encoders", "wide.safetensors"), prefixes=("cond_stage_model.",))
    prompt = text_prompt()
    prompt["8"] = {"class_type": "VideoCrafterCLIPLoader", "inputs": {"clip_name": "wide.safetensors"}}
    for key in ("2", "3"):
        prompt[key]["inputs"]["clip"] = ["8", 0]
    assert_says(failed(server, prompt, "5"), "VideoCrafterKSampler", "64.*48")


def test_prompts_without_end_are_cut_with_a_warning(server: Server, text_prompt):
    run = server.run(text_prompt(text="a red square " * 800, steps=1, frames=1))
    assert run.status == "success", run.error
    assert "The prompt has 2400 tokens and the model reads 75: the last 2325 are cut, from 'a red square" in server.log
    assert server.run(text_prompt(text="", steps=1, frames=1)).status == "success"


@pytest.fixture
def picture(server: Server) -> str:
    Image.new("RGB", (40, 24), "navy").save(server.base.input / "navy.png")
    return "navy.png"


def failed(server: Server, prompt, node: str | None):
    """The message of a run that ends with an error at `node`."""
    run = server.run(prompt)
    assert run.status == "error", (run.status, run.error)
    if node is not None:
        assert run.error["node_id"] == node, run.error["exception_message"]
    return run.error


def assert_says(error, node_type: str, pattern: str) -> None:
    assert error["node_type"].startswith(node_type)
    message = error["exception_message"]
    assert re.search(pattern, message, re.IGNORECASE | re.DOTALL), message
    assert error["exception_type"] == "videocrafter.UserError", "the page shows it: no path of a file"
    assert len(message) < 1500
