"""Specs survive the round trip through JSON, bad ones are refused by field, and models have abilities."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

from vc_core.specs import PRESETS, LinearTokensSpec, ModelSpec, from_json, to_json


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_json(name: str) -> None:
    assert from_json(to_json(PRESETS[name])) == PRESETS[name]


def test_the_kind_of_image_tokens_survives_json() -> None:
    spec = ModelSpec(name="linear", image_tokens=LinearTokensSpec(tokens=7))
    assert from_json(to_json(spec)) == spec


def test_a_whole_number_may_stand_for_a_float() -> None:
    assert from_json('{"name": "x", "defaults": {"cfg": 7}}').defaults.cfg == 7.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[]", "should be an object"),
        ('{"name": "x", "colour": 1}', r"unknown fields \['colour'\]"),
        ('{"name": 3}', "spec.name should be str, not 3"),
        ('{"name": "x", "unet": {"temporal_conv": 1}}', "spec.unet.temporal_conv should be bool, not 1"),
        ('{"name": "x", "unet": {"channel_mult": 4}}', "spec.unet.channel_mult should be a list"),
        ('{"name": "x", "diffusion": {"prediction": "x0"}}', r"should be one of \('eps', 'v'\), not 'x0'"),
        ('{"name": "x", "image_tokens": {"dim": true}}', "should be int, not True"),
    ],
)
def test_bad_specs_name_the_field(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_json(text)


def test_a_spec_is_plain_json() -> None:
    assert json.loads(to_json(PRESETS["videocrafter1_i2v_512"]))["image_tokens"]["queries"] == 16


ABILITIES = {
    "videocrafter2_512": set(),
    "videocrafter1_i2v_512": {"reads_images", "needs_image"},
    "dynamicrafter_256": {"reads_images", "continues_images", "needs_image"},
    "tooncrafter_512": {"reads_images", "continues_images", "needs_image", "sees_ends"},
    "t2v_turbo_vc2": {"embeds_guidance"},
    "t2v_turbo_v2": {"embeds_guidance", "embeds_motion"},
}


@pytest.mark.parametrize(("name", "able"), ABILITIES.items())
def test_the_abilities_of_a_model_follow_from_its_numbers(name: str, able: set[str]) -> None:
    every = set().union(*ABILITIES.values())
    assert {ability for ability in every if getattr(PRESETS[name], ability)} == able


ROOT = Path(__file__).resolve().parent.parent
NUMBERS = {"concat_channels", "image_attention", "guidance_width", "motion_width", "reference_levels"}
"""What `ModelSpec` has abilities for."""
OWNERS = ("vc_core/specs", "vc_core/network", "vc_core/checkpoint", "vc_core/autoencoder")
SIZES = {
    ("nodes/host/unet.py", "concat_channels"),
    ("nodes/host/lora.py", "guidance_width"),
    ("training/few_steps.py", "guidance_width"),
    ("benchmarks/memory.py", "concat_channels"),
}
"""Where the number itself is used, as the size of a tensor."""
CODE = [
    path.relative_to(ROOT)
    for folder in ("vc_core", "nodes", "training", "evaluation", "benchmarks", "worlds")
    for path in sorted((ROOT / folder).rglob("*.py"))
]


@pytest.mark.parametrize("file", [path for path in CODE if not path.as_posix().startswith(OWNERS)], ids=str)
def test_models_are_asked_for_abilities_not_for_numbers(file: Path) -> None:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    asked = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and node.attr in NUMBERS}
    assert {(file.as_posix(), name) for name in asked} <= SIZES
