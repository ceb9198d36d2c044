"""Codecs: turn a chunk of elements into byte streams of known size, and back.

A chunk is the unsigned integer view of up to `chunk` elements of one tensor. Each codec turns it
into a fixed number of streams. Their raw sizes follow from the element count, for `steps`,
`chained` and `strides` from the base's chunk and the streams before as well, for `guided` from the
stream before, so a reader knows what to allocate before it reads. How a stream is stored stands in
`stream.py`.

Names are written into stores: never rename one. This package never imports torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from taskstore.errors import UnknownCodec
from taskstore.format.codecs import (
    bits,
    chained,
    deltas,
    factored,
    guided,
    levels,
    planes,
    rotated,
    rounded,
    sparse,
    steps,
    strides,
    ulp,
)

Words = NDArray[Any]
Streams = list[NDArray[np.uint8]]


class Codec(Protocol):
    """One way to write a chunk. `given` is the base's chunk, for codecs that need it.

    For `guided` it is the bits of F32(W1) - F32(W0), uint32 (N,); for `chained` the parent's chunk
    and the base's, (2, N).
    """

    def sizes(self, n: int, itemsize: int) -> tuple[int, ...]:
        """Raw bytes of each stream for `n` elements of `itemsize` bytes, at most."""

    def sizer(self, n: int, itemsize: int, given_N: Words | None) -> Callable[[Streams], int]:
        """A function from the streams before to the raw bytes of the next one."""

    def encode(self, chunk_N: Words, given_N: Words | None) -> Streams:
        """Unsigned (N,) -> streams; for masks uint8 (P,) -> one stream."""

    def decode(self, streams: Streams, n: int, itemsize: int, given_N: Words | None) -> Words:
        """Streams of exactly the sizes that `sizer` gives -> the chunk."""


CODECS: Mapping[str, Codec] = {
    "bits": bits.Bits(),
    "planes": planes.Planes(),
    "rotated": rotated.Rotated(),
    "ulp": ulp.Ulp(),
    "rounded": rounded.Rounded(),
    "steps": steps.Steps(),
    "levels": levels.Levels(),
    "strides": strides.Strides(),
    "guided": guided.Guided(),
    "chained": chained.Chained(),
    "sparse": sparse.Sparse(),
    "deltas": deltas.Deltas(),
    "factored": factored.Factored(),
    "low_rank": deltas.Deltas(),  # given what its factors say; format/section.py has them
}


def codec(name: str) -> Codec:
    """The codec of that name; raises UnknownCodec."""
    try:
        return CODECS[name]
    except KeyError:
        raise UnknownCodec(name, CODECS) from None
