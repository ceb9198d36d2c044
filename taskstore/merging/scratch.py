"""What a merge uses again: each thread's memory, and what merges before it left on disk.

Fresh pages for every block would cost a tenth of a merge.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Hashable, Mapping
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


class Matrices:
    """Merged matrices that wait for their blocks; each goes once all of its elements were taken.

    Blocks come in order, so few wait at a time. Where some are never taken (a sample of a tensor),
    the oldest go: two of the largest fit, and `SMALL` beside them.
    """

    SMALL = 8 << 20  # elements

    def __init__(self) -> None:
        self._kept, self._left, self._largest = dict[str, F32](), dict[str, int](), 0

    def __contains__(self, tensor: str) -> bool:
        return tensor in self._kept

    def put(self, tensor: str, merged_M: F32) -> None:
        self._kept[tensor], self._left[tensor] = merged_M, merged_M.size
        self._largest = max(self._largest, merged_M.size)
        while sum(m.size for m in self._kept.values()) > 2 * self._largest + self.SMALL:
            del self._kept[next(iter(self._kept))]

    def take(self, tensor: str, start: int, n: int) -> F32:
        """Elements [start, start + n) of one that is here, (n,)."""
        merged_N = self._kept[tensor][start : start + n]
        self._left[tensor] -= n
        if self._left[tensor] <= 0:
            del self._kept[tensor]
        return merged_N


class Prepared:
    """Arrays on disk that merges of the same models share: made by the first, read by the others.

    At most half of what is free on the disk at first is taken; what goes past it is made anew each
    time.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._files = folder, dict[Hashable, Path]()
        self._room = shutil.disk_usage(folder).free // 2  # bytes

    def get(self, key: Hashable) -> NDArray[Any] | None:
        """The array of a key, mapped for reading; None: it is not there."""
        path = self._files.get(key)
        return None if path is None else np.load(path, mmap_mode="r")

    def put(self, key: Hashable, array: NDArray[Any]) -> None:
        """Keep an array; raises OutputError."""
        if array.nbytes > self._room:
            return
        self._room -= array.nbytes
        path = self._folder / f"{len(self._files)}.npy"
        try:
            np.save(path, array)
        except OSError as error:
            raise OutputError(f"{path} cannot be written: {error.strerror}") from None
        self._files[key] = path


class KeptVector:
    """What a search keeps between its merges: a merged vector, float32, and what they share.

    key       names the merge that comes, whose vector is kept; set it before ("": no vector is)
    whole     whether the vector of that merge is there
    prepared  what does not hang on the merge's scale, weights and some of its options (None: the
              merges differ in the scale alone)
    """

    def __init__(self, path: Path, *, shares: bool = False) -> None:
        self.key, self._path, self._done = "", path, ""
        self.prepared = Prepared(path.parent) if shares else None
        self._starts: dict[str, int] = {}
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)

    @property
    def whole(self) -> bool:
        return bool(self.key) and self.key == self._done

    def begin(self, sizes: Mapping[str, int]) -> None:
        """Make room for the tensors, with their numbers of elements; raises OutputError."""
        if self.whole or not self.key:
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
