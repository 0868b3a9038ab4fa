"""The VAE in both its forms: ComfyUI's own module for the published widths, ours inside ComfyUI's VAE for others."""

from __future__ import annotations

from dataclasses import replace

import pytest
import small_models as small
import torch

from vc_core.autoencoder.autoencoder import Autoencoder
from vc_core.errors import UserError
from vc_core.specs import AutoencoderSpec

WIDTHS = {
    "published norms": AutoencoderSpec(channels=32, channel_mult=(1, 1, 2, 2), num_res_blocks=1),
    "narrow": AutoencoderSpec(channels=16, channel_mult=(1, 2, 4, 4), num_res_blocks=1, norm_groups=8),
    "references": AutoencoderSpec(channels=32, channel_mult=(1, 1, 2, 2), num_res_blocks=1, reference_levels=(2, 3)),
}


@pytest.mark.parametrize("kind", WIDTHS)
def test_core_nodes_encode_and_decode_as_vc_core(comfy, base, kind):
    spec = replace(small.TEXT_MODEL, autoencoder=WIDTHS[kind])
    name = f"vae {kind}.safetensors"
    small.save(spec, base.model("vae", name), prefixes=("first_stage_model.",), metadata=kind == "narrow")
    vae = comfy.call("VideoCrafterVAELoader", vae_name=name).values[0]
    assert isinstance(vae.first_stage_model, Autoencoder) == (kind != "published norms")
    ours = Autoencoder(spec.autoencoder).eval()
    weights = small.state_dict(spec)
    prefix = "first_stage_model."
    ours.load_state_dict({key[len(prefix) :]: value for key, value in weights.items() if key.startswith(prefix)})

    frames = torch.rand(3, 16, 24, 3, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        latents = ours.encode(frames.movedim(-1, 1) * 2 - 1) / spec.autoencoder.scale_factor
        decoded = ((ours.decode(latents * spec.autoencoder.scale_factor).movedim(1, -1) + 1) / 2).clamp(0, 1)
    encoded = comfy.call("VAEEncode", pixels=frames, vae=vae).values[0]["samples"]
    torch.testing.assert_close(encoded, latents, atol=2e-5, rtol=1e-4)
    tiles = {"VAEDecodeTiled": {"tile_size": 512, "overlap": 64}} if kind != "references" else {}  # frame by frame
    for node, options in {"VAEDecode": {}, **tiles}.items():
        out = comfy.call(node, samples={"samples": latents}, vae=vae, **options).values[0]
        torch.testing.assert_close(out.cpu().float(), decoded, atol=2e-5, rtol=0)


def test_latents_of_other_models_are_refused_by_core_nodes(comfy, base):
    """ComfyUI passes them on as they are."""
    small.save(small.TEXT_MODEL, base.model("vae", "small.safetensors"), prefixes=("first_stage_model.",))
    vae = comfy.call("VideoCrafterVAELoader", vae_name="small.safetensors").values[0]
    for shape in ((2, 16, 3, 5), (1, 12, 3, 5)):
        with pytest.raises(UserError, match=rf"has the shape .*{shape[1]}, 3, 5\), but this VAE decodes \(frames, 4,"):
            comfy.call("VAEDecode", samples={"samples": torch.zeros(shape)}, vae=vae)
