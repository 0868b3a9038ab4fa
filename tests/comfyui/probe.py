"""A node for the tests' servers that says what the server holds: memory, objects, handles and threads.

`add` puts it into the base directory, as a custom node of its own, before the server is started.
"""

from __future__ import annotations

import inspect
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .base import Base
from .server import Server

NODE = "TestsHeld"
SOURCE = Path(__file__).with_name("probe_node.py")


@dataclass(frozen=True)
class Held:
    """What a server held, after garbage was collected and free memory returned to the system.

    resident: bytes of memory. tensors, tensor_bytes: of those with memory of their own. objects: that Python tracks.
    handles, threads: of the process. modules: networks and their layers.
    """

    resident: int
    tensors: int
    tensor_bytes: int
    objects: int
    modules: int
    handles: int
    threads: int


def add(base: Base) -> None:
    """Puts the node where the next server loads it from."""
    shutil.copyfile(SOURCE, base.root / "custom_nodes" / SOURCE.name)


class Probe:
    """Asks a server what it holds."""

    def __init__(self, server: Server) -> None:
        self.server, self.asked = server, 0

    def __call__(self) -> Held:
        """What the server holds once it has forgotten all results and its history, and unloaded all models."""
        self.server.post("/history", {"clear": True})
        self.server.post("/free", {"unload_models": True, "free_memory": True})
        self._ask()  # ComfyUI forgets at the end of the next run
        return Held(
            **{name: found for name, found in self._ask().items() if name in inspect.signature(Held).parameters}
        )

    def _ask(self) -> dict[str, Any]:
        self.asked += 1
        run = self.server.run({"1": {"class_type": NODE, "inputs": {"count": self.asked}}})
        if run.status != "success":
            raise RuntimeError(f"the server does not say what it holds: {run.error}")
        (found,) = run.outputs["1"]["held"]
        return dict(found)
