"""The small DynamiCrafter and the few-step LoRA: how they begin, what they learn from, and that their files load."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from training.continuing import CONTINUING, LOOPED, ContinuingObjective, wider
from training.few_steps import STEPS, ConsistencyObjective, Guide, Paths, Student, save_lora
from training.files import save_model, save_network
from training.network import IMAGE_TO_VIDEO, TEXT_TO_VIDEO, PictureNetwork, seeded, seeded_with_pictures
from training.pool import Pool, make_pool
from vc_core.autoencoder.autoencoder import Autoencoder
from vc_core.checkpoint.building import load
from vc_core.checkpoint.lora import with_loras
from vc_core.conditions import Conditioning


@pytest.fixture(scope="module")
def autoencoder() -> Autoencoder:
    torch.manual_seed(0)
    return Autoencoder(TEXT_TO_VIDEO.autoencoder).requires_grad_(False)


@pytest.fixture(scope="module")
def pool(autoencoder: Autoencoder) -> Pool:
    return make_pool(autoencoder, 3, seed=0)


@pytest.fixture(scope="module")
def continuing() -> PictureNetwork:
    network = seeded_with_pictures(CONTINUING, 1)
    network.load_state_dict(wider(seeded_with_pictures(IMAGE_TO_VIDEO, 0).state_dict()))
    return network


def test_it_begins_as_the_network_it_comes_from(continuing: PictureNetwork) -> None:
    x, beside, other = (torch.randn(1, 4, 16, 8, 8) for _ in range(3))
    given = (
        x,
        torch.tensor([500]),
        continuing.words.read(["a red ring"]),
        torch.tensor([8]),
        torch.zeros(1, 3, 64, 64),
    )
    for parameter in continuing.network.unet.out[2].parameters():
        torch.nn.init.normal_(parameter)
    with torch.no_grad():
        assert torch.equal(continuing(*given, beside), continuing(*given, other))  # the new inputs count nothing yet
        tokens = continuing.branch(torch.rand(1, 3, 64, 64))
    assert tokens.shape == (1, 16, 16, CONTINUING.unet.context_dim)
    assert (tokens[:, 0] - tokens[:, 9]).abs().max() < 1e-5  # until they are trained, the same for every frame


def test_the_clips_it_learns_from_are_shown_at_their_ends(continuing: PictureNetwork, pool: Pool) -> None:
    assert len(LOOPED) == 16
    assert LOOPED[0] == LOOPED[-1] == 0
    objective = ContinuingObjective(continuing, pool, batch=40, seed=0)
    clips, scenes, beside = objective.draw(np.random.default_rng(0))
    assert len(scenes) == 40
    assert torch.equal(beside[:, :, 0], clips[:, :, 0])
    ended = [torch.equal(b[:, -1], c[:, -1]) and not b[:, 1:-1].any() for b, c in zip(beside, clips, strict=True)]
    alone = [torch.equal(b, c[:, :1].expand_as(b)) for b, c in zip(beside, clips, strict=True)]
    loops = [torch.equal(c[:, 0], c[:, -1]) for c in clips]
    assert all(one != other for one, other in zip(ended, alone, strict=True))
    assert 0 < sum(loops) < sum(ended) < 40


def test_a_fixed_batch_is_learnt(continuing: PictureNetwork, pool: Pool) -> None:
    objective = ContinuingObjective(continuing, pool, batch=3, seed=0)
    optimizer = torch.optim.AdamW(continuing.parameters(), lr=1e-3)
    losses = []
    for _ in range(6):
        loss = objective(0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.95 * losses[0]


def test_its_file_loads_through_the_ordinary_loader(
    tmp_path: Path, autoencoder: Autoencoder, continuing: PictureNetwork
) -> None:
    parts = load(save_network(tmp_path, autoencoder, continuing))
    assert parts.spec == CONTINUING
    assert parts.image_tokens is not None


def test_the_lora_is_what_the_student_computes(tmp_path: Path, autoencoder: Autoencoder) -> None:
    teacher = seeded(TEXT_TO_VIDEO, 0).requires_grad_(False)
    for parameter in teacher.unet.out[2].parameters():
        torch.nn.init.normal_(parameter)
    student = Student(teacher)
    text, x, fps = (
        teacher.text.encode(teacher.words.read(["a red ring"])),
        torch.randn(1, 4, 2, 8, 8),
        torch.tensor([8]),
    )
    when, scale = torch.tensor([749]), torch.tensor([4.0])
    with torch.no_grad():
        plain = teacher.unet(x, when, Conditioning(text, fps=fps))
        assert (student(x, when, text, fps, scale) - plain).abs().max() < 1e-5  # changes begin at nothing
        for up in student.ups:
            torch.nn.init.normal_(up, std=0.02)
        changed = student(x, when, text, fps, scale)
    tensors = {f"model.diffusion_model.{key}": value for key, value in teacher.unet.state_dict().items()}
    path = save_model(tmp_path / "text.safetensors", TEXT_TO_VIDEO, autoencoder, tensors)
    lora = save_lora(tmp_path, student.tensors())
    parts = with_loras(load(path), [(lora, 1.0)])
    assert parts.spec.defaults.sampler == "lcm"
    assert parts.unet is not None
    with torch.no_grad():
        loaded = parts.unet(x, when, Conditioning(text, fps=fps, guidance=scale))
    assert float((loaded - changed).norm() / changed.norm()) < 1e-2  # both files are in half precision
    assert float((plain - changed).norm() / changed.norm()) > 5e-2
    assert lora.stat().st_size < 5e5


@pytest.fixture(scope="module")
def guide() -> Guide:
    """A teacher of random weights, all of which count."""
    teacher = seeded(TEXT_TO_VIDEO, 0).requires_grad_(False)
    for parameter in teacher.unet.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return Guide(teacher)


@pytest.fixture(scope="module")
def paths(guide: Guide) -> Paths:
    return guide.paths(2, np.random.default_rng(0))


def test_paths_begin_at_noise_and_are_those_of_the_seed(guide: Guide, paths: Paths, tmp_path: Path) -> None:
    assert guide.timesteps.tolist() == [999, 874, 749, 624, 499, 374, 249, 124]
    assert paths.inputs.shape == (2, STEPS, 4, 16, 8, 8)
    assert float(paths.inputs[:, 0].float().std()) == pytest.approx(1, abs=0.05)
    assert ((paths.scale >= 1) & (paths.scale <= 8)).all()
    paths.save(tmp_path / "teacher.paths")
    again = Paths.join([Paths.load(tmp_path / "teacher.paths"), paths])
    assert len(again) == 4
    assert torch.equal(again.ends[:2], again.ends[2:])


def test_the_teacher_walks_along_its_probability_flow(guide: Guide, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of data that is normal, the flow from noise to its end is known exactly."""
    spread = 0.8

    def clean(self: Guide, z: torch.Tensor, sigma: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        return z * spread**2 / (spread**2 + sigma**2)

    monkeypatch.setattr(Guide, "clean", clean)
    z = torch.randn(1, 4, 2, 3, 3) * (1 + guide.sigmas[0] ** 2).sqrt()
    nothing = torch.zeros(1)
    places = list(guide.walk(z, nothing, nothing, nothing))
    assert len(places) == STEPS + 1
    for at, sigma in zip(places, guide.sigmas, strict=True):
        exact = z * ((spread**2 + sigma**2) / (spread**2 + guide.sigmas[0] ** 2)).sqrt()
        assert float((at - exact).norm() / exact.norm()) < 0.02


def test_every_change_learns_from_the_teacher(guide: Guide, paths: Paths) -> None:
    student = Student(guide.teacher)
    objective = ConsistencyObjective(student, guide, paths, batch=8, seed=0)
    loss = objective(0)
    loss.backward()
    assert float(loss.detach()) > 0
    assert all(bool(up.grad.any()) for up in student.ups if up.grad is not None)
    assert sum(up.grad is not None for up in student.ups) == len(student.places)
    assert not any(parameter.requires_grad for parameter in student.unet.parameters())
