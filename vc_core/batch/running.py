"""Tasks -> videos: one model at a time, one entry of the manifest for each video."""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tqdm import tqdm

from ..denoising import Step
from ..errors import UserError
from ..job import checked
from ..machine import choose_device
from ..making import load_model, made, out_of_memory, settings_of, threads_for
from ..network.memory import is_out_of_memory
from ..pipeline import VideoCrafter
from ..terminal import say
from ..video import Written, is_disk_full
from .manifest import DONE, Entry, Manifest
from .planning import Task, by_model

log = logging.getLogger(__name__)


@dataclass
class Runner:
    """Makes the videos of tasks that are checked. quiet: no progress bars."""

    manifest: Manifest
    quiet: bool
    total: int
    done: int = 0
    failed: list[str] = field(default_factory=list)

    def run(self, tasks: Sequence[Task]) -> None:
        """Makes each video, in the order of their models. What fails is recorded, and the others are made; a full disk
        and other errors of the system end the run."""
        for group in by_model(tasks, self.manifest.folder):
            self._run_group(group)
            gc.collect()

    def _run_group(self, group: Sequence[Task]) -> None:
        """The videos of one model, which is loaded once."""
        try:
            crafter = load_model(group[0].settled(self.manifest.folder))
        except (UserError, MemoryError, RuntimeError) as error:
            for task in group:
                self._fail(task, error)
            return
        for task in group:
            try:
                self._make(crafter, task)
            except (UserError, MemoryError, RuntimeError) as error:
                self._fail(task, error)

    def _make(self, crafter: VideoCrafter, task: Task) -> None:
        options = task.settled(self.manifest.folder)
        job = checked(options)
        start = time.perf_counter()
        device = choose_device(options.device)
        bar = tqdm(desc=task.file, unit="step", leave=False, disable=True if self.quiet else None)

        def on_step(step: Step) -> None:
            if step.index == 0:
                bar.reset(total=step.total)
            bar.update()

        with bar, threads_for(device, job.parameters), made(crafter, options, job, on_step) as written:
            entry = _entry(task, written, settings_of(crafter, options, job), time.perf_counter() - start)
            self.manifest.add(entry)  # the video gets its name right after this
        self.done += 1
        for message in written.messages:
            log.warning("%s: %s", task.label, message)
        say(f"[{self.done + len(self.failed)}/{self.total}] {written.path}: {entry.seconds:.1f} s, seed {entry.seed}")

    def _fail(self, task: Task, error: Exception) -> None:
        """Records why a video could not be made. Raises the error if those of other lines would not be either."""
        if is_disk_full(error.__cause__):
            raise error
        if not isinstance(error, UserError):
            if not is_out_of_memory(error):
                raise error
            error = UserError(out_of_memory(error))
        self.failed.append(task.label)
        self.manifest.add_failure(task.key, task.line, task.values, str(error))
        log.error("%s: %s", task.label, error)


def _entry(task: Task, written: Written, settings: dict[str, Any], seconds: float) -> Entry:
    return Entry(
        key=task.key,
        line=task.line,
        status=DONE,
        given=dict(task.values),
        file=task.file,
        bytes=written.bytes,
        seconds=round(seconds, 3),
        frames=written.frames,
        width=written.width,
        height=written.height,
        fps=float(written.fps),
        seed=settings["seed"],
        settings=settings,
    )
