"""What a merge uses again: each thread's memory, and the vector of a merge before on disk.

Fresh pages for every block would cost a tenth of a merge.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskstore.errors import OutputError
from taskstore.locations import publish

F32 = NDArray[np.float32]


class Scratch(threading.local):
    """One array per thread, which grows as needed."""

    def __init__(self) -> None:
        self._memory = np.empty(0, np.float32)

    def rows(self, count: int, n: int, dtype: type[Any] = np.float32) -> NDArray[Any]:
        """(count, n) of a dtype of at most four bytes, valid until the thread asks again."""
        if self._memory.size < count * n:
            self._memory = np.empty(count * n, np.float32)
        memory: NDArray[Any] = self._memory.view(dtype)
        return memory[: count * n].reshape(count, n)


class KeptVector:
    """A merged vector on disk, float32, for merges that differ in its scale alone.

    key     names the merge that comes; set it before
    whole   whether the vector of that merge is there
    """

    def __init__(self, path: Path) -> None:
        self.key, self._path, self._done = "", path, ""
        self._starts: dict[str, int] = {}
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)

    @property
    def whole(self) -> bool:
        return bool(self.key) and self.key == self._done

    def begin(self, sizes: Mapping[str, int]) -> None:
        """Make room for the tensors, with their numbers of elements; raises OutputError."""
        if self.whole:
            return
        self._done, total = "", 0
        for name, size in sizes.items():
            self._starts[name], total = total, total + 4 * size
        publish.check_space(self._path.parent, total)
        os.ftruncate(self._file, 0)

    def write(self, tensor: str, start: int, merged_N: F32) -> None:
        """Keep the elements from `start` on; raises OutputError."""
        data, at = np.ascontiguousarray(merged_N).data.cast("B"), self._starts[tensor] + 4 * start
        try:
            while data:
                count = os.pwrite(self._file, data, at)
                data, at = data[count:], at + count
        except OSError as error:
            raise OutputError(f"{self._path} cannot be written: {error.strerror}") from None

    def read(self, tensor: str, start: int, n: int) -> F32:
        """Give n elements from `start` on, (n,)."""
        raw = os.pread(self._file, 4 * n, self._starts[tensor] + 4 * start)
        assert len(raw) == 4 * n, (tensor, start, n)
        return np.frombuffer(raw, np.float32)

    def finish(self) -> None:
        """The vector is whole: all blocks were written."""
        self._done = self.key

    def close(self) -> None:
        os.close(self._file)
