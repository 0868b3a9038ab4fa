"""CUDA graphs without CUDA."""

from __future__ import annotations

import torch


class StandIn:
    """Records work as a graph does: what runs again reads the tensors of the recording and writes the same results."""

    def __init__(self, fails_at=None, full_at=None):
        self.recorded = self.replayed = self.released = 0
        self.fails_at, self.full_at = fails_at, full_at
        self.bytes = 0

    def record(self, work):
        self.recorded += 1
        self.bytes += 100
        if self.recorded == self.fails_at:
            raise RuntimeError("operation not permitted when stream is capturing")
        results = work()

        def again():
            self.replayed += 1
            if self.replayed == self.full_at:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            for kept, new in zip(results, work(), strict=True):
                kept.copy_(new)
            return results

        for result in results:
            result.fill_(float("nan"))  # recording runs nothing
        return again

    def release(self):
        self.released += 1
        self.bytes = 0
