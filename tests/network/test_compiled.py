"""torch.compile takes the whole network as one graph, for any number of frames."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from vc_core.conditions import Conditioning
from vc_core.errors import UserError
from vc_core.network.unet import VideoUNet
from vc_core.pipeline import VideoCrafter
from vc_core.specs import UNetSpec

MODEL = Path(__file__).parents[2] / "models" / "videocrafter_small_t2v.safetensors"
SMALL: dict[str, Any] = {
    "model_channels": 32,
    "channel_mult": (1, 2),
    "num_res_blocks": 1,
    "attention_levels": (1,),
    "head_channels": 32,
    "context_dim": 11,
}


@pytest.mark.parametrize(
    "changes", [{}, {"relative_position": True, "image_attention": True}], ids=["text", "relative-image"]
)
@torch.no_grad()
def test_one_graph_without_breaks_for_every_number_of_frames(changes: dict[str, Any]) -> None:
    torch._dynamo.reset()
    model = VideoUNet(UNetSpec(**{**SMALL, **changes})).eval()
    counter = CompileCounterWithBackend("eager")
    compiled = torch.compile(model, backend=counter, fullgraph=True)
    generator = torch.Generator().manual_seed(0)
    text = torch.randn(1, 7, 11, generator=generator)
    image = torch.randn(1, 5, 11, generator=generator) if changes else None
    timestep, fps = torch.tensor([500.0]), torch.tensor([8.0])
    for frames in (4, 3, 5, 7):
        x = torch.randn(1, 4, frames, 8, 8, generator=generator)
        conditioning = Conditioning(text, image, fps)
        out: Tensor = compiled(x, timestep, conditioning)
        torch.testing.assert_close(out, model(x, timestep, conditioning), atol=1e-5, rtol=0)
    assert counter.frame_count <= 2, "the first number of frames, then one graph for all others"


def test_compiling_without_a_compiler_is_refused_before_work_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(UserError, match=r"needs a C\+\+ compiler.*Install one, or do not compile"):
        VideoCrafter.load(MODEL).compile()
