"""The time of a UNet pass by kind of module."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import nn

from vc_core.network import feed_forward, layers, transformers
from vc_core.network.unet import VideoUNet

from .clock import Clock
from .models import run

KINDS: dict[type[nn.Module], str] = {
    layers.ResBlock: "convolutions of a frame",
    layers.TemporalConv: "convolutions over frames",
    layers.Downsample: "change of size",
    layers.Upsample: "change of size",
    transformers.SelfAttention: "attention in a frame",
    transformers.CrossAttention: "attention to the text",
    transformers.TemporalAttention: "attention over frames",
    feed_forward.FeedForward: "feed-forward",
    transformers.SpatialTransformer: "around attention: norms, projections, copies",
    transformers.TemporalTransformer: "around attention: norms, projections, copies",
    VideoUNet: "the rest",
}


class Breakdown:
    """Measures the seconds in modules of each kind, excluding nested modules of other kinds."""

    def __init__(self, network: VideoUNet, clock: Clock) -> None:
        self.network, self.clock = network, clock
        self.seconds: dict[str, float] = defaultdict(float)
        self.marks: list[Any] = []
        self.events: list[tuple[Any, Any, str]] = []
        self.total = 0.0
        self.shares: dict[str, float] = {}

    def measure(self, *arguments: Any, **keywords: Any) -> None:
        """Runs one pass and stores its seconds in `total`, and the share of each kind in `shares`, the largest
        first."""
        handles = []
        for module in self.network.modules():
            kind = KINDS.get(type(module))
            if kind is not None:
                handles.append(module.register_forward_pre_hook(self._enter(kind)))
                handles.append(module.register_forward_hook(self._leave))
        try:
            run(self.network)(*arguments, **keywords)
        finally:
            for handle in handles:
                handle.remove()
        if self.clock.device.type == "cuda":
            torch.cuda.synchronize(self.clock.device)
        for begin, end, kind in self.events:
            self.seconds[kind] += self._between(begin, end)
        self.total = sum(self.seconds.values())
        shares = sorted(self.seconds.items(), key=lambda item: -item[1])
        self.shares = {kind: round(value / self.total, 4) for kind, value in shares}

    def _mark(self) -> Any:
        if self.clock.device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            return event
        return self.clock.now()

    def _between(self, begin: Any, end: Any) -> float:
        return float(begin.elapsed_time(end)) / 1000 if self.clock.device.type == "cuda" else float(end - begin)

    def _enter(self, kind: str) -> Any:
        def hook(module: nn.Module, arguments: Any) -> None:
            now = self._mark()
            if self.marks:
                self.events.append((self.marks[-1][0], now, self.marks[-1][1]))
            self.marks.append((now, kind))

        return hook

    def _leave(self, module: nn.Module, arguments: Any, out: Any) -> None:
        now = self._mark()
        begin, kind = self.marks.pop()
        self.events.append((begin, now, kind))
        if self.marks:
            self.marks[-1] = (now, self.marks[-1][1])
