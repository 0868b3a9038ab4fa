"""Specs survive the round trip through JSON, and bad ones are told what is wrong."""

from __future__ import annotations

import json

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
