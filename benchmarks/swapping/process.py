"""What this process holds in memory, and what others do on its cores meanwhile."""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import time
from contextlib import suppress
from pathlib import Path

import torch

from benchmarks.swapping.clock import is_cuda

PAGE = os.sysconf("SC_PAGE_SIZE")
TICK = os.sysconf("SC_CLK_TCK")  # a second's
IDLE = (3, 4)  # columns of /proc/stat: idle, and waiting for a disk
SPENT = 8  # columns before those that are counted twice


class Footprint:
    """Bytes that this process holds on its device: the resident set, and what CUDA gave torch."""

    def __init__(self, device: str) -> None:
        self._device = device if is_cuda(device) else None

    def start(self) -> int:
        """Give back what is free, and let peaks count from here; bytes that are left.

        Where the kernel does not let peaks be forgotten, they count from the start.
        """
        gc.collect()
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim:
            trim(0)
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
        if self._device:
            torch.cuda.reset_peak_memory_stats(self._device)
        return self.now()

    def now(self) -> int:
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * PAGE
        return resident + (torch.cuda.memory_allocated(self._device) if self._device else 0)

    def peak(self) -> int:
        """The most since `start`."""
        resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10  # this is VmHWM
        return resident + (torch.cuda.max_memory_allocated(self._device) if self._device else 0)


class Others:
    """How many of this process's cores others had, on the average since this was made.

    torch's threads wait for each other after every tensor, so a neighbour on one of two cores
    costs them many times what it takes.
    """

    def __init__(self) -> None:
        self._began = self._now()

    def cores(self) -> float:
        (wall, spent), (wall_before, before) = self._now(), self._began
        return max(0.0, (spent - before) / (wall - wall_before))

    @staticmethod
    def _now() -> tuple[float, float]:
        """Seconds, and seconds of the cores that were not this process's."""
        mine = {f"cpu{number}" for number in os.sched_getaffinity(0)}
        ticks = 0
        for line in Path("/proc/stat").read_text().splitlines():
            name, *columns = line.split()
            if name in mine:
                ticks += sum(int(c) for i, c in enumerate(columns[:SPENT]) if i not in IDLE)
        return time.perf_counter(), ticks / TICK - time.process_time()
