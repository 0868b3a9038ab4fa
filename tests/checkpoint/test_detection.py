"""Which model a file holds, by its tensors; and what a file seems to be that is not one of ours."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import small_models
import torch
from checkpoint.synthetic import IMAGE_MODEL, PARTS_OF, TEXT_MODEL, part_weights, published, schedule_buffers
from torch import Tensor

from vc_core.checkpoint import METADATA_KEY, PARTS, build_empty, detect
from vc_core.checkpoint.plausible import check_spec
from vc_core.denoising import NoiseSchedule
from vc_core.errors import UserError
from vc_core.specs import PRESETS, DiffusionSpec, LinearTokensSpec, ModelSpec, UNetSpec, to_json


def meta(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


@pytest.mark.parametrize("spec", [TEXT_MODEL, IMAGE_MODEL], ids=lambda spec: spec.name)
def test_our_own_metadata_has_every_number(spec: ModelSpec) -> None:
    found = detect(published(spec), {METADATA_KEY: to_json(spec)})
    assert found.spec == spec
    assert found.parts == PARTS_OF[spec.name]


VARIANTS = {
    "plain": UNetSpec(),
    "relative": UNetSpec(temporal_conv=False, relative_position=True, temporal_length=7),
    "no fps": UNetSpec(fps_condition=False),
    "image": UNetSpec(image_attention=True),
    "sizes": UNetSpec(in_channels=5, out_channels=3, channel_mult=(1, 1, 3), num_res_blocks=3, attention_levels=(0, 2)),
    "depth": UNetSpec(transformer_depth=2),
    "no attention": UNetSpec(attention_levels=()),
    "picture latent": UNetSpec(in_channels=8, concat_channels=4, image_attention=True, image_gate=True),
    "scales": UNetSpec(guidance_width=24, motion_width=12),
}


@pytest.mark.parametrize("case", VARIANTS)
def test_every_number_that_can_be_read_from_keys_is_read(case: str) -> None:
    unet = replace(VARIANTS[case], model_channels=32, context_dim=24, head_channels=16)
    spec = replace(TEXT_MODEL, unet=unet)
    found = detect(part_weights(spec, "unet")).spec.unet
    expected = replace(unet, default_fps=found.default_fps)
    assert found == expected


@pytest.mark.parametrize("part", ["autoencoder", "image_encoder", "image_tokens"])
def test_the_numbers_of_other_parts_are_read(part: str) -> None:
    weights = {PARTS[part].prefix + name: tensor for name, tensor in part_weights(IMAGE_MODEL, part).items()}
    found = getattr(detect(weights).spec, part)
    wanted = getattr(IMAGE_MODEL, part)
    if part == "image_encoder":
        wanted = replace(wanted, head_width=found.head_width)
    if part == "image_tokens":
        assert found.heads * found.head_channels == wanted.heads * wanted.head_channels
        wanted = replace(wanted, heads=found.heads, head_channels=found.head_channels)
    assert found == wanted


def test_linear_tokens_are_recognised() -> None:
    spec = replace(IMAGE_MODEL, image_tokens=LinearTokensSpec(tokens=3, embedding_dim=40, output_dim=24))
    weights = {PARTS["image_tokens"].prefix + name: t for name, t in part_weights(spec, "image_tokens").items()}
    assert detect(weights).spec.image_tokens == spec.image_tokens


@pytest.mark.parametrize("part", PARTS_OF["small_image"])
def test_a_part_alone_is_recognised_with_and_without_prefix(part: str) -> None:
    weights = part_weights(IMAGE_MODEL, part)
    assert detect({PARTS[part].prefix + name: t for name, t in weights.items()}).parts == (part,)
    found = detect(weights)
    assert part in found.parts
    assert found.contents.parts[part].keys() <= weights.keys()
    assert found.contents.unknown == ()


def test_a_whole_openclip_file_gives_text_and_image_encoder() -> None:
    text = {name.removeprefix("model."): t for name, t in part_weights(IMAGE_MODEL, "text_encoder").items()}
    image = {
        name.removeprefix("model."): t
        for name, t in part_weights(IMAGE_MODEL, "image_encoder").items()
        if ".visual." in name
    }
    found = detect({**text, **image})
    assert found.parts == ("text_encoder", "image_encoder")
    assert found.contents.unknown == ()


class TestPublishedModelsOfOneKind:
    """VideoCrafter2, T2V-512 of October 2023 and T2V-256 have the same tensors."""

    def test_the_rescale_distinguishes_256_from_512(self) -> None:
        flat = replace(TEXT_MODEL, diffusion=DiffusionSpec(rescale=None))
        assert detect(published(flat)).spec.name == "videocrafter1_t2v_256"
        assert detect(published(TEXT_MODEL)).spec.name == "videocrafter2_512"

    def test_a_unet_without_schedule_is_taken_for_videocrafter2_and_says_so(self) -> None:
        found = detect(part_weights(TEXT_MODEL, "unet"))
        assert found.spec.name == "videocrafter2_512"
        assert any("T2V-256" in note for note in found.notes)

    def test_a_preset_can_be_chosen(self) -> None:
        found = detect(part_weights(TEXT_MODEL, "unet"), preset="videocrafter1_t2v_256")
        assert found.spec.name == "videocrafter1_t2v_256"
        assert found.spec.diffusion == PRESETS["videocrafter1_t2v_256"].diffusion
        assert found.spec.defaults.width == 256
        assert found.spec.unet.model_channels == 32

    def test_a_chosen_preset_rules_over_metadata_but_not_over_sizes(self) -> None:
        found = detect(published(TEXT_MODEL), {METADATA_KEY: to_json(TEXT_MODEL)}, "videocrafter1_t2v_256")
        assert found.spec.diffusion.rescale is None
        assert found.spec.text_encoder == TEXT_MODEL.text_encoder

    @pytest.mark.parametrize(("rescale", "dtype"), [(0.7, torch.float16), (0.3, torch.float32), (0.45, torch.float32)])
    def test_the_rescale_is_read_from_the_file(self, rescale: float, dtype: torch.dtype) -> None:
        spec = replace(TEXT_MODEL, diffusion=DiffusionSpec(rescale=rescale))
        tensors = {**part_weights(spec, "unet"), **schedule_buffers(spec, dtype)}
        assert detect(tensors).spec.diffusion.rescale == pytest.approx(rescale, abs=1e-12)


UNET = "model.diffusion_model."
IMAGE_UNET = {UNET + "input_blocks.0.0.weight": (320, 4, 3, 3), UNET + "input_blocks.1.0.in_layers.0.weight": (320,)}
CROSS = UNET + "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"

FOREIGN: dict[str, tuple[dict[str, tuple[int, ...]], str]] = {
    "sd15": (
        {**IMAGE_UNET, CROSS: (320, 768), "first_stage_model.encoder.conv_in.weight": (128, 3, 3, 3)},
        "Diffusion 1",
    ),
    "sd15 unet alone": ({k.removeprefix(UNET): v for k, v in {**IMAGE_UNET, CROSS: (320, 768)}.items()}, "Diffusion 1"),
    "sd2": ({**IMAGE_UNET, CROSS: (320, 1024)}, "Diffusion 2"),
    "sdxl": ({**IMAGE_UNET, UNET + "label_emb.0.0.weight": (1280, 2816)}, "Diffusion XL"),
    "svd": ({**IMAGE_UNET, UNET + "input_blocks.1.0.time_stack.in_layers.0.weight": (320,)}, "Stable Video"),
    "modelscope": (
        {"input_blocks.0.0.weight": (320, 4, 3, 3), "input_blocks.1.0.in_layers.0.weight": (320,)}
        | {"input_blocks.1.0.temopral_conv.conv1.0.weight": (320,)},
        "ModelScope",
    ),
    "kohya lora": ({"lora_unet_down_blocks_0.lora_up.weight": (320, 4)}, "LoRA"),
    "peft lora": ({"base_model.model.input_blocks.1.lora_A.weight": (4, 320)}, "LoRA"),
    "controlnet": ({"control_model.zero_convs.0.0.weight": (320, 320, 1, 1)}, "ControlNet"),
    "animatediff": ({"down_blocks.0.motion_modules.0.temporal_transformer.norm.weight": (320,)}, "AnimateDiff"),
    "diffusers unet": ({"down_blocks.0.resnets.0.conv1.weight": (320, 320, 3, 3)}, "diffusers"),
    "transformers clip": ({"text_model.encoder.layers.0.mlp.fc1.weight": (4096, 1024)}, "transformers"),
    "unrelated": ({"bert.embeddings.weight": (30522, 768), "pooler.dense.weight": (768, 768)}, r"bert\.embeddings"),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_what_is_not_ours_is_named(case: str) -> None:
    shapes, message = FOREIGN[case]
    with pytest.raises(UserError, match=message) as refused:
        detect(meta(shapes))
    assert str(refused.value).startswith("This file is not a VideoCrafter model")


def test_a_preset_of_another_kind_is_refused() -> None:
    with pytest.raises(UserError, match="temporal_conv is True in the file and False in the preset"):
        detect(published(TEXT_MODEL), preset="videocrafter1_t2v_1024")


def test_a_preset_that_does_not_exist_is_refused() -> None:
    with pytest.raises(UserError, match=r"no preset 'videocrafter3'.*videocrafter2_512"):
        detect(published(TEXT_MODEL), preset="videocrafter3")


def test_metadata_that_contradicts_the_tensors_is_refused() -> None:
    wrong = replace(TEXT_MODEL, unet=replace(TEXT_MODEL.unet, context_dim=23))
    with pytest.raises(UserError, match="context_dim: 23 in small_text, 24 in the file"):
        detect(published(TEXT_MODEL), {METADATA_KEY: to_json(wrong)})


def numbers(value: Any, *path: str) -> Iterator[tuple[str, ...]]:
    """Where the numbers of a spec as JSON are."""
    if isinstance(value, dict):
        for name, inside in value.items():
            yield from numbers(inside, *path, name)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield path


SMALL_MODELS = [value for value in vars(small_models).values() if isinstance(value, ModelSpec)]
BAD_NUMBERS = (0, 7, -1, -5, 10**9, 1e300, float("nan"), float("inf"))
PLACES = list(numbers(json.loads(to_json(IMAGE_MODEL))))


@pytest.mark.parametrize("place", PLACES, ids=".".join)
def test_no_number_in_the_metadata_leads_to_another_error(place: tuple[str, ...]) -> None:
    """It is refused, or everything that is built from the spec can be built."""
    tensors = published(IMAGE_MODEL)
    for bad in BAD_NUMBERS:
        data = json.loads(to_json(IMAGE_MODEL))
        inside = data
        for name in place[:-1]:
            inside = inside[name]
        inside[place[-1]] = bad
        try:
            spec = detect(tensors, {METADATA_KEY: json.dumps(data)}).spec
        except UserError:
            continue
        NoiseSchedule.from_spec(spec.diffusion)
        for part in PARTS_OF["small_image"]:
            build_empty(spec, part)


@pytest.mark.parametrize(
    ("place", "bad"),
    [
        *((("unet", "norm_groups"), bad) for bad in (0, 7, -1, 10**9)),
        *((("autoencoder", "norm_groups"), bad) for bad in (0, 7, -1, 10**9)),
        *((("text_encoder", "heads"), bad) for bad in (0, 7)),
        (("diffusion", "timesteps"), -5),
        (("diffusion", "beta_start"), -1),
        (("image_encoder", "head_width"), 7),
    ],
)
def test_numbers_that_no_model_has_are_refused(place: tuple[str, str], bad: float) -> None:
    data = json.loads(to_json(IMAGE_MODEL))
    data[place[0]][place[1]] = bad
    with pytest.raises(UserError, match=rf"metadata cannot be used: spec\.{place[0]}\.{place[1]} is {bad}"):
        detect(published(IMAGE_MODEL), {METADATA_KEY: json.dumps(data)})


@pytest.mark.parametrize("spec", [*PRESETS.values(), *SMALL_MODELS], ids=lambda spec: spec.name)
def test_the_numbers_of_every_model_are_possible(spec: ModelSpec) -> None:
    check_spec(spec)


@pytest.mark.parametrize(
    "text", ["[" * 200_000, "no json", '{"name": "x", "flux": 1}', '{"unet": 3, "name": "x"}', "{}"]
)
def test_metadata_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="metadata cannot be used"):
        detect(published(TEXT_MODEL), {METADATA_KEY: text})


def test_a_text_encoder_of_the_wrong_width_is_refused() -> None:
    tensors = published(TEXT_MODEL)
    wide = replace(TEXT_MODEL, text_encoder=replace(TEXT_MODEL.text_encoder, width=40, heads=5, embed_dim=40))
    tensors.update({PARTS["text_encoder"].prefix + name: t for name, t in part_weights(wide, "text_encoder").items()})
    with pytest.raises(UserError, match=r"40 wide, but this UNet reads text of 24.*ViT-H-14"):
        detect(tensors)


def test_a_pruned_vit_h_is_refused() -> None:
    shapes = {
        "model.positional_embedding": (77, 1024),
        "model.token_embedding.weight": (49408, 1024),
        "model.text_projection": (1024, 1024),
        **{f"model.transformer.resblocks.{layer}.ln_1.weight": (1024,) for layer in range(23)},
    }
    with pytest.raises(UserError, match="23 layers instead of 24"):
        detect(meta(shapes))


def test_a_unet_that_lacks_a_tensor_its_numbers_come_from_is_refused() -> None:
    tensors = published(TEXT_MODEL)
    del tensors["model.diffusion_model.time_embed.0.weight"]
    with pytest.raises(UserError, match=r"video UNet in this file is not complete.*time_embed\.0\.weight"):
        detect(tensors)


@pytest.mark.parametrize(
    ("name", "shape", "said"),
    [
        ("model.diffusion_model.input_blocks.99999999.0.in_layers.0.weight", (1,), "layers are numbered up to"),
        ("cond_stage_model.model.transformer.resblocks.900.ln_1.weight", (1,), "layers are numbered up to"),
        ("model.diffusion_model.time_embed.0.weight", (128, 0), "which no model has"),
        ("model.diffusion_model.time_embed.0.weight", (128, 10**9), "which no model has"),
    ],
)
def test_names_and_shapes_that_claim_too_much_are_refused_before_anything_is_built(
    name: str, shape: tuple[int, ...], said: str
) -> None:
    tensors = {**published(TEXT_MODEL), name: torch.empty(shape, device="meta")}
    with pytest.raises(UserError, match=said):
        detect(tensors)


def test_widths_that_are_no_multiples_are_refused() -> None:
    tensors = published(TEXT_MODEL)
    tensors["model.diffusion_model.time_embed.0.weight"] = torch.empty(128, 512, device="meta")
    with pytest.raises(UserError, match=r"No VideoCrafter model has the shapes.*channel_mult"):
        detect(tensors)
