"""The same state of the page cache before every timed side."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

SHARE = 0.5  # of the free memory that files may fill to be called warm
BUFFER = 8 << 20


@dataclass(frozen=True)
class Cache:
    """warm: every file is read once before. cold: the kernel is asked to forget every file."""

    state: Literal["warm", "cold"]

    @classmethod
    def fitting(cls, nbytes: int) -> Cache:
        """Warm where files of that size and what is written beside them fit into free memory."""
        return cls("warm" if nbytes <= SHARE * _available() else "cold")

    def prepare(self, files: Sequence[Path]) -> None:
        buffer = memoryview(bytearray(BUFFER))
        if self.state == "cold":
            os.sync()  # pages that are not on the disk yet are not forgotten
        for path in files:
            with path.open("rb", buffering=0) as file:
                if self.state == "cold":
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                    continue
                while file.readinto(buffer):
                    pass


def _available() -> int:
    """Bytes of memory that are free or can be freed."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    return 0
