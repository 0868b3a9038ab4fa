"""A few steps on very little: losses fall, stopped runs go on exactly, and the files load as any other file does."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from training import __main__ as command
from training.autoencoder import AutoencoderObjective, normalise, random_frames
from training.continuing import CONTINUING
from training.diffusion import MOST_WEIGHT, DiffusionObjective
from training.few_steps import FILE as LORA
from training.files import save_both
from training.image_branch import ReadingExercise
from training.layers import GroupNorm, short_attention
from training.motion import FIRST, MotionLesson, look_along_time
from training.network import IMAGE_TO_VIDEO, TEXT_TO_VIDEO, PictureNetwork, seeded, seeded_with_pictures, take_over
from training.pool import Pool, make_pool
from training.reading import ReadingLesson
from training.trainer import PAUSE, Plan, Trainer
from training.words import Words
from vc_core.autoencoder.autoencoder import Autoencoder
from vc_core.checkpoint.building import load
from vc_core.network.attention import plain_attention
from worlds.shapes.world import FRAMES, held_out


@pytest.fixture(scope="module")
def autoencoder() -> Autoencoder:
    torch.manual_seed(0)
    return Autoencoder(TEXT_TO_VIDEO.autoencoder).requires_grad_(False)


@pytest.fixture(scope="module")
def pool(autoencoder: Autoencoder) -> Pool:
    return make_pool(autoencoder, 5, seed=0)


def test_a_fixed_batch_is_learnt_by_the_network(pool: Pool) -> None:
    network = seeded(TEXT_TO_VIDEO, 0, still=True)
    stills = Pool(pool.scenes, pool.latents[:, :1], pool.frames[:, :1])
    objective = DiffusionObjective(network, stills, batch=5, seed=0)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    losses = []
    for _ in range(8):
        loss = objective(0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    weights = objective.weight[objective.draw(0).timesteps]
    assert losses[0] == pytest.approx(float(weights.mean()), rel=0.1)  # the network starts at zero
    assert losses[-1] < 0.95 * losses[0]


def test_both_kinds_of_steps_reach_the_parameters_they_should(pool: Pool) -> None:
    network = seeded_with_pictures(IMAGE_TO_VIDEO, 0)
    objective = DiffusionObjective(network, pool, batch=2, seed=0)
    for step, pictured in ((0, False), (1, True)):
        network.zero_grad(set_to_none=True)
        objective(step).backward()
        grads = {name: p.grad is not None for name, p in network.named_parameters()}
        assert grads["network.unet.out.2.weight"]
        assert grads["branch.tokens.latents"] == pictured


def test_the_image_branch_learns_to_read(pool: Pool) -> None:
    torch.manual_seed(0)
    exercise = ReadingExercise(IMAGE_TO_VIDEO, pool, batch=4, seed=0)
    optimizer = torch.optim.AdamW(exercise.parameters(), lr=2e-3)
    losses = []
    for _ in range(10):
        loss = exercise(0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]


def _trainer(folder: Path, steps: int) -> tuple[Trainer, AutoencoderObjective]:
    torch.manual_seed(0)
    model = Autoencoder(TEXT_TO_VIDEO.autoencoder)
    plan = Plan(lr=1e-3, steps=steps, warmup=1, log_every=1)
    return Trainer(model, plan, folder, "run"), AutoencoderObjective(model, batch=2, seed=3, crop=True)


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    whole, objective = _trainer(tmp_path / "whole", 4)
    whole.run(objective, samples_per_step=2)

    stopped, objective = _trainer(tmp_path / "parts", 4)
    for _ in range(2):
        stopped._step(objective)
    stopped.save()
    resumed, objective = _trainer(tmp_path / "parts", 4)
    assert resumed.resume()
    resumed.run(objective, samples_per_step=2)

    assert resumed.step == whole.step == 4
    for name, value in whole.averaged.items():
        assert torch.equal(resumed.averaged[name], value), name
    lines = [json.loads(line) for line in (tmp_path / "whole" / "run.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert all(line["loss"] > 0 and line["lr"] > 0 for line in lines)


def test_a_plan_ends_one_way() -> None:
    with pytest.raises(ValueError, match="Exactly one"):
        Trainer(nn.Linear(2, 2), Plan(minutes=1, steps=1), Path(), "x")


def test_normalised_latents_are_standard_and_pixels_stay(autoencoder: Autoencoder) -> None:
    model = Autoencoder(TEXT_TO_VIDEO.autoencoder).requires_grad_(False)
    model.load_state_dict(autoencoder.state_dict())
    frames = random_frames(8, np.random.default_rng(0))
    before = model.decode(model.encode(frames))
    normalise(model, frames)
    latents = model.encode(frames)
    assert latents.mean((0, 2, 3)).abs().max() < 1e-4
    assert (latents.std((0, 2, 3)) - 1).abs().max() < 1e-4
    assert (model.decode(latents) - before).abs().max() < 1e-4


def test_the_single_frame_network_is_part_of_the_whole_one() -> None:
    still, whole = seeded(TEXT_TO_VIDEO, 1, still=True).eval(), seeded(TEXT_TO_VIDEO, 2).eval()
    for parameter in still.unet.out[2].parameters():
        nn.init.normal_(parameter)
    take_over(whole, still.state_dict())
    x, fps = torch.randn(2, 4, 1, 8, 8), torch.tensor([4, 8])
    rows = whole.words.read(["a red ring", ""])
    with torch.no_grad():
        one = still(x, torch.tensor([3, 900]), rows, fps)
        other = whole(x, torch.tensor([3, 900]), rows, fps)
    assert (one - other).abs().max() < 1e-5  # float32 rounding


def test_files_load_through_the_ordinary_loader(tmp_path: Path, autoencoder: Autoencoder) -> None:
    network = PictureNetwork(IMAGE_TO_VIDEO)
    text, image = save_both(tmp_path, autoencoder, network)
    assert text.stat().st_size + image.stat().st_size <= 24e6
    for path, spec in ((text, TEXT_TO_VIDEO), (image, IMAGE_TO_VIDEO)):
        parts = load(path)
        assert parts.spec == spec
        assert (parts.image_encoder is None) == (spec.image_encoder is None)
        assert parts.text_encoder is not None
        prompt = "a red square moves to the left"
        words = network.words.read([prompt])
        expected = network.network.text.encode(words)
        # the file is in half precision
        assert (parts.text_encoder([prompt]) - expected).abs().max() < 5e-3


def test_words_outside_the_world_share_a_row() -> None:
    words = Words(49408, 77)
    rows = words.read(["a red elephant"])
    assert int(rows.max()) == words.size - 1
    table = torch.arange(float(words.size))[:, None]
    assert words.spread(table).shape == (49408, 1)


def test_fast_layers_compute_what_torch_does() -> None:
    torch.manual_seed(0)
    norm, fast = nn.GroupNorm(3, 6), GroupNorm(3, 6)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    fast.load_state_dict(norm.state_dict())
    x = torch.randn(2, 6, 5, 7)
    one, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    weights = torch.randn_like(x)
    (norm(one) * weights).sum().backward()
    (fast(other) * weights).sum().backward()
    for a, b in ((one, other), *zip(norm.parameters(), fast.parameters(), strict=True)):
        assert a.grad is not None
        assert b.grad is not None
        assert (a.grad - b.grad).abs().max() < 1e-5  # sums of 35 numbers in another order
    q, k, v = torch.randn(3, 5, 8), torch.randn(3, 7, 8), torch.randn(3, 7, 8)
    assert (short_attention(q, k, v, 2) - plain_attention(q, k, v, 2)).abs().max() < 1e-6


def test_pools_survive_the_disk(tmp_path: Path, pool: Pool) -> None:
    pool.save(tmp_path / "a.pool")
    again = Pool.join([Pool.load(tmp_path / "a.pool")] * 2)
    assert len(again) == 10
    assert again.scenes[5:] == pool.scenes
    assert torch.equal(again.latents[:5], pool.latents)
    assert again.latents.shape[1:] == (FRAMES, 4, 8, 8)


def test_the_command_goes_through_all_stages_and_on_where_it_was(
    tmp_path: Path,
) -> None:
    run, models = tmp_path / "run", tmp_path / "models"
    words = ["--folder", str(run), "--models", str(models), "--scale", "1e-5"]  # a step or two of each stage
    words += ["--clips", "2", "--frames", "4", "--paths", "2", "--samples", "1"]
    threads = torch.get_num_threads()
    try:
        assert command.main(words) == 0
        first = {path.name: path.stat().st_mtime_ns for path in run.iterdir()}
        assert command.main([*words, "--stages", "pools", "stills", "reader", "pictures"]) == 0  # all of them done
    finally:
        torch.set_num_threads(threads)
    assert {path.name: path.stat().st_mtime_ns for path in run.iterdir()} == first
    assert load(models / f"{CONTINUING.name}.safetensors").spec == CONTINUING
    assert (models / LORA).is_file()
    for spec in (TEXT_TO_VIDEO, IMAGE_TO_VIDEO):
        assert load(models / f"{spec.name}.safetensors").spec == spec
        assert list(run.glob(f"{spec.name}_*.png"))


def test_errors_of_the_noise_count_as_errors_of_the_content_do(pool: Pool) -> None:
    objective = DiffusionObjective(seeded(TEXT_TO_VIDEO, 0), pool, batch=2, seed=0)
    counted = 1 + (objective.noise / objective.signal).square()  # an error of the content over one of the noise
    free = counted < MOST_WEIGHT
    assert free.any()
    assert not free.all()
    assert torch.equal(objective.weight[free], counted[free])
    assert (objective.weight[~free] == MOST_WEIGHT).all()


def test_clips_are_also_shown_backwards_but_never_as_a_held_out_combination(pool: Pool) -> None:
    objective = DiffusionObjective(seeded(TEXT_TO_VIDEO, 0), pool, batch=8, seed=0, lowest=600)
    seen = [objective.draw(step) for step in range(8)]
    scenes = [scene for batch in seen for scene in batch.scenes]
    assert {scene in pool.scenes for scene in scenes} == {True, False}
    assert not any(held_out(scene.shape, scene.colour, scene.motion) for scene in scenes)
    assert min(int(batch.timesteps.min()) for batch in seen) >= 600


def test_hints_find_the_order_of_frames_and_the_way_of_shapes(pool: Pool) -> None:
    """What the layers give is enough for the maps: their error falls below that of knowing nothing."""
    network = seeded(TEXT_TO_VIDEO, 0)
    look_along_time(network)
    lesson = MotionLesson(DiffusionObjective(network, pool, batch=2, seed=0, lowest=750, moving=True), FIRST)
    optimizer = torch.optim.AdamW([p for p in lesson.parameters() if p.requires_grad], lr=3e-3)
    first = network.unet.input_blocks[1][0].in_layers[2].weight.clone()
    losses = []
    for _ in range(12):
        batch = lesson.objective.draw(0)
        lesson.objective.error(batch)
        order, motion = lesson.hints.order(), lesson.hints.motion(batch.scenes, [True, True])
        optimizer.zero_grad()
        (order + motion).backward()
        optimizer.step()
        losses.append((float(order.detach()), float(motion.detach())))
    readers = len(lesson.hints.places)
    assert losses[-1][0] < 0.8 * readers  # the targets have mean 0 and variance 1
    assert losses[-1][1] < 0.8 * losses[0][1]
    assert torch.equal(network.unet.input_blocks[1][0].in_layers[2].weight, first)


def test_the_text_tower_learns_to_tell_opposite_directions_apart() -> None:
    network = seeded(TEXT_TO_VIDEO, 0)

    def distance() -> float:
        """Of the tokens of two opposite captions, over the spread of the tokens of one."""
        with torch.no_grad():
            one, other = network.text.encode(network.words.read(["a red ring moves left", "a red ring moves right"]))
        return float((one - other).square().mean() / (one - one.mean(0)).square().mean())

    torch.manual_seed(1)
    lesson = ReadingLesson(network, batch=32, seed=0)
    optimizer = torch.optim.AdamW(lesson.parameters(), lr=3e-3)
    before, losses = distance(), []
    for step in range(60):
        loss = lesson(step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])
    assert distance() > 1.5 * before


def test_a_pause_does_not_count_as_training(tmp_path: Path) -> None:
    trainer, _ = _trainer(tmp_path, 1)
    assert [trainer._without_pauses(seconds) for seconds in (2.0, 2.0, 500.0)] == [2.0, 2.0, 2.0 * PAUSE]
