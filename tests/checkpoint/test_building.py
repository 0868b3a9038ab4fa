"""From files to modules: strict, finite, in the type that is asked for, and without a second copy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from checkpoint.synthetic import IMAGE_MODEL, PARTS_OF, TEXT_MODEL, part_weights, published, schedule_buffers
from safetensors.torch import save_file
from torch import Tensor

from vc_core.checkpoint import METADATA_KEY, PARTS, Parts, load, open_checkpoint
from vc_core.checkpoint import building as building_module
from vc_core.checkpoint.detection import IN_MODEL
from vc_core.denoising.schedule import NoiseSchedule
from vc_core.errors import UserError
from vc_core.specs import ModelSpec, to_json

BOTH = pytest.mark.parametrize("spec", [TEXT_MODEL, IMAGE_MODEL], ids=lambda spec: spec.name)


def save(path: Path, tensors: dict[str, Tensor], spec: ModelSpec) -> Path:
    """As our own files are: with the spec in the metadata."""
    save_file(tensors, str(path), {METADATA_KEY: to_json(spec)})
    return path


@BOTH
def test_loads_every_part_bit_for_bit(spec: ModelSpec, tmp_path: Path) -> None:
    tensors = published(spec)
    parts = load(save(tmp_path / "m.safetensors", tensors, spec))
    assert parts.spec == spec
    for part in IN_MODEL & PARTS.keys():
        module = getattr(parts, part)
        if part not in PARTS_OF[spec.name]:
            assert module is None
            continue
        assert not module.training
        for name, value in module.state_dict().items():
            assert torch.equal(value, tensors[PARTS[part].prefix + name]), name
            assert not value.requires_grad
    assert parts.dtype == torch.float32
    parts.require(*PARTS_OF[spec.name])


def test_a_ckpt_without_metadata_loads_with_chosen_spec(tmp_path: Path) -> None:
    torch.save({"state_dict": published(IMAGE_MODEL)}, tmp_path / "m.ckpt")
    assert load(tmp_path / "m.ckpt", preset=IMAGE_MODEL).spec == IMAGE_MODEL


@pytest.mark.parametrize("ending", [".ckpt", ".safetensors"])
def test_weights_kept_as_they_are_stay_in_the_memory_map(ending: str, tmp_path: Path) -> None:
    """Every tensor of the model lies in the one map of the file: there is no second copy of any."""
    path = tmp_path / f"m{ending}"
    tensors = published(TEXT_MODEL)
    if ending == ".ckpt":
        torch.save(tensors, path)
    else:
        save_file(tensors, str(path))
    checkpoint = open_checkpoint(path, preset=TEXT_MODEL)
    mapped = {tensor.data_ptr() for tensor in checkpoint.detection.contents.parts["unet"].values()}
    module = checkpoint.build("unet", dtype=torch.float32)
    assert {parameter.data_ptr() for parameter in module.parameters()} <= mapped


@pytest.mark.parametrize("group", [1, 10_000, 2**40])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_casting_gives_the_same_in_groups_of_any_size(
    dtype: torch.dtype, group: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(building_module, "GROUP_BYTES", group)
    tensors = part_weights(IMAGE_MODEL, "image_tokens")
    path = save(tmp_path / "m.safetensors", tensors, IMAGE_MODEL)
    cast = open_checkpoint(path).weights("image_tokens", dtype=dtype)
    assert cast.keys() == tensors.keys()
    for name, tensor in cast.items():
        assert torch.equal(tensor, tensors[name].to(dtype))


def test_the_unet_computes_in_the_type_asked_for(tmp_path: Path) -> None:
    path = save(tmp_path / "m.safetensors", published(TEXT_MODEL), TEXT_MODEL)
    parts = load(path, dtype="bf16")
    assert parts.unet is not None
    assert parts.dtype == torch.bfloat16
    assert {parameter.dtype for parameter in parts.unet.parameters()} == {torch.bfloat16}


def test_a_type_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no dtype 'fp8'.*fp32, fp16, bf16"):
        load(save(tmp_path / "m.safetensors", published(TEXT_MODEL), TEXT_MODEL), dtype="fp8")


def test_an_image_encoder_without_the_texts_leftovers_loads(tmp_path: Path) -> None:
    weights = {
        name: tensor for name, tensor in part_weights(IMAGE_MODEL, "image_encoder").items() if ".visual." in name
    }
    checkpoint = open_checkpoint(save(tmp_path / "clip_vision.safetensors", weights, IMAGE_MODEL))
    assert not checkpoint.difference("image_encoder")
    assert checkpoint.build("image_encoder").state_dict().keys() == weights.keys()


class TestSplitModels:
    def test_several_files_make_one_model(self, tmp_path: Path) -> None:
        paths = []
        for part in PARTS_OF["small_image"]:
            weights = {PARTS[part].prefix + name: t for name, t in part_weights(IMAGE_MODEL, part).items()}
            paths.append(save(tmp_path / f"{part}.safetensors", weights, IMAGE_MODEL))
        load(paths).require(*PARTS_OF["small_image"])

    def test_a_later_file_replaces_a_part(self, tmp_path: Path) -> None:
        whole = save(tmp_path / "m.safetensors", published(TEXT_MODEL), TEXT_MODEL)
        other = part_weights(TEXT_MODEL, "autoencoder", seed=99)
        vae = save(tmp_path / "vae.safetensors", other, TEXT_MODEL)
        loaded = load([whole, vae])
        assert loaded.autoencoder is not None
        assert torch.equal(loaded.autoencoder.encoder.conv_in.weight, other["encoder.conv_in.weight"])

    def test_what_is_missing_is_named(self, tmp_path: Path) -> None:
        unet = save(tmp_path / "unet.safetensors", part_weights(TEXT_MODEL, "unet"), TEXT_MODEL)
        with pytest.raises(UserError, match=r"no autoencoder \(VAE\) and no text encoder"):
            load(unet).require("unet", "autoencoder", "text_encoder")
        with pytest.raises(UserError, match="There is no text encoder"):
            open_checkpoint(unet).build("text_encoder")

    def test_no_file_at_all_is_refused(self) -> None:
        with pytest.raises(UserError, match="No model file was given"):
            load([])


class TestSchedule:
    def test_the_files_own_buffers_are_used(self, tmp_path: Path) -> None:
        tensors = published(TEXT_MODEL)
        tensors["alphas_cumprod"] = torch.linspace(0.99, 0.01, 1000)
        torch.save(tensors, tmp_path / "m.ckpt")
        schedule = open_checkpoint(tmp_path / "m.ckpt").schedule()
        assert torch.equal(schedule.alphas_cumprod.float(), tensors["alphas_cumprod"])

    def test_buffers_rounded_to_half_precision_are_not(self, tmp_path: Path) -> None:
        """As in the published image-to-video file; the presets hold the exact numbers."""
        torch.save(published(TEXT_MODEL, torch.float16), tmp_path / "m.ckpt")
        checkpoint = open_checkpoint(tmp_path / "m.ckpt")
        exact = NoiseSchedule.from_spec(checkpoint.spec.diffusion)
        assert torch.equal(checkpoint.schedule().alphas_cumprod, exact.alphas_cumprod)
        assert torch.equal(checkpoint.schedule().scale, exact.scale)

    def test_the_chosen_presets_schedule_rules(self, tmp_path: Path) -> None:
        torch.save(published(TEXT_MODEL), tmp_path / "m.ckpt")
        schedule = open_checkpoint(tmp_path / "m.ckpt", preset="videocrafter1_t2v_256").schedule()
        assert float(schedule.scale.min()) == 1

    def test_a_file_without_buffers_takes_the_specs(self, tmp_path: Path) -> None:
        path = save(tmp_path / "unet.safetensors", part_weights(TEXT_MODEL, "unet"), TEXT_MODEL)
        exact = NoiseSchedule.from_spec(TEXT_MODEL.diffusion)
        assert torch.equal(open_checkpoint(path).schedule().scale, exact.scale)

    def test_the_buffers_of_a_file_agree_with_its_spec(self) -> None:
        buffers = schedule_buffers(TEXT_MODEL)
        ours = NoiseSchedule.from_buffers(buffers["alphas_cumprod"], buffers["scale_arr"])
        assert torch.equal(ours.alphas_cumprod, NoiseSchedule.from_spec(TEXT_MODEL.diffusion).alphas_cumprod)


class TestBadWeights:
    @pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
    def test_weights_that_are_not_finite_are_refused_by_name(
        self, value: float, dtype: torch.dtype, tmp_path: Path
    ) -> None:
        tensors = published(TEXT_MODEL, dtype)
        tensors["model.diffusion_model.out.2.weight"][1, 2, 0, 1] = value
        with pytest.raises(UserError, match=r"not a finite number \(video UNet: out\.2\.weight\)"):
            load(save(tmp_path / "m.safetensors", tensors, TEXT_MODEL), dtype=None)

    def test_weights_too_large_for_fp16_are_refused_with_the_cure(self, tmp_path: Path) -> None:
        tensors = published(TEXT_MODEL)
        tensors["model.diffusion_model.out.2.bias"][0] = 1e6
        path = save(tmp_path / "m.safetensors", tensors, TEXT_MODEL)
        with pytest.raises(UserError, match="fp32 or bf16"):
            load(path, dtype="fp16")
        assert isinstance(load(path, dtype="bf16"), Parts)

    def test_weights_that_a_host_casts_later_must_be_finite_in_that_type(self, tmp_path: Path) -> None:
        tensors = published(TEXT_MODEL)
        tensors["model.diffusion_model.out.2.bias"][0] = 1e6
        checkpoint = open_checkpoint(save(tmp_path / "m.safetensors", tensors, TEXT_MODEL))
        assert checkpoint.weights("unet", computed=torch.bfloat16)["out.2.bias"].dtype == torch.float32
        with pytest.raises(UserError, match="fp32 or bf16"):
            checkpoint.weights("unet", computed=torch.float16)

    def test_a_missing_an_unknown_and_a_misshapen_tensor_are_named(self, tmp_path: Path) -> None:
        tensors = published(TEXT_MODEL)
        del tensors["model.diffusion_model.out.0.bias"]
        tensors["model.diffusion_model.extra.weight"] = torch.ones(1)
        tensors["model.diffusion_model.out.0.weight"] = torch.ones(31)
        with pytest.raises(UserError) as refused:
            load(save(tmp_path / "m.safetensors", tensors, TEXT_MODEL))
        message = str(refused.value)
        assert "1 missing: out.0.bias" in message
        assert "1 unknown: extra.weight" in message
        assert "out.0.weight is [31], should be [32]" in message

    def test_tensors_of_no_part_are_refused(self, tmp_path: Path) -> None:
        tensors = {**published(TEXT_MODEL), "mystery.weight": torch.ones(1)}
        with pytest.raises(UserError, match=r"belong to no part of a VideoCrafter model: mystery\.weight"):
            load(save(tmp_path / "m.safetensors", tensors, TEXT_MODEL))

    def test_another_file_is_named(self, tmp_path: Path) -> None:
        save_file({"a.lora_up.weight": torch.ones(1)}, str(tmp_path / "l.safetensors"))
        with pytest.raises(UserError, match=r"l\.safetensors: .*it seems to be a LoRA"):
            load(tmp_path / "l.safetensors")

    def test_a_text_encoder_of_another_model_is_refused(self, tmp_path: Path) -> None:
        whole = save(tmp_path / "m.safetensors", published(TEXT_MODEL), TEXT_MODEL)
        wide = replace(TEXT_MODEL, text_encoder=replace(TEXT_MODEL.text_encoder, width=40, heads=5, embed_dim=40))
        torch.save(part_weights(wide, "text_encoder"), tmp_path / "clip.ckpt")
        with pytest.raises(UserError, match="The text encoder"):
            load([whole, tmp_path / "clip.ckpt"])
