"""Adapters: every site, what its place says, the order of several, and a plain network without them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import small_models as small
import torch
import torch.nn.functional as F
from fused_passes import Defined
from torch import Tensor, nn

from golden_cases import relative_error
from vc_core.conditions import NEGATIVE, POSITIVE, Conditioning, Evaluation
from vc_core.denoising import Sampling
from vc_core.errors import UserError
from vc_core.network.adapter import SITES, Adapter, Attend, Place, Recording, Site
from vc_core.network.adapters.contexts import KeptContexts
from vc_core.network.call import Pass
from vc_core.network.layers import Downsample
from vc_core.network.transformers import TemporalTransformer
from vc_core.network.unet import VideoUNet
from vc_core.pipeline import Request, VideoCrafter

from .site_adapters import Everywhere, Scaled
from .tiny import TINY

EXACT = 1e-5
FRAMES, HEIGHT, WIDTH = 5, 6, 7


def network(**changes: Any) -> VideoUNet:
    torch.manual_seed(0)
    made = VideoUNet(replace(TINY, image_attention=True, **changes)).eval().requires_grad_(False)
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.1)
    return made


def inputs(clips: int = 2, conditionings: int = 1) -> tuple[Tensor, Tensor, Conditioning]:
    generator = torch.Generator().manual_seed(1)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    rows = clips * conditionings
    conditioning = Conditioning(drawn(rows, 3, 11), drawn(rows, FRAMES, 2, 11))
    return drawn(clips, 4, FRAMES, HEIGHT, WIDTH), torch.arange(1, clips + 1) * 300.0, conditioning


def unused(relative: bool) -> set[Site]:
    """The sites that a network lacks."""
    return set() if relative else {"attention_logits"}


def unchanged(site: Site, found: Tensor, plain: Tensor, relative: bool) -> bool:
    """Bit for bit, but where weights are computed that a backend does not show."""
    if site == "attention_weights" and not relative:
        return relative_error(found, plain) < EXACT
    return torch.equal(found, plain)


@pytest.mark.parametrize("relative", [False, True], ids=["plain", "relative"])
@pytest.mark.parametrize("site", [site for site in SITES if site not in ("on_pass", "on_block")])
@torch.no_grad()
def test_a_change_at_a_site_is_seen_and_leaves_with_the_adapter(site: Site, relative: bool) -> None:
    model, given = network(relative_position=relative), inputs()
    plain = model(*given)
    if site in unused(relative):
        assert torch.equal(model(*given, Pass(adapters=(Scaled(site),))), plain), "no such site in this network"
        return
    changed = model(*given, Pass(adapters=(Scaled(site),)))
    assert float((changed - plain).norm() / plain.norm()) > (1e-4 if site == "attention_logits" else 1e-3)
    same = model(*given, Pass(adapters=(Scaled(site, 1.0),)))
    assert unchanged(site, same, plain, relative), "a factor of 1 changes nothing"
    assert torch.equal(model(*given), plain), "nothing is left behind"


@pytest.mark.parametrize("changes", [{}, {"relative_position": True, "temporal_conv": False}], ids=["conv", "relative"])
@torch.no_grad()
def test_an_adapter_that_changes_nothing_is_bit_equal_at_all_sites(changes: dict[str, Any]) -> None:
    model = network(**changes)
    for given in (inputs(), inputs(1, conditionings=2)):
        watch, relative, plain = Everywhere(), model.spec.relative_position, model(*given)
        assert unchanged("attention_weights", model(*given, Pass(adapters=(watch, Everywhere()))), plain, relative)
        if not relative:
            few = [Everywhere(), Everywhere()]
            for each in few:
                each.sites = each.sites - {"attention_weights"}
            assert torch.equal(model(*given, Pass(adapters=tuple(few))), plain)
        assert {site for site, _ in watch.seen} == set(SITES) - unused(relative)


class Stops(Adapter):
    def on_block(self, at: Place) -> None:
        if (at.stage, at.index) == ("output", 1):
            raise UserError("stopped")


@torch.no_grad()
def test_a_pass_is_stopped_before_a_block() -> None:
    with pytest.raises(UserError, match="stopped"):
        network()(*inputs(), Pass(adapters=(Stops(),)))


class Named(Adapter):
    """Lists the order of calls, and changes the middle by an operation of its own."""

    def __init__(self, name: str, calls: list[str], change: Callable[[Tensor], Tensor]) -> None:
        self.name, self.calls, self.change = name, calls, change

    def uses(self, site: Site, at: Place) -> bool:
        return site == "after_middle_block" or (at.stage, at.attention) == ("middle", "temporal_2")

    def after_middle_block(self, at: Place, h: Tensor) -> Tensor:
        return self.change(h)

    def around_attention(self, at: Place, layer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        self.calls.append(f"{self.name} begins")
        out = layer(x)
        self.calls.append(f"{self.name} ends")
        return out


@torch.no_grad()
def test_adapters_act_in_the_order_in_which_they_are_given() -> None:
    model, given = network(), inputs()
    calls: list[str] = []
    double, shift = Named("double", calls, lambda h: 2 * h), Named("shift", calls, lambda h: h + 1)
    both = Named("both", [], lambda h: 2 * h + 1)
    assert torch.equal(model(*given, Pass(adapters=(double, shift))), model(*given, Pass(adapters=(both,))))
    assert calls == ["double begins", "shift begins", "shift ends", "double ends"], "the first is the outermost"
    other = Named("other", [], lambda h: 2 * (h + 1))
    assert torch.equal(model(*given, Pass(adapters=(shift, double))), model(*given, Pass(adapters=(other,))))


@torch.no_grad()
def test_a_place_says_where_it_is() -> None:
    model, (x, timesteps, conditioning), watch = network(), inputs(1, conditionings=2), Everywhere()
    evaluation = Evaluation(branches=(POSITIVE, NEGATIVE), step=3, steps=25)
    model(x, timesteps, conditioning, Pass(evaluation, adapters=(watch,)))
    assert all(
        at.frames == FRAMES and at.timesteps is timesteps and at.evaluation is evaluation for _, at in watch.seen
    )
    assert all(at.part is None for _, at in watch.seen)

    def places(site: Site) -> list[tuple[Any, ...]]:
        return [(at.stage, at.index, at.count) for seen, at in watch.seen if seen == site]

    encoder, decoder = [("input", i, 4) for i in range(4)], [("output", i, 4) for i in range(4)]
    assert places("on_block") == [*encoder, ("middle", 0, 1), *decoder]
    assert places("after_encoder_block") == places("after_skip") == encoder
    assert places("before_decoder_block") == decoder

    found = [(at.stage, at.index, at.layer, at.attention, at.grid) for site, at in watch.seen if site == "attention"]
    whole, half = (HEIGHT, WIDTH), (3, 4)

    def block(stage: str, index: int, grid: tuple[int, int]) -> list[tuple[Any, ...]]:
        spatial = [(stage, index, 1, name, grid) for name in ("spatial_self", "text", "image")]
        return spatial + [(stage, index, 2, f"temporal_{number}", grid) for number in (1, 2)]

    first = [("init", 0, 0, f"temporal_{number}", whole) for number in (1, 2)]
    down = first + block("input", 1, whole) + block("input", 3, half)
    up = block("output", 0, half) + block("output", 1, half) + block("output", 2, whole) + block("output", 3, whole)
    assert found == [*down, *block("middle", 0, half), *up]

    convolved = [
        (at.stage, at.index, at.layer, at.convolution, at.grid) for site, at in watch.seen if site == "convolution"
    ]
    assert convolved[:4] == [
        ("input", 0, 0, "first", whole),
        ("input", 1, 0, "in_layers", whole),
        ("input", 1, 0, "out_layers", whole),
        ("input", 2, 0, "op", whole),
    ]
    assert ("output", 1, 3, "conv", whole) in convolved
    assert [one for one in convolved if one[0] == "middle"] == [
        ("middle", 0, layer, name, half) for layer in (0, 3) for name in ("in_layers", "out_layers")
    ]


class Frames(Adapter):
    """Adds a number of its own to each frame, or to each row of pixels, and lists the parts."""

    def __init__(self) -> None:
        self.parts: set[tuple[int, int]] = set()
        self.whole: set[str] = set()

    def after_attention(self, at: Place, x: Tensor) -> Tensor:
        assert at.attention is not None
        if at.part is None:
            self.whole.add(at.attention)
        elif at.attention == "temporal_1":
            self.parts.add((at.part.start, at.part.stop))
        rows, width = at.grid
        if at.attention == "spatial_self":
            number = torch.arange(2 * at.frames)[at.part or slice(None)] % at.frames
            return x + 0.1 * number[:, None, None]
        pixels = torch.arange(rows)[at.part or slice(None)].repeat_interleave(width)
        return x + 0.1 * pixels.repeat(2)[:, None, None]

    def uses(self, site: Site, at: Place) -> bool:
        return at.attention in ("spatial_self", "temporal_1")


@torch.no_grad()
def test_parts_say_which_frames_and_rows_they_are_unless_maps_must_be_whole() -> None:
    model, given = network(), inputs()
    whole, parts = Frames(), Frames()
    expected = model(*given, Pass(adapters=(whole,)))
    assert not whole.parts
    model.budget.values = 1000
    assert relative_error(model(*given, Pass(adapters=(parts,))), expected) < EXACT
    assert {(row, row + 1) for row in range(HEIGHT)} <= parts.parts
    parts.whole_frames = parts.whole_pixels = True
    parts.parts.clear()
    assert relative_error(model(*given, Pass(adapters=(parts,))), expected) < EXACT
    assert not parts.parts
    assert parts.whole == {"spatial_self", "temporal_1"}


class Dilated(Adapter):
    def convolution(self, at: Place, convolve: Callable[..., Tensor], x: Tensor) -> Tensor:
        out = convolve(x, dilation=2)
        if at.convolution == "op":
            self.seen = (x, out)
        return out


@torch.no_grad()
def test_a_dilated_convolution_is_the_defined_one_and_its_layer_stays_as_it_is() -> None:
    model, adapter = network(), Dilated()
    model(*inputs(), Pass(adapters=(adapter,)))
    layer = next(module for module in model.modules() if isinstance(module, Downsample)).op
    x, out = adapter.seen
    expected = F.conv2d(x, layer.weight, layer.bias, stride=2, padding=2, dilation=2)  # type: ignore[arg-type]
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=0)
    assert (layer.padding, layer.dilation) == ((1, 1), (1, 1))


class Poses(Adapter, nn.Module):
    """Weights of its own, for values of each frame, between the attentions of each temporal block."""

    def __init__(self, model: VideoUNet) -> None:
        super().__init__()
        widths = {layer.transformer_blocks[0].norm2.normalized_shape[0] for layer in temporal(model)}
        self.layers = nn.ModuleDict({str(width): nn.Linear(3, width) for width in sorted(widths)})
        for parameter in self.parameters():
            nn.init.zeros_(parameter)
        self.values = torch.randn(2, FRAMES, 3, generator=torch.Generator().manual_seed(3))

    def uses(self, site: Site, at: Place) -> bool:
        return at.attention == "temporal_1"

    def after_attention(self, at: Place, x: Tensor) -> Tensor:
        return x + at.for_tokens(self.layers[str(x.shape[-1])](self.values), x)


def temporal(model: VideoUNet) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, TemporalTransformer)]


def test_an_adapter_may_have_weights_and_be_trained() -> None:
    model, given = network(), inputs()
    poses = Poses(model)
    run = Pass(adapters=(poses,))
    assert torch.equal(model(*given, run), model(*given)), "weights of zero change nothing"
    model(*given, run).square().mean().backward()
    assert all(parameter.grad is not None for parameter in poses.parameters())
    for parameter in poses.parameters():
        nn.init.normal_(parameter, std=0.2)
    with torch.no_grad():
        assert relative_error(model(*given, run), model(*given)) > 1e-2


@torch.no_grad()
def test_fused_kernels_stay_in_use_around_adapters(monkeypatch: pytest.MonkeyPatch) -> None:
    """And results are those of plain layers. An adapter of an attention takes over that transformer's alone."""
    model, given = network(), inputs()
    poses = Poses(model)
    for parameter in poses.parameters():
        nn.init.normal_(parameter, std=0.2)
    seen: set[tuple[int, ...]] = set()

    class Middle(Adapter):
        def uses(self, site: Site, at: Place) -> bool:
            return (at.stage, at.attention) == ("middle", "temporal_1")

        def attention(
            self, at: Place, attend: Attend, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None
        ) -> Tensor:
            seen.add(tuple(q.shape[:2]))
            return attend(0.5 * q, k, v, mask)

    counts = []
    for adapters in ((), (poses,), (Middle(),)):
        plain = model(*given, Pass(adapters=adapters))
        with monkeypatch.context() as patch:
            kernels = Defined()
            kernels.install(patch)
            assert relative_error(model(*given, Pass(adapters=adapters)), plain) < EXACT
        counts.append(kernels.calls["attend_over_frames"])
    layers = 2 * len(temporal(model))
    assert counts == [layers, layers, layers - 2]
    assert seen == {(2 * 3 * 4, FRAMES)}


class Counted(Adapter):
    def __init__(self) -> None:
        self.passes = 0

    def after_middle_block(self, at: Place, h: Tensor) -> Tensor:
        self.passes += 1
        return 1.5 * h


def test_adapters_of_a_model_act_in_every_pass_and_beside_kept_contexts(tmp_path: Any) -> None:
    crafter = VideoCrafter.load(small.save(small.TEXT_MODEL, tmp_path / "model.safetensors"))
    request = Request(frames=3, width=32, height=24, sampling=Sampling(steps=4), together=False)
    plain = crafter.generate("a boat", request=request)
    projected: list[str] = []
    for name, module in crafter.parts.unet.named_modules():  # type: ignore[union-attr]
        if name.endswith("1.transformer_blocks.0.attn2.to_k"):
            module.register_forward_hook(lambda *_, name=name: projected.append(name))
    adapter = Counted()
    crafter.adapters = (adapter,)
    assert not torch.allclose(crafter.generate("a boat", request=request), plain, atol=1e-3)
    assert adapter.passes == 8
    assert sorted(projected) == sorted([*set(projected), *set(projected)]), "once for each prompt"
    crafter.adapters = ()
    assert torch.equal(crafter.generate("a boat", request=request), plain)


def test_sites_are_those_that_a_class_implements() -> None:
    assert Everywhere.sites == set(SITES)
    assert Counted.sites == {"after_middle_block"}
    assert KeptContexts.sites == {"project_context"}
    assert (Counted.recording, KeptContexts.recording) == (Recording.REFUSED, Recording.OMITTED)


@torch.no_grad()
def test_places_are_kept_track_of_for_adapters_that_read_them_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def noted(each: Any, **changes: Any) -> Any:
        made.extend(changes)
        return replace(each, **changes)

    monkeypatch.setattr("vc_core.network.call.replace", noted)
    model, given = network(), inputs()
    model(*given, Pass(adapters=(KeptContexts(),)))
    assert "place" not in made
    model(*given, Pass(adapters=(KeptContexts(), Counted())))
    assert "place" in made
