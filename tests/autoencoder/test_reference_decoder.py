"""ToonCrafter's decoder against the reference's numbers, and its own promises."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from golden_models import autoencoder_spec

from golden_cases import cases, load, relative_error
from vc_core.autoencoder.autoencoder import Autoencoder
from vc_core.errors import UserError
from vc_core.specs import AutoencoderSpec

TOLERANCE = 1e-5  # float32 against float64 is 8e-7


@pytest.mark.parametrize("path", cases("vae_dual_reference"), ids=lambda path: path.stem)
def test_golden_decoder_with_references(path: Path) -> None:
    info, weights, t = load(path)
    spec = autoencoder_spec(info["config"], info["scale_factor"])
    model = Autoencoder(spec).eval()
    model.load_state_dict(weights)
    assert info["calls"]
    for call in info["calls"]:
        name = call["name"]
        latent, ends = t[f"{name}/in/latent"][0].transpose(0, 1), t[f"{name}/in/ends"]
        with torch.inference_mode():
            mean, _ = model.moments(ends)
            found = {
                "one_pass": model.decoder(latent / spec.scale_factor, model.encoder.levels(ends)),
                "without_ends": model.decode(latent),
            }
            decoded = model.decode(latent, ends=ends)
        for key, ours in found.items():
            golden = t[f"{name}/out/{key}"][0].transpose(0, 1)
            assert relative_error(ours, golden) < TOLERANCE, (name, key)
        assert relative_error(mean, t[f"{name}/out/moments"].chunk(2, dim=1)[0]) < TOLERANCE
        golden = t[f"{name}/out/one_pass"][0].transpose(0, 1).clone()
        if f"{name}/out/middle" in t:
            middle = len(latent) // 2
            golden[middle - 1 : middle + 1] = t[f"{name}/out/middle"][0].transpose(0, 1)
        assert relative_error(decoded, golden) < TOLERANCE, name


@pytest.fixture
def tiny() -> Autoencoder:
    torch.manual_seed(0)
    model = Autoencoder(AutoencoderSpec(channels=32, channel_mult=(1, 2), num_res_blocks=1, reference_levels=(1,)))
    return model.eval()


def test_where_its_own_parts_do_nothing_it_is_the_plain_decoder(tiny: Autoencoder) -> None:
    plain = Autoencoder(replace(tiny.spec, reference_levels=None)).eval()
    torch.nn.init.dirac_(plain.post_quant_conv.weight)
    torch.nn.init.zeros_(plain.post_quant_conv.bias)
    own = {name: torch.zeros_like(value) for name, value in tiny.state_dict().items() if name not in plain.state_dict()}
    torch.nn.init.dirac_(own["decoder.conv_out.time_mix_conv.weight"])
    tiny.load_state_dict({**plain.state_dict(), **own})
    latents, ends = torch.randn(7, 4, 6, 4), torch.rand(2, 3, 12, 8) * 2 - 1
    with torch.inference_mode():
        torch.testing.assert_close(tiny.decode(latents, ends=ends), plain.decode(latents), atol=1e-5, rtol=0)


def test_parts_of_large_maps_equal_the_whole(tiny: Autoencoder) -> None:
    latents, ends = torch.randn(7, 4, 6, 5), torch.rand(2, 3, 12, 10) * 2 - 1
    with torch.inference_mode():
        whole = tiny.decode(latents, ends=ends)
        tiny.decoder.plan.budget.values = 500
        torch.testing.assert_close(tiny.decode(latents, ends=ends), whole, atol=1e-5, rtol=0)


def test_each_picture_counts_most_at_its_end(tiny: Autoencoder) -> None:
    latents, ends = torch.randn(7, 4, 6, 4), torch.rand(2, 3, 12, 8) * 2 - 1
    other = ends.clone()
    other[1] = other[1].flip(-1)
    with torch.inference_mode():
        change = (tiny.decode(latents, ends=other) - tiny.decode(latents, ends=ends)).flatten(1).norm(dim=1)
    assert float(change[-2:].min()) > 10 * float(change[:-2].max()) > 0  # the last convolution spreads it by one frame


def test_one_frame_is_a_clip_of_both_pictures(tiny: Autoencoder) -> None:
    with torch.inference_mode():
        out = tiny.decode(torch.randn(1, 4, 6, 4), ends=torch.rand(2, 3, 12, 8))
    assert out.shape == (1, 3, 12, 8)
    assert bool(out.isfinite().all())


def test_pictures_of_another_size_are_refused(tiny: Autoencoder) -> None:
    with pytest.raises(UserError, match=r"have the shape \(2, 3, 12, 10\).*two of the clip's size, \(2, 3, 12, 8\)"):
        tiny.decode(torch.randn(3, 4, 6, 4), ends=torch.rand(2, 3, 12, 10))
