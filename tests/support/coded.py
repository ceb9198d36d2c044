"""Through a codec and back, as sections do it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskstore.format.codecs import codec
from taskstore.format.section import decode, encode

Bits = NDArray[Any]
SIZES = [0, 1, 2, 7, 8, 9, 63, 255, 1024, 1025, 5000, 70_001]


def back(name: str, chunk: Bits, given_chunk: Bits, n: int, itemsize: int) -> Bits:
    """Through the stored streams, as a section does it, sizes checked on the way."""
    streams = codec(name).encode(chunk, given_chunk)
    size, bounds = codec(name).sizer(n, itemsize, given_chunk), codec(name).sizes(n, itemsize)
    assert [s.size for s in streams] == [size(streams[:i]) for i in range(len(streams))]
    assert all(s.size <= bound for s, bound in zip(streams, bounds, strict=True))
    stored = encode(name, chunk, given_chunk)
    assert all(len(a) <= b.size for a, b in zip(stored, streams, strict=True))
    return decode(name, map(memoryview, stored), n, itemsize, given_chunk)


def stored(name: str, streams: list[Bits], given_chunk: Bits, n: int, itemsize: int) -> Bits:
    """Decode as a section does, all streams raw."""
    views = (memoryview(np.ascontiguousarray(s)).cast("B") for s in streams)
    return decode(name, views, n, itemsize, given_chunk)
