"""`bits`: a packed mask as it is, one stream of ceil(N / 8) bytes, LSB first, zero padded."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskstore.errors import FormatError
from taskstore.format.codecs.fixed import Fixed
from taskstore.kernels.bits import packed_size, padding_is_zero

Bytes = NDArray[np.uint8]


class Bits(Fixed):
    def sizes(self, n: int, itemsize: int) -> tuple[int, ...]:
        return (packed_size(n),)

    def encode(self, chunk_N: NDArray[Any], given_N: NDArray[Any] | None) -> list[Bytes]:
        return [chunk_N]

    def decode(
        self, streams: list[Bytes], n: int, itemsize: int, given_N: NDArray[Any] | None
    ) -> Bytes:
        """Raises FormatError where a padding bit is set."""
        (bits_P,) = streams
        if not padding_is_zero(bits_P, n):
            raise FormatError(f"a mask of {n} bits has ones in its padding")
        return bits_P
