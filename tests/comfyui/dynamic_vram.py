"""ComfyUI's dynamic VRAM on a machine without a GPU: the CPU under the name `cpu:0` takes the part of the GPU.

ComfyUI's own code runs: layers are built without weights, models get its dynamic patcher, safetensors files are mapped
and read slice by slice, and each weight is cast into a slot when its layer runs. Replaced is what needs a GPU below
that: the slots themselves (`comfy_aimdo`), and the question whether a device is the CPU. Streams, pinned memory and
real pressure are not emulated. It changes modules of ComfyUI for the life of the process: for tests only.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

DEVICE = torch.device("cpu", 0)


class Slot:
    """The place of one layer's weights on the device; ComfyUI reads it as (owner, address, bytes)."""

    def __init__(self, owner: Slots, size: int) -> None:
        self.owner = owner
        self.memory = torch.zeros(size, dtype=torch.uint8)

    def __getitem__(self, index: int) -> Any:
        return (self.owner, 0, len(self.memory))[index]


class Slots:
    """The device memory of one model. `full` refuses new weights, as a GPU without free memory does."""

    full = False

    def __init__(self, *_: Any) -> None:
        self.slots: list[Slot] = []
        self.generation = 0

    def alloc(self, size: int) -> Slot:
        self.slots.append(Slot(self, size))
        return self.slots[-1]

    def prioritize(self) -> None:
        """Order of eviction: there is none here."""

    def loaded_size(self) -> int:
        return sum(len(slot.memory) for slot in self.slots)

    def free_memory(self, _: int) -> int:
        """Everything is evicted: weights that are needed again are cast again."""
        self.generation += 1
        return self.loaded_size()


class HostBuffer:
    """Pinned memory, of which there is none."""

    size = 0

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def truncate(self, *_: Any, **__: Any) -> None:
        pass


class FileMap:
    """A file in memory, copied page by page where it is written to."""

    def __init__(self, path: str) -> None:
        self.file = Path(path).open("rb")  # noqa: SIM115 (lives as long as the tensors in it)
        self.map = mmap.mmap(self.file.fileno(), 0, access=mmap.ACCESS_COPY)

    def get(self) -> int:
        return ctypes.addressof(ctypes.c_uint8.from_buffer(self.map))

    def get_file_handle(self) -> Any:
        return self.file


def emulate() -> None:
    """Switch dynamic VRAM on. Call it after ComfyUI's argument parser and before any model is loaded."""
    import comfy.memory_management
    import comfy.model_management
    import comfy.model_patcher
    import comfy_aimdo.host_buffer
    import comfy_aimdo.model_mmap
    import comfy_aimdo.model_vbar
    import comfy_aimdo.torch
    from comfy.cli_args import args

    args.disable_pinned_memory = True
    comfy_aimdo.model_vbar.ModelVBAR = Slots
    comfy_aimdo.model_vbar.vbar_fault = _signature
    comfy_aimdo.model_vbar.vbar_unpin = lambda slot: None
    comfy_aimdo.torch.aimdo_to_tensor = lambda slot, device: slot.memory
    comfy_aimdo.host_buffer.HostBuffer = HostBuffer
    comfy_aimdo.model_mmap.ModelMMAP = FileMap

    management = comfy.model_management
    is_cpu = management.is_device_cpu
    management.is_device_cpu = lambda device: device != DEVICE and is_cpu(device)
    for name in ("get_torch_device", "text_encoder_device", "vae_device"):
        setattr(management, name, lambda *_: DEVICE)
    for name in ("unet_offload_device", "text_encoder_offload_device", "vae_offload_device", "intermediate_device"):
        setattr(management, name, lambda *_: torch.device("cpu"))
    _cast_into_slots()
    comfy.model_patcher.CoreModelPatcher = comfy.model_patcher.ModelPatcherDynamic
    comfy.memory_management.aimdo_enabled = True


def _signature(slot: Any) -> Any:
    """What tells the present contents of a slot from earlier ones, None where there is no memory."""
    owner = slot[0]
    return None if owner.full else (ctypes.c_uint32 * 1)(owner.generation)


def _cast_into_slots() -> None:
    """Let layers with a slot take their weights from it, as on a GPU: ComfyUI asks whether the input is on the CPU."""
    import comfy.ops

    plain = comfy.ops.cast_bias_weight

    def cast(
        s: Any,
        input: Tensor | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
        bias_dtype: torch.dtype | None = None,
        offloadable: bool = False,
        compute_dtype: torch.dtype | None = None,
        want_requant: bool = False,
    ) -> Any:
        if not hasattr(s, "_v"):
            return plain(s, input, dtype, device, bias_dtype, offloadable, compute_dtype, want_requant)
        dtype = dtype if dtype is not None or input is None else input.dtype
        bias_dtype = bias_dtype or dtype
        ahead = hasattr(s, "_prefetch")
        if not ahead:
            comfy.ops.cast_modules_with_vbar([s], dtype, DEVICE, bias_dtype, False)
        weight, bias = comfy.ops.resolve_cast_module_with_vbar(
            s, dtype, DEVICE, bias_dtype, compute_dtype, want_requant
        )
        if not ahead:
            for patch in (getattr(s, f"{name}_lowvram_function", None) for name in ("weight", "bias")):
                if patch is not None:
                    patch.clear_prepared()
            del s._prefetch
        s.casts = getattr(s, "casts", 0) + 1
        return (weight, bias, (None, None, None)) if offloadable else (weight, bias)

    comfy.ops.cast_bias_weight = cast


def casts(module: nn.Module) -> int:
    """How many times layers of the module took their weights from a slot."""
    return sum(getattr(layer, "casts", 0) for layer in module.modules())


@contextmanager
def poisoned(module: nn.Module) -> Iterator[int]:
    """NaN in place of every weight that has been cast into a slot: what reads one beside its slot becomes NaN. Yields
    how many weights that are."""
    kept = {}
    for layer in module.modules():
        if hasattr(layer, "_v"):
            kept.update({weight: weight.data for weight in layer.parameters(recurse=False)})
    for weight, values in kept.items():
        weight.data = torch.full_like(values, torch.nan)
    try:
        yield len(kept)
    finally:
        for weight, values in kept.items():
            weight.data = values
