"""The autoencoder against the reference's numbers, and its own promises."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from golden_models import autoencoder_spec

from golden_cases import cases, load, relative_error
from vc_core.autoencoder.autoencoder import Autoencoder
from vc_core.errors import UserError
from vc_core.specs import AutoencoderSpec

TOLERANCE = 1e-5  # float32 against float64 is 1e-6 here


@pytest.mark.parametrize("path", cases("vae"), ids=lambda path: path.stem)
def test_golden_autoencoder(path: Path) -> None:
    info, weights, t = load(path)
    model = Autoencoder(autoencoder_spec(info["config"], info["scale_factor"])).eval()
    model.load_state_dict(weights)
    assert info["calls"]
    for call in info["calls"]:
        name = call["name"]
        image, noise = t[f"{name}/in/image"], t[f"{name}/in/noise"]
        with torch.no_grad():
            mean, logvar = model.moments(image)
            sample = mean + (0.5 * logvar).exp() * noise
            latent = t[f"{name}/in/latent"]
            frames = latent.transpose(1, 2).flatten(0, 1) if latent.ndim == 5 else latent
            decoded = model.decode(frames, chunk=3)
        if latent.ndim == 5:
            decoded = decoded.unflatten(0, (latent.shape[0], latent.shape[2])).transpose(1, 2)
        ours = {
            "mean": mean,
            "logvar": logvar,
            "sample": sample,
            "scaled_mode": model.encode(image).detach(),
            "scaled_sample": sample * info["scale_factor"],
            "decoded": decoded,
        }
        compared = [key for key in ours if f"{name}/out/{key}" in t]
        assert {"mean", "logvar", "decoded"} <= set(compared)
        for key in compared:
            assert relative_error(ours[key], t[f"{name}/out/{key}"]) < TOLERANCE, (name, key)


@pytest.fixture
def tiny() -> Autoencoder:
    torch.manual_seed(0)
    return Autoencoder(AutoencoderSpec(channels=32, channel_mult=(1, 1, 2, 2), num_res_blocks=1)).eval()


def test_chunks_equal_the_whole(tiny: Autoencoder) -> None:
    pixels = torch.randn(5, 3, 24, 40)
    with torch.no_grad():
        whole, parts = tiny.encode(pixels, chunk=5), tiny.encode(pixels, chunk=2)
        torch.testing.assert_close(parts, whole, atol=1e-5, rtol=0)  # other batch sizes take other kernels
        torch.testing.assert_close(tiny.decode(whole, chunk=2), tiny.decode(whole, chunk=9), atol=1e-5, rtol=0)


def test_sampling_uses_the_given_generator_only(tiny: Autoencoder) -> None:
    pixels = torch.randn(2, 3, 16, 16)
    state = torch.random.get_rng_state()
    with torch.no_grad():
        one = tiny.encode(pixels, torch.Generator().manual_seed(7))
        two = tiny.encode(pixels, torch.Generator().manual_seed(7), chunk=1)
        other = tiny.encode(pixels, torch.Generator().manual_seed(8))
    torch.testing.assert_close(one, two, atol=1e-5, rtol=0)
    assert not torch.allclose(one, other)
    assert torch.equal(state, torch.random.get_rng_state())


def test_a_side_that_is_no_multiple_of_8_is_refused(tiny: Autoencoder) -> None:
    with pytest.raises(UserError, match="multiples of 8; the image is 20x16"):
        tiny.encode(torch.zeros(1, 3, 16, 20))


def test_a_latent_with_frames_on_another_axis_is_refused(tiny: Autoencoder) -> None:
    with pytest.raises(UserError, match=r"not \(1, 4, 16, 8, 8\)"):
        tiny.decode(torch.zeros(1, 4, 16, 8, 8))
