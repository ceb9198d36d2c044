"""`planes`: byte j of every element together, lowest byte first; for integers and odd dtypes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskstore.format.codecs.fixed import Fixed

Bytes = NDArray[np.uint8]


class Planes(Fixed):
    def sizes(self, n: int, itemsize: int) -> tuple[int, ...]:
        return (n,) * itemsize

    def encode(self, chunk_N: NDArray[Any], given_N: NDArray[Any] | None) -> list[Bytes]:
        table = np.ascontiguousarray(chunk_N).view(np.uint8).reshape(-1, chunk_N.itemsize)
        return [np.ascontiguousarray(table[:, j]) for j in range(chunk_N.itemsize)]

    def decode(
        self, streams: list[Bytes], n: int, itemsize: int, given_N: NDArray[Any] | None
    ) -> NDArray[Any]:
        table = np.empty((n, itemsize), np.uint8)
        for j, stream in enumerate(streams):
            table[:, j] = stream
        return table.reshape(-1).view(f"<u{itemsize}")
