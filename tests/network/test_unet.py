"""The video UNet against the reference's numbers, and its own promises."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_models import unet_spec
from network.tiny import ALONE, TINY
from torch import Tensor

from golden_cases import cases, fps_of, load, relative_error
from vc_core.conditions import Conditioning
from vc_core.errors import UserError
from vc_core.network.adapters.contexts import KeptContexts
from vc_core.network.adapters.deep import KeepDeep
from vc_core.network.attention import ATTENTION
from vc_core.network.call import Deep, Pass
from vc_core.network.feed_forward import FeedForward
from vc_core.network.operations import GroupNorm, Linear
from vc_core.network.unet import VideoUNet
from vc_core.specs import PRESETS

TOLERANCE = 3e-5  # float32 against float64 is 1e-6 .. 6e-6
TOLERANCE_EPS = 1e-5  # the cases with tiny residual streams; a wrong norm eps shows as 3e-4 or more
TEXT_TOKENS = 77


def check(model: VideoUNet, call: dict[str, Any], t: dict[str, Tensor], tolerance: float) -> None:
    """One call of a case; in networks that see pictures, what follows the text are image tokens."""
    name = call["name"]
    context = t[f"{name}/in/context"]
    text, image = context, None
    if model.spec.image_attention:
        text, image = context[:, :TEXT_TOKENS], context[:, TEXT_TOKENS:]
    with torch.no_grad():
        y = model(t[f"{name}/in/x"], t[f"{name}/in/timesteps"], Conditioning(text, image, fps_of(call, t)))
    assert relative_error(y, t[f"{name}/out/y"]) < tolerance, name


@pytest.mark.parametrize("path", cases("unet"), ids=lambda path: path.stem)
def test_golden_unet(path: Path) -> None:
    info, weights, t = load(path)
    model = VideoUNet(unet_spec(info["config"]), device="meta").eval()
    model.load_state_dict(weights, assign=True)
    assert info["calls"]
    for call in info["calls"]:
        check(model, call, t, TOLERANCE_EPS if info["weights"]["profile"] == "small" else TOLERANCE)


@pytest.mark.parametrize("path", cases("unet")[:3], ids=lambda path: path.stem)
def test_golden_unet_with_plain_attention(path: Path) -> None:
    info, weights, t = load(path)
    model = VideoUNet(unet_spec(info["config"]), attention=ATTENTION["plain"]).eval()
    model.load_state_dict(weights)
    check(model, info["calls"][0], t, TOLERANCE)


@pytest.mark.parametrize(
    ("manifest", "preset"),
    [
        ("t2v_512_v2.0", "videocrafter2_512"),
        ("t2v_1024_v1.0", "videocrafter1_t2v_1024"),
        ("t2v_512_v1.0", "videocrafter1_t2v_512"),
        ("i2v_512_v1.0", "videocrafter1_i2v_512"),
    ],
)
def test_published_layouts(manifest: str, preset: str) -> None:
    text = gzip.decompress((Path(__file__).parents[1] / "manifests" / f"{manifest}.json.gz").read_bytes())
    prefix = "model.diffusion_model."
    published = {key[len(prefix) :]: shape for key, (shape, _) in json.loads(text).items() if key.startswith(prefix)}
    ours = {
        key: list(value.shape) for key, value in VideoUNet(PRESETS[preset].unet, device="meta").state_dict().items()
    }
    assert ours == published


def tiny(**changes: Any) -> VideoUNet:
    torch.manual_seed(0)
    return VideoUNet(replace(TINY, **changes)).eval()


def inputs(b: int = 2, f: int = 3, h: int = 5, w: int = 7) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(b, 4, f, h, w, generator=generator)
    return x, torch.arange(1, b + 1) * 300, torch.randn(b, 13, 11, generator=generator)


@pytest.mark.parametrize("changes", [{}, {"relative_position": True, "temporal_conv": False}], ids=["conv", "relative"])
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (5, 7), (8, 8)])
@torch.no_grad()
def test_any_size_and_any_number_of_frames(changes: dict[str, Any], size: tuple[int, int]) -> None:
    model = tiny(**changes)
    for frames in (1, 2, 19):
        x, timesteps, text = inputs(1, frames, *size)
        y = model(x, timesteps, Conditioning(text))
        assert y.shape == x.shape
        assert y.isfinite().all()


@torch.no_grad()
def test_samples_of_a_batch_do_not_see_each_other() -> None:
    model = tiny()
    x, timesteps, text = inputs()
    fps = torch.tensor([8, 24])
    both = model(x, timesteps, Conditioning(text, fps=fps))
    clips = [slice(i, i + 1) for i in (0, 1)]
    alone = torch.cat([model(x[one], timesteps[one], Conditioning(text[one], fps=fps[one])) for one in clips])
    torch.testing.assert_close(both, alone, atol=2e-5, rtol=0)  # other batch sizes take other kernels


@torch.no_grad()
def test_conditions_for_each_frame_equal_one_for_all_where_they_are_the_same() -> None:
    model = tiny(image_attention=True)
    x, timesteps, text = inputs()
    image = torch.randn(2, 5, 11, generator=torch.Generator().manual_seed(2))
    fps = torch.tensor([8, 24])
    per_clip = model(x, timesteps, Conditioning(text, image, fps))
    of_frames = Conditioning(text[:, None].expand(-1, 3, -1, -1), image[:, None].expand(-1, 3, -1, -1), fps)
    per_frame = model(x, timesteps[:, None].expand(-1, 3), of_frames)
    torch.testing.assert_close(per_clip, per_frame, atol=2e-5, rtol=0)
    text_by_frame = text[:, None].expand(-1, 3, -1, -1).clone()
    text_by_frame[:, 2] += 1
    assert not torch.allclose(per_clip, model(x, timesteps, Conditioning(text_by_frame, image, fps)), atol=1e-3)


@torch.no_grad()
def test_no_image_tokens_add_nothing() -> None:
    model = tiny(image_attention=True)
    x, timesteps, text = inputs()
    none = Conditioning(text, torch.zeros(2, 0, 11))
    assert torch.equal(model(x, timesteps, Conditioning(text)), model(x, timesteps, none))


@pytest.mark.parametrize("relative", [False, True])
@torch.no_grad()
def test_without_temporal_attention_a_frame_equals_a_clip_of_itself(relative: bool) -> None:
    """One frame attends to itself anyway; so without temporal attention (and without the clip-wide norms and
    convolutions, which a clip of equal frames hides) equal frames give what one frame gives."""
    model = tiny(temporal_conv=False, relative_position=relative)
    x, timesteps, text = inputs(1, 1)
    clip = x.expand(-1, -1, 4, -1, -1)
    one = model(x, timesteps, Conditioning(text))
    cut = model(clip, timesteps, Conditioning(text), ALONE)
    torch.testing.assert_close(cut, one.expand_as(cut), atol=2e-5, rtol=0)
    if relative:
        assert not torch.allclose(model(clip, timesteps, Conditioning(text)), cut, atol=1e-4)


def test_wrong_shapes_are_refused_with_the_cure() -> None:
    model = tiny()
    x, timesteps, text = inputs()
    with pytest.raises(UserError, match=r"\(batch, 4, frames, height, width\), but the shape is \(2, 4, 5, 7\)"):
        model(x[:, :, 0], timesteps, Conditioning(text))
    with pytest.raises(UserError, match=r"but the shape is \(2, 16, 3, 5, 7\)"):
        model(x.repeat(1, 4, 1, 1, 1), timesteps, Conditioning(text))
    with pytest.raises(UserError, match="width 11, but the width is 22"):
        model(x, timesteps, Conditioning(text.repeat(1, 1, 2)))
    with pytest.raises(UserError, match="text-to-video network"):
        model(x, timesteps, Conditioning(text, torch.zeros(2, 5, 11)))


@pytest.mark.parametrize("limit", ["budget", "ROWS_ON_CPU"])
@torch.no_grad()
def test_feed_forward_in_parts_equals_the_whole(monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    model = tiny()
    x, timesteps, text = inputs()
    whole = model(x, timesteps, Conditioning(text))
    rows: list[int] = []
    wide = next(module for module in model.modules() if isinstance(module, FeedForward)).net
    wide.register_forward_hook(lambda module, given, out: rows.append(len(given[0])))
    if limit == "budget":
        model.budget.values = 8 * 32 * 7  # a few tokens of the first level
    else:
        monkeypatch.setattr(f"vc_core.network.parts.{limit}", 16)
    torch.testing.assert_close(model(x, timesteps, Conditioning(text)), whole, atol=2e-5, rtol=0)
    assert len(rows) > 1
    assert max(rows) == 16


@pytest.mark.parametrize("changes", [{}, {"image_attention": True, "relative_position": True}], ids=["text", "image"])
@torch.no_grad()
def test_conditionings_of_the_same_latents_may_come_together(changes: dict[str, Any]) -> None:
    model = tiny(**changes)
    x, timesteps, text = inputs()
    fps = torch.tensor([8, 24])
    texts = [text, text.flip(1), text * 0.5]
    images = [torch.full((2, 5, 11), value) for value in (0.1, 0.2, 0.3)] if changes else [None] * 3
    apart = torch.cat(
        [model(x, timesteps, Conditioning(text, image, fps)) for text, image in zip(texts, images, strict=True)]
    )
    joined = torch.cat(images) if changes else None
    together = model(x, timesteps, Conditioning(torch.cat(texts), joined, fps))
    torch.testing.assert_close(together, apart, atol=2e-5, rtol=0)
    per_frame = torch.cat([text[:, None].expand(-1, 3, -1, -1) for text in texts])
    together = model(x, timesteps, Conditioning(per_frame, joined, fps))
    torch.testing.assert_close(together, apart, atol=2e-5, rtol=0)


@pytest.mark.parametrize("shallow", [1, 2, 3])
@torch.no_grad()
def test_deep_features_stand_for_the_blocks_that_made_them(shallow: int) -> None:
    """With the features of the very same input the result is the same; with those of another it differs, and the
    deeper blocks do not run."""
    model = tiny()
    x, timesteps, text = inputs()
    conditioning = Conditioning(text)
    whole = model(x, timesteps, conditioning)
    keep = KeepDeep(shallow)
    assert torch.equal(model(x, timesteps, conditioning, Pass(adapters=(keep,))), whole)
    assert keep.result is not None
    deep = Pass(deep=Deep(shallow, keep.result))
    ran: list[str] = []
    model.middle_block.register_forward_hook(lambda *_: ran.append("middle"))
    assert torch.equal(model(x, timesteps, conditioning, deep), whole)
    changed = model(x + 0.1, timesteps, conditioning, deep)
    assert not ran
    assert not torch.allclose(changed, whole, atol=1e-3)
    assert not torch.allclose(changed, model(x + 0.1, timesteps, conditioning), atol=1e-5)


@torch.no_grad()
def test_a_product_as_a_convolution_equals_the_product() -> None:
    generator = torch.Generator().manual_seed(0)
    layer = Linear(96, 128)
    for rows in ((16, 700), (3, 5, 320), (11, 1009)):  # the last cannot be split
        x = torch.randn(*rows, 96, generator=generator)
        torch.testing.assert_close(layer(x), torch.nn.functional.linear(x, layer.weight, layer.bias), atol=2e-5, rtol=0)


@torch.no_grad()
def test_a_norm_in_channels_last_memory_keeps_groups_of_a_small_spread() -> None:
    x = 100 + 0.1 * torch.randn(2, 16, 8, 8, generator=torch.Generator().manual_seed(0))
    layer = GroupNorm(4, 16)
    exact = torch.nn.functional.group_norm(x.double(), 4)
    ours = layer(x.contiguous(memory_format=torch.channels_last))
    assert relative_error(ours, exact.float()) < 2e-4


@pytest.mark.parametrize("changes", [{}, {"image_attention": True}], ids=["text", "image"])
@torch.no_grad()
def test_keys_and_values_of_a_conditioning_are_computed_once(changes: dict[str, Any]) -> None:
    model = tiny(**changes)
    x, timesteps, text = inputs()
    image = torch.full((2, 5, 11), 0.1) if changes else None
    counted: list[str] = []
    for name, module in model.named_modules():
        if name.endswith(("attn2.to_k", "attn2.to_v", "_ip")) and module.in_features == 11:
            module.register_forward_hook(lambda module, given, out, name=name: counted.append(name))
    conditioning, kept = Conditioning(text, image), Pass(adapters=(KeptContexts(),))
    for scale in (1.0, 0.5):
        assert torch.equal(model(x * scale, timesteps, conditioning, kept), model(x * scale, timesteps, conditioning))
    layers = len(set(counted))
    assert len(counted) == 3 * layers, "twice without what was kept, and once with it"
    other = Conditioning(text.flip(1), image)
    assert torch.equal(model(x, timesteps, other, kept), model(x, timesteps, other))
    nothing = Pass(adapters=(KeptContexts(most=0),))
    assert torch.equal(model(x, timesteps, conditioning, nothing), model(x, timesteps, conditioning))
