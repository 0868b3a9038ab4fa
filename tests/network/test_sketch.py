"""ToonCrafter's sketch guidance, against the numbers of the code that published its use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_models import unet_spec
from network.tiny import TINY
from torch import Tensor

from golden_cases import cases, load, relative_error
from vc_core.conditions import Conditioning, Evaluation
from vc_core.errors import UserError
from vc_core.network.adapters.deep import KeepDeep
from vc_core.network.adapters.sketch import SketchEncoder, SketchResiduals
from vc_core.network.call import Deep, Pass
from vc_core.network.layers import to_frames
from vc_core.network.unet import VideoUNet
from vc_core.specs.sketch import SketchEncoderSpec

TOLERANCE = 3e-5  # float32 against float64 is 1e-7 .. 4e-6
TEXT, IMAGE = 77, 16
UNET, CONTROL = "model.diffusion_model.", "control_model."
FRAMES = 4


def sketch_spec(config: Mapping[str, Any]) -> SketchEncoderSpec:
    """Of the arguments of the reference's ControlNet."""
    levels = range(len(config["channel_mult"]))
    return SketchEncoderSpec(
        in_channels=config["in_channels"],
        hint_channels=config["hint_channels"],
        model_channels=config["model_channels"],
        channel_mult=tuple(config["channel_mult"]),
        num_res_blocks=config["num_res_blocks"],
        attention_levels=tuple(level for level in levels if 2**level in config["attention_resolutions"]),
        head_channels=config["num_head_channels"],
        context_dim=config["context_dim"],
    )


def loaded(module: torch.nn.Module, weights: Mapping[str, Tensor], prefix: str = "") -> Any:
    own = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
    module.load_state_dict(own, assign=True)
    return module.eval()


@pytest.mark.golden
@pytest.mark.parametrize("path", cases("tooncrafter_sketch_controlnet"), ids=lambda path: path.stem)
@torch.no_grad()
def test_golden_encoder(path: Path) -> None:
    info, weights, t = load(path)
    encoder = loaded(SketchEncoder(sketch_spec(info["config"]), device="meta"), weights)
    found = encoder(t["in/x"], t["in/timesteps"], t["in/context"], encoder.hints(t["in/hint"].float()))
    assert [list(one.shape) for one in found] == info["outputs"]
    for index in info["stored_outputs"]:
        ours = found[index][info["stored_frames"]]
        assert relative_error(ours, t[f"out/control_{index}"]) < info["tolerance_rel_l2"], index


@pytest.mark.golden
@pytest.mark.parametrize("path", cases("tooncrafter_sketch_unet"), ids=lambda path: path.stem)
@torch.no_grad()
def test_golden_guidance(path: Path) -> None:
    info, weights, t = load(path)
    unet = loaded(VideoUNet(unet_spec(info["config"]["unet"]), device="meta"), weights, UNET)
    encoder = loaded(SketchEncoder(sketch_spec(info["config"]["controlnet"]), device="meta"), weights, CONTROL)
    x, context, hint = t["in/x"], t["in/context"], t["in/hint"].float()
    own, frames = unet.spec.latent_channels, x.shape[2]
    image = context[:, TEXT:].unflatten(1, (frames, IMAGE))
    conditioning = Conditioning(context[:, :TEXT], image, t["in/fs"].float(), x[:, own:])
    adapter = SketchResiduals(encoder, hint, [info["control_scale"]] * frames)
    y = unet(x[:, :own], t["in/timesteps"], conditioning, Pass(adapters=(adapter,)))
    plain = unet(x[:, :own], t["in/timesteps"], conditioning)
    assert relative_error(y, t["out/y"]) < info["tolerance_rel_l2"]
    assert relative_error(plain, t["out/y_no_control"]) < info["tolerance_rel_l2"]


SMALL = SketchEncoderSpec(
    hint_widths=(4, 4, 6, 6, 8, 8, 12),
    model_channels=TINY.model_channels,
    channel_mult=TINY.channel_mult,
    num_res_blocks=TINY.num_res_blocks,
    attention_levels=TINY.attention_levels,
    head_channels=TINY.head_channels,
    context_dim=TINY.context_dim,
    norm_groups=TINY.norm_groups,
)


class Case:
    """A small network, its sketch encoder and what they read; two conditionings that can share a pass."""

    def __init__(self) -> None:
        torch.manual_seed(1)
        with torch.random.fork_rng():
            torch.manual_seed(2)
            spec = replace(TINY, image_attention=True)
            self.unet, self.encoder = VideoUNet(spec).eval(), SketchEncoder(SMALL).eval()
            for module in (self.unet, self.encoder):
                for parameter in module.parameters():
                    torch.nn.init.normal_(parameter, std=0.15)
            self.x = torch.randn(1, TINY.latent_channels, FRAMES, 4, 4)
            self.sketches = (torch.rand(FRAMES, 1, 32, 32) > 0.8).float()
            width = TINY.context_dim
            self.both = [
                Conditioning(torch.randn(1, 5, width), torch.randn(1, FRAMES, 2, width), torch.tensor([8.0]))
                for _ in range(2)
            ]
        self.timesteps = torch.tensor([700])

    def adapter(self, *strengths: float) -> SketchResiduals:
        return SketchResiduals(self.encoder, self.sketches, strengths or (0.6,) * FRAMES)

    @torch.no_grad()
    def __call__(self, *adapters: Any, conditioning: Conditioning | None = None, **run: Any) -> Tensor:
        given = self.both[0] if conditioning is None else conditioning
        out: Tensor = self.unet(self.x, self.timesteps, given, Pass(adapters=adapters, **run))
        return out


@pytest.fixture(scope="module")
def case() -> Case:
    return Case()


def test_without_strength_the_pass_is_bit_equal(case: Case) -> None:
    plain = case()
    assert torch.equal(case(case.adapter(*[0.0] * FRAMES)), plain)
    assert not torch.equal(case(case.adapter()), plain)
    assert torch.equal(case(), plain)


def test_conditionings_that_share_a_pass_are_guided_as_apart(case: Case) -> None:
    joined = Conditioning.joined(case.both)
    assert joined is not None
    apart = torch.cat([case(case.adapter(), conditioning=one) for one in case.both])
    together = case(case.adapter(), conditioning=joined)
    torch.testing.assert_close(together, apart, atol=2e-6, rtol=1e-5)
    assert relative_error(together[:1], together[1:]) > 1e-2


def test_frames_without_a_sketch_get_no_residuals(case: Case) -> None:
    """The residuals are those of every frame alone, so that frames of strength 0 are left out of the encoder."""
    whole, some = case.adapter(1.0, 1.0, 1.0, 1.0), case.adapter(0.0, 0.5, 0.0, 1.0)
    case(whole), case(some)
    for all_frames, guided in zip(whole.residuals, some.residuals, strict=True):
        assert not guided[[0, 2]].any()
        torch.testing.assert_close(guided[1], 0.5 * all_frames[1], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(guided[3], all_frames[3], atol=1e-5, rtol=1e-4)


def test_an_empty_sketch_is_not_no_sketch(case: Case) -> None:
    """As in the published code, which needs a sketch for every frame: an empty one still guides."""
    empty = SketchResiduals(case.encoder, torch.zeros_like(case.sketches), (0.6,) * FRAMES)
    assert not torch.equal(case(empty), case())


def test_windows_of_a_longer_clip_get_their_own_sketches(case: Case) -> None:
    longer = torch.cat([torch.zeros_like(case.sketches[:2]), case.sketches])
    adapter = SketchResiduals(case.encoder, longer, (0.0, 0.0, *[0.6] * FRAMES))
    window = Evaluation(window=tuple(range(2, 2 + FRAMES)))
    assert torch.equal(case(adapter, evaluation=window), case(case.adapter()))


def test_a_text_for_each_frame(case: Case) -> None:
    same = replace(case.both[0], text=case.both[0].text[:, None].expand(-1, FRAMES, -1, -1))
    torch.testing.assert_close(case(case.adapter(), conditioning=same), case(case.adapter()), atol=2e-6, rtol=1e-5)


def test_features_of_sketches_are_computed_once(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    counted, hints = [], SketchEncoder.hints
    monkeypatch.setattr(SketchEncoder, "hints", lambda self, sketches: counted.append(1) or hints(self, sketches))
    adapter = case.adapter()
    assert torch.equal(case(adapter), case(adapter))
    assert len(counted) == FRAMES


def test_reused_deep_features_still_get_the_outer_residuals(case: Case) -> None:
    keep = KeepDeep(2)
    whole = case(keep, case.adapter())
    assert keep.result is not None
    again = case(case.adapter(), deep=Deep(2, keep.result))
    torch.testing.assert_close(again, whole, atol=2e-6, rtol=1e-5)


def test_what_does_not_fit_is_refused(case: Case) -> None:
    with pytest.raises(UserError, match=r"shape \(frames, 1, height, width\), but the shape is \(4, 3, 32, 32\)"):
        SketchResiduals(case.encoder, torch.zeros(4, 3, 32, 32), (1.0,) * 4)
    with pytest.raises(UserError, match="3 strengths were given for 4 frames"):
        SketchResiduals(case.encoder, case.sketches, (1.0,) * 3)
    with pytest.raises(UserError, match="sketches for a clip of 3 frames, but this clip has 4"):
        case(SketchResiduals(case.encoder, case.sketches[:3], (1.0,) * 3))
    assert to_frames(case.x).shape[0] == FRAMES
