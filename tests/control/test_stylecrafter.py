"""StyleCrafter in whole runs, against the reference's numbers and in the pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import small_models
import torch
from command_line.running import frames_of, one_line, run
from conditioning.test_style import adapter_spec, vision_tower
from golden_models import model_spec, sampling_of
from torch import Tensor

from golden_cases import RecordedNoise, allowed, cases, check_frames, load, relative_error, step_noise
from vc_core.conditioning.style import StyleAdapter
from vc_core.conditions import NEGATIVE, POSITIVE, SINGLE, Branch, Conditioning, Evaluation
from vc_core.control.attachment import Encoders, Scene
from vc_core.control.options import described
from vc_core.control.stylecrafter import StyleCrafter, check_base, check_layers
from vc_core.denoising import Guidance, Sampling
from vc_core.denoising.guidance import guide
from vc_core.denoising.windows import ContextWindows
from vc_core.errors import UserError
from vc_core.frames.pixels import save_image
from vc_core.network.adapters.stylecrafter import StyleAttention
from vc_core.pipeline import VideoCrafter
from vc_core.request import Request
from vc_core.specs import PRESETS, ModelSpec, Windows

FREE = 1e-4  # of a run; float32 against float64 is up to 7.5e-6, and more in each further step
STEP = 2e-5  # of a step from the golden x
TOKENS = 1e-4
ADAPTER, VISION = "adapter.", "style_stage_model."


class RecordedEncoder:
    """In place of an image encoder: the features of images in turn."""

    def __init__(self, features: list[Tensor]) -> None:
        self.features = list(features)
        self.model = SimpleNamespace(visual=SimpleNamespace(ln_post=lambda tokens: tokens))

    def __call__(self, images: Tensor) -> Tensor:
        assert images.shape == (1, 3, 512, 512)
        return self.features.pop(0)


def adapter_of(info: dict[str, Any], weights: Mapping[str, Tensor]) -> StyleAdapter:
    """The networks of a case's adapter file."""
    own = {name.removeprefix(ADAPTER): value for name, value in weights.items() if name.startswith(ADAPTER)}
    params = info["config"]["params"]["adapter_config"]["params"]
    style, scale = (params[f"{name}_config"]["params"] for name in ("image_context", "scale_predictor"))
    widths = {name: len(own[f"kv_attn_layers.{name}.norm_style.bias"]) for name in info["style_layers"]}
    spec = replace(
        adapter_spec(style, scale, hidden=len(own["scale_predictor.out.0.weight"])), attentions=tuple(widths.items())
    )
    made = StyleAdapter(spec, device="meta").eval().requires_grad_(False)
    made.load_state_dict(own, assign=True)
    return made


def crafter_of(
    info: dict[str, Any], weights: Mapping[str, Tensor], t: Mapping[str, Tensor], path: Path
) -> VideoCrafter:
    """The base model of a case, with the networks of its adapter."""
    buffers = {key[4:]: value for key, value in t.items() if key.startswith("buf/")}
    base = {name: value for name, value in weights.items() if not name.startswith((ADAPTER, VISION))}
    torch.save({"state_dict": {**base, **buffers}}, path / "model.ckpt")
    spec = model_spec({**info, "shrunk": {"clip_arch": info["clip_arch"]}})
    parts = VideoCrafter.load(path / "model.ckpt", preset=spec).parts
    return VideoCrafter(replace(parts, added={"style_adapter": adapter_of(info, weights)}))


def encoder_and_images(
    info: dict[str, Any], weights: Mapping[str, Tensor], t: Mapping[str, Tensor], call: dict[str, Any]
) -> tuple[Any, list[Tensor]]:
    """The image encoder and the images of a call; where the file has the features alone, what hands them out."""
    names = [f"image/u8_{number}" for number in call["references"]]
    if all(name in t for name in names):
        return vision_tower(info["clip_arch"], dict(weights)), [t[name].float() / 255 for name in names]
    features = [t[f"image/features_{number}"].float() for number in call["references"]]
    return RecordedEncoder(features), [torch.zeros(8, 8, 3)] * len(features)


@pytest.mark.golden
@pytest.mark.parametrize("path", cases("stylecrafter_e2e"), ids=lambda path: path.stem)
def test_golden_from_images_and_prompt_to_frames(path: Path, tmp_path: Path) -> None:
    info, weights, t = load(path)
    crafter = crafter_of(info, weights, t, tmp_path)
    assert info["calls"]
    for call in info["calls"]:
        name, start = call["name"], t[f"{call['name']}/x_T"]
        encoder, images = encoder_and_images(info, weights, t, call)
        crafter.parts = replace(crafter.parts, image_encoder=encoder)
        control = StyleCrafter(
            images=tuple(images),
            strength=call["style_weight"],
            dual_guidance=call["cfg_style"] is not None,
            style_cfg=0.0 if call["cfg_style"] is None else call["cfg_style"],
            mode="image" if "2D" in call["network"] else "video",
        )
        request = Request(
            width=info["width"],
            height=info["height"],
            frames=call["frames"],
            cfg=call["cfg"],
            sampling=sampling_of({**call, "cfg_img": None}),
            controls=(control,),
        )
        noise = RecordedNoise([start, *step_noise(t.get(f"{name}/noise"), start, call["steps"], call["eta"])])
        with torch.inference_mode():
            steps = list(crafter.steps(info["prompt"], request=request, noise=noise))
        own = call["rel_l2_fp64_free_running_per_step"]
        for index, step in enumerate(steps):
            limit = allowed(FREE, 1e-2, own, index)
            assert relative_error(step.x, t[f"{name}/x"][index]) < limit, (name, index)
        assert relative_error(steps[-1].denoised, t[f"{name}/pred_x0"][-1]) < FREE, name
        if f"{name}/video_u8" in t:
            check_frames(crafter.decode(steps[-1].x), t[f"{name}/video_u8"], call["video_u8_frames"])
        check_passes(crafter, info, t, call, control)


def check_passes(
    crafter: VideoCrafter, info: dict[str, Any], t: Mapping[str, Tensor], call: dict[str, Any], control: StyleCrafter
) -> None:
    """The passes of the first steps that the file has, each from the golden x."""
    name = call["name"]
    request = Request(width=info["width"], height=info["height"], frames=call["frames"], cfg=call["cfg"])
    settings = replace(request, sampling=sampling_of({**call, "cfg_img": None})).settle(crafter.parts.spec)
    text, empty = (crafter.condition(prompt, None, 1) for prompt in (info["prompt"], ""))
    encoded = {"features": torch.cat([t[f"image/features_{number}"].float() for number in call["references"]])}
    scene = Scene(
        spec=crafter.parts.spec,
        frames=call["frames"],
        width=info["width"],
        height=info["height"],
        steps=call["steps"],
        cfg=call["cfg"],
        encoded=encoded,
    )
    attachment = control.attach(scene, crafter.parts.added["style_adapter"])
    style = attachment.adapters[0]
    assert isinstance(style, StyleAttention)
    assert style.scales is not None
    assert relative_error(style.tokens, t[f"{name}/style_tokens"]) < TOKENS
    assert relative_error(style.scales(text.text), t[f"{name}/scale_scalar"][..., 0]) < TOKENS
    times = [level.timestep for level in settings.sampling.levels(crafter.parts.schedule)[:-1]]
    assert times == call["t"]
    branches = {
        "e": (POSITIVE, text),
        "e_uncond": (NEGATIVE, empty),
        "e_nostyle": (Branch("positive", without=frozenset({"stylecrafter"})), text),
    }
    for index in range(len(t[f"{name}/e"])):
        x = t[f"{name}/x_T"] if index == 0 else t[f"{name}/x"][index - 1]
        for kind in call["branches"]:
            branch, conditioning = branches[kind]
            made = crafter.predict(
                x,
                torch.tensor([times[index]]),
                conditioning,
                Evaluation(branches=(branch,)),
                adapters=attachment.adapters,
            )
            assert relative_error(made, t[f"{name}/{kind}"][index]) < STEP, (name, kind, index)


SPEC, SMALL = small_models.STYLE_MODEL, small_models.STYLE_ADAPTER
IMAGES = tuple(torch.rand(2, 20, 30, 3, generator=torch.Generator().manual_seed(3)))
REQUEST = Request(width=32, height=32, frames=3, cfg=5, seed=4, sampling=Sampling(steps=2))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with small files of random weights: base, other models, image encoder, adapter and temporal layers."""
    folder = tmp_path_factory.mktemp("stylecrafter")
    small_models.save(SPEC, folder / "base.safetensors")
    small_models.save(small_models.TEXT_MODEL, folder / "other.safetensors")
    encoder = small_models.state_dict(small_models.IMAGE_MODEL)
    start = "embedder.model."
    vision = {name.removeprefix(start): value for name, value in encoder.items() if name.startswith(start)}
    torch.save(vision, folder / "vision.pt")
    torch.save(small_models.style_adapter(), folder / "adapter.pth")
    wider = replace(
        SMALL, attentions=(*SMALL.attentions, ("output_blocks_99_1_transformer_blocks_0_attn2_processor", 8))
    )
    torch.save(small_models.style_adapter(wider), folder / "wider.pth")
    torch.save(small_models.style_temporal(), folder / "temporal.pth")
    return folder


@pytest.fixture(scope="module")
def crafter(files: Path) -> VideoCrafter:
    return VideoCrafter.load([files / "base.safetensors", files / "vision.pt"])


def video(crafter: VideoCrafter, request: Request = REQUEST, *controls: StyleCrafter) -> Tensor:
    return crafter.generate("a boat", request=request, controls=controls)


def test_it_changes_the_video_and_leaves_nothing_behind(crafter: VideoCrafter, files: Path) -> None:
    plain, style = video(crafter), StyleCrafter(images=IMAGES[:1], file=files / "adapter.pth")
    styled = video(crafter, REQUEST, style)
    assert not torch.equal(styled, plain)
    assert torch.equal(video(crafter, REQUEST, replace(style, strength=0)), plain)
    assert torch.equal(video(crafter, REQUEST, style), styled)
    assert torch.equal(video(crafter), plain)
    both = replace(style, images=IMAGES)
    assert not torch.equal(video(crafter, REQUEST, both), styled)
    first = replace(both, image_weights="1, 0")
    assert torch.allclose(video(crafter, REQUEST, first), styled, atol=1e-4)


def test_the_temporal_file_acts_in_its_run_alone(crafter: VideoCrafter, files: Path) -> None:
    plain, before = video(crafter), {k: v.clone() for k, v in crafter.unet.state_dict().items()}
    style = StyleCrafter(images=IMAGES[:1], file=files / "adapter.pth")
    replaced = replace(style, temporal=files / "temporal.pth")
    assert not torch.equal(video(crafter, REQUEST, replaced), video(crafter, REQUEST, style))
    assert all(torch.equal(value, before[name]) for name, value in crafter.unet.state_dict().items())
    assert torch.equal(video(crafter), plain)
    still = replace(REQUEST, frames=1)
    image = replace(style, mode="image")
    assert torch.equal(
        video(crafter, still, replace(image, temporal=files / "temporal.pth")), video(crafter, still, image)
    )


def test_dual_guidance_has_three_branches() -> None:
    """e + style_cfg (e - n) + cfg (n - u), whatever else guidance consists of."""
    made = {"e": torch.randn(1, 4, 2, 3, 3), "n": torch.randn(1, 4, 2, 3, 3), "u": torch.randn(1, 4, 2, 3, 3)}

    def model(x: Tensor, timestep: Tensor, conditioning: Conditioning, evaluation: Evaluation = SINGLE, /) -> Tensor:
        def one(branch: Branch) -> Tensor:
            return made["u" if branch == NEGATIVE else "n" if branch.without else "e"]

        passes.append(evaluation.branches)
        return torch.cat([one(branch) for branch in evaluation.branches])

    text = Conditioning(torch.zeros(1, 7, 48))
    for style_cfg, cfg in ((7.5, 15.0), (0.0, 3.0), (2.0, 2.0)):
        control, passes = StyleCrafter(images=IMAGES, style_cfg=style_cfg), []
        guidance = Guidance(scale=cfg, terms=control.terms(cfg))
        out = guide(model, {"positive": text, "negative": text}, guidance)(made["e"], torch.tensor([500.0]))
        e, n, u = made.values()
        assert relative_error(out, e + style_cfg * (e - n) + cfg * (n - u)) < 1e-6
        assert len(passes) == 3
        assert {branch for branches in passes for branch in branches} >= {POSITIVE, NEGATIVE}
    for single in (replace(control, dual_guidance=False), replace(control, mode="image")):
        assert single.terms(6.0) == ()
    assert control.terms(1.0) == (), "cfg 1 is without guidance"


@pytest.mark.parametrize(
    "change",
    [
        {"guidance_cache": "fast"},
        {"step_cache": "fast"},
        {"temporal_guidance": 1.0, "guidance_rescale": 0.5},
        {"then": ("a storm",)},
        {"windows": Windows(size=2, stride=1)},
        {"context": ContextWindows(size=2, stride=1)},
        {"together": False},
    ],
    ids=lambda change: next(iter(change)),
)
def test_it_works_with_what_else_a_request_may_ask_for(
    crafter: VideoCrafter, files: Path, change: dict[str, Any]
) -> None:
    request = replace(REQUEST, sampling=Sampling(steps=6), **change)
    style = StyleCrafter(images=IMAGES[:1], file=files / "adapter.pth")
    plain, styled = video(crafter, request), video(crafter, request, style)
    assert bool(styled.isfinite().all())
    assert not torch.equal(styled, plain)
    assert torch.equal(video(crafter, request, replace(style, strength=0)), plain)
    if "together" in change:
        assert torch.allclose(styled, video(crafter, replace(request, together=True), style), atol=1e-4)


def test_what_does_not_fit_is_refused_with_the_cure(crafter: VideoCrafter, files: Path) -> None:
    style = StyleCrafter(images=IMAGES, file=files / "adapter.pth")
    cases: list[tuple[StyleCrafter, str]] = [
        (replace(style, images=()), r"StyleCrafter has no style image. Give one or more, or leave"),
        (replace(style, image_weights="1 2 3"), r"There are 3 weights for 2 style images"),
        (replace(style, image_weights="much"), r"image_weights of StyleCrafter are 'much'; give one number for each"),
        (replace(style, mode="image"), r"makes one image, and 3 frames are asked for. Set frames to 1, or mode to"),
        (replace(style, file=files / "wider.pth"), r"layers for \d+ attentions .* but this model has \d+ .* T2V-512"),
        (replace(style, file=files / "base.safetensors"), r"There is no style adapter \(StyleCrafter\) in .*base"),
        (replace(style, temporal=files / "adapter.pth"), r"not StyleCrafter's temporal layers. Give temporal_v1_1.pth"),
        (replace(style, temporal=files / "no.pth"), r"There is no file .*no.pth"),
        (replace(style, file=""), r"StyleCrafter needs weights of its own.*Give the file"),
    ]
    for control, message in cases:
        with pytest.raises(UserError, match=message):
            video(crafter, REQUEST, control)
    with pytest.raises(
        UserError, match="StyleCrafter is not supported with StyleCrafter: one StyleCrafter takes several"
    ):
        video(crafter, REQUEST, style, style)
    blind = VideoCrafter.load(files / "base.safetensors")
    with pytest.raises(
        UserError,
        match=r"StyleCrafter reads images by an image encoder, and there is none.*Give OpenCLIP ViT-H-14 as well",
    ):
        video(blind, REQUEST, style)
    other = VideoCrafter.load([files / "other.safetensors", files / "vision.pt"])
    with pytest.raises(
        UserError, match=r"trained on VideoCrafter1 T2V-512, and small_t2v is built in another way. Load"
    ):
        video(other, REQUEST, style)


@pytest.mark.parametrize("name", PRESETS)
def test_only_one_published_model_is_its_base(name: str) -> None:
    spec: ModelSpec = PRESETS[name]
    if name == "videocrafter1_t2v_512":
        check_base(spec)
    else:
        with pytest.raises(UserError, match=f"and {name} is built in another way"):
            check_base(spec)


def test_layers_of_another_width_are_refused() -> None:
    adapter = StyleAdapter(SMALL, device="meta")
    check_layers(adapter, SPEC.unet)
    with pytest.raises(UserError, match=r"over text of 48, but this model has .* over text of 1024: it belongs to"):
        check_layers(adapter, replace(SPEC.unet, context_dim=1024))


def test_features_are_read_from_squares() -> None:
    seen: list[Tensor] = []

    def image(pixels: Tensor) -> Tensor:
        seen.append(pixels)
        return torch.zeros(1, 5, 64)

    encoded = StyleCrafter(images=IMAGES).encode(Encoders(image=image, image_norm=lambda token: token + 1))
    assert [tuple(each.shape) for each in seen] == [(1, 512, 512, 3)] * 2
    assert encoded["features"].shape == (2, 5, 64)
    assert bool((encoded["features"][:, 0] == 1).all()), "the class token behind the norm"
    assert not bool(encoded["features"][:, 1:].any())


def test_the_command_line_makes_a_video_in_a_style(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for number, image in enumerate(IMAGES):
        save_image(tmp_path / f"{number}.png", image[: 20 - number])
    made = tmp_path / "video.mp4"
    given = ["text-to-video", "a boat", "--model", files / "base.safetensors", "--frames", 3, "--steps", 2]
    given += ["--width", 32, "--height", 32, "--seed", 1, "--output", made, "--stylecrafter", files / "adapter.pth"]
    images = ["--stylecrafter-images", tmp_path / "0.png", "--stylecrafter-images", tmp_path / "1.png"]
    assert run(*given, *images) == 2
    assert "reads images by an image encoder, and there is none" in one_line(capsys.readouterr().err)
    given += ["--model", files / "vision.pt", "--stylecrafter-temporal", files / "temporal.pth"]
    assert run(*given, *images, "--stylecrafter-image-weights", "1") == 2
    assert "There are 1 weights for 2 style images" in one_line(capsys.readouterr().err)
    assert run(*given, *images, "--stylecrafter-image-weights", "1, 0.5", "--no-stylecrafter-dual-guidance") == 0
    assert frames_of(made).shape == (3, 32, 32, 3)
    recorded = described(StyleCrafter(images=IMAGES, file=files / "adapter.pth", temporal=files / "temporal.pth"))
    assert (recorded["file"], recorded["temporal"]) == ("adapter.pth", "temporal.pth"), "names without folders"
    assert recorded["images"] == [[20, 30, 3]] * 2
