"""Recorded passes: when they are recorded, what they are given, and what is asked of CUDA."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from dataclasses import replace

import pytest
import small_models as small
import torch
from network.recording import StandIn
from network.tiny import ALONE

from vc_core.conditions import Conditioning
from vc_core.denoising import Sampling
from vc_core.denoising.windows import ContextWindows
from vc_core.long import frames as long_frames
from vc_core.long.fifo import Fifo
from vc_core.network import parts
from vc_core.network.adapter import Adapter
from vc_core.network.adapters.contexts import KeptContexts
from vc_core.network.adapters.deep import KeepDeep
from vc_core.network.call import PLAIN, Deep, Pass
from vc_core.network.replay import MOST_KINDS, CudaRecorder, Replay, recorder_for
from vc_core.network.unet import VideoUNet
from vc_core.pipeline import WORTH_RECORDING, Request, VideoCrafter
from vc_core.specs import Windows


@pytest.fixture
def network():
    torch.manual_seed(0)
    spec = replace(small.IMAGE_MODEL.unet, channel_mult=(1, 2), attention_levels=(1,))
    made = VideoUNet(spec).eval().requires_grad_(False)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    made.budget.values = parts.WHOLE
    made.budget.fit = lambda *_: None
    return made


def given(network, seed, frames=3, texts=1):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(shape, generator=generator)

    width = network.spec.context_dim
    x, text = draw(1, 4, frames, 4, 4), draw(texts, 7, width)
    return [x, torch.tensor([10.0 * seed]), Conditioning(text, draw(texts, 4, width), torch.tensor([8.0]))]


@torch.no_grad()
def test_every_pass_of_a_kind_gives_what_the_network_gives(network):
    recorder = StandIn()
    replay = Replay(network, recorder)
    calls = [given(network, seed) for seed in range(1, 5)]
    calls += [[*calls[0][:2], calls[1][2]]]  # the texts of another call, then those that came first
    calls += [calls[0]]
    made = [replay(*call) for call in calls]  # all are kept until the end: a replay must not change an older result
    for call, out in zip(calls, made, strict=True):
        torch.testing.assert_close(out, network(*call), atol=0, rtol=0)
    assert (recorder.recorded, recorder.replayed) == (1, 5)
    assert network.budget.held == 100


@torch.no_grad()
def test_without_memory_beside_the_graphs_passes_run_one_launch_at_a_time(network, caplog):
    recorder = StandIn(full_at=2)
    replay = Replay(network, recorder)
    for call in (given(network, seed) for seed in range(1, 6)):
        torch.testing.assert_close(replay(*call), network(*call), atol=0, rtol=0)
    assert (recorder.recorded, recorder.replayed, recorder.released) == (1, 2, 1)
    assert network.budget.held == 0
    assert "Memory ran out beside the CUDA graphs" in caplog.text


@torch.no_grad()
def test_what_changes_the_launches_is_recorded_by_itself(network):
    recorder = StandIn()
    replay = Replay(network, recorder)
    base = given(network, 1)
    early = replace(base[2], early_text=given(network, 2)[2].text)
    kinds = [
        (base, PLAIN),
        (given(network, 1, frames=5), PLAIN),
        (given(network, 1, texts=2), PLAIN),
        ([*base[:2], replace(base[2], image=None)], PLAIN),
        (base, ALONE),
        (given(network, 1, frames=5), Pass(windows=Windows(size=4, stride=2))),
        ([*base[:2], early], PLAIN),
    ]
    for _ in range(2):
        for call, run in kinds:
            torch.testing.assert_close(replay(*call, run), network(*call, run), atol=0, rtol=0)
    assert recorder.recorded == len(kinds) < MOST_KINDS
    for count in (7, 9, 11, 7, 9, 11):
        replay(*given(network, 1, frames=count))
    assert recorder.recorded == MOST_KINDS


@torch.no_grad()
def test_deep_features_are_taken_and_given(network):
    replay = Replay(network, StandIn())
    kept = []
    for seed in (1, 2, 3):
        call = given(network, seed)
        ours, plain = KeepDeep(1), KeepDeep(1)
        replayed, expected = replay(*call, Pass(adapters=(ours,))), network(*call, Pass(adapters=(plain,)))
        torch.testing.assert_close(replayed, expected, atol=0, rtol=0)
        torch.testing.assert_close(ours.result, plain.result, atol=0, rtol=0)
        kept.append((ours, plain.result.clone()))
    for seed, (keep, features) in zip((4, 5, 6), kept, strict=True):
        call, run = given(network, seed), Pass(deep=Deep(1, keep.result))
        torch.testing.assert_close(replay(*call, run), network(*call, run), atol=0, rtol=0)
        assert torch.equal(keep.result, features), "a later pass has changed what a cache keeps"
    assert replay.recorder.recorded == 2


@torch.no_grad()
def test_tensors_that_stay_are_copied_once(network):
    replay = Replay(network, StandIn())
    call = given(network, 1)
    replay(*call)
    replay(*call)
    (recorded,) = replay.passes.values()
    text, x = recorded.inputs["text"], recorded.inputs["x"]
    text.zero_()
    replay(*call)
    assert not text.any(), "the same text was copied again"
    x.zero_()
    replay(*call)
    assert torch.equal(x, call[0])
    replay(*call[:2], replace(call[2], text=call[2].text.clone()))
    assert torch.equal(text, call[2].text)


@torch.no_grad()
def test_adapters_say_whether_a_pass_with_them_is_recorded(network):
    """Those that change nothing are left out, and one that refuses keeps its passes, and no others, from it."""

    class Refuses(Adapter):
        def after_middle_block(self, at, h):
            return h + 1

    recorder = StandIn()
    replay = Replay(network, recorder)
    call, refused = given(network, 1), Pass(adapters=(KeptContexts(), Refuses()))
    for _ in range(3):
        torch.testing.assert_close(replay(*call, refused), network(*call, refused), atol=0, rtol=0)
    assert not recorder.recorded
    kept = KeptContexts()
    for _ in range(3):
        torch.testing.assert_close(replay(*call, Pass(adapters=(kept,))), network(*call), atol=0, rtol=0)
    assert (recorder.recorded, recorder.replayed) == (1, 2)
    assert kept.kept, "the first pass runs with it"


@torch.no_grad()
def test_a_failed_recording_ends_all_recording(network, caplog):
    recorder = StandIn(fails_at=2)
    replay = Replay(network, recorder)
    for seed in range(1, 4):
        for kind in (3, 5):
            call = given(network, seed, frames=kind)
            torch.testing.assert_close(replay(*call), network(*call), atol=0, rtol=0)
    assert recorder.recorded == 2
    assert recorder.released == 1
    assert not replay.passes
    assert network.budget.held == 0
    assert "not permitted when stream is capturing" in caplog.text


@torch.no_grad()
def test_with_maps_in_parts_or_little_memory_nothing_is_recorded(network, monkeypatch):
    needed = network.whole_bytes(3 * 4 * 4, 4)
    for values, free, records in (
        (parts.AT_ONCE, None, 0),
        (parts.WHOLE, 2 * needed - 1, 0),
        (parts.WHOLE, 2 * needed, 1),
    ):
        monkeypatch.setattr("vc_core.network.replay.free_bytes", lambda device, free=free: free)
        network.budget.values = values
        replay = Replay(network, StandIn())
        for seed in (1, 2, 3):
            replay(*given(network, seed))
        assert replay.recorder.recorded == records


def test_passes_with_gradients_are_not_recorded(network):
    network.requires_grad_(True)
    replay = Replay(network, StandIn())
    for seed in (1, 2, 3):
        replay(*given(network, seed)).sum().backward()
    assert not replay.recorder.recorded


def test_what_recordings_hold_is_not_free():
    budget = parts.Budget()
    free = parts.whole_bytes(2**20, 2)
    budget.fit(free, 2**20, 2)
    assert budget.is_whole
    budget.held = free // 2
    budget.fit(free, 2**20, 2)
    assert not budget.is_whole


@pytest.fixture(scope="module")
def crafter(tmp_path_factory):
    """A text model whose runs are recorded by a stand-in: on a CPU the budget is not asked."""
    spec = replace(small.TEXT_MODEL, unet=replace(small.TEXT_MODEL.unet, channel_mult=(1, 2), attention_levels=(1,)))
    return VideoCrafter.load(small.save(spec, tmp_path_factory.mktemp("replay") / "model.safetensors"))


@pytest.fixture
def recorders(crafter, monkeypatch):
    """Those of the runs that follow."""
    made = []

    def replay():
        made.append(StandIn())
        return Replay(crafter.parts.unet, made[-1])

    monkeypatch.setattr(crafter, "replay", replay)
    monkeypatch.setattr(Replay, "_has_room", lambda *_: True)
    return made


SIZE = {"width": 32, "height": 24}
RUNS = {
    "guided": {},
    "apart": {"together": False},
    "temporal guidance": {"temporal_guidance": 1.0, "together": False},
    "caches": {"step_cache": "fast", "guidance_cache": "fast", "sampling": Sampling(steps=12)},
    "prompts over time": {"frames": 6, "windows": Windows(size=4, stride=2), "then": ("a car",)},
    "windows": {"frames": 8, "context": ContextWindows(size=4, stride=2, order="uniform")},
}


@pytest.mark.parametrize("wanted", RUNS.values(), ids=RUNS)
def test_a_run_is_the_same_with_recorded_passes(crafter, recorders, monkeypatch, wanted):
    request = Request(**{"frames": 3, "sampling": Sampling(steps=WORTH_RECORDING), **SIZE, **wanted})
    replayed = crafter.generate("a boat", request=request)
    monkeypatch.undo()
    torch.testing.assert_close(replayed, crafter.generate("a boat", request=request), atol=1e-5, rtol=0)
    (recorder,) = recorders
    assert recorder.replayed > WORTH_RECORDING // 2
    assert recorder.released == 1


def test_a_queue_is_the_same_with_recorded_passes(crafter, recorders, monkeypatch):
    request = Request(frames=6, sampling=Sampling(steps=2), together=False, **SIZE)
    method = Fifo(window=4, partitions=2)
    replayed = torch.cat(list(long_frames(crafter, "a boat", request=request, method=method))).clone()
    monkeypatch.undo()
    plain = torch.cat(list(long_frames(crafter, "a boat", request=request, method=method)))
    torch.testing.assert_close(replayed, plain, atol=1e-5, rtol=0)
    assert [recorder.released for recorder in recorders] == [1]
    assert recorders[0].replayed > 10


def test_a_run_that_is_stopped_lets_go_of_what_was_recorded(crafter, recorders):
    request = Request(frames=3, sampling=Sampling(steps=WORTH_RECORDING), **SIZE)

    def stop(step):
        if step.index == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        crafter.generate("a boat", request=request, on_step=stop)
    assert recorders[0].replayed
    assert recorders[0].released
    assert crafter.parts.unet.budget.held == 0


def test_short_runs_and_other_devices_are_not_recorded(crafter, recorders):
    request = Request(frames=3, sampling=Sampling(steps=4), **SIZE)
    crafter.generate("a boat", request=request)
    assert not recorders
    assert VideoCrafter(crafter.parts).replay() is None


class Card:
    """What `CudaRecorder` asks of torch, on a machine without a GPU: each graph reserves 1000 bytes more."""

    def __init__(self, monkeypatch):
        self.reserved, self.current, self.graphs, self.emptied = 500, "usual", [], 0
        self.backend = "native"
        card = self

        class Graph:
            def __init__(self):
                self.replays, self.is_reset = 0, False
                card.graphs.append(self)

            def pool(self):
                return ("pool of", id(self))

            def replay(self):
                self.replays += 1

            def reset(self):
                self.is_reset = True

        @contextmanager
        def on(stream):
            before, card.current = card.current, stream
            try:
                yield
            finally:
                card.current = before

        @contextmanager
        def capture(graph, pool=None, stream=None, capture_error_mode="global"):
            graph.shared = pool
            card.current = stream  # and there it stays where the end of a capture fails
            card.reserved += 1000
            yield
            card.current = "usual"

        def empty():
            card.emptied += 1

        answers = {
            "CUDAGraph": Graph,
            "graph": capture,
            "stream": on,
            "device": lambda device: nullcontext(),
            "Stream": lambda device: "of the captures",
            "current_stream": lambda device: card.current,
            "synchronize": lambda *_: None,
            "empty_cache": empty,
            "memory_reserved": lambda device: card.reserved,
            "get_allocator_backend": lambda: self.backend,
        }
        for name, answer in answers.items():
            monkeypatch.setattr(torch.cuda, name, answer)


def test_graphs_share_their_memory_and_give_it_back(monkeypatch):
    card = Card(monkeypatch)
    recorder = CudaRecorder(torch.device("cuda", 1))
    streams = []
    repeats = [recorder.record(lambda: (streams.append(card.current), torch.ones(2))[1:]) for _ in range(2)]
    assert streams == ["of the captures"] * 2
    assert card.graphs[0].shared is None
    assert card.graphs[1].shared == card.graphs[0].pool()
    assert recorder.bytes == 2000
    for repeat in repeats:
        assert torch.equal(repeat()[0], torch.ones(2))
    assert [graph.replays for graph in card.graphs] == [1, 1]
    assert len(streams) == 2, "a replay runs no Python"

    def fails():
        raise RuntimeError("cannot be captured")

    with pytest.raises(RuntimeError, match="captured"):
        recorder.record(fails)
    assert card.current == "usual"
    before = card.emptied
    recorder.release()
    assert [graph.is_reset for graph in card.graphs] == [True, True, False]
    assert recorder.bytes == 0
    assert card.emptied == before + 1


@pytest.mark.parametrize(
    ("device", "hip", "backend", "records"),
    [
        ("cuda", None, "native", True),
        ("cuda", None, "cudaMallocAsync", False),  # the default of ComfyUI
        ("cuda", "6.4", "native", False),
        ("cpu", None, "native", False),
    ],
)
def test_passes_are_recorded_with_the_native_allocator_of_nvidia(crafter, monkeypatch, device, hip, backend, records):
    Card(monkeypatch).backend = backend
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.version, "hip", hip)
    assert (recorder_for(torch.device(device)) is not None) == records
    on_device = VideoCrafter(replace(crafter.parts, device=torch.device(device)))
    assert (on_device.replay() is not None) == records
