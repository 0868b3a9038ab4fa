"""Controls in vc_core's pipeline: attached and detached, with each other, caches, windows, further terms and noise."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from small_models import CONTINUING_MODEL, TEXT_MODEL, motionctrl_weights, save
from torch import Tensor, nn

from vc_core.conditions import POSITIVE
from vc_core.control import CONTROLS, Attachment, Control, MotionCtrl, Scene, control_named
from vc_core.control.options import add_control_options, controls_of, described
from vc_core.control.table import check, check_each_section, markdown
from vc_core.denoising import NoiseSource, Sampling
from vc_core.denoising.guidance import Term, guide
from vc_core.denoising.sampling import Open
from vc_core.errors import UserError
from vc_core.features import Feature, Use
from vc_core.long import frames, method_named
from vc_core.network.adapter import Adapter, Place
from vc_core.parameters import about
from vc_core.pipeline import VideoCrafter
from vc_core.recipe import recipe
from vc_core.request import Request

REQUEST = Request(width=64, height=64, frames=4, seed=3, sampling=Sampling(steps=4), cfg=5.0)
TRACK = '[{"x": 8, "y": 8}, {"x": 50, "y": 40}]'
CLOSE = 1e-4
DOCS = Path(__file__).parents[2] / "docs"


class Shift(Adapter):
    """Adds a number to the middle of the network."""

    def __init__(self, owner: str, amount: float) -> None:
        self.owner, self.amount = owner, amount

    def after_middle_block(self, at: Place, h: Tensor) -> Tensor:
        return h + self.amount


@dataclass(frozen=True, kw_only=True)
class Shifted(Control):
    """A control without weights: shifts features, guides by the difference, changes the noise, replaces a tensor."""

    name = "shifted"
    title = "Shifted"
    summary = "shifts"
    use = "tests"
    models = "all"
    timed = False
    conflicts = {Feature.CACHE: "it says so"}

    amount: float = field(default=0.0, metadata=about("of the shift"))
    guidance: float = field(default=0.0, metadata=about("weight of the term"))
    noise: float = field(default=0.0, metadata=about("what is added to the noise"))
    bias: float = field(default=0.0, metadata=about("in place of the last bias"))

    def replaced(self, weights: nn.Module | None) -> dict[str, Tensor]:
        return {"out.2.bias": torch.full((4,), self.bias)} if self.bias else {}

    def attach(self, scene: Scene, weights: nn.Module | None) -> Attachment:
        assert scene.conditionings["positive"].text.shape[-1] == scene.spec.unet.context_dim
        away = replace(POSITIVE, without=frozenset({self.name}))
        return Attachment(
            adapters=(Shift(self.name, self.amount),) if self.amount else (),
            terms=(Term(self.guidance, POSITIVE, away),) if self.guidance else (),
            noise=self._changed if self.noise else None,
        )

    def _changed(self, drawn: Tensor, source: NoiseSource, opening: Open) -> Tensor:
        return drawn + self.noise * source.draw(drawn.shape, drawn.device, drawn.dtype)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> VideoCrafter:
    return VideoCrafter.load(save(TEXT_MODEL, tmp_path_factory.mktemp("model") / "model.safetensors"))


@pytest.fixture(scope="module")
def layers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("layers") / "motionctrl.safetensors"
    save_file(motionctrl_weights(TEXT_MODEL, levels=(32, 64, 128)), path)
    return path


def made(model: VideoCrafter, *controls: Control, **changes: Any) -> Tensor:
    """The latents of a run."""
    request = replace(REQUEST, controls=controls, **changes)
    return list(model.steps("a boat", request=request))[-1].x


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


def test_a_control_that_does_nothing_is_bit_equal_and_so_is_the_model_afterwards(
    model: VideoCrafter, layers: Path
) -> None:
    plain = made(model)
    assert torch.equal(made(model, MotionCtrl(file=layers)), plain)
    assert torch.equal(made(model, MotionCtrl(file=layers, camera="pan left", tracks=TRACK, strength=0.0)), plain)
    moved = made(model, MotionCtrl(file=layers, camera="pan left"))
    assert relative(moved, plain) > CLOSE
    assert torch.equal(made(model, MotionCtrl(file=layers, camera="pan left")), moved)
    assert relative(made(model, MotionCtrl(file=layers, camera="pan right")), moved) > CLOSE
    assert relative(made(model, MotionCtrl(file=layers, tracks=TRACK, tracks_until=0.0)), plain) > CLOSE
    assert torch.equal(made(model), plain)
    assert model.adapters == ()


def test_passes_that_share_the_work_give_each_branch_its_own_features(model: VideoCrafter, layers: Path) -> None:
    """The negative pass gets the features of a map without motion."""
    control = MotionCtrl(file=layers, camera="zoom in", tracks=TRACK, tracks_until=0.0)
    apart = made(model, control, together=False)
    assert relative(made(model, control, together=True), apart) < CLOSE
    assert relative(made(model, control, cfg=1.0), apart) > CLOSE


def test_generate_takes_controls_beside_those_of_the_request(model: VideoCrafter) -> None:
    request = replace(REQUEST, sampling=Sampling(steps=2))
    whole = model.generate("a boat", request=replace(request, controls=(Shifted(amount=0.5), Shifted(noise=0.1))))
    assert torch.equal(
        model.generate("a boat", request=request, controls=[Shifted(amount=0.5), Shifted(noise=0.1)]), whole
    )


def test_a_term_compares_with_a_pass_without_the_control(model: VideoCrafter) -> None:
    """One step of two passes more: u + s (c - u) + w (c - c without)."""
    noise = torch.randn(1, 4, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    settings = REQUEST.settle(TEXT_MODEL)
    given = model.conditionings(("a boat",), None, REQUEST, settings)

    def predicted(*controls: Control) -> Tensor:
        request = replace(REQUEST, controls=controls)
        crafter, attachment = model.controlled(("a boat",), request, settings, given)
        run = crafter._model(request, settings, settings.sampling.levels(model.schedule(request)), None)
        guided = guide(run, given, attachment.guidance(settings.sampling.guidance))
        return guided(noise, torch.tensor([500.0]))

    with torch.inference_mode():
        shifted = Shifted(amount=0.7, guidance=3.0)
        crafter, _ = model.controlled(("a boat",), replace(REQUEST, controls=(Shifted(amount=0.7),)), settings, given)
        when = torch.tensor([500.0])
        c, u = (
            crafter.predict(noise, when, given[name], adapters=crafter.adapters) for name in ("positive", "negative")
        )
        plain = model.predict(noise, when, given["positive"])
        assert relative(predicted(shifted), u + 5.0 * (c - u) + 3.0 * (c - plain)) < CLOSE
        assert relative(predicted(Shifted(amount=0.7)), u + 5.0 * (c - u)) < CLOSE


def test_noise_changes_alone_and_the_fresh_noise_of_the_steps_does_not(model: VideoCrafter) -> None:
    first = next(iter(model.steps("a boat", request=replace(REQUEST, controls=(Shifted(noise=1e-9),)))))
    plain = next(iter(model.steps("a boat", request=REQUEST)))
    assert relative(first.x, plain.x) < CLOSE
    assert relative(made(model, Shifted(noise=0.5)), made(model)) > CLOSE


def test_replaced_tensors_are_those_of_the_run_alone(model: VideoCrafter) -> None:
    plain = made(model)
    biased = made(model, Shifted(bias=0.5))
    assert relative(biased, plain) > CLOSE
    assert torch.equal(made(model), plain)
    assert not torch.equal(model.unet.state_dict()["out.2.bias"], torch.full((4,), 0.5))


def test_several_act_in_their_order(model: VideoCrafter, layers: Path) -> None:
    camera = MotionCtrl(file=layers, camera="roll clockwise")
    both = made(model, camera, Shifted(amount=0.5))
    assert relative(both, made(model, camera)) > CLOSE
    assert relative(both, made(model, Shifted(amount=0.5))) > CLOSE
    with pytest.raises(UserError, match="one MotionCtrl moves both the camera and all objects"):
        made(model, camera, camera)


@pytest.mark.parametrize("name", ["freenoise", "windows", "co_denoise", "loop"])
def test_windows_of_longer_clips_see_their_own_frames(model: VideoCrafter, layers: Path, name: str) -> None:
    request = replace(REQUEST, frames=9, sampling=Sampling(steps=2))
    method = method_named(name)(window=4, stride=2)

    def video(*controls: Control) -> Tensor:
        return torch.stack(list(frames(model, "a boat", request=replace(request, controls=controls), method=method)))

    plain = video()
    assert torch.equal(video(MotionCtrl(file=layers)), plain)
    control = MotionCtrl(file=layers, camera="pan up, pan down", tracks=TRACK, tracks_until=0.0)
    assert not torch.equal(video(control), plain)


def test_methods_whose_clips_begin_again_are_refused(model: VideoCrafter, layers: Path) -> None:
    control = MotionCtrl(file=layers, camera="pan up")
    request = replace(REQUEST, frames=9, controls=(control,))
    for method in (method_named("continue")(window=4, overlap=2), method_named("fifo")(window=4)):
        video = frames(model, "a boat", request=request, method=method)
        with pytest.raises(UserError, match=f"MotionCtrl is not supported with the method {method.name}"):
            next(video)
    with pytest.raises(UserError, match="MotionCtrl is not supported with key frames: each section"):
        check_each_section([control])
    use = Use(given="--end-picture", cure="Leave it out")
    with pytest.raises(UserError, match=r"--end-picture is not supported with MotionCtrl: each section"):
        check([control], scene(), {Feature.KEY_FRAMES: use})


def test_a_queue_has_controls_without_values_for_frames(model: VideoCrafter) -> None:
    request = replace(REQUEST, frames=6, sampling=Sampling(steps=4, eta=1.0))
    method = method_named("fifo")(window=4, partitions=1)

    def video(*controls: Control) -> Tensor:
        return torch.stack(list(frames(model, "a boat", request=replace(request, controls=controls), method=method)))

    assert not torch.equal(video(Shifted(amount=0.5)), video())


def test_caches_keep_the_control(model: VideoCrafter, layers: Path) -> None:
    control = MotionCtrl(file=layers, camera="pan left")
    for cache in ({"step_cache": "high"}, {"guidance_cache": "high"}):
        cached = made(model, control, sampling=Sampling(steps=8), **cache)
        assert relative(cached, made(model, control, sampling=Sampling(steps=8))) < 0.5
        assert relative(cached, made(model, sampling=Sampling(steps=8), **cache)) > CLOSE
    with pytest.raises(UserError, match="The cache high is not supported with Shifted: it says so"):
        made(model, Shifted(amount=1.0), step_cache="high")


def scene(spec: Any = TEXT_MODEL, **changes: Any) -> Scene:
    given = {"frames": 4, "width": 64, "height": 64, "steps": 4, "cfg": 5.0, **changes}
    return Scene(spec=spec, **given)


@pytest.mark.parametrize(
    ("control", "message"),
    [
        (MotionCtrl(camera="fly"), "There is no camera move 'fly'"),
        (MotionCtrl(poses="[[1, 0, 0]]"), "Camera poses should have 12 numbers each.*one has 3"),
        (MotionCtrl(poses=json.dumps([[0.0] * 12] * 3)), "poses for 3 frames, but the clip has 4"),
        (MotionCtrl(poses="1 2 3"), "3 numbers were given as camera poses"),
        (MotionCtrl(poses="one two"), "The camera poses should be numbers"),
        (MotionCtrl(camera="still", poses="1 2 3"), "Both camera moves and camera poses were given"),
        (MotionCtrl(tracks="[1, 2"), "The tracks are not JSON"),
        (MotionCtrl(tracks="here"), "is not a point of a track"),
    ],
)
def test_bad_values_are_refused_with_the_cure(control: Control, message: str) -> None:
    with pytest.raises(UserError, match=message):
        control.check(scene())


def test_other_models_and_files_are_refused(model: VideoCrafter, layers: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"for VideoCrafter's text-to-video models.*Load motionctrl.pth"):
        MotionCtrl().check(scene(CONTINUING_MODEL))
    with pytest.raises(UserError, match="MotionCtrl needs weights of its own, and the model's file has none"):
        made(model, MotionCtrl(camera="pan left"))
    other = tmp_path / "other.safetensors"
    save(TEXT_MODEL, other, prefixes=("first_stage_model.",))
    with pytest.raises(UserError, match="There is no camera and trajectory layers"):
        made(model, MotionCtrl(file=other, camera="pan left"))
    wide = replace(TEXT_MODEL, unet=replace(TEXT_MODEL.unet, model_channels=64))
    save_file(motionctrl_weights(wide), other)
    with pytest.raises(UserError, match="they belong to another model"):
        made(model, MotionCtrl(file=other, camera="pan left"))
    camera = tmp_path / "camera.safetensors"
    save_file(motionctrl_weights(TEXT_MODEL), camera)
    with pytest.raises(UserError, match=r"but none for tracks\. Give motionctrl\.pth"):
        made(model, MotionCtrl(file=camera, tracks=TRACK))
    with pytest.raises(UserError, match="The strength of MotionCtrl is 3; it should be 0 to 2"):
        MotionCtrl(strength=3.0)
    with pytest.raises(UserError, match=r"There is no control 'x'; choose one of .*motionctrl"):
        control_named("x")


def parsed(*given: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_control_options(parser)
    return parser.parse_args(list(given))


def test_the_command_line_has_every_parameter_of_every_control() -> None:
    parser = argparse.ArgumentParser()
    add_control_options(parser)
    shown = parser.format_help()
    for name, control in CONTROLS.items():
        assert f"--{name.replace('_', '-')}" in shown
        for item in control.parameters():
            assert f"--{name}-{item.name}".replace("_", "-") in shown
            assert item.help.endswith(tuple("abcdefghijklmnopqrstuvwxyz0123456789)'\"")), item.help


def test_the_command_line_makes_controls(tmp_path: Path) -> None:
    settings = REQUEST.settle(TEXT_MODEL)
    assert controls_of(parsed(), settings) == ()
    poses = tmp_path / "poses.json"
    poses.write_text(json.dumps([[0.5] * 12] * 4))
    options = parsed("--motionctrl", "a.pth", "--motionctrl-speed", "2", "--motionctrl-poses", str(poses))
    (control,) = controls_of(options, settings)
    assert control == MotionCtrl(file="a.pth", speed=2.0, poses=poses.read_text())
    assert controls_of(parsed("--motionctrl", "model"), settings) == (MotionCtrl(),)
    with pytest.raises(UserError, match="--motionctrl-camera works with --motionctrl FILE only"):
        controls_of(parsed("--motionctrl-camera", "still"), settings)


def test_the_recipe_has_the_controls_and_no_numbers_of_tensors() -> None:
    request = replace(REQUEST, controls=(MotionCtrl(file="folder/a.pth", camera="still"),))
    found = recipe(TEXT_MODEL, "a boat", request)["controls"]
    assert found == [described(request.controls[0])]
    assert found[0]["control"] == "motionctrl"
    assert found[0]["file"] == "a.pth"
    assert found[0]["camera"] == "still"
    json.dumps(found)
    assert "controls" not in recipe(TEXT_MODEL, "a boat", REQUEST)


def test_the_documentation_has_the_table_and_a_page_for_each_control() -> None:
    text = (DOCS / "control.md").read_text(encoding="utf-8")
    assert text.partition("<!-- controls -->\n")[2].partition("\n<!-- end -->")[0] == markdown()
    for name, control in CONTROLS.items():
        page = (DOCS / "controls" / f"{name}.md").read_text(encoding="utf-8")
        assert page.startswith(f"# {control.title}\n")
        assert all(item.name in page for item in control.parameters())
