"""Name and peak memory use of an NVIDIA card, by nvidia-smi."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Card:
    """The first NVIDIA card."""

    name: str
    driver: str
    total_bytes: int

    @classmethod
    def here(cls) -> Card:
        """The card of this machine."""
        name, driver, total, reserved = query("name", "driver_version", "memory.total", "memory.reserved")
        return cls(name, driver, (number(total) - number(reserved)) * 2**20)


def query(*fields: str) -> list[str]:
    """The values of these nvidia-smi fields for the first card."""
    command = ["nvidia-smi", "--id=0", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
    answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [part.strip() for part in answer.splitlines()[0].split(",")]


def number(text: str) -> int:
    """A field in MiB; 0 if the driver does not report it."""
    return int(text) if text.isdigit() else 0


@dataclass
class Watch:
    """While active, tracks the peak memory use of the whole card and of a process."""

    rss: Callable[[], int]
    card: bool
    card_bytes: int = 0
    host_bytes: int = 0
    stopped: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Watch:
        works = [self._host, self._card] if self.card else [self._host]
        self.threads = [threading.Thread(target=work, daemon=True) for work in works]
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        for thread in self.threads:
            thread.join(5)

    def reset(self) -> None:
        """Resets the peaks."""
        self.card_bytes = self.host_bytes = 0

    def peaks(self) -> dict[str, int]:
        """The peaks since the last reset, after one more reading."""
        time.sleep(0.3)
        return {**({"card_peak_bytes": self.card_bytes} if self.card else {}), "host_peak_bytes": self.host_bytes}

    def _card(self) -> None:
        while not self.stopped.wait(0.1):
            self.card_bytes = max(self.card_bytes, number(*query("memory.used")) * 2**20)

    def _host(self) -> None:
        import psutil

        while not self.stopped.wait(0.1):
            try:
                self.host_bytes = max(self.host_bytes, self.rss())
            except psutil.Error:
                return
