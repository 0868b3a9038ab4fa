"""The files of CamI2V, CameraCtrl and CamI2V's MotionCtrl: recognized, measured, built, reported and converted."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from checkpoint.test_manifests import manifest
from safetensors.torch import load_file
from torch import Tensor, nn

from vc_core.checkpoint import PARTS, convert, detect, inspect_checkpoint
from vc_core.checkpoint.parts.cami2v import CameraLayersSpec, build
from vc_core.checkpoint.report import describe, table
from vc_core.errors import UserError
from vc_core.network.adapters.camera_features import CameraNetwork
from vc_core.network.adapters.motionctrl import MotionCtrlNetwork
from vc_core.network.attention import sdpa_attention
from vc_core.specs import PRESETS

FILES = {
    "cami2v_512_new_keys": ("dynamicrafter_512_v1", "dynamicrafter_512", "cami2v", 4),
    "cami2v_cameractrl_256_new_keys": ("dynamicrafter_256_v1", "dynamicrafter_256", "cami2v", None),
    "cami2v_motionctrl_256_new_keys": ("dynamicrafter_256_v1", "dynamicrafter_256", "motionctrl", None),
}
BLOCK = "middle_block.1.transformer_blocks.0"
ENCODER = {"levels": (8, 16), "units": 1, "frames": 16}
TRAINED = f"model.diffusion_model.{BLOCK}.attn2.to_q.weight"


def small(registers: int | None = 4) -> dict[str, Tensor]:
    """A small file with only the new keys, by the published names."""
    spec = CameraLayersSpec(
        blocks=((BLOCK, 8), ("input_blocks.1.2.transformer_blocks.0", 16)), registers=registers, **ENCODER
    )
    generator = torch.Generator().manual_seed(0)
    record = PARTS["cami2v"]
    return {
        record.in_file(name): torch.randn(tensor.shape, generator=generator)
        for name, tensor in build(spec, nn, sdpa_attention).state_dict().items()
    }


@pytest.mark.parametrize("name", FILES)
def test_published_files_are_recognized_whole_and_without_their_base(name: str) -> None:
    base, preset, part, registers = FILES[name]
    new = manifest(name)
    for tensors in ({**manifest(base), **new}, {"_forward_module." + key: value for key, value in new.items()}):
        found = detect({**tensors, "depth_predictor.pretrained.cls_token": torch.empty(1, device="meta")})
        assert found.contents.unknown == ()
        assert found.contents.ignored == ("depth_predictor.pretrained.cls_token",) or part == "motionctrl"
        assert part in found.parts
        spec = found.part_spec(part)
        built = PARTS[part].build(spec, nn, sdpa_attention)
        ours = {PARTS[part].in_file(key): value.shape for key, value in built.state_dict().items()}
        assert ours == {key: value.shape for key, value in new.items()}
        if isinstance(built, CameraNetwork):
            assert (spec.registers, spec.levels, spec.frames) == (registers, (320, 640, 1280, 1280), 16)
            assert (len(built.projections), len(built.attentions)) == (16, 16 if registers else 0)
        else:
            assert isinstance(built, MotionCtrlNetwork)
            assert len(built.projections) == 17
        if len(tensors) > len(new):
            assert found.spec == PRESETS[preset]
        else:
            assert found.parts == (part,)


@pytest.mark.parametrize("registers", [4, None])
def test_tensors_of_the_network_that_come_with_it_are_kept_and_replace_its_own(tmp_path: Path, registers: int) -> None:
    tensors = {**small(registers), TRAINED: torch.ones(8, 8)}
    torch.save({"module": {f"_forward_module.{key}": value for key, value in tensors.items()}}, tmp_path / "file.pt")
    checkpoint = inspect_checkpoint(tmp_path / "file.pt")
    assert checkpoint.parts == ("cami2v",)
    network = checkpoint.build("cami2v")
    assert list(network.changed.tensors) == [TRAINED.removeprefix("model.diffusion_model.")]
    assert torch.equal(network.changed.tensors[f"{BLOCK}.attn2.to_q.weight"], torch.ones(8, 8))
    (path,) = convert(tmp_path / "file.pt", tmp_path / "new.safetensors")
    written = load_file(path)
    assert written.keys() == tensors.keys()
    assert all(torch.equal(written[key], value) for key, value in tensors.items())
    (path,) = convert(path, tmp_path / "split.safetensors", split=True)
    assert path.name == "split_camera.safetensors"
    assert load_file(path).keys() == tensors.keys()


def test_it_is_reported_and_damage_is_named(tmp_path: Path) -> None:
    tensors = small()
    torch.save(tensors, tmp_path / "file.pt")
    report = describe(inspect_checkpoint(tmp_path / "file.pt"))
    assert "It is the camera layers (CamI2V, CameraCtrl) without a UNet." in table(report)
    assert "complete" in table(report)
    tensors.pop(f"model.diffusion_model.{BLOCK}.epipolar.epipolar_attn.to_q.weight")
    torch.save(tensors, tmp_path / "file.pt")
    part = describe(inspect_checkpoint(tmp_path / "file.pt"))["parts"]["cami2v"]
    assert part["missing"] == [f"{BLOCK}.epipolar.epipolar_attn.to_q.weight"]
    encoder = {key: value for key, value in small().items() if key.startswith("pose_encoder.")}
    torch.save(encoder, tmp_path / "file.pt")
    with pytest.raises(UserError, match=r"camera layers.*is not complete: its layers are missing"):
        inspect_checkpoint(tmp_path / "file.pt")
