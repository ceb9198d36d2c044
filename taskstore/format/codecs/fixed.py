"""What codecs share whose streams' sizes follow from the element count alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Streams = list[NDArray[np.uint8]]


class Fixed:
    """`sizer` from `sizes`."""

    def sizes(self, n: int, itemsize: int) -> tuple[int, ...]:
        raise NotImplementedError

    def sizer(
        self, n: int, itemsize: int, given_N: NDArray[Any] | None
    ) -> Callable[[Streams], int]:
        sizes = self.sizes(n, itemsize)
        return lambda before: sizes[len(before)]
