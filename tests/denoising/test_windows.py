"""Long clips in windows of model calls, in a queue, and FreeInit."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
import torch
from denoising.toys import WaveModel, prompt
from torch import Tensor

from vc_core.conditions import SINGLE, Conditioning, Evaluation
from vc_core.denoising import Guidance, Level, Noise, NoiseSchedule, Sampling, sample
from vc_core.denoising.denoiser import estimated
from vc_core.denoising.fifo import Queue, down, estimator
from vc_core.denoising.fifo import run as run_queue
from vc_core.denoising.freeinit import low_pass, mixed, next_start
from vc_core.denoising.samplers import ddim
from vc_core.denoising.windows import FUSES, ORDERS, ContextWindows, windowed
from vc_core.errors import UserError
from vc_core.specs import DiffusionSpec, Windows

SCHEDULE = NoiseSchedule.from_spec(DiffusionSpec())
STEPS = 5


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("size", [8, 12, 16, 23, 32])
def test_every_frame_is_covered_and_shares_sum_to_one(order: str, size: int) -> None:
    """For clips of 16 to 200 frames and every stride; the weights do not depend on the number of strides."""
    for frames in (16, 17, 24, 31, 32, 33, 64, 97, 128, 199, 200):
        for stride in range(1, size + 1):
            windows = ContextWindows(size=size, stride=stride, order=order, fuse=FUSES[stride % 3])  # type: ignore[arg-type]
            for step, left in ((0, None), (1, 5), (6, 0)):
                total = torch.zeros(frames, dtype=torch.float64)
                for window, share in windows.shares(frames, step, left):
                    assert len(window) == len(set(window)) == min(size, frames)
                    total[window] += share
                assert torch.allclose(total, torch.ones_like(total), atol=1e-12), (frames, stride, step)


@pytest.mark.parametrize("size", range(8, 33))
def test_freenoise_windows_cover_every_frame(size: int) -> None:
    for frames in range(16, 201):
        for stride in range(1, size + 1):
            covered = [False] * frames
            for first, end in Windows(size=size, stride=stride).spans(frames):
                assert all(weight > 0 for weight in Windows(size=size, stride=stride).weights(end - first))
                covered[first:end] = [True] * (end - first)
            assert all(covered), (frames, stride)


def test_uniform_windows_move_and_looped_ones_cross_the_end() -> None:
    uniform = ContextWindows(order="uniform")
    assert uniform.frames_of(64, 0) != uniform.frames_of(64, 1)
    assert any(0 in window and 63 in window for window in ContextWindows(order="looped").frames_of(64, 1))
    assert not any(0 in window and 63 in window for window in uniform.frames_of(64, 1))


@pytest.mark.parametrize("frames", [64, 128, 256])
def test_shifted_windows_cost_at_most_a_quarter_more_than_short_clips(frames: int) -> None:
    """In runs of few and of many steps; and no border stays where it was, but in the last steps, where windows
    overlap."""
    windows = ContextWindows(stride=16, order="shifted")
    for steps in (12, 25, 50):
        runs = [windows.frames_of(frames, step, steps - 1 - step) for step in range(steps)]
        assert sum(len(window) for run in runs for window in run) <= 1.25 * steps * frames
        assert all(len(window) == 16 for run in runs for window in run)
        inside = [{window[0] for window in run} - {0, frames - 16} for run in runs]
        assert not any(before & after for before, after in itertools.pairwise(inside[:-2]))
        for run in runs[-2:]:
            assert all(before[-4:] == after[:4] for before, after in itertools.pairwise(run[:-1]))
    assert windows.noise == Windows(size=16, stride=4)


def test_shared_passes_in_windows_are_those_one_after_the_other() -> None:
    conditionings = [Conditioning(text=torch.full((1, 3, 1), value)) for value in (1.0, 2.0)]
    both = Conditioning.joined(conditionings)
    assert both is not None

    def model(x: Tensor, timestep: Tensor, asked: Conditioning, evaluation: Evaluation = SINGLE, /) -> Tensor:
        mean = x.mean(2, keepdim=True)
        return torch.cat([(x - mean) * text.mean() for text in asked.text.split(len(x))])

    x, when = torch.randn(1, 2, 40, 2, 3), torch.tensor([5.0])
    predict, at = windowed(model, ContextWindows(order="uniform")), Evaluation(step=1, steps=5)
    assert torch.equal(predict(x, when, both, at), torch.cat([predict(x, when, each, at) for each in conditionings]))


def run(model: object, frames: int, **settings: object) -> Tensor:
    conditioning = prompt()
    steps = sample(
        model,  # type: ignore[arg-type]
        SCHEDULE,
        {"positive": conditioning, "negative": conditioning},
        noise=Noise(3),
        shape=(1, 2, frames, 2, 3),
        settings=Sampling(steps=STEPS, guidance=Guidance(scale=3.0), **settings),  # type: ignore[arg-type]
    )
    return [step.x for step in steps][-1]


@pytest.mark.parametrize("order", ORDERS)
def test_one_window_is_plain_sampling(order: str) -> None:
    windows = ContextWindows(order=order)  # type: ignore[arg-type]
    model = windowed(WaveModel(), windows)
    assert torch.equal(run(model, 16, windows=windows.noise), run(WaveModel(), 16))


@pytest.mark.parametrize("order", ORDERS)
def test_a_model_without_time_does_not_notice_windows(order: str) -> None:
    windows = ContextWindows(order=order, reuse=False)  # type: ignore[arg-type]
    model = windowed(WaveModel(), windows)
    assert torch.allclose(run(model, 45), run(WaveModel(), 45), atol=1e-5)


def test_conditions_of_frames_are_cut_and_others_are_not() -> None:
    frames = torch.arange(20.0)
    conditioning = Conditioning(
        text=frames.view(1, 20, 1, 1),
        image=torch.zeros(1, 6, 3),
        fps=torch.tensor([8.0]),
        concat=frames.view(1, 1, 20, 1, 1),
        early_text=torch.ones(1, 7, 1),
    )
    part = conditioning.of_frames([3, 19, 0], 20)
    assert part.text.flatten().tolist() == [3, 19, 0]
    assert part.concat is not None
    assert part.concat.flatten().tolist() == [3, 19, 0]
    assert part.image is conditioning.image
    assert part.early_text is conditioning.early_text
    assert part.fps is conditioning.fps


def test_unusable_windows_are_refused() -> None:
    for wrong in ({"size": 0}, {"stride": 17}, {"stride": 0}, {"order": "random"}, {"fuse": "cubic"}):
        with pytest.raises(UserError):
            ContextWindows(**wrong)  # type: ignore[arg-type]


def levels_of(*timesteps: int) -> list[Level]:
    return [SCHEDULE.level(timestep) for timestep in timesteps]


@pytest.mark.parametrize("prediction", ["eps", "v"])
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_a_queue_step_with_equal_levels_is_ddim(prediction: str, eta: float) -> None:
    """So the rescale is in it: the levels here have scales from 0.7 to 1."""
    from vc_core.denoising.denoiser import denoiser

    x, out = torch.randn(1, 2, 4, 2, 3), torch.randn(1, 2, 4, 2, 3)
    here, there = levels_of(300, 120)
    (step,) = ddim(denoiser(lambda *_: out, prediction), x, [here, there], Noise(1), eta)  # type: ignore[arg-type]
    estimate = estimated(x, out, [here] * 4, prediction)  # type: ignore[arg-type]
    ours = down(estimate, [here] * 4, [there] * 4, Noise(1), eta)
    assert torch.allclose(ours, step.x, atol=1e-6)


class Still:
    """Knows the clip: every frame is `value`; the exact answer for a model that predicts the noise. Keeps what it was
    asked."""

    def __init__(self, value: float) -> None:
        self.value = value
        self.shapes: set[tuple[int, ...]] = set()
        self.texts: list[list[float]] = []

    def __call__(
        self, x: Tensor, timestep: Tensor, conditioning: Conditioning, evaluation: Evaluation = SINGLE
    ) -> Tensor:
        assert timestep.shape == (len(x), x.shape[2])
        self.shapes.add(tuple(x.shape))
        if conditioning.text.ndim == 4:
            self.texts.append(conditioning.text[0, :, 0, 0].tolist())
        levels = [SCHEDULE.level(int(t)) for t in timestep[0]]
        signal = torch.tensor([level.signal for level in levels])[:, None, None]
        noise = torch.tensor([level.noise for level in levels])[:, None, None]
        return (x - signal * self.value) / noise


def fifo(model: Still, frames: int, text: Tensor, queue: Queue) -> list[Tensor]:
    base = torch.full((1, 2, queue.size, 2, 2), model.value)
    estimate = estimator(
        model, SCHEDULE, {"positive": Conditioning(text=text)}, frames=frames, guidance=Guidance(scale=1.0)
    )
    return list(run_queue(estimate, queue.levels(SCHEDULE), base, frames, Noise(2), queue))


def test_a_queue_finds_the_clip_that_the_model_knows() -> None:
    """With VideoCrafter's rescale: leaving it out would give frames of another contrast."""
    model = Still(0.8)
    made = fifo(model, 11, torch.zeros(1, 3, 1), Queue(size=4, partitions=2))
    assert len(made) == 11
    for frame in made:
        assert frame.shape == (1, 2, 2, 2)
        assert torch.allclose(frame.mean(), torch.tensor(0.8), atol=0.03)
    assert model.shapes == {(1, 2, 4, 2, 2)}, "each call is one window, however long the video"


def test_a_queue_tells_every_frame_its_own_text() -> None:
    model = Still(0.1)
    fifo(model, 9, torch.arange(9.0).view(1, 9, 1, 1), Queue(size=4, partitions=2))
    assert model.texts[0] == [0.0] * 4, "places that only fill the queue take the first text"
    assert model.texts[-1] == [8.0] * 4
    assert [0.0, 1.0, 2.0, 3.0] in model.texts


def test_a_queue_delivers_while_it_runs() -> None:
    model = Still(0.1)
    conditioning, queue = Conditioning(text=torch.zeros(1, 3, 1)), Queue(size=4, partitions=2)
    endless = 10**9
    estimate = estimator(model, SCHEDULE, {"positive": conditioning}, frames=endless, guidance=Guidance(scale=1.0))
    made = run_queue(estimate, queue.levels(SCHEDULE), torch.zeros(1, 2, 4, 2, 2), endless, Noise(2), queue)
    assert next(made).shape == next(made).shape == (1, 2, 2, 2)


def test_a_queue_refuses_what_it_cannot_do() -> None:
    for wrong in ({"size": 3}, {"size": 0}, {"partitions": 0}, {"eta": 2.0}):
        with pytest.raises(UserError):
            Queue(**wrong)  # type: ignore[arg-type]
    conditioning = Conditioning(text=torch.zeros(1, 3, 1), concat=torch.zeros(1, 4, 16, 2, 2))
    base = torch.zeros(1, 2, 16, 2, 2)
    guidance = Guidance(scale=1.0)
    with pytest.raises(UserError, match="continue an image"):
        estimator(Still(0), SCHEDULE, {"positive": conditioning}, frames=20, guidance=guidance)
    plain = estimator(
        Still(0), SCHEDULE, {"positive": Conditioning(text=torch.zeros(1, 3, 1))}, frames=20, guidance=guidance
    )
    with pytest.raises(UserError, match="clip of 16 frames"):
        run_queue(plain, Queue().levels(SCHEDULE), base[:, :, :9], 20, Noise(1), Queue())


def spectrum(x: Tensor, shape: Sequence[int]) -> Tensor:
    return torch.fft.fftn(x, dim=(-3, -2, -1)).reshape(-1, *shape)


def test_the_filter_of_freeinit_keeps_low_frequencies() -> None:
    """Butterworth of order 4: 1 at no frequency, 1/2 at a quarter of the highest, almost 0 at the highest."""
    keep = low_pass((16, 16, 16))
    assert float(keep[0, 0, 0]) == 1
    for axis in range(3):
        at = [0, 0, 0]
        at[axis] = 2
        assert float(keep[tuple(at)]) == pytest.approx(0.5)
        at[axis] = 8
        assert float(keep[tuple(at)]) < 1e-4


def test_freeinit_mixes_in_frequency() -> None:
    low, high = torch.randn(1, 2, 16, 8, 8), torch.randn(1, 2, 16, 8, 8)
    out = mixed(low, high)
    assert torch.allclose(mixed(low, low), low, atol=1e-5)
    assert torch.allclose(out.mean((2, 3, 4)), low.mean((2, 3, 4)), atol=1e-6), "the mean is the lowest frequency"
    far = spectrum(out - high, (16, 8, 8))[:, 8, 4, 4].abs()
    assert float(far.max()) < 1e-2, "the highest frequency is that of the fresh noise"


def test_freeinit_starts_at_the_scale_of_the_first_level() -> None:
    level = SCHEDULE.level(981)
    result, drawn = torch.full((1, 2, 16, 4, 4), 3.0), torch.zeros(1, 2, 16, 4, 4)
    start = next_start(result, drawn, torch.zeros_like(drawn), level)
    assert torch.allclose(start, torch.full_like(start, 3.0 * level.signal), atol=1e-5)
    assert level.scale == pytest.approx(0.7)
