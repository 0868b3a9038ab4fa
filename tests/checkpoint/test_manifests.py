"""The published checkpoints, by the keys and shapes that their files have."""

from __future__ import annotations

import gzip
import json
from functools import lru_cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from vc_core.checkpoint import PARTS, build_empty, detect
from vc_core.checkpoint.keys import SCHEDULE
from vc_core.specs import PRESETS, TITLES

FOLDER = Path(__file__).parent.parent / "manifests"

PRESET_OF = {
    "t2v_512_v2.0": "videocrafter2_512",
    "t2v_1024_v1.0": "videocrafter1_t2v_1024",
    "t2v_512_v1.0": "videocrafter1_t2v_512",
    "i2v_512_v1.0": "videocrafter1_i2v_512",
    "dynamicrafter_512_v1": "dynamicrafter_512",
    "dynamicrafter_256_v1": "dynamicrafter_256",
}
UNETS = {"t2v_turbo_vc2_unet": "t2v_turbo_vc2", "t2v_turbo_v2_mg_unet": "t2v_turbo_v2"}


@lru_cache
def manifest(name: str) -> dict[str, Tensor]:
    """The file's tensors on `meta`."""
    content = json.loads(gzip.decompress((FOLDER / f"{name}.json.gz").read_bytes()))
    return {key: torch.empty(shape, device="meta") for key, (shape, _) in content.items()}


@pytest.mark.parametrize("name", PRESET_OF)
class TestManifest:
    def test_is_recognised_exactly(self, name: str) -> None:
        found = detect(manifest(name))
        assert found.spec == PRESETS[PRESET_OF[name]]
        assert found.title == TITLES[PRESET_OF[name]]
        assert found.contents.unknown == ()
        assert found.contents.ignored == ()

    def test_our_modules_have_every_key_and_shape_and_no_other(self, name: str) -> None:
        found = detect(manifest(name))
        ours = {
            PARTS[part].prefix + key: tuple(tensor.shape)
            for part in found.parts
            for key, tensor in build_empty(found.spec, part).state_dict().items()
        }
        theirs = {key: tuple(tensor.shape) for key, tensor in manifest(name).items() if key not in SCHEDULE}
        assert ours == theirs

    def test_the_order_of_the_unet_is_theirs(self, name: str) -> None:
        """LoRA files without names count modules in this order, which is that of the constructor."""
        found = detect(manifest(name))
        assert list(build_empty(found.spec, "unet").state_dict()) == list(found.contents.parts["unet"])

    @pytest.mark.parametrize("wrapper", ["_forward_module.", "module._forward_module.", "model."])
    def test_is_recognised_with_further_prefixes(self, name: str, wrapper: str) -> None:
        found = detect({wrapper + key: tensor for key, tensor in manifest(name).items()})
        assert found.spec == PRESETS[PRESET_OF[name]]
        assert found.contents.unknown == ()

    def test_its_unet_alone_is_recognised(self, name: str) -> None:
        prefix = PARTS["unet"].prefix
        tensors = {k.removeprefix(prefix): t for k, t in manifest(name).items() if k.startswith(prefix)}
        found = detect(tensors)
        assert found.parts == ("unet",)
        assert found.spec.unet == PRESETS[PRESET_OF[name]].unet
        assert found.spec.diffusion == PRESETS[PRESET_OF[name]].diffusion

    def test_another_kind_of_preset_is_refused(self, name: str) -> None:
        other = "videocrafter1_t2v_512" if PRESET_OF[name] != "videocrafter1_t2v_512" else "videocrafter2_512"
        with pytest.raises(ValueError, match="does not fit this file") as refused:
            detect(manifest(name), preset=other)
        assert PRESET_OF[name] in str(refused.value)


@pytest.mark.parametrize("name", UNETS)
def test_whole_unets_without_prefix_are_recognised(name: str) -> None:
    found = detect(manifest(name))
    assert found.spec == PRESETS[UNETS[name]]
    assert found.title == TITLES[UNETS[name]]
    assert found.parts == ("unet",)
    ours = {key: tuple(tensor.shape) for key, tensor in build_empty(found.spec, "unet").state_dict().items()}
    assert ours == {key: tuple(tensor.shape) for key, tensor in manifest(name).items()}
    assert list(ours) == list(manifest(name))


def test_t2v_turbo_v2_without_motion_guidance_is_a_preset_for_the_unet_of_version_1() -> None:
    tensors = manifest("t2v_turbo_vc2_unet")
    (note,) = [note for note in detect(tensors).notes if "could also be" in note]
    assert "T2V-Turbo v2 without motion guidance" in note
    found = detect(tensors, preset="t2v_turbo_v2_no_mg")
    assert found.spec == PRESETS["t2v_turbo_v2_no_mg"]
    assert found.title == "T2V-Turbo v2 without motion guidance"
    assert not found.spec.embeds_motion
    assert (found.spec.defaults.fps, found.spec.defaults.steps) == (8, 8)


@pytest.mark.parametrize(("last", "name"), [(0.7, "dynamicrafter_512"), (0.3, "dynamicrafter_1024")])
def test_the_last_scale_distinguishes_dynamicrafter_512_from_1024(last: float, name: str) -> None:
    tensors = dict(manifest("dynamicrafter_512_v1"))
    tensors["scale_arr"] = torch.full((1400,), last)
    found = detect(tensors)
    assert found.spec == PRESETS[name]
    if name == "dynamicrafter_512":
        assert any("for interpolation and loops" in note for note in found.notes)
        chosen = detect(tensors, preset="dynamicrafter_512_interp")
        assert chosen.spec == PRESETS["dynamicrafter_512_interp"]


def tooncrafter() -> dict[str, Tensor]:
    """DynamiCrafter 512 with another autoencoder, whose names and shapes are those of the authors' source; their file
    itself was not at hand."""
    prefix = PARTS["autoencoder"].prefix
    others = {key: tensor for key, tensor in manifest("dynamicrafter_512_v1").items() if not key.startswith(prefix)}
    return {**others, **manifest("tooncrafter_512_v1_autoencoder")}


def test_tooncrafter_is_recognised_by_its_decoder() -> None:
    found = detect(tooncrafter())
    assert found.spec == PRESETS["tooncrafter_512"]
    assert found.title == "ToonCrafter 512"
    assert found.notes == ()
    ours = build_empty(found.spec, "autoencoder").state_dict()
    theirs = found.contents.parts["autoencoder"]
    assert {key: tensor.shape for key, tensor in ours.items()} == {key: tensor.shape for key, tensor in theirs.items()}


def test_tooncrafters_parts_alone_are_recognised() -> None:
    alone = {
        k.removeprefix(PARTS["autoencoder"].prefix): t for k, t in manifest("tooncrafter_512_v1_autoencoder").items()
    }
    found = detect(alone)
    assert found.spec.autoencoder == PRESETS["tooncrafter_512"].autoencoder
    assert found.title == "the autoencoder (VAE), with ToonCrafter's decoder, without a UNet"
    unet = detect({k: t for k, t in tooncrafter().items() if k.startswith(PARTS["unet"].prefix)})
    assert any("ToonCrafter 512" in note for note in unet.notes)
    kept = tuple(PARTS[part].prefix for part in ("unet", "autoencoder", "image_encoder", "image_tokens"))
    assert detect({k: t for k, t in tooncrafter().items() if k.startswith(kept)}).spec == PRESETS["tooncrafter_512"]


def test_the_published_name_of_the_256_models_fps_embedding_is_known() -> None:
    tensors = {k.replace("fps_embedding", "framestride_embed"): t for k, t in manifest("dynamicrafter_256_v1").items()}
    assert any("framestride_embed" in key for key in tensors)
    found = detect(tensors)
    assert found.spec == PRESETS["dynamicrafter_256"]
    assert found.contents.parts["unet"].keys() == build_empty(found.spec, "unet").state_dict().keys()


def test_a_file_without_text_encoder_and_schedule_is_recognised() -> None:
    """As the pruned files have it: UNet, autoencoder and image parts alone."""
    kept = tuple(PARTS[part].prefix for part in ("unet", "autoencoder", "image_encoder", "image_tokens"))
    found = detect({k: t for k, t in manifest("dynamicrafter_512_v1").items() if k.startswith(kept)})
    assert found.spec == PRESETS["dynamicrafter_512"]
    assert found.parts == ("unet", "autoencoder", "image_encoder", "image_tokens")
