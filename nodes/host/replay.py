"""A run of recorded passes, and the weights that a recorded pass reads.

A graph reads the weights at the addresses of the recording, and ComfyUI moves weights. Without dynamic VRAM they stay
where they are during a run, and their addresses are compared before each pass. With dynamic VRAM the weights of a layer
have one address for as long as the model is loaded, but the memory behind it comes and goes in pages. Before each pass
all pages are held, and the numbers that tell their contents apart are compared with those of the recording. A pass with
weights that are missing, moved or changed runs one launch at a time, as do all later ones of the run.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from typing import Any

import comfy.model_management
import torch
from torch import Tensor, nn

from ...vc_core.network.replay import Recorder, Replay
from ...vc_core.network.unet import VideoUNet
from .patches import BlockEntry

try:
    import comfy_aimdo.model_vbar as pages
except ImportError:  # before dynamic VRAM
    pages = None

REPLAY = "videocrafter_replay"
"""Where a run keeps its `HostReplay`, among the `transformer_options`."""


class HeldWeights:
    """The weights of a network on the device where it runs; see `vc_core.network.replay.Holding`."""

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        first = () if device.index else (torch.device(device.type), torch.device(device.type, 0))
        self.devices = {device, *first}  # a device without an index is the first of its kind
        self.layers = [layer for layer in network.modules() if layer._parameters]
        self.complete: bytes | None = None  # the pages whose layers have all been found there

    @contextmanager
    def __call__(self) -> Iterator[Hashable | None]:
        """Holds the weights while the context is open."""
        paged: list[Any] = [layer for layer in self.layers if "_v" in vars(layer)]
        addresses = self._addresses()
        if addresses is None or not paged:
            yield addresses
            return
        whole = joined([layer._v for layer in paged])
        found = pages.vbar_fault(whole)
        try:
            yield (addresses, bytes(found)) if found is not None and self._all_there(paged, bytes(found)) else None
        finally:
            if found is not None:
                pages.vbar_unpin(whole)

    def _addresses(self) -> tuple[int, ...] | None:
        """The addresses of all weights that have no pages, None where one is not on the device or where functions
        change weights when their layer runs."""
        if any(map(is_changed, self.layers)):
            return None
        placed = [layer._parameters.values() for layer in self.layers if "_v" not in vars(layer)]
        weights = [weight for values in placed for weight in values if weight is not None]
        if any(weight.device not in self.devices for weight in weights):
            return None
        return tuple(weight.data_ptr() for weight in weights)

    def _all_there(self, paged: list[Any], found: bytes) -> bool:
        """Whether the pages hold the weights of every layer, patches included. Asked once for the same pages."""
        if found != self.complete and all(map(is_resident, paged)):
            self.complete = found
        return found == self.complete


def joined(slots: list[tuple[Any, int, int]]) -> tuple[Any, int, int]:
    """The slot (owner, address, bytes) that reaches from the first of these to the last."""
    first, end = min(slot[1] for slot in slots), max(slot[1] + slot[2] for slot in slots)
    return slots[0][0], first, end - first


def is_changed(layer: Any) -> bool:
    """Whether functions change the weights of a layer whenever it runs."""
    return bool(getattr(layer, "weight_function", None) or getattr(layer, "bias_function", None))


def is_resident(layer: Any) -> bool:
    """Whether the weights of a layer are on the device as its next pass will read them."""
    found = pages.vbar_fault(layer._v)
    if found is None:
        return False
    pages.vbar_unpin(layer._v)
    known: bool = pages.vbar_signature_compare(found, layer._v_signature)
    return known


class HostReplay:
    """The recorded passes of one run, on one device."""

    def __init__(self, network: VideoUNet, device: torch.device, recorder: Recorder) -> None:
        self.network = network
        self.replay = Replay(network, recorder, HeldWeights(network, device), comfy.model_management.get_free_memory)

    def attempt(self, network: VideoUNet, options: dict[str, Any], given: tuple[Any, ...]) -> Tensor | None:
        """The prediction for the arguments `given` of the network, None where the pass should run one launch at a time.
        Lets the user interrupt before a recorded pass. Copies of the network on other devices are not recorded."""
        if network is not self.network:
            return None
        BlockEntry(options, lambda: None).notice()
        return self.replay.attempt(*given)

    def release(self) -> None:
        """Ends the run."""
        self.replay.release()
