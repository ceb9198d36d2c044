"""`ulp`: the multi-task weights as a difference from the base's, counted in floats.

Floats of one sign are ordered like their bit patterns. Mapping both to that order and
subtracting gives the step from W0 to W1 in units in the last place; fine-tuning moves most
weights by few, so the high bytes are nearly empty: 10.25 bits per bf16 parameter on `lm6`, where
XOR needs 10.6. Lossless for every pair of bit patterns.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskstore.format.codecs.fixed import Fixed
from taskstore.native import planes as loops

Bytes = NDArray[np.uint8]
FLOATS = (2, 4)  # bytes per element that loops are for


class Ulp(Fixed):
    def sizes(self, n: int, itemsize: int) -> tuple[int, ...]:
        return (n,) * itemsize

    def encode(self, chunk_N: NDArray[Any], given_N: NDArray[Any] | None) -> list[Bytes]:
        assert given_N is not None
        if chunk_N.itemsize not in FLOATS:
            z_N = _folded(_order(chunk_N) - _order(given_N))
            bytes_NB = z_N.view(np.uint8).reshape(-1, z_N.itemsize)
            return [np.ascontiguousarray(plane_N) for plane_N in bytes_NB.T]
        planes = [np.empty(chunk_N.size, np.uint8) for _ in range(chunk_N.itemsize)]
        loops.ulp_split(given_N, chunk_N, *planes)
        return planes

    def decode(
        self, streams: list[Bytes], n: int, itemsize: int, given_N: NDArray[Any] | None
    ) -> NDArray[Any]:
        assert given_N is not None
        if itemsize not in FLOATS:
            bytes_NB = np.stack(streams, axis=1) if n else np.empty((0, itemsize), np.uint8)
            z_N = np.ascontiguousarray(bytes_NB).view(f"<u{itemsize}").reshape(-1)
            return _order(_order(given_N) + _unfolded(z_N))
        chunk_N = np.empty(n, f"<u{itemsize}")
        loops.ulp_join(given_N, *streams, chunk_N)
        return chunk_N


# 1 and 8 bytes, which only archives have: unsigned integers that wrap, as SPEC.md says.


def _order(x_N: NDArray[Any]) -> NDArray[Any]:
    """Flip the low bits where the highest is set: the order of floats; its own inverse."""
    low = x_N.dtype.type((1 << (8 * x_N.itemsize - 1)) - 1)
    negative_N = x_N > low
    found: NDArray[Any] = np.where(negative_N, x_N ^ low, x_N)
    return found


def _folded(d_N: NDArray[Any]) -> NDArray[Any]:
    """zigzag: d << 1, all bits flipped where d is negative."""
    one, top = d_N.dtype.type(1), d_N.dtype.type(8 * d_N.itemsize - 1)
    folded_N: NDArray[Any] = (d_N << one) ^ (d_N >> top) * ~d_N.dtype.type(0)
    return folded_N


def _unfolded(z_N: NDArray[Any]) -> NDArray[Any]:
    one = z_N.dtype.type(1)
    d_N: NDArray[Any] = (z_N >> one) ^ (z_N & one) * ~z_N.dtype.type(0)
    return d_N
