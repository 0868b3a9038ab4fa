"""An NVIDIA card seen from outside, by nvidia-smi: what it is, and the most memory in use on it."""

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
        name, driver, total, reserved = asked("name", "driver_version", "memory.total", "memory.reserved")
        return cls(name, driver, (number(total) - number(reserved)) * 2**20)


def asked(*fields: str) -> list[str]:
    """What nvidia-smi answers for these fields of the first card."""
    command = ["nvidia-smi", "--id=0", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
    answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [part.strip() for part in answer.splitlines()[0].split(",")]


def number(text: str) -> int:
    """A field in MiB; 0 where the driver does not give it."""
    return int(text) if text.isdigit() else 0


@dataclass
class Watch:
    """While entered, the most memory in use: of the whole card, and of a process on the host."""

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
        """Count from what is in use now."""
        self.card_bytes = self.host_bytes = 0

    def peaks(self) -> dict[str, int]:
        """The most since the last reset, once both were looked at again."""
        time.sleep(0.3)
        return {**({"card_peak_bytes": self.card_bytes} if self.card else {}), "host_peak_bytes": self.host_bytes}

    def _card(self) -> None:
        while not self.stopped.wait(0.1):
            self.card_bytes = max(self.card_bytes, number(*asked("memory.used")) * 2**20)

    def _host(self) -> None:
        import psutil

        while not self.stopped.wait(0.1):
            try:
                self.host_bytes = max(self.host_bytes, self.rss())
            except psutil.Error:
                return
