"""`rotated`: a float checkpoint alone, sign rotated to the low end, then byte planes.

The high plane is then exactly bf16's (or fp32's) exponent, which is all that can be compressed:
2.67 bits of 8 on a trained bf16 model, 10.67 bits per parameter in all.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskstore.format.codecs.fixed import Fixed
from taskstore.native import planes as loops

Bytes = NDArray[np.uint8]


class Rotated(Fixed):
    def sizes(self, n: int, itemsize: int) -> tuple[int, ...]:
        return (n,) * itemsize

    def encode(self, chunk_N: NDArray[Any], given_N: NDArray[Any] | None) -> list[Bytes]:
        planes = [np.empty(chunk_N.size, np.uint8) for _ in range(chunk_N.itemsize)]
        loops.split(chunk_N, *planes)
        return planes

    def decode(
        self, streams: list[Bytes], n: int, itemsize: int, given_N: NDArray[Any] | None
    ) -> NDArray[Any]:
        chunk_N = np.empty(n, f"<u{itemsize}")
        loops.join(*streams, chunk_N)
        return chunk_N
