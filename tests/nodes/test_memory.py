"""What ComfyUI's memory manager is given, against what lives at one time by accounting, and the planned peaks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.live import live_bytes
from benchmarks.memory import GOALS, pass_bytes, plan
from vc_core.autoencoder.autoencoder import Autoencoder
from vc_core.denoising.windows import ContextWindows
from vc_core.network import parts
from vc_core.specs import PRESETS

MIB = 2**20
SIZE = (16, 40, 64)


@pytest.mark.parametrize("size", GOALS, ids=lambda size: "x".join(map(str, size)))
def test_published_sizes_keep_to_their_goals(size):
    whole, streamed = GOALS[size]
    found = plan(PRESETS["videocrafter2_512"], size)
    assert found["peak_bytes"] < whole
    assert found["peak_bytes_streamed"] < streamed
    assert found["decode_bytes_per_frame"] < whole


@pytest.mark.parametrize("preset", ["videocrafter2_512", "videocrafter1_t2v_1024", "dynamicrafter_512"])
def test_the_host_expects_a_little_more_than_a_pass_takes(text_model, preset):
    """ComfyUI's unit, with fused attention: a hundredth of a MiB for each value and byte."""
    needed = pass_bytes(PRESETS[preset], SIZE)
    estimate = text_model.model.model.memory_usage_factor * 0.01 * MIB * SIZE[0] * SIZE[1] * SIZE[2] * 2
    assert 1.1 * needed < estimate < 1.5 * needed


def test_a_batch_of_conditionings_is_expected_to_take_as_many_times_more(text_model):
    model = text_model.model.model
    one, two = (model.memory_required([count * 16, 4, 16, 24]) for count in (1, 2))
    assert two == pytest.approx(2 * one)


@torch.no_grad()
def test_the_vae_is_expected_to_take_a_little_more_than_it_does(text_model):
    spec = text_model.vae.first_stage_model.spec
    module = Autoencoder(spec, device="meta", dtype=torch.float32)
    latents = torch.empty(1, spec.latent_channels, 16, 24, device="meta")
    pixels = torch.empty(1, 3, 128, 192, device="meta")
    decode, encode = (live_bytes(work) for work in (lambda: module.decode(latents), lambda: module.encode(pixels)))
    estimate = text_model.vae.memory_used_decode(latents.shape, torch.float32)
    assert 1.1 * decode < estimate < 2 * decode
    assert 1.1 * encode < text_model.vae.memory_used_encode(pixels.shape, torch.float32) < 2.2 * encode


@torch.no_grad()
@pytest.mark.parametrize("frames", [6, 16])
def test_the_vae_of_toon_crafter_is_expected_to_take_a_little_more_than_it_does(comfy, frames):
    host, spec = comfy.module("nodes.host.vae"), PRESETS["tooncrafter_512"].autoencoder
    module = Autoencoder(spec, device="meta", dtype=torch.float16)
    latents = torch.empty(frames, 4, 40, 64, device="meta", dtype=torch.float16)
    ends = torch.empty(2, 3, 320, 512, device="meta", dtype=torch.float16)
    needed = live_bytes(lambda: module.decode(latents, ends=ends))
    estimate = host.DECODED * spec.channels * ends[0, 0].nbytes * (frames + host.ENDS)
    assert 1.1 * needed < estimate < 2.2 * needed


@pytest.mark.parametrize("size", [(40, 64), (72, 128)])
@torch.no_grad()
def test_cores_own_vae_takes_no_more_than_it_is_expected_to(comfy, size):
    """Even where a GPU has no kernel for the attention, which then holds its map."""
    import comfy.ldm.modules.diffusionmodules.model as core
    from comfy.ldm.models.autoencoder import AutoencoderKL

    host, spec = comfy.module("nodes.host.vae"), PRESETS["videocrafter1_t2v_1024"].autoencoder
    with torch.device("meta"):
        module = AutoencoderKL(**host._config(spec)).half()
    for block in module.modules():
        if isinstance(block, core.AttnBlock):
            block.optimized_attention = core.pytorch_attention
    latents = torch.empty(1, 4, *size, device="meta", dtype=torch.float16)
    pixels = torch.empty(1, 3, *(8 * side for side in size), device="meta", dtype=torch.float16)
    unit = spec.channels * pixels[0, 0].numel() * 2
    assert 1.1 * live_bytes(lambda: module.decode(latents)) < host.DECODED * unit
    assert 1.1 * live_bytes(lambda: module.encode(pixels)) < host.ENCODED * unit


def test_free_memory_is_that_of_the_host_without_what_is_reserved(comfy, monkeypatch):
    import comfy.model_management as management

    memory = comfy.module("nodes.host.memory")
    monkeypatch.setattr(management, "get_free_memory", lambda device: 5000)
    monkeypatch.setattr(management, "extra_reserved_memory", lambda: 400)

    class Patcher:
        def get_free_memory(self, device):
            return 9000

    cuda = torch.device("cuda")
    assert memory.free_bytes(cuda) == 4600
    assert memory.free_bytes(cuda, Patcher()) == 8600
    assert memory.free_bytes(torch.device("cpu")) is None


@pytest.mark.parametrize(("free", "values"), [(None, parts.AT_ONCE), (1, parts.LEAST), (2**40, parts.WHOLE)])
def test_a_pass_works_on_as_much_at_once_as_the_host_has_free(comfy, text_model, monkeypatch, free, values):
    monkeypatch.setattr(comfy.module("nodes.host.model"), "free_bytes", lambda device, patcher: free)
    text_model.sample(steps=1)
    assert text_model.model.model.diffusion_model.budget.values == values


def test_a_window_is_what_a_pass_sees_at_once(comfy):
    unet = comfy.module("nodes.host.unet")
    x, windows = torch.empty(40, 4, 2, 2), {unet.CONTEXT: ContextWindows(size=8, stride=4), "cond_or_uncond": [0, 1]}
    assert unet.rows_at_once(x, {"cond_or_uncond": [0, 1]}) == 40
    assert unet.rows_at_once(x, windows) == 16
    assert unet.rows_at_once(x[:6], windows) == 6


def place_in_file(address):
    """(file, byte in it) of an address that a memory map of a file holds, else None."""
    for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines():
        span, _, offset, _, inode, *path = line.split(maxsplit=5)
        begin, end = (int(part, 16) for part in span.split("-"))
        if begin <= address < end:
            return (path[0], address - begin + int(offset, 16)) if inode != "0" else None
    return None


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux tells a process its memory maps")
@pytest.mark.parametrize("part", ["model", "vae"])
def test_a_second_load_of_a_file_shares_the_memory_of_the_first(comfy, checkpoints, text_model, part):
    """Both models' weights are the same bytes of the same file, of which the system keeps one copy."""
    places, kept = [], []
    for _ in range(2):
        loaded = type(text_model)(comfy, checkpoints["text"], weight_dtype="fp32")
        kept.append(loaded)
        module = loaded.model.model.diffusion_model if part == "model" else loaded.vae.first_stage_model
        places.append({name: place_in_file(value.data_ptr()) for name, value in module.state_dict().items()})
    assert places[0] == places[1]
    assert all(place is not None and place[0].endswith(checkpoints["text"]) for place in places[0].values())
