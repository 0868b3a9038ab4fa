"""Clips drawn by processes of their own, as they arrive, and what training keeps of them on the device."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from types import TracebackType

import numpy as np
import torch
from torch import Tensor

from vc_core.autoencoder.autoencoder import Autoencoder
from vc_core.specs import ModelSpec
from worlds.storybook.world import FRAMES

from .painting import CLIPS, Arrays
from .vocabulary import Vocabulary

ROOT = Path(__file__).resolve().parents[2]
GENTLY = ("nice", "-n", "15") if shutil.which("nice") else ()
"""Drawing leaves the processor's cores to training and compiling."""
ENCODED_AT_ONCE = 1024
"""Frames that the autoencoder encodes in one pass on a GPU."""
CHUNKS_MIXED = 4
"""Files from which the frames of one batch come."""


class Painters:
    """Processes that draw clips into a folder while the context lasts."""

    def __init__(self, folder: Path, *, processes: int, seed: int, clips: int = CLIPS) -> None:
        self.folder = folder
        self.processes, self.seed, self.clips = processes, seed, clips
        self._running: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Painters:
        self.folder.mkdir(parents=True, exist_ok=True)
        for old in self.folder.iterdir():
            old.unlink()
        single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        began = time.time_ns() % 2**31  # a resumed run sees other clips
        for number in range(self.processes):
            command = [
                *GENTLY,
                sys.executable,
                "-m",
                "training.storybook.painting",
                "--folder",
                str(self.folder.resolve()),
            ]
            command += ["--number", str(number), "--seed", str(self.seed + began), "--clips", str(self.clips)]
            self._running.append(subprocess.Popen(command, cwd=ROOT, env={**os.environ, **single}))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End the processes and delete what they have left."""
        for process in self._running:
            process.terminate()
        for process in self._running:
            process.wait()
        self._running = []
        for path in self.folder.glob("*"):
            path.unlink(missing_ok=True)

    def take(self, most: int) -> list[Arrays]:
        """Up to so many of the files that are ready. Raises RuntimeError when all processes have failed."""
        taken: list[Arrays] = []
        if self._running and all(process.poll() is not None for process in self._running):
            raise RuntimeError("All processes that draw clips have ended; their messages are above")
        for path in sorted(self.folder.glob("*.npz"))[:most]:
            with contextlib.suppress(OSError, zipfile.BadZipFile), np.load(path, allow_pickle=False) as file:
                taken.append({name: file[name] for name in file.files})
            path.unlink(missing_ok=True)
        return taken


class Gallery:
    """The clips that have arrived: pixels until the autoencoder is trained, then latents, both on the device.

    frames: n f h w 3, uint8, of clips that are not encoded yet; latents: n f c h w, half precision; firsts: n h w 3,
    uint8; rows: n wordings tokens; names, poses, camera, around: see `painting.labels`.
    """

    def __init__(self, spec: ModelSpec, device: str, *, most: int) -> None:
        self.device, self.most = device, most
        self.words = Vocabulary(spec.text_encoder.vocab_size, spec.text_encoder.context_length)
        self.waiting: list[dict[str, Tensor]] = []
        self.kept: list[dict[str, Tensor]] = []
        """Clips with their pixels, for the judge: the first that came."""
        self.stored: dict[str, Tensor] = {}
        self.encoded = 0
        self.count = 0

    @property
    def full(self) -> bool:
        """Whether no more clips are wanted."""
        return self.count >= self.most

    def receive(self, painters: Painters, most: int = 4) -> int:
        """Take in what is ready, up to `most` files; returns how many."""
        if self.full:
            return 0
        taken = painters.take(most)
        for arrays in taken:
            self.waiting.append(self._on_device(arrays))
            self.count += len(arrays["frames"])
        if self.full:
            painters.stop()
        return len(taken)

    def wait_for(self, painters: Painters, clips: int) -> None:
        """Receive until there are so many clips, or as many as are wanted."""
        while self.count < min(clips, self.most):
            if not self.receive(painters):
                time.sleep(0.1)

    def _on_device(self, arrays: Arrays) -> dict[str, Tensor]:
        count, wordings = arrays["captions"].shape
        rows = self.words.rows([str(text) for text in arrays["captions"].ravel()]).reshape(count, wordings, -1)
        named = {name: value for name, value in arrays.items() if name != "captions"}
        tensors = {name: torch.from_numpy(value) for name, value in {**named, "rows": rows}.items()}
        if self.device.startswith("cuda"):  # from pinned memory the copies wait for nothing
            return {name: value.pin_memory().to(self.device, non_blocking=True) for name, value in tensors.items()}
        return {name: value.to(self.device) for name, value in tensors.items()}

    def random_frames(self, count: int) -> tuple[Tensor, Tensor]:
        """Frames of the clips that are not encoded yet: n 3 h w in -1..1, and the actors' places in them, n 2 4."""
        chosen = [self.waiting[int(torch.randint(len(self.waiting), ()))] for _ in range(CHUNKS_MIXED)]
        frames, poses = [], []
        for number, chunk in enumerate(chosen):
            part = count * (number + 1) // CHUNKS_MIXED - count * number // CHUNKS_MIXED
            clip = torch.randint(len(chunk["frames"]), (part,), device=self.device)
            frame = torch.randint(FRAMES, (part,), device=self.device)
            frames.append(chunk["frames"][clip, frame])
            poses.append(chunk["poses"][clip, frame])
        return to_network(torch.cat(frames)), torch.cat(poses)

    def keep(self, clips: int) -> None:
        """Keep the pixels of the first clips, for the judge."""
        for chunk in self.waiting:
            if sum(len(part["frames"]) for part in self.kept) < clips:
                self.kept.append(chunk)

    @torch.no_grad()
    def encode(self, model: Autoencoder, most: int) -> int:
        """Encode up to `most` of the files that wait, leaving out clips held out of training; returns how many."""
        done = 0
        while self.waiting and done < most:
            chunk = self.waiting.pop()
            wanted = ~chunk["unseen"]
            dtype = next(model.parameters()).dtype
            latents = [
                model.moments(to_network(part).to(dtype))[0] * model.spec.scale_factor
                for part in chunk["frames"].flatten(0, 1).split(ENCODED_AT_ONCE)
            ]
            part = {name: chunk[name][wanted] for name in ("rows", "names", "poses", "camera", "around")}
            part["latents"] = torch.cat(latents).unflatten(0, (-1, FRAMES))[wanted].half()
            part["firsts"] = chunk["frames"][wanted, 0]
            self._store(part)
            done += 1
        return done

    def _store(self, part: dict[str, Tensor]) -> None:
        """Keep encoded clips, in memory that is reserved once for as many as are wanted."""
        if not self.stored:
            self.stored = {
                name: torch.empty((self.most, *value.shape[1:]), dtype=value.dtype, device=value.device)
                for name, value in part.items()
            }
        room = min(len(part["latents"]), self.most - self.encoded)
        for name, value in part.items():
            self.stored[name][self.encoded : self.encoded + room] = value[:room]
        self.encoded += room

    def __len__(self) -> int:
        return self.encoded

    def __getitem__(self, name: str) -> Tensor:
        return self.stored[name][: self.encoded]


def to_network(frames: Tensor) -> Tensor:
    """Bytes n h w 3 -> n 3 h w in -1..1"""
    return frames.permute(0, 3, 1, 2).float().mul(2 / 255).sub(1).contiguous()
