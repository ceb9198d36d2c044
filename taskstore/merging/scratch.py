"""Memory that each thread uses again: fresh pages for every block would cost a tenth of a merge."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray


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
