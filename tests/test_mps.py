"""Runs on Apple's GPU, as far as a machine without one can show: no types and operations that it lacks."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import small_models as small
import torch
from control.combining import BASES, EXAMPLES, FRAMES, IMAGE, PROMPT, bases_of, control_of, reason_against_both
from pretended import PretendedMps

from vc_core.checkpoint import reading
from vc_core.control import CONTROLS
from vc_core.denoising import Sampling, Source
from vc_core.long import METHODS, frames
from vc_core.network.adapters import epipolar
from vc_core.pipeline import Request, VideoCrafter
from vc_core.specs import ModelSpec

# A tensor without values lies nowhere in memory; where one lies is asked for to know it again.
pytestmark = pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")

SHAPES = {
    "text": small.TEXT_MODEL,
    "image": small.IMAGE_MODEL,
    "continuing": small.CONTINUING_MODEL,
    "turbo": small.TURBO_MODEL,
    "toon": small.TOON_MODEL,
}
SAMPLING = Sampling(steps=1, spacing="trailing")
WHOLE = bool(os.environ.get("VC_WHOLE_MPS"))
"""Whether everything is run, which takes minutes; otherwise a sample."""
FREQUENCIES = {"freqprior", "freetraj", "noise_calibration", "freeu"}
"""The controls with Fourier transforms; docs/compatibility.md names them."""
FREQUENCIES_OF_METHODS = {"freelong"}


def test_types_and_operations_that_the_device_lacks_are_found() -> None:
    with PretendedMps():
        there = torch.ones(1, 1, 4, 4, device="cuda")
        with pytest.raises(TypeError, match="float64"):
            there.double()
        with pytest.raises(TypeError, match="float64"):
            torch.ones(2, dtype=torch.float64).to("cuda")
        with pytest.raises(NotImplementedError, match="_upsample_bilinear2d_aa"):
            torch.nn.functional.interpolate(there, (2, 2), mode="bilinear", antialias=True)
        assert torch.fft.fft2(there).is_complex()
    with PretendedMps(frequencies=False), pytest.raises(TypeError, match="complex64"):
        torch.fft.fft2(torch.ones(4, 4, device="cuda"))


def _smaller(spec: ModelSpec) -> ModelSpec:
    return replace(
        spec,
        unet=replace(spec.unet, channel_mult=(1, 2), attention_levels=(1,)),
        autoencoder=replace(spec.autoencoder, channels=8, norm_groups=4),
        text_encoder=replace(spec.text_encoder, layers=2),
    )


class Bench:
    """Small models on the device that is not there, each loaded once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.loaded: dict[str, VideoCrafter] = {}

    def crafter(self, name: str, spec: ModelSpec) -> VideoCrafter:
        """Within `PretendedMps`."""
        if name not in self.loaded:
            files = [small.save(spec, self.folder / f"{name}.safetensors")]
            if name == "style":
                start = "embedder.model."
                whole = small.state_dict(small.IMAGE_MODEL)
                vision = {key.removeprefix(start): each for key, each in whole.items() if key.startswith(start)}
                files.append(self.folder / "vision.pt")
                torch.save(vision, files[-1])
            dtype = torch.float32 if name == "style" else torch.float16  # a copy in float32 cannot be pretended
            self.loaded[name] = VideoCrafter.load(files, device="cuda", dtype=dtype)
        return self.loaded[name]

    def weights(self, name: str, spec: ModelSpec) -> Path | None:
        """The file of a control, None for one without."""
        made = EXAMPLES[name].weights
        if made is None:
            return None
        path = self.folder / f"{name}.pt"
        torch.save(made(spec), path)
        return path


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("mps"))


RUNS: list[tuple[str, dict[str, Any]]] = [
    ("continuing", {"loop": True}),
    ("toon", {}),
    ("turbo", {"sampling": Sampling(steps=1, sampler="lcm", spacing="lcm")}),
    ("text", {"guidance_rescale": 0.7, "temporal_guidance": 1.0}),
    ("text", {"sampling": replace(SAMPLING, sampler="dpmpp_2m_sde"), "step_cache": "balanced"}),
    ("image", {"image_cfg": 1.5}),
]


@pytest.mark.skipif(not WHOLE, reason="takes minutes: VC_WHOLE_MPS=1")
@pytest.mark.parametrize(("model", "wanted"), RUNS)
def test_every_model_runs(bench: Bench, model: str, wanted: Mapping[str, Any]) -> None:
    with PretendedMps(frequencies=False):
        crafter = bench.crafter(f"{model} model", _smaller(SHAPES[model]))
        picture = torch.rand(20, 30, 3) if crafter.parts.image_encoder is not None else None
        request = Request(**{"frames": 3, "width": 64, "height": 64, "sampling": SAMPLING, **wanted})
        out = crafter.generate(PROMPT, picture, request=request)
        assert out.shape[1:] == (64, 64, 3)
        assert next(crafter.parts.unet.parameters()).device.type == "cuda"
        crafter.encode(torch.rand(3, 64, 64, 3))


def _groups() -> list[tuple[str, ...]]:
    """All controls, as many in one run as work with each other on the same model."""
    groups: list[list[str]] = []
    for name in CONTROLS:
        for group in groups:
            first = group[0]
            alike = (
                bases_of(first)[0] == bases_of(name)[0]
                and EXAMPLES[first].given == EXAMPLES[name].given
                and (first in FREQUENCIES) == (name in FREQUENCIES)
            )
            if alike and all(reason_against_both(other, name) is None for other in group):
                group.append(name)
                break
        else:
            groups.append([name])
    return [tuple(group) for group in groups]


@pytest.mark.parametrize("names", _groups() if WHOLE else _groups()[:1], ids="-".join)
def test_every_control_runs(bench: Bench, names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(epipolar, "_is_fused", lambda x: False)
    monkeypatch.setattr(reading, "_check_plain", lambda *_: None)  # what is read here has no numbers
    base, given = bases_of(names[0])[0], EXAMPLES[names[0]].given
    size = BASES[base].size
    with PretendedMps(frequencies=names[0] in FREQUENCIES):
        controls = tuple(control_of(name, bench.weights(name, BASES[base].spec)) for name in names)
        request = Request(frames=FRAMES, width=size, height=size, sampling=Sampling(steps=1), controls=controls)
        source = None
        if given:
            source = Source(torch.randn(1, 4, FRAMES, size // 8, size // 8), strength=given["strength"])
        crafter = bench.crafter(base, BASES[base].spec)
        crafter.generate(PROMPT, IMAGE if base == "continuing" else None, request=request, source=source)


@pytest.mark.parametrize("name", METHODS if WHOLE else ["windows"])
def test_every_method_for_long_videos_runs(bench: Bench, name: str) -> None:
    names = {item.name for item in METHODS[name].parameters()}
    sizes = {"window": 4, "stride": 2, "overlap": 2, "partitions": 1}
    method = METHODS[name](**{key: value for key, value in sizes.items() if key in names})
    sampling = Sampling(steps=4, eta=1.0) if name == "fifo" else Sampling(steps=1)
    request = Request(frames=6, width=32, height=32, sampling=sampling)
    with PretendedMps(frequencies=name in FREQUENCIES_OF_METHODS):
        list(frames(bench.crafter("text", BASES["text"].spec), PROMPT, request=request, method=method))


def test_what_needs_complex_numbers_is_documented() -> None:
    page = (Path(__file__).parents[1] / "docs" / "compatibility.md").read_text(encoding="utf-8")
    row = next(part for part in page.split("\n\n") if "macOS 14" in part)
    for name in FREQUENCIES:
        assert CONTROLS[name].title in row
    for name in FREQUENCIES_OF_METHODS:
        assert f"`{name}`" in row
    assert "FreeInit" in row
