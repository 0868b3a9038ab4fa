"""LoRA files of every kind, as changes of the UNet's weights that can be taken back."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from checkpoint.synthetic import TEXT_MODEL, part_weights
from golden_models import unet_spec
from safetensors.torch import save_file
from torch import Tensor

from golden_cases import cases, fps_of, load, relative_error, row
from vc_core.checkpoint.lora import GUIDANCE, apply, lora_spec, read_lora, restore, with_guidance
from vc_core.conditions import Conditioning
from vc_core.errors import UserError
from vc_core.network.unet import VideoUNet
from vc_core.specs import PRESETS

TOLERANCE = 3e-5  # float32 against float64 is 3.5e-6
MODULES = ("input_blocks.1.1.transformer_blocks.0.attn2.to_k", "out.2", "time_embed.0")


@pytest.mark.golden
@pytest.mark.parametrize("path", cases("turbo_lora"), ids=lambda path: path.stem)
@torch.no_grad()
def test_golden_list(path: Path, tmp_path: Path) -> None:
    info, weights, t = load(path)
    model = VideoUNet(unet_spec(info["config"]), device="meta").eval()
    model.load_state_dict(weights, assign=True)
    items = [t[name].float() for name in sorted(t) if name.startswith("lora/")]
    file = path.with_name(info.get("list_file", f"{path.stem}.pt"))
    if not file.exists():  # the case without its list, which holds the same tensors
        file = tmp_path / "lora.pt"
        torch.save([torch.nn.Parameter(item) for item in items], file)
    lora = read_lora(file, model.spec)
    assert list(lora.changes) == [name for name, *_ in info["order"]]
    for index, change in enumerate(lora.changes.values()):
        assert torch.equal(change.up.detach(), items[2 * index])
        assert torch.equal(change.down.detach(), items[2 * index + 1])

    (call,) = info["calls"]
    clips = len(t["in/x"])
    guidance = row(call["guidance"], clips) if "guidance" in call else scale_of(t["in/timestep_cond"])
    conditioning = Conditioning(t["in/context"], fps=fps_of(call, t), guidance=guidance)
    given = (t["in/x"], t["in/timesteps"], conditioning)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    base = model(*given)
    assert relative_error(base, t["out/base"]) < TOLERANCE
    replaced = apply(model, lora)
    for name, value in t.items():
        if name.startswith("merged/"):
            merged = model.state_dict()[name.removeprefix("merged/")]
            torch.testing.assert_close(merged, value, atol=2e-6, rtol=0)  # float32 sums of four products
    assert relative_error(model(*given), t["out/merged"]) < TOLERANCE
    restore(model, replaced)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def scale_of(embedding: Tensor) -> Tensor:
    """The guidance scale of its embedding, b d: the slowest wave turns by a tenth of it."""
    half = embedding.shape[1] // 2
    return (10 * torch.atan2(embedding[:, half - 1], embedding[:, -1])).mul(1000).round().div(1000)


def test_the_published_list_has_our_order_and_shapes() -> None:
    """The full size: 575 changes, of which VideoCrafter2 lacks the weight of one."""
    manifest = Path(__file__).parents[1] / "manifests" / "t2v_turbo_vc2_unet_lora.json.gz"
    content = json.loads(gzip.decompress(manifest.read_bytes()))
    for preset in ("videocrafter2_512", "t2v_turbo_vc2"):
        from vc_core.checkpoint import lora

        spec = PRESETS[preset].unet
        shapes = {name: tuple(value.shape) for name, value in VideoUNet(spec, device="meta").state_dict().items()}
        order = lora._in_order(shapes, spec)
        assert len(order) == content["modules"] == 575
        assert list(order) == [name for name, *_ in content["order"]]
        items = [torch.empty(shape, device="meta") for _, _, up, down, _ in content["order"] for shape in (up, down)]
        assert len(items) == content["list_length"]
        assert sum(item.numel() for item in items) == content["values"]
        assert len(lora._of_list(Path("unet_lora.pt"), items, order)) == 575


def model() -> VideoUNet:
    unet = VideoUNet(TEXT_MODEL.unet).eval()
    unet.load_state_dict(part_weights(TEXT_MODEL, "unet"))
    return unet.requires_grad_(False)


def factors(seed: int = 3) -> dict[str, tuple[Tensor, Tensor]]:
    """(up, down) of rank 2 for each module."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {name: value.shape for name, value in model().state_dict().items()}
    result = {}
    for module in MODULES:
        out, *rest = shapes[f"{module}.weight"]
        ones = [1] * (len(rest) - 1)
        result[module] = (
            torch.randn(out, 2, *ones, generator=generator),
            torch.randn(2, *rest, generator=generator),
        )
    return result


NAMES: dict[str, Callable[[str], tuple[str, str]]] = {
    "peft": lambda m: (f"base_model.model.{m}.lora_B.weight", f"base_model.model.{m}.lora_A.weight"),
    "peft in memory": lambda m: (f"{m}.lora_B.default.weight", f"{m}.lora_A.default.weight"),
    "kohya": lambda m: (
        f"lora_unet_{m.replace('.', '_')}.lora_up.weight",
        f"lora_unet_{m.replace('.', '_')}.lora_down.weight",
    ),
    "published": lambda m: (
        f"model.diffusion_model.{m}.lora_up.weight",
        f"model.diffusion_model.{m}.lora_down.weight",
    ),
    "diffusers": lambda m: (f"unet.{m}.lora.up.weight", f"unet.{m}.lora.down.weight"),
}


@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize("strength", [1.0, -0.5])
def test_every_kind_of_name_is_an_ordinary_change(kind: str, strength: float, tmp_path: Path) -> None:
    tensors = {}
    for module, (up, down) in factors().items():
        names = NAMES[kind](module)
        tensors.update({names[0]: up, names[1]: down})
        if kind == "kohya":
            tensors[names[0].replace("lora_up.weight", "alpha")] = torch.tensor(1.0)  # half of the rank
    save_file(tensors, tmp_path / "lora.safetensors")
    unet = model()
    before = {name: value.clone() for name, value in unet.state_dict().items()}
    lora = read_lora(tmp_path / "lora.safetensors", unet.spec)
    assert set(lora.changes) == {f"{module}.weight" for module in MODULES}
    replaced = apply(unet, lora, strength)
    after = unet.state_dict()
    for module, (up, down) in factors().items():
        change = torch.einsum("or,ri->oi", up.flatten(1), down.flatten(1)).reshape(before[f"{module}.weight"].shape)
        wanted = before[f"{module}.weight"] + strength * (0.5 if kind == "kohya" else 1.0) * change
        torch.testing.assert_close(after[f"{module}.weight"], wanted)
    restore(unet, replaced)
    assert all(torch.equal(value, before[name]) for name, value in unet.state_dict().items())


def test_peft_settings_beside_the_file_give_the_scale(tmp_path: Path) -> None:
    tensors = {}
    for module, (up, down) in factors().items():
        names = NAMES["peft"](module)
        tensors.update({names[0]: up, names[1]: down})
    torch.save(tensors, tmp_path / "adapter_model.bin")
    (tmp_path / "adapter_config.json").write_text('{"r": 2, "lora_alpha": 8}')
    lora = read_lora(tmp_path / "adapter_model.bin", TEXT_MODEL.unet)
    assert {change.scale for change in lora.changes.values()} == {4.0}
    (tmp_path / "adapter_config.json").write_text('{"r": 4, "lora_alpha": 8, "use_rslora": true}')
    lora = read_lora(tmp_path / "adapter_model.bin", TEXT_MODEL.unet)
    assert {change.scale for change in lora.changes.values()} == {4.0}, "alpha over the root of the rank"
    (tmp_path / "adapter_config.json").write_text('{"r": 0}')
    with pytest.raises(UserError, match="gives the scale of the LoRA"):
        read_lora(tmp_path / "adapter_model.bin", TEXT_MODEL.unet)


def test_settings_of_peft_do_not_count_for_other_files_in_the_folder(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"r": 2, "lora_alpha": 8}')
    pairs = {NAMES["published"](module): pair for module, pair in factors().items()}
    save_file(
        {name: part for names, pair in pairs.items() for name, part in zip(names, pair, strict=True)},
        tmp_path / "a.safetensors",
    )
    lora = read_lora(tmp_path / "a.safetensors", TEXT_MODEL.unet)
    assert {change.scale for change in lora.changes.values()} == {1.0}


def test_a_list_for_a_model_without_guidance_embedding_brings_it(tmp_path: Path) -> None:
    unet = model()
    from vc_core.checkpoint.lora import _in_order

    order = _in_order({name: tuple(value.shape) for name, value in unet.state_dict().items()}, unet.spec)
    items: list[Tensor] = []
    for name, shape in order.items():
        size = (shape[0], 24) if name == GUIDANCE else shape
        items += [torch.randn(size[0], 2), torch.randn(2, *size[1:])]
    torch.save(items, tmp_path / "unet_lora.pt")
    lora = read_lora(tmp_path / "unet_lora.pt", unet.spec)
    assert lora.guidance_width == 24
    grown = with_guidance(unet, lora.guidance_width)
    x = torch.randn(1, 4, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    when, plain = torch.tensor([500]), Conditioning(torch.zeros(1, 5, 24))
    with torch.no_grad():
        guided = grown(x, when, replace(plain, guidance=torch.tensor([7.5])))
        assert torch.equal(guided, unet(x, when, plain))
    spec = lora_spec(TEXT_MODEL, [(tmp_path / "unet_lora.pt", 1.0)])
    assert spec.unet == replace(TEXT_MODEL.unet, guidance_width=24)
    assert spec.diffusion.rescale is None
    assert (spec.defaults.sampler, spec.defaults.steps) == ("lcm", 4)
    apply(grown, lora)
    assert float(grown.state_dict()[GUIDANCE].abs().sum()) > 0


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ([torch.zeros(2, 2)] * 4, "list of 4 tensors, but this network needs"),
        ({"down_blocks.0.lora_A.weight": torch.zeros(2, 3), "down_blocks.0.lora_B.weight": torch.zeros(3, 2)},
         r"another model: 1 of its 1 layers are not in this network \(down_blocks\.0"),
        ({"out.2.lora_A.weight": torch.zeros(2, 3), "out.2.lora_B.weight": torch.zeros(3, 2)},
         r"its change of out\.2 is \[3, 2\] by \[2, 3\], but the weight is \[4, 32, 3, 3\]"),
        ({"out.2.lora_A.weight": torch.zeros(2, 3)}, r"no pairs of tensors for out\.2"),
        ({"out.2.lora_up.weight": torch.full((4, 2, 1, 1), float("nan")),
          "out.2.lora_down.weight": torch.zeros(2, 32, 3, 3)}, r"not a finite number \(the change of out\.2 in .*pt"),
        ({"out.2.lora_up.weight": torch.zeros(4, 2, 1, 1), "out.2.alpha": torch.tensor(float("inf")),
          "out.2.lora_down.weight": torch.zeros(2, 32, 3, 3)}, r"lora\.pt: the alpha of out\.2 is not one finite"),
        ({"out.2.lora_up.weight": torch.zeros(4, 2, 1, 1), "out.2.alpha": torch.ones(2),
          "out.2.lora_down.weight": torch.zeros(2, 32, 3, 3)}, r"the alpha of out\.2 is not one finite number"),
        ({"out.2.lora_up.weight": torch.zeros(()), "out.2.alpha": torch.ones(()),
          "out.2.lora_down.weight": torch.zeros(())}, r"its change of out\.2 is \[\] by \[\]"),
        ({"out.2.weight": torch.zeros(2, 3)}, r"no pairs of tensors for out\.2\.weight"),
    ],
)  # fmt: skip
def test_what_is_damaged_or_not_for_this_model_is_refused(tensors: object, message: str, tmp_path: Path) -> None:
    torch.save(tensors, tmp_path / "lora.pt")
    with pytest.raises(UserError, match=message):
        read_lora(tmp_path / "lora.pt", TEXT_MODEL.unet)
