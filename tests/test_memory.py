"""Memory: what a whole run holds at a published size, counted on a CUDA device that is not there; parts as large as the
free memory allows; and what happens when it runs out."""

from __future__ import annotations

import pytest
import small_models as small
import torch
from pretended import PretendedCuda

from benchmarks.live import CudaAttention, LiveBytes, fused
from benchmarks.memory import pass_bytes
from vc_core.autoencoder.autoencoder import Autoencoder
from vc_core.autoencoder.blocks import AttentionBlock
from vc_core.checkpoint.building import Parts
from vc_core.conditioning.text_encoder import TextEncoder
from vc_core.denoising import NoiseSchedule, Sampling
from vc_core.errors import UserError
from vc_core.network import parts
from vc_core.network.attention import sdpa_attention
from vc_core.network.feed_forward import FeedForward
from vc_core.network.layers import Layers
from vc_core.network.memory import free_bytes
from vc_core.network.unet import VideoUNet
from vc_core.pipeline import Request, VideoCrafter
from vc_core.specs import PRESETS, AutoencoderSpec

pytestmark = pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")

GIB = 2**30
LARGE = PRESETS["videocrafter1_t2v_1024"]


def on_cuda(spec):
    """All parts of a model in fp16 on the device that is not there, without values."""

    def made(kind, of):
        return kind(of, device="meta").half().to_empty(device="cuda").eval().requires_grad_(False)

    return VideoCrafter(
        Parts(
            spec=spec,
            schedule=NoiseSchedule.from_spec(spec.diffusion),
            device=torch.device("cuda"),
            dtype=torch.float16,
            unet=made(VideoUNet, spec.unet),
            autoencoder=made(Autoencoder, spec.autoencoder),
            text_encoder=made(TextEncoder, spec.text_encoder),
        )
    )


@pytest.fixture
def card(monkeypatch):
    """Counts what lives on a card of so many GiB, which says what is free of them."""

    def of(gib):
        live = LiveBytes("cuda")
        for place in ("network.unet", "autoencoder.autoencoder"):
            monkeypatch.setattr(f"vc_core.{place}.free_bytes", lambda device: int(gib * GIB) - live.now)
        return live

    return of


@pytest.mark.parametrize("gib", [5, 80])
def test_a_whole_run_at_576x1024_takes_at_most_five_and_a_half_gib(card, gib):
    """And no more than the card has; on all but the smallest, maps are whole."""
    with PretendedCuda(), CudaAttention(), card(gib) as live:
        crafter = on_cuda(LARGE)
        out = crafter.generate("a boat on the sea", request=Request(frames=16, sampling=Sampling(steps=1)))
    assert out.shape == (16, 576, 1024, 3)
    assert live.most < min(5.5, gib) * GIB
    assert (crafter.parts.unet.budget.values == parts.WHOLE) == (gib > 5)


@torch.no_grad()
def test_the_attention_of_the_vae_never_holds_its_map(card):
    """At 1152x2048 that of one frame would take 5 GiB in single precision, and torch makes two. In blocks of queries
    the finest level takes the most."""
    with PretendedCuda(), CudaAttention(), card(80) as live:
        model = Autoencoder(LARGE.autoencoder, device="meta").half().to_empty(device="cuda")
        model.decode(torch.zeros(1, 4, 144, 256, device="cuda", dtype=torch.float16))
    assert live.most < 3.2 * GIB


def test_attention_in_blocks_equals_the_whole(monkeypatch):
    """On a CPU it is always whole, so another device is claimed."""
    torch.manual_seed(0)
    block = AttentionBlock(512, Layers()).eval()
    q, k, v = torch.randn(3, 2, 45, 512)
    whole = sdpa_attention(q, k, v, heads=1)
    block.plan.budget.values = 2 * 45 * 7
    seen = []

    def watched(q, k, v, heads):
        seen.append(q.shape[1])
        return sdpa_attention(q, k, v, heads)

    monkeypatch.setattr("vc_core.autoencoder.blocks.sdpa_attention", watched)
    torch.testing.assert_close(block.in_blocks(q, k, v), whole, atol=1e-6, rtol=0)
    assert seen == [7] * 6 + [3]


@pytest.mark.parametrize("preset", ["videocrafter2_512", "videocrafter1_t2v_1024"])
def test_a_pass_takes_no_more_than_is_free(preset):
    """For an amount that does not allow whole maps, and one that does, with what kernels may take beside."""
    spec, size, sizes = PRESETS[preset], (16, 72, 128), set()
    network = VideoUNet(spec.unet, device="meta", dtype=torch.float16, attention=fused)
    for mib in (2000, 2800):
        network.fit(mib * 2**20, 16 * 72 * 128, 2)
        sizes.add(network.budget.values)
        assert parts.KERNELS * pass_bytes(spec, size, network) < mib * 2**20
    assert sizes == {2**24, parts.WHOLE}


def test_free_memory_is_what_the_device_has_and_the_process_may_take(monkeypatch):
    answers = {"mem_get_info": (60, 100), "memory_reserved": 30, "memory_allocated": 20, "current_device": 3}
    for name, answer in {**answers, "is_available": True}.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, answer=answer: answer)
    for share, free in ((1.0, 70), (0.95, 70), (0.5, 30)):
        shares = {3: share, 1: 0.4}  # asked for by number: torch takes no device without one here
        monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", shares.__getitem__)
        assert free_bytes(torch.device("cuda")) == free
        assert free_bytes(torch.device("cuda", 1)) == 20
    assert free_bytes(torch.device("cpu")) is None


def test_both_prompts_share_a_pass_where_their_memory_is_free(monkeypatch):
    """At 320x512; one at 576x1024 fills a GPU by itself. Where nothing is known to be free, only a small pass is
    shared."""
    spec = PRESETS["videocrafter2_512"]
    with PretendedCuda():
        crafter = on_cuda(spec)
    at_320x512, at_576x1024 = 16 * 40 * 64, 16 * 72 * 128
    both = crafter.parts.unet.whole_bytes(2 * at_320x512, 2)
    for free, positions, wanted in (
        (both, at_320x512, True),
        (both - 1, at_320x512, False),
        (80 * GIB, at_576x1024, False),
        (None, at_320x512, False),
        (None, 16 * 16 * 16, True),
    ):
        monkeypatch.setattr("vc_core.pipeline.free_bytes", lambda device, free=free: free)
        assert crafter.fits_together(positions, 2) == wanted
    monkeypatch.setattr("vc_core.pipeline.free_bytes", lambda device: both)
    assert not crafter.fits_together(at_320x512, 3)


def test_parts_are_no_smaller_than_helps_and_as_before_where_nothing_is_known():
    budget = parts.Budget()
    budget.fit(1, 2**24, 2)
    assert budget.values == parts.LEAST
    budget.fit(None, 2**24, 2)
    assert budget.values == parts.AT_ONCE


class Full:
    """A device that has no room for what `too_much` finds, as a hook before a layer."""

    def __init__(self, module, too_much):
        self.times = 0
        self.too_much = too_much
        module.register_forward_pre_hook(self)

    def __call__(self, module, given):
        if self.too_much(given[0]):
            self.times += 1
            raise torch.OutOfMemoryError("CUDA out of memory.")


@pytest.fixture
def tiny():
    torch.manual_seed(0)
    return Autoencoder(AutoencoderSpec(channels=32, channel_mult=(1, 2), num_res_blocks=1)).eval()


@pytest.mark.parametrize("chunk", [None, 7])
@torch.no_grad()
def test_decoding_and_encoding_take_fewer_frames_where_memory_runs_out(tiny, chunk):
    latents, pixels = torch.randn(5, 4, 6, 5), torch.rand(5, 3, 12, 10)
    whole = [tiny.decode(latents), tiny.encode(pixels), tiny.encode(pixels, torch.Generator().manual_seed(1))]
    full = [Full(module, lambda x: len(x) > 2) for module in (tiny.decoder, tiny.encoder)]
    generator = torch.Generator().manual_seed(1)
    in_blocks = [
        tiny.decode(latents, chunk=chunk),
        tiny.encode(pixels, chunk=chunk),
        tiny.encode(pixels, generator, chunk=chunk),
    ]
    torch.testing.assert_close(in_blocks, whole, atol=1e-5, rtol=0)
    assert all(hook.times for hook in full)


@torch.no_grad()
def test_one_frame_that_is_too_large_says_what_to_lower(tiny):
    for module in (tiny.decoder, tiny.encoder):
        Full(module, lambda x: True)
    with pytest.raises(UserError, match=r"to decode a single frame of 10x12. Lower width and height"):
        tiny.decode(torch.randn(5, 4, 6, 5))
    with pytest.raises(UserError, match=r"to encode a single frame of 10x12. Lower width and height"):
        tiny.encode(torch.rand(5, 3, 12, 10))


@torch.no_grad()
def test_a_clip_that_is_decoded_at_once_says_what_to_lower():
    spec = AutoencoderSpec(channels=32, channel_mult=(1, 2), num_res_blocks=1, reference_levels=(1,))
    model = Autoencoder(spec).eval()
    Full(model.decoder.mid, lambda x: True)
    with pytest.raises(UserError, match=r"to decode 5 frames of 10x12 at once.*Make fewer frames"):
        model.decode(torch.randn(5, 4, 6, 5))


@pytest.fixture
def crafter(tmp_path):
    return VideoCrafter.load(small.save(small.TEXT_MODEL, tmp_path / "model.safetensors"))


REQUEST = Request(frames=6, width=64, height=64, sampling=Sampling(steps=2))


def test_a_pass_works_in_smaller_parts_where_memory_runs_out(crafter, monkeypatch):
    monkeypatch.setattr(parts, "LEAST", 64)
    whole = crafter.generate("a red square", request=REQUEST)
    unet = crafter.parts.unet
    layer = next(module for module in unet.modules() if isinstance(module, FeedForward)).net
    full = Full(layer, lambda x: x.flatten(0, -2).shape[0] > 100)
    out = crafter.generate("a red square", request=REQUEST)
    torch.testing.assert_close(out, whole, atol=1e-4, rtol=0)
    values = unet.budget.values
    assert values < parts.AT_ONCE
    assert full.times == (parts.AT_ONCE // values).bit_length() - 1, "what was found holds for the rest of the run"


def test_a_pass_that_never_fits_says_what_to_lower(crafter):
    Full(crafter.parts.unet.middle_block, lambda x: True)
    with pytest.raises(UserError, match=r"pass of 6 frames of latents 8 wide and 8 high in float32. Lower width"):
        crafter.generate("a red square", request=REQUEST)
